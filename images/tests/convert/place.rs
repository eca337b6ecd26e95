//! The place of a target: all of it or nothing, and never somebody else's.

use std::fs;

use ric_images::{ConvertError, ConvertOptions, Existing, Reference, Target};
use serde_json::json;

use super::layer_archive::Archive;
use super::layer_twice::scratch;
use super::site::Site;

fn image(site: &Site) -> Reference {
    site.layout("image", &[Archive::new().file("f", "x").end()], &json!({}))
}

const REPLACE: ConvertOptions =
    ConvertOptions { compression: ric_images::Compression::Zstd, existing: Existing::Replace };

#[test]
fn what_is_there_stays_unless_it_may_go() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let (image, target) = (image(&site), Target::Squashfs(site.path("a")));
    fs::write(target.path().unwrap(), "mine").unwrap();
    let error = site.try_convert(&image, &target, ConvertOptions::default()).unwrap_err();
    assert!(matches!(error, ConvertError::Exists { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--force"));
    assert_eq!(fs::read(target.path().unwrap()).unwrap(), b"mine");
    site.try_convert(&image, &target, REPLACE).unwrap();
    assert!(fs::read(target.path().unwrap()).unwrap().starts_with(b"hsqs"));
    // A directory is never replaced by a file.
    let folder = Target::Squashfs(site.path("folder"));
    fs::create_dir(folder.path().unwrap()).unwrap();
    let error = site.try_convert(&image, &folder, REPLACE).unwrap_err();
    assert!(matches!(error, ConvertError::Disk { call: "renameat(2)", .. }), "{error}");
    assert_eq!(site.names(), ["a", "folder", "image", "store"]);
}

/// A link at the target is replaced, and what it leads to is not written to.
#[test]
fn a_link_at_the_target_is_not_followed() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let (image, target) = (image(&site), Target::Squashfs(site.path("a")));
    fs::write(site.path("elsewhere"), "theirs").unwrap();
    std::os::unix::fs::symlink("elsewhere", target.path().unwrap()).unwrap();
    let error = site.try_convert(&image, &target, ConvertOptions::default()).unwrap_err();
    assert!(matches!(error, ConvertError::Exists { .. }), "{error}");
    site.try_convert(&image, &target, REPLACE).unwrap();
    assert_eq!(fs::read(site.path("elsewhere")).unwrap(), b"theirs");
    assert!(fs::symlink_metadata(target.path().unwrap()).unwrap().is_file());
}

/// An image that turns out bad half-way leaves nothing, and what was there before.
#[test]
fn bad_images_leave_nothing_behind() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let good = Archive::new().file("f", "x").end();
    let bad = Archive::new().file("f", "x").file("../f", "x").end();
    let image = site.layout("image", &[good, bad], &json!({}));
    let target = Target::Squashfs(site.path("a"));
    let error = site.try_convert(&image, &target, ConvertOptions::default()).unwrap_err();
    let ConvertError::Layer { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), "refused entry `../f`: `..` in a path");
    assert_eq!(site.names(), ["image", "store"]);
    fs::write(target.path().unwrap(), "mine").unwrap();
    site.try_convert(&image, &target, REPLACE).unwrap_err();
    assert_eq!(fs::read(target.path().unwrap()).unwrap(), b"mine");
    assert_eq!(site.names(), ["a", "image", "store"]);
}

/// What a killed conversion left goes with the next; what somebody else put there stays.
#[test]
fn leftovers_go_and_foreign_things_stay() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let (image, target) = (image(&site), Target::Squashfs(site.path("a")));
    let partial = site.path(".a.partial");
    fs::create_dir(&partial).unwrap();
    fs::set_permissions(&partial, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for name in ["made", "content", "lock"] {
        fs::write(partial.join(name), "left").unwrap();
    }
    site.convert(&image, &target);
    assert!(!partial.exists());
    fs::remove_file(target.path().unwrap()).unwrap();
    fs::write(&partial, "somebody's").unwrap();
    let error = site.try_convert(&image, &target, ConvertOptions::default()).unwrap_err();
    assert!(matches!(error, ConvertError::Busy { .. }), "{error}");
    fs::remove_file(&partial).unwrap();
    fs::create_dir(&partial).unwrap();
    fs::set_permissions(&partial, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let error = site.try_convert(&image, &target, ConvertOptions::default()).unwrap_err();
    assert!(matches!(error, ConvertError::Busy { .. }), "{error}");
    fs::set_permissions(&partial, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let lock = fs::File::create(partial.join("lock")).unwrap();
    lock.lock().unwrap();
    let error = site.try_convert(&image, &target, ConvertOptions::default()).unwrap_err();
    assert!(matches!(error, ConvertError::Busy { .. }), "{error}");
    drop(lock);
    site.convert(&image, &target);
}

#[test]
fn what_has_no_layers_is_not_converted() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let target = Target::Squashfs(site.path("a"));
    let options = ConvertOptions::default();
    let error = site.try_convert(&Reference::Host, &target, options).unwrap_err();
    assert!(matches!(error, ConvertError::NoLayers { .. }), "{error}");
    assert_eq!(site.names(), ["store"]);
}

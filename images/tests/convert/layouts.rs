//! An image as a layout or an archive of layers: its documents and layers go on as they came.

use std::fs;
use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use ric_images::{
    ConvertError, ConvertOptions, Digest, Existing, LeftOut, MediaType, Reference, Target,
};
use serde_json::json;

use super::layer_archive::{Archive, Header};
use super::layer_twice::{scratch, twice};
use super::site::Site;

fn layers() -> [Vec<u8>; 2] {
    let lower = Archive::new()
        .directory("etc")
        .file("etc/passwd", "root")
        .sized(Header::new(b'0', "set-id").mode(0o4755).uid(7).gid(8), b"s")
        .header(Header::new(b'1', "linked").link("set-id"))
        .file("gone", "");
    let upper = Archive::new().file(".wh.gone", "").symlink("to", "etc/passwd");
    [lower.end(), upper.end()]
}

fn defaults() -> serde_json::Value {
    json!({"Env": ["A=b\"c\n"], "Cmd": ["it's"], "User": "7:8", "Labels": {"a": "b"}})
}

fn targets(site: &Site) -> [(Target, Reference); 3] {
    let path = |name| site.path(name);
    let layout = |path, tag| Target::OciLayout { path, tag };
    let tag = || Some("1".to_owned());
    [
        (layout(path("l"), tag()), Reference::OciLayout { path: path("l"), tag: tag() }),
        (Target::OciArchive(path("o.tar")), Reference::OciArchive(path("o.tar"))),
        (Target::DockerArchive(path("d.tar")), Reference::DockerArchive(path("d.tar"))),
    ]
}

/// Whatever an image is written as, it is the same image by digest: also when it was written as
/// each of the others in between.
#[test]
fn layouts_keep_every_digest_for_everyone() {
    twice("layouts::layouts_keep_every_digest_for_everyone", |directory| {
        let site = Site::new(directory);
        let image = site.layout("image", &layers(), &defaults());
        let was = site.resolve(&image);
        let (mut from, mut seen) = (image, Vec::new());
        for (target, reference) in targets(&site) {
            let converted = site.convert(&from, &target);
            assert_eq!(converted.left_out, LeftOut::default());
            let is = site.resolve(&reference);
            assert_eq!((&is.identity, &is.config), (&was.identity, &was.config), "{target}");
            assert_eq!(is.layers, was.layers, "{target}");
            if target.path().unwrap().is_file() {
                let bytes = fs::read(target.path().unwrap()).unwrap();
                assert_eq!(converted.bytes, bytes.len() as u64);
                seen.push(Digest::of(&bytes).to_string());
            }
            from = reference;
        }
        // The last one, as a layout again.
        let (path, tag) = (site.path("again"), None);
        site.convert(&from, &Target::OciLayout { path: path.clone(), tag: tag.clone() });
        let again = site.resolve(&Reference::OciLayout { path, tag });
        assert_eq!((again.identity, again.layers), (was.identity, was.layers));
        let image = Reference::OciLayout { path: site.path("image"), tag: None };
        assert_eq!(site.unpacked(&from), site.unpacked(&image));
        seen
    });
}

/// A packed layer stays packed where its digest counts, and is unpacked where its diff ID does.
#[test]
fn packed_layers_go_on_as_they_are() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let [layer, _] = layers();
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(&layer).unwrap();
    let image = site.packed_layout("image", &layer, &packer.finish().unwrap(), &defaults());
    let was = site.resolve(&image);
    assert_eq!(was.layers[0].media_type, MediaType::TarGzip);
    for (target, reference) in targets(&site) {
        site.convert(&image, &target);
        let is = site.resolve(&reference);
        if let Target::DockerArchive(_) = target {
            assert_eq!(is.layers[0].digest, was.layers[0].diff_id);
            assert_eq!(is.layers[0].media_type, MediaType::Tar);
        } else {
            assert_eq!((is.identity, &is.layers), (was.identity.clone(), &was.layers), "{target}");
        }
        assert_eq!(is.config, was.config);
        assert_eq!(is.layers[0].diff_id, was.layers[0].diff_id);
    }
}

/// What has no layers of tar is an image of one layer to others, and the same tree.
#[test]
fn file_systems_become_layers() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let image = site.layout("image", &layers(), &defaults());
    site.convert(&image, &Target::Sif(site.path("a.sif")));
    let sif = Reference::Sif(site.path("a.sif"));
    let (tree, config) = (site.tree(&sif), site.resolve(&sif).config);
    for (target, reference) in targets(&site) {
        site.convert(&sif, &target);
        assert_eq!(site.tree(&reference), tree, "{target}");
        let is = site.resolve(&reference);
        assert_eq!(is.config, config, "{target}");
        assert_eq!(is.layers[0].media_type, MediaType::Tar);
    }
}

/// Bytes that are not the image's end in an error, and leave nothing.
#[test]
fn damaged_layers_are_not_passed_on() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let image = site.layout("image", &layers(), &defaults());
    let manifest = site.resolve(&image);
    let blob = site.path("image/blobs/sha256").join(manifest.layers[1].digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[0] ^= 1;
    fs::write(&blob, bytes).unwrap();
    for (target, _) in targets(&site) {
        let error = site.try_convert(&image, &target, ConvertOptions::default()).unwrap_err();
        let ConvertError::Blob { digest, .. } = &error else { panic!("{target}: {error:?}") };
        assert_eq!(*digest, manifest.layers[1].digest);
        assert_eq!(site.names(), ["image", "store"]);
    }
}

#[test]
fn no_directory_is_replaced() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let image = site.layout("image", &layers(), &defaults());
    fs::create_dir(site.path("l")).unwrap();
    fs::write(site.path("l/mine"), "").unwrap();
    let [(layout, _), (_, _), (archive, _)] = targets(&site);
    for existing in [Existing::Keep, Existing::Replace] {
        let options = ConvertOptions { existing, ..ConvertOptions::default() };
        let error = site.try_convert(&image, &layout, options).unwrap_err();
        assert!(matches!(error, ConvertError::Occupied { .. }), "{error}");
        assert!(site.path("l/mine").exists());
    }
    // The twin: a file is, where that is asked for.
    fs::write(archive.path().unwrap(), "old").unwrap();
    let options = ConvertOptions { existing: Existing::Replace, ..ConvertOptions::default() };
    site.try_convert(&image, &archive, options).unwrap();
}

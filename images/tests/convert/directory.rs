//! An image as a directory: as it is where this user may, and what not is counted.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use ric_images::{LeftOut, Reference, Target};
use serde_json::json;

use super::layer_archive::{Archive, Header};
use super::layer_twice::{is_root, listing, scratch, twice};
use super::site::Site;

fn layer() -> Vec<u8> {
    Archive::new()
        .header(Header::new(b'5', "./").mode(0o555))
        .directory("etc")
        .pax(b'x', &[("mtime", b"2000.5"), ("SCHILY.xattr.user.a", b"\0b")])
        .file("etc/passwd", "root")
        .sized(Header::new(b'0', "large"), &[b'x'; 3 << 20])
        .header(Header::new(b'1', "linked").link("large"))
        .symlink("to", "/etc/passwd")
        .header(Header::new(b'6', "fifo").mode(0o600))
        .header(Header::new(b'5', "closed").mode(0))
        .sized(Header::new(b'0', "closed/file").mode(0), b"closed")
        .end()
}

/// Whoever converts gets the tree that the image unpacks to, name by name.
#[test]
fn directory_is_the_tree_for_everyone() {
    twice("directory::directory_is_the_tree_for_everyone", |directory| {
        let site = Site::new(directory);
        let image = site.layout("image", &[layer()], &json!({"Cmd": ["x"]}));
        let converted = site.convert(&image, &Target::Dir(site.path("root")));
        assert_eq!(converted.left_out.settings, ["Cmd"]);
        let (is, was) = (listing(&site.path("root")), site.tree(&image));
        assert_eq!(is, was);
        is
    });
}

/// Root keeps owners, set-user-ID bits, capabilities and devices; everyone else is told.
#[test]
fn what_needs_root_is_kept_or_counted() {
    twice("directory::what_needs_root_is_kept_or_counted", |directory| {
        let site = Site::new(directory);
        // cap_net_raw, permitted and effective (linux/capability.h, `vfs_cap_data`).
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let tar = Archive::new()
            .header(Header::new(b'5', "./").uid(12_345).gid(12_346))
            .sized(Header::new(b'0', "set-id").mode(0o4755).uid(12_345).gid(12_346), b"s")
            .header(
                Header::new(b'3', "null")
                    .uid(12_345)
                    .mode(0o666)
                    .bytes(329, b"0000001\x000000003\0"),
            )
            .pax(b'x', &[("SCHILY.xattr.security.capability", &capability)])
            .sized(Header::new(b'0', "ping").uid(12_345).gid(12_346), b"p");
        let image = site.layout("image", &[tar.end()], &json!({}));
        let left_out = site.convert(&image, &Target::Dir(site.path("root"))).left_out;
        let status = |name: &str| fs::symlink_metadata(site.path("root").join(name)).unwrap();
        let set_id = status("set-id");
        if is_root() {
            assert_eq!(left_out, LeftOut::default());
            assert_eq!((set_id.uid(), set_id.gid(), set_id.mode()), (12_345, 12_346, 0o104_755));
            assert_eq!((status("null").mode(), status("null").rdev()), (0o020_666, 0x103));
            let mut value = [0; 32];
            let path = site.path("root/ping");
            let count = rustix::fs::getxattr(path, "security.capability", &mut value).unwrap();
            assert_eq!(value[..count], capability);
        } else {
            let expected = LeftOut { devices: 1, xattrs: 1, owners: 3, ..LeftOut::default() };
            assert_eq!(left_out, expected);
            assert_eq!(set_id.mode(), 0o100_755, "it would set another user's ID");
            assert!(!site.path("root/null").exists());
        }
        Vec::new()
    });
}

/// A directory goes back into an image, and the image into a directory.
#[test]
fn a_directory_comes_back_as_it_was() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let image = site.layout("image", &[layer()], &json!({}));
    site.convert(&image, &Target::Dir(site.path("root")));
    let expected = listing(&site.path("root"));
    for (name, target, reference) in [
        ("archive", Target::OciArchive(site.path("a")), Reference::OciArchive(site.path("a"))),
        ("squashfs", Target::Squashfs(site.path("s")), Reference::Squashfs(site.path("s"))),
        ("sif", Target::DockerArchive(site.path("d")), Reference::DockerArchive(site.path("d"))),
    ] {
        let from = Reference::Dir(site.path("root"));
        site.convert(&from, &target);
        let back = site.path(&format!("back-{name}"));
        site.convert(&reference, &Target::Dir(back.clone()));
        // Layers have no entry for their root, and whole seconds of time.
        let (is, was) = (listing(&back), expected.clone());
        assert_eq!(is[1..], was[1..], "{name}");
        fs::set_permissions(&back, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

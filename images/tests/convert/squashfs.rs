//! An image as a squashfs: the tree that comes back is the tree that went in.

use std::fs;

use proptest::prelude::*;
use ric_images::{Compression, ConvertError, ConvertOptions, Existing, LeftOut, Reference, Target};
use serde_json::json;

use super::layer_archive::{Archive, Header};
use super::layer_twice::{scratch, twice};
use super::site::Site;

/// One of everything, in two layers.
fn layers() -> Vec<Vec<u8>> {
    let counted: String = (0..60_000).map(|n| format!("{n:09}\n")).collect();
    let hole = [vec![0; 400_000], b"end".to_vec()].concat();
    let mut lower = Archive::new()
        .directory("etc")
        .file("etc/passwd", "old")
        .sized(Header::new(b'0', "counted").mode(0o640).uid(1000).gid(100), counted.as_bytes())
        .header(Header::new(b'1', "a-link").link("counted"))
        .sized(Header::new(b'0', "hole"), &hole)
        .sized(Header::new(b'0', "full"), &[b'x'; 256 << 10])
        .symlink("symbolic", "etc/passwd")
        .header(Header::new(b'6', "fifo").mode(0o600))
        .header(Header::new(b'3', "null").mode(0o666).bytes(329, b"0000001\x000000003\0"))
        .header(Header::new(b'3', "unnumbered"))
        .pax(b'x', &[("SCHILY.xattr.user.a", b"\0b"), ("SCHILY.xattr.security.x", b"y")])
        .file("with-attribute", "")
        .pax(b'x', &[("SCHILY.xattr.user.a", b"\0b")])
        .directory("too")
        .directory("gone")
        .file("gone/file", "")
        .directory("opaque")
        .file("opaque/old", "")
        .header(Header::new(b'5', "closed").mode(0))
        .sized(Header::new(b'0', "closed/file").mode(0), b"closed")
        .sized(Header::new(b'0', "set-id").mode(0o6755).uid(2_147_483_647), b"s")
        .directory("many");
    for number in 0..1200 {
        let name = format!("many/{}{number:05}", "n".repeat(number % 60));
        lower = lower.sized(Header::new(b'0', name), number.to_string().as_bytes());
    }
    let upper = Archive::new()
        .header(Header::new(b'5', "./"))
        .file(".wh.gone", "")
        .directory("opaque")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "")
        .directory("etc")
        .pax(b'x', &[("mtime", b"2000.5")])
        .file("etc/passwd", "new");
    vec![lower.end(), upper.end()]
}

/// What these layers are together, as one of them.
fn merged() -> Vec<u8> {
    let layers = layers();
    // Without what the upper layer hides, and the end of the archive.
    let mut bytes = layers[0][..layers[0].len() - 1024].to_vec();
    let cut = |bytes: &mut Vec<u8>, name: &[u8]| {
        let begins = |at: &usize| bytes[*at..].starts_with(&[name, b"\0"].concat());
        let at = (0..bytes.len()).step_by(512).find(begins).unwrap();
        bytes.drain(at..at + 512);
    };
    for name in [&b"gone"[..], b"gone/file", b"opaque/old"] {
        cut(&mut bytes, name);
    }
    let upper = Archive::new()
        .header(Header::new(b'5', "./"))
        .directory("opaque")
        .file("opaque/new", "")
        .directory("etc")
        .pax(b'x', &[("mtime", b"2000")])
        .file("etc/passwd", "new");
    bytes.extend(upper.end());
    bytes
}

fn target(site: &Site, name: &str) -> (Target, Reference) {
    let path = site.path(name);
    (Target::Squashfs(path.clone()), Reference::Squashfs(path))
}

#[test]
fn squashfs_of_an_image_is_its_tree_for_everyone() {
    twice("squashfs::squashfs_of_an_image_is_its_tree_for_everyone", |directory| {
        let site = Site::new(directory);
        let image = site.layout("image", &layers(), &json!({}));
        let flat = site.layout("flat", &[merged()], &json!({}));
        let mut seen = site.tree(&flat);
        for (name, compression) in [("z", Compression::Zstd), ("g", Compression::Gzip)] {
            let (target, reference) = target(&site, name);
            let options = ConvertOptions { compression, existing: Existing::Keep };
            let converted = site.try_convert(&image, &target, options).unwrap();
            let left_out =
                LeftOut { devices: 1, xattrs: 1, times_changed: 1, ..LeftOut::default() };
            assert_eq!(converted.left_out, left_out);
            let bytes = fs::read(target.path().unwrap()).unwrap();
            assert_eq!(converted.bytes, bytes.len() as u64);
            assert_eq!(site.tree(&reference), seen, "{compression:?}");
            // Root and an ordinary user must agree on this too.
            seen.push(ric_images::Digest::of(&bytes).to_string());
            assert_eq!(site.tree(&reference), seen[..seen.len() - 1]);
            seen.pop();
        }
        let bytes = fs::read(site.path("z")).unwrap();
        seen.push(ric_images::Digest::of(&bytes).to_string());
        seen
    });
}

/// However the layers are cut, and whoever is fast: one tree is one file.
#[test]
fn squashfs_does_not_depend_on_layers_or_processors() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let image = site.layout("image", &layers(), &json!({}));
    let (several, _) = target(&site, "several");
    site.convert(&image, &several);
    let mut whole = layers();
    let upper = whole.pop().unwrap();
    let nothing = Archive::new().header(Header::new(b'5', "./")).end();
    let more = site.layout("more", &[whole.remove(0), nothing, upper], &json!({}));
    let (one, _) = target(&site, "one");
    let mut processors = rustix::thread::CpuSet::new();
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
    processors.set(first.unwrap());
    // Of this thread alone, and of those that it starts.
    rustix::thread::sched_setaffinity(None, &processors).unwrap();
    assert_eq!(std::thread::available_parallelism().unwrap().get(), 1);
    site.convert(&more, &one);
    assert!(fs::read(one.path().unwrap()).unwrap() == fs::read(several.path().unwrap()).unwrap());
}

/// A capability is no use in a sandbox, and left out of layers, but other engines honour it.
#[test]
fn squashfs_keeps_file_capabilities() {
    let directory = scratch();
    let site = Site::new(directory.path());
    // cap_net_raw, permitted and effective (linux/capability.h, `vfs_cap_data`).
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Archive::new().pax(b'x', &[("SCHILY.xattr.security.capability", &capability)]);
    let image = site.layout("image", &[tar.file("ping", "").end()], &json!({}));
    let (target, reference) = target(&site, "a");
    assert_eq!(site.convert(&image, &target).left_out, LeftOut::default());
    let bytes = fs::read(target.path().unwrap()).unwrap();
    let row = [&[2, 0, 10, 0][..], b"capability", &[20, 0, 0, 0], &capability].concat();
    assert!(bytes.windows(row.len()).any(|window| window == row), "as it is written");
    // And our own reader leaves it out as ever.
    assert!(!site.tree(&reference).concat().contains("capability"));
}

#[test]
fn squashfs_cannot_hold_more_owners_than_it_numbers() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let file = |tar: Archive, n: u64| {
        tar.header(Header::new(b'0', format!("f{n}")).uid(n).gid(n + 33_000))
    };
    let image = site.layout("image", &[(0..33_000).fold(Archive::new(), file).end()], &json!({}));
    let (target, _) = target(&site, "a");
    let error = site.try_convert(&image, &target, ConvertOptions::default()).unwrap_err();
    let ConvertError::Unholdable { what, .. } = &error else { panic!("{error:?}") };
    assert_eq!(what, "more than 65535 users and groups");
    assert_eq!(site.names(), ["image", "store"]);
}

/// Few names, so that entries meet.
fn entry() -> impl Strategy<Value = Archive> {
    let component = prop::sample::select(vec!["a", "b", "c", "dd", ".wh.a", ".wh..wh..opq"]);
    let name = prop::collection::vec(component, 1..4).prop_map(|parts| parts.join("/"));
    let sizes = prop_oneof![0_usize..40, 130_000_usize..270_000];
    let file = (name.clone(), 0_u32..0o10000, sizes, any::<u8>()).prop_map(|(name, mode, n, b)| {
        let content: Vec<u8> =
            if b < 64 { vec![0; n] } else { (b..=u8::MAX).cycle().take(n).collect() };
        Archive::new().sized(Header::new(b'0', name).mode(mode).uid(u64::from(b)), &content)
    });
    let link = (prop::sample::select(b"12".to_vec()), name.clone(), name.clone())
        .prop_map(|(kind, name, target)| Header::new(kind, name).link(target))
        .prop_map(|header| Archive::new().header(header));
    let other = (prop::sample::select(b"5556".to_vec()), name, 0_u32..0o10000)
        .prop_map(|(kind, name, mode)| Archive::new().header(Header::new(kind, name).mode(mode)));
    prop_oneof![file, link, other]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None,
        ..ProptestConfig::default() })]

    /// What one layer is when it is unpacked, it is after a conversion, but for its whiteouts; and
    /// what is refused there is refused here.
    #[test]
    fn any_layer_survives_a_conversion(entries in prop::collection::vec(entry(), 1..24)) {
        let directory = scratch();
        let site = Site::new(directory.path());
        let tar = Archive(entries.into_iter().flat_map(|entry| entry.0).collect()).end();
        let image = site.layout("image", &[tar], &json!({}));
        let (target, reference) = target(&site, "a");
        let manifest = site.resolve(&image);
        let unpacked = site.access(|access| {
            ric_images::ensure(&manifest, ric_images::Form::Layers, access)
        });
        let converted = site.try_convert(&image, &target, ConvertOptions::default());
        prop_assert_eq!(converted.is_ok(), unpacked.is_ok());
        if converted.is_ok() {
            let of_layer: Vec<String> = site.tree(&image).into_iter()
                .filter(|line| !line.ends_with(" whiteout"))
                .map(|line| line.replace(" user.overlay.opaque=y", ""))
                .collect();
            prop_assert_eq!(site.tree(&reference), of_layer);
        }
    }
}

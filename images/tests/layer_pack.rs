//! What a tree becomes as a layer: every kind of entry, in an order and form that do not change.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(clippy::tests_outside_test_module, reason = "all of this file is tests")]

mod layer_archive;
mod layer_twice;

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use layer_archive::{Archive, Header, plain};
use layer_twice::{is_root, scratch};
use ric_images::{Limits, Pack, Packed, Store, pack_tree};

fn pack(tree: &Path, how: &Pack) -> (Vec<u8>, Packed) {
    let mut tar = Vec::new();
    let packed = pack_tree(fs::File::open(tree).unwrap().as_fd(), how, &mut tar).unwrap();
    (tar, packed)
}

/// One line an entry: name, type, mode, owner, time, target and content.
fn entries(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let mut lines = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        let kind = char::from(header.entry_type().as_byte());
        let (mode, mtime) = (header.mode().unwrap(), header.mtime().unwrap());
        let owner = format!("{}:{}", header.uid().unwrap(), header.gid().unwrap());
        let owner = if is_root() { owner } else { "own".to_owned() };
        let target = String::from_utf8(target).unwrap();
        lines.push(format!("{name} {kind} {mode:o} {owner} @{mtime} {target}{content}"));
    }
    lines
}

#[test]
fn every_kind_of_entry_is_packed_in_order() {
    let tar = Archive::new()
        .directory("b")
        .sized(Header::new(b'0', "b/file").mode(0o4755).uid(5).gid(6).mtime(7), b"content")
        .hard_link("a-link", "b/file")
        .symlink("c", "b/file")
        .header(Header::new(b'6', "d").mode(0o622))
        .file("b/.wh.gone", "")
        .directory("e")
        .file("e/.wh..wh..opq", "")
        .end();
    let place = scratch();
    let store = Store::open(&place.path().join("store")).unwrap();
    let tree = store.add_layer(&plain(&tar), &mut &*tar, &Limits::default()).unwrap();
    let (packed, count) = pack(&tree, &Pack::default());
    assert_eq!(count, Packed { entries: 8, left_out: 0 });
    let shown = entries(&packed);
    let names: Vec<&str> = shown.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let order = ["a-link", "b", "b/file", "b/.wh.gone", "c", "d", "e", "e/.wh..wh..opq"];
    assert_eq!(names, order);
    let owner = if is_root() { "5:6" } else { "own" };
    assert_eq!(shown[0], format!("a-link 0 4755 {owner} @7 content"));
    assert_eq!(shown[2], format!("b/file 1 4755 {owner} @7 a-link"));
    let gone = if is_root() { "b/.wh.gone 0 0 0:0 @0 " } else { "b/.wh.gone 0 0 own @0 " };
    assert_eq!(shown[3], gone);
    assert!(shown[5].starts_with("d 6 622 "), "{}", shown[5]);
}

#[test]
fn what_depends_on_the_machine_is_left_out() {
    let place = scratch();
    let tree = place.path();
    fs::write(tree.join("file"), "x").unwrap();
    fs::create_dir(tree.join("cache")).unwrap();
    fs::write(tree.join("cache/log"), "now").unwrap();
    let _socket = UnixListener::bind(tree.join("socket")).unwrap();
    let name = "user.kept";
    let set = rustix::fs::setxattr(tree.join("file"), name, b"v", rustix::fs::XattrFlags::empty());
    let how = Pack { mtime_max: Some(9), left_out: vec![b"cache".to_vec()], is_image: false };
    let (tar, packed) = pack(tree, &how);
    assert_eq!(packed, Packed { entries: 1, left_out: 1 });
    let shown = entries(&tar);
    assert!(shown.len() == 1 && shown[0].contains(" @9 "), "{shown:?}");
    let kept = tar.windows(name.len()).any(|window| window == name.as_bytes());
    assert_eq!(kept, set.is_ok());
}

#[test]
fn a_name_that_would_be_a_removal_is_refused() {
    let place = scratch();
    fs::write(place.path().join(".wh.file"), "").unwrap();
    let root = fs::File::open(place.path()).unwrap();
    let error = pack_tree(root.as_fd(), &Pack::default(), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("/.wh.file: "), "{error}");
}

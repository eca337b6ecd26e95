//! What the kernel makes of unpacked layers: overlayfs shows what the images say, whoever unpacked
//! and whoever mounts. Also a full disk, and the order in which things reach a disk.
//!
//! These tests need root and mount in name spaces of their own. Where they cannot run they say so.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(clippy::tests_outside_test_module, reason = "all of this file is tests")]
#![allow(clippy::print_stderr, reason = "a test that is left out says so")]

mod layer_archive;
mod layer_twice;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use layer_archive::{Archive, Header, chain, plain};
use layer_twice::{again, is_root, scratch, twice};
use ric_images::{Limits, Store};

/// Says so if this test cannot run here.
fn is_left_out(test: &str) -> bool {
    if !is_root() && !Path::new("twice").exists() {
        eprintln!("left out: {test} needs root");
        return true;
    }
    false
}

/// Lists the overlay of `tars`, lowest first, as a sandbox would see it.
fn overlay(directory: &Path, name: &str, tars: &[Vec<u8>]) -> Vec<String> {
    let place = std::path::absolute(directory.join(name)).unwrap();
    fs::create_dir(&place).unwrap();
    let store = Store::open(&place.join("store")).unwrap();
    let add = |tar: &Vec<u8>| store.add_layer(&plain(tar), &mut tar.as_slice(), &Limits::default());
    let trees: Vec<PathBuf> = tars.iter().map(|tar| add(tar).unwrap()).collect();
    let stacked: Vec<&str> = trees.iter().rev().map(|tree| tree.to_str().unwrap()).collect();
    let merged = place.join("merged");
    fs::create_dir(&merged).unwrap();
    let script = r#"mount -t overlay overlay -o "ro,userxattr,lowerdir=$1" "$2" && cd "$2" &&
        find . -mindepth 1 -printf '%P %y %m %l\n' | sort"#;
    // One directory alone is no overlay: an empty one below it changes nothing.
    let empty = place.join("empty");
    fs::create_dir(&empty).unwrap();
    let lower = [stacked.join(":"), empty.to_str().unwrap().to_owned()].join(":");
    let flags: &[&str] = if is_root() { &["--mount"] } else { &["-U", "-r", "--mount"] };
    let output = Command::new("unshare")
        .args(flags)
        .args(["sh", "-c", script, "sh", &lower, merged.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    listed.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// A name, layers from the lowest up, and what they show together.
type Case<'a> = (&'a str, Vec<Vec<u8>>, &'a [&'a str]);

fn check(test: &str, cases: &[Case<'_>]) {
    if is_left_out(test) {
        return;
    }
    twice(test, |directory| {
        let mut all = Vec::new();
        for (name, tars, expected) in cases {
            let seen = overlay(directory, name, tars);
            assert_eq!(seen, *expected, "{name}");
            all.extend(seen);
        }
        all
    });
}

fn new() -> Archive {
    Archive::new()
}

/// Whiteouts and opaque marks do what the image specification says.
#[test]
fn overlays_hide_what_layers_removed() {
    let base = || new().directory("d").file("d/a", "1").file("d/b", "2").file("e", "3").end();
    check(
        "overlays_hide_what_layers_removed",
        &[
            ("control", vec![base()], &["d d 755", "d/a f 644", "d/b f 644", "e f 644"]),
            (
                "whiteout",
                vec![base(), new().directory("d").file("d/.wh.a", "").file(".wh.e", "").end()],
                &["d d 755", "d/b f 644"],
            ),
            ("whiteout_of_directory", vec![base(), new().file(".wh.d", "").end()], &["e f 644"]),
            (
                "opaque",
                vec![base(), new().directory("d").file("d/.wh..wh..opq", "").file("d/c", "").end()],
                &["d d 755", "d/c f 644", "e f 644"],
            ),
            (
                "opaque_mark_last",
                vec![base(), new().directory("d").file("d/c", "").file("d/.wh..wh..opq", "").end()],
                &["d d 755", "d/c f 644", "e f 644"],
            ),
            (
                "removed_and_made_again",
                vec![base(), new().file(".wh.d", "").directory("d").file("d/c", "").end()],
                &["d d 755", "d/c f 644", "e f 644"],
            ),
            (
                "file_over_directory",
                vec![base(), new().file("d", "x").end()],
                &["d f 644", "e f 644"],
            ),
            (
                "directory_over_file",
                vec![base(), new().directory("e").file("e/x", "").end()],
                &["d d 755", "d/a f 644", "d/b f 644", "e d 755", "e/x f 644"],
            ),
            (
                "brought_back",
                vec![base(), new().file(".wh.e", "").end(), new().file("e", "x").end()],
                &["d d 755", "d/a f 644", "d/b f 644", "e f 644"],
            ),
            (
                "forged_device",
                vec![
                    base(),
                    new().header(Header::new(b'3', "e").bytes(329, b"0000000\x000000000")).end(),
                ],
                &["d d 755", "d/a f 644", "d/b f 644", "e f 644"],
            ),
        ],
    );
}

/// A layer is unpacked without those below it. So a path through a link of a lower layer makes a
/// directory that takes the link's place, and a directory that no entry names has the usual mode:
/// both as in Docker and Podman, and as `docs/decisions/layers.md` tells.
#[test]
fn layers_do_not_see_lower_ones() {
    let base = || {
        new()
            .directory("usr")
            .directory("usr/lib")
            .file("usr/lib/a", "")
            .symlink("lib", "usr/lib")
            .header(Header::new(b'5', "tmp").mode(0o1777))
            .end()
    };
    let lower = ["usr d 755", "usr/lib d 755", "usr/lib/a f 644"];
    check(
        "layers_do_not_see_lower_ones",
        &[
            ("control", vec![base()], &[&["lib l 777 usr/lib", "tmp d 1777"][..], &lower].concat()),
            (
                "through_lower_link",
                vec![base(), new().file("lib/b", "").end()],
                &[&["lib d 755", "lib/b f 644", "tmp d 1777"][..], &lower].concat(),
            ),
            (
                "link_repeated",
                vec![base(), new().symlink("lib", "usr/lib").file("lib/b", "").end()],
                &[&["lib l 777 usr/lib", "tmp d 1777"][..], &lower, &["usr/lib/b f 644"]].concat(),
            ),
            (
                "implied_directory",
                vec![base(), new().file("tmp/b", "").end()],
                &[&["lib l 777 usr/lib", "tmp d 755", "tmp/b f 644"][..], &lower].concat(),
            ),
        ],
    );
}

/// T89: a full disk is told, and the store is as before; with room, the same layer goes in.
///
/// Runs itself again with the working directory on a disk of 1 MiB.
#[test]
fn full_disk_leaves_the_store_whole() {
    if Path::new("small-disk").exists() {
        let store = Store::open(Path::new("store")).unwrap();
        let big = new().file("a", "x").file("big", &"x".repeat(4 << 20)).end();
        let free = || rustix::fs::statvfs(".").unwrap().f_bfree;
        let before = free();
        let error = store.add_layer(&plain(&big), &mut &*big, &Limits::default()).unwrap_err();
        assert!(chain(&error).contains("write(2) "), "{}", chain(&error));
        assert!(chain(&error).contains("No space left on device"), "{}", chain(&error));
        assert_eq!(free(), before);
        assert_eq!(store.check().unwrap(), []);
        let small = new().file("a", &"x".repeat(100 << 10)).end();
        store.add_layer(&plain(&small), &mut &*small, &Limits::default()).unwrap();
        assert_eq!(store.check().unwrap(), []);
        return;
    }
    if is_left_out("full_disk_leaves_the_store_whole") {
        return;
    }
    let place = scratch();
    let worker = again("full_disk_leaves_the_store_whole", place.path());
    let script =
        r#"mount -t tmpfs -o size=1m tmpfs . && cd "$PWD" && touch small-disk && exec "$@""#;
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(worker.get_program())
        .args(worker.get_args())
        .current_dir(place.path())
        .status()
        .unwrap();
    assert!(status.success());
}

/// T121: a tree is synced before it gets its name, and the name before anyone is told of it; so a
/// power failure leaves the layer whole or absent. Read from the calls that the kernel saw.
#[test]
fn syncs_before_it_names() {
    if Path::new("traced").exists() {
        let store = Store::open(Path::new("store")).unwrap();
        let tar = new().file("a", "x").end();
        store.add_layer(&plain(&tar), &mut &*tar, &Limits::default()).unwrap();
        return;
    }
    if is_left_out("syncs_before_it_names") {
        return;
    }
    let place = scratch();
    drop(Store::open(&place.path().join("store")).unwrap());
    fs::write(place.path().join("traced"), "").unwrap();
    let worker = again("syncs_before_it_names", place.path());
    let calls = "trace=syncfs,fsync,renameat,renameat2,utimensat,fchmod";
    let status = Command::new("strace")
        .args(["-f", "-y", "-o", "trace", "-e", calls])
        .arg(worker.get_program())
        .args(worker.get_args())
        .current_dir(place.path())
        .status()
        .expect("strace is installed");
    assert!(status.success());
    let trace = fs::read_to_string(place.path().join("trace")).unwrap();
    let position = |call: &str, path: &str| {
        let matching = |line: &&str| line.contains(call) && line.contains(path);
        let line = trace.lines().rev().find(matching);
        let line = line.unwrap_or_else(|| panic!("no {call} of {path} in:\n{trace}"));
        trace.lines().position(|other| other == line).unwrap()
    };
    let order = [
        position("fchmod(", "/tree/a>"),
        position("syncfs(", "/tree>"),
        position("fsync(", "/record.json>"),
        position("renameat(", "/layers>"),
        position("fsync(", "/layers>"),
    ];
    assert!(order.is_sorted(), "{order:?} in:\n{trace}");
}

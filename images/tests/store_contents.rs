//! What the store keeps, finds damaged, and refuses to stand on.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(clippy::tests_outside_test_module, reason = "all of this file is tests")]

mod layer_archive;
mod layer_twice;

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use layer_archive::{Archive, Header, chain, plain};
use layer_twice::{ORDINARY_UID, is_root, scratch, twice};
use ric_images::{Digest, Limits, Store, StoreError};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A store is made where there is nothing, parents included, and opened again as it is.
#[test]
fn opens_what_it_made() {
    let place = scratch();
    let root = place.path().join("a/b/store");
    let manifest = Digest::of(b"m");
    Store::open(&root).unwrap().tag("name", &manifest).unwrap();
    assert_eq!((mode(&root), mode(root.parent().unwrap())), (0o700, 0o700));
    let store = Store::open(&root).unwrap();
    assert_eq!(store.tagged("name").unwrap(), Some(manifest));
    assert_eq!(store.root(), root);
}

/// Two versions of the program on one store: the one that does not know the other's says so, and
/// touches nothing. Stores from before there was a number are of the first.
#[test]
fn a_store_of_another_version_is_left_alone() {
    let place = scratch();
    let format = place.path().join("format");
    Store::open(place.path()).unwrap();
    fs::remove_file(&format).unwrap();
    Store::open(place.path()).unwrap();
    assert_eq!(fs::read(&format).unwrap(), b"1\n");
    let left = place.path().join("tmp/left");
    for (text, said) in [("2\n", "has format 2"), ("one", "`one` is no number"), ("", "no number")]
    {
        fs::write(&format, text).unwrap();
        fs::write(&left, "by its writer").unwrap();
        let error = Store::open(place.path()).unwrap_err();
        assert!(chain(&error).contains(said), "{text:?}: {}", chain(&error));
        assert!(left.exists(), "{text:?}: it was swept");
    }
    // The twin: this version sweeps what dead writers left.
    fs::write(&format, "1\n").unwrap();
    Store::open(place.path()).unwrap();
    assert!(!left.exists());
}

/// Whoever made it may have died on the way.
#[test]
fn opens_what_a_dead_maker_left() {
    let place = scratch();
    fs::create_dir_all(place.path().join("blobs")).unwrap();
    fs::create_dir(place.path().join("tmp")).unwrap();
    fs::write(place.path().join("tmp/marker.lock"), "").unwrap();
    fs::write(place.path().join("tmp/marker"), "{").unwrap();
    Store::open(place.path()).unwrap().tag("name", &Digest::of(b"m")).unwrap();
    assert_eq!(fs::read_dir(place.path().join("tmp")).unwrap().count(), 0);
}

/// Many may open a store at the moment when it is made.
#[test]
fn opens_in_a_crowd() {
    let place = scratch();
    let root = place.path().join("store");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let root = &root;
            scope.spawn(move || {
                let store = Store::open(root).unwrap();
                store.tag(&n.to_string(), &Digest::of(b"m")).unwrap();
            });
        }
    });
    assert_eq!(Store::open(&root).unwrap().tags().unwrap().len(), 8);
}

/// A directory that someone else can change, or that is something else, is no store.
#[test]
fn refuses_unsafe_roots() {
    twice("refuses_unsafe_roots", |directory| {
        let refused = |root: &Path| {
            let error = Store::open(root).unwrap_err();
            assert!(matches!(error, StoreError::Root { .. }), "{error:?}");
            chain(&error).split("store: ").last().unwrap().to_owned()
        };
        let place = directory.join("roots");
        fs::create_dir(&place).unwrap();
        let place = std::path::absolute(place).unwrap();
        drop(Store::open(&place.join("store")).unwrap());
        symlink(place.join("store"), place.join("link")).unwrap();
        fs::write(place.join("file"), "").unwrap();
        for (name, bits) in [("group", 0o770), ("everyone", 0o777), ("sticky", 0o1777)] {
            fs::create_dir(place.join(name)).unwrap();
            set_mode(&place.join(name), bits);
        }
        fs::create_dir_all(place.join("home/documents")).unwrap();
        set_mode(&place.join("home"), 0o755);
        let seen = ["link", "file", "group", "everyone", "sticky", "home"]
            .map(|name| format!("{name}: {}", refused(&place.join(name))));
        assert_eq!(mode(&place.join("home")), 0o755, "someone's home stays as it is");
        assert_eq!(fs::read_dir(place.join("home")).unwrap().count(), 1);
        Vec::from(seen)
    });
}

/// Root does not use what a user made, nor a user what root made.
#[test]
fn refuses_roots_of_others() {
    let place = scratch();
    let theirs = if is_root() {
        chown(place.path(), Some(ORDINARY_UID), None).unwrap();
        place.path()
    } else {
        Path::new("/usr")
    };
    let error = Store::open(theirs).unwrap_err();
    assert!(chain(&error).contains("it belongs to uid"), "{error}");
}

/// T47: nobody else gets at a set-user-id program in a layer. The control opens the store and gets
/// it.
#[test]
fn others_cannot_reach_into_layers() {
    if !is_root() {
        return;
    }
    let place = scratch();
    set_mode(place.path(), 0o755);
    let root = place.path().join("store");
    fs::create_dir(&root).unwrap();
    set_mode(&root, 0o755);
    let store = Store::open(&root).unwrap();
    let tar = Archive::new().sized(Header::new(b'0', "su").mode(0o4755), b"").end();
    let tree = store.add_layer(&plain(&tar), &mut &*tar, &Limits::default()).unwrap();
    let reach = || {
        let id = ORDINARY_UID.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "test", "-u"]);
        command.arg(tree.join("su")).status().unwrap().success()
    };
    assert!(!reach(), "the store is closed");
    for path in [&root, &root.join("layers"), tree.parent().unwrap(), &tree] {
        set_mode(path, 0o755);
    }
    assert!(reach(), "the program is there");
}

#[test]
fn keeps_blobs_by_digest() {
    let place = scratch();
    let store = Store::open(place.path()).unwrap();
    let digest = Digest::of(b"blob");
    assert_eq!(store.read_blob(&digest, 100).unwrap(), None);
    store.put_blob(&digest, b"blob").unwrap();
    store.put_blob(&digest, b"blob").unwrap();
    assert_eq!(store.read_blob(&digest, 4).unwrap().unwrap(), b"blob");
    let error = store.read_blob(&digest, 3).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { bytes_max: 3, .. }), "{error}");
    let error = store.put_blob(&digest, b"other").unwrap_err();
    assert!(matches!(error, StoreError::Content { .. }), "{error}");
}

#[test]
fn keeps_names_whatever_they_are() {
    let place = scratch();
    let store = Store::open(place.path()).unwrap();
    let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
    let long = "x".repeat(100_000);
    let names = ["a", "docker://h:5000/a/b:c", "../../etc/passwd", "line\nbreak", "", &long];
    for name in names {
        assert_eq!(store.tagged(name).unwrap(), None);
        store.tag(name, &one).unwrap();
        store.tag(name, &two).unwrap();
        assert_eq!(store.tagged(name).unwrap(), Some(two));
    }
    let mut expected = names.map(|name| (name.to_owned(), two));
    expected.sort();
    assert_eq!(store.tags().unwrap(), expected);
}

/// T122: every kind of damage is found, told, refused, and mended by removing and adding just that.
#[test]
fn finds_and_mends_damage() {
    let place = scratch();
    let store = Store::open(place.path()).unwrap();
    let tar = Archive::new().directory("d").file("d/f", "content").file("g", "x").end();
    let layer = plain(&tar);
    let tree = store.add_layer(&layer, &mut &*tar, &Limits::default()).unwrap();
    let (blob, other) = (Digest::of(b"blob"), Digest::of(b"other"));
    store.put_blob(&blob, b"blob").unwrap();
    store.put_blob(&other, b"other").unwrap();
    store.tag("name", &blob).unwrap();
    store.tag("other", &other).unwrap();
    assert_eq!(store.check().unwrap(), []);

    let record = tree.parent().unwrap().join("record.json");
    let in_tree = |change: &dyn Fn()| {
        change();
        let damage = store.check().unwrap();
        assert_eq!(damage.len(), 1);
        store.discard(&damage[0]).unwrap();
        assert_eq!(store.layer(&layer.diff_id), None);
        assert_eq!(store.add_layer(&layer, &mut &*tar, &Limits::default()).unwrap(), tree);
        assert_eq!(store.check().unwrap(), []);
    };
    in_tree(&|| fs::write(tree.join("d/f"), "CONTENT").unwrap());
    in_tree(&|| fs::write(tree.join("g"), "").unwrap());
    in_tree(&|| fs::remove_file(tree.join("g")).unwrap());
    in_tree(&|| fs::write(tree.join("new"), "").unwrap());
    in_tree(&|| set_mode(&tree.join("d"), 0o700));
    in_tree(&|| fs::remove_dir_all(&tree).unwrap());
    in_tree(&|| fs::write(&record, "{").unwrap());
    in_tree(&|| fs::remove_file(&record).unwrap());

    let path = place.path().join("blobs/sha256").join(blob.hex());
    fs::write(&path, "BLOB").unwrap();
    let error = store.read_blob(&blob, 100).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    let damage = store.check().unwrap();
    assert_eq!((damage.len(), &damage[0].path), (1, &path));
    store.discard(&damage[0]).unwrap();
    assert_eq!(store.read_blob(&blob, 100).unwrap(), None);

    let name = place.path().join("names").join(Digest::of(b"name").hex());
    for content in ["", "{", r#"{"reference":"x","manifest":"sha256:../.."}"#] {
        fs::write(&name, content).unwrap();
        assert!(matches!(store.tagged("name"), Err(StoreError::Damaged { .. })));
        assert_eq!(store.tags().unwrap(), [("other".to_owned(), other)], "others stay in reach");
    }
    let damage = store.check().unwrap();
    assert_eq!((damage.len(), &damage[0].path), (1, &name));
    store.discard(&damage[0]).unwrap();
    assert_eq!(store.tagged("name").unwrap(), None);
    assert_eq!(store.check().unwrap(), []);
}

/// A generated tree is made once, whole or not at all.
#[test]
fn generates_trees_once() {
    let place = scratch();
    let store = Store::open(place.path()).unwrap();
    let key = Digest::of(b"key");
    let made = AtomicU64::new(0);
    let make = |directory: std::os::fd::BorrowedFd<'_>| {
        made.fetch_add(1, Ordering::Relaxed);
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        let mode = rustix::fs::Mode::RUSR;
        let _file: OwnedFd = rustix::fs::openat(directory, "file", flags, mode)?;
        Ok(())
    };
    let broken = store.generated("top", &key, |directory| {
        make(directory)?;
        Err(std::io::ErrorKind::StorageFull.into())
    });
    assert!(chain(&broken.unwrap_err()).contains("no storage space"));
    assert_eq!(fs::read_dir(place.path().join("tmp")).unwrap().count(), 0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let tree = store.generated("top", &key, make).unwrap();
                assert!(tree.join("file").exists());
            });
        }
    });
    assert_eq!(made.load(Ordering::Relaxed), 2, "the broken one and one for all");
    let tree = store.generated("top", &key, |_| panic!("it is there")).unwrap();
    assert_eq!(mode(&tree), 0o755);
    assert_ne!(store.generated("tools", &key, make).unwrap(), tree);
}

/// What earlier boots generated was never synced: it is not used, and goes.
#[test]
fn forgets_trees_of_earlier_boots() {
    let place = scratch();
    let store = Store::open(place.path()).unwrap();
    let old = place.path().join("generated/an-earlier-boot");
    fs::create_dir_all(old.join("top").join(Digest::of(b"key").hex())).unwrap();
    let tree = store.generated("top", &Digest::of(b"key"), |_| Ok(())).unwrap();
    assert!(tree.exists() && !old.exists());
}

//! The store under kills and crowds: every layer is whole or absent, and unpacked once.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(clippy::tests_outside_test_module, reason = "all of this file is tests")]

mod layer_archive;
mod layer_twice;

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use layer_archive::{Archive, plain};
use layer_twice::{again, listing, scratch};
use ric_images::{Digest, Limits, Store};

/// Where workers find the store, below their working directory.
const SHARED: &str = "shared-store";

/// A layer of some 170 KiB, in files of all sizes.
fn sample() -> Vec<u8> {
    let add = |archive: Archive, n: usize| {
        let content = Digest::of(n.to_string().as_bytes()).hex().repeat(n % 30);
        archive.file(&format!("d{}/f{n}", n % 7), &content)
    };
    (0..100).fold(Archive::new(), add).end()
}

/// Counts what is read from it.
struct Counting<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Adding a layer makes its tree. Other tests here run this one as a worker in a process of its
/// own: with a shared store, the blob on standard input, and what was read of it noted in a file.
#[test]
fn adds_a_layer() {
    let tar = sample();
    let layer = plain(&tar);
    if !Path::new(SHARED).exists() {
        let place = scratch();
        let store = Store::open(&place.path().join("store")).unwrap();
        let tree = store.add_layer(&layer, &mut &*tar, &Limits::default()).unwrap();
        assert_eq!(listing(&tree).len(), 1 + 7 + 100);
        assert_eq!(store.layer(&layer.diff_id), Some(tree));
        return;
    }
    let store = Store::open(Path::new(SHARED)).unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let mut blob = Counting(io::stdin().lock(), Arc::clone(&count));
    store.add_layer(&layer, &mut blob, &Limits::default()).unwrap();
    let note = format!("read-{}", std::process::id());
    fs::write(note, count.load(Ordering::Relaxed).to_string()).unwrap();
}

#[allow(clippy::disallowed_methods, reason = "a worker must run while this test goes on")]
fn worker(place: &Path) -> Child {
    let mut command = again("adds_a_layer", place);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// T120: killed at any point, the store is whole, and the layer can be added without cleaning up.
#[test]
fn survives_kills_at_any_point() {
    let tar = sample();
    let layer = plain(&tar);
    let place = scratch();
    let root = place.path().join(SHARED);
    drop(Store::open(&root).unwrap());
    let points = (0..24).map(|n| tar.len() * n / 24).chain([tar.len(); 8]);
    for point in points {
        let mut child = worker(place.path());
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&tar[..point]).unwrap();
        if point == tar.len() {
            // From here on it may be anywhere: syncing, renaming, done.
            drop(stdin);
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let store = Store::open(&root).unwrap();
        let leftovers = names_in(&root.join("tmp"));
        assert!(leftovers.iter().all(|name| name.starts_with("partial-")), "{leftovers:?}");
        assert_eq!(store.check().unwrap(), [], "killed at {point}");
        let tree = store.add_layer(&layer, &mut &*tar, &Limits::default()).unwrap();
        assert_eq!(listing(&tree).len(), 1 + 7 + 100);
        assert_eq!(store.check().unwrap(), []);
        assert_eq!(names_in(&root.join("tmp")), [""; 0], "killed at {point}");
        let mut blob = store.open_blob(&layer.digest, layer.blob_bytes).unwrap().unwrap();
        assert_eq!(io::copy(&mut blob, &mut io::sink()).unwrap(), layer.blob_bytes);
        store.remove_layer(&layer.diff_id).unwrap();
        assert_eq!(store.layer(&layer.diff_id), None);
        assert!(store.open_blob(&layer.digest, layer.blob_bytes).unwrap().is_none());
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// T118: one of many processes reads the blob; the others wait and read none of theirs.
#[test]
fn unpacks_once_for_a_crowd() {
    let tar = sample();
    let place = scratch();
    let store = Store::open(&place.path().join(SHARED)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut child = worker(place.path());
                // Who only waits goes away without reading it all.
                let _ = child.stdin.take().unwrap().write_all(&tar);
                assert!(child.wait().unwrap().success());
            });
        }
    });
    assert_eq!(store.check().unwrap(), []);
    let mut counts: Vec<usize> = fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("read-"))
        .map(|path| fs::read_to_string(path).unwrap().parse().unwrap())
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 0, 0, tar.len()]);
}

/// T118: threads of one process wait for each other just the same.
#[test]
fn unpacks_once_for_threads() {
    let tar = sample();
    let place = scratch();
    let store = Store::open(place.path()).unwrap();
    let count = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut blob = Counting(&*tar, Arc::clone(&count));
                store.add_layer(&plain(&tar), &mut blob, &Limits::default()).unwrap();
            });
        }
    });
    assert_eq!(count.load(Ordering::Relaxed), tar.len() as u64);
}

/// T118: when the one that unpacks is killed, one that waits does it.
#[test]
fn takes_over_from_the_dead() {
    let tar = sample();
    let place = scratch();
    let store = Store::open(&place.path().join(SHARED)).unwrap();
    let mut leader = worker(place.path());
    // More than a pipe holds: so it has read some, and has the lock.
    let mut stdin = leader.stdin.take().unwrap();
    stdin.write_all(&tar[..tar.len() / 2]).unwrap();
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| {
            let mut blob = &*tar;
            store.add_layer(&plain(&tar), &mut blob, &Limits::default()).map(|_| blob.len())
        });
        leader.kill().unwrap();
        leader.wait().unwrap();
        assert_eq!(follower.join().unwrap().unwrap(), 0, "it has read its blob");
    });
    assert_eq!(store.check().unwrap(), []);
}

/// Hands out a blob in two halves, the second when it is told to.
struct Halves<'a> {
    halves: std::vec::IntoIter<&'a [u8]>,
    current: &'a [u8],
    asked: Sender<()>,
    go: Receiver<()>,
}

impl Read for Halves<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty()
            && let Some(next) = self.halves.next()
        {
            self.asked.send(()).unwrap();
            self.go.recv().unwrap();
            self.current = next;
        }
        self.current.read(buffer)
    }
}

/// Opening a store removes what the dead left, and nothing of the living.
#[test]
fn spares_the_work_of_the_living() {
    let tar = sample();
    let place = scratch();
    let store = Store::open(place.path()).unwrap();
    fs::create_dir(place.path().join("tmp/layer-of-the-dead")).unwrap();
    fs::write(place.path().join("tmp/layer-of-the-dead.lock"), "").unwrap();
    fs::write(place.path().join("tmp/without-lock"), "").unwrap();
    let (asked, is_asked) = channel();
    let (tell, go) = channel();
    let halves = Vec::from(<[&[u8]; 2]>::from(tar.split_at(tar.len() / 2))).into_iter();
    let mut blob = Halves { halves, current: b"", asked, go };
    std::thread::scope(|scope| {
        let adding =
            scope.spawn(|| store.add_layer(&plain(&tar), &mut blob, &Limits::default()).unwrap());
        is_asked.recv().unwrap();
        tell.send(()).unwrap();
        is_asked.recv().unwrap();
        drop(Store::open(place.path()).unwrap());
        let left = fs::read_dir(place.path().join("tmp")).unwrap().count();
        assert_eq!(left, 4, "the tree and the blob in the making, and their locks");
        tell.send(()).unwrap();
        assert_eq!(listing(&adding.join().unwrap()).len(), 1 + 7 + 100);
    });
    assert_eq!(fs::read_dir(place.path().join("tmp")).unwrap().count(), 0);
}

/// T52, T55: a layer that is refused leaves the store as it was.
#[test]
fn refused_layers_leave_nothing() {
    let place = scratch();
    let store = Store::open(place.path()).unwrap();
    let before = listing_without_times(place.path());
    let good = sample();
    let hostile = Archive(good[..good.len() - 1024].to_vec()).directory("../x").end();
    let limits = Limits { entries_max: 50, ..Limits::default() };
    for (tar, limits) in [
        (hostile, Limits::default()),
        (good[..good.len() / 2 + 100].to_vec(), Limits::default()),
        (good, limits),
    ] {
        let layer = plain(&tar);
        assert!(store.add_layer(&layer, &mut &*tar, &limits).is_err());
        assert_eq!(store.layer(&layer.diff_id), None);
        assert_eq!(listing_without_times(place.path()), before);
    }
}

fn listing_without_times(root: &Path) -> Vec<String> {
    let lines = listing(root);
    lines.iter().map(|line| line.split(" @").next().unwrap().to_owned()).collect()
}

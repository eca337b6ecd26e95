//! Whatever the entries, and whatever the bytes: nothing outside changes, nothing panics, and the
//! tree can be removed again.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(clippy::tests_outside_test_module, reason = "all of this file is tests")]

mod layer_archive;
mod layer_twice;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;

use layer_archive::{Archive, Header, plain};
use layer_twice::{Canary, is_root, listing, scratch};
use proptest::prelude::*;
use ric_images::{Limits, Pack, Store, pack_tree};

/// Few names, so that entries meet: as files, directories and links, on the way and at the end.
fn component() -> impl Strategy<Value = &'static str> {
    const ODD: [&str; 8] = ["..", ".", "", "secret", ".wh.a", ".wh.b", ".wh..wh..opq", "directory"];
    prop_oneof![8 => prop::sample::select(vec!["a", "b", "c"]), 2 => prop::sample::select(&ODD[..])]
}

fn name(components: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    prop::collection::vec(component(), components).prop_map(|components| components.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => name(1..4),
        1 => name(1..4).prop_map(|name| format!("/{name}")),
        // From the root of a tree in the making, out of the store.
        2 => Just("../../../../canary".to_owned()),
        1 => Just("../../../../canary/secret".to_owned()),
        1 => Just("/".to_owned()),
    ]
}

fn entry() -> impl Strategy<Value = Archive> {
    let link = (prop::sample::select(b"12".to_vec()), name(1..3), target())
        .prop_map(|(kind, name, target)| Header::new(kind, name).link(target))
        .prop_map(|header| Archive::new().header(header));
    let content = prop::collection::vec(any::<u8>(), 0..20);
    let file = (name(1..5), 0_u32..0o10000, content).prop_map(|(name, mode, content)| {
        Archive::new().sized(Header::new(b'0', name).mode(mode), &content)
    });
    let other = (prop::sample::select(b"55367".to_vec()), name(1..5), 0_u32..0o10000)
        .prop_map(|(kind, name, mode)| Archive::new().header(Header::new(kind, name).mode(mode)));
    prop_oneof![link, file, other]
}

/// Unpacks beside a canary and removes the tree again; says whether the layer was accepted.
fn survives(tar: &[u8]) -> bool {
    let place = scratch();
    let canary = Canary::new(place.path());
    let store = place.path().join("store");
    let limits = Limits { unpacked_bytes_max: 1 << 20, entries_max: 1000, ..Limits::default() };
    let store = Store::open(&store).unwrap();
    let layer = plain(tar);
    let added = store.add_layer(&layer, &mut &*tar, &limits);
    canary.check("the layer");
    assert_eq!(added.is_ok(), store.layer(&layer.diff_id).is_some());
    assert!(store.check().unwrap().is_empty());
    store.remove_layer(&layer.diff_id).unwrap();
    assert!(fs::read_dir(store.root().join("tmp")).unwrap().next().is_none());
    assert!(fs::read_dir(store.root().join("layers")).unwrap().next().is_none());
    canary.check("removing the layer");
    added.is_ok()
}

/// The layer of all entries that are not refused: one that is ends a layer, so it is left out of
/// what is tried next.
fn accepted(entries: Vec<Archive>) -> Vec<u8> {
    let mut accepted = Vec::new();
    for entry in entries {
        let longer = [&accepted[..], &entry.0].concat();
        if survives(&Archive(longer.clone()).end()) {
            accepted = longer;
        }
    }
    Archive(accepted).end()
}

/// Unpacks, packs what came of it and unpacks that: the same tree, and the same bytes from then on.
fn comes_back(tar: &[u8]) {
    let place = scratch();
    let store = Store::open(&place.path().join("store")).unwrap();
    let layer = plain(tar);
    let Ok(tree) = store.add_layer(&layer, &mut &*tar, &Limits::default()) else { return };
    let packed = |tree: &Path| {
        let mut tar = Vec::new();
        let root = fs::File::open(tree).unwrap();
        pack_tree(root.as_fd(), &Pack::default(), &mut tar).map(|_| tar)
    };
    // Only root reads what its own owner may not read.
    let first = match packed(&tree) {
        Err(error) if !is_root() && error.kind() == ErrorKind::PermissionDenied => return,
        packed => packed.unwrap(),
    };
    let again = plain(&first);
    let tree_again = store.add_layer(&again, &mut &*first, &Limits::default()).unwrap();
    let without_root = |tree: &Path| listing(tree).split_off(1);
    assert_eq!(without_root(&tree), without_root(&tree_again));
    assert_eq!(first, packed(&tree_again).unwrap());
}

/// Each case is dozens of trees; the fuzzer goes deeper.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_sequence_of_entries_leaves_the_root(entries in prop::collection::vec(entry(), 1..16)) {
        accepted(entries);
    }

    #[test]
    fn a_tree_comes_back_from_the_tar_that_it_is_packed_to(
        entries in prop::collection::vec(entry(), 1..16),
    ) {
        comes_back(&accepted(entries));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        survives(&bytes);
    }

    #[test]
    fn no_changed_byte_panics(
        entries in prop::collection::vec(entry(), 1..8),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.0.clone()).collect();
        let mut tar = Archive(bytes).end();
        let at = at.index(tar.len());
        tar[at] = byte;
        survives(&tar);
    }
}

/// The archives that the fuzzer found interesting, and the ones it starts from.
#[test]
fn replays_the_fuzzing_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/layer");
    let mut replayed = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        survives(&fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed >= 10, "the corpus is in the repository");
}

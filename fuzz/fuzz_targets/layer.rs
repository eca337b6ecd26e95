//! Any bytes as a layer: no panic, no hang, no large allocation, nothing outside the root.

#![no_main]

use std::fs::File;
use std::os::fd::AsFd;

use libfuzzer_sys::fuzz_target;
use ric_images::{Digest, LayerDescriptor, Limits, MediaType, unpack_layer};

fuzz_target!(|tar: &[u8]| {
    let place = tempfile::tempdir().expect("a temporary directory");
    let canary = place.path().join("canary");
    std::fs::write(&canary, "secret").expect("a canary");
    let root = place.path().join("root");
    std::fs::create_dir(&root).expect("a root");
    let opened = File::open(&root).expect("the root");
    let digest = Digest::of(tar);
    let blob_bytes = tar.len() as u64;
    let layer = LayerDescriptor { digest, diff_id: digest, blob_bytes, media_type: MediaType::Tar };
    let limits = Limits { unpacked_bytes_max: 1 << 20, entries_max: 1000, ..Limits::default() };
    let _ = unpack_layer(&layer, &mut &*tar, &limits, opened.as_fd());
    assert_eq!(std::fs::read(&canary).expect("the canary"), b"secret");
    assert_eq!(std::fs::read_dir(place.path()).expect("the place").count(), 2);
    // The tree may have closed directories, which the temporary directory cannot remove.
    let _ = std::process::Command::new("chmod").args(["-R", "u+rwX"]).arg(&root).status();
});

//! What must hold for every file that is said to be a root filesystem. Shared by the fuzz targets
//! of both formats and the test that replays their corpora.

use std::fs::File;
use std::os::fd::AsFd;

use ric_images::{Digest, LayerDescriptor, Limits, MediaType, unpack_layer};

/// Unpacks a squashfs.
pub(crate) fn check_squashfs(data: &[u8]) {
    check(data, MediaType::Squashfs, "squashfs");
}

/// Unpacks the squashfs in a SIF.
pub(crate) fn check_sif(data: &[u8]) {
    check(data, MediaType::Sif, "sif");
}

/// No panic, no hang, nothing outside the root; what is refused is refused without control
/// characters.
fn check(data: &[u8], media_type: MediaType, word: &str) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let canary = place.path().join("canary");
    std::fs::write(&canary, "secret").expect("a canary");
    let root = place.path().join("root");
    std::fs::create_dir(&root).expect("a root");
    let opened = File::open(&root).expect("the root");
    let digest = Digest::of(data);
    let diff_id = Digest::of(format!("{word} {digest}").as_bytes());
    let layer = LayerDescriptor { digest, diff_id, blob_bytes: data.len() as u64, media_type };
    let limits = Limits { unpacked_bytes_max: 1 << 20, entries_max: 1000, ..Limits::default() };
    if let Err(error) = unpack_layer(&layer, &mut &*data, &limits, opened.as_fd()) {
        assert!(!error.to_string().contains(char::is_control));
    }
    assert_eq!(std::fs::read(&canary).expect("the canary"), b"secret");
    assert_eq!(std::fs::read_dir(place.path()).expect("the place").count(), 2);
    // Directories may be closed, which the temporary directory cannot remove.
    let _ = std::process::Command::new("chmod").args(["-R", "u+rwX"]).arg(&root).status();
}

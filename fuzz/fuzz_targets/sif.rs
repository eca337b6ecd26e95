//! Feeds arbitrary bytes to the reader of a SIF.
#![no_main]

#[path = "../bodies/file_system.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check_sif(data));

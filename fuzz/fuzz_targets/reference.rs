//! Feeds arbitrary text to the reader of image references.
#![no_main]

#[path = "../bodies/reference.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));

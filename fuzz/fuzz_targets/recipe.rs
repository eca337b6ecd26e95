//! Feeds arbitrary text to the readers of build files.
#![no_main]

#[path = "../bodies/recipe.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));

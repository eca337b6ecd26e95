//! Compares a text with the file that holds what is expected, or writes it there.

use std::path::{Path, PathBuf};

/// A path beside the tests.
pub(crate) fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// Fails if `found` is not what the file says. With `RIC_BLESS=1` the file is written instead.
#[allow(clippy::disallowed_methods, reason = "how to run a test is no input of the program")]
pub(crate) fn check(file: &Path, found: &str) {
    if std::env::var_os("RIC_BLESS").is_some() {
        return std::fs::write(file, found).unwrap();
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        expected == found,
        "{} differs; RIC_BLESS=1 rewrites it\n--- expected\n{expected}\n--- found\n{found}",
        file.display()
    );
}

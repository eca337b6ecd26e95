//! What must hold for every text that is taken for an image reference. Shared by the fuzz target
//! and the test that replays its corpus.

use ric_images::Reference;

/// Reads the bytes as a reference.
///
/// No panic; what is accepted prints as a reference that reads as the same, on one line; what is
/// refused is refused in a message of bounded length without control characters.
pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let message = match text.parse::<Reference>() {
        Ok(reference) => {
            let printed = reference.to_string();
            assert_eq!(printed.parse::<Reference>(), Ok(reference));
            printed
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 4096);
            message
        }
    };
    assert!(!message.contains(char::is_control));
}

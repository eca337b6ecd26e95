//! What must hold for every pair of documents that a registry or archive may send. Shared by the
//! fuzz target and the test that replays its corpus.

use ric_images::read_documents;

/// Stands between the manifest and the configuration in one input.
const BETWEEN: &[u8] = b"\n---\n";

/// Reads the bytes as a manifest and a configuration.
///
/// No panic; what is accepted could be given to a process; what is refused is refused without
/// control characters.
pub(crate) fn check(data: &[u8]) {
    let between = data.windows(BETWEEN.len()).position(|window| window == BETWEEN);
    let (manifest, config) = match between {
        Some(at) => (&data[..at], &data[at + BETWEEN.len()..]),
        None => (data, &b"{\"rootfs\": {}}"[..]),
    };
    match read_documents(manifest, config) {
        Ok(read) => {
            assert!(read.layers.len() <= 1000);
            for (name, value) in &read.config.variables {
                assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
            }
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}

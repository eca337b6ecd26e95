//! What must hold for every sequence of bytes that a worker may send. Shared by the fuzz target and
//! the test that replays its corpus.

use ric_runtime::{Assembler, HEADER_BYTES, Wanted};

/// Feeds the bytes as a socket would, in pieces whose size the first byte chooses.
///
/// No panic, no buffer beyond what came or was allowed, and a frame that is accepted is one whose
/// header writes the same bytes again.
pub(crate) fn check(data: &[u8]) {
    const RESULT_BYTES_MAX: u64 = 4096;
    let Some((first, mut rest)) = data.split_first() else { return };
    let piece = usize::from(*first).max(1);
    let mut assembler = Assembler::new(RESULT_BYTES_MAX);
    let mut fed = Vec::new();
    while !rest.is_empty() {
        let most = match assembler.wanted() {
            Wanted::Bytes(most) => most,
            Wanted::Descriptor { bytes } => {
                assert!(bytes <= RESULT_BYTES_MAX.max(ric_runtime::ERROR_BYTES_MAX));
                return;
            }
        };
        assert!(most > 0, "nothing is wanted and no frame came");
        let (now, later) = rest.split_at(piece.min(most).min(rest.len()));
        fed.extend_from_slice(now);
        rest = later;
        match assembler.push(now) {
            Ok(None) => {}
            Ok(Some(frame)) => {
                assert_eq!(frame.header.encode(), fed[..HEADER_BYTES]);
                assert!(fed.ends_with(&frame.payload));
                fed.clear();
            }
            Err(_) => return,
        }
    }
}

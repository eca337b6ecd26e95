//! Reads what a worker says, frame by frame: verified against its digests, and not believed.

use serde::de::DeserializeOwned;

use super::ending::broke;
use super::letters::{CorruptMetadata, CorruptPart, ResultMetadata, WorkerHello, check_json};
use super::{Answer, ExchangeError, Interpreter, Side};
use crate::frame::{NO_TASK, Part, TaskId, VERSION_HIGHEST, VERSION_LOWEST};

/// Most out-of-band buffers of one pickle.
const BUFFERS_MAX: usize = 1024;
/// Out-of-band buffers begin at multiples of this many bytes.
const BUFFER_ALIGNMENT: u64 = 64;

pub(super) fn read_hello(metadata: &[u8]) -> Result<Interpreter, ExchangeError> {
    let hello: WorkerHello = from_json(metadata)?;
    let (lowest, highest) = (hello.version_lowest, hello.version_highest);
    if lowest > VERSION_HIGHEST || highest < VERSION_LOWEST {
        return Err(ExchangeError::Version { lowest, highest });
    }
    Ok(hello.interpreter)
}

pub(super) fn read_result(
    metadata: &[u8],
    payload: Vec<u8>,
    pickles: bool,
) -> Result<Answer, ExchangeError> {
    match from_json(metadata)? {
        ResultMetadata::Json => {
            let text = String::from_utf8(payload)
                .map_err(|_| broke("sent a JSON result that is not UTF-8"))?;
            check_json(&text)
                .map_err(|error| broke(format!("sent a wrong JSON result: {error}")))?;
            Ok(Answer::Json(text))
        }
        ResultMetadata::Pickle { python, buffers } if pickles => {
            check_buffers(&buffers, payload.len() as u64)?;
            Ok(Answer::Pickle { bytes: payload, python, buffers })
        }
        ResultMetadata::Pickle { .. } => Err(broke("sent a pickle to a caller that takes none")),
    }
}

/// Checks where out-of-band buffers are said to lie in a payload.
fn check_buffers(buffers: &[[u64; 2]], payload_bytes: u64) -> Result<(), ExchangeError> {
    let mut end = 0;
    for [offset, bytes] in buffers {
        let next = offset.checked_add(*bytes).filter(|next| *next <= payload_bytes);
        match next {
            Some(next) if *offset >= end && offset % BUFFER_ALIGNMENT == 0 => end = next,
            _ => return Err(broke("sent a pickle whose buffers are not where it says")),
        }
    }
    if buffers.len() > BUFFERS_MAX {
        return Err(broke("sent a pickle of too many buffers"));
    }
    Ok(())
}

/// Returns what the worker found to be corrupt, unless it lies about whose it is.
pub(super) fn read_corrupt(metadata: &[u8], task: TaskId, ours: TaskId) -> ExchangeError {
    let corrupt: CorruptMetadata = match from_json(metadata) {
        Ok(corrupt) => corrupt,
        Err(error) => return error,
    };
    let (what, about) = match corrupt.what {
        CorruptPart::Header => (Part::Header, NO_TASK),
        CorruptPart::Metadata => (Part::Metadata, ours),
        CorruptPart::Function => (Part::Function, ours),
        CorruptPart::Arguments => (Part::Arguments, ours),
        CorruptPart::Payload => (Part::Payload, ours),
    };
    let is_digest = |text: &str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if task != about || !is_digest(&corrupt.expected) || !is_digest(&corrupt.got) {
        return broke("sent a CORRUPT frame that makes no sense");
    }
    let (expected, got) = (corrupt.expected, corrupt.got);
    ExchangeError::Corrupt { what, expected, got, noticed_by: Side::Worker }
}

pub(super) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ExchangeError> {
    serde_json::from_slice(bytes)
        .map_err(|error| broke(format!("sent JSON that says something else: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_lie_within_the_payload_in_order_and_aligned() {
        let good = |buffers: &[[u64; 2]]| check_buffers(buffers, 1000).is_ok();
        assert!(good(&[]) && good(&[[64, 100], [192, 808]]) && good(&[[64, 0], [64, 5]]));
        for wrong in [
            &[[63, 1]][..],
            &[[960, 41]],
            &[[1024, 0]],
            &[[64, 65], [128, 1]],
            &[[128, 1], [64, 1]],
            &[[64, u64::MAX]],
            &[[u64::MAX - 63, 64]],
        ] {
            assert!(!good(wrong), "{wrong:?}");
        }
        assert!(good(&vec![[64, 0]; BUFFERS_MAX]) && !good(&vec![[64, 0]; BUFFERS_MAX + 1]));
    }
}

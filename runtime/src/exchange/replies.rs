//! Reads what a worker says, frame by frame: verified against its digests, and not believed.

use serde::de::DeserializeOwned;

use super::ending::broke;
use super::letters::{CorruptMetadata, CorruptPart, ResultMetadata, WorkerHello, check_json};
use super::{Answer, ExchangeError, Interpreter, Side};
use crate::frame::{NO_TASK, Part, TaskId, VERSION_HIGHEST, VERSION_LOWEST};

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
        ResultMetadata::Pickle { python } if pickles => {
            Ok(Answer::Pickle { bytes: payload, python })
        }
        ResultMetadata::Pickle { .. } => Err(broke("sent a pickle to a caller that takes none")),
    }
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

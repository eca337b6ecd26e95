//! What a journal says of submitted tasks, and how it is written: facts as JSON, parts as bytes.
//!
//! The body of a record is the length of its JSON (4 bytes, big-endian), the JSON, and the inline
//! parts one after the other. A part that is large has a file of its own, named by its digest.

use ric_runtime::{Sha256Digest, Status, hex};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names a submitted task: random, so that nobody finds another's by counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::serve) struct KeptId(pub(in crate::serve) [u8; 16]);

impl KeptId {
    /// What [`to_string`](ToString::to_string) has written: 32 hex digits in small letters.
    pub(in crate::serve) fn parse(text: &str) -> Option<KeptId> {
        parse_hex(text).map(KeptId)
    }
}

impl std::fmt::Display for KeptId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl Serialize for KeptId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeptId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeptId, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        KeptId::parse(&text).ok_or_else(|| serde::de::Error::custom("an id has 32 hex digits"))
    }
}

/// Something that has happened to a submitted task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(in crate::serve) enum Record {
    /// It was handed in. Its parts are all that running it needs: what was opened, MODULES, then
    /// metadata and payload of FUNCTION and of CALL.
    Submitted {
        id: KeptId,
        #[serde(flatten)]
        about: About,
    },
    /// From now on it may have run. Not said of one that may be run again.
    Begun { id: KeptId },
    /// It has ended. Its parts are metadata and payload of the frame that says how, and what it
    /// printed to standard output and standard error.
    Ended {
        id: KeptId,
        #[serde(flatten)]
        end: End,
    },
    /// Nobody wants to know of it any more.
    Forgotten { id: KeptId },
}

impl Record {
    pub(in crate::serve) fn id(&self) -> KeptId {
        match self {
            Record::Submitted { id, .. }
            | Record::Begun { id }
            | Record::Ended { id, .. }
            | Record::Forgotten { id } => *id,
        }
    }
}

/// What is said of a submitted task as long as it is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::serve) struct About {
    /// Whose it is.
    pub(in crate::serve) uid: u32,
    /// Seconds since 1970.
    pub(in crate::serve) submitted_s: u64,
    /// Whether it may be run again when it may have run already.
    pub(in crate::serve) rerun: bool,
    /// Name of the function, empty for one that was pickled.
    pub(in crate::serve) function: String,
    pub(in crate::serve) function_sha256: String,
    pub(in crate::serve) image: String,
}

/// How a submitted task ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::serve) struct End {
    /// Seconds since 1970.
    pub(in crate::serve) ended_s: u64,
    pub(in crate::serve) status: Status,
    /// Of the frame that says so: RESULT, ERROR, DECLINED, CORRUPT or ENDED.
    pub(in crate::serve) kind: u8,
}

/// Bytes that belong to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) struct Part {
    pub(in crate::serve) bytes: u64,
    pub(in crate::serve) sha256: Sha256Digest,
}

/// Parts up to this size are in the record itself, so that one write and one sync do for many.
pub(super) const INLINE_BYTES_MAX: u64 = 64 << 10;
/// Most parts of a record.
const PARTS_MAX: usize = 8;

impl Part {
    /// Whether it has a file of its own.
    pub(super) fn is_file(&self) -> bool {
        self.bytes > INLINE_BYTES_MAX
    }

    /// Name of that file.
    pub(super) fn file_name(&self) -> String {
        hex(&self.sha256)
    }
}

/// A record with the size and digest of each part, and where in the body inline ones begin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Written {
    pub(super) record: Record,
    pub(super) parts: Vec<Part>,
    pub(super) inline_at: usize,
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(flatten)]
    record: Record,
    /// Bytes and digest of each part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<(u64, String)>,
}

/// The body of a record whose inline parts are `inline`, in order.
pub(super) fn encode(record: &Record, parts: &[Part], inline: &[Vec<u8>]) -> Vec<u8> {
    let parts = parts.iter().map(|part| (part.bytes, hex(&part.sha256))).collect();
    let head = serde_json::to_vec(&Head { record: record.clone(), parts });
    let head = head.expect("our records have text keys");
    let length = u32::try_from(head.len()).expect("names and numbers of one task are short");
    [&length.to_be_bytes()[..], &head, &inline.concat()].concat()
}

/// What a body says; `Err`: why it is none.
pub(super) fn decode(body: &[u8]) -> Result<Written, String> {
    let (length, rest) = body.split_first_chunk::<4>().ok_or("it is too short")?;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let (head, inline) = rest.split_at_checked(length).ok_or("its facts are cut off")?;
    let Head { record, parts } = serde_json::from_slice(head)
        .map_err(|error| format!("its facts make no sense: {error}"))?;
    let part = |(bytes, sha256): &(u64, String)| {
        parse_hex(sha256).map(|sha256| Part { bytes: *bytes, sha256 })
    };
    let parts: Option<Vec<Part>> = parts.iter().map(part).collect();
    let parts = parts.filter(|parts| parts.len() <= PARTS_MAX).ok_or("its parts make no sense")?;
    let expected: u64 = parts.iter().filter(|part| !part.is_file()).map(|part| part.bytes).sum();
    if expected != inline.len() as u64 {
        return Err(format!("its parts have {} bytes, and {expected} are missing", inline.len()));
    }
    Ok(Written { record, parts, inline_at: 4 + length })
}

/// Hex digits in small letters as the bytes that they are.
fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> KeptId {
        KeptId([7; 16])
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let about = About {
            uid: 7,
            submitted_s: 1,
            rerun: true,
            function: "f\n".into(),
            function_sha256: "00".into(),
            image: "host:".into(),
        };
        let end = End { ended_s: 2, status: Status::OutOfMemory, kind: 20 };
        let small = Part { bytes: 3, sha256: [1; 32] };
        let large = Part { bytes: INLINE_BYTES_MAX + 1, sha256: [2; 32] };
        for record in [
            Record::Submitted { id: id(), about },
            Record::Begun { id: id() },
            Record::Ended { id: id(), end },
            Record::Forgotten { id: id() },
        ] {
            let body = encode(&record, &[small, large, small], &[b"abc".into(), b"def".into()]);
            let written = decode(&body).unwrap();
            assert_eq!(written.record, record);
            assert_eq!(written.parts, [small, large, small]);
            assert_eq!(&body[written.inline_at..], b"abcdef");
        }
    }

    #[test]
    fn what_is_no_record_is_not_taken_for_one() {
        let body = encode(&Record::Begun { id: id() }, &[], &[]);
        for length in 0..body.len() {
            assert!(decode(&body[..length]).is_err(), "{length} bytes");
        }
        assert!(decode(&[body, b"more".to_vec()].concat()).is_err());
        assert!(decode(b"\0\0\0\x02{}").is_err());
    }

    #[test]
    fn ids_are_32_hex_digits_in_small_letters() {
        assert_eq!(KeptId::parse(&id().to_string()), Some(id()));
        for wrong in ["", "07", &"0".repeat(31), &"0".repeat(33), &"G".repeat(32), &"é".repeat(16)]
        {
            assert_eq!(KeptId::parse(wrong), None, "{wrong}");
        }
    }
}

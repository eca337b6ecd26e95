//! The wire's one format: a fixed header, JSON metadata, a payload. Bytes in, values out, no I/O.
//!
//! `docs/protocol.md` is the contract; `tests/protocol/` holds frames that this file and
//! `worker.py` both read and write byte for byte. Deliberately absent: what kinds mean and in which
//! order they are sent ([`crate::Exchange`]).

mod kind;

use std::fmt;

use sha2::{Digest, Sha256};

pub use kind::{Kind, Party};

/// What every frame begins with. The first byte is not text, so text is never taken for a frame.
pub const MAGIC: [u8; 4] = *b"\x89RIC";
/// Lowest version of the protocol that is spoken here.
pub const VERSION_LOWEST: u16 = 1;
/// Highest version of the protocol that is spoken here.
pub const VERSION_HIGHEST: u16 = 1;
/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 76;
/// Most bytes of metadata. It names things; what is long travels as payload.
pub const METADATA_BYTES_MAX: u32 = 64 << 10;
/// Most bytes of a payload. What is larger belongs in files.
pub const PAYLOAD_BYTES_MAX: u64 = 1 << 30;
/// From this size on a payload should travel as a sealed memfd: the kernel then copies it once in
/// and once out, instead of in pieces as small as the socket's buffer (net.core.wmem_default).
pub const DESCRIPTOR_BYTES_MIN: u64 = 1 << 20;

const DESCRIPTOR_FLAG: u8 = 1;

// Where the fields lie. The first 72 bytes keep this layout in every version.
const VERSION_AT: usize = 4;
const KIND_AT: usize = 6;
const FLAGS_AT: usize = 7;
const TASK_AT: usize = 8;
const METADATA_BYTES_AT: usize = 24;
const PAYLOAD_BYTES_AT: usize = 28;
const PAYLOAD_SHA256_AT: usize = 36;
const HEADER_CRC_AT: usize = 68;
const FRAME_CRC_AT: usize = 72;

/// Pins a number of the wire contract at compile time.
macro_rules! pinned {
    ($value:expr, $expected:expr) => {
        const _: () = assert!(
            $value == $expected,
            "a number of the wire contract changed: read docs/protocol.md, \"Changing the \
             protocol\", before you touch it"
        );
    };
}
pinned!(HEADER_BYTES, 76);
pinned!(FRAME_CRC_AT + 4, HEADER_BYTES);
pinned!(u32::from_be_bytes(MAGIC), 0x8952_4943);
pinned!(METADATA_BYTES_MAX, 65_536);
pinned!(PAYLOAD_BYTES_MAX, 1_073_741_824);
pinned!(DESCRIPTOR_BYTES_MIN, 1_048_576);
pinned!(Kind::Hello as u8, 1);
pinned!(Kind::Function as u8, 2);
pinned!(Kind::Call as u8, 3);
pinned!(Kind::Result as u8, 4);
pinned!(Kind::Error as u8, 5);
pinned!(Kind::Declined as u8, 6);
pinned!(Kind::Corrupt as u8, 7);
pinned!(Kind::Need as u8, 8);
pinned!(Kind::Modules as u8, 9);
pinned!(Kind::Ready as u8, 10);
pinned!(Kind::Again as u8, 11);
pinned!(Kind::Child as u8, 12);
pinned!(Kind::Open as u8, 16);
pinned!(Kind::Opened as u8, 17);
pinned!(Kind::Output as u8, 18);
pinned!(Kind::Cancel as u8, 19);
pinned!(Kind::Ended as u8, 20);
pinned!(Kind::Submitted as u8, 21);
pinned!(Kind::Fetch as u8, 22);
pinned!(Kind::Ask as u8, 23);
pinned!(Kind::Answer as u8, 24);

/// Names a task: chosen by its owner, never used twice on one connection, not all zero.
pub type TaskId = [u8; 16];

/// The task id of frames that belong to no task.
pub const NO_TASK: TaskId = [0; 16];

/// A SHA-256 digest.
pub type Sha256Digest = [u8; 32];

/// How a payload travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// Behind the metadata.
    Inline,
    /// In a sealed memfd, passed with the one carrier byte that stands in its place.
    Descriptor,
}

/// A part of a frame that a checksum or digest covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The fixed header.
    Header,
    /// The metadata.
    Metadata,
    /// The payload of [`Kind::Function`].
    Function,
    /// The payload of [`Kind::Call`].
    Arguments,
    /// The payload of [`Kind::Result`].
    Result,
    /// The payload of [`Kind::Error`].
    Error,
    /// The payload of any other kind.
    Payload,
}

impl Part {
    /// What the payload of a frame of this kind is.
    #[must_use]
    pub fn payload_of(kind: Kind) -> Part {
        kind.payload()
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Part::Header => "header",
            Part::Metadata => "metadata",
            Part::Function => "function",
            Part::Arguments => "arguments",
            Part::Result => "result",
            Part::Error => "error",
            Part::Payload => "payload",
        })
    }
}

/// Why bytes are not a frame, or values cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A bit changed on the way. After anything but the header the stream can still be read.
    #[error("{what} of a frame: its checksum says {expected}, its bytes say {got}")]
    Corrupt {
        /// What changed.
        what: Part,
        /// Hex digits of what travelled.
        expected: String,
        /// Hex digits of what was computed.
        got: String,
    },
    /// The sender speaks another protocol, or another version of this one.
    #[error("a frame whose {field} is {got}, which is not known here")]
    Unknown {
        /// The field of the header.
        field: &'static str,
        /// Its value.
        got: u32,
    },
    /// A length passes its maximum.
    #[error("{what} of {bytes} bytes, where at most {bytes_max} may travel")]
    TooLarge {
        /// What is too large.
        what: Part,
        /// Its bytes.
        bytes: u64,
        /// How many it may have.
        bytes_max: u64,
    },
}

/// The fixed header of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Version of the protocol in which the frame is written.
    pub version: u16,
    /// What the frame says.
    pub kind: Kind,
    /// How the payload travels.
    pub carriage: Carriage,
    /// The task it belongs to.
    pub task: TaskId,
    /// Bytes of metadata.
    pub metadata_bytes: u32,
    /// Bytes of payload, wherever it travels.
    pub payload_bytes: u64,
    /// Digest of the payload.
    pub payload_sha256: Sha256Digest,
    /// CRC-32 of the header up to itself, then the metadata.
    frame_crc: u32,
}

impl Header {
    /// Makes the header of a frame; hashes the payload.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`].
    pub fn new(
        kind: Kind,
        task: TaskId,
        carriage: Carriage,
        metadata: &[u8],
        payload: &[u8],
    ) -> Result<Header, FrameError> {
        let mut header = Header {
            // Until the other side's HELLO has come, what it understands if anything.
            version: VERSION_LOWEST,
            kind,
            carriage,
            task,
            metadata_bytes: u32::try_from(metadata.len()).unwrap_or(u32::MAX),
            payload_bytes: payload.len() as u64,
            payload_sha256: Sha256::digest(payload).into(),
            frame_crc: 0,
        };
        header.check_lengths()?;
        header.frame_crc = header.crc_with(metadata);
        Ok(header)
    }

    /// The header of the same payload on its way to another task, with other metadata.
    ///
    /// `metadata` has at most [`METADATA_BYTES_MAX`] bytes; more makes a frame that nobody reads.
    #[must_use]
    pub fn readdressed(&self, task: TaskId, carriage: Carriage, metadata: &[u8]) -> Header {
        let metadata_bytes = u32::try_from(metadata.len()).unwrap_or(u32::MAX);
        let mut header = Header { task, carriage, metadata_bytes, ..self.clone() };
        header.frame_crc = header.crc_with(metadata);
        header
    }

    /// Writes the header as it travels.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..VERSION_AT].copy_from_slice(&MAGIC);
        bytes[VERSION_AT..KIND_AT].copy_from_slice(&self.version.to_be_bytes());
        bytes[KIND_AT] = self.kind as u8;
        bytes[FLAGS_AT] = match self.carriage {
            Carriage::Inline => 0,
            Carriage::Descriptor => DESCRIPTOR_FLAG,
        };
        bytes[TASK_AT..METADATA_BYTES_AT].copy_from_slice(&self.task);
        bytes[METADATA_BYTES_AT..PAYLOAD_BYTES_AT]
            .copy_from_slice(&self.metadata_bytes.to_be_bytes());
        bytes[PAYLOAD_BYTES_AT..PAYLOAD_SHA256_AT]
            .copy_from_slice(&self.payload_bytes.to_be_bytes());
        bytes[PAYLOAD_SHA256_AT..HEADER_CRC_AT].copy_from_slice(&self.payload_sha256);
        let header_crc = crc32fast::hash(&bytes[..HEADER_CRC_AT]);
        bytes[HEADER_CRC_AT..FRAME_CRC_AT].copy_from_slice(&header_crc.to_be_bytes());
        bytes[FRAME_CRC_AT..].copy_from_slice(&self.frame_crc.to_be_bytes());
        bytes
    }

    /// Reads a header. Its lengths are within their maxima; nobody believes them before that.
    ///
    /// # Errors
    /// [`FrameError::Corrupt`] first of all: a changed bit is never taken for anything else.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let expected = u32::from_be_bytes(field(bytes, HEADER_CRC_AT));
        check_crc(Part::Header, expected, crc32fast::hash(&bytes[..HEADER_CRC_AT]))?;
        let magic: [u8; 4] = field(bytes, 0);
        if magic != MAGIC {
            return Err(FrameError::Unknown { field: "magic", got: u32::from_be_bytes(magic) });
        }
        let version = u16::from_be_bytes(field(bytes, VERSION_AT));
        if !(VERSION_LOWEST..=VERSION_HIGHEST).contains(&version) {
            return Err(FrameError::Unknown { field: "version", got: version.into() });
        }
        let kind = Kind::from_wire(bytes[KIND_AT])
            .ok_or(FrameError::Unknown { field: "kind", got: bytes[KIND_AT].into() })?;
        let carriage = match bytes[FLAGS_AT] {
            0 => Carriage::Inline,
            DESCRIPTOR_FLAG => Carriage::Descriptor,
            flags => return Err(FrameError::Unknown { field: "flags", got: flags.into() }),
        };
        let header = Header {
            version,
            kind,
            carriage,
            task: field(bytes, TASK_AT),
            metadata_bytes: u32::from_be_bytes(field(bytes, METADATA_BYTES_AT)),
            payload_bytes: u64::from_be_bytes(field(bytes, PAYLOAD_BYTES_AT)),
            payload_sha256: field(bytes, PAYLOAD_SHA256_AT),
            frame_crc: u32::from_be_bytes(field(bytes, FRAME_CRC_AT)),
        };
        header.check_lengths()?;
        Ok(header)
    }

    /// Checks metadata that came with this header.
    ///
    /// # Errors
    /// [`FrameError::Corrupt`].
    pub fn check_metadata(&self, metadata: &[u8]) -> Result<(), FrameError> {
        check_crc(Part::Metadata, self.frame_crc, self.crc_with(metadata))
    }

    /// Checks the digest that was computed of the payload that came with this header.
    ///
    /// # Errors
    /// [`FrameError::Corrupt`].
    pub fn check_payload(&self, got: Sha256Digest) -> Result<(), FrameError> {
        if got == self.payload_sha256 {
            return Ok(());
        }
        let what = Part::payload_of(self.kind);
        Err(FrameError::Corrupt { what, expected: hex(&self.payload_sha256), got: hex(&got) })
    }

    fn check_lengths(&self) -> Result<(), FrameError> {
        let metadata = (Part::Metadata, self.metadata_bytes.into(), METADATA_BYTES_MAX.into());
        let payload = (Part::payload_of(self.kind), self.payload_bytes, PAYLOAD_BYTES_MAX);
        for (what, bytes, bytes_max) in [metadata, payload] {
            if bytes > bytes_max {
                return Err(FrameError::TooLarge { what, bytes, bytes_max });
            }
        }
        Ok(())
    }

    fn crc_with(&self, metadata: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.encode()[..FRAME_CRC_AT]);
        crc.update(metadata);
        crc.finalize()
    }
}

/// Writes a whole frame whose payload travels inline.
///
/// # Errors
/// [`FrameError::TooLarge`].
pub fn encode_frame(
    kind: Kind,
    task: TaskId,
    metadata: &[u8],
    payload: &[u8],
) -> Result<Vec<u8>, FrameError> {
    let header = Header::new(kind, task, Carriage::Inline, metadata, payload)?;
    Ok([&header.encode(), metadata, payload].concat())
}

/// Writes bytes as lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn check_crc(what: Part, expected: u32, got: u32) -> Result<(), FrameError> {
    if expected == got {
        return Ok(());
    }
    let (expected, got) = (format!("{expected:08x}"), format!("{got:08x}"));
    Err(FrameError::Corrupt { what, expected, got })
}

/// Copies the field that begins at `at`; its length is the type's.
fn field<const BYTES: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; BYTES] {
    let mut field = [0; BYTES];
    field.copy_from_slice(&header[at..at + BYTES]);
    field
}

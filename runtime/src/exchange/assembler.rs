//! Puts a worker's bytes together into verified frames. No I/O; memory grows only with what came.

use sha2::{Digest, Sha256};

use crate::frame::{Carriage, FrameError, HEADER_BYTES, Header, Kind, Part};

/// Most bytes of an exception's text. `worker.py` cuts it to less than that.
pub const ERROR_BYTES_MAX: u64 = 1 << 20;

/// A frame all of whose checksums and digests hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The header.
    pub header: Header,
    /// The metadata, still JSON.
    pub metadata: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// What has to come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Up to this many bytes, at least 1. A reader must not take more: with the byte behind them
    /// may come a descriptor, and `read(2)` would drop it.
    Bytes(usize),
    /// The carrier byte and its descriptor, whose content goes to [`Assembler::push_payload`].
    Descriptor {
        /// Bytes that it must hold.
        bytes: u64,
    },
}

/// Reads what a worker sends, whatever that is.
///
/// After [`FrameError::Corrupt`] of anything but a header it stands at the next frame's beginning;
/// after any other error nobody knows where that is.
#[derive(Debug)]
pub struct Assembler {
    result_bytes_max: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Header(Vec<u8>),
    Metadata {
        header: Header,
        bytes: Vec<u8>,
    },
    Payload {
        header: Header,
        /// Wrong metadata is reported once its frame is over.
        metadata: Result<Vec<u8>, FrameError>,
        bytes: Vec<u8>,
        sha256: Sha256,
    },
}

impl Assembler {
    /// Starts at the beginning of a frame.
    #[must_use]
    pub fn new(result_bytes_max: u64) -> Assembler {
        Assembler { result_bytes_max, stage: Stage::Header(Vec::new()) }
    }

    /// Sets the bound of the results to come.
    pub fn bound_results(&mut self, result_bytes_max: u64) {
        self.result_bytes_max = result_bytes_max;
    }

    /// Says what has to come next.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        match &self.stage {
            Stage::Header(bytes) => Wanted::Bytes(HEADER_BYTES - bytes.len()),
            Stage::Metadata { header, bytes } => {
                Wanted::Bytes(missing(header.metadata_bytes.into(), bytes))
            }
            Stage::Payload { header, bytes, .. } => match header.carriage {
                Carriage::Inline => Wanted::Bytes(missing(header.payload_bytes, bytes)),
                Carriage::Descriptor => Wanted::Descriptor { bytes: header.payload_bytes },
            },
        }
    }

    /// Takes bytes, at most as many as are wanted, and returns a frame if it is complete.
    ///
    /// # Errors
    /// Every [`FrameError`]; the type says how to go on.
    pub fn push(&mut self, more: &[u8]) -> Result<Option<Received>, FrameError> {
        match &mut self.stage {
            Stage::Header(bytes) | Stage::Metadata { bytes, .. } => bytes.extend_from_slice(more),
            Stage::Payload { bytes, sha256, .. } => {
                sha256.update(more);
                bytes.extend_from_slice(more);
            }
        }
        self.settle()
    }

    /// Takes the content of a descriptor, which has exactly as many bytes as are wanted.
    ///
    /// # Errors
    /// [`FrameError::Corrupt`].
    pub fn push_payload(&mut self, payload: Vec<u8>) -> Result<Option<Received>, FrameError> {
        if let Stage::Payload { bytes, sha256, .. } = &mut self.stage {
            sha256.update(&payload);
            *bytes = payload;
        }
        self.finish()
    }

    /// Goes from one complete part to the next; parts of no bytes are complete at once.
    fn settle(&mut self) -> Result<Option<Received>, FrameError> {
        loop {
            match &mut self.stage {
                Stage::Header(bytes) => {
                    let Ok(bytes) = <&[u8; HEADER_BYTES]>::try_from(bytes.as_slice()) else {
                        return Ok(None);
                    };
                    let header = Header::decode(bytes)?;
                    self.check_bound(&header)?;
                    self.stage = Stage::Metadata { header, bytes: Vec::new() };
                }
                Stage::Metadata { header, bytes } => {
                    if missing(header.metadata_bytes.into(), bytes) > 0 {
                        return Ok(None);
                    }
                    let bytes = std::mem::take(bytes);
                    let metadata = header.check_metadata(&bytes).map(|()| bytes);
                    let (header, bytes, sha256) = (header.clone(), Vec::new(), Sha256::new());
                    self.stage = Stage::Payload { header, metadata, bytes, sha256 };
                }
                Stage::Payload { header, bytes, .. } => {
                    let inline = header.carriage == Carriage::Inline;
                    if !inline || missing(header.payload_bytes, bytes) > 0 {
                        return Ok(None);
                    }
                    return self.finish();
                }
            }
        }
    }

    fn finish(&mut self) -> Result<Option<Received>, FrameError> {
        match std::mem::replace(&mut self.stage, Stage::Header(Vec::new())) {
            Stage::Payload { header, metadata, bytes, sha256 } => {
                let metadata = metadata?;
                header.check_payload(sha256.finalize().into())?;
                Ok(Some(Received { header, metadata, payload: bytes }))
            }
            unfinished @ (Stage::Header(_) | Stage::Metadata { .. }) => {
                self.stage = unfinished;
                Ok(None)
            }
        }
    }

    /// Refuses a payload that is longer than such a frame may bring, before a byte of it is read.
    fn check_bound(&self, header: &Header) -> Result<(), FrameError> {
        let bytes_max = if header.kind == Kind::Result {
            self.result_bytes_max
        } else if header.kind == Kind::Error {
            ERROR_BYTES_MAX
        } else {
            // No other kind of a worker's has a payload; one that only others send is found out
            // when the frame is read.
            0
        };
        if header.payload_bytes > bytes_max {
            let what = Part::payload_of(header.kind);
            return Err(FrameError::TooLarge { what, bytes: header.payload_bytes, bytes_max });
        }
        Ok(())
    }
}

fn missing(bytes: u64, have: &[u8]) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(have.len())
}

//! What waits to be written to a worker: bytes, and descriptors at their places between them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};

use super::ExchangeError;
use super::ending::io_error;
use super::sealed::seal;
use crate::frame::{Carriage, DESCRIPTOR_BYTES_MIN, Header, Kind, Sha256Digest, TaskId};

/// Stands in the stream where a payload would, and carries its descriptor.
const CARRIER: [u8; 1] = [0];

/// One frame, ready to be queued as often as the worker needs it.
#[derive(Debug)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    sealed: Option<OwnedFd>,
    /// Digest of its payload.
    pub(super) payload_sha256: Sha256Digest,
}

/// Encodes a frame; a large payload goes into sealed memory at once.
pub(super) fn encode(
    kind: Kind,
    task: TaskId,
    metadata: &[u8],
    payload: &[u8],
) -> Result<Encoded, ExchangeError> {
    let large = payload.len() as u64 >= DESCRIPTOR_BYTES_MIN;
    let carriage = if large { Carriage::Descriptor } else { Carriage::Inline };
    let header = Header::new(kind, task, carriage, metadata, payload)?;
    let (inline, sealed) = match carriage {
        Carriage::Inline => (payload, None),
        Carriage::Descriptor => {
            let sealed = seal(payload).map_err(io_error("seal a payload in memory"))?;
            (&[][..], Some(sealed))
        }
    };
    let bytes = [&header.encode(), metadata, inline].concat();
    Ok(Encoded { bytes, sealed, payload_sha256: header.payload_sha256 })
}

/// Pieces in the order in which they are written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<Piece>,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    sent: usize,
    /// Sent with a carrier byte once the bytes are out.
    sealed: Option<OwnedFd>,
}

impl Outgoing {
    /// Appends a frame. Frames without a descriptor between them are written in one call.
    pub(super) fn push(&mut self, frame: &Encoded) -> Result<(), ExchangeError> {
        let sealed = frame.sealed.as_ref().map(OwnedFd::try_clone).transpose();
        let sealed = sealed.map_err(io_error("duplicate the descriptor of a payload"))?;
        match self.pieces.back_mut().filter(|piece| piece.sealed.is_none()) {
            Some(piece) => {
                piece.bytes.extend_from_slice(&frame.bytes);
                piece.sealed = sealed;
            }
            None => {
                self.pieces.push_back(Piece { bytes: frame.bytes.clone(), sent: 0, sealed });
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Writes what the socket takes without waiting.
    ///
    /// A worker that went away is no error here: what it said before is still to be read, and
    /// then comes the end of the stream.
    pub(super) fn send(&mut self, socket: impl AsFd) -> Result<(), ExchangeError> {
        while let Some(piece) = self.pieces.front_mut() {
            match piece.send(&socket) {
                Ok(true) => {
                    self.pieces.pop_front();
                }
                Ok(false) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.pieces.clear();
                }
                Err(errno) => {
                    return Err(io_error("send(2) to the worker")(io::Error::from(errno)));
                }
            }
        }
        Ok(())
    }
}

impl Piece {
    /// Makes one system call, and says whether this piece is out.
    fn send(&mut self, socket: impl AsFd) -> Result<bool, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if self.sent < self.bytes.len() {
            match send(socket, &self.bytes[self.sent..], flags) {
                Ok(sent) => self.sent += sent,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            return Ok(self.sent == self.bytes.len() && self.sealed.is_none());
        }
        if let Some(sealed) = &self.sealed {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = [sealed.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            match sendmsg(socket, &[IoSlice::new(&CARRIER)], &mut control, flags) {
                Ok(_) => {}
                Err(Errno::INTR) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }
}

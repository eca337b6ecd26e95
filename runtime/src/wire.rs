//! Frames on their way through: read without looking at payloads, readdressed, written in batches.
//!
//! `docs/protocol.md` is the contract. What is checked here is what a hop in between checks: both
//! checksums and every length. Payloads are verified by who uses them. Memory grows with what came,
//! never on the word of a length: a large payload goes into a memory file as it arrives.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::{
    Carriage, DESCRIPTOR_BYTES_MIN, FrameError, HEADER_BYTES, Header, Kind, TaskId, memory_file,
    seal_memory,
};

/// Bytes read at once: many small frames of a busy client.
const READ_BYTES: usize = 128 << 10;
/// The same for a stream that has never had that much at once, of which there may be thousands.
const READ_BYTES_MIN: usize = 8 << 10;
/// Descriptors that may wait for the frame that they belong to: those of one OPEN.
const DESCRIPTORS_MAX: usize = 64;
/// Frames up to this size are put together in one piece of the queue.
const PIECE_BYTES: usize = 256 << 10;

/// Why a peer's stream cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream ended.
    #[error("the stream ended")]
    Ended,
    /// The kernel would not read or write.
    #[error("cannot use the stream")]
    Io(#[source] io::Error),
    /// What came is no frame, or one with a wrong checksum or length.
    #[error("it sent what is no frame")]
    Frame(#[source] FrameError),
    /// What came is a frame that nobody may send here.
    #[error("it {0}")]
    Breach(&'static str),
}

/// A frame whose checksums hold.
#[derive(Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its metadata, unread.
    pub metadata: Vec<u8>,
    /// Its payload, unverified.
    pub payload: Payload,
    /// Those that came with it beside its payload's.
    pub descriptors: Vec<OwnedFd>,
    /// Its metadata is not what was sent: whose frame it was is known, what it said is not.
    pub fault: Option<FrameError>,
}

/// A payload, unread.
#[derive(Debug)]
pub enum Payload {
    /// In this process.
    Bytes(Vec<u8>),
    /// In a memory file; that it is sealed is for who reads it to check.
    Memory(OwnedFd),
}

impl Payload {
    fn carriage(&self) -> Carriage {
        match self {
            Payload::Bytes(_) => Carriage::Inline,
            Payload::Memory(_) => Carriage::Descriptor,
        }
    }

    /// Another hold on the same payload.
    ///
    /// # Errors
    /// What the kernel says: no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Payload> {
        Ok(match self {
            Payload::Bytes(bytes) => Payload::Bytes(bytes.clone()),
            Payload::Memory(memory) => Payload::Memory(memory.try_clone()?),
        })
    }
}

/// What a reader asks of whoever it reads for, once a header or metadata is there.
pub trait Terms {
    /// Most bytes of payload of a frame with this header.
    ///
    /// # Errors
    /// [`WireError::Breach`] if nobody may send it here.
    fn payload_bytes_max(&self, header: &Header) -> Result<u64, WireError>;

    /// How many descriptors follow this metadata, beside the payload's own.
    ///
    /// # Errors
    /// [`WireError::Breach`] if they are too many.
    fn descriptors(&self, header: &Header, metadata: &[u8]) -> Result<usize, WireError>;
}

/// Reads one peer's frames.
#[derive(Debug, Default)]
pub struct Reader {
    /// What came and is not part of a frame yet is from `at` to `end`.
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    /// Whether there was once more to read than a small buffer holds.
    is_large: bool,
    descriptors: VecDeque<OwnedFd>,
    head: Option<Head>,
    body: Option<Body>,
}

/// A frame of which the payload is missing.
#[derive(Debug)]
struct Head {
    header: Header,
    metadata: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// Carrier bytes that have not come.
    carriers: usize,
    fault: Option<FrameError>,
}

/// A payload of which a part is missing.
#[derive(Debug)]
struct Body {
    memory: File,
    missing: u64,
}

impl Reader {
    /// Reads what is there, up to a bound. `false`: nothing was.
    ///
    /// # Errors
    /// [`WireError`]; the stream cannot be used any more.
    pub fn fill(&mut self, stream: BorrowedFd<'_>) -> Result<bool, WireError> {
        self.buffer.copy_within(self.at..self.end, 0);
        (self.at, self.end) = (0, self.end - self.at);
        // A frame that goes into no memory file is below the sum of two bounds.
        let room = if self.is_large { READ_BYTES } else { READ_BYTES_MIN };
        if self.end + room > self.buffer.len() {
            self.buffer.resize(self.end + 2 * room, 0);
        }
        match receive(stream, &mut self.buffer[self.end..], &mut self.descriptors) {
            Ok(0) => Err(WireError::Ended),
            Ok(_) if self.descriptors.len() > DESCRIPTORS_MAX => {
                Err(WireError::Breach("sent descriptors that belong to no frame"))
            }
            Ok(bytes) => {
                self.end += bytes;
                self.is_large |= self.end == self.buffer.len();
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::CONNRESET) => Err(WireError::Ended),
            Err(errno) => Err(WireError::Io(errno.into())),
        }
    }

    /// Takes the next whole frame of what was read.
    ///
    /// # Errors
    /// [`WireError`]; the stream cannot be used any more.
    pub fn next(&mut self, terms: &impl Terms) -> Result<Option<Frame>, WireError> {
        if self.head.is_none() {
            self.head = self.begin(terms)?;
        }
        let Some(head) = &mut self.head else { return Ok(None) };
        while head.carriers > 0 {
            if self.at == self.end {
                return Ok(None);
            }
            self.at += 1;
            head.carriers -= 1;
            let missing = WireError::Breach("promised a descriptor and passed none");
            head.descriptors.push(self.descriptors.pop_front().ok_or(missing)?);
        }
        let payload = match head.header.carriage {
            Carriage::Descriptor => head.descriptors.pop().map(Payload::Memory),
            Carriage::Inline => self.inline()?,
        };
        let Some(payload) = payload else { return Ok(None) };
        let Head { header, metadata, descriptors, fault, .. } =
            self.head.take().expect("it was there a moment ago");
        Ok(Some(Frame { header, metadata, payload, descriptors, fault }))
    }

    fn begin(&mut self, terms: &impl Terms) -> Result<Option<Head>, WireError> {
        let rest = &self.buffer[self.at..self.end];
        let Some(bytes) = rest.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::decode(bytes).map_err(WireError::Frame)?;
        let what = crate::Part::payload_of(header.kind);
        let (bytes, bytes_max) = (header.payload_bytes, terms.payload_bytes_max(&header)?);
        if bytes > bytes_max {
            return Err(WireError::Frame(FrameError::TooLarge { what, bytes, bytes_max }));
        }
        let end = HEADER_BYTES + usize::try_from(header.metadata_bytes).unwrap_or(usize::MAX);
        let Some(metadata) = rest.get(HEADER_BYTES..end) else { return Ok(None) };
        let fault = header.check_metadata(metadata).err();
        let beside = match fault {
            None => terms.descriptors(&header, metadata)?,
            Some(_) => 0,
        };
        let carriers = beside + usize::from(header.carriage == Carriage::Descriptor);
        let metadata = metadata.to_vec();
        self.at += end;
        Ok(Some(Head { header, metadata, descriptors: Vec::new(), carriers, fault }))
    }

    /// An inline payload, if all of it is there. A large one moves into a memory file meanwhile.
    fn inline(&mut self) -> Result<Option<Payload>, WireError> {
        let header = &self.head.as_ref().expect("`next` has found one").header;
        let there = &self.buffer[self.at..self.end];
        if header.payload_bytes < DESCRIPTOR_BYTES_MIN {
            let bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
            let Some(payload) = there.get(..bytes) else { return Ok(None) };
            let payload = payload.to_vec();
            self.at += bytes;
            return Ok(Some(Payload::Bytes(payload)));
        }
        let mut body = match self.body.take() {
            Some(body) => body,
            None => Body {
                memory: memory_file().map_err(WireError::Io)?,
                missing: header.payload_bytes,
            },
        };
        let taken = there.len().min(usize::try_from(body.missing).unwrap_or(usize::MAX));
        body.memory.write_all(&there[..taken]).map_err(WireError::Io)?;
        self.at += taken;
        body.missing -= taken as u64;
        if body.missing > 0 {
            self.body = Some(body);
            return Ok(None);
        }
        let memory = seal_memory(body.memory).map_err(WireError::Io)?;
        Ok(Some(Payload::Memory(memory)))
    }
}

/// As `recvmsg(2)`. A stream socket ends a message at the byte that brings descriptors
/// (`unix_stream_read_generic` of Linux 5.12), so they come in the order of their carriers.
fn receive(
    stream: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut beside, flags)?;
    for part in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            // Those beyond the first of a carrier are closed.
            descriptors.extend(rights.take(1));
        }
    }
    Ok(message.bytes)
}

/// What waits to be written to one peer.
#[derive(Debug, Default)]
pub struct Writer {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are written.
    written: usize,
    bytes: usize,
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Carrier(OwnedFd),
}

impl Writer {
    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds a frame that was made here.
    pub fn push(&mut self, kind: Kind, task: TaskId, metadata: &[u8], payload: &[u8]) {
        let header = Header::new(kind, task, Carriage::Inline, metadata, payload);
        // What is made here is bounded where it is made.
        let Ok(header) = header else { return };
        self.push_bytes(&[&header.encode(), metadata, payload]);
    }

    /// Adds a frame that was made here and has no payload, with these descriptors beside it.
    pub fn push_with(
        &mut self,
        kind: Kind,
        task: TaskId,
        metadata: &[u8],
        descriptors: Vec<OwnedFd>,
    ) {
        self.push(kind, task, metadata, &[]);
        self.bytes += descriptors.len();
        self.pieces.extend(descriptors.into_iter().map(Piece::Carrier));
    }

    /// Adds a frame that is passed on, to `task` and with this metadata.
    pub fn forward(&mut self, header: &Header, task: TaskId, metadata: &[u8], payload: Payload) {
        let header = header.readdressed(task, payload.carriage(), metadata);
        match payload {
            Payload::Bytes(payload) => self.push_bytes(&[&header.encode(), metadata, &payload]),
            Payload::Memory(memory) => {
                self.push_bytes(&[&header.encode(), metadata]);
                self.pieces.push_back(Piece::Carrier(memory));
                self.bytes += 1;
            }
        }
    }

    fn push_bytes(&mut self, parts: &[&[u8]]) {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        self.bytes += bytes;
        let last = match self.pieces.back_mut() {
            Some(Piece::Bytes(last)) if last.len() < PIECE_BYTES => last,
            _ => {
                self.pieces.push_back(Piece::Bytes(Vec::with_capacity(bytes)));
                let Some(Piece::Bytes(last)) = self.pieces.back_mut() else { return };
                last
            }
        };
        parts.iter().for_each(|part| last.extend_from_slice(part));
    }

    /// Writes what can be written without waiting. `true`: that was all.
    ///
    /// # Errors
    /// [`WireError`]; the stream cannot be used any more.
    pub fn flush(&mut self, stream: BorrowedFd<'_>) -> Result<bool, WireError> {
        while let Some(piece) = self.pieces.front() {
            let sent = match piece {
                Piece::Bytes(bytes) => send(stream, &bytes[self.written..], None),
                Piece::Carrier(memory) => send(stream, &[0], Some(memory.as_fd())),
            };
            match sent {
                Ok(sent) => {
                    self.written += sent;
                    self.bytes -= sent;
                    let whole = match piece {
                        Piece::Bytes(bytes) => bytes.len(),
                        Piece::Carrier(_) => 1,
                    };
                    if self.written == whole {
                        self.pieces.pop_front();
                        self.written = 0;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(WireError::Ended),
                Err(errno) => return Err(WireError::Io(errno.into())),
            }
        }
        Ok(true)
    }
}

fn send(
    stream: BorrowedFd<'_>,
    bytes: &[u8],
    beside: Option<BorrowedFd<'_>>,
) -> Result<usize, Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let Some(descriptor) = beside else { return rustix::net::send(stream, bytes, flags) };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, flags)
}

//! The owner's side of one worker: what it is sent, what it may answer. Never waits.
//!
//! Driven by the loop that also watches the deadline, the task's output and its processes: whenever
//! [`Exchange::fd`] is ready, that loop calls [`Exchange::advance`]. The worker is inside the
//! sandbox and may send anything. Whatever that is, no more is read than the bounds allow, no
//! result is given to another task, and nothing of it is evaluated: a pickle stays bytes.

mod assembler;
mod ending;
mod letters;
mod outgoing;
mod replies;
mod sealed;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recv, recvmsg};
use sha2::{Digest, Sha256};

pub use assembler::{Assembler, ERROR_BYTES_MAX, Received, Wanted};
pub use ending::{Answer, ExchangeError, Side};
pub use letters::{Declined, Interpreter, Raised, Reason};
pub(crate) use sealed::read_sealed;
pub use sealed::{copy_sealed, digest_of_sealed, memory_file, seal, seal_memory};

use crate::frame::{Kind, NO_TASK, Part, Party, Sha256Digest, TaskId, hex};
use crate::{Arguments, Bounds, Call, PayloadDigests};
use ending::{broke, io_error};
pub(crate) use letters::Submission;
use letters::{CallMetadata, FunctionMetadata, JsonArguments, NeedMetadata, OwnerHello};
use outgoing::{Encoded, Outgoing, encode};
use replies::{from_json, read_corrupt, read_hello, read_result};

/// `worker.py`: PID 1 starts it with the connection as descriptor [`WORKER_FD`].
pub const WORKER: &str = include_str!("../worker.py");
/// `worker_rare.py`, which `worker.py` looks for in its own directory.
pub const WORKER_RARE: &str = include_str!("../worker_rare.py");
/// `worker_warm.py`, which it looks for there too.
pub const WORKER_WARM: &str = include_str!("../worker_warm.py");
/// The descriptor on which the worker expects the connection.
pub const WORKER_FD: i32 = 3;
/// What the interpreter is started with, before the path of `worker.py`.
///
/// `-s`: no packages from below `HOME`, which is a directory that earlier tasks could write to.
/// Everything else an image says about its Python (`PYTHONPATH`, `site-packages`, `.pth` files)
/// holds in the sandbox as it does outside, in the interpreter and in those that it starts.
pub const WORKER_FLAGS: [&str; 1] = ["-s"];

/// How many functions the owner believes to be with a worker before it starts to count anew. The
/// worker keeps as many; where the two disagree it says NEED.
const KNOWN_FUNCTIONS_MAX: usize = 256;
/// Bytes read at once: a socket's default buffer holds about three times that.
const READ_BYTES: usize = 64 << 10;

/// One worker's connection, seen from its owner; one call at a time.
#[derive(Debug)]
pub struct Exchange {
    stream: UnixStream,
    outgoing: Outgoing,
    assembler: Assembler,
    buffer: Vec<u8>,
    state: State,
    interpreter: Option<Interpreter>,
    /// Functions that the worker was sent, by digest.
    known: BTreeSet<Sha256Digest>,
    digests: PayloadDigests,
}

#[derive(Debug)]
enum State {
    Waiting(Pending),
    /// Stands between two frames, with nothing owed.
    Idle,
    Broken,
}

/// The call that waits for its answer.
#[derive(Debug)]
struct Pending {
    task: TaskId,
    function: Encoded,
    call: Encoded,
    accepts_pickle: bool,
    needed_before: bool,
}

impl Exchange {
    /// Prepares the first call, whose modules to preload are those of all calls. Nothing is written
    /// before [`Exchange::advance`], and nothing has to come from the worker before all of it is.
    ///
    /// # Errors
    /// [`ExchangeError::TooLarge`] for what may not travel, [`ExchangeError::Io`].
    pub fn new(
        stream: UnixStream,
        call: &Call,
        task: TaskId,
        bounds: &Bounds,
    ) -> Result<Exchange, ExchangeError> {
        let mut exchange = Exchange {
            stream,
            outgoing: Outgoing::default(),
            assembler: Assembler::new(bounds.result_bytes_max),
            buffer: Vec::new(),
            state: State::Idle,
            interpreter: None,
            known: BTreeSet::new(),
            digests: PayloadDigests::default(),
        };
        let hello = encode(Kind::Hello, NO_TASK, &to_json(&OwnerHello::new(&call.preload))?, &[])?;
        exchange.outgoing.push(&hello)?;
        exchange.begin(call, task, bounds)?;
        Ok(exchange)
    }

    /// Prepares the next call of a worker that has answered the one before.
    ///
    /// # Errors
    /// As [`Exchange::new`]; [`ExchangeError::Protocol`] if it is not [`Exchange::is_idle`].
    pub fn begin(
        &mut self,
        call: &Call,
        task: TaskId,
        bounds: &Bounds,
    ) -> Result<(), ExchangeError> {
        if !self.is_idle() {
            return Err(broke("has not answered the call before"));
        }
        let letter = Letter::new(call, bounds.result_bytes_max, None, None)?;
        let function = encode(Kind::Function, task, &letter.function_metadata, &call.source)?;
        let function_sha256 = hex(&function.payload_sha256);
        let accepts_pickle = matches!(call.arguments, Arguments::Pickle { .. });
        let call = encode(Kind::Call, task, &letter.call_metadata, &letter.arguments)?;
        self.digests = PayloadDigests {
            function_sha256: Some(function_sha256),
            arguments_sha256: Some(hex(&call.payload_sha256)),
            result_sha256: None,
        };
        if self.known.len() >= KNOWN_FUNCTIONS_MAX {
            self.known.clear();
        }
        if self.known.insert(function.payload_sha256) {
            self.outgoing.push(&function)?;
        }
        self.outgoing.push(&call)?;
        self.assembler.bound_results(bounds.result_bytes_max);
        let needed_before = false;
        self.state =
            State::Waiting(Pending { task, function, call, accepts_pickle, needed_before });
        Ok(())
    }

    /// The descriptor to poll: always for reading, for writing if [`Exchange::wants_write`].
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether something waits to be written.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the worker has answered and can take the next call.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Digests of the present or last call.
    #[must_use]
    pub fn digests(&self) -> &PayloadDigests {
        &self.digests
    }

    /// What the worker said about its Python, once it has.
    #[must_use]
    pub fn interpreter(&self) -> Option<&Interpreter> {
        self.interpreter.as_ref()
    }

    /// Writes and reads what it can without waiting, and returns the answer when it is there.
    ///
    /// # Errors
    /// Every [`ExchangeError`]. After one the call is over; [`Exchange::is_idle`] says whether the
    /// connection is too.
    pub fn advance(&mut self) -> Result<Option<Answer>, ExchangeError> {
        let advanced = self.advance_unguarded();
        match &advanced {
            Ok(None) => {}
            Ok(Some(_)) => self.state = State::Idle,
            // The frame is over and the next one begins where its header said. A greeting was not
            // the answer though, which is still to come and belongs to nobody.
            Err(ExchangeError::Corrupt { what, .. })
                if *what != Part::Header && self.interpreter.is_some() =>
            {
                self.state = State::Idle;
            }
            Err(_) => self.state = State::Broken,
        }
        advanced
    }

    fn advance_unguarded(&mut self) -> Result<Option<Answer>, ExchangeError> {
        loop {
            self.outgoing.send(&self.stream)?;
            let State::Waiting(_) = self.state else { return Ok(None) };
            let Some(received) = self.receive()? else { return Ok(None) };
            if let Some(answer) = self.read_reply(received)? {
                return Ok(Some(answer));
            }
        }
    }

    /// Reads until a frame is complete or the socket is empty.
    fn receive(&mut self) -> Result<Option<Received>, ExchangeError> {
        self.buffer.resize(READ_BYTES, 0);
        loop {
            let received = match self.assembler.wanted() {
                Wanted::Bytes(most) => {
                    let room = &mut self.buffer[..most.min(READ_BYTES)];
                    match recv(&self.stream, &mut *room, RecvFlags::DONTWAIT) {
                        Ok((0, _)) => return Err(ExchangeError::Closed),
                        Ok((read, _)) => self.assembler.push(&self.buffer[..read])?,
                        Err(errno) if again(errno)? => return Ok(None),
                        Err(_) => continue,
                    }
                }
                Wanted::Descriptor { bytes } => match receive_descriptor(&self.stream) {
                    Ok(memory) => {
                        let payload = sealed::read_sealed(memory?, bytes).map_err(broke)?;
                        self.assembler.push_payload(payload)?
                    }
                    Err(errno) if again(errno)? => return Ok(None),
                    Err(_) => continue,
                },
            };
            if received.is_some() {
                return Ok(received);
            }
        }
    }

    /// Reads one frame of a worker; `None` if it answers nothing.
    fn read_reply(&mut self, received: Received) -> Result<Option<Answer>, ExchangeError> {
        let State::Waiting(pending) = &mut self.state else { return Ok(None) };
        let Received { header, metadata, payload } = received;
        if !header.kind.is_sent_by(Party::Worker) {
            return Err(broke("sent a frame that only its owner may send"));
        }
        if header.kind == Kind::Hello {
            if self.interpreter.is_some() {
                return Err(broke("greeted twice"));
            }
            self.interpreter = Some(read_hello(&metadata)?);
            return Ok(None);
        }
        if header.kind == Kind::Corrupt {
            return Err(read_corrupt(&metadata, header.task, pending.task));
        }
        if self.interpreter.is_none() {
            return Err(broke("answered before it greeted"));
        }
        if header.task != pending.task {
            return Err(broke("answered for another task"));
        }
        match header.kind {
            Kind::Result => {
                self.digests.result_sha256 = Some(hex(&header.payload_sha256));
                read_result(&metadata, payload, pending.accepts_pickle).map(Some)
            }
            Kind::Error => Ok(Some(Answer::Raised(from_json(&payload)?))),
            Kind::Declined => Ok(Some(Answer::Declined(from_json(&metadata)?))),
            Kind::Need => {
                let need: NeedMetadata = from_json(&metadata)?;
                let ours = hex(&pending.function.payload_sha256);
                if need.function_sha256 != ours || pending.needed_before {
                    return Err(broke("asked for a function that it was just sent"));
                }
                pending.needed_before = true;
                self.outgoing.push(&pending.function)?;
                self.outgoing.push(&pending.call)?;
                Ok(None)
            }
            Kind::Hello
            | Kind::Corrupt
            | Kind::Ready
            | Kind::Child
            | Kind::Function
            | Kind::Call
            | Kind::Modules
            | Kind::Again
            | Kind::Open
            | Kind::Opened
            | Kind::Output
            | Kind::Cancel
            | Kind::Ended
            | Kind::Submitted
            | Kind::Fetch
            | Kind::Ask
            | Kind::Answer => Err(broke("sent a frame that belongs to no call")),
        }
    }
}

/// A call as it travels, to a worker or to a daemon.
#[derive(Debug)]
pub(crate) struct Letter<'a> {
    /// Of FUNCTION, whose payload is the source.
    pub(crate) function_metadata: Vec<u8>,
    /// Of CALL.
    pub(crate) call_metadata: Vec<u8>,
    /// The payload of CALL.
    pub(crate) arguments: Cow<'a, [u8]>,
}

impl<'a> Letter<'a> {
    /// `pool` is where a daemon shall make the call.
    pub(crate) fn new(
        call: &'a Call,
        result_bytes_max: u64,
        pool: Option<u64>,
        submitted: Option<Submission>,
    ) -> Result<Letter<'a>, ExchangeError> {
        let function_sha256 = hex(&Sha256::digest(&call.source));
        let metadata = CallMetadata::new(call, function_sha256, result_bytes_max, pool, submitted);
        Ok(Letter {
            function_metadata: to_json(&FunctionMetadata { file_name: &call.file_name })?,
            call_metadata: to_json(&metadata)?,
            arguments: match &call.arguments {
                Arguments::Json { positional, named } => {
                    Cow::Owned(to_json(&JsonArguments { positional, named })?)
                }
                Arguments::Pickle { bytes, .. } => Cow::Borrowed(bytes),
            },
        })
    }
}

/// What a worker's answer to `task` says; its payload has been verified.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is a breach")]
pub(crate) fn read_answer(
    kind: Kind,
    task: TaskId,
    metadata: &[u8],
    payload: Vec<u8>,
) -> Result<Answer, ExchangeError> {
    match kind {
        Kind::Result => read_result(metadata, payload, true),
        Kind::Error => Ok(Answer::Raised(from_json(&payload)?)),
        Kind::Declined => Ok(Answer::Declined(from_json(metadata)?)),
        Kind::Corrupt => Err(read_corrupt(metadata, task, task)),
        _ => Err(broke("sent a frame that is no answer")),
    }
}

/// Takes the carrier byte and the descriptor that comes with it; others are closed.
fn receive_descriptor(stream: &UnixStream) -> Result<Result<OwnedFd, ExchangeError>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    if message.bytes == 0 {
        return Ok(Err(ExchangeError::Closed));
    }
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    let first = descriptors.into_iter().next();
    Ok(first.ok_or_else(|| broke("promised a descriptor and passed none")))
}

/// Says whether to come back later (`true`) or to try again at once, or returns the failure.
fn again(errno: Errno) -> Result<bool, ExchangeError> {
    match errno {
        Errno::AGAIN => Ok(true),
        Errno::INTR => Ok(false),
        Errno::CONNRESET => Err(ExchangeError::Closed),
        other => Err(io_error("recv(2) from the worker")(other.into())),
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, ExchangeError> {
    serde_json::to_vec(value).map_err(|error| io_error("write JSON")(error.into()))
}

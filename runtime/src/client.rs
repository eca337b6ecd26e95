//! A client of the daemon: opens what calls need, sends calls, hears their ends.
//!
//! Blocks while it waits; whoever wants more at once sends several calls before it waits for the
//! first. Payloads are verified before anything of them is looked at, and no pickle is decoded.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ric_policies::{EngineName, Protection};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::container::{Results, answered};
use crate::exchange::{Letter, Submission, read_answer, read_sealed};
use crate::wire::{Frame, Payload, Reader, Terms, WireError, Writer};
use crate::{
    Call, ERROR_BYTES_MAX, Ending, Enforced, ExchangeError, Header, Kind, NO_TASK,
    PAYLOAD_BYTES_MAX, PayloadDigests, Sha256Digest, Status, TaskId, VERSION_HIGHEST,
    VERSION_LOWEST, hex,
};

/// Why the daemon cannot be spoken to, or what it said cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection cannot be used any more.
    #[error("cannot speak to the daemon")]
    Wire(#[source] WireError),
    /// The call cannot travel, or its answer is not what an answer is.
    #[error("cannot exchange a call with the daemon")]
    Exchange(#[source] ExchangeError),
    /// The daemon said something that means nothing.
    #[error("the daemon {0}")]
    Breach(&'static str),
}

/// What was opened.
#[derive(Debug, Clone, Deserialize)]
pub struct Pool {
    /// Its number on this connection.
    pub pool: u64,
    /// The image, by digest or fingerprint.
    pub image: String,
    /// The engine that starts its containers.
    pub engine: EngineName,
    /// What is enforced in its containers, and by what.
    pub enforced: BTreeMap<Protection, Enforced>,
    /// Most bytes of what comes back.
    pub bounds: PoolBounds,
}

/// Most bytes of what comes back.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct PoolBounds {
    /// Of a result.
    pub result_bytes_max: u64,
}

/// How a task ended without an answer of its own.
#[derive(Debug, Clone, Deserialize)]
pub struct Ended {
    /// In one word.
    pub status: Status,
    /// What the command line exits with.
    pub exit_code: i32,
    /// What there is to say.
    pub error: String,
    /// The way out, where there is one.
    #[serde(default)]
    pub hint: Option<String>,
    /// When to come back, in milliseconds, if it was `busy`.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
    /// Where it ran, if it began.
    #[serde(default)]
    pub ran: Option<RanFacts>,
    /// What was called, if it was submitted.
    #[serde(default)]
    pub call: Option<CallFacts>,
}

/// What was called, if it was submitted: whoever fetches it may not have called it.
#[derive(Debug, Clone, Deserialize)]
pub struct CallFacts {
    /// Name of the task.
    pub id: String,
    /// SHA-256 of the function's file, 64 hex digits.
    pub function_sha256: String,
    /// SHA-256 of the arguments as they travelled; none if they came to no worker.
    #[serde(default)]
    pub arguments_sha256: Option<String>,
    /// Its sandbox, if there was one.
    #[serde(default)]
    pub opened: Option<OpenedFacts>,
}

/// What the sandbox of a submitted task was, as [`Pool`] says it of one that is awaited.
#[derive(Debug, Clone, Deserialize)]
pub struct OpenedFacts {
    /// The engine that started its container.
    pub engine: EngineName,
    /// The image, by digest or fingerprint.
    pub image: String,
    /// What was enforced, and by what.
    pub enforced: BTreeMap<Protection, Enforced>,
}

/// Where a task ran, and for how long.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RanFacts {
    /// Name of the container.
    pub container: String,
    /// Whether it had run a task before.
    pub warm: bool,
    /// Microseconds that it waited.
    pub queued_us: u64,
    /// Microseconds from a worker's taking it to its answer.
    pub wall_us: u64,
    /// Processor microseconds, where known.
    #[serde(default)]
    pub cpu_us: Option<u64>,
    /// Most bytes of memory at once, where known.
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
}

/// How a call ended that a worker answered, or that had no answer.
#[derive(Debug)]
pub struct CallEnd {
    /// In one word.
    pub status: Status,
    /// What the command line exits with.
    pub exit_code: i32,
    /// The result, if it is JSON.
    pub result: Option<serde_json::Value>,
    /// The result as it travelled, if it is not.
    pub result_pickle: Option<Vec<u8>>,
    /// What went wrong, for people.
    pub error: Option<String>,
    /// SHA-256 of the result, 64 hex digits.
    pub result_sha256: Option<String>,
    /// Where it ran.
    pub ran: Option<RanFacts>,
    /// What was called, if it was submitted.
    pub call: Option<CallFacts>,
}

/// Something that the daemon said.
#[derive(Debug)]
pub enum Heard {
    /// What a task printed: to standard output (`false`) or standard error.
    Printed(TaskId, bool, Vec<u8>),
    /// A task has ended.
    CallEnded(TaskId, Box<CallEnd>),
    /// Any other answer: its kind, metadata and payload.
    Answer(TaskId, Kind, Vec<u8>, Vec<u8>),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    reader: Reader,
    writer: Writer,
    known: BTreeSet<Sha256Digest>,
    count: u64,
}

#[derive(Deserialize)]
struct DaemonHello {
    version_lowest: u16,
    version_highest: u16,
}

/// What a daemon may send.
struct FromDaemon;

impl Terms for FromDaemon {
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is a breach")]
    fn payload_bytes_max(&self, header: &Header) -> Result<u64, WireError> {
        if !header.kind.is_sent_by(crate::Party::Daemon) {
            return Err(WireError::Breach("sent a frame that no daemon may send"));
        }
        Ok(match header.kind {
            Kind::Result | Kind::Answer | Kind::Output => PAYLOAD_BYTES_MAX,
            Kind::Error => ERROR_BYTES_MAX,
            _ => 0,
        })
    }

    fn descriptors(&self, _: &Header, _: &[u8]) -> Result<usize, WireError> {
        Ok(0)
    }
}

impl Client {
    /// Greets the daemon at the other end of `stream`; `name` is for its logs.
    ///
    /// # Errors
    /// [`ClientError`]: what is there is no daemon, or speaks another version.
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is a breach")]
    pub fn new(stream: UnixStream, name: &str) -> Result<Client, ClientError> {
        stream.set_nonblocking(true).map_err(|error| ClientError::Wire(WireError::Io(error)))?;
        let (reader, writer) = (Reader::default(), Writer::default());
        let mut client = Client { stream, reader, writer, known: BTreeSet::new(), count: 0 };
        let hello = serde_json::json!({
            "version_lowest": VERSION_LOWEST,
            "version_highest": VERSION_HIGHEST,
            "client": name,
        });
        client.writer.push(Kind::Hello, NO_TASK, hello.to_string().as_bytes(), &[]);
        let frame = client.receive()?;
        let hello: DaemonHello = match frame.header.kind {
            Kind::Hello => serde_json::from_slice(&frame.metadata)
                .map_err(|_| ClientError::Breach("said hello in a way that cannot be read"))?,
            _ => return Err(ClientError::Breach("did not say hello first")),
        };
        if hello.version_lowest > VERSION_HIGHEST || hello.version_highest < VERSION_LOWEST {
            return Err(ClientError::Breach("speaks no version that is spoken here"));
        }
        Ok(client)
    }

    /// A name that this connection has not used.
    fn next_task(&mut self) -> TaskId {
        self.count += 1;
        let mut task = [0; 16];
        task[..8].copy_from_slice(&self.count.to_be_bytes());
        task
    }

    /// Asks for what calls need (OPEN of `docs/protocol.md`); `descriptors` are those that
    /// `ask` names. `Err` inside: it is refused, or cannot be had.
    ///
    /// # Errors
    /// [`ClientError`].
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is a breach")]
    pub fn open(
        &mut self,
        ask: &serde_json::Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Result<Pool, Ended>, ClientError> {
        let task = self.next_task();
        let descriptors = descriptors.iter().map(|fd| fd.try_clone_to_owned());
        let descriptors = descriptors.collect::<io::Result<Vec<_>>>();
        let descriptors = descriptors.map_err(|error| ClientError::Wire(WireError::Io(error)))?;
        self.writer.push_with(Kind::Open, task, ask.to_string().as_bytes(), descriptors);
        let frame = self.receive()?;
        let read = |_| ClientError::Breach("answered in a way that cannot be read");
        match frame.header.kind {
            Kind::Opened => Ok(Ok(serde_json::from_slice(&frame.metadata).map_err(read)?)),
            Kind::Ended => Ok(Err(serde_json::from_slice(&frame.metadata).map_err(read)?)),
            _ => Err(ClientError::Breach("did not answer what it was asked")),
        }
    }

    /// Queues a call for the next write: its name, and the digests of what travels.
    ///
    /// # Errors
    /// [`ClientError::Exchange`] if it may not travel.
    pub fn call(
        &mut self,
        pool: &Pool,
        call: &Call,
    ) -> Result<(TaskId, PayloadDigests), ClientError> {
        self.send(pool, call, None)
    }

    /// Hands a call in, to be fetched later: its id, once it is on disk there. `rerun`: it may be
    /// run again when it may have run already. `Err` inside: it was not taken.
    ///
    /// # Errors
    /// [`ClientError`].
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is a breach")]
    pub fn submit(
        &mut self,
        pool: &Pool,
        call: &Call,
        rerun: bool,
    ) -> Result<Result<String, Ended>, ClientError> {
        #[derive(Deserialize)]
        struct Submitted {
            id: String,
        }
        self.send(pool, call, Some(Submission { keep: true, rerun }))?;
        let frame = self.receive()?;
        let read = |_| ClientError::Breach("answered in a way that cannot be read");
        match frame.header.kind {
            Kind::Submitted => {
                let submitted: Submitted = serde_json::from_slice(&frame.metadata).map_err(read)?;
                Ok(Ok(submitted.id))
            }
            Kind::Ended => Ok(Err(serde_json::from_slice(&frame.metadata).map_err(read)?)),
            _ => Err(ClientError::Breach("did not answer what it was asked")),
        }
    }

    /// Asks for the answer of a submitted task, which is heard once there is one.
    pub fn fetch(&mut self, id: &str) -> TaskId {
        let task = self.next_task();
        let metadata = serde_json::json!({"id": id}).to_string();
        self.writer.push(Kind::Fetch, task, metadata.as_bytes(), &[]);
        task
    }

    fn send(
        &mut self,
        pool: &Pool,
        call: &Call,
        submitted: Option<Submission>,
    ) -> Result<(TaskId, PayloadDigests), ClientError> {
        let task = self.next_task();
        let most = pool.bounds.result_bytes_max;
        let letter = Letter::new(call, most, Some(pool.pool), submitted);
        let letter = letter.map_err(ClientError::Exchange)?;
        let digest: Sha256Digest = Sha256::digest(&call.source).into();
        if self.known.insert(digest) {
            self.writer.push(Kind::Function, task, &letter.function_metadata, &call.source);
        }
        self.writer.push(Kind::Call, task, &letter.call_metadata, &letter.arguments);
        let digests = PayloadDigests {
            function_sha256: Some(hex(&digest)),
            arguments_sha256: Some(hex(&Sha256::digest(&letter.arguments))),
            result_sha256: None,
        };
        Ok((task, digests))
    }

    /// Asks something about the daemon (ASK): the answer, as JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is a breach")]
    pub fn ask(
        &mut self,
        question: &serde_json::Value,
    ) -> Result<Result<serde_json::Value, Ended>, ClientError> {
        let task = self.next_task();
        self.writer.push(Kind::Ask, task, question.to_string().as_bytes(), &[]);
        let frame = self.receive()?;
        let read = |_| ClientError::Breach("answered in a way that cannot be read");
        match frame.header.kind {
            Kind::Answer => Ok(Ok(serde_json::from_slice(&verified(&frame)?).map_err(read)?)),
            Kind::Ended => Ok(Err(serde_json::from_slice(&frame.metadata).map_err(read)?)),
            _ => Err(ClientError::Breach("did not answer what it was asked")),
        }
    }

    /// Ends a task.
    pub fn cancel(&mut self, task: TaskId) {
        self.writer.push(Kind::Cancel, task, b"", &[]);
    }

    /// Writes what is queued, and waits for the next thing that the daemon says.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn hear(&mut self) -> Result<Heard, ClientError> {
        let frame = self.receive()?;
        heard(frame)
    }

    /// The same, until a time; `None`: it has passed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn hear_until(&mut self, until: Option<Instant>) -> Result<Option<Heard>, ClientError> {
        self.receive_until(until)?.map(heard).transpose()
    }

    /// The next frame, after everything that is queued has been written.
    fn receive(&mut self) -> Result<Frame, ClientError> {
        let frame = self.receive_until(None)?;
        Ok(frame.expect("it waits without an end"))
    }

    fn receive_until(&mut self, until: Option<Instant>) -> Result<Option<Frame>, ClientError> {
        loop {
            if let Some(frame) = self.reader.next(&FromDaemon).map_err(ClientError::Wire)? {
                return match frame.fault {
                    Some(fault) => Err(ClientError::Wire(WireError::Frame(fault))),
                    None => Ok(Some(frame)),
                };
            }
            let written = self.writer.flush(self.stream.as_fd()).map_err(ClientError::Wire)?;
            if self.reader.fill(self.stream.as_fd()).map_err(ClientError::Wire)? {
                continue;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let left = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let wanted = if written { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            let mut fds = [PollFd::new(&self.stream, wanted)];
            match poll(&mut fds, left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(ClientError::Wire(WireError::Io(errno.into()))),
            }
        }
    }
}

/// What a frame says.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is a breach")]
fn heard(frame: Frame) -> Result<Heard, ClientError> {
    let task = frame.header.task;
    match frame.header.kind {
        Kind::Output => {
            let stderr = frame.metadata.windows(8).any(|eight| eight == b"\"stderr\"");
            Ok(Heard::Printed(task, stderr, verified(&frame)?))
        }
        Kind::Result | Kind::Error | Kind::Declined | Kind::Corrupt => {
            Ok(Heard::CallEnded(task, Box::new(answer(&frame)?)))
        }
        Kind::Ended => {
            let ended: Ended = serde_json::from_slice(&frame.metadata)
                .map_err(|_| ClientError::Breach("answered in a way that cannot be read"))?;
            Ok(Heard::CallEnded(task, Box::new(without_answer(ended))))
        }
        kind => {
            let payload = verified(&frame)?;
            Ok(Heard::Answer(task, kind, frame.metadata, payload))
        }
    }
}

/// The payload of a frame, which is what it says it is.
fn verified(frame: &Frame) -> Result<Vec<u8>, ClientError> {
    let payload = match &frame.payload {
        Payload::Bytes(bytes) => bytes.clone(),
        Payload::Memory(memory) => {
            read_sealed(memory, frame.header.payload_bytes).map_err(ClientError::Breach)?
        }
    };
    let digest = Sha256::digest(&payload).into();
    let checked = frame.header.check_payload(digest);
    checked.map_err(|error| ClientError::Wire(WireError::Frame(error)))?;
    Ok(payload)
}

/// What a worker's answer means.
fn answer(frame: &Frame) -> Result<CallEnd, ClientError> {
    #[derive(Default, Deserialize)]
    struct Metadata {
        ran: Option<RanFacts>,
        call: Option<CallFacts>,
    }
    let Metadata { ran, call } = serde_json::from_slice(&frame.metadata).unwrap_or_default();
    let result_sha256 =
        (frame.header.kind == Kind::Result).then(|| hex(&frame.header.payload_sha256));
    let (kind, task) = (frame.header.kind, frame.header.task);
    let (ending, results) = match read_answer(kind, task, &frame.metadata, verified(frame)?) {
        Ok(answer) => answered(answer, None),
        Err(error @ ExchangeError::Corrupt { .. }) => {
            let error = Some(error.to_string());
            let ending = Ending { status: Status::Corrupt, exit_code: 1, error };
            (ending, Results::default())
        }
        Err(error) => return Err(ClientError::Exchange(error)),
    };
    let Results { json, pickle } = results;
    Ok(CallEnd {
        status: ending.status,
        exit_code: ending.exit_code,
        result: json,
        result_pickle: pickle,
        error: ending.error,
        result_sha256,
        ran,
        call,
    })
}

fn without_answer(ended: Ended) -> CallEnd {
    let error = match &ended.hint {
        Some(hint) => format!("{}\nhint: {hint}", ended.error),
        None => ended.error,
    };
    CallEnd {
        status: ended.status,
        exit_code: ended.exit_code,
        result: None,
        result_pickle: None,
        error: Some(error),
        result_sha256: None,
        ran: ended.ran,
        call: ended.call,
    }
}

//! One client's connection: who it is, what it has opened and sent, what waits to be written.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ric_runtime::{Caller, Header, Kind, PAYLOAD_BYTES_MAX, Party, Sha256Digest, TaskId};
use serde::Deserialize;

use super::answer::Ending;
use super::journal::KeptId;
use super::open::{OpenAsk, Opened};
use super::pool::PoolId;
use ric_runtime::wire::{Frame, Payload, Reader, Terms, WireError, Writer};

/// Names a connection; never used again.
pub(super) type ClientId = u64;
/// Names what a client has opened, on its connection.
pub(super) type HandleId = u64;

/// Most bytes of MODULES, which travel with OPEN.
const MODULES_BYTES_MAX: u64 = 16 << 20;
/// Most descriptors of one OPEN: mounts and secrets.
const DESCRIPTORS_MAX: usize = 64;
/// Functions that are kept for a connection; the least recently sent goes first.
const FUNCTIONS_MAX: usize = 256;
/// Bytes that may wait to be read by a client before no more is read from it, nor of what its
/// tasks print kept for it.
pub(super) const WAITING_BYTES_MAX: usize = 8 << 20;

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) stream: UnixStream,
    pub(super) caller: Caller,
    pub(super) pid: i32,
    /// What it calls itself; `None` until it has greeted.
    pub(super) name: Option<String>,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) handles: HashMap<HandleId, Handle>,
    pub(super) handles_opened: HandleId,
    pub(super) functions: Functions,
    /// Tasks of it that have not ended: its name for each to ours.
    pub(super) tasks: HashMap<TaskId, u64>,
    /// Its name for each answer of a submitted task that it waits for.
    pub(super) fetches: HashMap<TaskId, KeptId>,
    /// What epoll waits for.
    pub(super) interest: super::events::Interest,
    /// What is held back for a moment.
    held: Held,
}

/// Since when answers are held back, and for how many turns.
#[derive(Debug, Default)]
struct Held {
    since: Option<Instant>,
    turns: u32,
}

/// A client with so many tasks under way waits for no single one: to write each answer by itself
/// would cost a system call here and a wakeup there.
const HOLD_TASKS_MIN: usize = 8;
/// Most turns, bytes and time that answers are held back for.
const HOLD_TURNS_MAX: u32 = 5;
const HOLD_BYTES_MAX: usize = 16 << 10;
pub(super) const HOLD_TIME: Duration = Duration::from_micros(200);

impl Client {
    /// One that has just connected.
    pub(super) fn new(id: ClientId, stream: UnixStream, caller: Caller, pid: i32) -> Client {
        Client {
            id,
            stream,
            caller,
            pid,
            name: None,
            reader: Reader::default(),
            writer: Writer::default(),
            handles: HashMap::new(),
            handles_opened: 0,
            functions: Functions::default(),
            tasks: HashMap::new(),
            fetches: HashMap::new(),
            interest: super::events::Interest::Read,
            held: Held::default(),
        }
    }

    /// Whether what waits to be written is held back for more to come.
    pub(super) fn holds_back(&mut self, now: Instant) -> bool {
        let since = *self.held.since.get_or_insert(now);
        self.held.turns += 1;
        let holds = !self.writer.is_empty()
            && self.tasks.len() >= HOLD_TASKS_MIN
            && self.held.turns < HOLD_TURNS_MAX
            && self.writer.bytes() < HOLD_BYTES_MAX
            && now.saturating_duration_since(since) < HOLD_TIME;
        if !holds {
            self.held = Held::default();
        }
        holds
    }
}

/// What a client has opened.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) opened: Arc<Opened>,
    pub(super) modules: Modules,
    pub(super) leads: Leads,
}

/// Where the calls of a handle go.
#[derive(Debug)]
pub(super) enum Leads {
    To(PoolId),
    /// The policy has changed, and it is decided again; these wait for that.
    Nowhere {
        waiting: Vec<Frame>,
    },
    /// The policy has changed, and does not allow it.
    Refused(Ending),
}

/// MODULES that came with an OPEN, and their digest.
pub(super) type Modules = Option<(Arc<Vec<u8>>, Sha256Digest)>;

/// A function that was sent, as it travels on.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) header: Header,
    pub(super) metadata: Vec<u8>,
    pub(super) payload: Payload,
}

/// The functions of one connection, by digest. That the payload has that digest is for the worker
/// to check; a wrong one harms nobody but who sent it.
#[derive(Debug, Default)]
pub(super) struct Functions {
    kept: HashMap<Sha256Digest, Rc<Function>>,
    order: std::collections::VecDeque<Sha256Digest>,
}

impl Functions {
    pub(super) fn keep(&mut self, frame: Frame) {
        let digest = frame.header.payload_sha256;
        let Frame { header, metadata, payload, .. } = frame;
        if self.kept.insert(digest, Rc::new(Function { header, metadata, payload })).is_none() {
            self.order.push_back(digest);
        }
        if self.order.len() > FUNCTIONS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.kept.remove(&oldest);
        }
    }

    pub(super) fn find(&self, digest: &Sha256Digest) -> Option<&Rc<Function>> {
        self.kept.get(digest)
    }
}

/// What a daemon needs to know of a CALL; the rest is the worker's.
#[derive(Debug, Deserialize)]
pub(super) struct CallAsk<'a> {
    pub(super) pool: HandleId,
    /// Its name, where it has one.
    #[serde(borrow, default)]
    pub(super) function: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) function_sha256: std::borrow::Cow<'a, str>,
    pub(super) result_bytes_max: u64,
    #[serde(default)]
    pub(super) deadline_ms: Option<u64>,
    #[serde(default)]
    pub(super) keep: bool,
    #[serde(default)]
    pub(super) rerun: bool,
}

/// What a client says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct HelloAsk {
    pub(super) version_lowest: u16,
    pub(super) version_highest: u16,
    #[serde(default)]
    pub(super) client: String,
}

/// What clients may send.
pub(super) struct FromClients;

impl Terms for FromClients {
    fn payload_bytes_max(&self, header: &Header) -> Result<u64, WireError> {
        if !header.kind.is_sent_by(Party::Client) {
            return Err(WireError::Breach("sent a frame that no client may send"));
        }
        let calls = matches!(header.kind, Kind::Function | Kind::Call);
        Ok(match header.kind == Kind::Open {
            _ if calls => PAYLOAD_BYTES_MAX,
            true => MODULES_BYTES_MAX,
            false => 0,
        })
    }

    fn descriptors(&self, header: &Header, metadata: &[u8]) -> Result<usize, WireError> {
        if header.kind != Kind::Open {
            return Ok(0);
        }
        let count = OpenAsk::count_descriptors(metadata);
        if count > DESCRIPTORS_MAX {
            return Err(WireError::Breach("sent more mounts and secrets than one OPEN may have"));
        }
        Ok(count)
    }
}

/// 64 hex digits as the digest that they are.
pub(super) fn parse_sha256(text: &str) -> Option<Sha256Digest> {
    let mut digest = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(digest)
}

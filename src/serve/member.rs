//! One warm container: its worker's connection, what it is doing, what it has been sent.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use ric_runtime::{Container, ERROR_BYTES_MAX, Header, Kind, Party, Preload, Sha256Digest, Worker};
use rustix::io::Errno;
use serde_json::json;

use super::events::Interest;
use super::pool::PoolId;
use ric_runtime::wire::{Reader, Terms, WireError, Writer};

/// Names a member; never used again.
pub(super) type MemberId = u64;

/// A warm container.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: MemberId,
    pub(super) pool: PoolId,
    pub(super) container: Container,
    pub(super) stream: UnixStream,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) interest: Interest,
    /// Functions that its worker has.
    pub(super) known: HashSet<Sha256Digest>,
    pub(super) state: State,
    /// The task that it works on.
    pub(super) task: Option<u64>,
    /// The task that it will be sent once the journal says that it may have run.
    pub(super) promised: Option<u64>,
    /// Most bytes of that task's result.
    pub(super) result_bytes_max: u64,
    /// When its task has had its time, and when an entry of the timers looks at that.
    pub(super) deadline: Option<Instant>,
    pub(super) deadline_timer: Option<Instant>,
    /// The task whose function it asked for.
    pub(super) needed: Option<u64>,
    pub(super) tasks_run: u64,
    /// Processes of it that the kernel had ended for want of memory before this task.
    pub(super) oom_kills: u64,
    pub(super) idle_since: Instant,
    /// Whether an entry of the timers will look at it.
    pub(super) idle_timer: bool,
    pub(super) greeted: bool,
}

/// A container that was told to end, until nothing is left of it.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) container: Container,
    pub(super) uid: u32,
    /// What it counts for; `None` if its place was given to another.
    pub(super) memory_bytes: Option<u64>,
    /// Readable when nothing is left.
    pub(super) ended: OwnedFd,
}

/// What a member is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its interpreter starts and imports what is to be preloaded, or forks the next child.
    Waking,
    /// It can take a task.
    Idle,
    /// It has a task.
    Working,
    /// Its task is answered; the child that did it has not ended.
    Answered,
    /// What its last task left is ended and removed.
    Cleaning,
}

impl State {
    /// Every word that there is for one.
    pub(super) const ALL: [State; 4] =
        [State::Waking, State::Idle, State::Working, State::Cleaning];

    pub(super) fn word(self) -> &'static str {
        match self {
            State::Waking => "starting",
            State::Idle => "idle",
            State::Working => "working",
            State::Answered | State::Cleaning => "cleaning",
        }
    }
}

impl Member {
    pub(super) fn new(id: MemberId, pool: PoolId, container: Container, worker: Worker) -> Member {
        let Worker { stream, stdout, stderr } = worker;
        Member {
            id,
            pool,
            container,
            stream,
            stdout,
            stderr,
            reader: Reader::default(),
            writer: Writer::default(),
            interest: Interest::Read,
            known: HashSet::new(),
            state: State::Waking,
            task: None,
            promised: None,
            result_bytes_max: 0,
            deadline: None,
            deadline_timer: None,
            needed: None,
            tasks_run: 0,
            oom_kills: 0,
            idle_since: Instant::now(),
            idle_timer: false,
            greeted: false,
        }
    }

    /// Says hello to its worker, and what all its calls have in common.
    pub(super) fn greet(&mut self, preload: &Preload, modules: Option<&[u8]>, fork: bool) {
        let mut hello = json!({
            "version_lowest": ric_runtime::VERSION_LOWEST,
            "version_highest": ric_runtime::VERSION_HIGHEST,
            "ready": true,
            "fork": fork,
        });
        if !preload.is_empty() {
            hello["preload"] =
                json!({"environment": preload.environment, "modules": preload.modules});
        }
        let hello = hello.to_string();
        let none = ric_runtime::NO_TASK;
        self.writer.push(Kind::Hello, none, hello.as_bytes(), &[]);
        if let Some(modules) = modules {
            self.writer.push(Kind::Modules, none, b"", modules);
        }
        if fork {
            self.writer.push(Kind::Again, none, b"", &[]);
        }
    }

    /// How its worker, or the child that had the task, ended.
    pub(super) fn ending(&mut self, exited: Option<ric_runtime::Exited>) -> ric_runtime::Ending {
        let oom_kills = self.container.usage().oom_kills;
        let before = std::mem::replace(&mut self.oom_kills, oom_kills);
        ric_runtime::Ending::of(exited, None, oom_kills > before)
    }

    /// What a worker of this member may send now.
    pub(super) fn terms(&self) -> FromWorker {
        FromWorker { result_bytes_max: self.result_bytes_max }
    }
}

/// What workers may send.
#[derive(Debug, Clone, Copy)]
pub(super) struct FromWorker {
    result_bytes_max: u64,
}

impl Terms for FromWorker {
    fn payload_bytes_max(&self, header: &Header) -> Result<u64, WireError> {
        if !header.kind.is_sent_by(Party::Worker) {
            return Err(WireError::Breach("sent a frame that no worker may send"));
        }
        let error = header.kind == Kind::Error;
        Ok(match header.kind == Kind::Result {
            true => self.result_bytes_max,
            false if error => ERROR_BYTES_MAX,
            false => 0,
        })
    }

    fn descriptors(&self, _: &Header, _: &[u8]) -> Result<usize, WireError> {
        Ok(0)
    }
}

/// Reads what is there of what a task prints, up to a bound. Empty: nothing is, or it has ended.
pub(super) fn read_printed(pipe: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::io::read(pipe.as_fd(), buffer) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

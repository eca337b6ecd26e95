//! What a container is told and what it says: messages to init and from it. Nothing here waits.
//!
//! [`Container::run`] drives one task with these; whoever has many containers (a daemon) drives
//! all of them with one loop: it waits for [`Container::control_fd`], then asks
//! [`Container::hear`]. Deliberately absent: what a worker says on its own stream, which is frames.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::ending::{Ending, not_started};
use super::run::{RunError, attend};
use super::{Container, streams, work};
use crate::native::{monitor, protocol};
use crate::usage::{CgroupLoad, CgroupUsage};
use crate::{Enforced, Work};

/// A worker that was just told to start.
#[derive(Debug)]
pub struct Worker {
    /// The connection to it, not blocking: frames of `docs/protocol.md`.
    pub stream: UnixStream,
    /// What its functions print, not blocking.
    pub stdout: OwnedFd,
    /// What its functions print as errors, not blocking.
    pub stderr: OwnedFd,
}

/// Something that init said.
#[derive(Debug)]
pub enum Event {
    /// The program could not be started. The container can be used again.
    NotStarted(NotStarted),
    /// The program has ended, and with it all that it left running.
    Exited(Exited),
    /// The controlling side of the terminal that was asked for.
    Terminal(OwnedFd),
    /// The answer to [`Container::begin_reset`].
    Reset(Residue),
    /// Init has ended, and with it everything in the container. Nothing more will be heard.
    Ended,
}

/// Why a program did not start.
#[derive(Debug, Clone, Copy)]
pub struct NotStarted {
    pub(super) stage: u64,
    pub(super) errno: i32,
    pub(super) more: u64,
}

impl NotStarted {
    /// What this means for the `work` that was to be started.
    #[must_use]
    pub fn ending(self, work: &Work) -> Ending {
        not_started(work, self)
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exited {
    /// As of `wait(2)`.
    pub wait_status: i32,
    /// Processor time in microseconds of all that has ended in the container so far.
    pub cpu_us: u64,
    /// Largest resident size of one process in KiB, of all that have ended in the container so far.
    pub largest_kib: u64,
}

/// What a reset left of earlier tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residue {
    /// Nothing.
    Clean,
    /// Something that could not be ended or removed: the container must not be used again.
    Dirty(Leftover),
}

/// What could not be ended or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// Processes that come faster than they can be ended.
    Processes,
    /// Files in one of the directories that a task can write to.
    Files,
    /// Shared memory, semaphores or queues of System V.
    SystemV,
    /// Something of a kind that is not known here.
    Other,
}

impl fmt::Display for Leftover {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Leftover::Processes => "processes",
            Leftover::Files => "files",
            Leftover::SystemV => "System V shared memory, semaphores or queues",
            Leftover::Other => "something",
        })
    }
}

impl Container {
    /// Starts the worker of `work`, which is a call, and does not wait for it. `descriptors` are
    /// those that its secrets name.
    ///
    /// Its first sign of life is its HELLO on the stream, or [`Event::NotStarted`]. A container has
    /// one program at a time.
    ///
    /// # Errors
    /// [`RunError`]; among others for inputs, which a worker of many calls has none of.
    pub fn start_worker(&self, work: &Work, descriptors: &[OwnedFd]) -> Result<Worker, RunError> {
        if !work.inputs.is_empty() {
            return Err(RunError::TooManyInputs { count: work.inputs.len(), max: 0 });
        }
        let failed = || attend("start a worker in the container");
        let (stdout, out) = streams::output_pipe().map_err(failed())?;
        let (stderr, err) = streams::output_pipe().map_err(failed())?;
        let (stream, theirs) = UnixStream::pair().map_err(failed())?;
        stream.set_nonblocking(true).map_err(failed())?;
        let null = streams::null().map_err(failed())?;
        let mut travelling = vec![null, out, err, theirs.into()];
        travelling.extend(super::files::open_secrets(work, descriptors)?);
        self.hand_over(protocol::RUN, work, None, &travelling)?;
        Ok(Worker { stream, stdout, stderr })
    }

    /// Readable when [`hear`](Self::hear) has something to say. After [`Event::Ended`] it always
    /// is.
    #[must_use]
    pub fn control_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Takes the next thing that init said; `None`: nothing more for now.
    ///
    /// # Errors
    /// What `recvmsg(2)` says.
    pub fn hear(&self) -> io::Result<Option<Event>> {
        match monitor::try_receive(&self.control) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            received => Ok(Some(event(received?))),
        }
    }

    /// As [`hear`](Self::hear), and waits until init says something.
    pub(super) fn hear_waiting(&self) -> io::Result<Event> {
        monitor::receive(&self.control).map(event)
    }

    /// Sends `signal` to the process group of the program.
    ///
    /// # Errors
    /// What `sendmsg(2)` says; an init that has ended is none, [`hear`](Self::hear) tells of it.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.tell(protocol::SIGNAL, signal.unsigned_abs().into())
    }

    /// Has init end and remove all that tasks have left, but for the worker itself if it still
    /// runs; the answer is [`Event::Reset`]. Mounts that were granted stay as they are.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub fn begin_reset(&self) -> io::Result<()> {
        self.tell(protocol::RESET, 0)
    }

    /// Ends the container, and does not wait: [`ended_fd`](Self::ended_fd) becomes readable.
    pub fn end(&self) {
        self.keeper.end();
    }

    /// A descriptor that is readable once nothing of the container is left, after
    /// [`end`](Self::end); then dropping it does not wait, if it [was cleared
    /// up](Self::has_cleared_up).
    ///
    /// # Errors
    /// What `pidfd_open(2)` or `dup(2)` says.
    pub fn ended_fd(&self) -> io::Result<OwnedFd> {
        self.keeper.ended_fd()
    }

    /// Whether whoever clears up after it has done so. If that was killed, dropping this does it.
    pub fn has_cleared_up(&mut self) -> bool {
        self.keeper.has_cleared_up()
    }

    /// What its tasks have used and run into so far, from its cgroups while they are there.
    #[must_use]
    pub fn usage(&self) -> CgroupUsage {
        self.usage.read()
    }

    /// What it takes now.
    #[must_use]
    pub fn load(&self) -> CgroupLoad {
        self.usage.read_load()
    }

    /// What is enforced in it, and by what.
    #[must_use]
    pub fn enforced(&self) -> &std::collections::BTreeMap<ric_policies::Protection, Enforced> {
        &self.enforced
    }

    /// Tells init something; that it has ended is heard, not seen here.
    fn tell(&self, kind: u64, number: u64) -> io::Result<()> {
        let sent = monitor::send(&self.control, kind, number, &[], &[]);
        match sent.as_ref().map_err(io::Error::kind) {
            Err(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            _ => sent,
        }
    }

    /// Hands `work` to init: descriptors 0, 1, 2, the worker's connection if it is a call, then one
    /// pipe for each input and one memory file for each secret.
    pub(super) fn hand_over(
        &self,
        kind: u64,
        work: &Work,
        terminal: Option<rustix::termios::Winsize>,
        travelling: &[OwnedFd],
    ) -> Result<(), RunError> {
        let failed = || attend("hand the work to the container");
        let bytes = work::encode(work, &self.tools, terminal)?;
        let memory = monitor::as_memory(&bytes).map_err(failed())?;
        let fds: Vec<BorrowedFd<'_>> =
            std::iter::once(&memory).chain(travelling).map(AsFd::as_fd).collect();
        monitor::send(&self.control, kind, bytes.len() as u64, &[], &fds).map_err(failed())
    }
}

/// Reads what init said. Init is of this build, so it says nothing else.
fn event(message: Option<monitor::Message>) -> Event {
    let Some(message) = message else { return Event::Ended };
    let number = |at: usize| i32::from_le_bytes(low_half(message.numbers[at]));
    match message.kind {
        protocol::NOT_STARTED => {
            let [stage, _, more, ..] = message.numbers;
            Event::NotStarted(NotStarted { stage, errno: number(1), more })
        }
        protocol::EXITED => {
            let [_, cpu_us, largest_kib, ..] = message.numbers;
            Event::Exited(Exited { wait_status: number(0), cpu_us, largest_kib })
        }
        protocol::RESET_DONE => Event::Reset(residue(message.numbers[0])),
        protocol::TERMINAL => message.fd.map_or(Event::Ended, Event::Terminal),
        _ => Event::Ended,
    }
}

fn residue(left: u64) -> Residue {
    match left {
        protocol::LEFT_NOTHING => Residue::Clean,
        protocol::LEFT_PROCESSES => Residue::Dirty(Leftover::Processes),
        protocol::LEFT_FILES => Residue::Dirty(Leftover::Files),
        protocol::LEFT_SYSTEM_V => Residue::Dirty(Leftover::SystemV),
        _ => Residue::Dirty(Leftover::Other),
    }
}

/// The number that was sent as the low half of a word.
fn low_half(word: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = word.to_le_bytes();
    [a, b, c, d]
}

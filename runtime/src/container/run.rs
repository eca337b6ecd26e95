//! Runs one piece of work in a container: starts it, attends to it, says how it ended.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::control::{Event, Exited, NotStarted};
use super::files::Feed;
use super::streams::{Capture, Relay, Stream, Streams};
use super::{Container, ending, streams};
use crate::exchange::{Answer, Exchange, ExchangeError};
use crate::native::protocol;
use crate::{Outcome, Program, Work};

/// How long a task whose time has passed, or that the caller ended, may take to be gone before the
/// whole container is ended from outside.
const GRACE: Duration = Duration::from_secs(2);

/// Why work could not be run to an end. The container is not to be used again.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Preparing or attending to the task's streams and files failed on this side.
    #[error("cannot {what}")]
    Attend {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A command, argument or variable holds a zero byte, which `execve(2)` cannot carry.
    #[error("{what} holds a zero byte")]
    ZeroByte {
        /// Which.
        what: String,
    },
    /// The call cannot travel.
    #[error("cannot send the call")]
    Call {
        /// Why not.
        source: ExchangeError,
    },
    /// The work names more inputs than fit beside a message.
    #[error("{count} inputs are more than the {max} that one task may have")]
    TooManyInputs {
        /// How many.
        count: usize,
        /// The most.
        max: usize,
    },
}

/// Signals of the caller's that are for the task.
pub struct Signals<'a> {
    /// Readable when there are some.
    pub fd: BorrowedFd<'a>,
    /// The next one, if there is one.
    pub next: &'a mut dyn FnMut() -> Option<i32>,
}

impl std::fmt::Debug for Signals<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals").field("fd", &self.fd).finish_non_exhaustive()
    }
}

/// What is going on while a task runs.
pub(super) struct Session<'a> {
    pub(super) work: &'a Work,
    pub(super) started: Instant,
    pub(super) stdout: Option<Capture>,
    pub(super) stderr: Option<Capture>,
    pub(super) feeds: Vec<Feed>,
    pub(super) exchange: Option<Exchange>,
    pub(super) answer: Option<Result<Answer, ExchangeError>>,
    pub(super) answered: Option<Duration>,
    streams: Streams<'a>,
    relay: Option<Relay<'a>>,
    /// The last signal that was forwarded.
    pub(super) forwarded: Option<i32>,
    pub(super) timed_out: bool,
    killed: Option<Instant>,
    pub(super) not_started: Option<NotStarted>,
    pub(super) exited: Option<Exited>,
    /// Init itself has ended.
    pub(super) gone: bool,
}

pub(super) fn attend(what: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
    let what = what.into();
    move |source| RunError::Attend { what, source }
}

impl Container {
    /// Runs `work` and waits until it has ended. `descriptors` are those that its inputs name;
    /// `outputs` are files to be written, one for each of its outputs.
    ///
    /// # Errors
    /// [`RunError`] if something on this side failed. How a task fails is an [`Outcome`].
    pub fn run(
        &mut self,
        work: &Work,
        streams: Streams<'_>,
        signals: Option<Signals<'_>>,
        descriptors: &[OwnedFd],
        outputs: &[File],
    ) -> Result<Outcome, RunError> {
        self.run_then(Then::Wait, work, streams, signals, descriptors, outputs)
    }

    /// As [`run`](Self::run), and ends the container: sooner than dropping it afterwards would.
    /// Nothing of it is left when this returns.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_last(
        mut self,
        work: &Work,
        streams: Streams<'_>,
        signals: Option<Signals<'_>>,
        descriptors: &[OwnedFd],
        outputs: &[File],
    ) -> Result<Outcome, RunError> {
        // Outputs are fetched from a container that is still there, and so may usage be.
        let ends = work.outputs.is_empty() && self.keeper.keeps_cgroups();
        let then = if ends { Then::End } else { Then::Wait };
        self.run_then(then, work, streams, signals, descriptors, outputs)
    }

    fn run_then(
        &mut self,
        then: Then,
        work: &Work,
        streams: Streams<'_>,
        mut signals: Option<Signals<'_>>,
        descriptors: &[OwnedFd],
        outputs: &[File],
    ) -> Result<Outcome, RunError> {
        let mut session = self.begin(then, work, streams, descriptors)?;
        while session.exited.is_none() && !session.gone {
            self.turn(&mut session, &mut signals)?;
        }
        ending::drain(&mut session)?;
        ending::outcome(self, session, outputs)
    }

    /// Hands the work to init.
    fn begin<'a>(
        &self,
        then: Then,
        work: &'a Work,
        streams: Streams<'a>,
        descriptors: &[OwnedFd],
    ) -> Result<Session<'a>, RunError> {
        let max = protocol::DESCRIPTORS_MAX - 5;
        let count = work.inputs.len() + work.secrets.len();
        if count > max {
            return Err(RunError::TooManyInputs { count, max });
        }
        let failed = || attend("hand the work to the container");
        let mut session = Session {
            work,
            streams,
            started: Instant::now(),
            stdout: None,
            stderr: None,
            feeds: Vec::new(),
            exchange: None,
            answer: None,
            answered: None,
            relay: None,
            forwarded: None,
            timed_out: false,
            killed: None,
            not_started: None,
            exited: None,
            gone: false,
        };
        let mut travelling = session.open_streams().map_err(attend("open the task's streams"))?;
        if let Program::Call(call) = &work.program {
            let (ours, theirs) = UnixStream::pair().map_err(failed())?;
            ours.set_nonblocking(true).map_err(failed())?;
            let exchange = Exchange::new(ours, call, self.task_id(), &work.bounds);
            session.exchange = Some(exchange.map_err(|source| RunError::Call { source })?);
            travelling.push(theirs.into());
        }
        for input in &work.inputs {
            let what = || attend(format!("read the input {}", input.source.asked.display()));
            let missing = || io::Error::other("its descriptor did not come along");
            let source = descriptors.get(input.descriptor).ok_or_else(missing).map_err(what())?;
            let (feed, pipe) = Feed::new(&input.name, source.as_fd()).map_err(what())?;
            session.feeds.push(feed);
            travelling.push(pipe);
        }
        travelling.extend(super::files::open_secrets(work, descriptors)?);
        session.started = Instant::now();
        let kind = match then {
            Then::Wait => protocol::RUN,
            Then::End => protocol::RUN_LAST,
        };
        let terminal = streams.terminal.map(|terminal| terminal.size());
        self.hand_over(kind, work, terminal, &travelling)?;
        Ok(session)
    }

    /// Waits for the next thing to happen, and attends to it.
    fn turn(
        &self,
        session: &mut Session<'_>,
        signals: &mut Option<Signals<'_>>,
    ) -> Result<(), RunError> {
        let ready = self.wait(session, signals).map_err(attend("wait for the task"))?;
        for source in ready {
            let failed = || attend(format!("attend to the task's {source:?}"));
            match source {
                Source::Control => self.attend_to_init(session).map_err(failed())?,
                Source::Channel => self.hear_out(session).map_err(failed())?,
                Source::Signals => self.forward(session, signals).map_err(failed())?,
                Source::Stdout => advance(&mut session.stdout).map_err(failed())?,
                Source::Stderr => advance(&mut session.stderr).map_err(failed())?,
                Source::Feed(at) => session.feeds[at].advance().map_err(failed())?,
                Source::Exchange => self.exchange(session),
                Source::Person => {
                    if let Some(relay) = &mut session.relay {
                        relay.read_person().map_err(failed())?;
                    }
                }
                Source::Terminal => session.relay_terminal().map_err(failed())?,
            }
        }
        self.watch_time(session);
        Ok(())
    }

    /// Waits until something can be attended to or a time has passed: what can be.
    fn wait(
        &self,
        session: &Session<'_>,
        signals: &Option<Signals<'_>>,
    ) -> io::Result<Vec<Source>> {
        let (read, write) = (PollFlags::IN, PollFlags::OUT);
        // Init takes one input after the other.
        let feed = session.feeds.iter().position(|feed| feed.fd().is_some());
        let exchange = session.exchange.as_ref().filter(|_| session.answer.is_none());
        let both = exchange.is_some_and(Exchange::wants_write);
        let relay = session.relay.as_ref().map(Relay::interest);
        let (person, task) =
            relay.map_or((None, None), |[person, task]| (Some(person), Some(task)));
        let sources: Vec<(Source, PollFd<'_>)> = [
            (Source::Control, Some(self.control.as_fd()), read),
            (Source::Channel, self.keeper.channel(), read),
            (Source::Signals, signals.as_ref().map(|signals| signals.fd), read),
            (Source::Stdout, session.stdout.as_ref().and_then(Capture::fd), read),
            (Source::Stderr, session.stderr.as_ref().and_then(Capture::fd), read),
            (Source::Feed(feed.unwrap_or(0)), feed.and_then(|at| session.feeds[at].fd()), write),
            (Source::Exchange, exchange.map(Exchange::fd), if both { read | write } else { read }),
            (Source::Person, person.and_then(|(fd, _)| fd), read),
            (
                Source::Terminal,
                task.and_then(|(fd, _)| fd),
                task.map_or(read, |(_, events)| events),
            ),
        ]
        .into_iter()
        .filter_map(|(source, fd, events)| Some((source, PollFd::from_borrowed_fd(fd?, events))))
        .collect();
        let (sources, mut fds): (Vec<Source>, Vec<PollFd<'_>>) = sources.into_iter().unzip();
        let time = session.until_next().map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut fds, time.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            polled => polled?,
        };
        let happened = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(sources
            .into_iter()
            .zip(happened)
            .filter(|(_, ready)| *ready)
            .map(|(it, _)| it)
            .collect())
    }

    /// Takes one message of init's.
    fn attend_to_init(&self, session: &mut Session<'_>) -> io::Result<()> {
        match self.hear_waiting()? {
            Event::NotStarted(failure) => session.not_started = Some(failure),
            Event::Exited(exited) => session.exited = Some(exited),
            Event::Terminal(task) => {
                if let Some(person) = session.streams.terminal {
                    session.relay = Some(Relay::new(person, task)?);
                }
            }
            Event::Ended => session.gone = true,
            Event::Reset(_) => {}
        }
        Ok(())
    }

    /// Takes what init had said before it ended, up to how the task ended.
    fn hear_out(&self, session: &mut Session<'_>) -> io::Result<()> {
        while session.exited.is_none() && !session.gone {
            self.attend_to_init(session)?;
        }
        Ok(())
    }

    /// Gives the caller's signals to the task. A second one to end it ends it.
    fn forward(
        &self,
        session: &mut Session<'_>,
        signals: &mut Option<Signals<'_>>,
    ) -> io::Result<()> {
        let Some(signals) = signals else { return Ok(()) };
        while let Some(signal) = (signals.next)() {
            if signal == libc::SIGWINCH && session.relay.is_some() {
                session.relay.iter().for_each(Relay::resize);
                continue;
            }
            let again = session.forwarded == Some(signal);
            let ends =
                matches!(signal, libc::SIGINT | libc::SIGTERM | libc::SIGQUIT | libc::SIGHUP);
            session.forwarded = Some(signal);
            self.signal(if again && ends { libc::SIGKILL } else { signal })?;
        }
        Ok(())
    }

    /// Moves the exchange with the worker on. After its answer the worker is not needed: nothing it
    /// does from then on is part of the call.
    fn exchange(&self, session: &mut Session<'_>) {
        let Some(exchange) = &mut session.exchange else { return };
        session.answer = match exchange.advance() {
            Ok(None) => return,
            Ok(Some(answer)) => Some(Ok(answer)),
            Err(error) => Some(Err(error)),
        };
        session.answered = Some(session.started.elapsed());
        if !matches!(session.answer, Some(Err(ExchangeError::Closed))) {
            session.end_by(Instant::now(), self);
        }
    }

    /// Ends the task when its time has passed, and the container if the task will not end.
    fn watch_time(&self, session: &mut Session<'_>) {
        let passed = |limit: &Duration| session.started.elapsed() >= *limit;
        if session.killed.is_none() && session.work.deadline.as_ref().is_some_and(passed) {
            session.timed_out = session.answer.is_none();
            session.end_by(Instant::now(), self);
        }
        if session.killed.is_some_and(|since| since.elapsed() >= GRACE) {
            session.killed = None;
            self.keeper.kill();
        }
    }
}

/// What init does when it has told how the work ended.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Waits for more to do.
    Wait,
    /// Ends, and the container with it.
    End,
}

/// Something that can be attended to.
#[derive(Debug, Clone, Copy)]
enum Source {
    Control,
    Channel,
    Signals,
    Stdout,
    Stderr,
    Feed(usize),
    Exchange,
    Person,
    Terminal,
}

fn advance(capture: &mut Option<Capture>) -> io::Result<()> {
    capture.as_mut().map_or(Ok(()), Capture::advance)
}

impl Session<'_> {
    /// Descriptors 0, 1 and 2 of the task.
    fn open_streams(&mut self) -> io::Result<Vec<OwnedFd>> {
        let bounds = self.work.bounds;
        let Streams { stdin, stdout, stderr, .. } = self.streams;
        let (stdin, _) = open_stream(stdin, None)?;
        let (stdout, out) = open_stream(stdout, Some(bounds.stdout_bytes_max))?;
        let (stderr, err) = open_stream(stderr, Some(bounds.stderr_bytes_max))?;
        (self.stdout, self.stderr) = (out, err);
        Ok(vec![stdin, stdout, stderr])
    }

    /// Asks init to end the task, and remembers when it was asked.
    fn end_by(&mut self, now: Instant, container: &Container) {
        self.killed = Some(now);
        // A container that cannot be told is ended by the monitor after the grace.
        let _ = container.signal(libc::SIGKILL);
    }

    /// Time until something is due by itself. `None`: nothing is.
    fn until_next(&self) -> Option<Duration> {
        if let Some(since) = self.killed {
            return Some(GRACE.saturating_sub(since.elapsed()));
        }
        self.work.deadline.map(|limit| limit.saturating_sub(self.started.elapsed()))
    }

    pub(super) fn relay_terminal(&mut self) -> io::Result<()> {
        if let Some(relay) = &mut self.relay
            && !relay.advance()?
        {
            self.relay = None;
        }
        Ok(())
    }

    pub(super) fn has_terminal(&self) -> bool {
        self.relay.is_some()
    }
}

/// A descriptor for the task, and what reads it if it is captured.
fn open_stream(
    stream: Stream<'_>,
    bytes_max: Option<u64>,
) -> io::Result<(OwnedFd, Option<Capture>)> {
    match (stream, bytes_max) {
        (Stream::Inherit(fd), _) => Ok((fd.try_clone_to_owned()?, None)),
        (Stream::Capture, Some(bytes_max)) => {
            let (capture, write) = Capture::new(bytes_max)?;
            Ok((write, Some(capture)))
        }
        (Stream::Null | Stream::Capture, _) => Ok((streams::null()?, None)),
    }
}

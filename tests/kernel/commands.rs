//! Starts programs, with a deadline, and collects what they say. The only file here that spawns.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use libtest_mimic::Failed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Longest that one program of a test may take before the test fails; far above what any needs,
/// even in an emulated guest, so that a hang is told from slowness.
const DEADLINE: Duration = Duration::from_secs(180);
/// The same for the guest, which runs all tests; `tests/guest/boot` ends it before.
const DEADLINE_LONG: Duration = Duration::from_secs(45 * 60);
/// Most bytes kept of each of a program's outputs; the rest is read and thrown away.
const KEPT_BYTES_MAX: usize = 512 << 20;

/// A program to be started.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    words: Vec<String>,
    input: Input,
}

/// What a program finds on its standard input.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// Nothing: `/dev/null`.
    Null,
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// A pipe whose other end the test keeps.
    Held,
}

/// How a program ended.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
    /// Bytes of standard output, also those that were not kept.
    pub(crate) stdout_bytes: u64,
}

impl Answer {
    /// Everything about it in a few lines, for a failure.
    pub(crate) fn told(&self) -> String {
        let mut text = match self.code {
            Some(code) => format!("exit code {code}"),
            None => "ended by a signal".to_owned(),
        };
        for (name, stream) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !stream.trim().is_empty() {
                let start: String = stream.trim().chars().take(4000).collect();
                let _ = write!(text, "\n  {name}: {start}");
            }
        }
        text
    }
}

impl Command {
    /// A program and its arguments, looked up in `PATH`.
    pub(crate) fn new<S: AsRef<str>>(words: &[S]) -> Command {
        let words = words.iter().map(|word| word.as_ref().to_owned()).collect();
        Command { words, input: Input::Null }
    }

    /// Gives it something on standard input.
    pub(crate) fn input(mut self, input: Input) -> Command {
        self.input = input;
        self
    }

    /// Runs it to its end.
    pub(crate) fn output(self) -> Result<Answer, Failed> {
        self.start()?.wait()
    }

    /// Starts it.
    #[expect(clippy::disallowed_methods, reason = "the file that starts programs")]
    pub(crate) fn start(self) -> Result<Running, Failed> {
        let mut command = std::process::Command::new(&self.words[0]);
        command.args(&self.words[1..]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(match self.input {
            Input::Null => Stdio::null(),
            Input::Bytes(_) | Input::Held => Stdio::piped(),
        });
        let told: String = self.words.join(" ").chars().take(300).collect();
        let mut child = command.spawn().map_err(|error| format!("cannot start {told}: {error}"))?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        if let Input::Bytes(bytes) = self.input
            && let Some(mut stdin) = child.stdin.take()
        {
            // A program that ends without reading breaks the pipe; what it says is what counts.
            std::thread::spawn(move || stdin.write_all(&bytes));
        }
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        Ok(Running { child, pid, pidfd, told, stdout, stderr, heard: 0 })
    }
}

/// Reads a stream to its end on a thread of its own, so that no output can block the program.
fn collect(stream: Option<impl Read + Send + 'static>) -> Collected {
    let (sender, chunks) = channel();
    std::thread::spawn(move || {
        let Some(mut stream) = stream else { return };
        let mut chunk = vec![0; 1 << 16];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            // The receiver is gone only if the test already failed.
            if sender.send(chunk[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    Collected { chunks, kept: Vec::new(), total: 0 }
}

/// What a thread reads of a stream.
#[derive(Debug)]
struct Collected {
    chunks: Receiver<Vec<u8>>,
    kept: Vec<u8>,
    total: u64,
}

impl Collected {
    /// Takes in the next piece; `false` at the end. An error means that something is still open.
    fn next(&mut self) -> Result<bool, RecvTimeoutError> {
        match self.chunks.recv_timeout(DEADLINE) {
            Ok(chunk) => {
                self.total += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
                if self.kept.len() < KEPT_BYTES_MAX {
                    self.kept.extend(chunk);
                }
                Ok(true)
            }
            Err(RecvTimeoutError::Disconnected) => Ok(false),
            Err(error @ RecvTimeoutError::Timeout) => Err(error),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

/// A program that was started. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    told: String,
    stdout: Collected,
    stderr: Collected,
    /// Bytes of standard error that have been waited for.
    heard: usize,
}

impl Running {
    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal; one that has ended gets none.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Writes to its standard input.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let stdin = self.child.stdin.as_mut().ok_or("no standard input is held")?;
        Ok(stdin.write_all(bytes)?)
    }

    /// Waits at most `limit` for its end.
    pub(crate) fn ends_within(&self, limit: Duration) -> Result<bool, Failed> {
        let timeout = Timespec::try_from(limit)?;
        let mut waited = [PollFd::new(&self.pidfd, PollFlags::IN)];
        Ok(poll(&mut waited, Some(&timeout))? > 0)
    }

    /// Waits until its standard output holds a text.
    pub(crate) fn wait_for_output(&mut self, text: &str) -> Result<(), Failed> {
        while !self.stdout.text().contains(text) {
            if !self.stdout.next().unwrap_or(false) {
                return Err(format!("{} never said {text:?}", self.told).into());
            }
        }
        Ok(())
    }

    /// Waits until its standard error says a text that it has not been waited for yet.
    pub(crate) fn wait_for_error(&mut self, text: &str) -> Result<(), Failed> {
        loop {
            let said = String::from_utf8_lossy(&self.stderr.kept[self.heard..]).into_owned();
            if let Some(at) = said.find(text) {
                self.heard += at + text.len();
                return Ok(());
            }
            if !self.stderr.next().unwrap_or(false) {
                return Err(format!("{} never said {text:?}, but: {said}", self.told).into());
            }
        }
    }

    /// Waits for its end and returns what it said. Its standard input is closed first.
    pub(crate) fn wait(self) -> Result<Answer, Failed> {
        self.wait_at_most(DEADLINE)
    }

    /// The same for a program that bounds its own time and is silent for long.
    pub(crate) fn wait_long(self) -> Result<Answer, Failed> {
        self.wait_at_most(DEADLINE_LONG)
    }

    fn wait_at_most(mut self, limit: Duration) -> Result<Answer, Failed> {
        drop(self.child.stdin.take());
        let ended = self.ends_within(limit)?;
        if !ended {
            self.signal(Signal::KILL);
        }
        let status = self.child.wait()?;
        for stream in [&mut self.stdout, &mut self.stderr] {
            while stream.next().map_err(|_| format!("{}: its output is still held", self.told))? {}
        }
        let answer = Answer {
            code: status.code(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            stdout_bytes: self.stdout.total,
        };
        if ended {
            return Ok(answer);
        }
        let told = answer.told();
        Err(format!("{} had not ended after {limit:?}: {told}", self.told).into())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

//! Standard streams of a task: passed through, captured within bounds, or a terminal's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;

/// Where one of a task's standard streams goes.
#[derive(Debug, Clone, Copy)]
pub enum Stream<'a> {
    /// To this descriptor, which the task then holds itself.
    Inherit(BorrowedFd<'a>),
    /// Nowhere: nothing to read, and what is written is gone.
    Null,
    /// Into [`Outcome::stdout`](crate::Outcome::stdout) or `stderr`. For standard input: nowhere.
    Capture,
}

/// A task's standard streams.
#[derive(Debug, Clone, Copy)]
pub struct Streams<'a> {
    /// Standard input.
    pub stdin: Stream<'a>,
    /// Standard output.
    pub stdout: Stream<'a>,
    /// Standard error.
    pub stderr: Stream<'a>,
    /// The caller's side of a terminal, if the task gets one of its own; then the three above are
    /// not used.
    pub terminal: Option<Terminal<'a>>,
}

/// The caller's side of a task's terminal.
#[derive(Debug, Clone, Copy)]
pub struct Terminal<'a> {
    /// What a person types, raw.
    pub input: BorrowedFd<'a>,
    /// What a person sees.
    pub output: BorrowedFd<'a>,
}

impl Terminal<'_> {
    /// Rows and columns of the caller's terminal, or of an old one if it has none.
    pub(super) fn size(&self) -> Winsize {
        let usual = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcgetwinsize(self.output).unwrap_or(usual)
    }
}

/// Bytes moved at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// What comes out of a pipe, up to a bound; the rest is read and thrown away, so that the task is
/// not held up.
#[derive(Debug)]
pub(super) struct Capture {
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
    bytes_max: u64,
    left_out_bytes: u64,
}

impl Capture {
    /// The capture and the end that the task writes to.
    pub(super) fn new(bytes_max: u64) -> io::Result<(Capture, OwnedFd)> {
        let (read, write) = output_pipe()?;
        let capture = Capture { pipe: Some(read), kept: Vec::new(), bytes_max, left_out_bytes: 0 };
        Ok((capture, write))
    }

    /// The descriptor to wait for, until its other end is closed.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what is there.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        let mut chunk = [0; CHUNK_BYTES];
        while let Some(pipe) = &self.pipe {
            match rustix::io::read(pipe, &mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(bytes) => self.keep(&chunk[..bytes]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn keep(&mut self, chunk: &[u8]) {
        let room = usize::try_from(self.bytes_max).unwrap_or(usize::MAX) - self.kept.len();
        let taken = chunk.len().min(room);
        self.kept.extend_from_slice(&chunk[..taken]);
        self.left_out_bytes += (chunk.len() - taken) as u64;
    }

    /// What was captured, as text; what is not UTF-8 is replaced, and what was left out is said.
    pub(super) fn into_text(self) -> String {
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        if self.left_out_bytes > 0 {
            let line = format!("\n[run-in-container: {} bytes left out]\n", self.left_out_bytes);
            text.push_str(&line);
        }
        text
    }
}

/// A pipe for what a task prints: the end to read, which does not block, and the task's.
pub(super) fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

/// Nothing to read, and what is written is gone.
pub(super) fn null() -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?)
}

/// Moves bytes between a person's terminal and the task's.
#[derive(Debug)]
pub(super) struct Relay<'a> {
    person: Terminal<'a>,
    task: OwnedFd,
    typed: Vec<u8>,
    input_open: bool,
}

impl<'a> Relay<'a> {
    pub(super) fn new(person: Terminal<'a>, task: OwnedFd) -> io::Result<Relay<'a>> {
        rustix::io::ioctl_fionbio(&task, true)?;
        Ok(Relay { person, task, typed: Vec::new(), input_open: true })
    }

    /// The person's terminal has another size now.
    pub(super) fn resize(&self) {
        // A task that has ended has no terminal to resize.
        let _ = rustix::termios::tcsetwinsize(&self.task, self.person.size());
    }

    /// The descriptors to wait for, and for what: the person's, then the task's.
    pub(super) fn interest(&self) -> [(Option<BorrowedFd<'_>>, PollFlags); 2] {
        let wants_typed = self.input_open && self.typed.is_empty();
        let input = wants_typed.then_some(self.person.input);
        let both = PollFlags::IN | PollFlags::OUT;
        let task = if self.typed.is_empty() { PollFlags::IN } else { both };
        [(input, PollFlags::IN), (Some(self.task.as_fd()), task)]
    }

    /// Reads what the person typed.
    pub(super) fn read_person(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        match rustix::io::read(self.person.input, &mut chunk) {
            Ok(0) => self.input_open = false,
            Ok(bytes) => self.typed.extend_from_slice(&chunk[..bytes]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.input_open = false,
        }
        self.write_task()
    }

    /// Moves what can be moved. `false`: the task's side is closed.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        self.write_task()?;
        let mut chunk = [0; CHUNK_BYTES];
        match rustix::io::read(&self.task, &mut chunk) {
            // EIO is how a terminal says that nobody holds its other side, tty_ioctl(4).
            Ok(0) | Err(Errno::IO) => Ok(false),
            Ok(bytes) => write_all(self.person.output, &chunk[..bytes]).map(|()| true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_task(&mut self) -> io::Result<()> {
        while !self.typed.is_empty() {
            match rustix::io::write(&self.task, &self.typed) {
                Ok(bytes) => drop(self.typed.drain(..bytes)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::IO) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Writes all of `bytes`, waiting where the other side is slow.
pub(super) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut wait = [rustix::event::PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut wait, None))?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

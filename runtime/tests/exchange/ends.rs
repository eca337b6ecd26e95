//! Both ends: a real `worker.py`, a forged worker, and the loop that a container would run.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ric_runtime::{
    Answer, Argument, Arguments, Bounds, Call, Declined, Exchange, ExchangeError, Kind, NO_TASK,
    Preload, Raised, TaskId, WORKER_FLAGS, encode_frame,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

/// A guard against tests that hang; nothing is expected to take any of it.
const GUARD: Duration = Duration::from_secs(30);

pub(crate) const BOUNDS: Bounds = Bounds {
    stdout_bytes_max: 1 << 20,
    stderr_bytes_max: 1 << 20,
    result_bytes_max: 32 << 20,
    output_bytes_max: 1 << 20,
};

pub(crate) fn task(number: u32) -> TaskId {
    let mut task = [0xab; 16];
    task[12..].copy_from_slice(&number.to_be_bytes());
    task
}

pub(crate) fn call(source: &str, function: &str, positional: &[Argument]) -> Call {
    call_with(
        source,
        function,
        Arguments::Json { positional: positional.to_vec(), named: BTreeMap::new() },
    )
}

pub(crate) fn call_with(source: &str, function: &str, arguments: Arguments) -> Call {
    Call {
        interpreters: vec!["python3".to_owned()],
        file_name: "task.py".to_owned(),
        source: source.as_bytes().to_vec(),
        function: function.to_owned(),
        arguments,
        preload: Preload::default(),
    }
}

/// A pickle made by the same Python as the worker's, of what the expression says.
pub(crate) fn pickled(expression: &str) -> Arguments {
    let program = format!("import pickle,sys; sys.stdout.buffer.write(pickle.dumps({expression}))");
    let run = |program: &str| {
        Command::new("/usr/bin/python3").args(["-c", program]).output().unwrap().stdout
    };
    let python = run("import sys; print('%d.%d' % sys.version_info[:2], end='')");
    Arguments::Pickle { bytes: run(&program), python: String::from_utf8(python).unwrap() }
}

/// A worker process, started as PID 1 of a container would start it.
pub(crate) struct Worker {
    process: Child,
    socket: Option<UnixStream>,
    exchange: Option<Exchange>,
    next_task: u32,
}

impl Worker {
    #[allow(clippy::disallowed_methods, reason = "a test may start the process that it tests")]
    pub(crate) fn start() -> Worker {
        let (owner, inside) = UnixStream::pair().unwrap();
        let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.py");
        let process = Command::new("/bin/sh")
            .args(["-c", "exec 3<&0 </dev/null; exec \"$@\"", "sh", "/usr/bin/python3"])
            .args(WORKER_FLAGS)
            .arg(worker)
            .stdin(OwnedFd::from(inside))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Worker { process, socket: Some(owner), exchange: None, next_task: 1 }
    }

    /// The bare connection, for tests that speak for the owner themselves.
    pub(crate) fn into_socket(mut self) -> (UnixStream, Child) {
        let socket = self.socket.take().unwrap();
        socket.set_read_timeout(Some(GUARD)).unwrap();
        (socket, self.process)
    }

    pub(crate) fn call(&mut self, call: &Call) -> Result<Answer, ExchangeError> {
        let task = task(self.next_task);
        self.next_task += 1;
        if let Some(exchange) = &mut self.exchange {
            exchange.begin(call, task, &BOUNDS)?;
        } else {
            let socket = self.socket.take().unwrap();
            self.exchange = Some(Exchange::new(socket, call, task, &BOUNDS)?);
        }
        drive(self.exchange())
    }

    pub(crate) fn exchange(&mut self) -> &mut Exchange {
        self.exchange.as_mut().unwrap()
    }

    /// Calls `function()` of `source` and expects a JSON result.
    pub(crate) fn value(&mut self, source: &str, function: &str) -> Value {
        match self.call(&call(source, function, &[])) {
            Ok(Answer::Json(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("{function} gave {other:?}"),
        }
    }

    /// Ends the connection, and returns how the process ended and what it had printed.
    pub(crate) fn end(mut self) -> (ExitStatus, String, String) {
        drop(self.exchange);
        drop(self.socket);
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.process.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.process.wait().unwrap(), stdout, stderr)
    }
}

/// Makes one call in a worker of its own.
pub(crate) fn answer(source: &str, function: &str) -> Result<Answer, ExchangeError> {
    let mut worker = Worker::start();
    let answer = worker.call(&call(source, function, &[]));
    worker.end();
    answer
}

pub(crate) fn raised(source: &str, function: &str) -> Raised {
    match answer(source, function) {
        Ok(Answer::Raised(raised)) => raised,
        other => panic!("{function} gave {other:?}"),
    }
}

pub(crate) fn declined(source: &str, function: &str) -> Declined {
    match answer(source, function) {
        Ok(Answer::Declined(declined)) => declined,
        other => panic!("{function} gave {other:?}"),
    }
}

/// What a container's loop does, without its other events.
pub(crate) fn drive(exchange: &mut Exchange) -> Result<Answer, ExchangeError> {
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < GUARD, "the exchange spins");
        if let Some(answer) = exchange.advance()? {
            return Ok(answer);
        }
        let mut events = PollFlags::IN;
        if exchange.wants_write() {
            events |= PollFlags::OUT;
        }
        let timeout = Timespec::try_from(GUARD).unwrap();
        let ready = poll(&mut [PollFd::new(&exchange.fd(), events)], Some(&timeout)).unwrap();
        assert!(ready > 0, "the exchange hangs");
    }
}

/// A worker of the test's own making: whatever is written to it reaches the owner as it is.
pub(crate) struct Forged {
    pub(crate) socket: UnixStream,
    pub(crate) exchange: Exchange,
    pub(crate) task: TaskId,
}

impl Forged {
    /// Has not greeted yet.
    pub(crate) fn silent() -> Forged {
        let (owner, socket) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(GUARD)).unwrap();
        let task = task(1);
        let exchange = Exchange::new(owner, &call("", "f", &[]), task, &BOUNDS).unwrap();
        Forged { socket, exchange, task }
    }

    /// Has greeted.
    pub(crate) fn greeted() -> Forged {
        let mut forged = Forged::silent();
        forged.socket.write_all(&hello()).unwrap();
        forged
    }

    /// Sends bytes, ends the stream and returns what the owner makes of it.
    pub(crate) fn says(mut self, bytes: &[u8]) -> Result<Answer, ExchangeError> {
        self.socket.write_all(bytes).unwrap();
        self.socket.shutdown(std::net::Shutdown::Write).unwrap();
        drive(&mut self.exchange)
    }
}

pub(crate) fn hello() -> Vec<u8> {
    let metadata =
        br#"{"version_lowest":1,"version_highest":1,"python":"3.11.2","executable":"/p","pid":7}"#;
    encode_frame(Kind::Hello, NO_TASK, metadata, b"").unwrap()
}

pub(crate) fn result(task: TaskId, json: &[u8]) -> Vec<u8> {
    encode_frame(Kind::Result, task, br#"{"encoding":"json"}"#, json).unwrap()
}

/// Descriptors of this process that are open now.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

pub(crate) fn send_with_descriptors(socket: &UnixStream, byte: u8, descriptors: &[OwnedFd]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let byte = [byte];
    let bytes = [std::io::IoSlice::new(&byte)];
    sendmsg(socket, &bytes, &mut control, SendFlags::empty()).unwrap();
}

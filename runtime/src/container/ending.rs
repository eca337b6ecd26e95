//! From how a task ended to its [`Outcome`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::control::{Exited, NotStarted};
use super::files::copy_output;
use super::run::{RunError, Session, attend};
use super::{Container, streams};
use crate::exchange::{Answer, ExchangeError, Raised};
use crate::native::{monitor, protocol};
use crate::usage::CgroupUsage;
use crate::{Outcome, Program, Status, Usage, Work};

/// Exit codes that a shell and other container tools use.
const TIMEOUT: i32 = 124;
const OURS: i32 = 125;
const CANNOT_EXECUTE: i32 = 126;
const NOT_FOUND: i32 = 127;
const SIGNALLED: i32 = 128;

/// Reads what the task has left in its pipes: everything that held their other ends has ended.
pub(super) fn drain(session: &mut Session<'_>) -> Result<(), RunError> {
    for capture in [&mut session.stdout, &mut session.stderr].into_iter().flatten() {
        capture.advance().map_err(attend("read the task's output"))?;
    }
    while session.has_terminal() && session.exited.is_some() {
        session.relay_terminal().map_err(attend("read the task's terminal"))?;
    }
    if session.answer.is_none()
        && let Some(exchange) = &mut session.exchange
    {
        session.answer = match exchange.advance() {
            Ok(None) => Some(Err(ExchangeError::Closed)),
            Ok(Some(answer)) => Some(Ok(answer)),
            Err(error) => Some(Err(error)),
        };
    }
    Ok(())
}

/// How a task ended that gave no answer of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// In one word.
    pub status: Status,
    /// What `run-in-container` exits with.
    pub exit_code: i32,
    /// What there is to say beyond that.
    pub error: Option<String>,
}

impl Ending {
    fn new(status: Status, exit_code: i32, error: impl Into<Option<String>>) -> Ending {
        Ending { status, exit_code, error: error.into() }
    }

    /// The same for a call, of which ending well is no answer.
    #[must_use]
    pub fn of_call(self) -> Ending {
        let no_answer = "the function ended its process before it returned, and left no result";
        let error = self.error.unwrap_or_else(|| no_answer.to_owned());
        match self.status == Status::Ok {
            true => Ending::new(Status::Failed, 1, error),
            false => Ending::new(self.status, self.exit_code, error),
        }
    }

    /// How the task's first process (`exited`), or else all of the container, ended.
    ///
    /// `forwarded` is the caller's last signal that it was given; `out_of_memory` says whether the
    /// kernel ended a process of it for want of memory.
    #[must_use]
    pub fn of(exited: Option<Exited>, forwarded: Option<i32>, out_of_memory: bool) -> Ending {
        let memory =
            "the task used more memory than its limit, and the kernel ended a process of it";
        let Some(Exited { wait_status, .. }) = exited else {
            let code = SIGNALLED + libc::SIGKILL;
            return match out_of_memory {
                true => Ending::new(Status::OutOfMemory, code, memory.to_owned()),
                false => {
                    let text = "the container was ended from outside".to_owned();
                    Ending::new(Status::Lost, code, text)
                }
            };
        };
        let status = ExitStatus::from_raw(wait_status);
        let signal = status.signal();
        let code = status.code().or(signal.map(|signal| SIGNALLED + signal)).unwrap_or(OURS);
        match signal {
            _ if out_of_memory && code != 0 => {
                Ending::new(Status::OutOfMemory, code, memory.to_owned())
            }
            None if code == 0 => Ending::new(Status::Ok, 0, None),
            Some(signal) if forwarded.is_some() => Ending::new(
                Status::Cancelled,
                code,
                format!("the caller ended the task with signal {signal}"),
            ),
            Some(signal) => {
                Ending::new(Status::Killed, code, format!("the task was ended by signal {signal}"))
            }
            None => Ending::new(Status::Failed, code, None),
        }
    }
}

/// Puts the outcome together. Copies the outputs of a task that did what it should.
pub(super) fn outcome(
    container: &mut Container,
    mut session: Session<'_>,
    outputs: &[File],
) -> Result<Outcome, RunError> {
    let mut used = container.usage.read();
    if session.gone && used.oom_kills == 0 && container.keeper.ran_out_of_memory() {
        used.oom_kills = 1;
    }
    let wall = session.answered.unwrap_or_else(|| session.started.elapsed());
    let (mut ending, results) = judge(&mut session, used);
    let mut written = BTreeMap::new();
    if ending.status == Status::Ok {
        for (output, file) in session.work.outputs.iter().zip(outputs) {
            match container.fetch(&output.name, file, session.work.bounds.output_bytes_max) {
                Ok(digest) => drop(written.insert(output.name.clone(), digest)),
                Err(error) => {
                    let name = &output.name;
                    let text = format!("cannot copy the output `{name}` out of /task: {error}");
                    ending = Ending::new(Status::Failed, 1, text);
                    break;
                }
            }
        }
    }
    let payload = session.exchange.as_ref().map(|exchange| exchange.digests().clone());
    let cpu_us = session.exited.map_or(0, |exited| exited.cpu_us);
    let largest_bytes = session.exited.map_or(0, |exited| exited.largest_kib * 1024);
    let text =
        |capture: Option<streams::Capture>| capture.map_or(String::new(), |it| it.into_text());
    Ok(Outcome {
        status: ending.status,
        exit_code: ending.exit_code,
        result: results.json,
        result_pickle: results.pickle,
        stdout: text(session.stdout.take()),
        stderr: text(session.stderr.take()),
        error: ending.error,
        payload: payload.unwrap_or_default(),
        usage: Usage {
            wall_s: wall.as_secs_f64(),
            cpu_s: std::time::Duration::from_micros(cpu_us).as_secs_f64(),
            memory_peak_bytes: used.memory_peak_bytes.unwrap_or(largest_bytes),
        },
        container: container.facts.clone(),
        enforced: container.enforced.clone(),
        outputs: written,
        inputs: session.feeds.into_iter().map(|feed| feed.into_digest()).collect(),
    })
}

/// A result, as JSON or as it travelled.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) json: Option<serde_json::Value>,
    pub(crate) pickle: Option<Vec<u8>>,
}

fn judge(session: &mut Session<'_>, used: CgroupUsage) -> (Ending, Results) {
    if session.timed_out {
        let limit = session.work.deadline.unwrap_or_default();
        let text = format!("the task did not end within its time of {limit:?}, and was ended");
        return (Ending::new(Status::Timeout, TIMEOUT, text), Results::default());
    }
    if let Some(failure) = session.not_started {
        return (not_started(session.work, failure), Results::default());
    }
    let pids = (used.pids_refused > 0).then(|| {
        format!("its limit of processes and threads refused it one {} times", used.pids_refused)
    });
    match session.answer.take() {
        Some(Ok(answer)) => answered(answer, pids),
        Some(Err(ExchangeError::Closed)) | None => {
            let ended = Ending::of(session.exited, session.forwarded, used.oom_kills > 0);
            let ended = Ending { error: ended.error.or(pids), ..ended };
            let is_call = session.exchange.is_some();
            (if is_call { ended.of_call() } else { ended }, Results::default())
        }
        Some(Err(error)) => {
            let status = match error {
                ExchangeError::Corrupt { .. } => Status::Corrupt,
                ExchangeError::Io { .. } => Status::Error,
                ExchangeError::Version { .. }
                | ExchangeError::Protocol { .. }
                | ExchangeError::TooLarge { .. }
                | ExchangeError::Closed => Status::Failed,
            };
            (Ending::new(status, 1, error.to_string()), Results::default())
        }
    }
}

/// What an answer means; `pids` is what there is to say of refused processes.
pub(crate) fn answered(answer: Answer, pids: Option<String>) -> (Ending, Results) {
    let ok = Ending::new(Status::Ok, 0, None);
    let failed = |code, mut text: String| {
        if let Some(pids) = pids {
            text = format!("{}\n{pids}", text.trim_end());
        }
        (Ending::new(Status::Failed, code, text), Results::default())
    };
    match answer {
        Answer::Json(text) => match serde_json::from_str(&text) {
            Ok(value) => (ok, Results { json: Some(value), pickle: None }),
            Err(error) => failed(1, format!("the result is not JSON that can be read: {error}")),
        },
        Answer::Pickle { bytes, .. } => (ok, Results { json: None, pickle: Some(bytes) }),
        Answer::Raised(raised) => {
            // An exit code of 0 is no result either.
            let code = raised.exit_code.filter(|code| *code != 0).unwrap_or(1);
            failed(code.into(), raised_text(raised))
        }
        Answer::Declined(declined) if declined.hint.is_empty() => failed(1, declined.message),
        Answer::Declined(declined) => {
            failed(1, format!("{}\nhint: {}", declined.message, declined.hint))
        }
    }
}

/// The traceback as Python prints it, and the way out where the environment lacks a module.
fn raised_text(raised: Raised) -> String {
    let mut text = raised.traceback.trim_end().to_owned();
    if let Some(module) = raised.missing_module {
        text += &format!(
            "\nhint: the image has no module `{module}`: use an image that has it with `--image`"
        );
    }
    text
}

/// Says which part of starting the program failed, with what was asked for.
pub(super) fn not_started(work: &Work, failure: NotStarted) -> Ending {
    let why = io::Error::from_raw_os_error(failure.errno);
    let which = usize::try_from(failure.more).unwrap_or(usize::MAX);
    match failure.stage {
        protocol::STAGE_EXEC => not_executed(&work.program, failure, &why),
        protocol::STAGE_WORKDIR => {
            let text = format!("cannot enter the working directory {}: {why}", work.workdir);
            Ending::new(Status::Error, OURS, text)
        }
        protocol::STAGE_INPUT => {
            let name = work.inputs.get(which).map_or("", |input| input.name.as_str());
            Ending::new(Status::Error, OURS, format!("cannot write the input /task/{name}: {why}"))
        }
        protocol::STAGE_SECRET => {
            let name = work.secrets.get(which).map_or("", |secret| secret.name.as_str());
            let text = format!("cannot write the secret /run/secrets/{name}: {why}");
            Ending::new(Status::Error, OURS, text)
        }
        protocol::STAGE_TERMINAL => {
            Ending::new(Status::Error, OURS, format!("cannot make a terminal: {why}"))
        }
        _ => Ending::new(Status::Error, OURS, format!("cannot start a process: {why}")),
    }
}

fn not_executed(program: &Program, failure: NotStarted, why: &io::Error) -> Ending {
    let exists = failure.more == 1;
    let missing = failure.errno == libc::ENOENT || failure.errno == libc::ENOTDIR;
    let code = if missing && !exists { NOT_FOUND } else { CANNOT_EXECUTE };
    let text = match program {
        Program::Call(call) => format!(
            "there is no Python in the image that can be started: tried {}: {why}\n\
             hint: use an image with Python 3.8 or newer, or `--image host:`",
            call.interpreters.join(", ")
        ),
        Program::Command(argv) => {
            let name = argv.first().map_or("", String::as_str);
            match (missing, exists) {
                (true, false) => format!("command not found in the image: {name}"),
                (true, true) => {
                    format!("cannot execute {name}: its interpreter or loader is not in the image")
                }
                (false, _) => format!("cannot execute {name}: {why}"),
            }
        }
    };
    Ending::new(Status::Failed, code, text)
}

impl Container {
    /// Has init open a file of `/task`, and copies it: its SHA-256.
    fn fetch(&self, name: &str, mut to: &File, bytes_max: u64) -> io::Result<String> {
        let gone = || io::Error::other("the container is gone");
        let control = &self.control;
        monitor::send(control, protocol::FETCH, 0, name.as_bytes(), &[])?;
        // Init answers at once or is stopped: wait no longer than for any other sign of life.
        let mut fds = [PollFd::new(control, PollFlags::IN)];
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        if rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&limit)))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let message = monitor::receive(control)?.ok_or_else(gone)?;
        let errno = i32::try_from(message.numbers[0]).unwrap_or(libc::EIO);
        match message.fd {
            Some(file) if errno == 0 => copy_output(file, &mut to, bytes_max),
            _ if errno == libc::ENOENT => Err(io::Error::other("the task did not make it")),
            _ => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

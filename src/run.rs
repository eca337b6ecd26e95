//! `run`: a command in a sandbox, joined to this program's own streams, signals and terminal.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use ric_images::Identity;
use ric_runtime::{Actor, Outcome, Signals, Status, Stream, Streams, Task, Terminal};

use crate::args::RunArgs;
use crate::environments::{self, Unbuilt};
use crate::failure::{Failure, printable};
use crate::outputs::Outputs;
use crate::progress::Bars;
use crate::session::{self, Session};
use crate::task::{self, Descriptors};
use crate::terminal::RawTerminal;
use crate::{Answer, signals};

pub(crate) fn run(args: RunArgs) -> Result<Answer, Failure> {
    let RunArgs { mut sandbox, tty, command } = args;
    let json = sandbox.json;
    if tty {
        require_terminal()?;
    }
    let policy = session::load_policy(&sandbox.policy)?;
    environments::apply(&mut sandbox, &policy, Unbuilt::Build)?;
    let store = sandbox.store.clone();
    let (task, descriptors) = task::command(sandbox, command, tty)?;
    let mut session = Session::open(policy, &task.caller, store.as_deref())?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let terminal = Terminal { input: stdin.as_fd(), output: stdout.as_fd() };
    let streams = Streams {
        stdin: Stream::Inherit(stdin.as_fd()),
        stdout: if json { Stream::Capture } else { Stream::Inherit(stdout.as_fd()) },
        stderr: if json { Stream::Capture } else { Stream::Inherit(stderr.as_fd()) },
        terminal: tty.then_some(terminal),
    };
    let outcome = carry_out(&mut session, &task, &descriptors, streams)?;
    Ok(if json { answer_json(&outcome) } else { answer(&outcome) })
}

/// The straight line after the decision, for `run` and `call` alike.
pub(crate) fn carry_out(
    session: &mut Session,
    task: &Task,
    descriptors: &Descriptors,
    streams: Streams<'_>,
) -> Result<Outcome, Failure> {
    let mut decision = session.decide(task)?;
    if session.make_store()? && matches!(decision.manifest.identity, Identity::Digest(_)) {
        decision = session.decide(task)?;
    }
    let image = session.ensure_root(&decision, &Bars::default())?;
    let outputs = Outputs::open(&task.outputs)?;
    let container = session.start(&decision, &image, descriptors)?;
    // From now on a signal is the task's. Until here one ends this program, and with it whatever
    // had been started, so that a start that hangs can be given up.
    let (wakeup, mut queue) = signals::watch()
        .map_err(|error| Failure::new(Actor::Host, "cannot watch for signals").because(&error))?;
    let raw = match streams.terminal {
        Some(terminal) => Some(RawTerminal::enter(terminal.input).map_err(|error| {
            Failure::new(Actor::User, "cannot make the terminal raw").because(&error)
        })?),
        None => None,
    };
    let signals = Signals { fd: wakeup.as_fd(), next: &mut || queue.take() };
    let work = &decision.plan.work;
    let outcome = session::run(container, work, streams, signals, descriptors, outputs.files())?;
    drop(raw);
    if outcome.status == Status::Ok {
        outputs.publish()?;
    }
    Ok(outcome)
}

/// A terminal of the task's own needs one of ours that it is joined to.
fn require_terminal() -> Result<(), Failure> {
    let ours = [("input", io::stdin().is_terminal()), ("output", io::stdout().is_terminal())];
    match ours.iter().find(|(_, is_terminal)| !is_terminal) {
        None => Ok(()),
        Some((name, _)) => Err(Failure::new(Actor::User, "cannot join the task to this terminal")
            .cause(format!("standard {name} is not a terminal"))
            .hint("drop `-t`")),
    }
}

/// What is said about an outcome whose output went its own way: only what the exit code does not
/// say.
fn answer(outcome: &Outcome) -> Answer {
    let error = outcome.error.as_deref().filter(|_| outcome.status != Status::Cancelled);
    let stderr = error.map(tell).unwrap_or_default();
    Answer { stderr: stderr.into_bytes(), exit_code: exit_code(outcome), ..Answer::text("") }
}

/// `error` as this program says it on standard error.
pub(crate) fn tell(error: &str) -> String {
    format!("run-in-container: {}\n", printable(error).replace('\n', "\n  "))
}

/// The object of `--json`.
pub(crate) fn answer_json(outcome: &Outcome) -> Answer {
    Answer::json(outcome, exit_code(outcome))
}

/// The outcome's exit code, which is one by construction: `wait(2)` gives eight bits.
pub(crate) fn exit_code(outcome: &Outcome) -> u8 {
    u8::try_from(outcome.exit_code).unwrap_or(crate::failure::EXIT_FAILED)
}

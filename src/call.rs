//! `call`: a Python function in a sandbox. Its result goes to standard output, all else to standard
//! error.

use std::io;
use std::os::fd::AsFd;

use ric_runtime::{Outcome, Status, Stream, Streams};

use crate::Answer;
use crate::args::CallArgs;
use crate::environments::{self, Unbuilt};
use crate::failure::{Failure, printable};
use crate::run::{answer_json, carry_out, exit_code, tell};
use crate::session::{self, Session};
use crate::task;
use crate::warm::Daemon;

/// Exit code of a function that raised, or whose result cannot be shown: Python's own.
const EXIT_RAISED: i32 = 1;

/// How Python begins a traceback, which needs no word of ours before it.
const TRACEBACK: &str = "Traceback (";

pub(crate) fn call(mut args: CallArgs) -> Result<Answer, Failure> {
    let json = args.sandbox.json;
    let policy = session::load_policy(&args.sandbox.policy)?;
    let environment = environments::apply(&mut args.sandbox, &policy, Unbuilt::Build)?;
    let store = args.sandbox.store.clone();
    let function = args.called.function.name.clone();
    let daemon = Daemon::wanted(&args)?;
    let (task, descriptors) = task::call(args.sandbox, args.called, environment)?;
    if let Some(outcome) = daemon.call(&task, &descriptors, json)? {
        return Ok(show(outcome, &function, json));
    }
    let mut session = Session::open(policy, &task.caller, store.as_deref())?;
    let stderr = io::stderr();
    let printed = if json { Stream::Capture } else { Stream::Inherit(stderr.as_fd()) };
    // A function has arguments; what is on our standard input is not one of them.
    let streams = Streams { stdin: Stream::Null, stdout: printed, stderr: printed, terminal: None };
    let outcome = carry_out(&mut session, &task, &descriptors, streams)?;
    Ok(show(outcome, &function, json))
}

/// What is printed of a call's outcome; `function` names it.
pub(crate) fn show(outcome: Outcome, function: &str, json: bool) -> Answer {
    let outcome = without_pickle(outcome, function);
    if json { answer_json(&outcome) } else { answer(&outcome) }
}

/// A pickle can run any code in whoever decodes it, so that this program shows none.
fn without_pickle(outcome: Outcome, function: &str) -> Outcome {
    if outcome.result_pickle.is_none() {
        return outcome;
    }
    Outcome {
        status: Status::Failed,
        exit_code: EXIT_RAISED,
        error: Some(format!(
            "{function} returned a value that is not JSON, and this program decodes no pickles\n\
             hint: return text, numbers, booleans, None, and lists or dicts of them"
        )),
        ..outcome
    }
}

fn answer(outcome: &Outcome) -> Answer {
    let exit_code = exit_code(outcome);
    match (&outcome.result, outcome.status, &outcome.error) {
        (Some(result), Status::Ok, _) => Answer::json(result, exit_code),
        (_, _, Some(error)) if error.starts_with(TRACEBACK) => {
            let stderr = format!("{}\n", printable(error)).into_bytes();
            Answer { stderr, exit_code, ..Answer::text("") }
        }
        (_, _, error) => {
            let error = error.as_deref().unwrap_or("the function gave no result");
            Answer { stderr: tell(error).into_bytes(), exit_code, ..Answer::text("") }
        }
    }
}

//! The program as one match, and the only place that prints and exits.

#![forbid(unsafe_code)]

mod args;

mod task;

mod session;

mod warm;

mod call;
mod cancel;
mod doctor;
mod environments;
mod images;
mod logs;
mod manual;
mod metrics;
mod plan;
mod policy;
mod ps;
mod result;
mod run;
mod serve;
mod status;
mod stop;
mod submit;
mod top;

mod machine;
mod outputs;
mod places;
mod progress;
mod signals;
mod terminal;

mod blame;
mod failure;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Args, Verb};
use failure::{EXIT_BROKEN_PIPE, EXIT_FAILED, Failure};
use ric_runtime::Actor;

/// What a verb has to say, and how the program ends.
struct Answer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    exit_code: u8,
    /// What is done once all of it has been printed.
    afterwards: Option<Box<dyn FnOnce() -> Result<(), Failure>>>,
}

impl Answer {
    /// Text for standard output, and success.
    fn text(stdout: impl Into<Vec<u8>>) -> Self {
        Self { stdout: stdout.into(), stderr: Vec::new(), exit_code: 0, afterwards: None }
    }

    /// One JSON value on a line of its own.
    fn json(value: &impl serde::Serialize, exit_code: u8) -> Self {
        let mut stdout = serde_json::to_vec(value).expect("our values have text keys");
        stdout.push(b'\n');
        Self { exit_code, ..Self::text(stdout) }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let answer = match Args::try_parse_from(&arguments) {
        Ok(args) => {
            let json = args.verb.wants_json();
            let answer = refuse_borrowed_rights().and_then(|()| dispatch(args.verb));
            answer.unwrap_or_else(|failure| report(&failure, json))
        }
        Err(error) => explain(&error, asks_for_json(&arguments)),
    };
    print(answer)
}

/// Everything below opens paths and reads variables as the user who typed them. With the rights of
/// another, as a set-user-id program has, that would give them away.
fn refuse_borrowed_rights() -> Result<(), Failure> {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    if getuid() == geteuid() && getgid() == getegid() {
        return Ok(());
    }
    Err(Failure::new(Actor::Host, "cannot run as a set-user-id or set-group-id program")
        .hint("take those bits off: it needs no rights but its user's own"))
}

fn dispatch(verb: Verb) -> Result<Answer, Failure> {
    match verb {
        Verb::Run(args) => run::run(args),
        Verb::Call(args) => call::call(args),
        Verb::Plan(args) => plan::plan(args),
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Policy(args) => policy::policy(args.verb),
        Verb::Images(args) => images::images(args.verb),
        Verb::Environments(args) => environments::environments(args.verb),
        Verb::Serve(args) => serve::serve(args),
        Verb::Ps(args) => ps::ps(&args),
        Verb::Stop(args) => stop::stop(&args),
        Verb::Logs(args) => logs::logs(&args),
        Verb::Top(args) => top::top(&args),
        Verb::Metrics(args) => metrics::metrics(&args),
        Verb::Submit(args) => submit::submit(args),
        Verb::Status(args) => status::status(&args),
        Verb::Result(args) => result::result(args),
        Verb::Cancel(args) => cancel::cancel(&args),
        Verb::Completions(args) => Ok(manual::completions(args.shell)),
        Verb::Man(args) => manual::write_pages(&args.directory),
        Verb::Changes(args) => images::build::changes::changes(&args),
    }
}

/// Whether a command line that does not parse asks for JSON all the same.
fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

fn report(failure: &Failure, json: bool) -> Answer {
    if json {
        return Answer::json(&failure.to_json(), failure.exit_code);
    }
    let stderr = failure.to_string().into_bytes();
    Answer { stderr, exit_code: failure.exit_code, ..Answer::text("") }
}

/// Turns clap's answer into ours: help goes to standard output, a mistake becomes a failure.
fn explain(error: &clap::Error, json: bool) -> Answer {
    let styled = error.render();
    let kind = error.kind();
    if kind == ErrorKind::DisplayHelp || kind == ErrorKind::DisplayVersion {
        let colour = io::stdout().is_terminal();
        return Answer::text(if colour { styled.ansi().to_string() } else { styled.to_string() });
    }
    if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let stderr = styled.to_string().into_bytes();
        return Answer { stderr, exit_code: EXIT_FAILED, ..Answer::text("") };
    }
    report(&Failure::from_command_line(error), json)
}

/// Prints and says how to exit. What could not be printed is not passed over in silence.
fn print(answer: Answer) -> ExitCode {
    let stdout = io::stdout().lock();
    // A closed standard error leaves nobody to tell; the exit code still does.
    let _ = io::stderr().lock().write_all(&answer.stderr);
    match write_all(stdout, &answer.stdout) {
        Ok(()) => {
            if let Some(Err(failure)) = answer.afterwards.map(|act| act()) {
                let _ = write!(io::stderr(), "{failure}");
            }
            ExitCode::from(answer.exit_code)
        }
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(EXIT_BROKEN_PIPE),
        Err(error) => {
            let failure = Failure::new(Actor::User, "cannot write to standard output")
                .because(&error)
                .hint("the verb itself has ended; what it printed is lost");
            let _ = write!(io::stderr(), "{failure}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn write_all(mut stdout: impl Write, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    stdout.write_all(bytes)?;
    stdout.flush()
}

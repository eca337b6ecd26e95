//! The bytes by which init is told what to run; the layout is in `protocol.rs`.

use rustix::termios::Winsize;

use super::run::RunError;
use super::tools::Tools;
use crate::native::protocol;
use crate::{Program, WORKER_FLAGS, Work};

/// Encodes `work` for init. `terminal` is the size of the terminal it gets, if it gets one.
///
/// # Errors
/// [`RunError::ZeroByte`]: strings of processes end at the first zero byte.
pub(super) fn encode(
    work: &Work,
    tools: &Tools,
    terminal: Option<Winsize>,
) -> Result<Vec<u8>, RunError> {
    let (programs, arguments) = match &work.program {
        Program::Command(argv) => {
            let (program, arguments) =
                argv.split_first().map_or((vec![], &argv[..]), |(a, b)| (vec![a.clone()], b));
            (program, arguments.to_vec())
        }
        Program::Call(call) => {
            let mut arguments = WORKER_FLAGS.map(str::to_owned).to_vec();
            let (interpreters, worker) = tools.worker(&call.interpreters);
            arguments.push(worker);
            (interpreters, arguments)
        }
    };
    let variables: Vec<String> =
        work.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let inputs: Vec<String> = work.inputs.iter().map(|input| input.name.clone()).collect();
    let secrets: Vec<String> = work.secrets.iter().map(|secret| secret.name.clone()).collect();
    let mut flags = 0;
    if terminal.is_some() {
        flags |= protocol::RUN_TERMINAL;
    }
    if matches!(work.program, Program::Call(_)) {
        flags |= protocol::RUN_WORKER;
    }
    let mut text = Vec::new();
    put(&mut text, "the working directory", std::slice::from_ref(&work.workdir))?;
    put(&mut text, "the command", &programs)?;
    put(&mut text, "an argument", &arguments)?;
    put(&mut text, "a variable", &variables)?;
    put(&mut text, "the name of an input", &inputs)?;
    put(&mut text, "the name of a secret", &secrets)?;
    let (rows, columns) = terminal.map_or((0, 0), |size| (size.ws_row, size.ws_col));
    let pointers_at = (protocol::RUN_HEAD_WORDS * 4 + text.len()).next_multiple_of(8);
    let mut bytes = Vec::with_capacity(pointers_at);
    for number in [
        flags,
        count(programs.len()),
        count(arguments.len()),
        count(variables.len()),
        count(inputs.len()),
        count(secrets.len()),
        rows.into(),
        columns.into(),
        count(pointers_at),
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&text);
    // Room for both arrays: the program's name, the arguments, the variables, and two nulls.
    bytes.resize(pointers_at + (arguments.len() + variables.len() + 3) * 8, 0);
    Ok(bytes)
}

/// Numbers of strings and bytes: more than this does not fit in memory that `execve(2)` takes.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn put(text: &mut Vec<u8>, what: &str, strings: &[String]) -> Result<(), RunError> {
    for string in strings {
        if string.contains('\0') {
            return Err(RunError::ZeroByte { what: what.to_owned() });
        }
        text.extend_from_slice(string.as_bytes());
        text.push(0);
    }
    Ok(())
}

//! Completions and man pages, made from the same definitions as the parser.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use ric_runtime::Actor;

use crate::Answer;
use crate::args::Args;
use crate::failure::Failure;

/// The completion script for `shell`.
pub(crate) fn completions(shell: clap_complete::Shell) -> Answer {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "run-in-container", &mut script);
    Answer::text(script)
}

/// Writes one page per verb, such as `run-in-container-run.1`, into `directory`.
pub(crate) fn write_pages(directory: &Path) -> Result<Answer, Failure> {
    let attempt = || format!("cannot write man pages into {}", directory.display());
    if !directory.is_dir() {
        let error = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(Failure::new(Actor::User, attempt())
            .because(&error)
            .hint(format!("mkdir -p {}", directory.display())));
    }
    clap_mangen::generate_to(Args::command(), directory)
        .map_err(|error| Failure::new(Actor::User, attempt()).because(&error))?;
    Ok(Answer::text(""))
}

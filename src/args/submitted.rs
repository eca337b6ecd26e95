//! The verbs of submitted tasks: their flags, arguments and help.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::SandboxArgs;
use super::values;
use super::verbs::CalledArgs;

/// Hand a call in to the daemon, to be fetched later, and print its id
///
/// The daemon has it on disk when the id is there. It runs whether or not anybody waits for it, and
/// if the daemon ends, in its next life. It runs in the job or session from which it was submitted,
/// and ends with that.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  id=$(run-in-container submit fit.py:fit --arg data.csv --mount /scratch/me:/data:rw)
  run-in-container result $id")]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// Run it again if the daemon or the machine fails under it, when it may have run already
    #[arg(long)]
    pub rerun: bool,

    /// Socket of the daemon [default: yours, else root's]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    #[command(flatten)]
    pub called: CalledArgs,
}

/// Show how far submitted tasks are
///
/// A task is `waiting`, `running` or `ended`; one that has ended is shown until `result` has
/// fetched it, or for as long as the site's policy says.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Tasks, as `submit` named them [default: all of yours]
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,

    /// Socket of the daemon [default: yours, else root's]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Wait for a submitted task and print what `call` would have
///
/// Standard output, standard error and exit code are those of `call`. The daemon forgets it once
/// all of it has been printed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  run-in-container result 0123456789abcdef0123456789abcdef
  run-in-container result --timeout 10s --keep 0123456789abcdef0123456789abcdef")]
pub(crate) struct ResultArgs {
    /// The task, as `submit` named it
    #[arg(value_name = "ID")]
    pub id: String,

    /// Wait for at most this long, and end with 125 if it has not ended: `90s`, `10m`
    #[arg(long, value_name = "TIME", value_parser = values::parse_time)]
    pub timeout: Option<Duration>,

    /// Have the daemon keep it, so that it can be fetched again
    #[arg(long)]
    pub keep: bool,

    /// Socket of the daemon [default: yours, else root's]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// End a submitted task, whether it waits or runs
///
/// It ends as `cancelled`, unless it had ended. What it printed until then is kept for `result`.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The task, as `submit` named it
    #[arg(value_name = "ID")]
    pub id: String,

    /// Socket of the daemon [default: yours, else root's]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Print as JSON whether that ended it
    #[arg(long)]
    pub json: bool,
}

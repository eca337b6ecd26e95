//! One struct per verb: its flags, arguments and help.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::SandboxArgs;
use super::values::{self, Function, Keyword};

/// Run a command in a sandbox
///
/// Standard input, output and error are the command's own, and signals are passed on to it. It
/// starts in /task, which is empty, writable and gone afterwards, with no variables of yours and no
/// network. Without COMMAND the image's entry point and command run.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  run-in-container run -- python3 -c 'print(6 * 7)'
  run-in-container run --image docker-archive:tools.tar -t -- bash
  run-in-container run --mount /scratch/me:/data:rw --memory 2GiB -- make -C /data")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// Give the command a terminal of its own, joined to this one
    #[arg(short = 't', long, conflicts_with = "json")]
    pub tty: bool,

    /// Command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub command: Vec<String>,
}

/// Call a Python function in a sandbox and print what it returns as JSON
///
/// Only the one file travels; the function may import what the image's Python has. What it prints
/// goes to standard error. A result that is not JSON is an error: this program never unpickles.
///
/// Where a daemon is there (`serve`), one of its warm containers is used, with the same answer;
/// unless the call has `--input`, `--output`, `--policy` or `--store`, which are for a container of
/// its own.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  run-in-container call examples/functions/hello.py:greet --arg world
  run-in-container call fit.py:fit --arg '[1, 2, 3]' --kwarg degree=2 --timeout 90s")]
pub(crate) struct CallArgs {
    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// Use a container of its own even where a daemon keeps warm ones
    #[arg(long)]
    pub no_daemon: bool,

    /// Socket of the daemon to use [default: yours, else root's, if one is there]
    #[arg(long, value_name = "PATH", conflicts_with = "no_daemon")]
    pub socket: Option<PathBuf>,

    #[command(flatten)]
    pub called: CalledArgs,
}

/// The function that is called, and its arguments.
#[derive(Debug, Args)]
pub(crate) struct CalledArgs {
    /// Source file, and the function in it
    #[arg(
        value_name = "FILE.py:FUNCTION",
        value_parser = OsStringValueParser::new().try_map(values::parse_function)
    )]
    pub function: Function,

    /// Positional argument: JSON if it parses as JSON, else a string
    #[arg(
        long = "arg",
        value_name = "VALUE",
        allow_hyphen_values = true,
        value_parser = values::parse_argument
    )]
    pub arguments: Vec<Value>,

    /// Argument by name: JSON if it parses as JSON, else a string
    #[arg(long = "kwarg", value_name = "NAME=VALUE", value_parser = values::parse_keyword)]
    pub keywords: Vec<Keyword>,
}

/// Show the sandbox that a task would get, and start nothing
///
/// Prints the decision as JSON, or the reason for a refusal. Nothing is started and no layer is
/// fetched; an image that this machine does not hold is looked up in its registry, by its manifest
/// only.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// Command and its arguments, as for `run`
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub command: Vec<String>,
}

/// Show what this host can enforce, and what to change where it cannot
///
/// Probes anew and stores the answers for the next starts. Ends with 1 if no sandbox can be made
/// here.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Narrow the site's policy by this file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,

    /// Print the answers as JSON
    #[arg(long)]
    pub json: bool,
}

/// Show and check what the site allows
///
/// The site's file is /etc/run-in-container/policy.yaml; without it a built-in default holds.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub verb: PolicyVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    Show(PolicyShowArgs),
    Check(PolicyCheckArgs),
    /// Print the JSON Schema of policy files
    Schema,
}

/// Print the policy that holds, with the file and line of each value
#[derive(Debug, Args)]
pub(crate) struct PolicyShowArgs {
    /// Narrow the site's policy by this file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Read policy files and print every error with its line, or `ok`
///
/// Ends with 125 if a file is wrong. What is checked is the file alone, not what the site's file
/// leaves of it: `policy show --policy FILE` shows that.
#[derive(Debug, Args)]
pub(crate) struct PolicyCheckArgs {
    /// Policy files
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Print the errors as JSON
    #[arg(long)]
    pub json: bool,
}

/// Print a completion script for a shell
///
/// For bash: `run-in-container completions bash > /etc/bash_completion.d/run-in-container`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell
    pub shell: clap_complete::Shell,
}

/// Write the man pages, one per verb, into a directory
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// An existing directory, such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

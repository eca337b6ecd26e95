//! What was typed, exactly: one definition per flag gives parser, help, man page and completions.
//!
//! Nothing here opens a file, asks the kernel or reads the environment, so a command line can be
//! judged without side effects. [`crate::task`] turns it into a task.

mod daemon;
mod environments;
mod images;
mod sandbox;
mod submitted;
mod values;
mod verbs;

use clap::{Parser, Subcommand};

pub(crate) use daemon::{LogsArgs, MetricsArgs, PsArgs, ServeArgs, StopArgs, TopArgs};
pub(crate) use environments::{
    EnvironmentsArgs, EnvironmentsBuildArgs, EnvironmentsListArgs, EnvironmentsShowArgs,
    EnvironmentsVerb,
};
pub(crate) use images::{
    BuildArgs, BuildFormat, ChangesArgs, ConvertArgs, ExportArgs, GcArgs, ImagesArgs, ImagesVerb,
    ImportArgs, InspectArgs, ListArgs, PullArgs, RemoveArgs, VerifyArgs,
};
pub(crate) use sandbox::SandboxArgs;
pub(crate) use submitted::{CancelArgs, ResultArgs, StatusArgs, SubmitArgs};
pub(crate) use values::{
    BuildSecret, BuildSecretSource, Input, Kept, Keyword, MountPoint, Secret, Variable,
};
pub(crate) use verbs::{
    CallArgs, CalledArgs, CompletionsArgs, DoctorArgs, ManArgs, PlanArgs, PolicyArgs,
    PolicyCheckArgs, PolicyShowArgs, PolicyVerb, RunArgs,
};

/// Run functions and commands in container sandboxes
///
/// A sandbox is made from an image (by default `host:`, this machine's own /usr, read-only), inside
/// the limits that the site's policy grants. No daemon, registry or other container software is
/// needed, as root or as an ordinary user.
#[derive(Debug, Parser)]
#[command(
    name = "run-in-container",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_long_help = EXIT_CODES
)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The program's exit codes, as `--help` and the man page tell them.
const EXIT_CODES: &str = "\
Exit codes:
  The task's own exit code, or:
  122    refused by policy; nothing was started; asking again will not help
  124    the task passed its time
  125    this program failed, or the command line is wrong
  126    the command cannot be executed
  127    the command was not found
  128+n  the task was ended by signal n (137: SIGKILL, which the memory limit sends too)";

/// The verbs. Their help is what `docs/cli/help.txt` shows.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Run(RunArgs),
    Call(CallArgs),
    Plan(PlanArgs),
    Doctor(DoctorArgs),
    Policy(PolicyArgs),
    Images(ImagesArgs),
    Environments(EnvironmentsArgs),
    Serve(ServeArgs),
    Ps(PsArgs),
    Stop(StopArgs),
    Logs(LogsArgs),
    Top(TopArgs),
    Metrics(MetricsArgs),
    Submit(SubmitArgs),
    Status(StatusArgs),
    Result(ResultArgs),
    Cancel(CancelArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
    #[command(hide = true)]
    Changes(ChangesArgs),
}

impl Verb {
    /// Whether `--json` was given: then a failure is JSON too.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Run(RunArgs { sandbox, .. })
            | Self::Call(CallArgs { sandbox, .. })
            | Self::Submit(SubmitArgs { sandbox, .. })
            | Self::Plan(PlanArgs { sandbox, .. }) => sandbox.json,
            Self::Doctor(args) => args.json,
            Self::Policy(args) => match &args.verb {
                PolicyVerb::Show(args) => args.json,
                PolicyVerb::Check(args) => args.json,
                PolicyVerb::Schema => false,
            },
            Self::Images(args) => match &args.verb {
                ImagesVerb::Pull(args) => args.json,
                ImagesVerb::List(args) => args.json,
                ImagesVerb::Build(args) => args.json,
                ImagesVerb::Inspect(args) => args.json,
                ImagesVerb::Remove(args) => args.json,
                ImagesVerb::Gc(args) => args.json,
                ImagesVerb::Verify(args) => args.json,
                ImagesVerb::Convert(args) => args.json,
                ImagesVerb::Export(args) => args.json,
                ImagesVerb::Import(args) => args.json,
            },
            Self::Environments(args) => match &args.verb {
                EnvironmentsVerb::List(args) => args.json,
                EnvironmentsVerb::Show(args) => args.json,
                EnvironmentsVerb::Build(args) => args.json,
            },
            Self::Ps(args) => args.json,
            Self::Stop(args) => args.json,
            Self::Logs(args) => args.json,
            Self::Status(args) => args.json,
            Self::Result(args) => args.json,
            Self::Cancel(args) => args.json,
            Self::Serve(args) => args.json,
            Self::Top(_)
            | Self::Metrics(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Changes(_) => false,
        }
    }
}

//! The verbs of `environments`: their flags, arguments and help.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ric_images::EnvironmentName;

use super::values;

/// List and show what `--env` can name
///
/// An environment is a file NAME.yaml that says what a function needs. It is looked for in the
/// directories of `--env-path`, in $XDG_CONFIG_HOME/run-in-container/environments, and in
/// /etc/run-in-container/environments; the first one found is used.
#[derive(Debug, Args)]
pub(crate) struct EnvironmentsArgs {
    #[command(subcommand)]
    pub verb: EnvironmentsVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EnvironmentsVerb {
    List(EnvironmentsListArgs),
    Show(EnvironmentsShowArgs),
}

/// List the environments that there are, and those that are hidden by another of the same name
#[derive(Debug, Args)]
pub(crate) struct EnvironmentsListArgs {
    /// Look in this directory first; may be given several times
    #[arg(long, value_name = "DIR")]
    pub env_path: Vec<PathBuf>,

    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

/// Show what an environment says, and the file that says it
#[derive(Debug, Args)]
pub(crate) struct EnvironmentsShowArgs {
    /// Environment
    #[arg(value_name = "NAME", value_parser = values::parse_environment_name)]
    pub name: EnvironmentName,

    /// Look in this directory first; may be given several times
    #[arg(long, value_name = "DIR")]
    pub env_path: Vec<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

//! The verbs of `environments`: their flags, arguments and help.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ric_images::EnvironmentName;

use super::values;

/// List, show and build what `--env` can name
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
    Build(EnvironmentsBuildArgs),
}

/// List the environments that there are, and those that are hidden by another of the same name
#[derive(Debug, Args)]
pub(crate) struct EnvironmentsListArgs {
    /// Look in this directory first; may be given several times
    #[arg(long, value_name = "DIR")]
    pub env_path: Vec<PathBuf>,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

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

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Build the image of an environment with packages, and print its digest
///
/// What its packages come to is written into NAME.lock beside its file, by version and hash: with
/// both, the same image is built again, here or on another machine. A lock that no longer fits the
/// file is made anew. `run` and `call` build what is missing by themselves. Steps and their output
/// go to standard error.
#[derive(Debug, Args)]
pub(crate) struct EnvironmentsBuildArgs {
    /// Environment
    #[arg(value_name = "NAME", value_parser = values::parse_environment_name)]
    pub name: EnvironmentName,

    /// Build what the lock says, or nothing
    #[arg(long, conflicts_with = "upgrade")]
    pub locked: bool,

    /// Resolve all packages and the base image anew
    #[arg(long)]
    pub upgrade: bool,

    /// Look in this directory first; may be given several times
    #[arg(long, value_name = "DIR")]
    pub env_path: Vec<PathBuf>,

    /// Narrow the site's policy by this file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,

    /// Directory of images
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print JSON objects on standard output, one a line, as it goes on
    #[arg(long)]
    pub json: bool,
}

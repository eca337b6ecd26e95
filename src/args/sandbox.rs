//! The flags that say what a sandbox shall be, the same for `run`, `call` and `plan`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use ric_images::{EnvironmentName, Reference};
use ric_policies::{EngineName, Network};
use ric_runtime::{Fresh, UserChoice};

use super::values::{self, Input, MountPoint, Output, Secret, Variable};

/// Flags of a sandbox. Each one that is given is enforced or refused, never dropped.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct SandboxArgs {
    /// Image to run in
    ///
    /// `host:` is this machine's own /usr, read-only. Others: `docker://HOST/NAME[:TAG][@DIGEST]`,
    /// `docker-daemon:NAME[:TAG]`, `docker-archive:PATH`, `oci:PATH[:TAG]`, `oci-archive:PATH`,
    /// `sif:PATH`, `squashfs:PATH`, `dir:PATH`. A bare `NAME[:TAG]` works where the
    /// site's policy says which registries it may mean.
    #[arg(long, value_name = "REF", default_value = "host:", value_parser = values::parse_image)]
    pub image: Reference,

    /// Environment to run in, by name, instead of an image
    ///
    /// Its file NAME.yaml names an image, variables, limits and more; other flags win over what it
    /// says. `environments list` shows those that there are.
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "image",
        value_parser = values::parse_environment_name
    )]
    pub env: Option<EnvironmentName>,

    /// Look for environments in this directory first; may be given several times
    #[arg(long, value_name = "DIR")]
    pub env_path: Vec<PathBuf>,

    /// Engine that starts the container [default: the first one that policy lists and this host
    /// has]
    #[arg(long, value_parser = values::engine())]
    pub engine: Option<EngineName>,

    /// Narrow the site's policy by this file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,

    /// Show a file or directory of this machine in the sandbox, read-only unless `:rw` is given
    ///
    /// SRC is opened with your own rights; symbolic links are resolved before policy is asked. What
    /// is mounted below SRC comes along, as read-only as SRC itself.
    #[arg(
        long,
        value_name = "SRC:DST[:ro|rw]",
        value_parser = OsStringValueParser::new().try_map(values::parse_mount)
    )]
    pub mount: Vec<MountPoint>,

    /// Give the task a device of this machine (refused: this version grants none)
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,

    /// Most memory, with /task, /tmp, /dev/shm and the page cache: `512MiB`, `2GiB`
    #[arg(long, value_name = "SIZE", value_parser = values::parse_size)]
    pub memory: Option<u64>,

    /// Most processors, in thousandths at the finest: `0.5`, `4`
    #[arg(long, value_name = "NUMBER", value_parser = values::parse_cpus)]
    pub cpus: Option<u64>,

    /// Most processes and threads
    #[arg(long, value_name = "NUMBER", value_parser = values::parse_pids)]
    pub pids: Option<u64>,

    /// Most wall-clock time, after which the task is killed: `90s`, `10m`, `2h`
    #[arg(long, value_name = "TIME", value_parser = values::parse_time)]
    pub timeout: Option<Duration>,

    /// Network: an own one with nothing but loopback, or this machine's [default: policy's first]
    #[arg(long, value_parser = values::network())]
    pub network: Option<Network>,

    /// Whose ids the task runs with [default: policy's `run_as`]
    ///
    /// `caller`: yours. `image`: the `User` that the image names. `root`: uid 0 of a user namespace
    /// of subordinate ids, with no rights outside it.
    #[arg(long, value_parser = values::user())]
    pub user: Option<UserChoice>,

    /// Directory in the sandbox to start in [default: the image's, else /task]
    #[arg(
        long,
        value_name = "DIR",
        value_parser = OsStringValueParser::new().try_map(values::parse_workdir)
    )]
    pub workdir: Option<PathBuf>,

    /// Set an environment variable; nothing else of your environment is passed on
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::parse_variable)]
    pub variable: Vec<Variable>,

    /// Hand the task a secret as the file /run/secrets/NAME: what PATH holds, or without it your
    /// variable NAME
    ///
    /// It is in no log, no list of processes, on no disk, and in no outcome. PATH may be a pipe.
    #[arg(
        long,
        value_name = "NAME[=PATH]",
        value_parser = OsStringValueParser::new().try_map(values::parse_secret)
    )]
    pub secret: Vec<Secret>,

    /// Show a file in /task, read-only, under NAME or its own name; its SHA-256 is in the outcome
    #[arg(
        long,
        value_name = "PATH[=NAME]",
        value_parser = OsStringValueParser::new().try_map(values::parse_input)
    )]
    pub input: Vec<Input>,

    /// Copy the file NAME of /task to PATH when the task has ended well; its SHA-256 is in the
    /// outcome
    #[arg(
        long,
        value_name = "NAME=PATH",
        value_parser = OsStringValueParser::new().try_map(values::parse_output)
    )]
    pub output: Vec<Output>,

    /// What the task must get new: the call, the process or the container
    ///
    /// Without a daemon every task gets a container of its own, whichever is asked for.
    #[arg(long, value_parser = values::fresh())]
    pub fresh: Option<Fresh>,

    /// Directory of images [default: /var/lib/run-in-container for root, else your XDG data
    /// directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print one JSON object on standard output: how the task ended, what it printed and used
    #[arg(long)]
    pub json: bool,

    /// Directories inside that come first in `PATH`. No flag: an environment sets it.
    #[arg(skip)]
    pub path_first: Vec<PathBuf>,
}

impl SandboxArgs {
    /// No flag at all: what is asked for when nothing is.
    pub(crate) fn nothing() -> SandboxArgs {
        SandboxArgs {
            image: Reference::Host,
            env: None,
            env_path: Vec::new(),
            engine: None,
            policy: Vec::new(),
            mount: Vec::new(),
            device: Vec::new(),
            memory: None,
            cpus: None,
            pids: None,
            timeout: None,
            network: None,
            user: None,
            workdir: None,
            variable: Vec::new(),
            secret: Vec::new(),
            input: Vec::new(),
            output: Vec::new(),
            fresh: None,
            store: None,
            json: false,
            path_first: Vec::new(),
        }
    }
}

//! The verbs of the daemon: their flags, arguments and help.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values;

/// Keep containers warm for whoever connects to a socket
///
/// For one user, or as root for all users of the machine, each in containers of their own. `call`
/// and the Python package find it by itself. SIGTERM ends it when its tasks have ended. Policy
/// files are read again when they change, and on SIGHUP.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  run-in-container serve
  run-in-container serve --socket /run/lab/runtime.sock --audit /var/log/lab-runtime.jsonl")]
pub(crate) struct ServeArgs {
    /// Socket to listen at, in a directory of its own [default: the service manager's, else
    /// run-in-container/daemon.sock in $XDG_RUNTIME_DIR, for root in /run]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Narrow the site's policy by this file; may be given several times
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,

    /// Directory of images [default: /var/lib/run-in-container for root, else your XDG data
    /// directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Directory of submitted tasks and their results, of one daemon alone [default:
    /// /var/lib/run-in-container/tasks for root, else run-in-container/tasks in your XDG state
    /// directory]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// Append a line of JSON to this file for every decision and every end of a task
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,

    /// Say what it says on standard error as JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Show the daemon's containers and what waits
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Tell why tasks got a warm or a new container, and what keeps pools apart
    #[arg(long)]
    pub explain: bool,

    /// Socket of the daemon [default: yours, else root's]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// End containers of the daemon
///
/// Tasks in them are told that they were cancelled. Ends with 1 if there is none of that name.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  run-in-container stop run-in-container-0123456789abcdef
  run-in-container stop --all
  run-in-container stop --job \"$SLURM_JOB_ID\"     # in a scheduler's epilog")]
pub(crate) struct StopArgs {
    /// Containers, as `ps` names them
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "job"])]
    pub containers: Vec<String>,

    /// End all of yours; as root, everyone's
    #[arg(long, conflicts_with_all = ["containers", "job"])]
    pub all: bool,

    /// End those of a scheduler's job: those below a cgroup that has JOB as a component, or as its
    /// number (`job_JOB`)
    #[arg(long, value_name = "JOB", conflicts_with = "containers")]
    pub job: Option<String>,

    /// Socket of the daemon [default: yours, else root's]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Print what was ended as JSON
    #[arg(long)]
    pub json: bool,
}

/// Print what a container of the daemon printed last
///
/// Up to 16 KiB, also of the last containers that have ended. What a task prints goes to its own
/// caller in any case.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  run-in-container logs run-in-container-0123456789abcdef
  run-in-container logs --follow run-in-container-0123456789abcdef")]
pub(crate) struct LogsArgs {
    /// Container, as `ps` and the outcomes of tasks name it
    #[arg(value_name = "CONTAINER")]
    pub container: String,

    /// Go on until the container ends
    #[arg(short, long, conflicts_with = "json")]
    pub follow: bool,

    /// Socket of the daemon [default: yours, else root's]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Watch the daemon's containers and queues
///
/// Redrawn until it is interrupted; where standard output is no terminal, one picture.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Time between two pictures, as `1s`
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::parse_time)]
    pub interval: Duration,

    /// Socket of the daemon [default: yours, else root's]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Print the daemon's numbers for Prometheus
///
/// In its text format, for root and for whoever the daemon runs as. A node exporter takes them as
/// a file of its textfile collector.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  run-in-container metrics
  run-in-container metrics | sponge /var/lib/prometheus/node-exporter/run-in-container.prom")]
pub(crate) struct MetricsArgs {
    /// Socket of the daemon [default: yours, else root's]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

//! The policy as plain data: every key of the YAML file, checked, with the place it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ric_yaml::{Fresh, Printable};

/// What a site allows. Every value is set: what a file leaves out comes from the built-in default.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// Name shown in refusals.
    pub name: String,
    /// The files that made this policy, outermost first. The first is the site's, or
    /// [`BUILT_IN`] where the site has none.
    pub files: Vec<PathBuf>,
    /// SHA-256 of the effective policy, as 64 hex digits. Part of every sandbox's identity.
    pub digest: String,
    /// Which images may be used at all.
    pub images: ImageRules,
    /// How registries are reached.
    pub registries: Registries,
    /// Engines that may start containers, in order of preference.
    pub engines: Ruled<Vec<EngineName>>,
    /// Directories tasks may mount, and how. Anything not under one of these is refused.
    pub mounts: Vec<Ruled<MountRule>>,
    /// Networks a task may ask for; the first is what it gets if it asks for none.
    pub network: Ruled<Vec<Network>>,
    /// Whose uid and gid a task runs with.
    pub run_as: Ruled<RunAs>,
    /// The uid and gid that a root caller's tasks run with, unless `run_as` or the caller says
    /// otherwise.
    pub root_runs_as: Ruled<u32>,
    /// Directories of the machine that `host:` shows besides `/usr`, read-only.
    pub host_paths: Vec<Ruled<PathBuf>>,
    /// The least that each task gets new.
    pub fresh: Ruled<Fresh>,
    /// Defaults and bounds of what a task may use.
    pub limits: LimitRules,
    /// What building images may do.
    pub build: BuildRules,
    /// What a daemon keeps warm and lets wait.
    pub warm: WarmRules,
    /// How much a daemon keeps of submitted tasks.
    pub results: ResultsRules,
    /// Protections that must be enforced here, or the task is refused.
    pub require: Vec<Ruled<Protection>>,
    /// The place that set each key last, by its name in the file (`mounts`, `limits.memory.most`).
    /// Tells the origin of a list that is empty and of a limit that is `none`.
    pub set_by: BTreeMap<&'static str, Origin>,
}

/// Stands in [`Policy::files`] and before origins where the built-in default is meant.
pub const BUILT_IN: &str = "built-in default";

/// A value and the place in a policy file that set it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Ruled<T> {
    /// The value.
    pub value: T,
    /// Where it was set.
    pub origin: Origin,
}

/// Where a policy value was set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Origin {
    /// The default that ships with the program; the only one that a host may fail to enforce.
    BuiltIn,
    /// A line of a policy file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
    },
}

/// Which images may be used, by reference pattern. `deny` wins; an empty `allow` allows none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageRules {
    /// Patterns of which one must match (`*` matches within and across `/`).
    pub allow: Vec<Ruled<String>>,
    /// Patterns of which none may match.
    pub deny: Vec<Ruled<String>>,
    /// Directories of a Shifter image gateway, looked through in order.
    pub shifter: Vec<Ruled<PathBuf>>,
    /// OCI layouts of the site below everybody's store, looked through in order.
    pub below: Vec<Ruled<PathBuf>>,
}

/// How registries are reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Registries {
    /// What a name without a registry means.
    pub short_names: Ruled<ShortNames>,
    /// `HOST[:PORT]`s that are spoken to over plain HTTP. Every other one needs HTTPS.
    pub insecure: Vec<Ruled<String>>,
    /// Places that are asked before a registry itself, in order.
    pub mirrors: Vec<Ruled<Mirror>>,
    /// Files of certificate authorities that are trusted besides the machine's own.
    pub authorities: Vec<Ruled<PathBuf>>,
    /// No registry is asked.
    pub offline: Ruled<bool>,
}

/// A place that has what a registry has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Mirror {
    /// The registry, `HOST[:PORT]`.
    pub registry: String,
    /// `HOST[:PORT][/PREFIX]`; the prefix comes before the registry's own names.
    pub at: String,
}

/// What an image name without a registry means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ShortNames {
    /// It is refused.
    Deny,
    /// These registries are tried in order.
    Try(Vec<String>),
}

/// A way to start containers.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum EngineName {
    /// The embedded engine: this program itself.
    Native,
    /// An OCI runtime such as runc or crun.
    Oci,
    /// A Docker or Podman daemon.
    Docker,
    /// Apptainer or Singularity.
    Apptainer,
    /// NERSC Shifter.
    Shifter,
}

/// One directory that tasks may mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct MountRule {
    /// Absolute path outside the sandbox, symbolic links resolved. Components are compared.
    pub source: PathBuf,
    /// The most access a mount below it may have.
    pub access: Access,
}

/// What a task may do with a mount.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Access {
    /// Read only, applied to submounts too.
    ReadOnly,
    /// Read and write, with the rights of the task's uid.
    ReadWrite,
}

/// What a task sees of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Network {
    /// A namespace of its own in which only the loopback interface is up (Docker: `none`).
    Loopback,
    /// The machine's own network.
    Host,
}

/// Whose uid and gid a task runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum RunAs {
    /// The caller's uid, gid and groups.
    Caller,
    /// The image's `User`.
    Image,
}

/// Defaults and bounds of what a task may use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LimitRules {
    /// Bytes of memory, page cache and `/task`, `/tmp`, `/dev/shm` included.
    pub memory_bytes: Bound<u64>,
    /// Processor time per wall-clock time, in thousandths of a processor.
    pub cpus_milli: Bound<u64>,
    /// Processes and threads.
    pub pids: Bound<u64>,
    /// Wall-clock time from exec to exit.
    pub time: Bound<Duration>,
}

/// What building images may do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuildRules {
    /// Whether images may be built at all.
    pub allow: Ruled<bool>,
    /// Patterns of which one must match an image that is built upon.
    pub bases: Vec<Ruled<String>>,
    /// Networks that steps may have; the first is what they get.
    pub network: Ruled<Vec<Network>>,
    /// Whether steps are told the machine's proxies, mirrors and certificates.
    pub settings: Ruled<bool>,
    /// Wall-clock time of one step.
    pub time: Bound<Duration>,
    /// Bytes of the tar of what one step leaves behind.
    pub layer_bytes: Bound<u64>,
}

/// What a daemon keeps warm and lets wait. Only `most` of each bound means something.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WarmRules {
    /// How long a container without a task is kept.
    pub idle: Bound<Duration>,
    /// Containers at once, of all users.
    pub containers: Bound<u64>,
    /// Containers at once, of one user.
    pub containers_per_user: Bound<u64>,
    /// Bytes that the memory limits of all containers may add up to.
    pub memory_bytes: Bound<u64>,
    /// Tasks of one user that wait or run.
    pub tasks_per_user: Bound<u64>,
    /// Bytes of the calls of one user that wait or run.
    pub bytes_per_user: Bound<u64>,
    /// How long tasks may take to end once the daemon is told to.
    pub drain: Bound<Duration>,
}

/// How much a daemon keeps of submitted tasks. Only `most` of each bound means something.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultsRules {
    /// How long a result is kept that nobody fetches.
    pub keep: Bound<Duration>,
    /// Submitted tasks of one user that wait, run, or have results that are kept.
    pub tasks_per_user: Bound<u64>,
    /// Bytes on disk of one user's submitted tasks and kept results.
    pub bytes_per_user: Bound<u64>,
}

/// What a task gets that asks for nothing, and the most it may ask for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bound<T> {
    /// For a task that asks for nothing. `None`: no limit.
    pub default: Option<Ruled<T>>,
    /// The most a task may ask for. `None`: no bound.
    pub most: Option<Ruled<T>>,
}

/// Something a sandbox enforces, which a host may or may not be able to.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Protection {
    /// The memory limit.
    Memory,
    /// The processor limit.
    Cpus,
    /// The limit of processes and threads.
    Pids,
    /// The system call filter.
    Seccomp,
    /// The list of device nodes that can be opened, enforced by the kernel besides by their
    /// absence.
    Devices,
    /// Namespaces of its own: mount, pid, ipc, uts, cgroup.
    Namespaces,
    /// A network of its own.
    Network,
}

impl Policy {
    /// Where `key` was set, by its name in the file, such as `mounts` or `limits.memory.most`.
    pub fn origin_of(&self, key: &str) -> &Origin {
        self.set_by.get(key).unwrap_or(&Origin::BuiltIn)
    }
}

impl<T> Bound<T> {
    /// The place in a file that demands this limit, if one does.
    ///
    /// `None`: nothing but the built-in default asks for it, and a host that cannot enforce it may
    /// go without. Asking the default's own origin is not enough: a site that sets only `most`
    /// demands the limit too.
    pub fn demanded_by(&self) -> Option<&Origin> {
        let origins = [&self.default, &self.most].into_iter().flatten().map(|rule| &rule.origin);
        origins.into_iter().find(|origin| match origin {
            Origin::BuiltIn => false,
            Origin::File { .. } => true,
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => formatter.write_str(BUILT_IN),
            Origin::File { path, line } => {
                write!(formatter, "{}:{line}", Printable(&path.to_string_lossy()))
            }
        }
    }
}

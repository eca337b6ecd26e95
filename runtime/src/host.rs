//! What this machine can do, as plain data; beside it the probes that find out, by doing it, and
//! the cache that spares them.
//!
//! Second input of a decision. Nothing here decides: what is missing is said to be missing.

mod cache;
mod cgroup;
mod docker;
mod mountinfo;
mod probe;
mod shown;
mod subordinate;

pub use cache::{CACHE_BELIEVED_MAX, HostCache, know_host};
pub use docker::{DockerHost, no_docker, probe_docker};
pub(crate) use docker::{cgroups_of, missing_cgroups};
pub use probe::{ProbeError, Trial, TrialKind, cgroups_are_there, probe_cgroups, probe_host};
pub(crate) use shown::{read_copied, real_path, stamp};

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What this machine can do for this caller; each feature probed by doing it, once per boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Kernel release, `uname -r`.
    pub kernel: String,
    /// Machine, in Go's words (`amd64`, `arm64`).
    pub architecture: String,
    /// Whether the prober may make namespaces without a user namespace (root with CAP_SYS_ADMIN).
    pub privileged: Probe,
    /// Whether a user namespace can be made.
    pub user_namespace: Probe,
    /// Whether overlayfs can be mounted in the namespaces that a sandbox gets.
    pub overlay: Probe,
    /// Whether the kernel can be given a squashfs that is in a file. `None`: only root may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub squashfs: Option<Probe>,
    /// Whether a seccomp filter can be installed.
    pub seccomp: Probe,
    /// `newuidmap` and `newgidmap`, and the ids they may map.
    pub subordinate_ids: Option<SubordinateIds>,
    /// Cgroups.
    pub cgroup: CgroupHost,
    /// Hard resource limits of the prober; a sandbox cannot go above. Names as in `getrlimit(2)`
    /// without `RLIMIT_` (`NOFILE`); unlimited is the largest number.
    pub rlimits_hard: BTreeMap<String, u64>,
    /// Page size in bytes.
    pub page_bytes: u64,
    /// Bytes of memory that this machine has.
    pub memory_bytes: u64,
    /// Symbolic links at `/` such as `bin -> usr/bin`, for `host:`.
    pub root_links: BTreeMap<PathBuf, PathBuf>,
    /// What `host:` shows of the machine, at the same paths: `/usr`, some of `/etc`, `/lib` where
    /// it is a directory.
    pub host_shown: Vec<PathBuf>,
    /// Small files of `/etc` that `host:` has copies of: a mount for each would cost more.
    #[serde(default)]
    pub host_copied: Vec<PathBuf>,
    /// Those of the policy's `host_paths` that are directories here; `host:` shows them too.
    pub host_paths: Vec<PathBuf>,
    /// Fingerprint of what `host:` shows.
    pub host_fingerprint: String,
    /// Pythons of at least 3.8 for `host:`, best first; all in what it shows.
    pub pythons: Vec<PathBuf>,
    /// Directories that this program keeps for itself, such as the image store: no task may mount
    /// one, what contains it or what is in it. Not probed: whoever chose them adds them.
    #[serde(default)]
    pub own_paths: Vec<PathBuf>,
    /// A Docker or Podman of this machine. `None`: nobody has asked for one. Not probed with the
    /// rest: whoever knows where it listens adds it ([`probe_docker`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<DockerHost>,
}

/// The answer to one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Whether it works here.
    pub works: bool,
    /// What was tried and what the kernel said; for `doctor`.
    pub detail: String,
}

/// Ids that `newuidmap(1)` may map for this user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubordinateIds {
    /// Path of `newuidmap`; empty when the prober is root and writes the maps itself.
    pub newuidmap: PathBuf,
    /// Path of `newgidmap`.
    pub newgidmap: PathBuf,
    /// First uid and count.
    pub uids: (u32, u32),
    /// First gid and count.
    pub gids: (u32, u32),
}

/// Cgroups of this machine, as the caller may use them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupHost {
    /// How the hierarchies are mounted.
    pub version: CgroupVersion,
    /// Where each controller can be had. Absent: it cannot be had at all.
    pub controllers: BTreeMap<Controller, ControllerPlace>,
    /// Controllers that exist and cannot be used by this caller, and why.
    pub unusable: BTreeMap<Controller, String>,
    /// Limits that already hold around the caller (a scheduler's job): the least on the path to the
    /// root.
    ///
    /// Bytes, thousandths of a processor, processes.
    pub ambient: BTreeMap<Controller, u64>,
    /// Where hierarchies are mounted: nothing there may be mounted into a sandbox.
    pub mounts: Vec<PathBuf>,
}

/// How cgroup hierarchies are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupVersion {
    /// None is mounted.
    None,
    /// Each controller in a version 1 hierarchy.
    V1,
    /// Version 1 hierarchies hold the controllers that matter; version 2 is mounted as well.
    Hybrid,
    /// Version 2 only.
    V2,
}

/// A cgroup controller, by its version 1 name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Controller {
    /// `memory`.
    Memory,
    /// `cpu`.
    Cpu,
    /// `pids`.
    Pids,
    /// `devices`; on version 2 a BPF program takes its place.
    Devices,
}

impl Controller {
    /// Every one of them.
    pub const ALL: [Controller; 4] =
        [Controller::Memory, Controller::Cpu, Controller::Pids, Controller::Devices];
}

/// Where a controller can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerPlace {
    /// Whether this controller is on a version 2 hierarchy.
    pub unified: bool,
    /// Directory in which a sandbox's cgroup can be made (absolute path in the mounted hierarchy).
    pub parent: PathBuf,
}

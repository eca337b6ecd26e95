//! The decision about the box: nothing left open, plain data, comparable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ric_images::{Form, Identity};
use ric_policies::{Access, EngineName, Network, Protection};
use serde::{Deserialize, Serialize};

use crate::{Caller, Controller};

/// Directory inside every sandbox that holds what this program brings in: `init`, the worker, the
/// control socket. Nothing else can be mounted there.
pub const OWN_DIRECTORY: &str = "/run-in-container";

/// The decision about the box. Two tasks may share a container only if these are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sandbox {
    /// Who asked.
    pub caller: Caller,
    /// Keeps tasks of one uid apart.
    pub tenant: Option<String>,
    /// SHA-256 of the policy that allowed it.
    pub policy_digest: String,
    /// The engine that starts it.
    pub engine: EngineName,
    /// The daemon that is asked, if the engine is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon: Option<Daemon>,
    /// The image.
    pub image: Identity,
    /// The form in which the engine needs the image.
    pub form: Form,
    /// What the root is made of.
    pub root: RootSource,
    /// Whether the root can be written, as build steps need it. What is written goes into a
    /// directory of the container's own, never into the image.
    #[serde(default = "read_only", skip_serializing_if = "is_read_only")]
    pub root_access: Access,
    /// Capabilities that uid 0 keeps, as in `capabilities(7)`; none but in a user namespace.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities: BTreeSet<String>,
    /// Ids inside and outside.
    pub identities: Identities,
    /// Namespaces of its own.
    pub namespaces: Namespaces,
    /// Network.
    pub network: Network,
    /// Host name inside.
    pub hostname: String,
    /// What is mounted above the root, in order.
    pub mounts: Vec<Mount>,
    /// Paths that read as empty.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that are made read-only, recursively.
    pub readonly_paths: Vec<PathBuf>,
    /// Name of the system call filter.
    pub seccomp: String,
    /// Upper bounds.
    pub limits: Limits,
    /// Resource limits of each process: name as in `getrlimit(2)` without `RLIMIT_` (`NOFILE`),
    /// soft, hard.
    pub rlimits: BTreeMap<String, (u64, u64)>,
    /// Where its cgroups are made; `None`: no cgroup can be had here.
    pub cgroup: Option<CgroupPlacement>,
    /// What is enforced, and how; compared with what is read back.
    pub enforced: BTreeMap<Protection, String>,
    /// Built-in defaults that this host cannot enforce, and why.
    pub dropped: BTreeMap<Protection, String>,
}

/// The daemon of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Daemon {
    /// Where it listens.
    pub socket: PathBuf,
}

/// Sandboxes from before the root could be anything else.
fn read_only() -> Access {
    Access::ReadOnly
}

fn is_read_only(access: &Access) -> bool {
    *access == Access::ReadOnly
}

/// What the root filesystem is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RootSource {
    /// The machine's own `/usr`, these paths of `/etc`, and these further directories, read-only.
    Host {
        /// Symbolic links at the root, such as `bin -> usr/bin`.
        links: BTreeMap<PathBuf, PathBuf>,
        /// Directories and files of the machine that are shown at the same path.
        shown: Vec<PathBuf>,
        /// Files of the machine of which there are copies at the same path, as they were when the
        /// image's fingerprint was taken.
        #[serde(default)]
        copied: Vec<PathBuf>,
        /// The interpreter that calls run on, if there is one.
        #[serde(default)]
        python: Option<PathBuf>,
    },
    /// The image's layers.
    Layers,
}

/// Ids inside and outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identities {
    /// Uid of the task's processes, inside.
    pub uid: u32,
    /// Gid, inside.
    pub gid: u32,
    /// Supplementary groups to be set; `None`: they cannot be changed here and stay the caller's.
    pub groups: Option<Vec<u32>>,
    /// Name for the generated `passwd`.
    pub name: String,
    /// Maps of the user namespace; `None`: no user namespace.
    pub user_namespace: Option<IdMap>,
}

/// Maps of a user namespace: lines of `inside outside count`, as in `user_namespaces(7)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMap {
    /// Lines of `uid_map`.
    pub uids: Vec<(u32, u32, u32)>,
    /// Lines of `gid_map`.
    pub gids: Vec<(u32, u32, u32)>,
    /// Whether `newuidmap` and `newgidmap` write them. Otherwise they are written by the process
    /// itself (one line, its own id) or by root.
    pub by_helper: bool,
}

/// Namespaces of its own besides the network, which [`Sandbox::network`] decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Namespaces {
    /// Mount, pid, ipc, uts and cgroup are always new.
    pub user: bool,
}

/// One mount above the root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the sandbox.
    pub target: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
}

/// What is mounted. All are `nosuid`; all but device nodes are `nodev`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MountKind {
    /// A directory or file of the caller's, by descriptor. It must still be this inode.
    Caller {
        /// Index in the list of descriptors beside the task.
        descriptor: usize,
        /// Real path outside.
        source: PathBuf,
        /// Device number.
        device: u64,
        /// Inode number.
        inode: u64,
        /// Whether it is a directory.
        directory: bool,
        /// Access.
        access: Access,
    },
    /// A memory filesystem of the sandbox's own, charged to its memory.
    Tmpfs {
        /// Most bytes.
        size_bytes: u64,
        /// Permission bits of its root.
        mode: u32,
        /// Whether programs on it may be executed.
        executable: bool,
    },
    /// `proc` of its own pid namespace.
    Proc,
    /// Pseudo terminals of its own.
    Devpts,
    /// One character device of the machine, such as `/dev/null`.
    Device,
    /// POSIX message queues of its own ipc namespace.
    Mqueue,
}

/// Upper bounds for one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory and swap together; a multiple of the page size. `None`: not limited here.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor.
    pub cpus_milli: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Where the sandbox's cgroups are made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CgroupPlacement {
    /// One directory per controller, below the caller's own.
    V1(BTreeMap<Controller, PathBuf>),
    /// One directory, beside the caller's own.
    V2 {
        /// The directory in which the sandbox's is made.
        parent: PathBuf,
        /// Controllers it can use there.
        controllers: Vec<Controller>,
    },
    /// Wherever a daemon makes it.
    Daemon {
        /// What the daemon is told to make it in, in its own words; `None`: in its usual place.
        parent: Option<String>,
        /// Whether the controllers are on a version 2 hierarchy.
        unified: bool,
        /// Controllers that the daemon can use.
        controllers: Vec<Controller>,
    },
}

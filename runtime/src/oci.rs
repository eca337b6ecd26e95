//! A [`Sandbox`] as an OCI runtime spec: the pure half of the native and the oci engine.
//!
//! The native engine turns this spec into its own list of steps, and `runc run` makes the same
//! sandbox of it, so that the same tests judge both. Pure: paths in it are the caller's promise.
//!
//! Every field is set. The constructors of `oci_spec` fill gaps as Docker would, with mounts,
//! namespaces, capabilities and limits that nobody asked for.
//!
//! What a spec cannot say, and the effect of each engine has to see to:
//!
//! - that a caller's mount is still the inode it was;
//! - `nosuid` and `nodev` of the root itself: a runtime keeps the flags that it was mounted with;
//! - locked securebits, and the rest of what `init` applies to itself.
//!
//! What runc 1.1 makes of a spec, besides:
//!
//! - It gives a tmpfs the mode of the directory that it covers, whatever `mode=` says.
//! - It becomes root in a user namespace before it becomes the task's user, so uid 0 must be
//!   mapped.
//!   A sandbox that maps one other id to itself ("no user mapping found") is for the native engine.
//! - It adds device rules of its own: making any node, which takes a capability that no sandbox
//!   has, and 10:200 (`/dev/net/tun`), for which there is no node.
//! - It makes a cgroup in every hierarchy, also where no limit asks for one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxIdMapping, LinuxIdMappingBuilder,
    LinuxNamespace, LinuxNamespaceType, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process,
    Root, Spec, User,
};
use ric_policies::{Access, Network};

use crate::seccomp::{Architecture, Profile};
use crate::{Controller, Sandbox};

mod mounts;
mod resources;
mod seccomp;

pub use seccomp::to_seccomp;

/// What an engine knows besides the sandbox: where things are on this machine, and what runs first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Name of the container, and of its cgroup.
    pub name: String,
    /// The root filesystem, mounted `nosuid,nodev`: the layers, or the generated top directory
    /// alone. It has every mount point, `/dev` with its links, and the mode of each tmpfs on its
    /// mount point.
    pub root: PathBuf,
    /// Directory with `init` and the worker, to appear at [`OWN_DIRECTORY`](crate::OWN_DIRECTORY).
    pub tools: PathBuf,
    /// Where to mount each of the caller's descriptors from, by index: `/proc/PID/fd/N`, or the
    /// real path where nobody could have changed it.
    pub sources: Vec<PathBuf>,
    /// The first process: `init` and its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub variables: Vec<(String, String)>,
    /// Its working directory inside.
    pub workdir: PathBuf,
    /// The machine, for the system call filter.
    pub architecture: Architecture,
}

/// Why a [`Sandbox`] cannot be said as a runtime spec. Each is ours to mend, in `plan` or an
/// engine.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The bundle has no source for a mount.
    #[error("no source for the caller's descriptor {descriptor}")]
    Descriptor {
        /// Its index.
        descriptor: usize,
    },
    /// No filter has this name.
    #[error("no system call filter is named `{name}`")]
    Seccomp {
        /// The name.
        name: String,
    },
    /// A capability that no kernel has.
    #[error("no capability is named `{name}`")]
    Capability {
        /// The name.
        name: String,
    },
    /// A resource limit that no kernel has.
    #[error("no resource limit is named `{name}`")]
    Rlimit {
        /// The name.
        name: String,
    },
    /// A limit is asked for that the sandbox's cgroup cannot enforce.
    #[error("a limit needs the cgroup controller {controller:?}, which this sandbox does not have")]
    Controller {
        /// What enforces it.
        controller: Controller,
    },
    /// A limit is larger than the spec can say.
    #[error("the limit of the cgroup controller {controller:?} is above {}", i64::MAX)]
    Limit {
        /// What enforces it.
        controller: Controller,
    },
    /// The cgroup is outside the hierarchy that runtimes use.
    #[error("the cgroup {} is not below /sys/fs/cgroup", .parent.display())]
    Cgroup {
        /// The directory in which the sandbox's was to be made.
        parent: PathBuf,
    },
    /// A user namespace without maps, or maps without one.
    #[error("the sandbox has a user namespace or id maps, but not both")]
    UserNamespace,
    /// A path that is not UTF-8, where the spec wants text.
    #[error("the path {} is not UTF-8", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
}

/// The runtime spec of `sandbox`, with every field set.
///
/// # Errors
/// [`SpecError`] if it would say less than the sandbox asks for; nothing is dropped silently.
pub fn spec(sandbox: &Sandbox, bundle: &Bundle) -> Result<Spec, SpecError> {
    let mut root = Root::default();
    let readonly = match sandbox.root_access {
        Access::ReadOnly => true,
        Access::ReadWrite => false,
    };
    root.set_path(bundle.root.clone()).set_readonly(Some(readonly));

    let mut spec = Spec::default();
    spec
        // The newest that runc 1.1 and crun 1.8 know.
        .set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts::to_mounts(sandbox, bundle)?))
        .set_process(Some(to_process(sandbox, bundle)?))
        .set_hostname(Some(sandbox.hostname.clone()))
        .set_domainname(None)
        .set_hooks(None)
        .set_annotations(None)
        .set_linux(Some(to_linux(sandbox, bundle)?))
        .set_solaris(None)
        .set_windows(None)
        .set_vm(None)
        .set_zos(None);
    Ok(spec)
}

fn to_process(sandbox: &Sandbox, bundle: &Bundle) -> Result<Process, SpecError> {
    let rlimits = sandbox.rlimits.iter();
    let rlimits = rlimits.map(|(name, limits)| to_rlimit(name, *limits));
    let variables = bundle.variables.iter().map(|(name, value)| format!("{name}={value}"));
    let mut process = Process::default();
    process
        // A task's terminal is made by `init`, from the sandbox's own devpts.
        .set_terminal(Some(false))
        .set_console_size(None)
        .set_user(to_user(sandbox))
        .set_args(Some(bundle.arguments.clone()))
        .set_command_line(None)
        .set_env(Some(variables.collect()))
        .set_cwd(bundle.workdir.clone())
        .set_capabilities(Some(to_capabilities(&sandbox.capabilities)?))
        .set_rlimits(Some(rlimits.collect::<Result<_, _>>()?))
        .set_no_new_privileges(Some(true))
        .set_apparmor_profile(None)
        .set_oom_score_adj(None)
        .set_selinux_label(None)
        .set_io_priority(None)
        .set_scheduler(None)
        .set_exec_cpu_affinity(None);
    Ok(process)
}

/// Files that a task makes are for its own user to write.
const UMASK: u32 = 0o022;

fn to_user(sandbox: &Sandbox) -> User {
    let mut user = User::default();
    user.set_uid(sandbox.identities.uid)
        .set_gid(sandbox.identities.gid)
        .set_umask(Some(UMASK))
        .set_additional_gids(sandbox.identities.groups.clone())
        .set_username(None);
    user
}

fn to_capabilities(kept: &BTreeSet<String>) -> Result<LinuxCapabilities, SpecError> {
    let parse = |name: &String| {
        let known = name.strip_prefix("CAP_").and_then(|name| name.parse::<Capability>().ok());
        known.ok_or_else(|| SpecError::Capability { name: name.clone() })
    };
    let kept = kept.iter().map(parse).collect::<Result<Capabilities, _>>()?;
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(kept.clone()))
        .set_effective(Some(kept.clone()))
        .set_inheritable(Some(Capabilities::new()))
        .set_permitted(Some(kept))
        .set_ambient(Some(Capabilities::new()));
    Ok(capabilities)
}

fn to_rlimit(name: &str, (soft, hard): (u64, u64)) -> Result<PosixRlimit, SpecError> {
    let kind = format!("RLIMIT_{name}").parse::<PosixRlimitType>();
    let kind = kind.map_err(|_| SpecError::Rlimit { name: name.to_owned() })?;
    let rlimit = PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build();
    Ok(rlimit.expect("it has no field that is checked"))
}

fn to_linux(sandbox: &Sandbox, bundle: &Bundle) -> Result<Linux, SpecError> {
    let profile = Profile::named(&sandbox.seccomp);
    let profile = profile.ok_or_else(|| SpecError::Seccomp { name: sandbox.seccomp.clone() })?;
    let maps = sandbox.identities.user_namespace.as_ref();
    let cgroups_path = resources::to_cgroups_path(sandbox.cgroup.as_ref(), &bundle.name)?;

    let mut linux = Linux::default();
    linux
        .set_net_devices(None)
        .set_uid_mappings(maps.map(|maps| to_id_mappings(&maps.uids)))
        .set_gid_mappings(maps.map(|maps| to_id_mappings(&maps.gids)))
        .set_sysctl(None)
        .set_resources(Some(resources::to_resources(sandbox)?))
        .set_cgroups_path(cgroups_path)
        .set_namespaces(Some(to_namespaces(sandbox)?))
        // Nodes are mounts: making one needs a capability that a user namespace cannot give.
        .set_devices(Some(Vec::new()))
        .set_seccomp(Some(seccomp::to_seccomp(&profile, bundle.architecture)))
        // Mounts made on the host later stay there, and the sandbox's stay here. The spec's own
        // default would let the host's in.
        .set_rootfs_propagation(Some("rprivate".to_owned()))
        .set_masked_paths(Some(to_texts(&sandbox.masked_paths)?))
        .set_readonly_paths(Some(to_texts(&sandbox.readonly_paths)?))
        .set_mount_label(None)
        .set_intel_rdt(None)
        .set_memory_policy(None)
        .set_personality(None)
        .set_time_offsets(None);
    Ok(linux)
}

fn to_namespaces(sandbox: &Sandbox) -> Result<Vec<LinuxNamespace>, SpecError> {
    if sandbox.namespaces.user != sandbox.identities.user_namespace.is_some() {
        return Err(SpecError::UserNamespace);
    }
    let mut kinds = vec![
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ];
    if sandbox.namespaces.user {
        kinds.push(LinuxNamespaceType::User);
    }
    match sandbox.network {
        Network::Loopback => kinds.push(LinuxNamespaceType::Network),
        Network::Host => {}
    }
    let namespaces = kinds.into_iter().map(|kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(None);
        namespace
    });
    Ok(namespaces.collect())
}

fn to_id_mappings(lines: &[(u32, u32, u32)]) -> Vec<LinuxIdMapping> {
    let mappings = lines.iter().map(|&(inside, outside, count)| {
        let mapping = LinuxIdMappingBuilder::default();
        let mapping = mapping.container_id(inside).host_id(outside).size(count).build();
        mapping.expect("it has no field that is checked")
    });
    mappings.collect()
}

fn to_texts(paths: &[PathBuf]) -> Result<Vec<String>, SpecError> {
    let texts = paths.iter().map(|path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| SpecError::Path { path: path.clone() })
    });
    texts.collect()
}

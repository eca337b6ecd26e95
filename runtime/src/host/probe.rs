//! Finds out what this machine can do for this caller, by doing it.
//!
//! What changes the process that tries it (namespaces, mounts, a filter) is tried by a [`Trial`] in
//! a child of its own; the rest is read or tried here and undone at once. Probing takes some
//! milliseconds; [`HostCache`](super::HostCache) spares it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use rustix::process::Resource;

use super::{cgroup, shown, subordinate};
use crate::{Caller, CgroupHost, ControllerPlace, Host, Probe, loops};

/// One thing that a child process tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrialKind {
    /// New mount, pid, net, ipc, uts and cgroup namespaces, as every sandbox has.
    Namespaces,
    /// The same, in a new user namespace in which the caller is mapped.
    UserNamespace,
    /// An overlay mount of two empty directories, in the namespaces named before it.
    Overlay,
    /// A system call filter that allows everything, after no_new_privs.
    Seccomp,
    /// A new cgroup, a limit in it, and a process in it.
    Cgroup {
        /// Where it is made.
        place: ControllerPlace,
        /// The limit's file.
        control: &'static str,
        /// A value of it that any cgroup accepts.
        value: &'static str,
    },
    /// A BPF program that limits the devices of a new version 2 cgroup.
    DeviceProgram {
        /// The directory in which the cgroup is made.
        parent: PathBuf,
    },
}

/// Tries things, all in one new child process, in order; `Err`: which one failed and what the
/// kernel said. Nothing is left behind.
pub type Trial<'a> = dyn Fn(&[TrialKind]) -> Result<(), String> + 'a;

/// Why a machine could not even be looked at. The host's administrator must act.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A file that every Linux has cannot be read.
    #[error("cannot read {}, without which nothing is known of this machine", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Probes this machine for `caller`, who is this process, and for `host:` with `host_paths`.
///
/// Controllers that a version 2 cgroup of the caller's own has and does not pass on are switched on
/// there, as sandboxes need them; all else is as before.
///
/// # Errors
/// Only where `/proc` cannot be read; everything else that fails is an answer.
pub fn probe_host(
    caller: &Caller,
    host_paths: &[PathBuf],
    trial: &Trial<'_>,
) -> Result<Host, ProbeError> {
    let own_cgroups = read("/proc/self/cgroup")?;
    let privileged = attempt(&[TrialKind::Namespaces], "new namespaces as root", trial);
    let user_namespace =
        attempt(&[TrialKind::UserNamespace], "new namespaces in a user namespace", trial);
    let cgroup = probe_cgroups(&own_cgroups, privileged.works, trial)?;
    let around = if privileged.works { TrialKind::Namespaces } else { TrialKind::UserNamespace };
    let overlay = attempt(&[around, TrialKind::Overlay], "an overlay mount", trial);
    let squashfs = privileged.works.then(loops::probe_squashfs);
    let seccomp = attempt(&[TrialKind::Seccomp], "a system call filter", trial);
    let root_links = shown::read_root_links();
    let (host_shown, host_copied) = shown::find_shown();
    let system = rustix::system::sysinfo();
    Ok(Host {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        architecture: architecture(),
        privileged,
        user_namespace,
        overlay,
        squashfs,
        seccomp,
        subordinate_ids: subordinate::find(caller),
        cgroup,
        rlimits_hard: rlimits_hard(),
        page_bytes: u64::try_from(rustix::param::page_size()).unwrap_or(4096),
        memory_bytes: total_memory(&system),
        host_fingerprint: shown::fingerprint(
            &root_links,
            &[&host_shown[..], &host_copied, host_paths].concat(),
        ),
        pythons: shown::find_pythons(host_paths),
        host_paths: host_paths.iter().filter(|path| path.is_dir()).cloned().collect(),
        root_links,
        host_shown,
        host_copied,
        own_paths: Vec::new(),
        docker: None,
    })
}

/// Probes the cgroups in which sandboxes of another process would live, whose `/proc/PID/cgroup`
/// reads as `own_cgroups`: with this process's rights, below or beside that process's own.
///
/// # Errors
/// As [`probe_host`].
pub fn probe_cgroups(
    own_cgroups: &str,
    privileged: bool,
    trial: &Trial<'_>,
) -> Result<CgroupHost, ProbeError> {
    let mut cgroup = cgroup::probe(&read("/proc/self/mountinfo")?, own_cgroups, trial);
    if privileged {
        cgroup::probe_device_program(&mut cgroup, trial);
    }
    Ok(cgroup)
}

/// Whether the cgroups that `/proc/PID/cgroup` told of a process are still there. A scheduler
/// removes those of a job that has ended.
///
/// # Errors
/// [`ProbeError::Read`].
pub fn cgroups_are_there(own_cgroups: &str) -> Result<bool, ProbeError> {
    Ok(cgroup::are_there(&read("/proc/self/mountinfo")?, own_cgroups))
}

/// The caller's own hard limits, `getrlimit(2)`. They differ from shell to shell.
pub(super) fn rlimits_hard() -> BTreeMap<String, u64> {
    let all = [
        ("AS", Resource::As),
        ("CORE", Resource::Core),
        ("CPU", Resource::Cpu),
        ("DATA", Resource::Data),
        ("FSIZE", Resource::Fsize),
        ("MEMLOCK", Resource::Memlock),
        ("NOFILE", Resource::Nofile),
        ("NPROC", Resource::Nproc),
        ("RTPRIO", Resource::Rtprio),
        ("STACK", Resource::Stack),
    ];
    let hard = |resource| rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    all.into_iter().map(|(name, resource)| (name.to_owned(), hard(resource))).collect()
}

fn attempt(kinds: &[TrialKind], what: &str, trial: &Trial<'_>) -> Probe {
    match trial(kinds) {
        Ok(()) => Probe { works: true, detail: what.to_owned() },
        Err(why) => Probe { works: false, detail: format!("{what}: {why}") },
    }
}

/// The machine in Go's words, which images use (`GOARCH`).
fn architecture() -> String {
    let word = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    };
    word.to_owned()
}

fn total_memory(system: &rustix::system::Sysinfo) -> u64 {
    u64::from(system.mem_unit).saturating_mul(system.totalram)
}

pub(super) fn read(path: &str) -> Result<String, ProbeError> {
    let bytes = read_at_once(path)
        .map_err(|source| ProbeError::Read { path: PathBuf::from(path), source })?;
    // Paths of mounts and cgroups may be any bytes; one that is not UTF-8 only fails to match.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The whole of a file of `/proc`, mostly with one read(2): every start waits for this.
fn read_at_once(path: &str) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; 4096];
    let length = file.read(&mut bytes)?;
    bytes.truncate(length);
    // The kernel fills a page with whole lines; what is far from full was all there is.
    if length > 2048 {
        file.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

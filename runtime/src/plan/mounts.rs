//! What is mounted above the root: the sandbox's own file systems, then what the task asks for.
//!
//! A source is judged by the real path of the descriptor that the caller opened, by whole
//! components, after symbolic links. A target is a path in the sandbox; those that the sandbox
//! itself is made of cannot be covered.

use std::path::{Path, PathBuf};

use ric_policies::{Access, Policy};

use super::target::{parse_target, related};
use crate::{Host, Mount, MountAsk, MountKind, OWN_DIRECTORY, PathKind, Refusal, Rule, Task};

/// Most mounts that one task may ask for: each costs kernel memory outside the task's limit.
const MOUNTS_MAX: usize = 64;

/// Character devices that every program may expect; all harmless (Docker's list, moby
/// `daemon/pkg/oci/defaults.go`, without the console).
const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// Sticky and writable for all, as `/tmp` is everywhere: the task's uid need not own it.
pub(super) const TMP_MODE: u32 = 0o1777;

/// Trees of the machine that no policy can allow: the kernel's own interfaces.
const KERNEL_TREES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What the sandbox is made of: nothing may be mounted there, below it or above it.
const RESERVED_TARGETS: [&str; 8] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    SECRETS_DIRECTORY,
    OWN_DIRECTORY,
];

/// Where secrets appear, as in Docker and Podman: memory of the sandbox's own, so that they are on
/// no disk.
const SECRETS_DIRECTORY: &str = "/run/secrets";

/// Most bytes of all secrets of a task, with what the filesystem takes for them.
const SECRETS_BYTES_MAX: u64 = 2 << 20;

/// Where a task starts and where its inputs appear.
pub(super) const TASK_DIRECTORY: &str = "/task";

/// Directories of the sandbox's own that may be mounted below, but not on: their emptiness and
/// their size are promises.
const OWN_TMPFS: [&str; 2] = [TASK_DIRECTORY, "/tmp"];

/// All mounts of a sandbox, in the order in which they are made.
pub(super) fn mounts(
    task: &Task,
    policy: &Policy,
    host: &Host,
    memory_basis_bytes: u64,
) -> Result<Vec<Mount>, Refusal> {
    let mut all = own_mounts(memory_basis_bytes, host.page_bytes);
    if !task.secrets.is_empty() {
        let size_bytes = SECRETS_BYTES_MAX.next_multiple_of(host.page_bytes.max(1));
        let kind = MountKind::Tmpfs { size_bytes, mode: TMP_MODE, executable: false };
        all.push(Mount { target: PathBuf::from(SECRETS_DIRECTORY), kind });
    }
    all.extend(asked_mounts(task, policy, host)?);
    Ok(all)
}

/// What every sandbox has, asked or not.
fn own_mounts(memory_basis_bytes: u64, page_bytes: u64) -> Vec<Mount> {
    let mount = |target: &str, kind| Mount { target: PathBuf::from(target), kind };
    let size_bytes = half_bytes(memory_basis_bytes, page_bytes);
    let tmpfs = |executable| MountKind::Tmpfs { size_bytes, mode: TMP_MODE, executable };
    let mut all = vec![mount("/proc", MountKind::Proc), mount("/dev/pts", MountKind::Devpts)];
    all.extend(DEVICES.map(|device| mount(device, MountKind::Device)));
    all.push(mount(TASK_DIRECTORY, tmpfs(true)));
    all.push(mount("/tmp", tmpfs(true)));
    all.push(mount("/dev/shm", tmpfs(false)));
    all
}

/// Half of the memory, as the kernel's own default for a tmpfs is half of the machine's: what is in
/// it counts as the task's memory, and a full one shall be ENOSPC, not a killed task.
pub(super) fn half_bytes(memory_basis_bytes: u64, page_bytes: u64) -> u64 {
    let page_bytes = page_bytes.max(1);
    let half = memory_basis_bytes / 2;
    (half - half % page_bytes).max(page_bytes)
}

/// Refuses a target of a build step that the kernel's own trees or this program's directory have,
/// or that lies above them.
pub(super) fn refuse_kernels(target: &Path) -> Result<(), String> {
    let mut reserved = KERNEL_TREES.iter().chain([&OWN_DIRECTORY]);
    let found = reserved.find(|tree| related(target, Path::new(tree)));
    found.map_or(Ok(()), |tree| Err(format!("the sandbox's own {tree} is there")))
}

/// What a build step has: no directory of its own that would hide the image's or be forgotten.
pub(super) fn of_build(memory_basis_bytes: u64, page_bytes: u64) -> Vec<Mount> {
    let hides = |mount: &Mount| OWN_TMPFS.iter().any(|own| mount.target == Path::new(own));
    let all = own_mounts(memory_basis_bytes, page_bytes).into_iter();
    all.filter(|mount| !hides(mount)).collect()
}

/// What the task asks for, each parent before what is mounted below it.
fn asked_mounts(task: &Task, policy: &Policy, host: &Host) -> Result<Vec<Mount>, Refusal> {
    if task.mounts.len() > MOUNTS_MAX {
        return Err(Refusal::Malformed {
            what: "number of mounts",
            value: task.mounts.len().to_string(),
            why: format!("at most {MOUNTS_MAX} can be asked for"),
        });
    }
    let mut all = Vec::new();
    for ask in &task.mounts {
        all.push(asked_mount(ask, task, policy, host)?);
    }
    all.sort_by(|a, b| a.target.cmp(&b.target));
    for pair in all.windows(2) {
        refuse_overlap(&pair[0], &pair[1])?;
    }
    Ok(all)
}

fn asked_mount(
    ask: &MountAsk,
    task: &Task,
    policy: &Policy,
    host: &Host,
) -> Result<Mount, Refusal> {
    let target = parse_target(&ask.target)
        .and_then(|target| refuse_reserved(&target, task).map(|()| target))
        .map_err(|why| Refusal::MountTarget { target: ask.target.clone(), why })?;
    let source = &ask.source;
    refuse_source(&source.real, source.kind, host)
        .map_err(|why| Refusal::MountSource { source_path: source.real.clone(), why })?;
    let access = allowed_access(ask, policy)?;
    let kind = MountKind::Caller {
        descriptor: ask.descriptor,
        source: source.real.clone(),
        device: source.device,
        inode: source.inode,
        directory: source.kind == PathKind::Directory,
        access,
    };
    Ok(Mount { target, kind })
}

/// Sources that no rule can allow, because a task with them would be outside its sandbox.
fn refuse_source(real: &Path, kind: PathKind, host: &Host) -> Result<(), String> {
    // The kernel writes ` (deleted)` and `(unreachable)` where a descriptor has no path.
    if parse_target(real).as_deref() != Ok(real) {
        return Err("it has no path on this machine".to_owned());
    }
    if kind == PathKind::Special {
        return Err("only directories and regular files can be mounted".to_owned());
    }
    if real == Path::new("/") {
        return Err("it is the whole machine".to_owned());
    }
    if let Some(tree) = KERNEL_TREES.iter().find(|tree| real.starts_with(tree)) {
        return Err(format!("{tree} belongs to the kernel"));
    }
    if host.cgroup.mounts.iter().any(|mount| related(real, mount)) {
        return Err("it holds control groups, with which a task could lift its limits".to_owned());
    }
    match host.own_paths.iter().find(|own| related(real, own)) {
        Some(own) => Err(format!("run-in-container keeps its own files in {}", own.display())),
        None => Ok(()),
    }
}

fn allowed_access(ask: &MountAsk, policy: &Policy) -> Result<Access, Refusal> {
    let real = &ask.source.real;
    let asked = ask.access.unwrap_or(Access::ReadOnly);
    let refuse = |most, rule| Refusal::Mount {
        source_path: real.clone(),
        asked,
        most,
        allowed: policy.mounts.iter().map(|rule| rule.value.source.clone()).collect(),
        rule,
    };
    match policy.mount_rule(real) {
        None => Err(refuse(None, Rule::at(policy, "mounts", policy.origin_of("mounts")))),
        Some(rule) if asked > rule.value.access => {
            Err(refuse(Some(rule.value.access), Rule::at(policy, "mounts", &rule.origin)))
        }
        Some(_) => Ok(asked),
    }
}

fn refuse_reserved(target: &Path, task: &Task) -> Result<(), String> {
    if let Some(reserved) = RESERVED_TARGETS.iter().find(|r| related(target, Path::new(r))) {
        return Err(format!("the sandbox's own {reserved} is there"));
    }
    if OWN_TMPFS.iter().any(|own| target == Path::new(own)) {
        return Err("the sandbox has its own directory there; choose a path below it".to_owned());
    }
    let names = task.inputs.iter().map(|input| &input.name);
    let mut names = names.chain(task.outputs.iter().map(|output| &output.name));
    let taken = names.find(|name| target.starts_with(Path::new(TASK_DIRECTORY).join(name)));
    taken.map_or(Ok(()), |name| Err(format!("the input or output `{name}` is there")))
}

/// Two neighbours in the order of their targets: not the same, and nothing inside a file.
fn refuse_overlap(first: &Mount, second: &Mount) -> Result<(), Refusal> {
    let refuse = |why: &str| {
        Err(Refusal::MountTarget { target: second.target.clone(), why: why.to_owned() })
    };
    if first.target == second.target {
        return refuse("two mounts are asked for there");
    }
    let file = matches!(first.kind, MountKind::Caller { directory: false, .. });
    if file && second.target.starts_with(&first.target) {
        return refuse("it lies below a mounted file");
    }
    Ok(())
}

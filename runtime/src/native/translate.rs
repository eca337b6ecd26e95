//! The pure half: an OCI runtime spec and what only this engine has, to the steps of `init`.
//!
//! The same spec given to another OCI runtime makes a sandbox in which the same tests pass. What
//! the spec cannot say comes beside it: the layers of the root, where cgroups may be made, and the
//! descriptors that stand for the caller's mounts.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime as oci;
use rustix::fs::makedev;

use super::devices;
use super::steps::{Check, Expect, Mounter, Parent, Step};
use crate::{CgroupPlacement, Controller};

/// Beside the spec.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    /// Name of the container, which its cgroups get.
    pub(crate) id: &'a str,
    /// The generated top layer.
    pub(crate) top: &'a Path,
    /// The image's layers, lowest first; none: the top layer is the root.
    pub(crate) layers: &'a [PathBuf],
    /// A descriptor of a mount, and where it is attached before the layers are looked for.
    pub(crate) attached: Option<(u64, &'a Path)>,
    /// Where changes of the root go, if it can be changed.
    pub(crate) changes: Option<Changes<'a>>,
    /// An empty directory, which hides others.
    pub(crate) empty: &'a Path,
    /// Where cgroups are made.
    pub(crate) cgroup: Option<&'a CgroupPlacement>,
    /// The caller's mounts, by their target.
    pub(crate) callers: Vec<CallerMount<'a>>,
    /// Whether `init` may clone mounts in the machine's own namespace.
    pub(crate) privileged: bool,
    /// Supplementary groups to be set.
    pub(crate) groups: Option<&'a [u32]>,
    /// Whether the owner writes the maps of the user namespace, itself or by `newuidmap`.
    pub(crate) maps_by_owner: bool,
    /// The system call filter.
    pub(crate) filter: &'a [u8],
}

/// Where changes of the root go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changes<'a> {
    /// A directory with the mount points `root`, `top` and `0` to the number of layers less one,
    /// and with `changes`, which holds the overlay's `upper` and `work`.
    pub(crate) room: &'a Path,
    /// The first of the descriptors of the directories that shall show the machine's ids as those
    /// of the user namespace: `changes`, the top layer, and the image's, lowest first.
    pub(crate) mapped_from: Option<u64>,
}

/// A mount of the caller's: the descriptor, and what it must be if it has to be opened by name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallerMount<'a> {
    pub(crate) target: &'a Path,
    /// Its number among the descriptors that the caller gave.
    pub(crate) came_as: usize,
    /// Its number among the descriptors that travel with the steps.
    pub(crate) descriptor: u64,
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;

/// The steps that make the sandbox that `spec` describes.
pub(crate) fn steps(spec: &oci::Spec, setting: &Setting<'_>) -> Vec<Step> {
    let mut steps = cgroup_steps(spec, setting);
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    if setting.privileged {
        for mount in mounts {
            if let Some(caller) = caller_of(mount, setting) {
                steps.push(Step::tree(caller.descriptor, mount.destination()));
            }
        }
    }
    let mapped = mapped_places(setting);
    for (descriptor, place) in &mapped {
        steps.push(Step::tree(*descriptor, place));
        steps.push(Step::idmap(*descriptor, place));
    }
    let v2 = match setting.cgroup {
        Some(CgroupPlacement::V2 { parent, .. }) => Some(parent.join(setting.id)),
        Some(CgroupPlacement::V1(_) | CgroupPlacement::Daemon { .. }) | None => None,
    };
    steps.push(Step::clone(namespace_flags(spec), v2.as_deref(), setting.maps_by_owner));
    steps.extend(map_steps(spec, setting));
    steps.push(Step::private());
    steps.extend(mapped.iter().map(|(descriptor, place)| Step::cover(*descriptor, place)));
    steps.extend(setting.attached.map(|(descriptor, place)| Step::cover(descriptor, place)));
    steps.push(match &setting.changes {
        Some(changes) => changed_root_step(setting, changes),
        None => root_step(setting),
    });
    steps.extend(mounts.iter().map(|mount| mount_step(mount, setting)));
    if let Some(linux) = spec.linux() {
        let masked = linux.masked_paths().iter().flatten();
        steps.extend(masked.map(|path| Step::mask(Path::new(path), setting.empty)));
        let readonly = linux.readonly_paths().iter().flatten();
        steps.extend(readonly.map(|path| Step::readonly(Path::new(path))));
    }
    let readonly = if is_readonly(spec) { RDONLY } else { 0 };
    steps.push(Step::root_attributes(readonly | NOSUID | NODEV));
    steps.push(Step::pivot());
    steps.extend(spec.hostname().iter().map(|name| Step::hostname(name)));
    if has_namespace(spec, oci::LinuxNamespaceType::Network) {
        steps.push(Step::loopback());
    }
    steps.extend(process_steps(spec, setting));
    steps
}

fn has_namespace(spec: &oci::Spec, kind: oci::LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.is_some_and(|all| all.iter().any(|namespace| namespace.typ() == kind))
}

/// Flags of `clone3(2)`, from `linux/sched.h`.
pub(crate) mod flags {
    pub(crate) const NEWNS: u64 = 0x0002_0000;
    pub(crate) const NEWCGROUP: u64 = 0x0200_0000;
    pub(crate) const NEWUTS: u64 = 0x0400_0000;
    pub(crate) const NEWIPC: u64 = 0x0800_0000;
    pub(crate) const NEWUSER: u64 = 0x1000_0000;
    pub(crate) const NEWPID: u64 = 0x2000_0000;
    pub(crate) const NEWNET: u64 = 0x4000_0000;
}

/// The namespaces that the spec asks for.
fn namespace_flags(spec: &oci::Spec) -> u64 {
    use oci::LinuxNamespaceType as Type;
    [
        (Type::Mount, flags::NEWNS),
        (Type::Cgroup, flags::NEWCGROUP),
        (Type::Uts, flags::NEWUTS),
        (Type::Ipc, flags::NEWIPC),
        (Type::User, flags::NEWUSER),
        (Type::Pid, flags::NEWPID),
        (Type::Network, flags::NEWNET),
    ]
    .into_iter()
    .filter(|(kind, _)| has_namespace(spec, *kind))
    .map(|(_, flag)| flag)
    .sum()
}

/// One line for one's own id needs nobody else (user_namespaces(7)); `setgroups` must be given up
/// first, or a user could shed a group that a file denies access to.
fn map_steps(spec: &oci::Spec, setting: &Setting<'_>) -> Vec<Step> {
    let Some(linux) = spec.linux() else { return Vec::new() };
    if setting.maps_by_owner || !has_namespace(spec, oci::LinuxNamespaceType::User) {
        return Vec::new();
    }
    let lines = |maps: &Option<Vec<oci::LinuxIdMapping>>| {
        let maps = maps.iter().flatten();
        let line = |map: &oci::LinuxIdMapping| (map.container_id(), map.host_id(), map.size());
        maps.map(line).collect::<Vec<_>>()
    };
    own_map_steps(&lines(linux.uid_mappings()), &lines(linux.gid_mappings()))
}

/// The maps of a user namespace that its first process writes itself.
pub(crate) fn own_map_steps(uids: &[(u32, u32, u32)], gids: &[(u32, u32, u32)]) -> Vec<Step> {
    let text = |lines: &[(u32, u32, u32)]| {
        lines.iter().map(|(a, b, c)| format!("{a} {b} {c}\n")).collect::<String>()
    };
    vec![
        Step::write("/proc/self/setgroups", "deny"),
        Step::write("/proc/self/uid_map", &text(uids)),
        Step::write("/proc/self/gid_map", &text(gids)),
    ]
}

fn root_step(setting: &Setting<'_>) -> Step {
    let [first, ..] = setting.layers else { return Step::root_bind(setting.top) };
    // Paths relative to one directory, so that a page of options holds some sixty layers. A single
    // layer is that directory: its path may hold whatever a caller's `dir:` holds.
    let single = setting.layers.len() == 1;
    let from = if single { first } else { first.parent().unwrap_or(first) };
    let mut options = b"userxattr,lowerdir=".to_vec();
    options.extend(escaped(setting.top));
    for layer in setting.layers.iter().rev() {
        options.push(b':');
        match layer.strip_prefix(from) {
            Ok(_) if single => options.push(b'.'),
            Ok(relative) => options.extend(escaped(relative)),
            Err(_) => options.extend(escaped(layer)),
        }
    }
    Step::root_overlay(setting.top, &options, from, RDONLY | NOSUID | NODEV, Mounter::Owner)
}

/// Descriptors of directories whose ids are mapped, and where they are attached.
fn mapped_places(setting: &Setting<'_>) -> Vec<(u64, PathBuf)> {
    let Some(Changes { room, mapped_from: Some(first) }) = setting.changes else {
        return Vec::new();
    };
    let layers = (0..setting.layers.len()).map(|number| number.to_string());
    let places = ["changes".to_owned(), "top".to_owned()].into_iter().chain(layers);
    (first..).zip(places.map(|name| room.join(name))).collect()
}

/// The layers under a directory that takes the changes.
fn changed_root_step(setting: &Setting<'_>, changes: &Changes<'_>) -> Step {
    let mut options = b"userxattr,upperdir=changes/upper,workdir=changes/work,lowerdir=".to_vec();
    let (layers, mounter): (Vec<Vec<u8>>, _) = match changes.mapped_from {
        // As uid 0 inside, who can go nowhere from here but down.
        Some(_) => {
            let layers = (0..setting.layers.len()).rev().map(|number| number.to_string());
            let names = std::iter::once("top".to_owned()).chain(layers);
            (names.map(String::into_bytes).collect(), Mounter::Root)
        }
        None => {
            // Short ways: a page of options has to hold them all.
            let store = changes.room.ancestors().nth(2).unwrap_or(changes.room);
            let near = |layer: &Path| match layer.strip_prefix(changes.room) {
                Ok(here) => escaped(here),
                Err(_) => match layer.strip_prefix(store) {
                    Ok(below) => escaped(&Path::new("../..").join(below)),
                    Err(_) => escaped(layer),
                },
            };
            let layers = setting.layers.iter().rev().map(|layer| near(layer));
            (std::iter::once(near(setting.top)).chain(layers).collect(), Mounter::Owner)
        }
    };
    options.extend(layers.join(&b':'));
    Step::root_overlay(Path::new("root"), &options, changes.room, NOSUID | NODEV, mounter)
}

/// Overlayfs splits layers at `:` and options at `,`, unless a backslash stands before.
fn escaped(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    bytes
        .iter()
        .flat_map(|byte| match byte {
            b':' | b',' | b'\\' => vec![b'\\', *byte],
            other => vec![*other],
        })
        .collect()
}

fn caller_of<'a>(mount: &oci::Mount, setting: &'a Setting<'_>) -> Option<&'a CallerMount<'a>> {
    setting.callers.iter().find(|caller| caller.target == mount.destination().as_path())
}

fn mount_step(mount: &oci::Mount, setting: &Setting<'_>) -> Step {
    let target = mount.destination();
    let options = mount.options().as_deref().unwrap_or_default();
    let (attributes, rest) = split_options(options);
    let bind = options.iter().any(|option| option == "bind" || option == "rbind");
    let nowhere = PathBuf::new();
    let source = mount.source().as_ref().unwrap_or(&nowhere);
    if let Some(caller) = caller_of(mount, setting) {
        if setting.privileged {
            return Step::attach(caller.descriptor, target, attributes);
        }
        let expect = Expect::Inode { device: caller.device, inode: caller.inode };
        return Step::bind(source, target, attributes, expect);
    }
    if bind {
        let expect = device_number(source).map_or(Expect::Any, Expect::Device);
        return Step::bind(source, target, attributes, expect);
    }
    let kind = mount.typ().as_deref().unwrap_or_default();
    Step::mount(kind, target, &rest.join(","), attributes)
}

/// Attributes of `mount_setattr(2)`, and what is for the filesystem itself.
fn split_options(options: &[String]) -> (u64, Vec<&str>) {
    let mut attributes = 0;
    let mut rest = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" | "rro" => attributes |= RDONLY,
            "nosuid" | "rnosuid" => attributes |= NOSUID,
            "nodev" | "rnodev" => attributes |= NODEV,
            "noexec" | "rnoexec" => attributes |= NOEXEC,
            "bind" | "rbind" | "rw" | "rrw" | "private" | "rprivate" | "suid" | "dev" | "exec" => {}
            other => rest.push(other),
        }
    }
    (attributes, rest)
}

/// Numbers of the device nodes that a sandbox has, `admin-guide/devices.txt` of the kernel.
fn device_number(path: &Path) -> Option<u64> {
    let (major, minor) = match path.to_str()? {
        "/dev/null" => (1, 3),
        "/dev/zero" => (1, 5),
        "/dev/full" => (1, 7),
        "/dev/random" => (1, 8),
        "/dev/urandom" => (1, 9),
        "/dev/tty" => (5, 0),
        _ => return None,
    };
    Some(makedev(major, minor))
}

/// The capabilities that the process keeps, a bit for each (`linux/capability.h`).
pub(super) fn kept_capabilities(process: &oci::Process) -> u64 {
    let kept = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
    let bits = kept.into_iter().flatten().filter_map(|capability| {
        let known = format!("CAP_{capability}").parse::<caps::Capability>().ok()?;
        Some(known.bitmask())
    });
    bits.fold(0, |all, bit| all | bit)
}

fn is_readonly(spec: &oci::Spec) -> bool {
    spec.root().as_ref().is_none_or(|root| root.readonly() != Some(false))
}

fn process_steps(spec: &oci::Spec, setting: &Setting<'_>) -> Vec<Step> {
    let Some(process) = spec.process() else { return Vec::new() };
    let mut steps = rlimit_steps(process);
    if is_readonly(spec) {
        steps.push(Step::queues());
    }
    let kept = kept_capabilities(process);
    steps.push(Step::bound(kept));
    let user = process.user();
    steps.push(Step::ids(user.uid(), user.gid(), setting.groups));
    steps.push(Step::drop_privileges(kept, Parent::Monitor));
    if is_readonly(spec) {
        steps.push(Step::mkdir("/tmp/home", 0o700));
    }
    steps.push(Step::seccomp(setting.filter));
    // Last: it has had the time of all since the pivot.
    steps.push(Step::detached());
    steps.push(Step::ready());
    steps
}

/// Resource limits need no privilege as long as they are not raised.
pub(crate) fn rlimit_steps(process: &oci::Process) -> Vec<Step> {
    let limits = process.rlimits().iter().flatten();
    let step = |limit: &oci::PosixRlimit| {
        let (name, resource) = resource(limit.typ());
        Step::rlimit(name, resource, limit.soft(), limit.hard())
    };
    limits.map(step).collect()
}

/// Name and number of a resource limit, `asm-generic/resource.h`.
fn resource(kind: oci::PosixRlimitType) -> (&'static str, u64) {
    use oci::PosixRlimitType as Type;
    match kind {
        Type::RlimitCpu => ("RLIMIT_CPU", 0),
        Type::RlimitFsize => ("RLIMIT_FSIZE", 1),
        Type::RlimitData => ("RLIMIT_DATA", 2),
        Type::RlimitStack => ("RLIMIT_STACK", 3),
        Type::RlimitCore => ("RLIMIT_CORE", 4),
        Type::RlimitRss => ("RLIMIT_RSS", 5),
        Type::RlimitNproc => ("RLIMIT_NPROC", 6),
        Type::RlimitNofile => ("RLIMIT_NOFILE", 7),
        Type::RlimitMemlock => ("RLIMIT_MEMLOCK", 8),
        Type::RlimitAs => ("RLIMIT_AS", 9),
        Type::RlimitLocks => ("RLIMIT_LOCKS", 10),
        Type::RlimitSigpending => ("RLIMIT_SIGPENDING", 11),
        Type::RlimitMsgqueue => ("RLIMIT_MSGQUEUE", 12),
        Type::RlimitNice => ("RLIMIT_NICE", 13),
        Type::RlimitRtprio => ("RLIMIT_RTPRIO", 14),
        Type::RlimitRttime => ("RLIMIT_RTTIME", 15),
    }
}

/// Directories, limits and, on version 1, the way in; each directory once, though several
/// controllers may be mounted together.
fn cgroup_steps(spec: &oci::Spec, setting: &Setting<'_>) -> Vec<Step> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let (Some(placement), Some(resources)) = (setting.cgroup, resources) else { return Vec::new() };
    match placement {
        CgroupPlacement::V1(parents) => {
            let directory = |controller| parents.get(&controller).map(|at| at.join(setting.id));
            let all: BTreeSet<PathBuf> = parents.keys().filter_map(|c| directory(*c)).collect();
            let mut steps: Vec<Step> = all.iter().map(|at| Step::cgroup_make(at)).collect();
            for (controller, file, value, check) in v1_limits(resources) {
                let at = directory(controller).map(|at| at.join(file));
                steps.extend(at.map(|file| Step::cgroup_set(&file, &value, check)));
            }
            steps.extend(all.iter().map(|at| Step::cgroup_join(at)));
            steps
        }
        // A daemon makes its own, and no sandbox of this engine has one.
        CgroupPlacement::Daemon { .. } => Vec::new(),
        CgroupPlacement::V2 { parent, controllers } => {
            let own = parent.join(setting.id);
            let names: Vec<&str> = controllers.iter().filter_map(|c| v2_name(*c)).collect();
            let enable = names.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
            let control = parent.join("cgroup.subtree_control");
            let mut steps = vec![Step::cgroup_set(&control, &enable, Check::IfAllowed)];
            steps.push(Step::cgroup_make(&own));
            for (file, value, check) in v2_limits(resources) {
                steps.push(Step::cgroup_set(&own.join(file), &value, check));
            }
            let rules = resources.devices().as_deref().unwrap_or_default();
            if controllers.contains(&Controller::Devices) && !rules.is_empty() {
                steps.push(Step::cgroup_devices(&own, &devices::program(rules)));
            }
            steps
        }
    }
}

fn v2_name(controller: Controller) -> Option<&'static str> {
    match controller {
        Controller::Memory => Some("memory"),
        Controller::Cpu => Some("cpu"),
        Controller::Pids => Some("pids"),
        Controller::Devices => None,
    }
}

/// Files of version 1, `admin-guide/cgroup-v1/` of the kernel.
pub(crate) fn v1_limits(
    resources: &oci::LinuxResources,
) -> Vec<(Controller, &'static str, String, Check)> {
    use Controller::{Cpu, Devices, Memory, Pids};
    let mut limits = Vec::new();
    if let Some(bytes) = resources.memory().as_ref().and_then(|memory| memory.limit()) {
        let both = resources.memory().as_ref().and_then(|memory| memory.swap()).unwrap_or(bytes);
        limits.push((Memory, "memory.limit_in_bytes", bytes.to_string(), Check::ReadBack));
        let swap = "memory.memsw.limit_in_bytes";
        limits.push((Memory, swap, both.to_string(), Check::ReadBackIfThere));
    }
    if let Some(pids) = resources.pids().as_ref() {
        limits.push((Pids, "pids.max", pids.limit().to_string(), Check::ReadBack));
    }
    if let Some((quota, period)) = cpu_quota(resources) {
        limits.push((Cpu, "cpu.cfs_period_us", period.to_string(), Check::ReadBack));
        limits.push((Cpu, "cpu.cfs_quota_us", quota.to_string(), Check::ReadBack));
    }
    for rule in resources.devices().iter().flatten() {
        let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
        limits.push((Devices, file, device_rule(rule), Check::No));
    }
    limits
}

fn cpu_quota(resources: &oci::LinuxResources) -> Option<(i64, u64)> {
    let cpu = resources.cpu().as_ref()?;
    Some((cpu.quota()?, cpu.period()?))
}

fn device_rule(rule: &oci::LinuxDeviceCgroup) -> String {
    let number = |number: Option<i64>| number.map_or("*".into(), |number| number.to_string());
    let access = rule.access().as_deref().unwrap_or("rwm");
    let kind = rule.typ().unwrap_or_default();
    if kind == oci::LinuxDeviceType::A {
        return "a".into();
    }
    format!("{} {}:{} {access}", kind.as_str(), number(rule.major()), number(rule.minor()))
}

/// Files of version 2, `admin-guide/cgroup-v2.rst` of the kernel.
pub(crate) fn v2_limits(resources: &oci::LinuxResources) -> Vec<(&'static str, String, Check)> {
    let mut limits = Vec::new();
    if let Some(bytes) = resources.memory().as_ref().and_then(|memory| memory.limit()) {
        limits.push(("memory.max", bytes.to_string(), Check::ReadBack));
        limits.push(("memory.swap.max", "0".into(), Check::ReadBackIfThere));
        // A task that lost one of its processes is not one to go on with.
        limits.push(("memory.oom.group", "1".into(), Check::ReadBackIfThere));
    }
    if let Some(pids) = resources.pids().as_ref() {
        limits.push(("pids.max", pids.limit().to_string(), Check::ReadBack));
    }
    if let Some((quota, period)) = cpu_quota(resources) {
        limits.push(("cpu.max", format!("{quota} {period}"), Check::ReadBack));
    }
    limits
}

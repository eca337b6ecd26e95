//! Where cgroup hierarchies are mounted and where this process is in them. Pure text:
//! `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`) and `/proc/self/cgroup` (`cgroups(7)`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{CgroupVersion, Controller};

/// The cgroup hierarchies of this machine, as this process sees them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hierarchies {
    pub(super) version: CgroupVersion,
    /// Where any hierarchy is mounted.
    pub(super) mounts: Vec<PathBuf>,
    /// Version 1: this process's own cgroup per controller; `Err`: why it cannot be seen.
    pub(super) own_v1: BTreeMap<Controller, Result<Own, String>>,
    /// Version 2: this process's own cgroup.
    pub(super) own_v2: Option<Result<Own, String>>,
}

/// This process's own cgroup in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own {
    /// Its directory.
    pub(super) directory: PathBuf,
    /// The mount point: the highest cgroup that can be seen.
    pub(super) top: PathBuf,
}

/// The controllers that matter, by the kernel's names.
pub(super) const CONTROLLERS: [(Controller, &str); 4] = [
    (Controller::Memory, "memory"),
    (Controller::Cpu, "cpu"),
    (Controller::Pids, "pids"),
    (Controller::Devices, "devices"),
];

/// Puts the two texts together.
pub(super) fn parse_hierarchies(mountinfo: &str, own_cgroups: &str) -> Hierarchies {
    let mounts: Vec<CgroupMount> = mountinfo.lines().filter_map(parse_mount).collect();
    let memberships: Vec<Membership<'_>> =
        own_cgroups.lines().filter_map(parse_membership).collect();
    let mut own_v1 = BTreeMap::new();
    for (controller, name) in CONTROLLERS {
        let here =
            |mount: &&CgroupMount| !mount.unified && mount.controllers.iter().any(|c| c == name);
        let path = memberships.iter().find(|m| m.controllers.split(',').any(|c| c == name));
        if let Some(own) = find_own(mounts.iter().filter(here), path) {
            own_v1.insert(controller, own);
        }
    }
    let path = memberships.iter().find(|m| m.id == "0" && m.controllers.is_empty());
    let own_v2 = find_own(mounts.iter().filter(|mount| mount.unified), path);
    let version = match (own_v1.is_empty(), own_v2.is_some()) {
        (true, true) => CgroupVersion::V2,
        (true, false) => CgroupVersion::None,
        (false, true) => CgroupVersion::Hybrid,
        (false, false) => CgroupVersion::V1,
    };
    let mut points: Vec<PathBuf> = mounts.into_iter().map(|mount| mount.point).collect();
    points.sort();
    points.dedup();
    Hierarchies { version, mounts: points, own_v1, own_v2 }
}

/// One mounted hierarchy.
struct CgroupMount {
    /// The cgroup that is at the mount point.
    root: PathBuf,
    point: PathBuf,
    unified: bool,
    controllers: Vec<String>,
}

/// One line of `/proc/self/cgroup`.
struct Membership<'a> {
    id: &'a str,
    controllers: &'a str,
    path: &'a Path,
}

/// A line of mountinfo, if it is a cgroup hierarchy:
/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG…] - TYPE SOURCE SUPER-OPTIONS`.
fn parse_mount(line: &str) -> Option<CgroupMount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (unescape(mount.next()?), unescape(mount.next()?));
    let mut filesystem = filesystem.split(' ');
    let unified = match filesystem.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = filesystem.nth(1).unwrap_or("");
    let controllers = options.split(',').map(str::to_owned).collect();
    Some(CgroupMount { root: root.into(), point: point.into(), unified, controllers })
}

/// `ID:CONTROLLERS:PATH`; the path may have colons.
fn parse_membership(line: &str) -> Option<Membership<'_>> {
    let mut parts = line.splitn(3, ':');
    let (id, controllers) = (parts.next()?, parts.next()?);
    Some(Membership { id, controllers, path: Path::new(parts.next()?) })
}

/// The kernel writes space, tab, newline and backslash in paths as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// The first mount through which the own cgroup can be seen; `None`: nothing is mounted.
fn find_own<'a>(
    mounts: impl Iterator<Item = &'a CgroupMount>,
    membership: Option<&Membership<'_>>,
) -> Option<Result<Own, String>> {
    let mut reason = None;
    for mount in mounts {
        let Some(Membership { path, .. }) = membership else {
            reason = Some("this process is in no cgroup of it".to_owned());
            continue;
        };
        // A mount made in a container shows a part of the hierarchy; a path with `..` is above
        // the root of this process's cgroup namespace (cgroup_namespaces(7)).
        let above = path.components().any(|part| part.as_os_str() == "..");
        if let Ok(below) = path.strip_prefix(&mount.root)
            && !above
        {
            // `join("")` would add a slash.
            let directory =
                if below == Path::new("") { mount.point.clone() } else { mount.point.join(below) };
            return Some(Ok(Own { directory, top: mount.point.clone() }));
        }
        reason = Some(format!(
            "this process's cgroup {} cannot be seen below {}",
            path.display(),
            mount.point.display()
        ));
    }
    reason.map(Err)
}

#[cfg(test)]
mod tests;

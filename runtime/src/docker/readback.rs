//! Compares what the kernel says of a daemon's container with what was planned: from inside, what
//! init reads of itself; from outside, its cgroups.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount as OciMount, Spec};
use ric_policies::Access;

use super::request::ETC_FILES;
use crate::native::readback::{Mismatch, compare_beside, shown_mounts};
use crate::native::steps::Check;
use crate::native::translate::{v1_limits, v2_limits};
use crate::{CgroupPlacement, Controller, MountKind, OWN_DIRECTORY, Sandbox};

/// The first difference between `sandbox`, of which `spec` is the runtime spec, and `text`, which
/// init read of itself before anything of the task ran.
pub(crate) fn inside(sandbox: &Sandbox, spec: &Spec, text: &str) -> Option<Mismatch> {
    let mut spec = spec.clone();
    spec.set_mounts(Some(mounts(sandbox)));
    let groups = sandbox.identities.groups.as_deref();
    compare_beside(&spec, text, groups, &[]).or_else(|| writable_below(sandbox, text))
}

/// Every mount, with the options that a daemon can give it. `nosuid` and `nodev` it cannot give to
/// the root and to what is bound; there, no_new_privs and the list of devices do the same.
fn mounts(sandbox: &Sandbox) -> Vec<OciMount> {
    let mount = |target: &Path, options: &[&str]| {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut mount = OciMount::default();
        mount.set_destination(target.to_owned()).set_options(Some(options));
        mount
    };
    let mut all = vec![
        mount(Path::new("/sys"), &["ro"]),
        mount(Path::new(OWN_DIRECTORY), &["ro"]),
        mount(Path::new("/proc"), &["nosuid", "nodev", "noexec"]),
        mount(Path::new("/dev/pts"), &["nosuid", "noexec"]),
    ];
    all.extend(ETC_FILES.iter().map(|file| mount(&Path::new("/").join(file), &["ro"])));
    for one in &sandbox.mounts {
        match &one.kind {
            MountKind::Caller { access: Access::ReadOnly, .. } => {
                all.push(mount(&one.target, &["ro"]));
            }
            MountKind::Caller { access: Access::ReadWrite, .. } => {
                all.push(mount(&one.target, &[]));
            }
            MountKind::Tmpfs { executable, .. } => {
                let noexec: &[&str] = if *executable { &[] } else { &["noexec"] };
                all.push(mount(&one.target, &[&["nosuid", "nodev"], noexec].concat()));
            }
            MountKind::Proc | MountKind::Devpts | MountKind::Device | MountKind::Mqueue => {}
        }
    }
    all
}

/// Docker before version 25 makes a mount read-only and leaves those below it as they are.
fn writable_below(sandbox: &Sandbox, text: &str) -> Option<Mismatch> {
    let readonly = |target: &Path| {
        // The nearest decides: a writable mount may have been asked for below a read-only one.
        let above = sandbox.mounts.iter().filter(|mount| target.starts_with(&mount.target));
        let nearest = above.max_by_key(|mount| mount.target.components().count());
        nearest.is_some_and(|mount| {
            matches!(mount.kind, MountKind::Caller { access: Access::ReadOnly, .. })
        })
    };
    shown_mounts(text).find_map(|(target, options)| {
        let writable = !options.split(',').any(|option| option == "ro");
        (writable && readonly(Path::new(&*target))).then(|| Mismatch {
            what: format!("mount {target}"),
            planned: "ro".to_owned(),
            found: options.to_owned(),
        })
    })
}

/// The first difference between the plan and the cgroups of the container's first process.
pub(crate) fn outside(
    sandbox: &Sandbox,
    spec: &Spec,
    directories: &BTreeMap<Controller, PathBuf>,
) -> Option<Mismatch> {
    let Some(CgroupPlacement::Daemon { parent, unified, .. }) = &sandbox.cgroup else {
        return None;
    };
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())?;
    let limits: Vec<(Controller, &str, String, Check)> = if *unified {
        let v2 = v2_limits(resources).into_iter();
        v2.filter(|(file, _, _)| *file != "memory.oom.group")
            .map(|(file, value, check)| (controller_of(file), file, value, check))
            .collect()
    } else {
        v1_limits(resources)
    };
    let elsewhere = parent.as_deref().and_then(|parent| misplaced(parent, directories));
    elsewhere.or_else(|| {
        limits.iter().find_map(|(controller, file, value, check)| {
            let file = directories.get(controller).map(|at| at.join(file));
            limited(&file.unwrap_or_default(), value, *check)
        })
    })
}

/// On version 2 all are in one directory.
fn controller_of(file: &str) -> Controller {
    match file.split('.').next() {
        Some("memory") => Controller::Memory,
        Some("cpu") => Controller::Cpu,
        _ => Controller::Pids,
    }
}

/// A container that is not where its caller's limits hold.
fn misplaced(parent: &str, directories: &BTreeMap<Controller, PathBuf>) -> Option<Mismatch> {
    let planned = Path::new(parent.trim_start_matches('/'));
    let outside =
        directories.values().find(|at| !at.ancestors().any(|above| above.ends_with(planned)))?;
    Some(Mismatch {
        what: "a cgroup".to_owned(),
        planned: format!("below {parent}"),
        found: outside.display().to_string(),
    })
}

fn limited(file: &Path, value: &str, check: Check) -> Option<Mismatch> {
    match check {
        Check::ReadBack | Check::ReadBackIfThere => {
            let found = match std::fs::read_to_string(file) {
                Err(_) if check == Check::ReadBackIfThere => return None,
                found => found.unwrap_or_else(|error| error.to_string()),
            };
            let (what, found) = (file.display().to_string(), found.trim().to_owned());
            let planned = value.to_owned();
            (found != planned).then_some(Mismatch { what, planned, found })
        }
        Check::No | Check::IfAllowed => device_list(file),
    }
}

/// What a container may open, on version 1: a list that allows everything is none.
fn device_list(file: &Path) -> Option<Mismatch> {
    let list = file.with_file_name("devices.list");
    let found = std::fs::read_to_string(&list).unwrap_or_else(|error| error.to_string());
    let lists = found.lines().all(|line| line.starts_with(['b', 'c'])) && !found.is_empty();
    (!lists).then(|| Mismatch {
        what: list.display().to_string(),
        planned: "a list of devices".to_owned(),
        found: found.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mount;

    fn sandbox(mounts: &[(&str, Access)]) -> Sandbox {
        let text = include_str!("../../../tests/golden/oci/layers-root/sandbox.json");
        let mut sandbox: Sandbox = serde_json::from_str(text).unwrap();
        let mount = |(target, access): &(&str, Access)| Mount {
            target: target.into(),
            kind: MountKind::Caller {
                descriptor: 0,
                source: "/data".into(),
                device: 1,
                inode: 2,
                directory: true,
                access: *access,
            },
        };
        sandbox.mounts = mounts.iter().map(mount).collect();
        sandbox
    }

    #[test]
    fn a_mount_below_a_read_only_one_must_be_read_only_too() {
        let text = "1 0 8:1 / / ro - x x x\n2 1 8:1 / /data ro - x x x\n3 2 8:2 / /data/disk ";
        let of = |mounts: &[(&str, Access)], options: &str| {
            let found = writable_below(&sandbox(mounts), &format!("{text}{options} - x x x\n"));
            found.map(|mismatch| mismatch.what)
        };
        let only = [("/data", Access::ReadOnly)];
        assert_eq!(of(&only, "rw,nosuid"), Some("mount /data/disk".to_owned()));
        assert_eq!(of(&only, "ro,nosuid"), None);
        let asked = [("/data", Access::ReadOnly), ("/data/disk", Access::ReadWrite)];
        assert_eq!(of(&asked, "rw"), None);
    }

    #[test]
    fn a_container_elsewhere_is_found_out() {
        let at = |path: &str| BTreeMap::from([(Controller::Memory, PathBuf::from(path))]);
        assert_eq!(misplaced("/job/7", &at("/sys/fs/cgroup/memory/job/7/0123")), None);
        assert_eq!(misplaced("a.slice", &at("/sys/fs/cgroup/memory/a.slice/docker-0.scope")), None);
        for elsewhere in ["/sys/fs/cgroup/memory/docker/0123", "/sys/fs/cgroup/memory/job/70/0"] {
            assert!(misplaced("/job/7", &at(elsewhere)).is_some(), "{elsewhere}");
        }
    }

    #[test]
    fn a_list_of_everything_is_no_list() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("devices.list");
        let check = |text: &str| {
            std::fs::write(&list, text).unwrap();
            device_list(&folder.path().join("devices.allow")).is_some()
        };
        assert!(!check("c 1:3 rwm\nb *:* m\n"));
        assert!(check("a *:* rwm\n"));
        assert!(check(""));
    }
}

//! Which cgroup controllers this caller can use, found out by making a cgroup and removing it.
//!
//! Version 1: a sandbox lives below the caller's own cgroup. Version 2: beside it, because a cgroup
//! with processes cannot limit children (cgroup-v2.rst, "No Internal Process Constraint"). Both
//! keep it inside the limits of a scheduler's job.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::mountinfo::{CONTROLLERS, Hierarchies, Own, parse_hierarchies};
use crate::{CgroupHost, CgroupVersion, Controller, ControllerPlace, Trial, TrialKind};

/// `f_type` of version 1 (magic.h, `CGROUP_SUPER_MAGIC`).
const CGROUP_MAGIC: u64 = 0x0027_e0eb;

/// `f_type` of version 2 (magic.h, `CGROUP2_SUPER_MAGIC`).
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Version 1 writes "no memory limit" as the largest multiple of a page; nobody sets one this high.
const MEMORY_UNLIMITED_MIN: u64 = 1 << 62;

/// Probes all controllers that matter.
pub(super) fn probe(mountinfo: &str, own_cgroups: &str, trial: &Trial<'_>) -> CgroupHost {
    let hierarchies = parse_hierarchies(mountinfo, own_cgroups);
    let mut found = CgroupHost {
        version: hierarchies.version,
        controllers: BTreeMap::new(),
        unusable: BTreeMap::new(),
        ambient: read_ambient(&hierarchies),
        mounts: hierarchies.mounts.clone(),
    };
    match hierarchies.version {
        CgroupVersion::None => {}
        CgroupVersion::V1 | CgroupVersion::Hybrid => probe_v1(&hierarchies, trial, &mut found),
        CgroupVersion::V2 => probe_v2(&hierarchies, trial, &mut found),
    }
    found
}

/// Whether every cgroup that can be seen from here is there.
pub(super) fn are_there(mountinfo: &str, own_cgroups: &str) -> bool {
    let hierarchies = parse_hierarchies(mountinfo, own_cgroups);
    let all = hierarchies.own_v1.values().chain(&hierarchies.own_v2);
    all.flatten().all(|own| own.directory.is_dir())
}

fn probe_v1(hierarchies: &Hierarchies, trial: &Trial<'_>, found: &mut CgroupHost) {
    for (controller, own) in &hierarchies.own_v1 {
        let tried = own.clone().and_then(|own| {
            refuse_other_filesystem(&own.directory, CGROUP_MAGIC)?;
            let place = ControllerPlace { unified: false, parent: own.directory };
            try_child(place, control_v1(*controller), trial)
        });
        found.keep(*controller, tried);
    }
    // One sandbox in both versions at once would need two ways to start and end it.
    for (controller, _) in CONTROLLERS {
        if !hierarchies.own_v1.contains_key(&controller) {
            let why = "it is in no version 1 hierarchy, and the other controllers are";
            found.unusable.insert(controller, why.to_owned());
        }
    }
}

fn probe_v2(hierarchies: &Hierarchies, trial: &Trial<'_>, found: &mut CgroupHost) {
    let parent = match &hierarchies.own_v2 {
        Some(Ok(own)) => parent_v2(own),
        Some(Err(why)) => Err(why.clone()),
        None => Err("version 2 is not mounted".to_owned()),
    };
    // Unless `probe_device_program` finds that it can.
    let devices = "version 2 has no devices controller, and only root of the machine may attach \
                   the BPF program that does its work";
    found.unusable.insert(Controller::Devices, devices.to_owned());
    for controller in [Controller::Memory, Controller::Cpu, Controller::Pids] {
        let tried = parent.clone().and_then(|parent| {
            switch_on(&parent, controller)?;
            try_child(ControllerPlace { unified: true, parent }, control_v2(controller), trial)
        });
        found.keep(controller, tried);
    }
}

/// Whether a BPF program can do on version 2 what the `devices` controller does on version 1.
pub(super) fn probe_device_program(found: &mut CgroupHost, trial: &Trial<'_>) {
    let Some(place) = found.controllers.values().find(|place| place.unified).cloned() else {
        return;
    };
    let tried = trial(&[TrialKind::DeviceProgram { parent: place.parent.clone() }]);
    found.unusable.remove(&Controller::Devices);
    found.keep(Controller::Devices, tried.map(|()| place));
}

impl CgroupHost {
    fn keep(&mut self, controller: Controller, tried: Result<ControllerPlace, String>) {
        match tried {
            Ok(place) => drop(self.controllers.insert(controller, place)),
            Err(why) => drop(self.unusable.insert(controller, why)),
        }
    }
}

/// The directory beside the own cgroup; the own one where it is the real root, which alone may
/// have both processes and children with controllers.
fn parent_v2(own: &Own) -> Result<PathBuf, String> {
    refuse_other_filesystem(&own.directory, CGROUP2_MAGIC)?;
    // Only the real root has no `cgroup.type` (cgroup-v2.rst, "Core Interface Files").
    if !own.directory.join("cgroup.type").exists() {
        return Ok(own.directory.clone());
    }
    let parent = own.directory.parent().filter(|_| own.directory != own.top);
    let parent = parent.ok_or_else(|| {
        format!(
            "the cgroup {} holds this process, and what is above it cannot be seen",
            own.directory.display()
        )
    })?;
    // A process enters a cgroup only by leave of the one above both (cgroup-v2.rst, "Delegation
    // Containment").
    open_for_writing(&parent.join("cgroup.procs"))?;
    Ok(parent.to_owned())
}

/// Passes a version 2 controller on to the children of `parent`, if it is not already.
fn switch_on(parent: &Path, controller: Controller) -> Result<(), String> {
    let name = name(controller);
    let has = |file: &str| {
        let text = fs::read_to_string(parent.join(file)).unwrap_or_default();
        text.split_whitespace().any(|word| word == name)
    };
    if has("cgroup.subtree_control") {
        return Ok(());
    }
    if !has("cgroup.controllers") {
        return Err(format!("{} does not have the controller", parent.display()));
    }
    write_control(&parent.join("cgroup.subtree_control"), &format!("+{name}"))
}

/// Makes a cgroup at `place`, sets a limit, starts a process in it, removes it.
fn try_child(
    place: ControllerPlace,
    (control, value): (&'static str, &'static str),
    trial: &Trial<'_>,
) -> Result<ControllerPlace, String> {
    trial(&[TrialKind::Cgroup { place: place.clone(), control, value }])?;
    Ok(place)
}

/// A file of a version 1 controller and a value that any child accepts.
fn control_v1(controller: Controller) -> (&'static str, &'static str) {
    match controller {
        Controller::Memory => ("memory.limit_in_bytes", "-1"),
        Controller::Cpu => ("cpu.cfs_quota_us", "-1"),
        Controller::Pids => ("pids.max", "max"),
        // The owner of the file may not write it: the kernel wants CAP_SYS_ADMIN of the machine.
        Controller::Devices => ("devices.deny", "a"),
    }
}

/// The same for version 2.
fn control_v2(controller: Controller) -> (&'static str, &'static str) {
    match controller {
        Controller::Memory => ("memory.max", "max"),
        Controller::Cpu => ("cpu.max", "max"),
        Controller::Pids | Controller::Devices => ("pids.max", "max"),
    }
}

fn name(controller: Controller) -> &'static str {
    CONTROLLERS.iter().find(|(known, _)| *known == controller).map_or("", |(_, name)| name)
}

/// The least limit on the way from the own cgroup to the highest that can be seen.
fn read_ambient(hierarchies: &Hierarchies) -> BTreeMap<Controller, u64> {
    let mut all = BTreeMap::new();
    for controller in [Controller::Memory, Controller::Cpu, Controller::Pids] {
        let v1 = hierarchies.own_v1.get(&controller).and_then(|own| own.as_ref().ok());
        let v2 = hierarchies.own_v2.as_ref().and_then(|own| own.as_ref().ok());
        let limits = [(v1, false), (v2, true)].into_iter().flat_map(|(own, unified)| {
            let levels = own.into_iter().flat_map(levels);
            levels.filter_map(move |level| read_limit(&level, controller, unified))
        });
        if let Some(least) = limits.min() {
            all.insert(controller, least);
        }
    }
    all
}

/// The own cgroup and those above it, as far as they can be seen.
fn levels(own: &Own) -> Vec<PathBuf> {
    let up = own.directory.ancestors().take_while(|level| level.starts_with(&own.top));
    up.map(Path::to_owned).collect()
}

/// The limit that one cgroup has: bytes, thousandths of a processor, or processes.
fn read_limit(level: &Path, controller: Controller, unified: bool) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(level.join(file)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    match (controller, unified) {
        (Controller::Memory, true) => number(read("memory.max")?),
        (Controller::Memory, false) => {
            number(read("memory.limit_in_bytes")?).filter(|bytes| *bytes < MEMORY_UNLIMITED_MIN)
        }
        (Controller::Pids, _) => number(read("pids.max")?),
        (Controller::Cpu, true) => {
            let text = read("cpu.max")?;
            let (quota, period) = text.trim().split_once(' ')?;
            milli(quota.parse().ok()?, period.parse().ok()?)
        }
        (Controller::Cpu, false) => {
            milli(number(read("cpu.cfs_quota_us")?)?, number(read("cpu.cfs_period_us")?)?)
        }
        (Controller::Devices, _) => None,
    }
}

fn milli(quota: u64, period: u64) -> Option<u64> {
    quota.checked_mul(1000)?.checked_div(period)
}

/// Something may be mounted over a cgroup file system, and would take a "limit" as a plain file.
fn refuse_other_filesystem(directory: &Path, magic: u64) -> Result<(), String> {
    let found = rustix::fs::statfs(directory)
        .map_err(|error| said("statfs(2)", directory, &error.into()))?;
    if u64::try_from(found.f_type) == Ok(magic) {
        return Ok(());
    }
    Err(format!("{} is not a cgroup file system", directory.display()))
}

fn open_for_writing(path: &Path) -> Result<(), String> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .map(drop)
        .map_err(|error| said("open(2)", path, &error))
}

fn write_control(path: &Path, value: &str) -> Result<(), String> {
    let written = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| said(&format!("write(2) {value} to"), path, &error))
}

fn said(call: &str, path: &Path, error: &io::Error) -> String {
    format!("{call} {}: {error}", path.display())
}

#[cfg(test)]
mod tests;

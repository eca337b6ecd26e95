//! Where a sandbox's cgroups are made, and what a controller that cannot be had is called.

use std::collections::BTreeMap;

use ric_policies::Protection;

use crate::{CgroupPlacement, Controller, Host};

/// The directories in which the sandbox's cgroups are made; `None`: there are none here.
///
/// All usable controllers, wanted limits or not: they also count what a sandbox used and list
/// its processes. The probe has put the controllers that can be used at once into one list.
pub(super) fn placement(host: &Host) -> Option<CgroupPlacement> {
    let places = &host.cgroup.controllers;
    let unified = places.values().find(|place| place.unified);
    if let Some(first) = unified {
        let here = places.iter().filter(|(_, p)| p.unified && p.parent == first.parent);
        let controllers = here.map(|(controller, _)| *controller).collect();
        return Some(CgroupPlacement::V2 { parent: first.parent.clone(), controllers });
    }
    let parents: BTreeMap<_, _> = places.iter().map(|(c, p)| (*c, p.parent.clone())).collect();
    (!parents.is_empty()).then_some(CgroupPlacement::V1(parents))
}

/// How `controller` is enforced here, such as `cgroup v1`; `Err`: why it cannot be.
pub(super) fn means(controller: Controller, host: &Host) -> Result<String, String> {
    match host.cgroup.controllers.get(&controller) {
        Some(place) if place.unified => Ok("cgroup v2".to_owned()),
        Some(_) => Ok("cgroup v1".to_owned()),
        None => Err(host.cgroup.unusable.get(&controller).cloned().unwrap_or_else(|| {
            format!("no cgroup hierarchy here has the {} controller", name(controller))
        })),
    }
}

/// The controller behind a limit.
pub(super) fn name(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => "memory",
        Controller::Cpu => "cpu",
        Controller::Pids => "pids",
        Controller::Devices => "devices",
    }
}

/// The protection that a controller gives.
pub(super) fn protection(controller: Controller) -> Protection {
    match controller {
        Controller::Memory => Protection::Memory,
        Controller::Cpu => Protection::Cpus,
        Controller::Pids => Protection::Pids,
        Controller::Devices => Protection::Devices,
    }
}

//! What a machine can do through a daemon, and where the daemon is to make a container's cgroup.
//! Pure: part of the decision.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{
    CgroupHost, CgroupPlacement, CgroupVersion, Controller, ControllerPlace, DockerHost, Host,
    Probe, SubordinateIds,
};

/// The machine as a sandbox of this daemon's finds it.
pub(crate) fn seen_through(host: &Host, docker: &DockerHost) -> Host {
    let place = ControllerPlace { unified: docker.unified, parent: PathBuf::new() };
    let has = docker.controllers.iter().map(|controller| (*controller, place.clone()));
    let lacks = Controller::ALL.into_iter().filter(|c| !docker.controllers.contains(c));
    let why = |controller| {
        (controller, format!("the daemon at {} has no such limit", docker.socket.display()))
    };
    let version = match (docker.unified, host.cgroup.version) {
        (true, _) => CgroupVersion::V2,
        (false, version) => version,
    };
    // Ids that need a user namespace are decided on as if there were one, and then refused.
    let any = (1 << 20, 1 << 16);
    Host {
        privileged: docker.answer.clone(),
        user_namespace: Probe { works: true, detail: String::new() },
        subordinate_ids: Some(SubordinateIds {
            newuidmap: PathBuf::new(),
            newgidmap: PathBuf::new(),
            uids: any,
            gids: any,
        }),
        cgroup: CgroupHost {
            version,
            controllers: has.collect(),
            unusable: lacks.map(why).collect(),
            ambient: host.cgroup.ambient.clone(),
            mounts: host.cgroup.mounts.clone(),
        },
        ..host.clone()
    }
}

/// Where the daemon makes the container's cgroup. `None`: only where limits that hold around the
/// caller, such as a job's, would not hold.
pub(crate) fn placement(host: &Host, docker: &DockerHost) -> Option<CgroupPlacement> {
    let placement = |parent| CgroupPlacement::Daemon {
        parent,
        unified: docker.unified,
        controllers: docker.controllers.clone(),
    };
    match parent(docker) {
        Parent::Within(parent) => Some(placement(parent)),
        Parent::Elsewhere(parent) if host.cgroup.ambient.is_empty() => Some(placement(parent)),
        Parent::Elsewhere(_) => None,
    }
}

/// What the daemon is told to make a cgroup in; `None`: nothing, it has its usual place.
#[derive(Debug, PartialEq, Eq)]
enum Parent {
    /// Below the caller's own cgroups, or on version 2 beside it.
    Within(Option<String>),
    /// Somewhere else.
    Elsewhere(Option<String>),
}

/// Docker takes one path for all hierarchies. The caller's cgroups may be at several: the lowest
/// will do if it is below each of them.
fn parent(docker: &DockerHost) -> Parent {
    let own: &BTreeMap<Controller, PathBuf> = &docker.own_cgroups;
    let deepest = own.values().max_by_key(|path| path.components().count());
    let Some(deepest) = deepest else { return Parent::Elsewhere(None) };
    let is_below_all = own.values().all(|path| deepest.starts_with(path));
    if docker.driver == "systemd" {
        // It takes the name of a slice, and knows itself in which slices that one is.
        let slice = deepest.ancestors().find(|path| path.extension().is_some_and(|e| e == "slice"));
        let name = slice.and_then(Path::file_name).and_then(|name| name.to_str());
        let Some(name) = name else { return Parent::Elsewhere(None) };
        let beside = deepest.parent() == slice || Some(deepest.as_path()) == slice;
        let parent = Some(name.to_owned());
        let is_within = is_below_all && beside;
        return if is_within { Parent::Within(parent) } else { Parent::Elsewhere(parent) };
    }
    if !is_below_all {
        return Parent::Elsewhere(None);
    }
    // A version 2 cgroup with processes cannot limit children (cgroup-v2.rst).
    let at = if docker.unified { deepest.parent().unwrap_or(deepest) } else { deepest };
    // Everything is below the root, also where the daemon usually puts containers.
    let is_root = at == Path::new("/");
    Parent::Within(at.to_str().filter(|_| !is_root).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn docker(driver: &str, unified: bool, own: &[(Controller, &str)]) -> DockerHost {
        DockerHost {
            socket: "/var/run/docker.sock".into(),
            answer: Probe { works: true, detail: String::new() },
            driver: driver.to_owned(),
            unified,
            rootless: false,
            maps_ids: false,
            controllers: vec![Controller::Memory],
            own_cgroups: own.iter().map(|(c, path)| (*c, PathBuf::from(path))).collect(),
        }
    }

    #[test]
    fn container_is_below_all_of_the_callers_cgroups_or_said_not_to_be() {
        use Controller::{Devices, Memory, Pids};
        let within = |text: &str| Parent::Within(Some(text.to_owned()));
        let elsewhere = |text: &str| Parent::Elsewhere(Some(text.to_owned()));
        let of =
            |driver, unified, own: &[(Controller, &str)]| parent(&docker(driver, unified, own));
        let job = [(Memory, "/job/7"), (Pids, "/job/7")];
        assert_eq!(of("cgroupfs", false, &job), within("/job/7"));
        let deeper = [(Memory, "/job/7"), (Pids, "/"), (Devices, "/job")];
        assert_eq!(of("cgroupfs", false, &deeper), within("/job/7"));
        let apart = [(Memory, "/job/7"), (Pids, "/job/70")];
        assert_eq!(of("cgroupfs", false, &apart), Parent::Elsewhere(None));
        assert_eq!(of("cgroupfs", false, &[(Memory, "/")]), Parent::Within(None));
        assert_eq!(of("cgroupfs", false, &[]), Parent::Elsewhere(None));
        // Beside it on version 2.
        assert_eq!(of("cgroupfs", true, &[(Memory, "/job/7/step")]), within("/job/7"));
        let session = [(Memory, "/user.slice/user-7.slice/session-2.scope")];
        assert_eq!(of("systemd", true, &session), within("user-7.slice"));
        let step = [(Memory, "/system.slice/slurmstepd.scope/job_7/step_0")];
        assert_eq!(of("systemd", true, &step), elsewhere("system.slice"));
        assert_eq!(of("systemd", true, &[(Memory, "/init.scope")]), Parent::Elsewhere(None));
    }
}

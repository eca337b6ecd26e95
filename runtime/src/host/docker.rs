//! What a Docker or Podman of this machine can guarantee, as it says itself, and where this
//! process's own cgroups are as it would name them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bollard::models::SystemInfo;
use serde::{Deserialize, Serialize};

use super::mountinfo::{Hierarchies, Own, parse_hierarchies};
use super::probe::read;
use crate::docker::api::Api;
use crate::{Controller, Probe};

/// A daemon that was asked about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DockerHost {
    /// Where it listens.
    pub socket: PathBuf,
    /// Whether it answers; what it is, or why it does not.
    pub answer: Probe,
    /// How it makes cgroups: `cgroupfs` or `systemd`.
    pub driver: String,
    /// Whether it limits by version 2.
    pub unified: bool,
    /// Whether it runs without root's rights.
    pub rootless: bool,
    /// Whether it maps the ids of all containers to others.
    pub maps_ids: bool,
    /// What it can limit, devices included.
    pub controllers: Vec<Controller>,
    /// This process's own cgroups, from the root of each hierarchy.
    pub own_cgroups: BTreeMap<Controller, PathBuf>,
}

/// Asks the daemon at `socket` about itself. One that cannot be asked is an answer too.
#[must_use]
pub fn probe_docker(socket: &Path) -> DockerHost {
    let asked = Api::open(socket).and_then(|api| api.info());
    match asked {
        Ok(info) => of_info(socket, &info, own_cgroups()),
        Err(error) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map_or(String::new(), |cause| format!(": {cause}"));
            no_docker(socket, format!("{error}{cause}"))
        }
    }
}

/// A machine on which no daemon was found, and `why`.
#[must_use]
pub fn no_docker(socket: &Path, why: String) -> DockerHost {
    DockerHost {
        socket: socket.to_owned(),
        answer: Probe { works: false, detail: why },
        driver: String::new(),
        unified: false,
        rootless: false,
        maps_ids: false,
        controllers: Vec::new(),
        own_cgroups: BTreeMap::new(),
    }
}

fn of_info(
    socket: &Path,
    info: &SystemInfo,
    own_cgroups: BTreeMap<Controller, PathBuf>,
) -> DockerHost {
    let says = |name: &str| {
        let options = info.security_options.iter().flatten();
        options.into_iter().any(|option| option.split(',').any(|part| part == name))
    };
    let has = |said: Option<bool>, controller| (said == Some(true)).then_some(controller);
    let controllers = [
        has(info.memory_limit, Controller::Memory),
        // Podman does not tell of the period.
        has(info.cpu_cfs_quota, Controller::Cpu),
        has(info.pids_limit, Controller::Pids),
        // Without root's rights nobody can give a list of devices.
        (!says("name=rootless")).then_some(Controller::Devices),
    ];
    let version = info.server_version.as_deref().unwrap_or("of an unknown version");
    DockerHost {
        socket: socket.to_owned(),
        answer: Probe { works: true, detail: format!("{version} at {}", socket.display()) },
        driver: info.cgroup_driver.map_or(String::new(), |driver| driver.to_string()),
        unified: info.cgroup_version.is_some_and(|version| version.to_string() == "2"),
        rootless: says("name=rootless"),
        maps_ids: says("name=userns"),
        controllers: controllers.into_iter().flatten().collect(),
        own_cgroups,
    }
}

/// Where this process is in each hierarchy; none where that cannot be seen.
fn own_cgroups() -> BTreeMap<Controller, PathBuf> {
    let own = own_of("self").map(|(hierarchies, _)| hierarchies);
    let from_root = |own: &Own| {
        let below = own.directory.strip_prefix(&own.top).unwrap_or(Path::new(""));
        Path::new("/").join(below)
    };
    own.map_or_else(BTreeMap::new, |found| {
        places(&found).into_iter().map(|(c, own)| (c, from_root(&own))).collect()
    })
}

/// The directories of the cgroups that process `pid` is in, as this process sees them, and whether
/// they are on a version 2 hierarchy. Empty where they cannot be seen.
pub(crate) fn cgroups_of(pid: i32) -> (BTreeMap<Controller, PathBuf>, bool) {
    let Some((found, unified)) = own_of(&pid.to_string()) else {
        return (BTreeMap::new(), false);
    };
    let directories = places(&found).into_iter().map(|(c, own)| (c, own.directory));
    (directories.collect(), unified)
}

/// The cgroups that a daemon makes on its way to `parent`, deepest first: those that are in no
/// hierarchy yet. It leaves them when it removes the container.
pub(crate) fn missing_cgroups(parent: &str) -> Vec<PathBuf> {
    let Some((found, _)) = own_of("self") else { return Vec::new() };
    let below = |mount: &PathBuf| mount.join(parent.trim_start_matches('/'));
    let levels = |mount: &PathBuf| {
        let mount = mount.clone();
        let at = below(&mount);
        let up: Vec<PathBuf> = at.ancestors().map(Path::to_owned).collect();
        up.into_iter().take_while(move |level| *level != mount && !level.exists())
    };
    found.mounts.iter().flat_map(levels).collect()
}

fn own_of(pid: &str) -> Option<(Hierarchies, bool)> {
    let cgroups = read(&format!("/proc/{pid}/cgroup")).ok()?;
    let found = parse_hierarchies(&read("/proc/self/mountinfo").ok()?, &cgroups);
    let unified = found.own_v1.is_empty();
    Some((found, unified))
}

fn places(found: &Hierarchies) -> BTreeMap<Controller, Own> {
    let v1 = found.own_v1.iter().filter_map(|(c, own)| Some((*c, own.clone().ok()?)));
    let v1: BTreeMap<Controller, Own> = v1.collect();
    match &found.own_v2 {
        Some(Ok(own)) if v1.is_empty() => {
            Controller::ALL.into_iter().map(|controller| (controller, own.clone())).collect()
        }
        Some(_) | None => v1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> DockerHost {
        let info = serde_json::from_str(text).unwrap();
        of_info(Path::new("/var/run/docker.sock"), &info, BTreeMap::new())
    }

    #[test]
    fn a_daemon_is_what_it_says() {
        use Controller::{Cpu, Devices, Memory, Pids};
        let docker = told(
            r#"{"ServerVersion": "20.10.24", "MemoryLimit": true, "CpuCfsQuota": true,
                "PidsLimit": true, "CgroupDriver": "cgroupfs", "CgroupVersion": "1",
                "SecurityOptions": ["name=seccomp,profile=default"]}"#,
        );
        assert_eq!(docker.controllers, [Memory, Cpu, Pids, Devices]);
        assert_eq!((docker.driver.as_str(), docker.unified), ("cgroupfs", false));
        assert!(!docker.rootless && !docker.maps_ids && docker.answer.works);
        let odd = told(
            r#"{"CgroupVersion": "2", "CgroupDriver": "systemd", "MemoryLimit": true,
                "SecurityOptions": ["name=rootless", "name=userns"]}"#,
        );
        assert_eq!(odd.controllers, [Memory]);
        assert!(odd.rootless && odd.maps_ids && odd.unified);
    }
}

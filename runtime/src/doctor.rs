//! What this host can enforce, and what to change where it cannot.
//!
//! Pure: reads a [`Host`] and a [`Policy`]. The remedies are the ones that refusals give too.

use ric_policies::{Cpus, EngineName, Memory, Pids, Policy, Protection, Ruled, Unit};
use serde::Serialize;

use crate::refusal::{engine, protection};
use crate::{CgroupVersion, Controller, Host, Probe};

/// One thing that this host can or cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The thing, such as `memory limit`.
    pub what: String,
    /// Whether it works here.
    pub works: bool,
    /// How it is enforced, or what was tried and what the kernel said.
    pub detail: String,
    /// What to change where it does not work; `None`: nothing, or nothing can be done.
    pub remedy: Option<String>,
}

/// What makes unprivileged user namespaces possible. The first two are the kernel's own
/// (`namespaces(7)`), the third is Debian's patch, the last Ubuntu's since 23.10.
pub(crate) const USER_NAMESPACE_REMEDY: &str = "let an administrator allow user namespaces: \
    `sysctl user.max_user_namespaces=15000`; on Debian also \
    `sysctl kernel.unprivileged_userns_clone=1`; on Ubuntu also \
    `sysctl kernel.apparmor_restrict_unprivileged_userns=0` or an AppArmor profile for this \
    program with `userns,`";

/// What gives a user subordinate ids (`subuid(5)`).
pub(crate) const SUBORDINATE_REMEDY: &str = "let an administrator install `newuidmap` and run \
    `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`";

/// What makes overlayfs possible.
pub(crate) const OVERLAY_REMEDY: &str =
    "use `--image host:`, or a kernel of at least 5.11 with overlayfs in user namespaces";

/// What makes a daemon's engine possible.
pub(crate) const DOCKER_REMEDY: &str = "start Docker, or have its administrator admit you to its \
    socket (group `docker`, usually: it can do what root can)";

/// What makes functions in `host:` possible.
const PYTHON_REMEDY: &str = "install Python 3, or list its directory under `host_paths:`";

/// What `doctor` tells about, in order.
const EVERY_PROTECTION: [Protection; 7] = [
    Protection::Namespaces,
    Protection::Network,
    Protection::Seccomp,
    Protection::Memory,
    Protection::Cpus,
    Protection::Pids,
    Protection::Devices,
];

/// What limits a program where cgroups cannot be made.
const JOB_REMEDY: &str = "a scheduler's own limit around the job counts too, if it is not larger";

/// Tells for every protection whether and how this host enforces it.
#[must_use]
pub fn doctor(host: &Host, policy: &Policy) -> Vec<Finding> {
    let mut all: Vec<Finding> =
        policy.engines.value.iter().map(|name| of_engine(*name, host)).collect();
    for one in EVERY_PROTECTION {
        let what = protection(one).trim_start_matches("the ");
        all.push(finding(what, holds(one, host), &remedy(one, host)));
    }
    let overlay = "overlayfs, for images other than `host:`";
    all.push(finding(overlay, said(&host.overlay), OVERLAY_REMEDY));
    let root = "subordinate ids, for `--user root`";
    all.push(finding(root, subordinate_ids(host), SUBORDINATE_REMEDY));
    all.push(finding("Python, for functions in `host:`", python(host), PYTHON_REMEDY));
    all.extend(policy.require.iter().map(|rule| requirement(rule, host)));
    all
}

/// What to change so that this host can give `wanted`.
pub(crate) fn remedy(wanted: Protection, host: &Host) -> String {
    match wanted {
        Protection::Memory | Protection::Cpus | Protection::Pids => {
            format!("{}; {JOB_REMEDY}", cgroup_remedy(host.cgroup.version))
        }
        Protection::Devices => "run it as root of the machine, where the cgroup v1 devices \
            controller is mounted; without it device nodes are absent, and none can be made"
            .to_owned(),
        Protection::Seccomp => "use a kernel with CONFIG_SECCOMP_FILTER, and do not run inside a \
            sandbox that forbids seccomp(2)"
            .to_owned(),
        Protection::Namespaces | Protection::Network => USER_NAMESPACE_REMEDY.to_owned(),
    }
}

fn cgroup_remedy(version: CgroupVersion) -> &'static str {
    match version {
        CgroupVersion::V2 => {
            "start it in a delegated cgroup, as in `systemd-run --user --scope -p Delegate=yes \
             run-in-container …`; an administrator can delegate for good with `Delegate=cpu memory \
             pids` in a drop-in of user@.service or of the scheduler's unit"
        }
        CgroupVersion::V1 | CgroupVersion::Hybrid => {
            "let an administrator give you a directory in each hierarchy, as in `mkdir \
             /sys/fs/cgroup/memory/USER && chown -R USER /sys/fs/cgroup/memory/USER`, and start \
             your shell in it"
        }
        CgroupVersion::None => {
            "let an administrator mount cgroups, as in `mount -t cgroup2 none /sys/fs/cgroup`"
        }
    }
}

fn finding(what: &str, found: Result<String, String>, remedy: &str) -> Finding {
    let works = found.is_ok();
    Finding {
        what: what.to_owned(),
        works,
        detail: found.unwrap_or_else(|why| why),
        remedy: (!works && !remedy.is_empty()).then(|| remedy.to_owned()),
    }
}

fn of_engine(name: EngineName, host: &Host) -> Finding {
    let found = match name {
        EngineName::Native if host.privileged.works => Ok("as root of the machine".to_owned()),
        EngineName::Native if host.user_namespace.works => Ok("in user namespaces".to_owned()),
        EngineName::Native => Err("it needs namespaces".to_owned()),
        EngineName::Docker => match &host.docker {
            Some(docker) => said(&docker.answer),
            None => Err("no Docker or Podman is asked here".to_owned()),
        },
        EngineName::Oci | EngineName::Apptainer | EngineName::Shifter => {
            Err("not in this version of run-in-container".to_owned())
        }
    };
    let remedy = if name == EngineName::Docker { DOCKER_REMEDY } else { "" };
    finding(&format!("engine {}", engine(name)), found, remedy)
}

/// How `wanted` is enforced here, or why it cannot be.
fn holds(wanted: Protection, host: &Host) -> Result<String, String> {
    match wanted {
        Protection::Memory => held_by(Controller::Memory, host),
        Protection::Cpus => held_by(Controller::Cpu, host),
        Protection::Pids => held_by(Controller::Pids, host),
        Protection::Devices => held_by(Controller::Devices, host),
        Protection::Seccomp => said(&host.seccomp),
        Protection::Namespaces | Protection::Network if host.privileged.works => {
            said(&host.privileged)
        }
        Protection::Namespaces | Protection::Network => said(&host.user_namespace),
    }
}

fn said(probe: &Probe) -> Result<String, String> {
    if probe.works { Ok(probe.detail.clone()) } else { Err(probe.detail.clone()) }
}

/// Where a controller's cgroups can be made; `Err`: why nowhere, and what holds nevertheless.
fn held_by(controller: Controller, host: &Host) -> Result<String, String> {
    if let Some(place) = host.cgroup.controllers.get(&controller) {
        let version = if place.unified { "v2" } else { "v1" };
        return Ok(format!("cgroup {version}, below {}", place.parent.display()));
    }
    let why = host.cgroup.unusable.get(&controller);
    let why = why.map_or("no cgroup hierarchy here has this controller", String::as_str);
    match host.cgroup.ambient.get(&controller) {
        Some(value) => {
            let value = match controller {
                Controller::Memory => Memory::show(*value),
                Controller::Cpu => Cpus::show(*value),
                Controller::Pids | Controller::Devices => Pids::show(*value),
            };
            Err(format!("{why}; the limit around this job is {value}"))
        }
        None => Err(why.to_owned()),
    }
}

fn subordinate_ids(host: &Host) -> Result<String, String> {
    let lacking = "none: a user's uid 0 is that user alone, and root's cannot be had";
    let ids = host.subordinate_ids.as_ref().ok_or(lacking)?;
    Ok(format!("{} uids from {}, {} gids from {}", ids.uids.1, ids.uids.0, ids.gids.1, ids.gids.0))
}

fn python(host: &Host) -> Result<String, String> {
    let first = host.pythons.first().ok_or("none of version 3.8 or later")?;
    Ok(first.display().to_string())
}

/// Whether tasks are refused here because of a line of `require:`.
fn requirement(rule: &Ruled<Protection>, host: &Host) -> Finding {
    let wanted = rule.value;
    let around_job = match wanted {
        Protection::Memory => host.cgroup.ambient.contains_key(&Controller::Memory),
        Protection::Cpus => host.cgroup.ambient.contains_key(&Controller::Cpu),
        Protection::Pids => host.cgroup.ambient.contains_key(&Controller::Pids),
        Protection::Devices
        | Protection::Seccomp
        | Protection::Namespaces
        | Protection::Network => false,
    };
    let found = match holds(wanted, host) {
        Ok(_) => Ok("it can be had".to_owned()),
        Err(_) if around_job => {
            Ok("by the limit around this job, for tasks whose own is not smaller".to_owned())
        }
        Err(_) => Err("every task is refused".to_owned()),
    };
    finding(&format!("policy demands {}", protection(wanted)), found, &remedy(wanted, host))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use ric_policies::Draft;

    use super::*;

    /// An ordinary user in a delegated version 2 cgroup, as the golden cases have it.
    fn host() -> Host {
        let text = include_str!("../../tests/golden/plan/base/host.json");
        serde_json::from_str(text).unwrap()
    }

    /// The same without any controller.
    fn without_cgroups(version: CgroupVersion) -> Host {
        let mut host = host();
        host.cgroup.version = version;
        let taken = std::mem::take(&mut host.cgroup.controllers);
        host.cgroup.unusable = taken.into_keys().map(|c| (c, "no leave".to_owned())).collect();
        host
    }

    fn policy(text: &str) -> Policy {
        let text = format!("version: 1\nname: site\n{text}");
        Policy::of_site(&Draft::parse(Path::new("site.yaml"), &text).unwrap())
    }

    fn found(what: &str, host: &Host, policy: &Policy) -> Finding {
        let all = doctor(host, policy);
        all.into_iter().find(|finding| finding.what.starts_with(what)).unwrap()
    }

    #[test]
    fn what_works_says_how_and_needs_no_remedy() {
        let memory = found("memory limit", &host(), &policy(""));
        assert!(memory.works && memory.detail.starts_with("cgroup v2, below /sys/fs/cgroup/"));
        assert_eq!(memory.remedy, None);
    }

    #[test]
    fn limit_that_cannot_be_had_says_how_to_get_it() {
        let remedy = |version| {
            let memory = found("memory limit", &without_cgroups(version), &policy(""));
            assert!(!memory.works);
            assert_eq!(memory.detail, "no leave");
            memory.remedy.unwrap()
        };
        assert!(remedy(CgroupVersion::V2).contains("systemd-run --user --scope -p Delegate=yes"));
        assert!(remedy(CgroupVersion::V1).contains("chown"));
        assert!(remedy(CgroupVersion::Hybrid).contains("chown"));
        assert!(remedy(CgroupVersion::None).contains("mount -t cgroup2"));
        assert!(remedy(CgroupVersion::V2).contains("limit around the job"));
    }

    #[test]
    fn namespaces_that_cannot_be_had_name_the_switches() {
        let mut host = host();
        host.user_namespace = Probe { works: false, detail: "EPERM".to_owned() };
        let remedy = found("separation by namespaces", &host, &policy("")).remedy.unwrap();
        for switch in [
            "user.max_user_namespaces",
            "kernel.unprivileged_userns_clone",
            "kernel.apparmor_restrict_unprivileged_userns",
        ] {
            assert!(remedy.contains(switch), "{remedy}");
        }
        assert!(!found("engine native", &host, &policy("")).works);
    }

    #[test]
    fn demand_of_the_policy_is_judged_for_this_host() {
        let demanding = policy("require: [memory]\n");
        let what = "policy demands the memory limit";
        assert!(found(what, &host(), &demanding).works);
        let mut lacking = without_cgroups(CgroupVersion::V2);
        let refused = found(what, &lacking, &demanding);
        assert!(!refused.works && refused.remedy.is_some());
        lacking.cgroup.ambient = BTreeMap::from([(Controller::Memory, 1 << 30)]);
        let by_job = found(what, &lacking, &demanding);
        assert!(by_job.works && by_job.detail.contains("around this job"), "{by_job:?}");
        assert!(found("memory limit", &lacking, &demanding).detail.ends_with("is 1GiB"));
    }

    #[test]
    fn every_protection_is_told_about() {
        let all = doctor(&host(), &policy("engines: [native, docker]\n"));
        for one in EVERY_PROTECTION {
            let what = protection(one).trim_start_matches("the ");
            assert!(all.iter().any(|finding| finding.what == what), "{what}");
        }
        assert!(all.iter().any(|finding| finding.what == "engine docker" && !finding.works));
    }
}

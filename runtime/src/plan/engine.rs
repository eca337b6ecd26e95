//! Which engine, whether it can give here what every sandbox has, and what of the machine is seen
//! through it.

use std::borrow::Cow;

use ric_images::{Identity, Manifest, MediaType};
use ric_policies::{EngineName, Policy, Protection};

use super::{cgroup, is_host_image, required_by};
use crate::docker::seen;
use crate::doctor::{DOCKER_REMEDY, OVERLAY_REMEDY, remedy};
use crate::{
    Actor, CgroupPlacement, Daemon, Demand, DockerHost, EngineLack, Host, Identities, Probe,
    Refusal, Rule, Task,
};

/// Engines of this version for tasks.
pub(super) const FOR_TASKS: [EngineName; 2] = [EngineName::Native, EngineName::Docker];
/// Those whose sandboxes can have a root that is written to.
pub(super) const FOR_BUILDS: [EngineName; 1] = [EngineName::Native];

/// The engine that `task` is for, before anything is known of the machine.
///
/// # Errors
/// [`Refusal::Engine`] or [`Refusal::EngineUnavailable`].
pub fn engine_of(task: &Task, policy: &Policy) -> Result<EngineName, Refusal> {
    choose(task, policy, &FOR_TASKS)
}

/// The engine that is asked for, else the first of those that policy lists that is one of `can`.
pub(super) fn choose(
    task: &Task,
    policy: &Policy,
    can: &[EngineName],
) -> Result<EngineName, Refusal> {
    let allowed = &policy.engines.value;
    let wanted = match task.engine {
        Some(asked) if !allowed.contains(&asked) => {
            return Err(Refusal::Engine {
                asked,
                allowed: allowed.clone(),
                rule: Rule::at(policy, "engines", &policy.engines.origin),
            });
        }
        Some(asked) => vec![asked],
        None => allowed.clone(),
    };
    let chosen = wanted.iter().find(|engine| can.contains(engine)).copied();
    chosen.ok_or(Refusal::EngineUnavailable {
        tried: wanted,
        lack: EngineLack::NotInThisVersion { can: can.to_vec() },
    })
}

/// The machine as a sandbox of this engine finds it.
pub(super) fn seen_through<'a>(
    engine: EngineName,
    manifest: &Manifest,
    policy: &Policy,
    host: &'a Host,
) -> Result<Cow<'a, Host>, Refusal> {
    if engine == EngineName::Docker {
        let docker = require_docker(manifest, policy, host)?;
        return Ok(Cow::Owned(seen::seen_through(host, docker)));
    }
    require_native(manifest, policy, host)?;
    Ok(Cow::Borrowed(host))
}

/// Refuses where the native engine cannot give what every sandbox has.
fn require_native(manifest: &Manifest, policy: &Policy, host: &Host) -> Result<(), Refusal> {
    if !host.privileged.works && !host.user_namespace.works {
        return Err(lack(Protection::Namespaces, &host.user_namespace, policy, host));
    }
    require_filter(policy, host)?;
    if !is_host_image(manifest) && !host.overlay.works {
        return Err(Refusal::EngineUnavailable {
            tried: vec![EngineName::Native],
            lack: EngineLack::Host {
                detail: host.overlay.detail.clone(),
                remedy: OVERLAY_REMEDY.to_owned(),
            },
        });
    }
    Ok(())
}

fn lack(required: Protection, probe: &Probe, policy: &Policy, host: &Host) -> Refusal {
    Refusal::Protection {
        required,
        demand: required_by(policy, required).map_or(Demand::Always, Demand::Policy),
        why: probe.detail.clone(),
        remedy: remedy(required, host),
        actor: Actor::Host,
    }
}

/// Init installs the filter itself, whatever the engine.
fn require_filter(policy: &Policy, host: &Host) -> Result<(), Refusal> {
    if host.seccomp.works {
        return Ok(());
    }
    Err(lack(Protection::Seccomp, &host.seccomp, policy, host))
}

/// A way out of everything that Docker cannot do and the embedded engine can.
const NATIVE_REMEDY: &str = "use `--engine native`";

/// Refuses where a daemon cannot give what every sandbox has.
fn require_docker<'a>(
    manifest: &Manifest,
    policy: &Policy,
    host: &'a Host,
) -> Result<&'a DockerHost, Refusal> {
    let unavailable = |lack| Refusal::EngineUnavailable { tried: vec![EngineName::Docker], lack };
    let lacks = |detail: &str, remedy: &str| {
        unavailable(EngineLack::Host { detail: detail.to_owned(), remedy: remedy.to_owned() })
    };
    let asks = |detail: &str, remedy: &str| {
        unavailable(EngineLack::Task { detail: detail.to_owned(), remedy: remedy.to_owned() })
    };
    let Some(docker) = &host.docker else {
        return Err(lacks("no Docker or Podman is asked here", NATIVE_REMEDY));
    };
    if !docker.answer.works {
        return Err(lacks(&docker.answer.detail, DOCKER_REMEDY));
    }
    if docker.rootless {
        let detail = format!(
            "the daemon at {} runs without root's rights, and a caller's ids are others in it",
            docker.socket.display()
        );
        return Err(lacks(&detail, "use `--engine native`, which needs none"));
    }
    if docker.maps_ids {
        let detail = format!(
            "the daemon at {} maps the ids of all containers to others (userns-remap)",
            docker.socket.display()
        );
        return Err(lacks(&detail, NATIVE_REMEDY));
    }
    require_filter(policy, host)?;
    let by_digest = matches!(manifest.identity, Identity::Digest(_));
    if !by_digest || manifest.layers.iter().any(|layer| !is_tar(layer.media_type)) {
        return Err(asks(
            "Docker's containers are made of layers, which this image does not have",
            "use `--engine native`, or an image of a registry or an archive",
        ));
    }
    if seen::placement(host, docker).is_none() {
        return Err(lacks(
            "Docker makes containers where the limits around this job do not hold",
            "use `--engine native`, or start it where your cgroup has one path in all hierarchies",
        ));
    }
    Ok(docker)
}

/// A file system that is made a tar here has no digest that Docker would find it to have.
fn is_tar(media_type: MediaType) -> bool {
    match media_type {
        MediaType::Tar | MediaType::TarGzip | MediaType::TarZstd => true,
        MediaType::Squashfs | MediaType::Sif => false,
    }
}

/// Refuses ids that only a user namespace of the sandbox's own could give.
pub(super) fn refuse_identities(
    engine: EngineName,
    identities: &Identities,
) -> Result<(), Refusal> {
    if engine != EngineName::Docker || identities.user_namespace.is_none() {
        return Ok(());
    }
    Err(Refusal::User {
        asked: format!("{}:{} inside", identities.uid, identities.gid),
        why: "it needs a user namespace of its own, and Docker has one for all containers or none"
            .to_owned(),
        remedy: NATIVE_REMEDY.to_owned(),
        actor: Actor::User,
    })
}

/// Says who can help if a limit cannot be had through this engine.
pub(super) fn advised(engine: EngineName, mut refusal: Refusal) -> Refusal {
    if let Refusal::Protection { remedy, actor: Actor::Host, .. } = &mut refusal
        && engine == EngineName::Docker
    {
        *remedy = NATIVE_REMEDY.to_owned();
    }
    refusal
}

/// The daemon that is asked, if the engine is one.
pub(super) fn daemon(engine: EngineName, host: &Host) -> Option<Daemon> {
    let docker = host.docker.as_ref().filter(|_| engine == EngineName::Docker)?;
    Some(Daemon { socket: docker.socket.clone() })
}

/// Where the sandbox's cgroups are made.
pub(super) fn placement(engine: EngineName, host: &Host) -> Option<CgroupPlacement> {
    match &host.docker {
        Some(docker) if engine == EngineName::Docker => seen::placement(host, docker),
        Some(_) | None => cgroup::placement(host),
    }
}

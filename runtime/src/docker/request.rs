//! The pure half: a sandbox as the body of `POST /containers/create` (Docker Engine API v1.41), and
//! the steps that are left to init.
//!
//! Every field that Docker would fill otherwise is set: from the image (entry point, variables,
//! directory, user, volumes), or from the daemon's own defaults (log, namespaces, masks).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    Mount as DockerMount, MountBindOptions, MountBindOptionsPropagationEnum, MountType,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use ric_policies::{Access, Network};

use crate::native::steps::{Parent, Step};
use crate::oci::SpecError;
use crate::{CgroupPlacement, Controller, MountKind, OWN_DIRECTORY, Sandbox};

/// Names every container of ours, and whose it is.
pub(crate) const LABEL: &str = "run-in-container";

/// Microseconds over which processor time is counted: the kernel's default (sched-bwc.rst).
const CPU_PERIOD_US: i64 = 100_000;

/// Files of `/etc` that a sandbox has of its own.
pub(crate) const ETC_FILES: [&str; 5] =
    ["etc/group", "etc/hostname", "etc/hosts", "etc/passwd", "etc/resolv.conf"];

/// Hidden besides the sandbox's own: Docker mounts `/sys`, which no sandbox of ours has.
const SYS: &str = "/sys";

/// Where things are on this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// The image, by the ID that the daemon knows it by.
    pub(crate) image: &'a str,
    /// The directory with init and the worker.
    pub(crate) tools: &'a Path,
    /// The directory in which [`ETC_FILES`] are.
    pub(crate) etc: &'a Path,
    /// The socket that init connects to.
    pub(crate) control: &'a Path,
    /// Whose the container is, for [`LABEL`].
    pub(crate) owner: &'a str,
}

/// What the daemon is asked to make.
///
/// # Errors
/// [`SpecError`]: what was decided cannot be said.
pub(crate) fn create(
    sandbox: &Sandbox,
    places: &Places<'_>,
) -> Result<ContainerCreateBody, SpecError> {
    let ids = &sandbox.identities;
    Ok(ContainerCreateBody {
        image: Some(places.image.to_owned()),
        entrypoint: Some(vec![format!("{OWN_DIRECTORY}/init")]),
        cmd: Some(Vec::new()),
        env: Some(Vec::new()),
        working_dir: Some("/".to_owned()),
        user: Some(format!("{}:{}", ids.uid, ids.gid)),
        hostname: Some(sandbox.hostname.clone()),
        labels: Some(HashMap::from([(LABEL.to_owned(), places.owner.to_owned())])),
        tty: Some(false),
        open_stdin: Some(false),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        host_config: Some(host_config(sandbox, places)?),
        ..ContainerCreateBody::default()
    })
}

fn host_config(sandbox: &Sandbox, places: &Places<'_>) -> Result<HostConfig, SpecError> {
    let limits = &sandbox.limits;
    let memory = limit(Controller::Memory, limits.memory_bytes)?;
    // A quota in a period of 100 ms: a thousandth of a processor is 100 µs.
    let quota = limits.cpus_milli.map(|milli| milli.saturating_mul(100));
    let quota = limit(Controller::Cpu, quota)?;
    let groups = sandbox.identities.groups.iter().flatten();
    let parent = match &sandbox.cgroup {
        Some(CgroupPlacement::Daemon { parent, .. }) => parent.clone(),
        Some(CgroupPlacement::V1(_) | CgroupPlacement::V2 { .. }) | None => None,
    };
    let masked = sandbox.masked_paths.iter().map(|path| text(path));
    let masked = masked.chain([Ok(SYS.to_owned())]).collect::<Result<_, _>>()?;
    let readonly = sandbox.readonly_paths.iter().map(|path| text(path));
    let (tmpfs, shm_bytes) = memory_filesystems(sandbox)?;
    Ok(HostConfig {
        memory,
        // Memory and swap together: none of it may be swap.
        memory_swap: memory,
        cpu_period: quota.map(|_| CPU_PERIOD_US),
        cpu_quota: quota,
        pids_limit: limit(Controller::Pids, limits.pids)?,
        cgroup_parent: parent,
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        network_mode: Some(network(sandbox.network).to_owned()),
        ipc_mode: Some("private".to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        group_add: Some(groups.map(u32::to_string).collect()),
        // Init sets them too, and cannot raise what a daemon's own defaults would lower.
        ulimits: Some(sandbox.rlimits.iter().map(ulimit).collect()),
        // Init has the filter: the same as on every engine, also where the daemon knows none.
        security_opt: Some(vec!["no-new-privileges".to_owned(), "seccomp=unconfined".to_owned()]),
        readonly_rootfs: Some(sandbox.root_access == Access::ReadOnly),
        masked_paths: Some(masked),
        readonly_paths: Some(readonly.collect::<Result<_, _>>()?),
        mounts: Some(binds(sandbox, places)?),
        tmpfs: Some(tmpfs),
        shm_size: shm_bytes,
        // A second init would take init's place, and a log would keep what the task prints.
        init: Some(false),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        privileged: Some(false),
        publish_all_ports: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // How it ended is asked for before it is removed.
        auto_remove: Some(false),
        ..HostConfig::default()
    })
}

fn limit(controller: Controller, value: Option<u64>) -> Result<Option<i64>, SpecError> {
    let number = |value| i64::try_from(value).map_err(|_| SpecError::Limit { controller });
    value.map(number).transpose()
}

/// In Docker's words, which has -1 for what is not limited.
fn ulimit((name, (soft, hard)): (&String, &(u64, u64))) -> ResourcesUlimits {
    let number = |value: u64| Some(i64::try_from(value).unwrap_or(-1));
    ResourcesUlimits {
        name: Some(name.to_ascii_lowercase()),
        soft: number(*soft),
        hard: number(*hard),
    }
}

fn network(network: Network) -> &'static str {
    match network {
        // A namespace with nothing but a loopback interface.
        Network::Loopback => "none",
        Network::Host => "host",
    }
}

fn text(path: &Path) -> Result<String, SpecError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| SpecError::Path { path: path.to_owned() })
}

/// `/dev/shm`, whose size alone can be said.
const SHM: &str = "/dev/shm";

/// Targets and options of the memory filesystems, and the bytes of `/dev/shm`. The other mounts of
/// a sandbox that the kernel makes, Docker makes unasked.
///
/// They belong to the task's user: runc gives a memory filesystem the mode of the directory that it
/// covers, whatever `mode=` says, and an image's may be for its owner alone.
fn memory_filesystems(
    sandbox: &Sandbox,
) -> Result<(HashMap<String, String>, Option<i64>), SpecError> {
    let owner = format!("uid={},gid={}", sandbox.identities.uid, sandbox.identities.gid);
    let mut all = HashMap::new();
    let mut shm = None;
    for mount in &sandbox.mounts {
        match &mount.kind {
            MountKind::Tmpfs { size_bytes, .. } if mount.target == Path::new(SHM) => {
                shm = limit(Controller::Memory, Some(*size_bytes))?;
            }
            MountKind::Tmpfs { size_bytes, mode, executable } => {
                let exec = if *executable { "exec" } else { "noexec" };
                let bounds = format!("size={size_bytes},mode={mode:04o},{owner}");
                all.insert(text(&mount.target)?, format!("rw,nosuid,nodev,{exec},{bounds}"));
            }
            MountKind::Caller { .. }
            | MountKind::Proc
            | MountKind::Devpts
            | MountKind::Device
            | MountKind::Mqueue => {}
        }
    }
    Ok((all, shm))
}

/// What is bound from outside, each parent before what is mounted below it.
fn binds(sandbox: &Sandbox, places: &Places<'_>) -> Result<Vec<DockerMount>, SpecError> {
    let mut all = vec![
        bind(places.tools, OWN_DIRECTORY.into(), Access::ReadOnly)?,
        bind(places.control, Path::new(OWN_DIRECTORY).join("control"), Access::ReadOnly)?,
    ];
    for file in ETC_FILES {
        all.push(bind(&places.etc.join(file), Path::new("/").join(file), Access::ReadOnly)?);
    }
    for mount in &sandbox.mounts {
        // By name, which Docker follows with rights of its own: init looks whether it led to what
        // the caller had opened.
        if let MountKind::Caller { source, access, .. } = &mount.kind {
            all.push(bind(source, mount.target.clone(), *access)?);
        }
    }
    Ok(all)
}

fn bind(source: &Path, target: PathBuf, access: Access) -> Result<DockerMount, SpecError> {
    Ok(DockerMount {
        typ: Some(MountType::BIND),
        source: Some(text(source)?),
        target: Some(text(&target)?),
        read_only: Some(access == Access::ReadOnly),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..DockerMount::default()
    })
}

/// What is left to init, which has no capability: nothing that needs one.
pub(crate) fn steps(sandbox: &Sandbox, rlimits: Vec<Step>, filter: &[u8]) -> Vec<Step> {
    let mut steps: Vec<Step> = sandbox
        .mounts
        .iter()
        .filter_map(|mount| match &mount.kind {
            MountKind::Caller { device, inode, .. } => {
                Some(Step::expect(&mount.target, *device, *inode))
            }
            MountKind::Tmpfs { .. }
            | MountKind::Proc
            | MountKind::Devpts
            | MountKind::Device
            | MountKind::Mqueue => None,
        })
        .collect();
    steps.extend(rlimits);
    steps.push(Step::queues_at("/dev/mqueue"));
    steps.push(Step::drop_privileges(0, Parent::Engine));
    steps.push(Step::mkdir("/tmp/home", 0o700));
    steps.push(Step::seccomp(filter));
    steps.push(Step::ready());
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use serde_json::Value;

    use super::*;
    use crate::Daemon;

    /// Maps have no order of their own.
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let map: BTreeMap<String, Value> = map.into_iter().collect();
                map.into_iter().map(|(key, value)| (key, sorted(value))).collect()
            }
            Value::Array(all) => all.into_iter().map(sorted).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
        }
    }

    /// Golden cases: the sandboxes of `tests/golden/oci`, as if a daemon were to start them, give
    /// `tests/golden/docker/CASE.json`. `RIC_BLESS=1` rewrites them; review reads the difference.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "the switch of a test, not of the program")]
    fn each_sandbox_gives_its_request() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        let mut checked = 0;
        for case in fs::read_dir(golden.join("oci")).unwrap() {
            let case = case.unwrap();
            let sandbox = fs::read_to_string(case.path().join("sandbox.json")).unwrap();
            let mut sandbox: Sandbox = serde_json::from_str(&sandbox).unwrap();
            // What no sandbox of this engine has.
            if sandbox.identities.user_namespace.is_some()
                || case.file_name().to_string_lossy().starts_with("error-")
                || !matches!(sandbox.root, crate::RootSource::Layers)
            {
                continue;
            }
            sandbox.daemon = Some(Daemon { socket: "/var/run/docker.sock".into() });
            sandbox.cgroup = Some(CgroupPlacement::Daemon {
                parent: Some("/job/7".to_owned()),
                unified: true,
                controllers: vec![Controller::Memory, Controller::Cpu, Controller::Pids],
            });
            let places = Places {
                image: "sha256:70889a17f711bb8365b58b21ab79bcc46c1f5183f8339023327efa81e5ff431e",
                tools: Path::new("/store/tools"),
                etc: Path::new("/store/etc-of-it"),
                control: Path::new("/store/tmp/1/control"),
                owner: "boot 7 100 1000",
            };
            let request = serde_json::to_value(create(&sandbox, &places).unwrap()).unwrap();
            let steps = steps(&sandbox, Vec::new(), &[]);
            let steps: Vec<&str> = steps.iter().map(|step| step.label.as_str()).collect();
            let given = sorted(serde_json::json!({ "request": request, "steps": steps }));
            let given = serde_json::to_string_pretty(&given).unwrap() + "\n";
            let file = golden.join("docker").join(case.file_name()).with_extension("json");
            if std::env::var_os("RIC_BLESS").is_some() {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, &given).unwrap();
            }
            let expected = fs::read_to_string(&file).unwrap_or_default();
            assert!(expected == given, "{}: RIC_BLESS=1 shows the difference", file.display());
            checked += 1;
        }
        assert!(checked >= 3, "the cases are in {}", golden.display());
    }
}

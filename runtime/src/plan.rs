//! Decides: [`plan`] turns what is asked, allowed and possible into a [`Sandbox`] and its [`Work`].
//!
//! Third step of a task, after [`admit`](crate::admit()) and the image's name became a digest. The
//! only place that may refuse a task or accept a weaker protection; what comes later enforces a
//! [`Sandbox`] as it is or fails.
//!
//! **Invariant:** nothing here reads a clock, a file, the environment or the kernel, so every
//! decision can be replayed from four files. See `tests/golden/plan/`.

mod build;
mod cgroup;
mod engine;
mod identity;
mod limits;
mod mounts;
mod program;
mod target;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ric_images::{Form, Manifest};
use ric_policies::{Access, EngineName, Network, Policy, Protection};

use crate::admit::{admit, judge};
use crate::{
    Caller, Host, Identities, Mount, Namespaces, Refusal, RootSource, Rule, Sandbox, Task, Work,
};

pub use build::{
    BuildStep, StepMount, StepMountKind, StepSettings, admit_base, admit_built, build_identities,
    plan_build,
};
pub use engine::engine_of;

/// Everything that is decided about one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The box.
    pub sandbox: Sandbox,
    /// What runs in it.
    pub work: Work,
}

/// Name of the system call filter that every sandbox has.
const SECCOMP: &str = "restricted";

/// Host name in every sandbox: one that says nothing about the machine.
const HOSTNAME: &str = "sandbox";

/// Most characters of a tenant label.
const TENANT_CHARS_MAX: usize = 64;

/// Decides the sandbox and the work of one task.
///
/// What the task asks for explicitly, or a policy file demands, is in the result or the task is
/// refused; only a default that ships with the program may be missing, and then `dropped` says why.
///
/// # Errors
/// The first [`Refusal`] met; nothing was fetched and nothing was started.
pub fn plan(
    task: &Task,
    manifest: &Manifest,
    policy: &Policy,
    host: &Host,
) -> Result<Plan, Refusal> {
    // Again, though `admit` was asked: every decision about a task is made where its sandbox is,
    // whatever entry point it came through, and for the image that was really resolved.
    admit(task, policy)?;
    judge(&manifest.reference, policy)?;
    refuse_other_platform(manifest, host)?;
    let engine = engine::choose(task, policy, &engine::FOR_TASKS)?;
    let host = &*engine::seen_through(engine, manifest, policy, host)?;
    let network = choose_network(task, policy)?;
    refuse_less_fresh(task, policy)?;
    let identities = identity::identities(task, manifest, policy, host)?;
    engine::refuse_identities(engine, &identities)?;
    let limits = limits::limits(task, policy, host);
    let limits = limits.map_err(|refusal| engine::advised(engine, refusal))?;
    let mounts = mounts::mounts(task, policy, host, limits.memory_basis_bytes)?;
    let work = program::work(task, manifest, host, &identities.name, limits.deadline)?;
    let decided = Decided { engine, network, identities, limits, mounts };
    Ok(Plan { sandbox: sandbox(task, manifest, policy, host, decided)?, work })
}

/// What tasks and build steps are decided about differently.
struct Decided {
    engine: EngineName,
    network: Network,
    identities: Identities,
    limits: limits::Decided,
    mounts: Vec<Mount>,
}

/// The box, read-only, of what was decided.
fn sandbox(
    task: &Task,
    manifest: &Manifest,
    policy: &Policy,
    host: &Host,
    decided: Decided,
) -> Result<Sandbox, Refusal> {
    let Decided { engine, network, identities, limits, mounts } = decided;
    let namespaces = Namespaces { user: identities.user_namespace.is_some() };
    let mut enforced = limits.enforced;
    enforced.insert(Protection::Seccomp, SECCOMP.to_owned());
    enforced.insert(Protection::Namespaces, namespaces_text(namespaces));
    if network == Network::Loopback {
        enforced.insert(Protection::Network, "loopback".to_owned());
    }
    Ok(Sandbox {
        caller: sorted(&task.caller),
        tenant: tenant(task)?,
        policy_digest: policy.digest.clone(),
        engine,
        daemon: engine::daemon(engine, host),
        image: manifest.identity.clone(),
        form: form(engine, &identities, manifest, host),
        root: root(manifest, policy, host),
        root_access: Access::ReadOnly,
        capabilities: BTreeSet::new(),
        identities,
        namespaces,
        network,
        hostname: HOSTNAME.to_owned(),
        mounts,
        masked_paths: MASKED_PATHS.iter().map(PathBuf::from).collect(),
        readonly_paths: READONLY_PATHS.iter().map(PathBuf::from).collect(),
        seccomp: SECCOMP.to_owned(),
        limits: limits.limits,
        rlimits: rlimits(host),
        cgroup: engine::placement(engine, host),
        enforced,
        dropped: limits.dropped,
    })
}

/// Paths of `proc(5)` that tell about the machine or its kernel. Docker's list (moby
/// `daemon/pkg/oci/defaults.go`) and the kernel's symbols, log, configuration and modules. Those of
/// `/sys` are missing because `/sys` is not mounted.
const MASKED_PATHS: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
];

/// Paths of `proc(5)` through which a uid 0 without capabilities could still change the machine.
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Soft and hard limits of each process, before the machine's own hard limits cut them.
///
/// No core files: they would land in the task's directory or in the machine's core handler. Few
/// open files unless a program raises its own limit: old programs close or scan all of them.
/// Little locked memory and no real-time priority: neither is covered by a cgroup on version 1.
const RLIMITS: [(&str, u64, u64); 4] =
    [("CORE", 0, 0), ("MEMLOCK", 64 * 1024, 64 * 1024), ("NOFILE", 1024, 65536), ("RTPRIO", 0, 0)];

/// A hard limit cannot be raised without CAP_SYS_RESOURCE, which even root may lack.
fn rlimits(host: &Host) -> BTreeMap<String, (u64, u64)> {
    let cut = |(name, soft, hard): (&str, u64, u64)| {
        let hard = host.rlimits_hard.get(name).map_or(hard, |most| hard.min(*most));
        (name.to_owned(), (soft.min(hard), hard))
    };
    RLIMITS.into_iter().map(cut).collect()
}

/// Refuses an image whose programs this machine cannot run, before it is fetched.
fn refuse_other_platform(manifest: &Manifest, host: &Host) -> Result<(), Refusal> {
    let os = manifest.config.os.as_deref().filter(|os| !os.is_empty()).unwrap_or("linux");
    let architecture = manifest.config.architecture.as_deref().filter(|a| !a.is_empty());
    let architecture = architecture.unwrap_or(&host.architecture);
    if os == "linux" && architecture == host.architecture {
        return Ok(());
    }
    Err(Refusal::Platform {
        reference: manifest.reference.clone(),
        image: format!("{os}/{architecture}"),
        machine: format!("linux/{}", host.architecture),
    })
}

fn choose_network(task: &Task, policy: &Policy) -> Result<Network, Refusal> {
    let allowed = &policy.network.value;
    // An empty list allows nothing, and the network of its own is the least that there is.
    let wanted = task.network.or_else(|| allowed.first().copied()).unwrap_or(Network::Loopback);
    if wanted == Network::Host {
        let rule = if allowed.contains(&wanted) {
            required_by(policy, Protection::Network)
        } else {
            Some(Rule::at(policy, "network", &policy.network.origin))
        };
        if let Some(rule) = rule {
            let others = allowed.iter().copied().filter(|network| *network != wanted).collect();
            return Err(Refusal::Network { asked: wanted, allowed: others, rule });
        }
    }
    Ok(wanted)
}

/// Refuses a task that would share more with others of its sandbox than the site accepts.
fn refuse_less_fresh(task: &Task, policy: &Policy) -> Result<(), Refusal> {
    if task.fresh >= policy.fresh.value {
        return Ok(());
    }
    Err(Refusal::Fresh {
        asked: task.fresh,
        least: policy.fresh.value,
        rule: Rule::at(policy, "fresh", &policy.fresh.origin),
    })
}

/// The line of `require:` that demands `protection`, if there is one.
fn required_by(policy: &Policy, protection: Protection) -> Option<Box<Rule>> {
    let rule = policy.require.iter().find(|rule| rule.value == protection)?;
    Some(Rule::at(policy, "require", &rule.origin))
}

/// A squashfs that only root can have written goes to the kernel as it is. Not into a user
/// namespace: its owners would be none that are known there.
fn form(engine: EngineName, identities: &Identities, manifest: &Manifest, host: &Host) -> Form {
    let can_mount = host.squashfs.as_ref().is_some_and(|probe| probe.works);
    let is_native = engine == EngineName::Native && identities.user_namespace.is_none();
    if manifest.of_root && is_native && can_mount { Form::FileSystem } else { Form::Layers }
}

fn is_host_image(manifest: &Manifest) -> bool {
    manifest.reference == "host:"
}

fn root(manifest: &Manifest, policy: &Policy, host: &Host) -> RootSource {
    if !is_host_image(manifest) {
        return RootSource::Layers;
    }
    let mut shown = host.host_shown.clone();
    let of_policy = policy.host_paths.iter().map(|rule| &rule.value);
    shown.extend(of_policy.filter(|path| host.host_paths.contains(path)).cloned());
    shown.sort();
    // Whatever lies below a path that is shown is shown with it, and follows it in this order.
    shown.dedup_by(|path, before| path.starts_with(before));
    let copied = host.host_copied.clone();
    let python = host.pythons.first().cloned();
    RootSource::Host { links: host.root_links.clone(), shown, copied, python }
}

/// Equal callers must be equal values, in whatever order their groups came.
fn sorted(caller: &Caller) -> Caller {
    let mut caller = caller.clone();
    caller.groups.sort_unstable();
    caller.groups.dedup();
    caller
}

fn tenant(task: &Task) -> Result<Option<String>, Refusal> {
    let Some(label) = &task.tenant else { return Ok(None) };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if label.is_empty() || label.len() > TENANT_CHARS_MAX || !label.chars().all(plain) {
        return Err(Refusal::Malformed {
            what: "tenant label",
            value: label.clone(),
            why: format!("1 to {TENANT_CHARS_MAX} letters, digits, `-`, `_` or `.` are a label"),
        });
    }
    Ok(Some(label.clone()))
}

fn namespaces_text(namespaces: Namespaces) -> String {
    let always = "mount pid ipc uts cgroup";
    if namespaces.user { format!("user {always}") } else { always.to_owned() }
}

//! Decides the box of one step of a build: a task whose root can be written, as uid 0 of a user
//! namespace, with what a package manager needs in there and no more.

use std::fmt;
use std::path::PathBuf;

use ric_images::{Identity, Manifest};
use ric_policies::{Access, Network, Policy, Protection};

use super::target::parse_target;
use super::{Decided, Plan, engine, identity, limits, mounts, program, sandbox, variables};
use crate::admit::{admit, judge};
use crate::{
    Admitted, Caller, Host, Identities, Mount, MountKind, PathFacts, PathKind, Program, Refusal,
    Rule, Task, Work,
};

/// Capabilities of uid 0 of a build step, in its own user namespace: Docker's default (moby
/// `oci/caps/defaults.go`) without raw sockets, low ports, device nodes, the audit log and the
/// bounding set. None reaches beyond what the namespace owns, and that is the step alone.
const CAPABILITIES: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Name of the system call filter of such a uid 0.
const SECCOMP: &str = "build";

/// What a step of a build asks for, besides what a [`Task`] does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildStep {
    /// Whom it runs as, `UID[:GID]` inside; uid 0 if none.
    pub user: Option<String>,
    /// Its supplementary groups inside.
    pub groups: Vec<u32>,
    /// The name of the image that it stands on, if it stands on one that is named.
    pub base: Option<String>,
    /// Files of the store's own that it finds, read-only: where, and what they are. Descriptors are
    /// numbered in this order.
    pub files: Vec<(PathBuf, PathFacts)>,
    /// What it sees besides, at places that the image has. Descriptors come after those of `files`.
    pub mounts: Vec<StepMount>,
    /// What of the image it may not write, with all below.
    pub read_only: Vec<PathBuf>,
    /// What it is told of the machine.
    pub settings: StepSettings,
}

/// One thing that a step sees besides the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepMount {
    /// Where: a path without links in it.
    pub target: PathBuf,
    /// What.
    pub kind: StepMountKind,
}

/// What a step sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepMountKind {
    /// A directory or file of whoever builds, by descriptor.
    Own(PathFacts, Access),
    /// Memory, with at most so many bytes, and no more than half of the step's own memory.
    Tmpfs(Option<u64>),
}

/// What a step is told of the machine whose network it has, if policy allows that: how to reach
/// what it installs. Nothing of it changes what the step is.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct StepSettings {
    /// Variables; the step's own win.
    pub variables: Vec<(String, String)>,
    /// Files, as those of [`BuildStep`]; their descriptors come last.
    pub files: Vec<(PathBuf, PathFacts)>,
}

/// Addresses may have passwords in them.
impl fmt::Debug for StepSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.variables.iter().map(|(name, _)| name.as_str());
        let files = self.files.iter().filter_map(|(target, _)| target.to_str());
        f.debug_list().entries(names.chain(files)).finish()
    }
}

/// Decides whether an image with the name of `task` may be built.
///
/// # Errors
/// [`Refusal::Build`], or as [`admit`](crate::admit()): an image that could not be used.
pub fn admit_built(task: &Task, policy: &Policy) -> Result<(), Refusal> {
    refuse_building(policy)?;
    admit(task, policy).map(drop)
}

/// The ids of the steps of a build that say nothing of their own.
///
/// # Errors
/// [`Refusal::User`].
pub fn build_identities(caller: &Caller, host: &Host) -> Result<Identities, Refusal> {
    identity::of_build(None, &[], caller, host)
}

/// Decides whether images may be built, and upon which image.
///
/// # Errors
/// [`Refusal::Build`], or as [`admit`](crate::admit()); nothing was looked up.
pub fn admit_base(task: &Task, policy: &Policy) -> Result<Admitted, Refusal> {
    refuse_building(policy)?;
    let mut admitted = admit(task, policy)?;
    let first = admitted.references[0].to_string();
    admitted.references.retain(|reference| policy.allows_base(&reference.to_string()));
    if admitted.references.is_empty() {
        refuse_base(&first, policy)?;
    }
    Ok(admitted)
}

/// Decides the sandbox and the work of one step of a build, which is `task`.
///
/// `manifest` is the image that the step changes. Its name is that of the image that is built upon,
/// or of the one that is built. Decided like a task but for what `build:` of the policy says, for
/// `network:`, `run_as:` and `mounts:`, which hold for tasks.
///
/// # Errors
/// The first [`Refusal`] met; nothing was started.
pub fn plan_build(
    task: &Task,
    step: &BuildStep,
    manifest: &Manifest,
    policy: &Policy,
    host: &Host,
) -> Result<Plan, Refusal> {
    refuse_building(policy)?;
    if let Some(base) = &step.base {
        judge(base, policy)?;
        refuse_base(base, policy)?;
    }
    super::refuse_other_platform(manifest, host)?;
    refuse_no_layers(manifest)?;
    let engine = engine::choose(task, policy, &engine::FOR_BUILDS)?;
    let host = &*engine::seen_through(engine, manifest, policy, host)?;
    let network = choose_network(task, policy);
    let user = step.user.as_deref();
    let identities = identity::of_build(user, &step.groups, &task.caller, host)?;
    let mut limits = limits::limits(task, policy, host)?;
    let time = policy.build.time.default.as_ref().map(|rule| rule.value);
    limits.deadline = limits.deadline.into_iter().chain(time).min();
    let mut mounts = mounts::of_build(limits.memory_basis_bytes, host.page_bytes);
    let half_bytes = mounts::half_bytes(limits.memory_basis_bytes, host.page_bytes);
    let told = policy.build.settings.value && network == Network::Host;
    let settings = if told { &step.settings } else { &StepSettings::default() };
    mounts.extend((0..).zip(&step.files).map(|(descriptor, file)| shown(descriptor, file)));
    let mut next = step.files.len();
    for mount in &step.mounts {
        mounts.push(mounted(mount, &mut next, half_bytes)?);
    }
    mounts.extend((next..).zip(&settings.files).map(|(number, file)| shown(number, file)));
    let work = Work {
        program: Program::Command(program::command(asked(task), manifest)?),
        variables: variables::of_build(task, &settings.variables)?,
        workdir: program::workdir(task, manifest)?,
        deadline: limits.deadline,
        inputs: Vec::new(),
        secrets: Vec::new(),
        outputs: Vec::new(),
        terminal: false,
        bounds: program::BOUNDS,
    };
    let is_root = identities.uid == 0;
    let decided = Decided { engine, network, identities, limits, mounts };
    let mut sandbox = sandbox(task, manifest, policy, host, decided)?;
    sandbox.root_access = Access::ReadWrite;
    sandbox.readonly_paths.extend(step.read_only.iter().cloned());
    if is_root {
        sandbox.seccomp = SECCOMP.to_owned();
        sandbox.enforced.insert(Protection::Seccomp, SECCOMP.to_owned());
        sandbox.capabilities = CAPABILITIES.map(str::to_owned).into();
    }
    Ok(Plan { sandbox, work })
}

fn shown(descriptor: usize, (target, facts): &(PathBuf, PathFacts)) -> Mount {
    let kind = MountKind::Caller {
        descriptor,
        source: facts.real.clone(),
        device: facts.device,
        inode: facts.inode,
        directory: false,
        access: Access::ReadOnly,
    };
    Mount { target: target.clone(), kind }
}

/// A mount of a step, which takes the descriptor `next` if it needs one.
fn mounted(mount: &StepMount, next: &mut usize, half_bytes: u64) -> Result<Mount, Refusal> {
    let refused = |why| Refusal::MountTarget { target: mount.target.clone(), why };
    let target = parse_target(&mount.target).map_err(refused)?;
    mounts::refuse_kernels(&target).map_err(refused)?;
    let kind = match &mount.kind {
        StepMountKind::Own(facts, access) => {
            let descriptor = *next;
            *next += 1;
            MountKind::Caller {
                descriptor,
                source: facts.real.clone(),
                device: facts.device,
                inode: facts.inode,
                directory: facts.kind == PathKind::Directory,
                access: *access,
            }
        }
        StepMountKind::Tmpfs(bytes_max) => {
            let size_bytes = bytes_max.map_or(half_bytes, |bytes| bytes.clamp(1, half_bytes));
            MountKind::Tmpfs { size_bytes, mode: mounts::TMP_MODE, executable: true }
        }
    };
    Ok(Mount { target, kind })
}

fn asked(task: &Task) -> &[String] {
    match &task.work {
        crate::WorkAsk::Command(command) => command,
        crate::WorkAsk::Call(_) => &[],
    }
}

fn refuse_building(policy: &Policy) -> Result<(), Refusal> {
    if policy.build.allow.value {
        return Ok(());
    }
    Err(Refusal::Build { rule: Rule::at(policy, "build", &policy.build.allow.origin) })
}

fn refuse_base(reference: &str, policy: &Policy) -> Result<(), Refusal> {
    if policy.allows_base(reference) {
        return Ok(());
    }
    Err(Refusal::Image {
        reference: reference.to_owned(),
        rule: Rule::at(policy, "build", policy.origin_of("build.bases")),
        denied_by: None,
        allowed: policy.build.bases.iter().map(|rule| rule.value.clone()).collect(),
    })
}

/// Directories of the machine have no layers that a change could be laid upon and kept with.
fn refuse_no_layers(manifest: &Manifest) -> Result<(), Refusal> {
    match manifest.identity {
        Identity::Digest(_) => Ok(()),
        Identity::Fingerprint(_) => Err(Refusal::Malformed {
            what: "base image",
            value: manifest.reference.clone(),
            why: "it is a directory of this machine, of which no layers can be kept".to_owned(),
        }),
    }
}

/// The policy's first network for builds; one of its own if the step asks for that, or if
/// `require:` wants tasks to have one.
fn choose_network(task: &Task, policy: &Policy) -> Network {
    let is_required = || super::required_by(policy, Protection::Network).is_some();
    match (task.network, policy.build.network.value.first()) {
        (None | Some(Network::Host), Some(Network::Host)) if !is_required() => Network::Host,
        (_, Some(Network::Host | Network::Loopback) | None) => Network::Loopback,
    }
}

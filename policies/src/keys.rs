//! Every key of a policy file: how it is written, what an admin has to know about it, what kind of
//! rule it is.
//!
//! A new key is a field of [`Keys`] (its doc comment is the manual and the JSON Schema), a field of
//! [`Policy`], and a line in [`visit`]. Reading, checking, filling in, narrowing, printing and the
//! digest follow from its kind, a method of [`Visitor`].

use schemars::JsonSchema;
use serde::Deserialize;

use crate::meaning::{Choice, Grant, Said};
use crate::names::{
    AbsoluteFile, Directory, Host, ImagePattern, Name, Offline, Permit, Uid, Version,
};
use crate::said::{Key, Limit, Listed, MirrorSaid, MountSaid, ShortNamesSaid};
use crate::{Bound, EngineName, Network, Policy, Protection, Ruled, RunAs};
use ric_yaml::{Cpus, Fresh, Memory, Pids, Time, Unit};

/// What the tasks of a site may do, for `/etc/run-in-container/policy.yaml` and for `--policy`.
///
/// A key that a site's file leaves out has the built-in default. A key that a further file leaves
/// out stays as it was.
#[derive(Debug, Clone, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Policy of run-in-container")]
pub(crate) struct Keys {
    /// The version of this format. Required, always `1`.
    #[expect(dead_code, reason = "to have read it is to have checked it")]
    pub(crate) version: Key<Version>,

    /// A name for refusals and logs. It changes nothing else.
    ///
    /// Narrowing: the name of the site's policy stays.
    #[serde(default)]
    pub(crate) name: Key<Name>,

    /// Which images may be used at all. Nothing of any other image is fetched or read.
    #[serde(default)]
    pub(crate) images: Images,

    /// How registries are reached.
    #[serde(default)]
    pub(crate) registries: RegistryKeys,

    /// The engines that may start containers, in order of preference: a task that asks for none
    /// gets the first that works on its machine.
    ///
    /// Narrowing: engines can be taken away, the order stays. One must be left.
    #[serde(default)]
    pub(crate) engines: Key<Listed<EngineName>>,

    /// The directories of the machine that tasks may mount, and the most access a mount may have.
    /// What lies under none of them is refused.
    ///
    /// For users who shall be able to mount their own files, list where these are:
    /// `mounts: [{source: /home, access: read-write}]`. File permissions still hold: a task has the
    /// rights of its caller. Sources are compared component by component (`/scratch` does not allow
    /// `/scratch2`) with the real path of what a task mounts, so write them without symbolic links.
    /// The nearest rule decides; a rule further down that grants less also binds mounts above it,
    /// because they would show its directory.
    ///
    /// Narrowing: a path stays allowed where both files allow it, with the lesser access.
    #[serde(default)]
    pub(crate) mounts: Key<Listed<MountSaid>>,

    /// The networks that tasks may ask for. The first is what a task gets that asks for none.
    ///
    /// Narrowing: networks can be taken away, the order stays. One must be left.
    #[serde(default)]
    pub(crate) network: Key<Listed<Network>>,

    /// Whose uid and gid tasks run with. With `caller`, an image's `User` is shown, not followed.
    ///
    /// Narrowing: `image` can become `caller`.
    #[serde(default)]
    pub(crate) run_as: Key<RunAs>,

    /// The uid and gid that the tasks of a root caller run with. `0` leaves them root's.
    ///
    /// Narrowing: `0` can become another id; another id stays.
    #[serde(default)]
    pub(crate) root_runs_as: Key<Uid>,

    /// Directories that `host:` shows read-only besides `/usr`, such as a software tree. Python is
    /// looked for in their `bin` too.
    ///
    /// Narrowing: a path stays shown where both files show it.
    #[serde(default)]
    pub(crate) host_paths: Key<Listed<Directory>>,

    /// The least that each task gets new: `nothing` but the call, `process` forked from a warm
    /// interpreter, or `container`. Less than `container` means that what a task leaves behind, of
    /// the same caller and sandbox, may be found by the next one, as `docs/environments.md` tells.
    /// A task that asks for less than this is refused; one that asks for nothing gets a container.
    ///
    /// Narrowing: the greater value of both files holds.
    #[serde(default)]
    pub(crate) fresh: Key<Fresh>,

    /// What tasks may use. Each limit has a `default`, for tasks that ask for nothing, and `most`,
    /// which bounds what a task may ask for. Both may be `none`. A task that asks for nothing gets
    /// `most` where that is less than the default, or where there is no default.
    ///
    /// A limit that a file sets is enforced on a machine or tasks are refused there. Only the
    /// built-in defaults give way where a machine cannot enforce them, and the outcome says so.
    ///
    /// Narrowing: the lesser value of both files holds.
    #[serde(default)]
    pub(crate) limits: Limits,

    /// What building images may do. Build steps run in sandboxes whose root can be written and in
    /// which they are uid 0 of a user namespace, never of the machine.
    #[serde(default)]
    pub(crate) build: BuildKeys,

    /// What a daemon (`run-in-container serve`) keeps warm and lets wait. Each key has `most`; what
    /// passes it is ended, or told to come back later.
    #[serde(default)]
    pub(crate) warm: WarmKeys,

    /// How much a daemon keeps of submitted tasks. Each key has `most`.
    #[serde(default)]
    pub(crate) results: ResultsKeys,

    /// Protections that must be enforced on the machine, or the task is refused. A limit of a
    /// scheduler's job around the task satisfies the demand for it.
    ///
    /// Narrowing: both files' demands hold.
    #[serde(default)]
    pub(crate) require: Key<Listed<Protection>>,
}

/// Which images may be used.
#[derive(Debug, Clone, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct Images {
    /// Patterns of image references; an image is used only if one of them matches it. An empty
    /// list allows none.
    ///
    /// `*` stands for any text, also across `/`; everything else for itself. The whole reference
    /// must match as `run-in-container plan` prints it, transport and tag included:
    /// `docker://registry.example.org/*`, `docker://registry.example.org/*@sha256:*` for pinned
    /// images only, `sif:/apps/images/*`, `host:`.
    ///
    /// Narrowing: an image stays allowed where both files allow it.
    pub(crate) allow: Key<Listed<ImagePattern>>,

    /// Patterns of image references that are refused even if `allow` has them.
    ///
    /// Narrowing: what either file denies is refused.
    pub(crate) deny: Key<Listed<ImagePattern>>,

    /// Directories in which a Shifter image gateway keeps its images (its `imagePath`), for
    /// `shifter:` references. They are looked through in this order. An image is used only by those
    /// whom its gateway lets use it, and only if nobody but root and the directory's owner can
    /// change it.
    ///
    /// Narrowing: a directory stays where both files have it.
    pub(crate) shifter: Key<Listed<Directory>>,

    /// Directories in which the site keeps images below everybody's own store, read-only: OCI
    /// layouts, such as `run-in-container images export` writes into an archive, unpacked. They may
    /// be on a shared file system; nothing is ever written or locked there. Manifests and layers of
    /// registry images are taken from there, by digest, before a registry is asked for them; what a
    /// tag means is taken from there only if `registries: {offline: true}`. What is found is
    /// compared with its digest and copied into the user's store.
    ///
    /// Narrowing: a directory stays where both files have it.
    pub(crate) below: Key<Listed<Directory>>,
}

/// How registries are reached.
#[derive(Debug, Clone, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct RegistryKeys {
    /// What a name without a registry means, such as `python:3.12`: `deny`, or a list of
    /// registries that are tried in order.
    ///
    /// Whoever can put an image into one of these under a name that an earlier one lacks decides
    /// what users run.
    ///
    /// Narrowing: registries can be taken away, the order stays. With none left it is `deny`.
    pub(crate) short_names: Key<ShortNamesSaid>,

    /// Registries, as `HOST` or `HOST:PORT`, that are spoken to over plain HTTP. Anyone on the way
    /// can then read and replace what is pulled by tag. All others need HTTPS.
    ///
    /// Narrowing: registries can be taken away.
    pub(crate) insecure: Key<Listed<Host>>,

    /// Places that are asked before a registry itself, in this order:
    /// `mirrors: [{registry: docker.io, at: "mirror.example.org:5000/hub"}]`. The path of `at`
    /// comes before the names of images. What a mirror does not give is asked of the next, and in
    /// the end of the registry. Images keep their names, and rules for images are about these.
    ///
    /// A mirror decides what a tag means; a digest is checked as anywhere. It is shown the
    /// credentials that a user has for its own host, and no others.
    ///
    /// Narrowing: mirrors can be taken away, the order stays.
    pub(crate) mirrors: Key<Listed<MirrorSaid>>,

    /// Files with certificates of authorities, in PEM, that registries and mirrors may be vouched
    /// for by, besides those that the machine trusts anyway.
    ///
    /// Narrowing: files can be taken away.
    pub(crate) authorities: Key<Listed<AbsoluteFile>>,

    /// Whether no registry or mirror is asked at all. What is in the store can be used: by its
    /// digest, or by a tag that was looked up before, which means what it meant then.
    ///
    /// Narrowing: `false` can become `true`.
    pub(crate) offline: Key<Offline>,
}

/// What building images may do.
#[derive(Debug, Clone, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct BuildKeys {
    /// Whether images may be built at all.
    ///
    /// Narrowing: `true` can become `false`.
    pub(crate) allow: Key<Permit>,

    /// Patterns of image references, as under `images:`; a build may begin with an image only if
    /// one of them matches it, and `images:` allow it too. Nothing (`FROM scratch`) needs none.
    ///
    /// Narrowing: an image stays allowed where both files allow it.
    pub(crate) bases: Key<Listed<ImagePattern>>,

    /// The networks that build steps may have. The first is what they get; package managers need
    /// `host`, to reach the machine's mirrors. `network:` is for tasks and says nothing about
    /// builds.
    ///
    /// Narrowing: networks can be taken away, the order stays. One must be left.
    pub(crate) network: Key<Listed<Network>>,

    /// Whether steps with the machine's network are told its proxies, its mirrors of packages and
    /// its certificates, as whoever builds has them: variables such as `HTTPS_PROXY`, pip's and
    /// apt's configuration. What they are told, passwords in addresses included, is in no image.
    ///
    /// Narrowing: `true` can become `false`.
    pub(crate) settings: Key<Permit>,

    /// Wall-clock time of one step, as `10m`. `most` holds for every step; a step that passes it is
    /// killed, and the build fails.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) time: Limit<Time>,

    /// Bytes of what one step leaves behind, as `8GiB`. A step that leaves more fails.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) layer: Limit<Memory>,
}

/// What a daemon keeps warm and lets wait.
#[derive(Debug, Clone, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct WarmKeys {
    /// How long a container without a task is kept, as `10m`.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) idle: Limit<Time>,

    /// Containers at once, of all users. Where one more is wanted, the idle one that was not used
    /// for the longest time ends; where none is idle, users with fewer containers come first.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) containers: Limit<Pids>,

    /// Containers at once, of one user.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) containers_per_user: Limit<Pids>,

    /// What the memory limits of all containers may add up to, as `64GiB`. Containers without a
    /// limit count nothing.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) memory: Limit<Memory>,

    /// Tasks of one user that wait or run. One more is told that the daemon is busy.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) tasks_per_user: Limit<Pids>,

    /// Bytes of arguments of one user's tasks that wait or run, as `1GiB`.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) bytes_per_user: Limit<Memory>,

    /// How long tasks may take to end once the daemon is told to (SIGTERM); then they are ended.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) drain: Limit<Time>,
}

/// How much a daemon keeps of submitted tasks.
#[derive(Debug, Clone, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct ResultsKeys {
    /// How long a result is kept that nobody fetches, as `7d`.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) keep: Limit<Time>,

    /// Submitted tasks of one user that wait, run, or have results that are kept. One more is told
    /// that the daemon is busy.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) tasks_per_user: Limit<Pids>,

    /// Bytes on disk of one user's submitted tasks and kept results, as `1GiB`. A task that would
    /// pass it is told that the daemon is busy; one whose result would pass it fails.
    ///
    /// Narrowing: the lesser value of both files holds.
    pub(crate) bytes_per_user: Limit<Memory>,
}

/// What tasks may use.
#[derive(Debug, Clone, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct Limits {
    /// Memory of all processes of a task with its page cache, `/task`, `/tmp` and `/dev/shm`, as
    /// `512MiB`, `1GiB`, `1GB` or in bytes. Swap does not add to it.
    pub(crate) memory: Limit<Memory>,

    /// Processor time per wall-clock time, in processors: `0.5`, `2`.
    pub(crate) cpus: Limit<Cpus>,

    /// Processes and threads.
    pub(crate) pids: Limit<Pids>,

    /// Wall-clock time from start to end, as `90s`, `10m`, `1h30m`, `2d`. The task is killed when
    /// it passes.
    pub(crate) time: Limit<Time>,
}

/// What is done with every key: checking, filling in, narrowing, printing. One method per kind.
pub(crate) trait Visitor {
    /// Why it could not be done.
    type Error;

    /// A list of what is allowed. Narrowing keeps what both lists allow.
    fn grants<S: Grant>(
        &mut self,
        key: &'static str,
        rule: &mut Vec<Ruled<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), Self::Error>;

    /// A list of what is allowed, the best first and at least one. Narrowing keeps the order.
    fn ranking<S: Said>(
        &mut self,
        key: &'static str,
        rule: &mut Ruled<Vec<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), Self::Error>;

    /// A list of what is forbidden or demanded. Narrowing adds to it.
    fn demands<S: Said>(
        &mut self,
        key: &'static str,
        rule: &mut Vec<Ruled<S::Rule>>,
        said: &Key<Listed<S>>,
    ) -> Result<(), Self::Error>;

    /// One value, of which narrowing keeps the stricter.
    fn choice<S: Choice>(
        &mut self,
        key: &'static str,
        rule: &mut Ruled<S::Rule>,
        said: &Key<S>,
    ) -> Result<(), Self::Error>;

    /// A default and the most that may be asked for, of which narrowing keeps the lesser.
    fn bound<U: Unit>(
        &mut self,
        keys: BoundKeys,
        rule: &mut Bound<U::Value>,
        said: &Limit<U>,
    ) -> Result<(), Self::Error>;
}

/// The two keys of a bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BoundKeys {
    pub(crate) default: &'static str,
    pub(crate) most: &'static str,
}

/// `default` and `most` below a key.
macro_rules! bound_keys {
    ($key:literal) => {
        BoundKeys { default: concat!($key, ".default"), most: concat!($key, ".most") }
    };
}

/// Shows every key but `version` and `name` to `visitor`, once, in the order of the manual.
pub(crate) fn visit<V: Visitor>(
    policy: &mut Policy,
    keys: &Keys,
    visitor: &mut V,
) -> Result<(), V::Error> {
    visitor.grants("images.allow", &mut policy.images.allow, &keys.images.allow)?;
    visitor.demands("images.deny", &mut policy.images.deny, &keys.images.deny)?;
    visitor.grants("images.shifter", &mut policy.images.shifter, &keys.images.shifter)?;
    visitor.grants("images.below", &mut policy.images.below, &keys.images.below)?;
    let (rules, said) = (&mut policy.registries, &keys.registries);
    visitor.choice("registries.short_names", &mut rules.short_names, &said.short_names)?;
    visitor.grants("registries.insecure", &mut rules.insecure, &said.insecure)?;
    visitor.grants("registries.mirrors", &mut rules.mirrors, &said.mirrors)?;
    visitor.grants("registries.authorities", &mut rules.authorities, &said.authorities)?;
    visitor.choice("registries.offline", &mut rules.offline, &said.offline)?;
    visitor.ranking("engines", &mut policy.engines, &keys.engines)?;
    visitor.grants("mounts", &mut policy.mounts, &keys.mounts)?;
    visitor.ranking("network", &mut policy.network, &keys.network)?;
    visitor.choice("run_as", &mut policy.run_as, &keys.run_as)?;
    visitor.choice("root_runs_as", &mut policy.root_runs_as, &keys.root_runs_as)?;
    visitor.grants("host_paths", &mut policy.host_paths, &keys.host_paths)?;
    visitor.choice("fresh", &mut policy.fresh, &keys.fresh)?;
    let (rules, said) = (&mut policy.limits, &keys.limits);
    visitor.bound(bound_keys!("limits.memory"), &mut rules.memory_bytes, &said.memory)?;
    visitor.bound(bound_keys!("limits.cpus"), &mut rules.cpus_milli, &said.cpus)?;
    visitor.bound(bound_keys!("limits.pids"), &mut rules.pids, &said.pids)?;
    visitor.bound(bound_keys!("limits.time"), &mut rules.time, &said.time)?;
    let (rules, said) = (&mut policy.build, &keys.build);
    visitor.choice("build.allow", &mut rules.allow, &said.allow)?;
    visitor.grants("build.bases", &mut rules.bases, &said.bases)?;
    visitor.ranking("build.network", &mut rules.network, &said.network)?;
    visitor.choice("build.settings", &mut rules.settings, &said.settings)?;
    visitor.bound(bound_keys!("build.time"), &mut rules.time, &said.time)?;
    visitor.bound(bound_keys!("build.layer"), &mut rules.layer_bytes, &said.layer)?;
    let (rules, said) = (&mut policy.warm, &keys.warm);
    visitor.bound(bound_keys!("warm.idle"), &mut rules.idle, &said.idle)?;
    visitor.bound(bound_keys!("warm.containers"), &mut rules.containers, &said.containers)?;
    let (key, user) = (bound_keys!("warm.containers_per_user"), &mut rules.containers_per_user);
    visitor.bound(key, user, &said.containers_per_user)?;
    visitor.bound(bound_keys!("warm.memory"), &mut rules.memory_bytes, &said.memory)?;
    let (key, user) = (bound_keys!("warm.tasks_per_user"), &mut rules.tasks_per_user);
    visitor.bound(key, user, &said.tasks_per_user)?;
    let (key, user) = (bound_keys!("warm.bytes_per_user"), &mut rules.bytes_per_user);
    visitor.bound(key, user, &said.bytes_per_user)?;
    visitor.bound(bound_keys!("warm.drain"), &mut rules.drain, &said.drain)?;
    let (rules, said) = (&mut policy.results, &keys.results);
    visitor.bound(bound_keys!("results.keep"), &mut rules.keep, &said.keep)?;
    let (key, user) = (bound_keys!("results.tasks_per_user"), &mut rules.tasks_per_user);
    visitor.bound(key, user, &said.tasks_per_user)?;
    let (key, user) = (bound_keys!("results.bytes_per_user"), &mut rules.bytes_per_user);
    visitor.bound(key, user, &said.bytes_per_user)?;
    visitor.demands("require", &mut policy.require, &keys.require)
}

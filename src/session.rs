//! The straight line of one task in this process: policy, host, image, container, outcome.
//!
//! What the libraries' errors mean to a user is said in [`crate::blame`].

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ric_images::{
    Access, Asker, ConvertOptions, Converted, CredentialFiles, Existing, Form, Image, Imported,
    Limits, LocalDocker, Manifest, Mirror, Progress, Reference, Registries, Store, Target,
    Timeouts,
};
use ric_policies::{Authority, EngineName, Loaded, Policy, Ruled, SITE_FILE};
use ric_runtime::{
    BuildStep, Caller, Container, DockerHost, Host, Identities, Outcome, Plan, Signals, Streams,
    Task, Work, WorkAsk, admit, engine_of,
};

use crate::blame;
use crate::failure::Failure;
use crate::places;
use crate::progress::watched;
use crate::task::Descriptors;

/// What a task is decided and run with, besides itself.
#[derive(Debug)]
pub(crate) struct Session {
    policy: Policy,
    host: Host,
    store_root: PathBuf,
    /// `None` until something must be kept: a task that is refused leaves no store behind.
    store: Option<Store>,
    asker: Asker,
    /// What is fetched is told in JSON.
    tells_events: bool,
    registries: Registries,
    shifter_folders: Vec<PathBuf>,
    below: Vec<PathBuf>,
    credentials: CredentialFiles,
    docker: LocalDocker,
    /// What it says of itself, asked once.
    docker_host: OnceLock<DockerHost>,
    limits: Limits,
}

/// A decision, and the image it is about.
#[derive(Debug)]
pub(crate) struct Decision {
    pub plan: Plan,
    pub manifest: Manifest,
}

impl Session {
    /// What deciding needs. Leaves nothing on disk but what is known about the host.
    pub(crate) fn open(
        policy: Policy,
        caller: &Caller,
        named_store: Option<&Path>,
    ) -> Result<Self, Failure> {
        let store_root = find_store(named_store)?;
        let store =
            if places::is_store(&store_root) { Some(open_store(&store_root)?) } else { None };
        let mut host = read_host(caller, &policy)?;
        host.own_paths.push(store_root.clone());
        let (registries, credentials) = (registries(&policy), places::credentials());
        let asker = asker(caller);
        let folders =
            |listed: &[Ruled<PathBuf>]| listed.iter().map(|at| at.value.clone()).collect();
        let shifter_folders = folders(&policy.images.shifter);
        let below = folders(&policy.images.below);
        let (docker, limits) = (places::docker(), Limits::default());
        Ok(Self {
            policy,
            host,
            store_root,
            store,
            asker,
            tells_events: false,
            registries,
            shifter_folders,
            below,
            credentials,
            docker,
            docker_host: OnceLock::new(),
            limits,
        })
    }

    /// From now on, what is fetched to know what an image is is told as JSON.
    pub(crate) fn tell_events(&mut self) {
        self.tells_events = true;
    }

    /// Makes the store that running needs. `true`: it was not there, so that what was resolved is
    /// not kept in it.
    pub(crate) fn make_store(&mut self) -> Result<bool, Failure> {
        if self.store.is_some() {
            return Ok(false);
        }
        self.store = Some(open_store(&self.store_root)?);
        Ok(true)
    }

    /// Decides `task`. What policy does not admit reaches neither network nor disk.
    pub(crate) fn decide(&self, task: &Task) -> Result<Decision, Failure> {
        self.decide_on(task, &self.host_for(task))
    }

    /// The same, for a caller for whom the machine is another than for this process.
    pub(crate) fn decide_on(&self, task: &Task, host: &Host) -> Result<Decision, Failure> {
        let task = &Task { image: self.local(&task.image)?, ..task.clone() };
        let attempt = || format!("cannot plan a sandbox for image `{}`", task.image);
        let refused = |refusal| blame::refusal(attempt(), &refusal);
        let admitted = admit(task, &self.policy).map_err(refused)?;
        let manifest = self.resolve(&admitted.references, &asker(&task.caller))?;
        let plan = ric_runtime::plan(task, &manifest, &self.policy, host);
        Ok(Decision { plan: plan.map_err(refused)?, manifest })
    }

    /// What this machine can do for `task`. A daemon is asked only by who wants one.
    fn host_for(&self, task: &Task) -> Cow<'_, Host> {
        if engine_of(task, &self.policy) != Ok(EngineName::Docker) {
            return Cow::Borrowed(&self.host);
        }
        let docker = self.docker_host.get_or_init(|| ask_docker(&self.docker));
        Cow::Owned(Host { docker: Some(docker.clone()), ..self.host.clone() })
    }

    /// What `image` is now, if policy admits it; `verb` is what shall be done with it.
    pub(crate) fn look_up(
        &self,
        caller: &Caller,
        image: &Reference,
        verb: &str,
    ) -> Result<Manifest, Failure> {
        let local = self.local(image)?;
        let task = Task::new(caller.clone(), local, WorkAsk::Command(Vec::new()));
        let refused = |refusal| blame::refusal(format!("cannot {verb} image `{image}`"), &refusal);
        let admitted = admit(&task, &self.policy).map_err(refused)?;
        self.resolve(&admitted.references, &self.asker)
    }

    /// The first of `references` that there is; else why the first one is not. A registry that
    /// gives no answer is not passed over: the next one may hold another image of that name.
    fn resolve(&self, references: &[Reference], asker: &Asker) -> Result<Manifest, Failure> {
        let mut first_failure = None;
        // A SIF in a registry has to be fetched to know what it is.
        let progress = watched(self.tells_events);
        let access = self.access(asker, progress.as_ref());
        for reference in references {
            match ric_images::resolve(reference, &access) {
                Ok(manifest) => return Ok(manifest),
                Err(error) if blame::is_not_there(&error) => {
                    first_failure.get_or_insert_with(|| blame::resolve(&error));
                }
                Err(error) => return Err(blame::resolve(&error)),
            }
        }
        Err(first_failure.expect("policy admits at least one reference or refuses"))
    }

    /// Makes the root of a decision exist on disk, for whom it was decided: a daemon's callers are
    /// others than this process.
    pub(crate) fn ensure_root(
        &self,
        decision: &Decision,
        progress: &dyn Progress,
    ) -> Result<Image, Failure> {
        let sandbox = &decision.plan.sandbox;
        self.ensure(&asker(&sandbox.caller), &decision.manifest, sandbox.form, progress)
    }

    /// Makes the layers of an image that was looked up exist on disk.
    pub(crate) fn ensure_layers(
        &self,
        manifest: &Manifest,
        progress: &dyn Progress,
    ) -> Result<Image, Failure> {
        self.ensure(&self.asker, manifest, Form::Layers, progress)
    }

    fn ensure(
        &self,
        asker: &Asker,
        manifest: &Manifest,
        form: Form,
        progress: &dyn Progress,
    ) -> Result<Image, Failure> {
        let access = self.access(asker, progress);
        ric_images::ensure(manifest, form, &access).map_err(|error| blame::pull(&error))
    }

    /// Writes an image that was looked up to `target`.
    pub(crate) fn convert(
        &self,
        manifest: &Manifest,
        target: &Target,
        options: ConvertOptions,
        progress: &dyn Progress,
    ) -> Result<Converted, Failure> {
        let access = self.access(&self.asker, progress);
        ric_images::convert(manifest, target, options, &access)
            .map_err(|error| blame::convert(&manifest.reference, target, &error))
    }

    /// Writes images of the store, with their names, into one archive.
    pub(crate) fn export(
        &self,
        images: &[(Manifest, Vec<String>)],
        target: &Target,
        path: &Path,
        existing: Existing,
    ) -> Result<Converted, Failure> {
        let access = self.access(&self.asker, &ric_images::Silent);
        ric_images::export(images, path, existing, &access)
            .map_err(|error| blame::convert("images of the store", target, &error))
    }

    /// Brings the images of an archive into the store.
    pub(crate) fn import(
        &self,
        path: &Path,
        name: Option<&Reference>,
        progress: &dyn Progress,
    ) -> Result<Vec<Imported>, Failure> {
        let access = self.access(&self.asker, progress);
        ric_images::import(path, name, &access).map_err(|error| blame::import(&error))
    }

    /// Starts the sandbox of a decision.
    pub(crate) fn start(
        &self,
        decision: &Decision,
        image: &Image,
        descriptors: &Descriptors,
    ) -> Result<Container, Failure> {
        let store = self.store.as_ref().expect("`make_store` was called before");
        Container::start(&decision.plan.sandbox, image, store, descriptors)
            .map_err(|error| blame::start(&decision.manifest.reference, &error))
    }

    /// What this machine can do for this process.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The policy that holds.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// From now on registries are shown no credentials: those of this process are not those of whom
    /// it works for.
    pub(crate) fn forget_credentials(&mut self) {
        self.credentials = CredentialFiles::default();
    }

    /// The store, which [`make_store`](Self::make_store) has made.
    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("`make_store` was called before")
    }

    /// What this machine runs, in Go's words.
    pub(crate) fn architecture(&self) -> &str {
        &self.host.architecture
    }

    /// How large what a build step leaves may be.
    pub(crate) fn build_limits(&self) -> Limits {
        let most = self.policy.build.layer_bytes.default.as_ref().map(|rule| rule.value);
        let most = most.unwrap_or(u64::MAX).min(self.limits.unpacked_bytes_max);
        Limits { unpacked_bytes_max: most, ..self.limits.clone() }
    }

    /// Whether an image of this name may be built here.
    pub(crate) fn admit_built(&self, caller: &Caller, name: &Reference) -> Result<(), Failure> {
        let task = Task::new(caller.clone(), name.clone(), WorkAsk::Command(Vec::new()));
        let refused = |refusal| blame::refusal(format!("cannot build {name}"), &refusal);
        ric_runtime::admit_built(&task, &self.policy).map_err(refused)
    }

    /// What the image to build upon is now, if policy admits it.
    pub(crate) fn look_up_base(
        &self,
        caller: &Caller,
        image: &Reference,
    ) -> Result<Manifest, Failure> {
        let image = self.local(image)?;
        let task = Task::new(caller.clone(), image.clone(), WorkAsk::Command(Vec::new()));
        let refused = |refusal| blame::refusal(format!("cannot build upon `{image}`"), &refusal);
        let admitted = ric_runtime::admit_base(&task, &self.policy).map_err(refused)?;
        self.resolve(&admitted.references, &self.asker)
    }

    /// Decides one step of a build.
    pub(crate) fn plan_step(
        &self,
        task: &Task,
        step: &BuildStep,
        manifest: &Manifest,
    ) -> Result<Plan, Failure> {
        ric_runtime::plan_build(task, step, manifest, &self.policy, &self.host)
            .map_err(|refusal| blame::refusal("cannot run the step".to_owned(), &refusal))
    }

    /// The ids of build steps.
    pub(crate) fn build_identities(&self, caller: &Caller) -> Result<Identities, Failure> {
        ric_runtime::build_identities(caller, &self.host)
            .map_err(|refusal| blame::refusal("cannot build".to_owned(), &refusal))
    }

    /// What a name without a registry means, if an image of that name was built here.
    pub(crate) fn local(&self, image: &Reference) -> Result<Reference, Failure> {
        let (Reference::ShortName { digest: None, .. }, Some(store)) = (image, &self.store) else {
            return Ok(image.clone());
        };
        let Ok(local) = format!("localhost/{image}").parse::<Reference>() else {
            return Ok(image.clone());
        };
        let is_there = store.tagged(&local.to_string());
        let is_there = is_there.map_err(|error| blame::store(store.root(), &error))?.is_some();
        Ok(if is_there { local } else { image.clone() })
    }

    fn access<'a>(&'a self, asker: &'a Asker, progress: &'a dyn Progress) -> Access<'a> {
        Access {
            store: self.store.as_ref(),
            asker,
            registries: &self.registries,
            shifter_folders: &self.shifter_folders,
            below: &self.below,
            credentials: &self.credentials,
            docker: &self.docker,
            host_fingerprint: &self.host.host_fingerprint,
            limits: &self.limits,
            timeouts: Timeouts::default(),
            progress,
        }
    }
}

/// Who asks, as far as images are concerned.
fn asker(caller: &Caller) -> Asker {
    Asker { uid: caller.uid, gids: [&[caller.gid][..], &caller.groups].concat() }
}

/// How policy and environment want registries to be reached.
fn registries(policy: &Policy) -> Registries {
    let ric_policies::Registries { short_names: _, insecure, mirrors, authorities, offline } =
        &policy.registries;
    let mirror = |rule: &Ruled<ric_policies::Mirror>| Mirror {
        registry: rule.value.registry.clone(),
        at: rule.value.at.clone(),
    };
    Registries {
        plain_hosts: insecure.iter().map(|host| host.value.clone()).collect(),
        mirrors: mirrors.iter().map(mirror).collect(),
        authorities: authorities.iter().map(|file| file.value.clone()).collect(),
        proxies: places::proxies(),
        offline: offline.value,
    }
}

/// Runs the work of a decision in its container, and ends it.
pub(crate) fn run(
    container: Container,
    work: &Work,
    streams: Streams<'_>,
    signals: Signals<'_>,
    descriptors: &Descriptors,
    outputs: &[File],
) -> Result<Outcome, Failure> {
    container
        .run_last(work, streams, Some(signals), descriptors, outputs)
        .map_err(|error| blame::run(&error))
}

/// The policy that holds, narrowed by the files that were named.
pub(crate) fn load_policy(named: &[PathBuf]) -> Result<Policy, Failure> {
    load_policy_with_notes(named).map(|loaded| loaded.policy)
}

/// The same, with what the named files say without effect.
///
/// Root's `--policy` narrows as everyone's does: who may replace the site's file can edit it, and a
/// flag that loosens for one user what it tightens for all others would be misread.
pub(crate) fn load_policy_with_notes(named: &[PathBuf]) -> Result<Loaded, Failure> {
    Policy::load(Path::new(SITE_FILE), named, Authority::Narrow)
        .map_err(|error| blame::policy(&error))
}

/// What this machine can do for `caller`, as found out before where that still holds.
pub(crate) fn read_host(caller: &Caller, policy: &Policy) -> Result<Host, Failure> {
    let host_paths: Vec<PathBuf> = policy.host_paths.iter().map(|p| p.value.clone()).collect();
    let trial = |kinds: &[ric_runtime::TrialKind]| ric_runtime::trial(caller, kinds);
    match ric_runtime::HostCache::open(caller.uid) {
        Some(cache) => cache.host(caller, &host_paths, &trial),
        None => ric_runtime::probe_host(caller, &host_paths, &trial),
    }
    .map_err(|error| blame::probe(&error))
}

/// The same, found out anew and kept, and what a daemon says if policy lets one start containers.
pub(crate) fn probe_host(caller: &Caller, policy: &Policy) -> Result<Host, Failure> {
    if let Some(cache) = ric_runtime::HostCache::open(caller.uid) {
        cache.clear();
    }
    let mut host = read_host(caller, policy)?;
    if policy.engines.value.contains(&EngineName::Docker) {
        host.docker = Some(ask_docker(&places::docker()));
    }
    Ok(host)
}

/// What a Docker or Podman of this machine says of itself.
fn ask_docker(docker: &LocalDocker) -> DockerHost {
    match docker.find() {
        Ok(socket) => ric_runtime::probe_docker(&socket),
        Err(error) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map_or(String::new(), |cause| format!(": {cause}"));
            ric_runtime::no_docker(Path::new(""), format!("{error}{cause}"))
        }
    }
}

/// Where the store is, or will be.
pub(crate) fn find_store(named: Option<&Path>) -> Result<PathBuf, Failure> {
    places::store_root(named).map_err(|error| blame::store_place(&error))
}

/// The store at `root`, made if it is not there.
pub(crate) fn open_store(root: &Path) -> Result<Store, Failure> {
    Store::open(root).map_err(|error| blame::store(root, &error))
}

//! `images build`: carries a recipe out, each command of it in a sandbox.

mod asked;
pub(crate) mod changes;
mod mounts;
pub(crate) mod output;
mod owned;
mod secrets;
mod shown;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use ric_images::{
    Act, AddError, Below, BuildError, BuildRoom, CopyError, CopyFiles, CopySource, Digest, Draft,
    Event, Image, Manifest, Network, Origin, Pack, PrepareError, Reference, Run, Scratch, Store,
    Terms, Workshop,
};
use ric_runtime::{
    Actor, BuildStep, Caller, Container, IdMap, Identities, Outcome, Plan, Signals, Status,
    StepSettings, Stream, Streams, Task, UserNamespace, WorkAsk,
};
use serde_json::json;

use self::asked::Asked;
use self::mounts::Mounted;
use self::output::{Output, Telling};
use self::owned::OwnedTrees;
use self::secrets::Secrets;
use self::shown::{Shown, ShownFiles};
use crate::args::BuildArgs;
use crate::failure::Failure;
use crate::machine::MachineSettings;
use crate::progress::Bars;
use crate::session::{self, Session};
use crate::{Answer, blame, places, signals, task};

/// What a network, a mount and the machine's own devices put into every root, and what of it
/// belongs to no layer.
const NEVER_KEPT: [&str; 7] =
    ["dev", "proc", "sys", "run-in-container", "etc/resolv.conf", "etc/hosts", "etc/hostname"];

pub(crate) fn build(args: BuildArgs) -> Result<Answer, Failure> {
    let telling = if args.json { Telling::Json } else { Telling::Text };
    let policy = session::load_policy(&args.policy)?;
    let caller = task::read_caller()?;
    let mut session = Session::open(policy, &caller, args.store.as_deref())?;
    let reference = args.tag.clone();
    session.admit_built(&caller, &reference)?;
    let Asked { recipe, context } = asked::read(&args, session.architecture())?;
    let secrets = Secrets::read(&args.secret)?;
    recipe.notes().iter().for_each(|note| telling.note(note));
    session.make_store()?;
    clear_left_rooms(&session, &caller)?;
    let limits = session.build_limits();
    let shop = Shop::open(&session, caller, telling, reference, context);
    let mut shop = Shop { secrets, ..shop };
    let terms = Terms { store: session.store(), limits: &limits, cache: !args.no_cache };
    let built = ric_images::build(recipe.as_ref(), terms, &mut shop);
    let reference = shop.reference.to_string();
    let (draft, _lease) =
        built.map_err(|error| failed(error, session.store(), &reference, args.store.as_deref()))?;
    let manifest = draft.store(session.store(), &reference);
    let manifest = manifest.map_err(|error| blame::store(session.store().root(), &error))?;
    let digest = manifest.identity.to_string();
    if args.json {
        let event = json!({"event": "image", "reference": reference, "digest": digest});
        return Ok(Answer::json(&event, 0));
    }
    Ok(Answer::text(format!("{digest}  {reference}\n")))
}

/// What earlier builds left that were killed, and that only their user namespace may remove.
pub(crate) fn clear_left_rooms(session: &Session, caller: &Caller) -> Result<(), Failure> {
    let store = session.store();
    let left = store.left_rooms().map_err(|error| blame::store(store.root(), &error))?;
    if left.is_empty() {
        return Ok(());
    }
    let Ok(identities) = session.build_identities(caller) else { return Ok(()) };
    let namespace = UserNamespace::start(&identities).map_err(|error| blame::namespace(&error))?;
    for room in left {
        // Another build may be at the same; what stays is tried again by the next.
        let _ = changes::remove(&room, namespace.as_ref());
    }
    // What is empty now, anybody may sweep.
    store.left_rooms().map(drop).map_err(|error| blame::store(store.root(), &error))
}

/// What a failed build means to its user, and a shell where it failed.
pub(crate) fn failed(
    error: BuildError<Failure>,
    store: &Store,
    reference: &str,
    named_store: Option<&Path>,
) -> Failure {
    let failure = Failure::new(Actor::User, format!("cannot build {reference}"));
    match error {
        BuildError::Base { ref cause, .. } => within(failure.cause(error.to_string()), cause),
        BuildError::Step { below, file, line, text, source } => {
            let failure = failure.cause(format!("{file}:{line}: `{text}` failed"));
            let failure = match source.as_ref() {
                AddError::Made { cause } => within(failure, cause),
                AddError::Prepare { source: PrepareError::NoSecret { id } } => failure
                    .because(source.as_ref())
                    .hint(format!("give it: --secret id={id},src=FILE")),
                AddError::Prepare { .. }
                | AddError::TooLarge { .. }
                | AddError::Kept { .. }
                | AddError::Store { .. } => failure.because(source.as_ref()),
            };
            let is_theirs =
                matches!(source.as_ref(), AddError::Made { cause } if !cause.is_cancelled());
            let name = Some(&below).filter(|below| is_theirs && !below.layers.is_empty());
            match name.and_then(|below| keep_for_a_look(below, store, reference)) {
                Some(name) if failure.hint.is_none() => {
                    let store = named_store.map(|path| format!(" --store {}", shell_word(path)));
                    failure.hint(format!(
                        "look around where it failed: \
                         run-in-container run -t{} --image {name} -- /bin/sh",
                        store.unwrap_or_default()
                    ))
                }
                Some(_) | None => failure,
            }
        }
        BuildError::Recipe { .. } | BuildError::Store { .. } => failure.because(&error),
    }
}

/// A path as one word of a shell.
fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// `outer`, for what `inner` says.
fn within(outer: Failure, inner: &Failure) -> Failure {
    let mut causes = outer.causes;
    causes.push(inner.attempt.clone());
    causes.extend(inner.causes.iter().cloned());
    Failure { attempt: outer.attempt, causes, ..inner.clone() }
}

/// Names what the failed step stood on; `None` if the store does not take it, which is not what
/// the user wants to read about now.
fn keep_for_a_look(below: &Draft, store: &Store, reference: &str) -> Option<String> {
    let name = reference.strip_prefix("docker://").unwrap_or(reference);
    let (name, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
    let name = format!("{name}-failed:{tag}");
    below.store(store, &format!("docker://{name}")).ok()?;
    Some(name)
}

/// Does what a build needs done.
pub(crate) struct Shop<'a> {
    session: &'a Session,
    caller: Caller,
    telling: Telling,
    /// What the image will be called.
    reference: Reference,
    /// What files are copied from.
    context: CopySource,
    /// Images that files are copied from, by name; they stay as long as the build.
    images: BTreeMap<String, Image>,
    /// What steps may be given that nobody else may know.
    secrets: Secrets,
    /// How this machine reaches packages.
    settings: MachineSettings,
    /// From the first step of an ordinary user's on, whom files belong to.
    owned: Option<OwnedTrees<'a>>,
    /// From the first step on, signals are the steps'.
    signals: Option<(signals::Wakeup, signals::Queue)>,
}

impl Workshop for Shop<'_> {
    type Error = Failure;

    fn base(&mut self, reference: &Reference) -> Result<(Manifest, Image), Failure> {
        let reference = task::absolute(reference.clone())?;
        let manifest = self.session.look_up_base(&self.caller, &reference)?;
        let image = self.session.ensure_layers(&manifest, &Bars::default())?;
        Ok((manifest, image))
    }

    fn run(&mut self, run: &Run, below: &Below<'_>, tar: &mut dyn Write) -> Result<(), Failure> {
        self.step(run, below, Some(tar))
    }

    fn test(&mut self, run: &Run, below: &Below<'_>) -> Result<(), Failure> {
        self.step(run, below, None)
    }

    fn files(
        &mut self,
        act: &Act,
        below: &Below<'_>,
        stages: &dyn Fn(usize) -> Option<Image>,
        tar: &mut dyn Write,
    ) -> Result<Option<Digest>, Failure> {
        let layers = &below.image.layers;
        match act {
            Act::Write(entries) => {
                let written = ric_images::write_entries(entries, layers, tar);
                written.map(|()| None).map_err(|error| {
                    Failure::new(Actor::User, "cannot make the step's files").because(&error)
                })
            }
            Act::Copy(copy) => {
                let from = self.source(copy, stages)?;
                let from = from.as_ref().unwrap_or(&self.context);
                let store = self.session.store();
                let room =
                    store.build_room().map_err(|error| blame::store(store.root(), &error))?;
                let limits = self.session.build_limits();
                let scratch = Scratch { directory: room.path(), limits: &limits };
                let written = ric_images::write_copies(copy, from, layers, scratch, tar);
                written.map(Some).map_err(|error| not_copied(&error))
            }
            Act::Run(_) | Act::Test(_) => {
                unreachable!("a command is run, and makes no files by itself")
            }
        }
    }

    fn digest(
        &mut self,
        copy: &CopyFiles,
        below: &Below<'_>,
        stages: &dyn Fn(usize) -> Option<Image>,
    ) -> Result<Digest, Failure> {
        let from = self.source(copy, stages)?;
        let from = from.as_ref().unwrap_or(&self.context);
        ric_images::digest_copies(copy, from, &below.image.layers)
            .map_err(|error| not_copied(&error))
    }

    fn has_secret(&self, id: &str) -> bool {
        self.secrets.get(id).is_some()
    }

    fn hear(&mut self, event: &Event<'_>) {
        self.telling.event(event);
    }
}

impl<'a> Shop<'a> {
    /// A shop in which an image called `reference` is made. What the machine says and cannot be had
    /// is told.
    pub(crate) fn open(
        session: &'a Session,
        caller: Caller,
        telling: Telling,
        reference: Reference,
        context: CopySource,
    ) -> Shop<'a> {
        let settings = places::machine_settings();
        settings.notes.iter().for_each(|note| telling.note(note));
        let (images, secrets) = (BTreeMap::new(), Secrets::default());
        let (owned, signals) = (None, None);
        Shop {
            session,
            caller,
            telling,
            reference,
            context,
            images,
            secrets,
            settings,
            owned,
            signals,
        }
    }

    /// Runs a command; what it changes goes to `tar`, or nowhere.
    fn step(
        &mut self,
        run: &Run,
        below: &Below<'_>,
        tar: Option<&mut dyn Write>,
    ) -> Result<(), Failure> {
        let store = self.session.store();
        let room = store.build_room().map_err(|error| blame::store(store.root(), &error))?;
        let unwritten = |error: io::Error| {
            Failure::new(Actor::Host, "cannot write the files of the step").because(&error)
        };
        let mut shown = Shown::new(&room);
        let files = shown.add(&run.files).map_err(unwritten)?;
        let mut mounted = Mounted::take(run, &self.secrets, store, &room, self.caller.uid)?;
        shown.descriptors.append(&mut mounted.descriptors);
        let settings = shown.add_settings(&self.settings, &below.image);
        let settings = settings.map_err(unwritten)?;
        let plan = self.plan(run, files, &mut mounted, settings, below)?;
        let descriptors = shown.descriptors;
        self.note_single_id(plan.sandbox.identities.user_namespace.as_ref());
        // Root's changes are on disk with the ids that they have inside.
        let namespace = match self.caller.uid {
            0 => None,
            _ => UserNamespace::start(&plan.sandbox.identities)
                .map_err(|error| blame::namespace(&error))?,
        };
        let map = plan.sandbox.identities.user_namespace.as_ref();
        mounted.set_owners(map, namespace.as_ref())?;
        let image = self.with_owners(&below.image, &plan.sandbox.identities)?;
        let container = Container::start_build(&room, &plan.sandbox, &image, store, &descriptors)
            .map_err(|error| blame::start("the build step", &error));
        mounted.forget_names();
        let done = container.and_then(|container| {
            self.finish(container, &plan, &room, namespace.as_ref(), run, tar)
        });
        let removed = changes::remove(room.path(), namespace.as_ref());
        done?;
        removed.map_err(|error| {
            Failure::new(Actor::Host, "cannot remove what the step changed").because(&error)
        })
    }

    /// `image` as whom it belongs to: root's is as it is, and so is one without others.
    fn with_owners(&mut self, image: &Image, identities: &Identities) -> Result<Image, Failure> {
        if self.caller.uid == 0 || is_alone(identities.user_namespace.as_ref()) {
            return Ok(image.clone());
        }
        if self.owned.is_none() {
            self.owned = OwnedTrees::new(self.session.store(), identities)?;
        }
        match &mut self.owned {
            Some(owned) => owned.above(image, identities),
            None => Ok(image.clone()),
        }
    }

    /// Where files are copied from; `None` for the directory that is built from.
    fn source(
        &mut self,
        copy: &CopyFiles,
        stages: &dyn Fn(usize) -> Option<Image>,
    ) -> Result<Option<CopySource>, Failure> {
        let (name, image) = match &copy.from {
            Origin::Context => return Ok(None),
            Origin::Stage(number) => {
                let image = stages(*number).expect("a stage takes files from stages before it");
                (format!("stage {number}"), image)
            }
            Origin::Image(reference) => {
                let name = reference.to_string();
                let image = match self.images.get(&name) {
                    Some(image) => image.clone(),
                    None => self.base(reference)?.1,
                };
                self.images.insert(name.clone(), image.clone());
                (name, image)
            }
        };
        CopySource::image(&name, &image.layers).map(Some).map_err(|error| not_copied(&error))
    }

    fn plan(
        &self,
        run: &Run,
        files: ShownFiles,
        mounted: &mut Mounted<'_>,
        settings: StepSettings,
        below: &Below<'_>,
    ) -> Result<Plan, Failure> {
        let manifest = Manifest {
            identity: below.image.identity.clone(),
            reference: below.base.map_or_else(|| self.reference.to_string(), str::to_owned),
            config: below.draft.config.clone(),
            layers: below.draft.layers.clone(),
            of_root: false,
        };
        let command = WorkAsk::Command(run.command.clone());
        let mut task = Task::new(self.caller.clone(), self.reference.clone(), command);
        task.workdir = Some(run.workdir.clone().into());
        let variables = run.variables.iter().chain(&run.machine.0).chain(&mounted.variables);
        task.variables = variables.cloned().collect();
        task.network = match run.network {
            Network::Granted => None,
            Network::Loopback => Some(ric_policies::Network::Loopback),
        };
        let (user, groups) = (run.user.clone(), run.groups.clone());
        let base = below.base.map(str::to_owned);
        let mounts = std::mem::take(&mut mounted.mounts);
        let read_only = std::mem::take(&mut mounted.read_only);
        let step = BuildStep { user, groups, base, files, mounts, read_only, settings };
        self.session.plan_step(&task, &step, &manifest)
    }

    /// Says once what a step without subordinate ids will not be able to do.
    fn note_single_id(&mut self, map: Option<&IdMap>) {
        if is_alone(map) && self.signals.is_none() {
            self.telling.note(
                "you have no subordinate ids, so steps have no user but root, and package managers \
                 that change to another fail; `run-in-container doctor` tells how to get some",
            );
        }
    }

    /// Runs the step, and writes what it has changed where that is wanted.
    fn finish(
        &mut self,
        container: Container,
        plan: &Plan,
        room: &BuildRoom<'_>,
        namespace: Option<&UserNamespace>,
        run: &Run,
        tar: Option<&mut dyn Write>,
    ) -> Result<(), Failure> {
        let (outcome, said) = self.attend(container, plan)?;
        refuse_failed(&outcome, &said)?;
        let Some(tar) = tar else { return Ok(()) };
        let left_out = run.left_out.iter().map(|path| path.trim_start_matches('/').as_bytes());
        let never = NEVER_KEPT.map(str::as_bytes);
        let how = Pack {
            is_image: false,
            mtime_max: run.latest_mtime_s,
            left_out: never.into_iter().chain(left_out).map(<[u8]>::to_vec).collect(),
        };
        changes::pack(&room.upper(), &how, namespace, tar).map_err(|error| {
            Failure::new(Actor::Host, "cannot read what the step changed").because(&error)
        })
    }

    /// Runs the step to its end: how it ended, and the end of what it printed.
    fn attend(&mut self, container: Container, plan: &Plan) -> Result<(Outcome, String), Failure> {
        let host = |what: &str, error: &io::Error| Failure::new(Actor::Host, what).because(error);
        if self.signals.is_none() {
            let watched = signals::watch();
            self.signals = Some(watched.map_err(|error| host("cannot watch for signals", &error))?);
        }
        let (wakeup, queue) = self.signals.as_mut().expect("it was set above");
        let output = Output::open(self.telling)
            .map_err(|error| host("cannot open a pipe for the step's output", &error))?;
        let both = Stream::Inherit(output.as_fd());
        let streams = Streams { stdin: Stream::Null, stdout: both, stderr: both, terminal: None };
        let signals = Signals { fd: wakeup.as_fd(), next: &mut || queue.take() };
        let outputs: [File; 0] = [];
        let outcome = session::run(container, &plan.work, streams, signals, &Vec::new(), &outputs);
        let said = output.end();
        Ok((outcome?, said))
    }
}

/// Whether a step has one id, and no others to be.
fn is_alone(map: Option<&IdMap>) -> bool {
    map.is_some_and(|map| map.uids.iter().all(|(_, _, count)| *count == 1))
}

fn not_copied(error: &CopyError) -> Failure {
    Failure::new(Actor::User, "cannot copy files").because(error)
}

fn refuse_failed(outcome: &Outcome, said: &str) -> Result<(), Failure> {
    let ended = match outcome.status {
        Status::Ok => return Ok(()),
        Status::Failed => format!("it ended with exit code {}", outcome.exit_code),
        Status::Refused
        | Status::Timeout
        | Status::OutOfMemory
        | Status::Killed
        | Status::Cancelled
        | Status::Corrupt
        | Status::Lost
        | Status::Busy
        | Status::Error => outcome.error.clone().unwrap_or_else(|| {
            format!("it was ended ({:?}, exit code {})", outcome.status, outcome.exit_code)
        }),
    };
    let failure = Failure::new(Actor::User, ended);
    let status =
        if outcome.status == Status::Cancelled { Status::Cancelled } else { Status::Error };
    let failure = Failure { status, exit_code: crate::run::exit_code(outcome), ..failure };
    Err(match said.trim() {
        "" => failure,
        said => failure.cause(format!("its output ended with:\n{said}")),
    })
}

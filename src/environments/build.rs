//! Builds the image of an environment with packages: resolved where its lock does not say what they
//! come to, installed as the lock says.
//!
//! Steps are those of any build, in the same sandboxes and under the same rules of policy.

use std::io::{self, Write};
use std::path::Path;

use ric_images::{
    Act, Below, CopyFiles, CopySource, Digest, Draft, Environment, Event, Identity, Image, Lease,
    Lock, Locked, LockedPackage, Manifest, PackageStep, Packages, Reference, Run, Terms, Workshop,
};
use ric_policies::Network;
use ric_runtime::{Actor, Rule};

use super::lock;
use super::packages::{Asked, name_packages, refuse_conda};
use crate::failure::Failure;
use crate::images::build::output::Telling;
use crate::images::build::{Shop, clear_left_rooms, failed};
use crate::session::Session;
use crate::{blame, task};

/// Bytes of what a step that resolves leaves: a report, a line for each package.
const REPORT_BYTES_MAX: usize = 4 << 20;

/// How much a lock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locking {
    /// It is followed if it is that of what the environment says, else made anew.
    Follow,
    /// It is followed, or nothing is built.
    Only,
    /// It is made anew.
    Anew,
}

/// An environment that was built.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) reference: Reference,
    pub(crate) manifest: Manifest,
}

/// Builds an environment with packages, and writes its lock if that has become another.
pub(crate) fn build(
    asked: &Asked<'_>,
    locking: Locking,
    telling: Telling,
) -> Result<Built, Failure> {
    let Asked { environment, file, policy, store } = *asked;
    refuse_conda(environment, file)?;
    let old = if locking == Locking::Anew { None } else { lock::read(file)? };
    let caller = task::read_caller()?;
    let mut session = Session::open(policy.clone(), &caller, store)?;
    let name = Lock::unresolved(environment);
    session.admit_built(&caller, &name)?;
    session.make_store()?;
    clear_left_rooms(&session, &caller)?;
    let nothing = CopySource::image("nothing", &[]).map_err(|error| {
        Failure::new(Actor::Us, "cannot copy from an image without layers").because(&error)
    })?;
    let mut shop = Shop::open(&session, caller, telling, name, nothing);
    let (base, old) = base(asked, old, &mut shop)?;
    let why = base.why_stale(old.as_ref(), environment, file);
    if let Some(why) = &why {
        if locking == Locking::Only {
            let attempt =
                format!("cannot build the environment `{}` from its lock", environment.name);
            return Err(Failure::new(Actor::User, attempt)
                .cause(why.clone())
                .hint("without `--locked` its packages are resolved anew"));
        }
        lock::require_writable(&environment.name, file)?;
        telling.note(&format!("resolving the packages of `{}`: {why}", environment.name));
    }
    let mut bench = Bench { asked, shop, base, report: Vec::new() };
    let lock = match (old, &why) {
        (Some(lock), None) => lock,
        (old, _) => bench.resolve(&session, old)?,
    };
    let (draft, _lease) = bench.build(&session, Packages::locked(&lock))?;
    let reference = lock.built(environment);
    let manifest = draft.store(session.store(), &reference.to_string());
    let manifest = manifest.map_err(|error| blame::store(session.store().root(), &error))?;
    // Only now: a lock that nothing can be built from would be followed again and again.
    if why.is_some() {
        lock::write(&lock, &environment.name, file)?;
    }
    Ok(Built { reference, manifest })
}

/// The image that packages are added to.
#[derive(Debug, Clone)]
struct BaseImage {
    /// As it was looked up.
    reference: Reference,
    manifest: Manifest,
    image: Image,
    digest: Digest,
}

/// Looks up the base image: the one that the lock has, as far as that is of any use.
fn base(
    asked: &Asked<'_>,
    old: Option<Lock>,
    shop: &mut Shop<'_>,
) -> Result<(BaseImage, Option<Lock>), Failure> {
    let environment = asked.environment;
    let folder = asked.file.parent().unwrap_or(Path::new("/"));
    let named = task::absolute_in(environment.image.clone(), folder)?;
    let of_use = old.as_ref().filter(|lock| lock.why_other_base(environment).is_none());
    let reference = of_use.map_or_else(|| named.clone(), |lock| lock.pinned(named.clone()));
    let (manifest, image) = shop.base(&reference).map_err(|failure| {
        let is_pinned = reference != named && failure.hint.is_none();
        match is_pinned {
            true => failure.hint(format!(
                "`environments build {} --upgrade` takes what {named} is now",
                environment.name
            )),
            false => failure,
        }
    })?;
    let Identity::Digest(digest) = manifest.identity else {
        return Err(Failure::new(Actor::User, format!("cannot add packages to {named}"))
            .cause("it is a directory of this machine, of which no layers can be kept")
            .hint("`images convert` makes an image of it"));
    };
    Ok((BaseImage { reference, manifest, image, digest }, old))
}

impl BaseImage {
    /// Why `lock` is not that of what the environment says, upon this image.
    fn why_stale(
        &self,
        lock: Option<&Lock>,
        environment: &Environment,
        file: &Path,
    ) -> Option<String> {
        let path = lock::path_of(file);
        let Some(lock) = lock else {
            return Some(match path.exists() {
                true => format!("{} is made anew", path.display()),
                false => format!("there is no {}", path.display()),
            });
        };
        let why = lock.why_stale(environment).or_else(|| {
            (lock.digest != self.digest)
                .then(|| format!("it is for another {} than there is now", environment.image))
        })?;
        Some(format!("{}: {why}", path.display()))
    }
}

/// A shop in which packages are added: its network is asked about first, and what steps that
/// resolve find out is kept.
struct Bench<'a, 's> {
    asked: &'a Asked<'a>,
    shop: Shop<'s>,
    base: BaseImage,
    /// The tar of what the last step that resolves has left.
    report: Vec<u8>,
}

impl Bench<'_, '_> {
    /// Finds out what the packages come to. Of `old` that counts which what was asked has not
    /// changed for.
    fn resolve(&mut self, session: &Session, old: Option<Lock>) -> Result<Lock, Failure> {
        let environment = self.asked.environment;
        let asked = |packages: &[ric_images::Package]| -> Vec<String> {
            packages.iter().map(|package| package.asked.clone()).collect()
        };
        let mut lock = Lock::of(environment, self.base.digest);
        let of_use = old.filter(|old| {
            old.why_other_base(environment).is_none() && old.digest == self.base.digest
        });
        let apt = asked(&environment.apt);
        lock.apt = match of_use.map(|old| old.apt).filter(|old| old.asked == apt) {
            Some(old) => old,
            None if apt.is_empty() => Locked::default(),
            None => {
                let packages = self.found(session, Vec::new(), PackageStep::ResolveApt)?;
                Locked { asked: apt, packages }
            }
        };
        let python = asked(&environment.python);
        if !python.is_empty() {
            let mut before = Packages::locked(&lock);
            before.retain(|step| matches!(step, PackageStep::Apt(_)));
            let packages = self.found(session, before, PackageStep::ResolvePython)?;
            lock.python = Locked { asked: python, packages };
        }
        Ok(lock)
    }

    /// What `resolving` finds out after the steps `before`.
    fn found(
        &mut self,
        session: &Session,
        before: Vec<PackageStep>,
        resolving: PackageStep,
    ) -> Result<Vec<LockedPackage>, Failure> {
        let steps = [before, vec![resolving.clone()]].concat();
        self.build(session, steps)?;
        Packages::read_report(&resolving, &self.report).ok_or_else(|| {
            let name = &self.asked.environment.name;
            Failure::new(Actor::User, format!("cannot lock the packages of `{name}`"))
                .cause("the step that resolves them has left no report, or one with other words")
        })
    }

    fn build(
        &mut self,
        session: &Session,
        steps: Vec<PackageStep>,
    ) -> Result<(Draft, Lease), Failure> {
        let Asked { environment, file, store, .. } = *self.asked;
        let limits = session.build_limits();
        let terms = Terms { store: session.store(), limits: &limits, cache: true };
        let base = self.base.reference.clone();
        let recipe = Packages::new(file.display().to_string(), environment, base, steps);
        let name = Lock::unresolved(environment).to_string();
        let built = ric_images::build(&recipe, terms, self);
        let (mut draft, lease) = built.map_err(|error| {
            name_packages(failed(error, session.store(), &name, store), environment, file)
        })?;
        // The name by which it was looked up is another on another machine; the image is not.
        for line in draft.history.iter_mut().take(self.base.manifest.layers.len()) {
            line.created_by = format!("FROM {}", environment.image);
        }
        Ok((draft, lease))
    }

    /// Packages are fetched; a site that gives builds no network need not wait for time-outs.
    fn require_network(&self) -> Result<(), Failure> {
        let rule = &self.asked.policy.build.network;
        if rule.value.first() == Some(&Network::Host) {
            return Ok(());
        }
        let place = Rule::at(self.asked.policy, "build", &rule.origin);
        Err(Failure::refused(Actor::Site, "cannot fetch packages")
            .cause(format!("{place} gives build steps no network"))
            .hint(
                "ask your site for `build: {network: [host]}`, or name an image that has the \
                 packages with `image:`",
            ))
    }
}

impl Workshop for Bench<'_, '_> {
    type Error = Failure;

    fn base(&mut self, _reference: &Reference) -> Result<(Manifest, Image), Failure> {
        Ok((self.base.manifest.clone(), self.base.image.clone()))
    }

    fn run(&mut self, run: &Run, below: &Below<'_>, tar: &mut dyn Write) -> Result<(), Failure> {
        self.require_network()?;
        self.shop.run(run, below, tar)
    }

    fn test(&mut self, run: &Run, below: &Below<'_>) -> Result<(), Failure> {
        self.require_network()?;
        let mut report = Bounded(Vec::new());
        self.shop.run(run, below, &mut report)?;
        self.report = report.0;
        Ok(())
    }

    fn files(
        &mut self,
        act: &Act,
        below: &Below<'_>,
        stages: &dyn Fn(usize) -> Option<Image>,
        tar: &mut dyn Write,
    ) -> Result<Option<Digest>, Failure> {
        self.shop.files(act, below, stages, tar)
    }

    fn digest(
        &mut self,
        copy: &CopyFiles,
        below: &Below<'_>,
        stages: &dyn Fn(usize) -> Option<Image>,
    ) -> Result<Digest, Failure> {
        self.shop.digest(copy, below, stages)
    }

    fn has_secret(&self, id: &str) -> bool {
        self.shop.has_secret(id)
    }

    fn hear(&mut self, event: &Event<'_>) {
        self.shop.hear(event);
    }
}

/// What is written, as long as it is not more than a report has.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > REPORT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

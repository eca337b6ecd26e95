//! Who must act on each error of the libraries, and what it means to the user who meets it.

use std::error::Error;
use std::io;
use std::path::Path;

use ric_images::{
    ConvertError, ImportError, PullError, RegistryError, ResolveError, SourceError, StoreError,
    StoredError, Target,
};
use ric_policies::{LoadError, SITE_FILE};
use ric_runtime::{Actor, ProbeError, Refusal, RunError, StartError};

use crate::failure::Failure;

/// A failure whose first line is what the error itself says.
fn say(must_act: Actor, error: &(dyn Error + 'static), hint: Option<String>) -> Failure {
    let failure = Failure::new(must_act, error.to_string());
    let failure = match error.source() {
        Some(cause) => failure.because(cause),
        None => failure,
    };
    Failure { hint, ..failure }
}

/// The policy cannot be loaded. Whoever wrote the file must mend it.
pub(crate) fn policy(error: &LoadError) -> Failure {
    let path = match error {
        LoadError::Read { path, .. }
        | LoadError::Untrusted { path, .. }
        | LoadError::Narrow { path, .. }
        | LoadError::NotRoot { path } => path,
        LoadError::Invalid { source } => &source.path,
    };
    let must_act = if path == Path::new(SITE_FILE) { Actor::Site } else { Actor::User };
    let failure = Failure::new(must_act, "cannot load the policy, so nothing runs");
    Failure { hint: error.hint(), ..failure.because(error) }
}

/// The task is not granted.
pub(crate) fn refusal(attempt: String, refusal: &Refusal) -> Failure {
    let failure = match refusal {
        // No policy can grant what means nothing: a mistake, as on the command line.
        Refusal::Malformed { .. } => Failure::new(refusal.must_act(), attempt),
        Refusal::Image { .. }
        | Refusal::Build { .. }
        | Refusal::ShortName { .. }
        | Refusal::Platform { .. }
        | Refusal::Engine { .. }
        | Refusal::EngineUnavailable { .. }
        | Refusal::Protection { .. }
        | Refusal::Limit { .. }
        | Refusal::Network { .. }
        | Refusal::Fresh { .. }
        | Refusal::Mount { .. }
        | Refusal::MountSource { .. }
        | Refusal::MountTarget { .. }
        | Refusal::User { .. }
        | Refusal::Interpreter { .. } => Failure::refused(refusal.must_act(), attempt),
    };
    failure.because(refusal).hint(refusal.hint())
}

/// The machine cannot be looked at.
pub(crate) fn probe(error: &ProbeError) -> Failure {
    say(Actor::Host, error, None)
}

/// The store's directory cannot be named.
pub(crate) fn store_place(error: &io::Error) -> Failure {
    Failure::new(Actor::User, "cannot find the current directory").because(error)
}

/// The store at `root` cannot be used.
pub(crate) fn store(root: &Path, error: &StoreError) -> Failure {
    let failure =
        Failure::new(store_actor(error), format!("cannot use the images in {}", root.display()));
    let elsewhere = || "`--store DIR` names another directory".to_owned();
    failure.because(error).hint(error.hint().unwrap_or_else(elsewhere))
}

fn store_actor(error: &StoreError) -> Actor {
    match error {
        StoreError::Root { .. }
        | StoreError::Format { .. }
        | StoreError::Disk { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Damaged { .. }
        | StoreError::InUse { .. } => Actor::User,
        StoreError::Content { .. } => Actor::Us,
    }
}

/// An image of the store at `root` cannot be read.
pub(crate) fn stored(root: &Path, error: &StoredError) -> Failure {
    let must_act = match error {
        StoredError::Incomplete { .. } | StoredError::Manifest { .. } => Actor::User,
        StoredError::Store { source, .. } => store_actor(source),
    };
    let attempt = format!("cannot use the images in {}", root.display());
    let hint = "pull it again, or look for damage with `run-in-container images verify`";
    Failure::new(must_act, attempt).because(error).hint(hint)
}

/// The image has no manifest that can be used.
pub(crate) fn resolve(error: &ResolveError) -> Failure {
    if let ResolveError::Source { source, .. } = error
        && is_offline(source)
    {
        return Failure::refused(Actor::Site, error.to_string())
            .because(source.as_ref())
            .hint(error.hint().unwrap_or_default());
    }
    let must_act = match error {
        ResolveError::ShortName { .. }
        | ResolveError::Directory { .. }
        | ResolveError::Source { .. }
        | ResolveError::Manifest { .. }
        | ResolveError::Blob { .. }
        | ResolveError::Platform { .. } => Actor::User,
        ResolveError::Store { source, .. } => store_actor(source),
    };
    say(must_act, error, error.hint())
}

/// Whether a registry said that it has no such image. Many say "log in" instead.
pub(crate) fn is_not_there(error: &ResolveError) -> bool {
    let ResolveError::Source { source, .. } = error else { return false };
    let SourceError::Registry { source, .. } = source.as_ref() else { return false };
    matches!(
        **source,
        RegistryError::NotFound { .. }
            | RegistryError::Unauthorized { .. }
            | RegistryError::Refused { .. }
    )
}

/// Whether the site does not want any registry to be asked.
fn is_offline(error: &SourceError) -> bool {
    let SourceError::Registry { source, .. } = error else { return false };
    matches!(**source, RegistryError::Offline)
}

/// The image's layers cannot be brought onto disk.
pub(crate) fn pull(error: &PullError) -> Failure {
    if let PullError::Open { source, .. } = error
        && is_offline(source)
    {
        return Failure::refused(Actor::Site, error.to_string())
            .because(source.as_ref())
            .hint(error.hint().unwrap_or_default());
    }
    let must_act = match error {
        PullError::Reference { .. }
        | PullError::Directory { .. }
        | PullError::Changed { .. }
        | PullError::Source { .. }
        | PullError::Open { .. }
        | PullError::Layer { .. } => Actor::User,
        PullError::Store { source, .. } => store_actor(source),
        PullError::NoStore { .. } => Actor::Us,
    };
    say(must_act, error, error.hint())
}

/// The image `reference` cannot be written to `target`.
pub(crate) fn convert(reference: &str, target: &Target, error: &ConvertError) -> Failure {
    // Whatever it is, the user names another image or place, or makes room.
    let attempt = format!("cannot convert {reference} to {target}");
    let failure = Failure::new(Actor::User, attempt).because(error);
    Failure { hint: error.hint(), ..failure }
}

/// What is in an archive cannot be brought into the store.
pub(crate) fn import(error: &ImportError) -> Failure {
    match error {
        ImportError::Image { source, .. } => resolve(source),
        ImportError::Layers { source, .. } => pull(source),
        ImportError::Store { source, .. } => say(store_actor(source), error, None),
        ImportError::Archive { .. } | ImportError::Unnamed { .. } | ImportError::Several { .. } => {
            say(Actor::User, error, error.hint())
        }
    }
}

/// The sandbox for `image` cannot be started.
pub(crate) fn start(image: &str, error: &StartError) -> Failure {
    let must_act = match error {
        StartError::MountPoint { .. } | StartError::Archive { .. } => Actor::User,
        StartError::Prepare { .. }
        | StartError::Daemon { .. }
        | StartError::Monitor { .. }
        | StartError::Step { .. }
        | StartError::NotApplied { .. }
        | StartError::Maps { .. } => Actor::Host,
        StartError::Describe { .. } | StartError::Differs { .. } | StartError::Died => Actor::Us,
    };
    let failure = Failure::new(must_act, format!("cannot start a sandbox for image `{image}`"));
    let failure = failure.because(error);
    match must_act {
        Actor::Host => failure.hint("`run-in-container doctor` shows what this machine can do"),
        Actor::User | Actor::Site | Actor::Us => failure,
    }
}

/// The user namespace that changes are handled in cannot be made.
pub(crate) fn namespace(error: &StartError) -> Failure {
    Failure::new(Actor::Host, "cannot make the user namespace of a build step").because(error)
}

/// The task cannot be attended to.
pub(crate) fn run(error: &RunError) -> Failure {
    let must_act = match error {
        RunError::Attend { .. } => Actor::Host,
        RunError::ZeroByte { .. } | RunError::TooManyInputs { .. } | RunError::Call { .. } => {
            Actor::User
        }
    };
    say(must_act, error, None)
}

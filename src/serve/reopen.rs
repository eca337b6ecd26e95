//! What a later life of the daemon opens again: an OPEN, who asked, and from where.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ric_runtime::{Actor, Caller, MountAsk, PathFacts, Status};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::answer::Ending;
use super::open::{self, Asker, OpenAsk, Opened};
use super::site::Site;
use crate::blame;
use crate::failure::Failure;
use crate::session::Session;
use crate::task;

/// What is kept of an OPEN.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reopening {
    /// Its metadata.
    ask: String,
    caller: Caller,
    /// `/proc/PID/cgroup` of the process that asked.
    cgroups: String,
    /// What its descriptors were.
    mounts: Vec<PathFacts>,
}

/// Why a later life cannot open it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unkept {
    /// A daemon opens files by name only for its own user, who could open them as well.
    Mounts,
    /// They are on no disk.
    Secrets,
}

impl Unkept {
    /// What whoever submits is told.
    pub(super) fn ending(self) -> Ending {
        let (text, hint) = match self {
            Unkept::Mounts => (
                "a task with mounts cannot be submitted here: their descriptors do not outlive the \
                 daemon, which opens no files for others by name",
                "submit it to a daemon of your own (`run-in-container serve`), or `call` it",
            ),
            Unkept::Secrets => (
                "a task with secrets cannot be submitted: they are kept on no disk",
                "`call` it, or have it read what it needs from a mount",
            ),
        };
        Ending::new(Status::Refused, text).hint(hint)
    }
}

impl Reopening {
    /// What is kept, as JSON.
    pub(super) fn keep(
        asker: &Asker,
        ask: String,
        mounts: &[MountAsk],
    ) -> Result<Arc<Vec<u8>>, Unkept> {
        if !asker.own && !mounts.is_empty() {
            return Err(Unkept::Mounts);
        }
        let mounts = mounts.iter().map(|mount| mount.source.clone()).collect();
        let (caller, cgroups) = (asker.caller.clone(), asker.cgroups.clone());
        let text = serde_json::to_vec(&Reopening { ask, caller, cgroups, mounts });
        Ok(Arc::new(text.expect("our values have text keys")))
    }

    /// Decides anew what `text` says, under the policy that holds now.
    pub(super) fn open(site: &Site, session: &Session, text: &[u8]) -> Result<Opened, Failure> {
        let Reopening { ask, caller, cgroups, mounts } =
            serde_json::from_slice(text).map_err(|error| {
                Failure::new(Actor::Us, "cannot read what was opened").because(&error)
            })?;
        if !ric_runtime::cgroups_are_there(&cgroups).map_err(|error| blame::probe(&error))? {
            let text = "cannot run the task in the cgroup from which it was submitted";
            let failure = Failure::new(Actor::User, text)
                .cause("it is gone: the job or the session has ended")
                .hint("submit it again, from where it shall run");
            return Err(Failure { status: Status::Cancelled, exit_code: 128 + 15, ..failure });
        }
        let asker = site.asker_in(session, caller, cgroups)?;
        let descriptors = mounts.iter().map(open_same).collect::<Result<Vec<_>, _>>()?;
        open::open(session, asker, OpenAsk::parse(ask.into_bytes())?, descriptors)
    }
}

/// Opens what a descriptor was of, if it is still the same.
fn open_same(facts: &PathFacts) -> Result<OwnedFd, Failure> {
    let attempt =
        || Failure::new(Actor::User, format!("cannot mount {} again", facts.real.display()));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&facts.real, flags, Mode::empty())
        .map_err(|errno| attempt().because(&std::io::Error::from(errno)))?;
    let now = task::read_facts(&facts.asked, &fd).map_err(|error| attempt().because(&error))?;
    if now != *facts {
        return Err(attempt()
            .cause("it is not what it was when the task was submitted")
            .hint("submit the task again"));
    }
    Ok(fd)
}

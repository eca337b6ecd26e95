//! A running sandbox: started here, whatever the engine; runs work; ends with its owner.

mod control;
mod ending;
mod docker;
mod files;
mod keeper;
mod mounted;
mod owner;
mod run;
mod start;
mod streams;
mod tools;
mod userns;
mod work;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use ric_images::Lease;
use ric_policies::Protection;

use self::keeper::Keeper;
use self::tools::Tools;
use crate::usage::UsageFiles;
use crate::{ContainerFacts, Enforced};

pub use control::{Event, Exited, Leftover, NotStarted, Residue, Worker};
pub use ending::Ending;
pub(crate) use ending::{Results, answered};
pub use run::{RunError, Signals};
pub use start::{StartError, enforced};
pub use streams::{Stream, Streams, Terminal};
pub use userns::UserNamespace;

/// A running sandbox. Dropping it ends everything in it and waits until nothing of it is left.
#[derive(Debug)]
pub struct Container {
    facts: ContainerFacts,
    enforced: BTreeMap<Protection, Enforced>,
    usage: UsageFiles,
    tools: Tools,
    /// To init.
    control: OwnedFd,
    /// Waits until nothing is left, when it is dropped.
    keeper: Keeper,
    /// Dropped last: until nothing is left, the image must stay in the store.
    _lease: Lease,
}

impl Container {
    /// Where this is, for an [`Outcome`](crate::Outcome).
    pub fn facts(&self) -> &ContainerFacts {
        &self.facts
    }

    /// Names the next task in frames; a container of one task needs no more than its own name.
    fn task_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        let name = self.facts.id.as_bytes();
        let tail = &name[name.len().saturating_sub(16)..];
        id[..tail.len()].copy_from_slice(tail);
        id
    }
}

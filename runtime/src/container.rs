//! A running sandbox: started here, whatever the engine; runs work; ends with its owner.

mod ending;
mod files;
mod run;
mod start;
mod streams;
mod work;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::Child;

use ric_policies::Protection;

use crate::usage::UsageFiles;
use crate::{ContainerFacts, Enforced};

pub use run::{RunError, Signals};
pub use start::StartError;
pub use streams::{Stream, Streams, Terminal};

/// A running sandbox. Dropping it ends everything in it and waits until nothing of it is left.
#[derive(Debug)]
pub struct Container {
    facts: ContainerFacts,
    enforced: BTreeMap<Protection, Enforced>,
    usage: UsageFiles,
    /// To the monitor. Its end is the end of the container.
    channel: Option<OwnedFd>,
    /// To init.
    control: Option<OwnedFd>,
    monitor: Child,
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

    /// Ends everything in the container and waits until its cgroups are gone.
    fn end(&mut self) {
        self.channel = None;
        self.control = None;
        // The monitor is this process's child: nothing but it being reaped elsewhere can fail.
        let _ = self.monitor.wait();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end();
    }
}

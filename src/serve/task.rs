//! A task in the daemon: a call on its way from a client to a worker and back.

use std::rc::Rc;
use std::time::{Duration, Instant};

use ric_runtime::{Sha256Digest, TaskId};

use super::client::{ClientId, Function};
use super::journal::KeptId;
use super::pool::PoolId;
use ric_runtime::wire::Frame;

/// A call that has not ended.
#[derive(Debug)]
pub(super) struct Task {
    /// Ours, and what the worker knows it by.
    pub(super) id: u64,
    pub(super) origin: Origin,
    pub(super) uid: u32,
    pub(super) pool: PoolId,
    pub(super) call: Frame,
    pub(super) function: Rc<Function>,
    pub(super) deadline: Option<Duration>,
    pub(super) result_bytes_max: u64,
    pub(super) queued: Instant,
    pub(super) begun: Option<Instant>,
    /// Whether a member has it, or is to have it.
    pub(super) given: bool,
    /// Bytes that it printed: to standard output, to standard error.
    pub(super) printed_bytes: [u64; 2],
    /// Of these, bytes that were thrown away.
    pub(super) left_out_bytes: u64,
}

/// Where a task comes from, and whom its end is told.
#[derive(Debug)]
pub(super) enum Origin {
    /// A client waits for it, and calls it `name`.
    Client { client: ClientId, name: TaskId },
    /// It was submitted: its end goes into the journal.
    Kept(Box<Kept>),
}

/// What is known of a submitted task while it waits or runs.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) id: KeptId,
    /// Whether it may be run again when it may have run already.
    pub(super) rerun: bool,
    pub(super) announced: Announced,
    /// What it has printed: to standard output, to standard error.
    pub(super) printed: [Vec<u8>; 2],
}

/// Whether the journal says that a task may have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announced {
    No,
    /// It will with the next commit.
    Soon,
    Yes,
}

impl Task {
    /// Whether it has begun, or the journal says that it may have.
    pub(super) fn may_have_run(&self) -> bool {
        self.begun.is_some() || self.kept().is_some_and(|kept| kept.announced != Announced::No)
    }

    /// What there is of it if it was submitted.
    pub(super) fn kept(&self) -> Option<&Kept> {
        match &self.origin {
            Origin::Client { .. } => None,
            Origin::Kept(kept) => Some(kept),
        }
    }

    /// Its name to workers: never used twice by one daemon.
    pub(super) fn worker_name(id: u64) -> TaskId {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&id.to_be_bytes());
        name[8] = 1;
        name
    }

    pub(super) fn function_digest(&self) -> Sha256Digest {
        self.function.header.payload_sha256
    }

    /// Bytes that it takes in the daemon, beside a constant.
    pub(super) fn bytes(&self) -> u64 {
        self.call.header.payload_bytes + u64::from(self.call.header.metadata_bytes)
    }
}

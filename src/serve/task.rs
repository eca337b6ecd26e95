//! A task in the daemon: a call on its way from a client to a worker and back.

use std::rc::Rc;
use std::time::{Duration, Instant};

use ric_runtime::{Sha256Digest, TaskId};

use super::client::{ClientId, Function};
use super::pool::PoolId;
use ric_runtime::wire::Frame;

/// A call that has not ended.
#[derive(Debug)]
pub(super) struct Task {
    /// Ours, and what the worker knows it by.
    pub(super) id: u64,
    pub(super) client: ClientId,
    /// What the client calls it.
    pub(super) name: TaskId,
    pub(super) uid: u32,
    pub(super) pool: PoolId,
    pub(super) call: Frame,
    pub(super) function: Rc<Function>,
    pub(super) deadline: Option<Duration>,
    pub(super) result_bytes_max: u64,
    pub(super) queued: Instant,
    pub(super) begun: Option<Instant>,
    /// Bytes that it printed: to standard output, to standard error.
    pub(super) printed_bytes: [u64; 2],
    /// Of these, bytes that were thrown away.
    pub(super) left_out_bytes: u64,
}

impl Task {
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

//! Pools: the warm containers of one decision, and the tasks that wait for them.
//!
//! A pool serves only who it was made for: its key is the whole [`Sandbox`], in which caller,
//! groups, job, tenant, image, mounts, limits and policy are, and what its workers were started
//! with besides.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ric_runtime::{Fresh, Preload, Program, Sandbox, Sha256Digest};

use serde::Serialize;

use super::client::HandleId;
use super::member::MemberId;
use super::open::Opened;

/// Names a pool; never used again.
pub(super) type PoolId = u64;

/// What containers have to be alike in to serve the same calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub(super) struct PoolKey {
    sandbox: Sandbox,
    variables: Vec<(String, String)>,
    workdir: String,
    interpreters: Vec<String>,
    preload: Vec<String>,
    fresh: Fresh,
    modules: Option<Sha256Digest>,
    secrets: Vec<Sha256Digest>,
}

/// What a task found when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Lease {
    /// A container that earlier tasks had left.
    Warm,
    /// A container that was started ahead.
    Stock,
    /// None that was ready yet.
    Starting,
    /// Only ones with tasks.
    Busy,
    /// The same, and policy has no room for one more.
    NoRoom,
}

impl PoolKey {
    pub(super) fn new(opened: &Opened, modules: Option<Sha256Digest>) -> PoolKey {
        let plan = &opened.decision.plan;
        let (interpreters, preload) = match &plan.work.program {
            Program::Call(call) => (call.interpreters.clone(), call.preload.modules.clone()),
            Program::Command(_) => (Vec::new(), Vec::new()),
        };
        PoolKey {
            sandbox: plan.sandbox.clone(),
            variables: plan.work.variables.clone(),
            workdir: plan.work.workdir.clone(),
            interpreters,
            preload,
            fresh: opened.fresh,
            modules,
            secrets: opened.secrets.clone(),
        }
    }
}

/// The warm containers of one decision.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) id: PoolId,
    pub(super) key: Arc<PoolKey>,
    pub(super) uid: u32,
    /// What its containers are started from.
    pub(super) opened: Arc<Opened>,
    /// MODULES of its workers, if they get any.
    pub(super) modules: Option<Arc<Vec<u8>>>,
    /// Tasks that wait, oldest first.
    pub(super) queue: VecDeque<u64>,
    /// Members that can take a task, the one that was used last at the end.
    pub(super) idle: Vec<MemberId>,
    /// Members in all, starting ones included.
    pub(super) members: usize,
    pub(super) starting: usize,
    /// Tasks that members have, or are to have.
    pub(super) busy: usize,
    /// Handles of clients that lead here.
    pub(super) handles: usize,
    /// Its policy is no more: nothing new begins here.
    pub(super) draining: bool,
    /// What its tasks found when they came, and how many.
    pub(super) leases: BTreeMap<Lease, u64>,
}

impl Pool {
    pub(super) fn fresh(&self) -> Fresh {
        self.opened.fresh
    }

    /// Whether one more of its tasks may begin: as many as were asked for may at once, and there
    /// are more members where each has to get ready for the next task.
    fn may_begin(&self) -> bool {
        self.busy < self.opened.containers_most
    }

    /// The task that has waited longest, if it may begin.
    pub(super) fn take_task(&mut self) -> Option<u64> {
        if self.may_begin() { self.queue.pop_front() } else { None }
    }

    /// An idle member, if a task for it may begin.
    pub(super) fn take_idle(&mut self) -> Option<MemberId> {
        if self.may_begin() { self.idle.pop() } else { None }
    }

    /// Members that are wanted now: one for each task that waits or runs, up to what was asked
    /// for, and ahead of tasks the stock that was asked for; where each task gets a new container,
    /// at least one for each that works.
    pub(super) fn wanted(&self, working: usize) -> usize {
        let opened = &self.opened;
        let is_open = self.handles > 0 && !self.draining;
        let stock = if is_open { opened.stock } else { 0 };
        wanted(opened.fresh, opened.containers_most, stock, self.queue.len(), working)
            .max(usize::from(is_open))
    }

    /// What one container of it may use at most; nothing is known of one without a limit.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.opened.decision.plan.sandbox.limits.memory_bytes.unwrap_or(0)
    }

    pub(super) fn remove_idle(&mut self, member: MemberId) {
        self.idle.retain(|one| *one != member);
    }
}

fn wanted(fresh: Fresh, most: usize, stock: usize, waiting: usize, working: usize) -> usize {
    match fresh {
        Fresh::Nothing => (waiting + working).max(stock).min(most),
        // While one gets ready for its next task, another can have that.
        Fresh::Process => (waiting + working).max(stock).min(most + most.div_ceil(2)),
        Fresh::Container => {
            let ahead = working.max(1).max(stock);
            (waiting + working + ahead).min((most * 2).max(most + stock))
        }
    }
}

/// What a client is told of the decision.
pub(super) fn opened_json(handle: HandleId, opened: &Opened) -> serde_json::Value {
    let sandbox = &opened.decision.plan.sandbox;
    let work = &opened.decision.plan.work;
    let time_ms = work.deadline.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    serde_json::json!({
        "pool": handle,
        "fresh": opened.fresh,
        "engine": sandbox.engine,
        "image": image_text(sandbox),
        "enforced": ric_runtime::enforced(sandbox),
        "bounds": {
            "result_bytes_max": work.bounds.result_bytes_max,
            "stdout_bytes_max": work.bounds.stdout_bytes_max,
            "stderr_bytes_max": work.bounds.stderr_bytes_max,
            "time_ms": time_ms,
        },
        "containers_most": opened.containers_most,
    })
}

pub(super) fn image_text(sandbox: &Sandbox) -> String {
    match &sandbox.image {
        ric_images::Identity::Digest(digest) => digest.to_string(),
        ric_images::Identity::Fingerprint(fingerprint) => fingerprint.clone(),
    }
}

/// Names of the modules that workers of a decision import before their first call.
pub(super) fn preload(opened: &Opened) -> Preload {
    match &opened.decision.plan.work.program {
        Program::Call(call) => call.preload.clone(),
        Program::Command(_) => Preload::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_is_kept_ahead_and_nobody_gets_more_than_was_asked_for() {
        for (fresh, most) in [(Fresh::Nothing, 4), (Fresh::Process, 6)] {
            assert_eq!(wanted(fresh, 4, 0, 0, 0), 0, "nobody asks");
            assert_eq!(wanted(fresh, 4, 3, 0, 0), 3, "stock");
            assert_eq!(wanted(fresh, 4, 3, 9, 2), most, "all there may be");
        }
        // A container that has worked is thrown away: the next one should be there by then.
        assert_eq!(wanted(Fresh::Container, 2, 0, 0, 0), 1);
        assert_eq!(wanted(Fresh::Container, 2, 0, 0, 2), 4);
        assert_eq!(wanted(Fresh::Container, 2, 2, 0, 1), 3, "one works, two are ready");
        assert_eq!(wanted(Fresh::Container, 8, 8, 0, 0), 8);
        assert_eq!(wanted(Fresh::Container, 2, 0, 9, 2), 4);
    }
}

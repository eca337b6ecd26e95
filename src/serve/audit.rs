//! One line for every decision and every end: who, what, by which rule, what was enforced.
//!
//! JSON, one object a line, so that nothing from outside can begin a line of its own or steer a
//! terminal. Written in one piece at the end of a turn; what cannot be written is said once.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use ric_runtime::{Caller, Peer, Status};
use serde_json::{Value, json};

use super::journal::KeptId;
use super::open::Opened;
use super::task::Task;
use crate::failure::Failure;
use crate::progress;

/// Writes the lines of one daemon.
#[derive(Debug, Default)]
pub(super) struct Audit {
    file: Option<File>,
    waiting: Vec<u8>,
    broken: bool,
}

impl Audit {
    /// Appends to the file at `path`, which nobody else may read.
    pub(super) fn open(path: &Path) -> std::io::Result<Audit> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().append(true).create(true).mode(0o600).open(path)?;
        Ok(Audit { file: Some(file), ..Audit::default() })
    }

    fn line(&mut self, make: impl FnOnce() -> Value) {
        if self.file.is_none() {
            return;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut line = make();
        line["time"] = json!(now.as_secs_f64());
        self.waiting.extend_from_slice(line.to_string().as_bytes());
        self.waiting.push(b'\n');
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(file) = &mut self.file else { return };
        let written = file.write_all(&self.waiting);
        self.waiting.clear();
        if let Err(error) = written
            && !std::mem::replace(&mut self.broken, true)
        {
            progress::tell(&format!("cannot write the audit log: {error}"));
        }
    }

    pub(super) fn stranger(&mut self, peer: &Peer) {
        self.line(|| json!({"event": "stranger", "uid": peer.uid, "pid": peer.pid}));
    }

    pub(super) fn refused(&mut self, caller: &Caller, failure: &Failure) {
        self.line(|| {
            let mut line = failure.to_json();
            line["event"] = json!("refused");
            line["uid"] = json!(caller.uid);
            line
        });
    }

    pub(super) fn opened(&mut self, caller: &Caller, opened: &Opened) {
        self.line(|| {
            let sandbox = &opened.decision.plan.sandbox;
            json!({
                "event": "opened",
                "uid": caller.uid,
                "gid": caller.gid,
                "tenant": sandbox.tenant,
                "image": opened.decision.manifest.reference,
                "digest": super::pool::image_text(sandbox),
                "engine": sandbox.engine,
                "policy": sandbox.policy_digest,
                "enforced": sandbox.enforced,
                "not_enforced": sandbox.dropped,
                "fresh": opened.fresh,
            })
        });
    }

    /// Something about a submitted task, other than its end: it was submitted, fetched, …
    pub(super) fn kept(
        &mut self,
        event: &str,
        uid: u32,
        id: &KeptId,
        more: impl FnOnce() -> Value,
    ) {
        self.line(|| {
            let mut line = more();
            line["event"] = json!(event);
            line["uid"] = json!(uid);
            line["submitted_task"] = json!(id);
            line
        });
    }

    pub(super) fn answered(&mut self, task: &Task, status: Status, ran: &str) {
        self.line(|| {
            let ran = serde_json::from_str(ran).unwrap_or(Value::Null);
            of_task(task, status, ran)
        });
    }

    pub(super) fn ended(&mut self, task: &Task, status: Status, ran: Option<&Value>) {
        self.line(|| of_task(task, status, ran.cloned().unwrap_or(Value::Null)));
    }
}

fn of_task(task: &Task, status: Status, ran: Value) -> Value {
    json!({
        "event": "ended",
        "uid": task.uid,
        "task": task.id,
        "submitted_task": task.kept().map(|kept| kept.id),
        "function_sha256": ric_runtime::hex(&task.function_digest()),
        "status": status,
        "ran": ran,
    })
}

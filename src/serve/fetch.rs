//! What clients ask about submitted tasks: FETCH, and ASK's `status`, `cancel` and `forget`.
//! Others' tasks do not exist for them.

use std::time::{Duration, Instant, SystemTime};

use ric_runtime::wire::{Frame, Payload};
use ric_runtime::{Kind, Status, TaskId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Ending;
use super::client::ClientId;
use super::daemon::{Daemon, Done};
use super::events::Due;
use super::journal::{End, Entry, Kept, KeptId, Part, Phase, Record};
use super::kept::{Keeping, Purpose, header_of, now_s};

/// Results whose time has passed are looked for no more often.
const LOOK_MIN: Duration = Duration::from_secs(1);

/// A client that waits for the end of a submitted task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    /// It wants the answer.
    Fetch(ClientId, TaskId),
    /// It has asked for the end.
    Cancel(ClientId, TaskId),
}

/// What was read of a submitted task's answer.
#[derive(Debug)]
pub(super) struct Fetched {
    client: ClientId,
    name: TaskId,
    end: End,
    parts: std::io::Result<Vec<(Part, Payload)>>,
}

#[derive(Debug, Deserialize)]
struct FetchAsk {
    id: String,
}

impl Keeping {
    /// The task of this name, if `uid` may know of it.
    fn find(&self, uid: u32, id: &str) -> Result<(KeptId, &Kept), Ending> {
        let id = KeptId::parse(id);
        let found = id.and_then(|id| self.journal.tasks().get(&id).map(|kept| (id, kept)));
        found.filter(|(_, kept)| uid == 0 || kept.about.uid == uid).ok_or_else(|| {
            let text = "there is no submitted task of this name that is yours";
            Ending::new(Status::Error, text)
                .hint("`run-in-container status` shows those that there are")
        })
    }

    pub(super) fn stop_waiting(&mut self, client: ClientId, id: &KeptId) {
        let Some(waiters) = self.waiters.get_mut(id) else { return };
        waiters.retain(|waiter| !matches!(waiter, Waiter::Fetch(one, _) if *one == client));
        if waiters.is_empty() {
            self.waiters.remove(id);
        }
    }
}

impl Daemon {
    /// FETCH: the answer of a submitted task, once it has one.
    pub(super) fn fetch(&mut self, client_id: ClientId, frame: &Frame) {
        let Some(client) = self.clients.get_mut(&client_id) else { return };
        let name = frame.header.task;
        let asked = match serde_json::from_slice::<FetchAsk>(&frame.metadata) {
            Ok(asked) => self.keeping.find(client.caller.uid, &asked.id),
            Err(error) => {
                Err(Ending::new(Status::Error, format!("cannot read what a FETCH names: {error}")))
            }
        };
        let used = client.tasks.contains_key(&name) || client.fetches.contains_key(&name);
        let (id, is_there) = match asked {
            Ok(_) if used => {
                let text = "a task of this name has not ended";
                return self.tell_ending(client_id, name, &Ending::new(Status::Error, text));
            }
            Ok((id, kept)) => (id, kept.end().is_some()),
            Err(ending) => return self.tell_ending(client_id, name, &ending),
        };
        client.fetches.insert(name, id);
        if is_there {
            self.begin_fetch(client_id, name, id);
        } else {
            self.keeping.waiters.entry(id).or_default().push(Waiter::Fetch(client_id, name));
        }
    }

    fn begin_fetch(&mut self, client: ClientId, name: TaskId, id: KeptId) {
        let Some(asker) = self.clients.get(&client) else { return };
        let uid = asker.caller.uid;
        let kept = self.keeping.journal.tasks().get(&id).and_then(Kept::end).cloned();
        let (Some(reading), Some(end)) = (self.keeping.journal.reading(&id), kept) else { return };
        self.audit.kept("fetched", uid, &id, || json!({}));
        let job = move || Done::Fetched(Fetched { client, name, end, parts: reading.read() });
        self.hands.begin(uid, Box::new(job));
    }

    pub(super) fn fetched(&mut self, fetched: Fetched) {
        let Fetched { client: id, name, end, parts } = fetched;
        let Some(client) = self.clients.get_mut(&id) else { return };
        // It may have been told already that it waits no longer.
        if client.fetches.remove(&name).is_none() {
            return;
        }
        self.clients_to_flush.insert(id);
        let parts: [(Part, Payload); 4] = match parts.map(TryInto::try_into) {
            Ok(Ok(parts)) => parts,
            Ok(Err(_)) | Err(_) => {
                let text = "cannot read the answer of the task: it was removed or is damaged";
                return Ending::new(Status::Error, text).tell(&mut client.writer, name, None);
            }
        };
        let [(_, metadata), (part, payload), out, err] = parts;
        for ((part, printed), metadata) in [out, err].into_iter().zip(super::attend::OUTPUT) {
            if part.bytes > 0 {
                let header = header_of(Kind::Output, &part);
                client.writer.forward(&header, name, metadata, printed);
            }
        }
        let kind = Kind::from_wire(end.kind).unwrap_or(Kind::Ended);
        let Payload::Bytes(metadata) = metadata else { return };
        client.writer.forward(&header_of(kind, &part), name, &metadata, payload);
    }

    /// The end of a submitted task is on disk: whoever waits for it is told.
    pub(super) fn end_is_kept(&mut self, id: KeptId) {
        let Some(end) = self.keeping.journal.tasks().get(&id).and_then(Kept::end) else { return };
        let cancelled = end.status == Status::Cancelled;
        for waiter in self.keeping.waiters.remove(&id).unwrap_or_default() {
            match waiter {
                Waiter::Fetch(client, name) => self.begin_fetch(client, name, id),
                Waiter::Cancel(client, name) => {
                    self.tell_answer(client, name, &json!({"cancelled": cancelled}));
                }
            }
        }
        self.look_for_expired();
    }

    /// CANCEL of a FETCH: its client waits no longer. `false`: it is none.
    pub(super) fn cancel_fetch(&mut self, client_id: ClientId, name: TaskId) -> bool {
        let Some(client) = self.clients.get_mut(&client_id) else { return false };
        let Some(id) = client.fetches.remove(&name) else { return false };
        if let Some(waiters) = self.keeping.waiters.get_mut(&id) {
            waiters.retain(|waiter| *waiter != Waiter::Fetch(client_id, name));
        }
        let text = "the caller waits for the task no longer";
        self.tell_ending(client_id, name, &Ending::new(Status::Cancelled, text));
        true
    }

    /// ASK `cancel`: ends a submitted task, wherever it is. Answered when that is on disk.
    pub(super) fn cancel_submitted(&mut self, client: ClientId, name: TaskId, id: &str) {
        let Some(asker) = self.clients.get(&client) else { return };
        let asked = asker.caller.uid;
        let (id, uid, is_there) = match self.keeping.find(asked, id) {
            Ok((id, kept)) => (id, kept.about.uid, kept.end().is_some()),
            Err(ending) => return self.tell_ending(client, name, &ending),
        };
        self.audit.kept("cancelled", asked, &id, || json!({}));
        if is_there {
            return self.tell_answer(client, name, &json!({"cancelled": false}));
        }
        self.keeping.waiters.entry(id).or_default().push(Waiter::Cancel(client, name));
        let ending = Ending::new(Status::Cancelled, "the caller cancelled the task");
        match self.keeping.live.get(&id) {
            Some(task) => self.stop_task(*task, &ending),
            // What it needs is being opened, or its end is being written.
            None => self.end_kept(id, uid, &ending),
        }
    }

    /// ASK `forget`: lets go of an answer. Answered when that is on disk.
    pub(super) fn forget_submitted(&mut self, client: ClientId, name: TaskId, id: &str) {
        let Some(asker) = self.clients.get(&client) else { return };
        let uid = asker.caller.uid;
        let (id, is_there) = match self.keeping.find(uid, id) {
            Ok((id, kept)) => (id, kept.end().is_some()),
            Err(ending) => return self.tell_ending(client, name, &ending),
        };
        if !is_there {
            let ending = Ending::new(Status::Error, "the task has not ended")
                .hint("`run-in-container cancel ID` ends it");
            return self.tell_ending(client, name, &ending);
        }
        let entry = Entry { record: Record::Forgotten { id }, parts: Vec::new() };
        let purpose = Purpose::Forgotten { asked: Some((client, name)) };
        if !self.keeping.journal.push(entry, purpose) {
            return self.tell_answer(client, name, &json!({"forgotten": true}));
        }
        self.audit.kept("forgotten", uid, &id, || json!({"why": "asked"}));
    }

    /// ASK `status`: those of `ids`, or all, that `uid` may know of.
    pub(super) fn status(&self, uid: u32, ids: &[String]) -> Value {
        let unknown = ids.iter().filter(|id| self.keeping.find(uid, id).is_err());
        let unknown: Vec<&String> = unknown.collect();
        let named = |id: &KeptId| ids.is_empty() || ids.contains(&id.to_string());
        let tasks = self.keeping.journal.tasks().iter();
        let seen = |(id, kept): &(&KeptId, &Kept)| (uid == 0 || kept.about.uid == uid) && named(id);
        let mut tasks: Vec<(&KeptId, &Kept)> = tasks.filter(seen).collect();
        tasks.sort_by_key(|(id, kept)| (kept.about.submitted_s, **id));
        let tasks: Vec<Value> = tasks.iter().map(|(id, kept)| self.status_of(id, kept)).collect();
        json!({"tasks": tasks, "unknown": unknown})
    }

    pub(super) fn status_of(&self, id: &KeptId, kept: &Kept) -> Value {
        let runs = |task: &u64| self.tasks.get(task).is_some_and(|task| task.begun.is_some());
        let (state, end) = match &kept.phase {
            Phase::Ended(end) => ("ended", Some(end)),
            Phase::Begun => ("running", None),
            Phase::Waiting if self.keeping.live.get(id).is_some_and(runs) => ("running", None),
            Phase::Waiting => ("waiting", None),
        };
        json!({
            "id": id,
            "uid": kept.about.uid,
            "state": state,
            "status": end.map(|end| end.status),
            "submitted_s": kept.about.submitted_s,
            "ended_s": end.map(|end| end.ended_s),
            "rerun": kept.about.rerun,
            "function": kept.about.function,
            "function_sha256": kept.about.function_sha256,
            "image": kept.about.image,
            "bytes": kept.bytes(),
        })
    }

    /// Lets go of results that were kept for as long as policy says.
    pub(super) fn expire(&mut self) {
        self.keeping.looks_at = None;
        let (now, keep) = (now_s(), self.rules.keep.as_secs());
        let over =
            |kept: &Kept| kept.end().is_some_and(|end| end.ended_s.saturating_add(keep) <= now);
        let tasks = self.keeping.journal.tasks().iter().filter(|(_, kept)| over(kept));
        let over: Vec<(KeptId, u32)> = tasks.map(|(id, kept)| (*id, kept.about.uid)).collect();
        for (id, uid) in over {
            let entry = Entry { record: Record::Forgotten { id }, parts: Vec::new() };
            if self.keeping.journal.push(entry, Purpose::Forgotten { asked: None }) {
                self.audit.kept("forgotten", uid, &id, || json!({"why": "expired"}));
            }
        }
        self.look_for_expired();
    }

    /// Has results looked at when the first of them has been kept for long enough.
    pub(super) fn look_for_expired(&mut self) {
        let now = Instant::now();
        if self.keeping.looks_at.is_some_and(|at| at <= now + LOOK_MIN) {
            return;
        }
        let tasks = self.keeping.journal.tasks().values();
        let ended = tasks.filter_map(|kept| kept.end()).map(|end| end.ended_s);
        let Some(first) = ended.min() else { return };
        let over = SystemTime::UNIX_EPOCH + Duration::from_secs(first);
        let over = over.checked_add(self.rules.keep);
        let left = over.and_then(|over| over.duration_since(SystemTime::now()).ok());
        let at = now + left.unwrap_or_default().max(LOOK_MIN);
        if self.keeping.looks_at.is_none_or(|looks_at| at < looks_at) {
            self.keeping.looks_at = Some(at);
            self.timers.add(at, Due::Expiry);
        }
    }
}

//! Submitted tasks: nothing is said of one before the journal says it.
//!
//! It is acknowledged once it is on disk; it is sent to a worker once it is on disk that it may
//! have run; its answer is told once that is on disk. `fetch.rs` has what clients ask about them,
//! `resume.rs` what becomes of them in the next life.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ric_runtime::wire::{Frame, Payload};
use ric_runtime::{Header, Kind, NO_TASK, Sha256Digest, Status, TaskId, hex};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::answer::{Ending, status_of_answer, with_key};
use super::client::{ClientId, Function, Modules};
use super::daemon::{Daemon, Done};
use super::events::Due;
use super::fetch::Waiter;
use super::journal::{About, Committed, Content, End, Entry, Fault, Journal, KeptId, Part, Record};
use super::open::Opened;
use super::reopen::Unkept;
use super::task::{Announced, Kept, Origin, Task};

/// Most bytes that are kept of what a submitted task prints to one stream: until it ends they are
/// in memory.
pub(super) const PRINTED_BYTES_MAX: u64 = 1 << 20;

/// Answers up to this size always have room: how many there are is bounded.
const SMALL_BYTES: u64 = 64 << 10;

/// Submitted tasks, and who waits for their ends.
#[derive(Debug)]
pub(super) struct Keeping {
    pub(super) journal: Journal<Purpose>,
    /// Those that wait or run in this life.
    pub(super) live: HashMap<KeptId, u64>,
    pub(super) waiters: HashMap<KeptId, Vec<Waiter>>,
    /// When an entry of the timers looks for results that were kept for long enough.
    pub(super) looks_at: Option<Instant>,
}

/// What is done once something is on disk.
#[derive(Debug)]
pub(super) enum Purpose {
    /// The client is told, and the task queued.
    Submitted { client: ClientId, name: TaskId, task: Box<Task> },
    /// The task is sent to the worker that waits for it.
    Begun(u64),
    /// Whoever waits for the end is told.
    Ended { id: KeptId, uid: u32 },
    /// Whoever asked for it is told.
    Forgotten { asked: Option<(ClientId, TaskId)> },
}

impl Keeping {
    pub(super) fn new(journal: Journal<Purpose>) -> Keeping {
        let (live, waiters) = (HashMap::new(), HashMap::new());
        Keeping { journal, live, waiters, looks_at: None }
    }

    /// Whether a task may be sent to a worker now. If not, it may once the journal is written.
    pub(super) fn announce(&mut self, task: &mut Task) -> bool {
        let Origin::Kept(kept) = &mut task.origin else { return true };
        if kept.rerun || kept.announced == Announced::Yes {
            return true;
        }
        if kept.announced == Announced::No {
            kept.announced = Announced::Soon;
            let record = Record::Begun { id: kept.id };
            self.journal.push(Entry { record, parts: Vec::new() }, Purpose::Begun(task.id));
        }
        false
    }
}

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

impl Daemon {
    /// Takes a submitted task, which is acknowledged when it is on disk, or says why not.
    pub(super) fn submit(
        &mut self,
        client: ClientId,
        mut task: Task,
        rerun: bool,
        function: String,
        opened: &Opened,
        modules: Modules,
    ) {
        let Origin::Client { name, .. } = task.origin else { return };
        let entry = self.submission(&task, rerun, function, opened, modules);
        let (id, entry) = match entry {
            Ok(entry) => (entry.record.id(), entry),
            Err(ending) => return self.tell_ending(client, name, &ending),
        };
        let (announced, printed) = (Announced::No, [Vec::new(), Vec::new()]);
        task.origin = Origin::Kept(Box::new(Kept { id, rerun, announced, printed }));
        let purpose = Purpose::Submitted { client, name, task: Box::new(task) };
        self.keeping.journal.push(entry, purpose);
    }

    /// All that a later life needs to run `task`. `Err`: it cannot be kept.
    fn submission(
        &mut self,
        task: &Task,
        rerun: bool,
        function: String,
        opened: &Opened,
        modules: Modules,
    ) -> Result<Entry, Ending> {
        if let Some(busy) = self.no_room(task.uid, task.bytes()) {
            self.counted.busy += 1;
            return Err(busy);
        }
        let reopening = opened.reopening.clone().map_err(Unkept::ending)?;
        let out_of_descriptors =
            |_| Ending::new(Status::Error, "cannot keep the task: no descriptor is left");
        let (modules, modules_sha256) =
            modules.unwrap_or_else(|| (Arc::default(), Sha256::digest(b"").into()));
        let (source, call) = (&task.function, &task.call);
        let payload = |payload: &Payload| payload.try_clone().map_err(out_of_descriptors);
        let parts = vec![
            shared(&reopening, Sha256::digest(&**reopening).into()),
            shared(&modules, modules_sha256),
            small(source.metadata.clone()),
            (part_of(&source.header), Content::Payload(payload(&source.payload)?)),
            small(call.metadata.clone()),
            (part_of(&call.header), Content::Payload(payload(&call.payload)?)),
        ];
        self.no_room_on_disk(task.uid, parts.iter().map(|(part, _)| part.bytes).sum())?;
        let mut id = [0; 16];
        getrandom(&mut id, GetRandomFlags::empty()).map_err(|errno| {
            Ending::new(Status::Error, format!("cannot find a name for the task: {errno}"))
        })?;
        let about = About {
            uid: task.uid,
            submitted_s: now_s(),
            rerun,
            function,
            function_sha256: hex(&task.function_digest()),
            image: opened.decision.manifest.reference.to_string(),
        };
        Ok(Entry { record: Record::Submitted { id: KeptId(id), about }, parts })
    }

    fn no_room_on_disk(&mut self, uid: u32, bytes: u64) -> Result<(), Ending> {
        let usage = self.keeping.journal.usage(uid);
        let full = usage.tasks >= self.rules.kept_per_user_most
            || usage.bytes + bytes > self.rules.kept_bytes_per_user_most;
        if !full {
            return Ok(());
        }
        self.counted.busy += 1;
        let text = format!(
            "{} submitted tasks of yours and {} bytes of them are kept here, and no more may be",
            usage.tasks, usage.bytes
        );
        let hint = "fetch results with `run-in-container result ID`, which lets go of them";
        Err(Ending::busy(text, super::call::RETRY_MIN).hint(hint))
    }

    /// Hands what waits to be written to another thread, if none is writing.
    pub(super) fn commit(&mut self) {
        let now = Instant::now();
        if let Some(commit) = self.keeping.journal.next_commit(now) {
            self.hands.begin_at_once(Box::new(|| Done::Committed(Box::new(commit.run()))));
        } else if let Some(until) = self.keeping.journal.rests_until().filter(|at| *at > now) {
            self.timers.add(until, Due::Journal);
        }
    }

    pub(super) fn committed(&mut self, committed: Committed) {
        for (purpose, result) in self.keeping.journal.committed(committed) {
            match (purpose, result) {
                (Purpose::Submitted { client, name, task }, result) => {
                    self.acknowledge(client, name, *task, result);
                }
                (Purpose::Begun(task), _) => self.may_begin(task),
                (Purpose::Ended { id, .. }, Ok(())) => self.end_is_kept(id),
                (Purpose::Ended { id, uid }, Err(fault)) => {
                    let why = match fault {
                        Fault::Disk(why) | Fault::Payload(why) => why,
                    };
                    let text = format!("the answer of the task cannot be believed: {why}");
                    self.end_kept(id, uid, &Ending::new(Status::Corrupt, text));
                }
                (Purpose::Forgotten { asked: Some((client, name)) }, _) => {
                    self.tell_answer(client, name, &json!({"forgotten": true}));
                }
                (Purpose::Forgotten { asked: None }, _) => {}
            }
        }
    }

    fn acknowledge(
        &mut self,
        client: ClientId,
        name: TaskId,
        task: Task,
        result: Result<(), Fault>,
    ) {
        let Some(kept) = task.kept() else { return };
        let (id, rerun, digest) = (kept.id, kept.rerun, hex(&task.function_digest()));
        let ending = match result {
            Ok(()) => None,
            Err(Fault::Payload(why)) => Some(Ending::new(Status::Corrupt, why)),
            Err(Fault::Disk(why)) => {
                let ending = Ending::new(Status::Error, format!("cannot keep the task: {why}"));
                Some(ending.hint("ask your site for room in the daemon's `--state` directory"))
            }
        };
        if let Some(ending) = ending {
            return self.tell_ending(client, name, &ending);
        }
        self.audit.kept(
            "submitted",
            task.uid,
            &id,
            || json!({"function_sha256": digest, "rerun": rerun}),
        );
        if let Some(client) = self.clients.get_mut(&client) {
            let metadata = json!({"id": id}).to_string();
            client.writer.push(Kind::Submitted, name, metadata.as_bytes(), &[]);
            self.clients_to_flush.insert(client.id);
        }
        // The next life runs it.
        if self.draining.is_none() {
            self.enter_kept(id, task);
        }
    }

    /// Queues a submitted task.
    pub(super) fn enter_kept(&mut self, id: KeptId, task: Task) {
        self.keeping.live.insert(id, task.id);
        self.enter(task);
    }

    /// It is on disk that a task may have run.
    fn may_begin(&mut self, id: u64) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if let Origin::Kept(kept) = &mut task.origin {
            kept.announced = Announced::Yes;
        }
        let member = self.members.values().find(|member| member.promised == Some(id));
        if let Some(member) = member.map(|member| member.id) {
            self.hand_over(member);
        }
    }

    /// What a worker answered is written down.
    pub(super) fn keep_answer(
        &mut self,
        task: Task,
        header: &Header,
        metadata: &[u8],
        payload: Payload,
    ) {
        let call = self.call_facts(&task).to_string();
        // What a worker says is an object, or it would not have come here.
        let metadata = with_key(metadata, "call", &call).unwrap_or_default();
        let status = status_of_answer(header.kind);
        let uid = task.uid;
        let Origin::Kept(kept) = task.origin else { return };
        let answer = (part_of(header), Content::Payload(payload));
        let [out, err] = kept.printed;
        let parts = vec![small(metadata), answer, small(out), small(err)];
        self.write_end(kept.id, uid, status, header.kind, parts);
    }

    /// The end of a task that has no answer is written down.
    pub(super) fn keep_ending(&mut self, task: Task, ending: &Ending, ran: Option<Value>) {
        let mut metadata = ending.to_json(ran);
        metadata["call"] = self.call_facts(&task);
        let uid = task.uid;
        let Origin::Kept(kept) = task.origin else { return };
        let [out, err] = kept.printed;
        let parts = vec![small(metadata.to_string()), small(""), small(out), small(err)];
        self.write_end(kept.id, uid, ending.status, Kind::Ended, parts);
    }

    /// The same, for one that is not queued.
    pub(super) fn end_kept(&mut self, id: KeptId, uid: u32, ending: &Ending) {
        let mut metadata = ending.to_json(None);
        let about = self.keeping.journal.tasks().get(&id).map(|kept| &kept.about);
        let function_sha256 = about.map(|about| &about.function_sha256);
        metadata["call"] = json!({"id": id, "function_sha256": function_sha256});
        let parts = vec![small(metadata.to_string()), small(""), small(""), small("")];
        self.write_end(id, uid, ending.status, Kind::Ended, parts);
    }

    fn write_end(
        &mut self,
        id: KeptId,
        uid: u32,
        status: Status,
        kind: Kind,
        parts: Vec<(Part, Content)>,
    ) {
        let bytes: u64 = parts.iter().skip(1).map(|(part, _)| part.bytes).sum();
        let own = self.keeping.journal.tasks().get(&id).map_or(0, super::journal::Kept::bytes);
        let others = self.keeping.journal.usage(uid).bytes.saturating_sub(own);
        let most = self.rules.kept_bytes_per_user_most;
        if bytes > SMALL_BYTES && others + bytes > most {
            let text = format!(
                "the task has ended, and its answer of {bytes} bytes has no room: {others} bytes \
                 of other tasks of yours are kept, and at most {most} may be"
            );
            let hint = "fetch results sooner, or have tasks write what is large to a mount";
            return self.end_kept(id, uid, &Ending::new(Status::Failed, text).hint(hint));
        }
        let end = End { ended_s: now_s(), status, kind: kind as u8 };
        let entry = Entry { record: Record::Ended { id, end }, parts };
        self.keeping.journal.push(entry, Purpose::Ended { id, uid });
    }

    /// What is told of a submitted task with its answer, as `call` knows it of its own.
    fn call_facts(&self, task: &Task) -> Value {
        let Some(pool) = self.pools.get(&task.pool) else { return Value::Null };
        let sandbox = &pool.opened.decision.plan.sandbox;
        json!({
            "id": task.kept().map(|kept| kept.id),
            "function_sha256": hex(&task.function_digest()),
            "arguments_sha256": hex(&task.call.header.payload_sha256),
            "opened": {
                "engine": sandbox.engine,
                "image": super::pool::image_text(sandbox),
                "enforced": ric_runtime::enforced(sandbox),
            },
        })
    }

    /// Leaves submitted tasks to the next life, which finds them in the journal.
    pub(super) fn release(&mut self, is_meant: impl Fn(&Task) -> bool) {
        let meant = self.keeping.live.values().copied();
        let meant: Vec<u64> =
            meant.filter(|id| self.tasks.get(id).is_some_and(&is_meant)).collect();
        for id in meant {
            let Some(task) = self.forget_task(id) else { continue };
            if let Some(pool) = self.pools.get_mut(&task.pool) {
                pool.queue.retain(|one| *one != id);
            }
            let member = self.members.values().find(|member| member.task == Some(id));
            member.map(|member| member.id).into_iter().for_each(|member| self.retire(member));
        }
    }

    pub(super) fn tell_ending(&mut self, client: ClientId, name: TaskId, ending: &Ending) {
        if let Some(client) = self.clients.get_mut(&client) {
            ending.tell(&mut client.writer, name, None);
            self.clients_to_flush.insert(client.id);
        }
    }

    pub(super) fn tell_answer(&mut self, client: ClientId, name: TaskId, answer: &Value) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.writer.push(Kind::Answer, name, b"", answer.to_string().as_bytes());
            self.clients_to_flush.insert(client.id);
        }
    }
}

/// The function and the call of a submitted task, as its journal has them.
pub(super) fn letters(parts: Vec<(Part, Payload)>) -> Option<(Function, Frame)> {
    let mut parts = parts.into_iter().skip(2);
    let mut letter = |kind| {
        let (_, metadata) = parts.next()?;
        let Payload::Bytes(metadata) = metadata else { return None };
        let (part, payload) = parts.next()?;
        Some((header_of(kind, &part), metadata, payload))
    };
    let (header, metadata, payload) = letter(Kind::Function)?;
    let function = Function { header, metadata, payload };
    let (header, metadata, payload) = letter(Kind::Call)?;
    Some((function, Frame { header, metadata, payload, descriptors: Vec::new(), fault: None }))
}

/// The header of a frame with this payload; to be readdressed when it is sent.
pub(super) fn header_of(kind: Kind, part: &Part) -> Header {
    let header = Header::new(kind, NO_TASK, ric_runtime::Carriage::Inline, b"", b"");
    let mut header = header.expect("nothing is no more than any bound");
    header.payload_bytes = part.bytes;
    header.payload_sha256 = part.sha256;
    header
}

fn part_of(header: &Header) -> Part {
    Part { bytes: header.payload_bytes, sha256: header.payload_sha256 }
}

fn small(bytes: impl Into<Vec<u8>>) -> (Part, Content) {
    let bytes = bytes.into();
    let part = Part { bytes: bytes.len() as u64, sha256: Sha256::digest(&bytes).into() };
    (part, Content::bytes(bytes))
}

fn shared(bytes: &Arc<Vec<u8>>, sha256: Sha256Digest) -> (Part, Content) {
    (Part { bytes: bytes.len() as u64, sha256 }, Content::Shared(Arc::clone(bytes)))
}

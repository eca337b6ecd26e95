//! What members say: answers, what tasks print, how they end.

use std::os::fd::AsFd;
use std::time::Instant;

use ric_runtime::{Event, Exited, Fresh, Kind, NO_TASK, Residue, Status};
use serde::Deserialize;

use super::answer::{Ending, Ran, status_of_answer, with_ran};
use super::client::WAITING_BYTES_MAX;
use super::daemon::Daemon;
use super::events::Due;
use super::member::{MemberId, State, read_printed};
use super::task::{Origin, Task};
use ric_runtime::wire::{Frame, WireError};

/// Bytes of what a task prints that are read at once.
pub(super) const PRINTED_BYTES: usize = 64 << 10;

/// Metadata of OUTPUT, by stream.
pub(super) const OUTPUT: [&[u8]; 2] = [br#"{"stream":"stdout"}"#, br#"{"stream":"stderr"}"#];

/// How a child ended that a template had forked.
#[derive(Debug, Deserialize)]
struct ChildEnded {
    wait_status: i32,
    #[serde(default)]
    cpu_us: u64,
    #[serde(default)]
    largest_kib: u64,
}

impl Daemon {
    pub(super) fn hear_worker(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        self.members_to_flush.insert(id);
        match member.reader.fill(member.stream.as_fd()) {
            // How it ended is what its init says next.
            Err(WireError::Ended) => {
                let _ = self.events.remove(&member.stream);
            }
            Err(error) => self.broke(id, &error),
            Ok(_) => {
                if let Err(error) = self.take_answers(id) {
                    self.broke(id, &error);
                }
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is a breach")]
    fn take_answers(&mut self, id: MemberId) -> Result<(), WireError> {
        loop {
            let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
            let Some(frame) = member.reader.next(&member.terms())? else { return Ok(()) };
            if let Some(fault) = frame.fault {
                return Err(WireError::Frame(fault));
            }
            match frame.header.kind {
                Kind::Hello if !member.greeted => member.greeted = true,
                _ if !member.greeted => {
                    return Err(WireError::Breach("answered before it greeted"));
                }
                Kind::Ready => self.woke(id)?,
                Kind::Child => self.child_ended(id, &frame)?,
                Kind::Need => self.needs(id, &frame)?,
                Kind::Result | Kind::Error | Kind::Declined | Kind::Corrupt => {
                    self.answered(id, frame)?;
                }
                _ => return Err(WireError::Breach("sent a frame that means nothing here")),
            }
        }
    }

    /// Its worker is ready for a call.
    fn woke(&mut self, id: MemberId) -> Result<(), WireError> {
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        if member.state != State::Waking {
            return Err(WireError::Breach("said that it is ready, which it was"));
        }
        // Until it has a task or rests.
        member.state = State::Idle;
        if let Some(pool) = self.pools.get_mut(&member.pool)
            && member.tasks_run == 0
        {
            pool.starting -= 1;
        }
        self.ready(id);
        Ok(())
    }

    fn needs(&mut self, id: MemberId, frame: &Frame) -> Result<(), WireError> {
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        let task = member.task.filter(|task| Task::worker_name(*task) == frame.header.task);
        let task = task.and_then(|task| self.tasks.get(&task));
        let task = task.ok_or(WireError::Breach("asked for a function of another task"))?;
        if member.needed.replace(task.id) == Some(task.id) {
            return Err(WireError::Breach("asked for a function that it was just sent"));
        }
        let none_left = |_| WireError::Breach("needs a descriptor, and none is left");
        let function = &task.function;
        let payload = function.payload.try_clone().map_err(none_left)?;
        let name = frame.header.task;
        member.writer.forward(&function.header, name, &function.metadata, payload);
        let payload = task.call.payload.try_clone().map_err(none_left)?;
        member.writer.forward(&task.call.header, name, &task.call.metadata, payload);
        Ok(())
    }

    /// Passes an answer on, and sees to what comes next for the member.
    fn answered(&mut self, id: MemberId, frame: Frame) -> Result<(), WireError> {
        // Before its task is taken from the member: else nobody would end it.
        if with_ran(&frame.metadata, "").is_none() {
            return Err(WireError::Breach("answered with metadata that is no JSON object"));
        }
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        let asked = member.task.take_if(|task| Task::worker_name(*task) == frame.header.task);
        let Some(task) = asked else {
            // What cannot be read has no task, and is the end of the stream.
            if frame.header.task == NO_TASK && frame.header.kind == Kind::Corrupt {
                return Err(WireError::Breach("could not read what it was sent"));
            }
            return Err(WireError::Breach("answered for another task"));
        };
        let now = Instant::now();
        member.deadline = None;
        member.tasks_run += 1;
        let warm = member.tasks_run > 1;
        let container = member.container.facts().id.clone();
        let Some(pool) = self.pools.get_mut(&member.pool) else { return Ok(()) };
        let fresh = pool.opened.fresh;
        member.state = if fresh == Fresh::Process { State::Answered } else { State::Waking };
        let forgotten = self.forget_task(task);
        if let Some(task) = forgotten {
            let ran = Ran {
                container: &container,
                warm,
                task: &task,
                now,
                cpu_us: None,
                memory_peak_bytes: None,
            };
            let ran = ran.to_text();
            let status = status_of_answer(frame.header.kind);
            self.counted.ended(&task, status);
            self.audit.answered(&task, status, &ran);
            let metadata = with_ran(&frame.metadata, &ran).unwrap_or_default();
            match task.origin {
                Origin::Client { client: id, name } => {
                    if let Some(client) = self.clients.get_mut(&id) {
                        client.writer.forward(&frame.header, name, &metadata, frame.payload);
                        self.clients_to_flush.insert(id);
                    }
                }
                Origin::Kept(_) => self.keep_answer(task, &frame.header, &metadata, frame.payload),
            }
        }
        let pool = self.members.get(&id).map(|member| member.pool);
        match fresh {
            Fresh::Nothing => {
                self.ready(id);
                return Ok(());
            }
            Fresh::Process => {}
            Fresh::Container => self.retire(id),
        }
        // What it cannot take, another one may.
        pool.into_iter().for_each(|pool| self.grow(pool));
        Ok(())
    }

    /// The process of one call has ended: what it left is ended and removed before the next begins.
    fn child_ended(&mut self, id: MemberId, frame: &Frame) -> Result<(), WireError> {
        let ended: ChildEnded = serde_json::from_slice(&frame.metadata).map_err(|_| {
            WireError::Breach("said how a child ended in a way that cannot be read")
        })?;
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        if let Some(task) = member.task.take() {
            member.deadline = None;
            member.tasks_run += 1;
            let ChildEnded { wait_status, cpu_us, largest_kib } = ended;
            let ending = member.ending(Some(Exited { wait_status, cpu_us, largest_kib }));
            let pool = member.pool;
            self.end_task(task, &how_it_ended(ending));
            self.grow(pool);
        }
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        if member.promised.is_some() {
            return Err(WireError::Breach("lost a process that had no task"));
        }
        match member.state {
            State::Working | State::Answered => {}
            // One that was forked ahead and ended by itself: nothing of a task's.
            State::Idle | State::Waking | State::Cleaning => {
                return Err(WireError::Breach("lost a process that had no task"));
            }
        }
        member.state = State::Cleaning;
        member.container.begin_reset().map_err(WireError::Io)
    }

    /// What a container's init says.
    pub(super) fn hear_init(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        match member.container.hear() {
            Ok(None | Some(Event::Terminal(_))) => {}
            Ok(Some(Event::Reset(Residue::Clean))) if member.state == State::Cleaning => {
                member.state = State::Waking;
                member.writer.push(Kind::Again, NO_TASK, b"", &[]);
                self.members_to_flush.insert(id);
            }
            // A container in which anything remains is thrown away.
            Ok(Some(Event::Reset(_))) => self.give_up(id),
            Ok(Some(Event::NotStarted(why))) => {
                let Some(pool) = self.pools.get(&member.pool) else { return };
                let ending = why.ending(&pool.opened.decision.plan.work);
                self.lost_member(id, &how_it_ended(ending));
            }
            Ok(Some(Event::Exited(exited))) => self.worker_ended(id, Some(exited)),
            Ok(Some(Event::Ended)) | Err(_) => self.worker_ended(id, None),
        }
    }

    /// Its worker has ended, or all of it.
    fn worker_ended(&mut self, id: MemberId, exited: Option<Exited>) {
        // What it said and printed before it ended is still there.
        self.hear_printed(id, 0);
        self.hear_printed(id, 1);
        self.hear_worker(id);
        let Some(member) = self.members.get_mut(&id) else { return };
        let ending = member.ending(exited);
        self.lost_member(id, &how_it_ended(ending));
    }

    /// A member that ended by itself, and why its task has no answer.
    fn lost_member(&mut self, id: MemberId, ending: &Ending) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let (pool, woke) = (member.pool, member.greeted && member.state != State::Waking);
        let never_worked = member.tasks_run == 0 && !woke;
        if let Some(task) = member.task {
            self.end_task(task, ending);
        }
        self.retire(id);
        if never_worked {
            self.start_failed(pool, ending);
        }
        self.grow(pool);
        self.forget(pool);
    }

    /// A member that does what no worker may: nothing that it says can be used.
    fn broke(&mut self, id: MemberId, error: &WireError) {
        let cause = std::error::Error::source(error);
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        let corrupt = matches!(error, WireError::Frame(ric_runtime::FrameError::Corrupt { .. }));
        let status = if corrupt { Status::Corrupt } else { Status::Failed };
        let text = format!("the worker of the task cannot be believed: it {error}{cause}");
        self.counted.breaches += 1;
        self.lost_member(id, &Ending::new(status, text));
    }

    /// Ends a member that has no task.
    fn give_up(&mut self, id: MemberId) {
        let Some(pool) = self.members.get(&id).map(|member| member.pool) else { return };
        self.counted.not_clean += 1;
        self.retire(id);
        self.grow(pool);
        self.forget(pool);
    }

    /// Passes on what a task prints. Nobody waits for a client that does not read.
    pub(super) fn hear_printed(&mut self, id: MemberId, stream: usize) {
        let mut buffer = std::mem::take(&mut self.printed);
        buffer.resize(PRINTED_BYTES, 0);
        self.pass_printed(id, stream, &mut buffer);
        self.printed = buffer;
    }

    fn pass_printed(&mut self, id: MemberId, stream: usize, buffer: &mut [u8]) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let pipe = if stream == 0 { &member.stdout } else { &member.stderr };
        let bytes = match read_printed(pipe, buffer) {
            Ok(None) => return,
            Ok(Some(0)) | Err(_) => {
                let _ = self.events.remove(pipe);
                return;
            }
            Ok(Some(bytes)) => bytes,
        };
        let Some(pool) = self.pools.get(&member.pool) else { return };
        let whose = || (member.container.facts().id.clone(), pool.uid);
        self.logs.add(id, &buffer[..bytes], whose);
        let Some(task) = member.task.and_then(|task| self.tasks.get_mut(&task)) else { return };
        let bounds = pool.opened.decision.plan.work.bounds;
        let most = [bounds.stdout_bytes_max, bounds.stderr_bytes_max][stream];
        let (reads, most) = match &task.origin {
            Origin::Client { client, .. } => {
                let client = self.clients.get(client);
                (client.is_some_and(|client| client.writer.bytes() < WAITING_BYTES_MAX), most)
            }
            Origin::Kept(_) => (true, most.min(super::kept::PRINTED_BYTES_MAX)),
        };
        let room = if reads { most.saturating_sub(task.printed_bytes[stream]) } else { 0 };
        let kept = bytes.min(usize::try_from(room).unwrap_or(usize::MAX));
        task.printed_bytes[stream] += kept as u64;
        task.left_out_bytes += (bytes - kept) as u64;
        if kept == 0 {
            return;
        }
        match &mut task.origin {
            Origin::Client { client: id, name } => {
                let Some(client) = self.clients.get_mut(id) else { return };
                client.writer.push(Kind::Output, *name, OUTPUT[stream], &buffer[..kept]);
                self.clients_to_flush.insert(*id);
            }
            Origin::Kept(task) => task.printed[stream].extend_from_slice(&buffer[..kept]),
        }
    }

    /// Ends a member that has been idle for long enough.
    pub(super) fn look_at_idle(&mut self, id: MemberId, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.idle_timer = false;
        if member.state != State::Idle {
            return;
        }
        let over = member.idle_since + self.rules.idle;
        if over > now {
            member.idle_timer = true;
            return self.timers.add(over, Due::Idle(id));
        }
        let pool = member.pool;
        self.retire(id);
        self.forget(pool);
    }

    pub(super) fn start_took_too_long(&mut self, id: MemberId) {
        let waking =
            |member: &super::member::Member| member.state == State::Waking && member.tasks_run == 0;
        if self.members.get(&id).is_some_and(waking) {
            let text = "the worker was not ready in time: its interpreter or a preload hangs";
            self.lost_member(id, &Ending::new(Status::Timeout, text));
        }
    }
}

/// What a caller is told of a worker that ended before it answered.
fn how_it_ended(ending: ric_runtime::Ending) -> Ending {
    let ric_runtime::Ending { status, exit_code, error } = ending.of_call();
    Ending { exit_code, ..Ending::new(status, error.unwrap_or_default()) }
}

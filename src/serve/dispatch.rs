//! Which container does which task, and when containers begin and end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ric_runtime::{Container, Fresh, Status, TaskId, Worker};

use super::answer::{Ending, Ran};
use super::client::ClientId;
use super::daemon::{Daemon, Done};
use super::events::{Due, Source};
use super::member::{Leaving, Member, MemberId, State};
use super::open::Opened;
use super::pool::{self, PoolId};
use super::task::{Origin, Task};
use crate::failure::Failure;
use crate::progress;

/// How long a container may take until its worker is ready, preloads included.
const START_MAX: Duration = Duration::from_secs(300);
/// How long a container that was told to end may take.
const LEAVE_MAX: Duration = Duration::from_secs(20);

impl Daemon {
    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Opened { client, request, modules, result } => {
                self.opened(client, request, modules, result);
            }
            Done::Renewed { client, handle, result } => self.renewed(client, handle, result),
            Done::Started { pool, result } => self.started(pool, *result),
            Done::Committed(committed) => self.committed(*committed),
            Done::Fetched(fetched) => self.fetched(fetched),
            Done::Resumed(resumed) => self.resumed(*resumed),
            Done::ClearedUp => {}
        }
    }

    /// Gives a member that is not in the list of idle ones the task that has waited longest.
    pub(super) fn give(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(pool) = self.pools.get_mut(&member.pool) else { return };
        let task = pool.take_task().and_then(|task| self.tasks.get_mut(&task));
        let Some(task) = task else {
            return self.rest(id);
        };
        pool.busy += 1;
        task.given = true;
        member.state = State::Working;
        member.promised = Some(task.id);
        // That it may have run is on disk before it can.
        if self.keeping.announce(task) {
            self.hand_over(id);
        }
    }

    /// Sends a member the task that it was promised.
    pub(super) fn hand_over(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(pool) = self.pools.get_mut(&member.pool) else { return };
        let task = member.promised.take().and_then(|task| self.tasks.get_mut(&task));
        let Some(task) = task else { return };
        let now = Instant::now();
        task.begun = Some(now);
        member.task = Some(task.id);
        member.result_bytes_max = task.result_bytes_max;
        let name = Task::worker_name(task.id);
        let forked = pool.opened.fresh == Fresh::Process;
        if member.known.insert(task.function_digest()) || forked {
            let function = &task.function;
            match function.payload.try_clone() {
                Ok(payload) => {
                    member.writer.forward(&function.header, name, &function.metadata, payload);
                }
                // Without it the worker says NEED, which is tried again.
                Err(_) => drop(member.known.remove(&task.function_digest())),
            }
        }
        let payload = task.call.payload.try_clone();
        let Ok(payload) = payload else {
            let id = task.id;
            return self.end_task(id, &Ending::new(Status::Error, "no descriptor is left"));
        };
        member.writer.forward(&task.call.header, name, &task.call.metadata, payload);
        self.members_to_flush.insert(id);
        if let Some(deadline) = task.deadline {
            let at = now + deadline;
            member.deadline = Some(at);
            if member.deadline_timer.is_none_or(|timer| timer > at) {
                member.deadline_timer = Some(at);
                self.timers.add(at, Due::Deadline(id));
            }
        }
    }

    /// A member that has nothing to do: kept warm, or given up for somebody who has nothing.
    fn rest(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(pool) = self.pools.get_mut(&member.pool) else { return };
        if pool.draining || self.draining.is_some() {
            return self.retire(id);
        }
        member.state = State::Idle;
        let now = Instant::now();
        member.idle_since = now;
        if !member.idle_timer {
            member.idle_timer = true;
            self.timers.add(now + self.rules.idle, Due::Idle(id));
        }
        pool.idle.push(id);
        if !self.hungry.is_empty() {
            self.feed_hungry();
        }
    }

    /// A member that can take a task: takes the next one, unless another user waits who has less.
    pub(super) fn ready(&mut self, id: MemberId) {
        let Some(uid) = self.uid_of(id) else { return };
        let has = |uid: u32| self.users.get(&uid).map_or(0, |user| user.containers);
        let poorer = self.hungry.iter().any(|pool| {
            let other = self.pools.get(pool).map_or(uid, |pool| pool.uid);
            other != uid && has(other) < has(uid)
        });
        if poorer {
            return self.retire(id);
        }
        self.give(id);
    }

    fn uid_of(&self, member: MemberId) -> Option<u32> {
        let pool = self.members.get(&member)?.pool;
        self.pools.get(&pool).map(|pool| pool.uid)
    }

    /// Gives tasks that wait to members that are idle, and starts containers that a pool lacks, as
    /// far as there is room.
    pub(super) fn grow(&mut self, id: PoolId) {
        while let Some(pool) = self.pools.get_mut(&id)
            && !pool.queue.is_empty()
            && let Some(member) = pool.take_idle()
        {
            self.give(member);
        }
        loop {
            let Some(pool) = self.pools.get(&id) else { return };
            if (pool.draining || self.draining.is_some()) && pool.queue.is_empty() {
                return;
            }
            let waking = pool.starting;
            let working = pool.members - pool.idle.len() - waking;
            if pool.members >= pool.wanted(working) {
                return;
            }
            if !self.has_room_for(id) {
                if !self.hungry.contains(&id) {
                    self.hungry.push_back(id);
                }
                return self.make_room();
            }
            self.start(id);
        }
    }

    fn has_room_for(&self, id: PoolId) -> bool {
        let Some(pool) = self.pools.get(&id) else { return false };
        let own = self.users.get(&pool.uid).map_or(0, |user| user.containers);
        let memory = pool.memory_bytes();
        self.containers < self.rules.containers_most
            && own < self.rules.containers_per_user_most
            && (self.memory_bytes.saturating_add(memory) <= self.rules.memory_bytes_most
                || self.containers == 0)
    }

    /// Ends the idle container that was not used for the longest time, if there is one.
    fn make_room(&mut self) {
        let idle = self.pools.values().flat_map(|pool| pool.idle.first());
        let oldest = idle.min_by_key(|id| self.members.get(id).map(|member| member.idle_since));
        if let Some(oldest) = oldest.copied() {
            self.retire(oldest);
        }
    }

    /// Lets those start who had no room, the user with the fewest containers first.
    fn feed_hungry(&mut self) {
        let mut hungry: Vec<PoolId> = std::mem::take(&mut self.hungry).into();
        hungry.sort_by_key(|pool| {
            let uid = self.pools.get(pool).map(|pool| pool.uid);
            uid.and_then(|uid| self.users.get(&uid)).map_or(0, |user| user.containers)
        });
        for pool in hungry {
            self.grow(pool);
        }
    }

    fn start(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.members += 1;
        pool.starting += 1;
        self.containers += 1;
        self.memory_bytes += pool.memory_bytes();
        let (uid, opened) = (pool.uid, Arc::clone(&pool.opened));
        self.with_user(uid, |user| user.containers += 1);
        let site = Arc::clone(&self.site);
        let job = move || {
            let result = Box::new(site.session().and_then(|session| start(&session, &opened)));
            Done::Started { pool: id, result }
        };
        self.hands.begin(uid, Box::new(job));
    }

    fn started(&mut self, id: PoolId, result: Result<(Container, Worker), Failure>) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let (uid, memory_bytes) = (pool.uid, pool.memory_bytes());
        let (container, worker) = match result {
            Ok(started) => started,
            Err(failure) => {
                pool.starting -= 1;
                pool.members -= 1;
                self.containers -= 1;
                self.memory_bytes -= memory_bytes;
                self.with_user(uid, |user| user.containers -= 1);
                return self.start_failed(id, &Ending::of(&failure));
            }
        };
        let fork = pool.fresh() == Fresh::Process;
        let preload = pool::preload(&pool.opened);
        let modules = pool.modules.clone();
        let member_id = self.next_id();
        let mut member = Member::new(member_id, id, container, worker);
        member.greet(&preload, modules.as_deref().map(Vec::as_slice), fork);
        let watched = [
            self.events.add(&member.stream, Source::Worker(member_id)),
            self.events.add(&member.stdout, Source::Stdout(member_id)),
            self.events.add(&member.stderr, Source::Stderr(member_id)),
            self.events.add(member.container.control_fd(), Source::Control(member_id)),
        ];
        self.counted.containers_started += 1;
        self.timers.add(Instant::now() + START_MAX, Due::Start(member_id));
        self.members.insert(member_id, member);
        self.members_to_flush.insert(member_id);
        if let Some(Err(error)) = watched.into_iter().find(Result::is_err) {
            self.retire(member_id);
            let text = format!("cannot watch a container: {error}");
            self.start_failed(id, &Ending::new(Status::Error, text));
        }
    }

    /// Nobody waits for a container that cannot be had.
    pub(super) fn start_failed(&mut self, id: PoolId, ending: &Ending) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        self.counted.starts_failed += 1;
        if pool.members == 0 {
            for task in std::mem::take(&mut pool.queue) {
                self.end_task(task, ending);
            }
        }
        self.forget(id);
    }

    /// Ends a member. A task that it has is not ended by this; one that it was promised is the next
    /// of its pool.
    pub(super) fn retire(&mut self, id: MemberId) {
        let Some(member) = self.members.remove(&id) else { return };
        self.logs.end(id);
        let Some(pool) = self.pools.get_mut(&member.pool) else { return };
        pool.members -= 1;
        pool.remove_idle(id);
        if matches!(member.state, State::Waking) && member.tasks_run == 0 {
            pool.starting -= 1;
        }
        let (uid, memory_bytes) = (pool.uid, pool.memory_bytes());
        self.with_user(uid, |user| user.containers -= 1);
        let Member { container, stream, stdout, stderr, promised, .. } = member;
        // The others leave epoll as they are closed. What is ready already finds no member.
        let _ = self.events.remove(container.control_fd());
        drop((stream, stdout, stderr));
        container.end();
        match container.ended_fd() {
            Ok(ended) => {
                // If it cannot be watched, it is looked at when its time has passed.
                let _ = self.events.add(&ended, Source::Ended(id));
                self.timers.add(Instant::now() + LEAVE_MAX, Due::Left(id));
                self.leaving.insert(
                    id,
                    Leaving { container, uid, memory_bytes: Some(memory_bytes), ended },
                );
            }
            // Ended and waited for all the same, by being dropped.
            Err(_) => {
                drop(container);
                self.freed(memory_bytes);
            }
        }
        promised.into_iter().for_each(|task| self.put_back(task));
    }

    /// Nothing is left of a container.
    pub(super) fn left(&mut self, id: MemberId) {
        let Some(mut leaving) = self.leaving.remove(&id) else { return };
        let _ = self.events.remove(&leaving.ended);
        if !leaving.container.has_cleared_up() {
            let container = leaving.container;
            self.hands.begin_at_once(Box::new(move || {
                drop(container);
                Done::ClearedUp
            }));
        }
        if let Some(memory_bytes) = leaving.memory_bytes {
            self.freed(memory_bytes);
        }
    }

    fn freed(&mut self, memory_bytes: u64) {
        self.containers -= 1;
        self.memory_bytes -= memory_bytes;
        self.feed_hungry();
    }

    /// A container that does not end, as one whose process waits for a file system that does not
    /// answer: its place is given to another, and it is told of.
    pub(super) fn left_took_too_long(&mut self, id: MemberId) {
        let Some(leaving) = self.leaving.get_mut(&id) else { return };
        let Some(memory_bytes) = leaving.memory_bytes.take() else { return };
        let name = &leaving.container.facts().id;
        progress::tell(&format!("container {name} of uid {} does not end", leaving.uid));
        self.counted.stuck += 1;
        self.freed(memory_bytes);
    }

    /// Ends a task that no worker answers (any more), and tells who waits for it.
    pub(super) fn end_task(&mut self, id: u64, ending: &Ending) {
        let Some(task) = self.forget_task(id) else { return };
        let member = self.members.values().find(|member| member.task == Some(id));
        let ran = member.map(|member| {
            let usage = member.container.usage();
            Ran {
                container: &member.container.facts().id,
                warm: member.tasks_run > 0,
                task: &task,
                now: Instant::now(),
                cpu_us: None,
                memory_peak_bytes: usage.memory_peak_bytes,
            }
            .to_json()
        });
        self.counted.ended(&task, ending.status);
        self.audit.ended(&task, ending.status, ran.as_ref());
        match task.origin {
            Origin::Client { client: id, name } => {
                if let Some(client) = self.clients.get_mut(&id) {
                    ending.tell(&mut client.writer, name, ran);
                    self.clients_to_flush.insert(id);
                }
            }
            Origin::Kept(_) => self.keep_ending(task, ending, ran),
        }
    }

    /// Takes a task out of everything that counts it.
    pub(super) fn forget_task(&mut self, id: u64) -> Option<Task> {
        let task = self.tasks.remove(&id)?;
        let bytes = task.bytes();
        self.with_user(task.uid, |user| {
            user.tasks -= 1;
            user.bytes -= bytes;
        });
        if task.given
            && let Some(pool) = self.pools.get_mut(&task.pool)
        {
            pool.busy -= 1;
        }
        match &task.origin {
            Origin::Client { client, name } => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.tasks.remove(name);
                }
            }
            Origin::Kept(kept) => drop(self.keeping.live.remove(&kept.id)),
        }
        Some(task)
    }

    /// Ends a task before its time: one that waits, waits no longer; one that runs is stopped with
    /// its container, C code included.
    pub(super) fn stop_task(&mut self, id: u64, ending: &Ending) {
        let Some(task) = self.tasks.get(&id) else { return };
        let pool_id = task.pool;
        let has = |member: &&Member| member.task == Some(id) || member.promised == Some(id);
        let member = self.members.values().find(has).map(|member| member.id);
        if let Some(pool) = self.pools.get_mut(&pool_id) {
            pool.queue.retain(|one| *one != id);
        }
        self.end_task(id, ending);
        if let Some(member) = member {
            self.retire(member);
        }
        self.grow(pool_id);
        self.forget(pool_id);
    }

    /// Has a task that was promised to a member that is no more be the next of its pool.
    fn put_back(&mut self, task: u64) {
        let Some(pool_id) = self.tasks.get(&task).map(|task| task.pool) else { return };
        if let Some(pool) = self.pools.get_mut(&pool_id) {
            pool.queue.push_front(task);
        }
        self.grow(pool_id);
    }

    pub(super) fn cancel(&mut self, client: ClientId, name: TaskId) {
        if self.cancel_fetch(client, name) {
            return;
        }
        let task = self.clients.get(&client).and_then(|client| client.tasks.get(&name)).copied();
        if let Some(task) = task {
            self.stop_task(task, &Ending::new(Status::Cancelled, "the caller cancelled the task"));
        }
    }

    /// A task whose client is gone.
    pub(super) fn abandon(&mut self, task: u64) {
        self.stop_task(task, &Ending::new(Status::Cancelled, "its client went away"));
    }

    pub(super) fn deadline(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(at) = member.deadline else {
            member.deadline_timer = None;
            return;
        };
        if at > Instant::now() {
            member.deadline_timer = Some(at);
            return self.timers.add(at, Due::Deadline(id));
        }
        if let Some(task) = member.task {
            let limit = self.tasks.get(&task).and_then(|task| task.deadline).unwrap_or_default();
            let text = format!("the task did not end within its time of {limit:?}, and was ended");
            self.stop_task(task, &Ending::new(Status::Timeout, text));
        }
    }
}

/// Starts a container and its worker.
fn start(
    session: &crate::session::Session,
    opened: &Opened,
) -> Result<(Container, Worker), Failure> {
    let decision = &opened.decision;
    let image = session.ensure_root(decision, &ric_images::Silent)?;
    let container = session.start(decision, &image, &opened.descriptors)?;
    let worker = container.start_worker(&decision.plan.work, &opened.descriptors);
    let worker = worker.map_err(|error| crate::blame::run(&error))?;
    Ok((container, worker))
}

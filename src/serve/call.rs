//! CALL: from what a client says to a task that is queued, or submitted.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ric_runtime::wire::Frame;
use ric_runtime::{Kind, Status, TaskId};
use serde_json::json;

use super::answer::Ending;
use super::client::{CallAsk, Client, ClientId, Function, Leads, Modules, parse_sha256};
use super::daemon::{Daemon, User};
use super::open::Opened;
use super::pool::{Lease, PoolId};
use super::task::{Origin, Task};

impl Daemon {
    pub(super) fn call(&mut self, id: ClientId, frame: Frame) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let name = frame.header.task;
        let parsed = serde_json::from_slice::<CallAsk<'_>>(&frame.metadata);
        let ask = match parsed {
            Ok(ask) => ask,
            Err(error) => {
                let text = format!("cannot read what a CALL asks for: {error}");
                return Ending::new(Status::Error, text).tell(&mut client.writer, name, None);
            }
        };
        if let Some(handle) = client.handles.get_mut(&ask.pool)
            && let Leads::Nowhere { waiting } = &mut handle.leads
        {
            drop(ask);
            return waiting.push(frame);
        }
        match prepare(client, &name, &ask) {
            Err(Unprepared::Ended(ending)) => ending.tell(&mut client.writer, name, None),
            Err(Unprepared::Need(digest)) => {
                let need = json!({"function_sha256": digest}).to_string();
                client.writer.push(Kind::Need, name, need.as_bytes(), &[]);
            }
            Ok(prepared) => {
                let Prepared { pool, opened, modules, function, bounds } = prepared;
                let (keep, rerun, uid) = (ask.keep, ask.rerun, client.caller.uid);
                let function_name = ask.function.unwrap_or_default().into_owned();
                let origin = Origin::Client { client: id, name };
                let task = self.make_task(origin, uid, pool, frame, function, bounds);
                match keep {
                    false => self.queue(id, task),
                    true => self.submit(id, task, rerun, function_name, &opened, modules),
                }
            }
        }
    }

    /// Takes a client's task on, or says that there is no room for it.
    pub(super) fn queue(&mut self, id: ClientId, task: Task) {
        let busy = self.no_room(task.uid, task.bytes());
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Origin::Client { name, .. } = task.origin else { return };
        if let Some(busy) = busy {
            self.counted.busy += 1;
            return busy.tell(&mut client.writer, name, None);
        }
        client.tasks.insert(name, task.id);
        self.enter(task);
    }

    /// Why one more task of `uid`, of this size, cannot be taken on now.
    pub(super) fn no_room(&self, uid: u32, bytes: u64) -> Option<Ending> {
        let none = User::default();
        let user = self.users.get(&uid).unwrap_or(&none);
        let full = user.tasks >= self.rules.tasks_per_user_most
            || user.bytes + bytes > self.rules.bytes_per_user_most;
        let why = match (full, self.draining) {
            (true, _) => "your queue is full",
            (false, Some(_)) => "the daemon is ending",
            (false, None) => return None,
        };
        let text = format!("{why}: {} tasks of yours wait or run here", user.tasks);
        Some(Ending::busy(text, RETRY_MIN))
    }

    /// Queues a task, and sees to it that a container takes it.
    pub(super) fn enter(&mut self, task: Task) {
        let (uid, bytes) = (task.uid, task.bytes());
        let (id, pool_id) = (task.id, task.pool);
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        pool.queue.push_back(id);
        let idle = pool.take_idle();
        let is_starting = pool.starting == pool.members;
        self.tasks.insert(id, task);
        self.with_user(uid, |user| {
            user.tasks += 1;
            user.bytes += bytes;
        });
        let lease = match idle {
            Some(member) => {
                let is_new = self.members.get(&member).is_some_and(|member| member.tasks_run == 0);
                self.give(member);
                if is_new { Lease::Stock } else { Lease::Warm }
            }
            None => {
                self.grow(pool_id);
                match self.hungry.contains(&pool_id) {
                    true => Lease::NoRoom,
                    false if is_starting => Lease::Starting,
                    false => Lease::Busy,
                }
            }
        };
        if let Some(pool) = self.pools.get_mut(&pool_id) {
            *pool.leases.entry(lease).or_default() += 1;
        }
    }

    pub(super) fn make_task(
        &mut self,
        origin: Origin,
        uid: u32,
        pool: PoolId,
        call: Frame,
        function: Rc<Function>,
        bounds: CallBounds,
    ) -> Task {
        let CallBounds { deadline, result_bytes_max } = bounds;
        Task {
            id: self.next_id(),
            origin,
            uid,
            pool,
            call,
            function,
            deadline,
            result_bytes_max,
            queued: Instant::now(),
            begun: None,
            given: false,
            printed_bytes: [0; 2],
            left_out_bytes: 0,
        }
    }
}

/// What a client that is told "busy" should wait for at least.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(50);

/// What a call needs before it can be queued.
struct Prepared {
    pool: PoolId,
    opened: Arc<Opened>,
    modules: Modules,
    function: Rc<Function>,
    bounds: CallBounds,
}

/// How long a call may take, and how much may come back.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallBounds {
    deadline: Option<Duration>,
    result_bytes_max: u64,
}

impl CallBounds {
    /// What a call gets of what was granted; `Err`: it asks for more.
    pub(super) fn new(ask: &CallAsk<'_>, opened: &Opened) -> Result<CallBounds, Ending> {
        let work = &opened.decision.plan.work;
        let most = work.bounds.result_bytes_max;
        if ask.result_bytes_max > most {
            let asked = ask.result_bytes_max;
            let text =
                format!("a result of {asked} bytes is asked for, and at most {most} may come back");
            return Err(Ending::new(Status::Error, text));
        }
        let asked = ask.deadline_ms.map(Duration::from_millis);
        let deadline = match (asked, work.deadline) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        };
        Ok(CallBounds { deadline, result_bytes_max: ask.result_bytes_max })
    }
}

/// Why a call cannot be queued.
enum Unprepared {
    Ended(Ending),
    /// Its function is not here (any more).
    Need(String),
}

fn prepare(client: &Client, name: &TaskId, ask: &CallAsk<'_>) -> Result<Prepared, Unprepared> {
    let error = |text: String| Unprepared::Ended(Ending::new(Status::Error, text));
    if ask.rerun && !ask.keep {
        return Err(error("only a call that is submitted can be run again".to_owned()));
    }
    if client.tasks.contains_key(name) || client.fetches.contains_key(name) {
        return Err(error("a task of this name has not ended".to_owned()));
    }
    let handle = client
        .handles
        .get(&ask.pool)
        .ok_or_else(|| error(format!("pool {} was not opened on this connection", ask.pool)))?;
    let pool = match &handle.leads {
        Leads::To(pool) => *pool,
        Leads::Refused(ending) => return Err(Unprepared::Ended(ending.clone())),
        Leads::Nowhere { .. } => return Err(error("it is being decided again".to_owned())),
    };
    let digest = parse_sha256(&ask.function_sha256)
        .ok_or_else(|| error("function_sha256 is not 64 lower-case hex digits".to_owned()))?;
    let bounds = CallBounds::new(ask, &handle.opened).map_err(Unprepared::Ended)?;
    let function = client.functions.find(&digest);
    let function = function.ok_or_else(|| Unprepared::Need(ask.function_sha256.to_string()))?;
    Ok(Prepared {
        pool,
        opened: Arc::clone(&handle.opened),
        modules: handle.modules.clone(),
        function: Rc::clone(function),
        bounds,
    })
}

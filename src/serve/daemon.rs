//! The daemon: waits, hears clients, workers, threads and the clock, and keeps what there is.
//!
//! One thread owns everything here and never waits for anything but the next event, so there is
//! no lock and no order in which two things could happen at once. What takes long is done by
//! [`super::hands`]. In reading order: [`turn`](Daemon::turn), then what clients say, here; what
//! becomes of it in `dispatch.rs`, what members do in `attend.rs`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ric_runtime::{
    Caller, Container, Kind, NO_TASK, TaskId, VERSION_HIGHEST, VERSION_LOWEST, Worker, read_peer,
};
use rustix::net::SocketFlags;
use serde_json::json;

use super::answer::Ending;
use super::audit::Audit;
use super::client::{Client, ClientId, FromClients, HOLD_TIME, HandleId, HelloAsk, Leads, Modules};
use super::events::{Due, Events, Interest, Source, Timers};
use super::fetch::Fetched;
use super::hands::Hands;
use super::journal::Committed;
use super::kept::Keeping;
use super::life::Orders;
use super::member::{Leaving, Member, MemberId};
use super::open::{self, OpenAsk, Opened};
use super::pool::{Pool, PoolId, PoolKey};
use super::resume::Resumed;
use super::rules::Rules;
use super::site::Site;
use super::task::Task;
use crate::failure::Failure;
use crate::task::read_login_name;
use ric_runtime::wire::{Frame, Payload, WireError};

/// How long a client may take to say hello.
const GREETING: Duration = Duration::from_secs(10);
/// Connections in all, and of one user.
const CLIENTS_MAX: usize = 4096;
const CLIENTS_PER_USER_MAX: usize = 512;

/// Everything that the daemon has.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) events: Events,
    pub(super) timers: Timers,
    pub(super) hands: Hands<Done>,
    pub(super) listener: Option<UnixListener>,
    pub(super) orders: Orders,
    pub(super) site: Arc<Site>,
    pub(super) rules: Rules,
    pub(super) audit: Audit,
    pub(super) clients: HashMap<ClientId, Client>,
    pub(super) pools: HashMap<PoolId, Pool>,
    pub(super) keys: HashMap<Arc<PoolKey>, PoolId>,
    pub(super) members: HashMap<MemberId, Member>,
    /// Containers that were told to end.
    pub(super) leaving: HashMap<MemberId, Leaving>,
    pub(super) tasks: HashMap<u64, Task>,
    pub(super) users: HashMap<u32, User>,
    pub(super) keeping: Keeping,
    /// Containers that exist or are being started.
    pub(super) containers: usize,
    /// Memory that their limits add up to.
    pub(super) memory_bytes: u64,
    /// Pools that want a container and have no room for it.
    pub(super) hungry: VecDeque<PoolId>,
    pub(super) count: u64,
    /// Whose queues have something to write.
    pub(super) clients_to_flush: HashSet<ClientId>,
    pub(super) members_to_flush: HashSet<MemberId>,
    /// Since when it takes nothing new and ends when all is done.
    pub(super) draining: Option<Instant>,
    pub(super) printed: Vec<u8>,
    pub(super) counted: super::metrics::Counted,
    pub(super) logs: super::logs::Logs,
}

/// What one user has here.
#[derive(Debug, Default)]
pub(super) struct User {
    pub(super) clients: usize,
    pub(super) tasks: usize,
    pub(super) bytes: u64,
    pub(super) containers: usize,
}

/// What was done on another thread.
#[derive(Debug)]
pub(super) enum Done {
    Opened {
        client: ClientId,
        request: TaskId,
        modules: Modules,
        result: Result<Opened, Failure>,
    },
    /// What had been opened was decided again.
    Renewed {
        client: ClientId,
        handle: HandleId,
        result: Result<Opened, Failure>,
    },
    Started {
        pool: PoolId,
        result: Box<Result<(Container, Worker), Failure>>,
    },
    /// The journal was written.
    Committed(Box<Committed>),
    /// The answer of a submitted task was read.
    Fetched(Fetched),
    /// What submitted tasks of an earlier life need was opened again.
    Resumed(Box<Resumed>),
    /// What a monitor that was killed had left was removed.
    ClearedUp,
}

impl Daemon {
    /// A name that nothing else has or had.
    pub(super) fn next_id(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Waits for what comes next, and attends to it.
    ///
    /// # Errors
    /// What the kernel says when it cannot be waited at all.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let time = self.timers.until_next(Instant::now());
        let held = (!self.clients_to_flush.is_empty()).then_some(HOLD_TIME);
        let time = held.into_iter().chain(time).min();
        for source in self.events.wait(time)? {
            self.attend(source);
        }
        let now = Instant::now();
        while let Some(due) = self.timers.take(now) {
            self.due(due, now);
        }
        self.commit();
        self.flush();
        self.audit.flush();
        Ok(())
    }

    fn attend(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.hear_signals(),
            Source::Files => self.hear_files(),
            Source::Stdout(member) => self.hear_printed(member, 0),
            Source::Stderr(member) => self.hear_printed(member, 1),
            Source::Worker(member) => self.hear_worker(member),
            Source::Control(member) => self.hear_init(member),
            Source::Ended(member) => self.left(member),
            Source::Client(client) => self.hear_client(client),
            Source::Done => {
                for done in self.hands.take() {
                    self.done(done);
                }
            }
        }
    }

    fn due(&mut self, due: Due, now: Instant) {
        match due {
            Due::Deadline(task) => self.deadline(task),
            Due::Idle(member) => self.look_at_idle(member, now),
            Due::Start(member) => self.start_took_too_long(member),
            Due::Left(member) => self.left_took_too_long(member),
            Due::Greeting(client) => {
                if self.clients.get(&client).is_some_and(|client| client.name.is_none()) {
                    self.close(client);
                }
            }
            Due::Drain => self.end_tasks(),
            Due::Files => self.look_at_files(),
            // What has to be done about it is seen at the end of every turn.
            Due::Journal => {}
            Due::Expiry => self.expire(),
        }
    }

    /// Writes what waits, but for what is held back a moment longer, and waits for what could not
    /// be written.
    fn flush(&mut self) {
        let now = Instant::now();
        for id in std::mem::take(&mut self.clients_to_flush) {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            if client.holds_back(now) {
                self.clients_to_flush.insert(id);
                continue;
            }
            if client.writer.flush(client.stream.as_fd()).is_err() {
                self.close(id);
                continue;
            }
            let reads = client.writer.bytes() < super::client::WAITING_BYTES_MAX;
            let interest = Interest::new(reads, !client.writer.is_empty());
            if interest != client.interest {
                client.interest = interest;
                // Of a descriptor that is open and was added, epoll_ctl(2) refuses nothing.
                let _ = self.events.change(&client.stream, Source::Client(id), interest);
            }
        }
        for id in std::mem::take(&mut self.members_to_flush) {
            let Some(member) = self.members.get_mut(&id) else { continue };
            // That its worker is gone is seen when it is listened to.
            let _ = member.writer.flush(member.stream.as_fd());
            let interest = Interest::new(true, !member.writer.is_empty());
            if interest != member.interest {
                member.interest = interest;
                let _ = self.events.change(&member.stream, Source::Worker(id), interest);
            }
        }
    }

    fn accept(&mut self) {
        loop {
            let Some(listener) = &self.listener else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let stream = match rustix::net::accept_with(listener, flags) {
                Ok(stream) => stream,
                // No descriptor is left, or whoever came is gone: the next event tries again.
                Err(_) => return,
            };
            self.welcome(stream);
        }
    }

    fn welcome(&mut self, stream: OwnedFd) {
        let Ok(peer) = read_peer(&stream) else { return };
        let own = self.users.get(&peer.uid).map_or(0, |user| user.clients);
        if self.clients.len() >= CLIENTS_MAX || own >= CLIENTS_PER_USER_MAX {
            self.counted.connections_refused += 1;
            return;
        }
        if !self.site.serves(peer.uid) {
            self.audit.stranger(&peer);
            return;
        }
        let id = self.next_id();
        let stream = std::os::unix::net::UnixStream::from(stream);
        if self.events.add(&stream, Source::Client(id)).is_err() {
            return;
        }
        self.users.entry(peer.uid).or_default().clients += 1;
        let name = read_login_name(peer.uid);
        let caller = Caller { uid: peer.uid, gid: peer.gid, groups: peer.groups, name };
        self.timers.add(Instant::now() + GREETING, Due::Greeting(id));
        self.clients.insert(id, Client::new(id, stream, caller, peer.pid));
        self.counted.connections += 1;
    }

    fn hear_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        self.clients_to_flush.insert(id);
        if client.writer.bytes() >= super::client::WAITING_BYTES_MAX {
            return;
        }
        let filled = client.reader.fill(client.stream.as_fd());
        if let Err(error) = filled.and_then(|_| self.take_frames(id)) {
            self.lose(id, &error);
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is a breach")]
    fn take_frames(&mut self, id: ClientId) -> Result<(), WireError> {
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
            let Some(frame) = client.reader.next(&FromClients)? else { return Ok(()) };
            let greeted = client.name.is_some();
            if let Some(fault) = &frame.fault {
                tell_corrupt(&mut client.writer, frame.header.task, fault);
                continue;
            }
            match frame.header.kind {
                Kind::Hello if !greeted => self.greet(id, &frame)?,
                _ if !greeted => return Err(WireError::Breach("did not say hello first")),
                Kind::Function => client.functions.keep(frame),
                Kind::Call => self.call(id, frame),
                Kind::Open => self.open(id, frame),
                Kind::Cancel => self.cancel(id, frame.header.task),
                Kind::Ask => self.ask(id, &frame),
                Kind::Fetch => self.fetch(id, &frame),
                _ => return Err(WireError::Breach("sent a frame that means nothing here")),
            }
        }
    }

    fn greet(&mut self, id: ClientId, frame: &Frame) -> Result<(), WireError> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let hello: HelloAsk = serde_json::from_slice(&frame.metadata)
            .map_err(|_| WireError::Breach("said hello in a way that cannot be read"))?;
        let ours = json!({
            "version_lowest": VERSION_LOWEST,
            "version_highest": VERSION_HIGHEST,
            "daemon": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
        });
        client.writer.push(Kind::Hello, NO_TASK, ours.to_string().as_bytes(), &[]);
        if hello.version_lowest > VERSION_HIGHEST || hello.version_highest < VERSION_LOWEST {
            return Err(WireError::Breach("speaks no version of the protocol that is spoken here"));
        }
        client.name = Some(hello.client);
        Ok(())
    }

    /// A client whose stream cannot be used any more: tells it why, if it can still hear.
    fn lose(&mut self, id: ClientId, error: &WireError) {
        if let Some(client) = self.clients.get_mut(&id)
            && !matches!(error, WireError::Ended)
        {
            match error {
                WireError::Frame(fault @ ric_runtime::FrameError::Corrupt { .. }) => {
                    tell_corrupt(&mut client.writer, NO_TASK, fault);
                }
                WireError::Ended
                | WireError::Io(_)
                | WireError::Frame(_)
                | WireError::Breach(_) => {
                    let cause = std::error::Error::source(error);
                    let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
                    let text = format!("cannot go on with this connection: {error}{cause}");
                    Ending::new(ric_runtime::Status::Error, text).tell(
                        &mut client.writer,
                        NO_TASK,
                        None,
                    );
                }
            }
            let _ = client.writer.flush(client.stream.as_fd());
        }
        self.close(id);
    }

    /// Forgets a client. What it waits for is ended: nobody would hear of it.
    pub(super) fn close(&mut self, id: ClientId) {
        let Some(client) = self.clients.remove(&id) else { return };
        for task in client.tasks.values() {
            self.abandon(*task);
        }
        for kept in client.fetches.values() {
            self.keeping.stop_waiting(id, kept);
        }
        for handle in client.handles.values() {
            if let Leads::To(pool) = handle.leads {
                self.let_go(pool);
            }
        }
        self.with_user(client.caller.uid, |user| user.clients -= 1);
    }

    /// Changes what is counted of a user, and forgets one who has nothing.
    pub(super) fn with_user(&mut self, uid: u32, change: impl FnOnce(&mut User)) {
        let user = self.users.entry(uid).or_default();
        change(user);
        if user.clients == 0 && user.tasks == 0 && user.containers == 0 {
            self.users.remove(&uid);
        }
    }

    fn open(&mut self, id: ClientId, frame: Frame) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let request = frame.header.task;
        if self.draining.is_some() {
            let ending = Ending::busy("the daemon is ending", Duration::from_secs(1));
            return ending.tell(&mut client.writer, request, None);
        }
        let ask = match OpenAsk::parse(frame.metadata) {
            Ok(ask) => ask,
            Err(failure) => return Ending::of(&failure).tell(&mut client.writer, request, None),
        };
        let Payload::Bytes(modules) = frame.payload else {
            let ending = Ending::new(ric_runtime::Status::Error, "MODULES have to travel inline");
            return ending.tell(&mut client.writer, request, None);
        };
        let digest = frame.header.payload_sha256;
        let modules = (!modules.is_empty()).then(|| (Arc::new(modules), digest));
        let (site, caller, pid) = (Arc::clone(&self.site), client.caller.clone(), client.pid);
        let descriptors = frame.descriptors;
        let uid = caller.uid;
        let job = move || {
            let session = site.session();
            let result = session.and_then(|session| {
                let asker = site.asker(&session, caller, pid)?;
                open::open(&session, asker, ask, descriptors)
            });
            Done::Opened { client: id, request, modules, result }
        };
        self.hands.begin(uid, Box::new(job));
    }
}

fn tell_corrupt(
    writer: &mut ric_runtime::wire::Writer,
    task: TaskId,
    fault: &ric_runtime::FrameError,
) {
    let ric_runtime::FrameError::Corrupt { what, expected, got } = fault else { return };
    let metadata = json!({"what": what.to_string(), "expected": expected, "got": got});
    writer.push(Kind::Corrupt, task, metadata.to_string().as_bytes(), &[]);
}

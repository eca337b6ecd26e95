//! What the daemon waits for: one epoll, tokens that say whose descriptor is ready, and timers.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// Events taken at once.
const EVENTS_MAX: usize = 256;

/// Whose descriptor is ready. The order is that in which a batch is attended to: what a task
/// printed comes before its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Listener,
    Signals,
    /// Policy files.
    Files,
    /// What a member's worker prints.
    Stdout(u64),
    Stderr(u64),
    /// A member's connection to its worker.
    Worker(u64),
    /// A member's init.
    Control(u64),
    Client(u64),
    /// A container of which nothing is left.
    Ended(u64),
    /// Something that was done on another thread.
    Done,
}

impl Source {
    fn pack(self) -> u64 {
        let (id, kind) = match self {
            Source::Listener => (0, 0),
            Source::Signals => (0, 1),
            Source::Files => (0, 2),
            Source::Stdout(id) => (id, 3),
            Source::Stderr(id) => (id, 4),
            Source::Worker(id) => (id, 5),
            Source::Control(id) => (id, 6),
            Source::Client(id) => (id, 7),
            Source::Ended(id) => (id, 8),
            Source::Done => (0, 9),
        };
        id << 4 | kind
    }

    fn unpack(data: u64) -> Source {
        let id = data >> 4;
        match data & 15 {
            0 => Source::Listener,
            1 => Source::Signals,
            2 => Source::Files,
            3 => Source::Stdout(id),
            4 => Source::Stderr(id),
            5 => Source::Worker(id),
            6 => Source::Control(id),
            7 => Source::Client(id),
            8 => Source::Ended(id),
            _ => Source::Done,
        }
    }
}

/// What is waited for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
    Both,
    /// Only its end.
    Neither,
}

impl Interest {
    /// What to wait for, of what is wanted.
    pub(super) fn new(read: bool, write: bool) -> Interest {
        match (read, write) {
            (true, true) => Interest::Both,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (false, false) => Interest::Neither,
        }
    }

    fn flags(self) -> EventFlags {
        match self {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::Both => EventFlags::IN | EventFlags::OUT,
            Interest::Neither => EventFlags::empty(),
        }
    }
}

/// The one place where the daemon waits. A descriptor that is closed leaves by itself, epoll(7).
#[derive(Debug)]
pub(super) struct Events {
    epoll: OwnedFd,
}

impl Events {
    pub(super) fn new() -> io::Result<Events> {
        Ok(Events { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    pub(super) fn add(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(source.pack()), EventFlags::IN)?)
    }

    pub(super) fn change(
        &self,
        fd: impl AsFd,
        source: Source,
        interest: Interest,
    ) -> io::Result<()> {
        let data = EventData::new_u64(source.pack());
        Ok(epoll::modify(&self.epoll, fd, data, interest.flags())?)
    }

    /// Stops to wait for a descriptor that stays open.
    pub(super) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until something is ready, or for this time: what is ready, in order.
    pub(super) fn wait(&self, time: Option<Duration>) -> io::Result<Vec<Source>> {
        let time = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let mut space = [MaybeUninit::<Event>::uninit(); EVENTS_MAX];
        let ready = match epoll::wait(&self.epoll, &mut space, time.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            waited => waited?.0,
        };
        let mut sources: Vec<Source> =
            ready.iter().map(|event| Source::unpack({ event.data }.u64())).collect();
        sources.sort_unstable();
        Ok(sources)
    }
}

/// What is due at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A task has had its time.
    Deadline(u64),
    /// A member may have been idle for long enough.
    Idle(u64),
    /// A member has not said that it is ready.
    Start(u64),
    /// A container that was told to end is still there.
    Left(u64),
    /// A client has not greeted.
    Greeting(u64),
    /// What was told to end for a drain should have.
    Drain,
    /// A policy file may have changed, and whoever did it should be done.
    Files,
    /// The journal may be tried again.
    Journal,
    /// A result may have been kept for long enough.
    Expiry,
}

/// What is due, by time. An entry whose reason is gone is passed over when its time comes.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<(Instant, u64), Due>,
    count: u64,
}

impl Timers {
    pub(super) fn add(&mut self, at: Instant, due: Due) {
        self.count += 1;
        self.due.insert((at, self.count), due);
    }

    /// Time until the next entry. `None`: there is none, and nothing wakes the daemon by itself.
    pub(super) fn until_next(&self, now: Instant) -> Option<Duration> {
        self.due.keys().next().map(|(at, _)| at.saturating_duration_since(now))
    }

    /// Takes the next entry whose time has come.
    pub(super) fn take(&mut self, now: Instant) -> Option<Due> {
        let entry = self.due.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_packs_and_unpacks() {
        for source in [
            Source::Listener,
            Source::Signals,
            Source::Files,
            Source::Stdout(7),
            Source::Stderr(8),
            Source::Worker(1 << 40),
            Source::Control(3),
            Source::Client(4),
            Source::Ended(5),
            Source::Done,
        ] {
            assert_eq!(Source::unpack(source.pack()), source);
        }
    }

    /// What a task printed before it answered belongs to it, not to the next.
    #[test]
    fn what_is_printed_comes_before_the_answer() {
        let mut sources =
            [Source::Worker(1), Source::Control(1), Source::Stderr(9), Source::Stdout(9)];
        sources.sort_unstable();
        assert_eq!(sources[3], Source::Control(1));
        assert_eq!(sources[2], Source::Worker(1));
    }

    #[test]
    fn timers_come_in_order_and_not_before_their_time() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut timers = Timers::default();
        timers.add(later, Due::Drain);
        timers.add(now, Due::Deadline(1));
        timers.add(now, Due::Deadline(2));
        assert_eq!(timers.until_next(now), Some(Duration::ZERO));
        assert_eq!(timers.take(now), Some(Due::Deadline(1)));
        assert_eq!(timers.take(now), Some(Due::Deadline(2)));
        assert_eq!(timers.take(now), None);
        assert_eq!(timers.until_next(now), Some(Duration::from_secs(1)));
        assert_eq!(timers.take(later), Some(Due::Drain));
        assert_eq!(timers.until_next(later), None);
    }
}

//! What takes long, on threads of its own: deciding, fetching, starting.
//!
//! The daemon's own thread never waits for a registry, a disk or a process. It hands a job over,
//! and is woken when it is done. Bounded, so that nobody keeps all others waiting.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::EventfdFlags;

/// Jobs of one user that may be under way at once.
const PER_USER_MAX: usize = 8;
/// Jobs under way at once. Most of each is waiting for the kernel.
const UNDER_WAY_MAX: usize = 64;

/// Stands for the daemon itself, chown(2): no process can have this uid.
const NOBODY: u32 = u32::MAX;

/// Something that takes long, and what comes of it.
pub(super) type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// Does jobs on threads, and wakes who waits for them.
pub(super) struct Hands<T> {
    waiting: VecDeque<(u32, Job<T>)>,
    under_way: HashMap<u32, usize>,
    count: usize,
    sender: Sender<(u32, T)>,
    receiver: Receiver<(u32, T)>,
    wakeup: Arc<OwnedFd>,
}

impl<T> std::fmt::Debug for Hands<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hands").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Hands<T> {
    pub(super) fn new() -> io::Result<Hands<T>> {
        let (sender, receiver) = channel();
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Hands {
            waiting: VecDeque::new(),
            under_way: HashMap::new(),
            count: 0,
            sender,
            receiver,
            wakeup: Arc::new(rustix::event::eventfd(0, flags)?),
        })
    }

    /// Readable when something is done.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }

    /// Does `job` for `uid`, now or when there is room.
    pub(super) fn begin(&mut self, uid: u32, job: Job<T>) {
        self.waiting.push_back((uid, job));
        self.start_waiting();
    }

    /// Does `job` at once, whoever else waits: one that all of them wait for.
    pub(super) fn begin_at_once(&mut self, job: Job<T>) {
        *self.under_way.entry(NOBODY).or_default() += 1;
        self.count += 1;
        self.start(NOBODY, job);
    }

    /// What has been done since it was asked last.
    pub(super) fn take(&mut self) -> Vec<T> {
        // Before what it announces is taken, so that nothing is missed.
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wakeup, &mut count);
        let mut done = Vec::new();
        while let Ok((uid, result)) = self.receiver.try_recv() {
            self.count -= 1;
            if let Some(under_way) = self.under_way.get_mut(&uid) {
                *under_way -= 1;
                if *under_way == 0 {
                    self.under_way.remove(&uid);
                }
            }
            done.push(result);
        }
        self.start_waiting();
        done
    }

    /// Jobs that are under way or wait.
    pub(super) fn busy(&self) -> usize {
        self.count + self.waiting.len()
    }

    fn start_waiting(&mut self) {
        let mut at = 0;
        while self.count < UNDER_WAY_MAX && at < self.waiting.len() {
            let uid = self.waiting[at].0;
            if self.under_way.get(&uid).is_some_and(|under_way| *under_way >= PER_USER_MAX) {
                at += 1;
                continue;
            }
            let Some((uid, job)) = self.waiting.remove(at) else { return };
            *self.under_way.entry(uid).or_default() += 1;
            self.count += 1;
            self.start(uid, job);
        }
    }

    fn start(&self, uid: u32, job: Job<T>) {
        let (sender, wakeup) = (self.sender.clone(), Arc::clone(&self.wakeup));
        let work = move || {
            // The daemon has ended if nobody receives it.
            let _ = sender.send((uid, job()));
            let _ = rustix::io::write(&*wakeup, &1_u64.to_ne_bytes());
        };
        // A machine that has no more threads does it here: late is better than never.
        let builder = std::thread::Builder::new().name("hand".to_owned());
        let work = std::sync::Mutex::new(Some(work));
        let work = Arc::new(work);
        let theirs = Arc::clone(&work);
        let started = builder.spawn(move || run_once(&theirs));
        if started.is_err() {
            run_once(&work);
        }
    }
}

fn run_once<F: FnOnce()>(work: &std::sync::Mutex<Option<F>>) {
    let work = work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(work) = work {
        work();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn wait_for(hands: &mut Hands<u32>, count: usize) -> Vec<u32> {
        let mut done = Vec::new();
        while done.len() < count {
            poll(&mut [PollFd::from_borrowed_fd(hands.fd(), PollFlags::IN)], None).unwrap();
            done.extend(hands.take());
        }
        done
    }

    #[test]
    fn tells_what_is_done() {
        let mut hands = Hands::new().unwrap();
        hands.begin(1, Box::new(|| 7));
        assert_eq!(wait_for(&mut hands, 1), [7]);
        assert_eq!(hands.busy(), 0);
    }

    /// One user's slow jobs leave room for another's.
    #[test]
    fn a_user_who_waits_does_not_keep_others_waiting() {
        let mut hands = Hands::new().unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for _ in 0..PER_USER_MAX * 3 {
            let held = Arc::clone(&held);
            hands.begin(
                1,
                Box::new(move || {
                    let _ = held.lock().unwrap().recv_timeout(Duration::from_secs(20));
                    1
                }),
            );
        }
        hands.begin(2, Box::new(|| 2));
        assert_eq!(wait_for(&mut hands, 1), [2]);
        for _ in 0..PER_USER_MAX * 3 {
            release.send(()).unwrap();
        }
        assert_eq!(wait_for(&mut hands, PER_USER_MAX * 3).len(), PER_USER_MAX * 3);
    }
}

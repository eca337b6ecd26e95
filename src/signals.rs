//! Signals to this program, passed on to the task: as bytes on a socket that one poll can watch.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// Collects signals; the next one is in the [`Queue`].
///
/// From [`watch`] on they no longer end this program. Before it they do, as nothing has been
/// started yet that would outlive it.
#[derive(Debug)]
pub(crate) struct Wakeup(UnixStream);

/// Signals that have arrived and were not passed on yet.
#[derive(Debug)]
pub(crate) struct Queue {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    arrived: VecDeque<i32>,
}

/// Starts to collect signals.
pub(crate) fn watch() -> io::Result<(Wakeup, Queue)> {
    let (read, write) = UnixStream::pair()?;
    let wakeup = Wakeup(read.try_clone()?);
    let numbers = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH];
    let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, numbers)?;
    Ok((wakeup, Queue { delivery, arrived: VecDeque::new() }))
}

/// Readable when a signal has arrived.
impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wakeup {
    /// Takes what made it readable, for who polls it again.
    pub(crate) fn drain(&self) {
        let mut bytes = [0; 64];
        while rustix::net::recv(&self.0, &mut bytes, rustix::net::RecvFlags::DONTWAIT)
            .is_ok_and(|(_, read)| read > 0)
        {}
    }
}

impl Queue {
    /// Takes the next signal, without waiting.
    pub(crate) fn take(&mut self) -> Option<i32> {
        if self.arrived.is_empty() {
            self.arrived.extend(self.delivery.pending());
        }
        self.arrived.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{Signal, getpid, kill_process};

    #[test]
    fn a_signal_wakes_a_poll_and_is_taken_once() {
        let (wakeup, mut queue) = watch().unwrap();
        assert_eq!(queue.take(), None);
        kill_process(getpid(), Signal::USR1).unwrap();
        let mut fds = [PollFd::new(&wakeup, PollFlags::IN)];
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
        assert_eq!(queue.take(), Some(SIGUSR1));
        assert_eq!(queue.take(), None);
    }
}

//! What ends a container from outside, and sees to it that nothing is left. The only thing that
//! knows which engine it was.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::docker::Kept;
use crate::native::monitor::Monitor;
use crate::native::protocol;

/// Whoever is there besides init. Dropping it ends the container and waits until nothing is left.
#[derive(Debug)]
pub(super) enum Keeper {
    /// The monitor of the embedded engine.
    Monitor(Monitor),
    /// A daemon.
    Docker(Kept),
}

impl Keeper {
    /// What is readable when init has ended, if that is told apart from the control socket.
    pub(super) fn channel(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Keeper::Monitor(monitor) => Some(monitor.channel().as_fd()),
            Keeper::Docker(_) => None,
        }
    }

    /// Has the container ended and cleared up after, and does not wait.
    pub(super) fn end(&self) {
        match self {
            Keeper::Monitor(monitor) => monitor.end(),
            Keeper::Docker(kept) => kept.end(),
        }
    }

    /// Readable once nothing is left, after [`end`](Self::end).
    pub(super) fn ended_fd(&self) -> io::Result<OwnedFd> {
        match self {
            Keeper::Monitor(monitor) => monitor.pidfd(),
            Keeper::Docker(kept) => kept.ended_fd(),
        }
    }

    /// Whether it has nothing left to clear up.
    pub(super) fn has_cleared_up(&mut self) -> bool {
        match self {
            Keeper::Monitor(monitor) => monitor.has_cleared_up(),
            Keeper::Docker(_) => true,
        }
    }

    /// Ends the container now. If its keeper cannot be told, it is gone, and with it the container.
    pub(super) fn kill(&self) {
        match self {
            Keeper::Monitor(monitor) => drop(monitor.send(protocol::KILL)),
            Keeper::Docker(kept) => kept.kill(),
        }
    }

    /// Whether cgroups can still be read when init has ended.
    pub(super) fn keeps_cgroups(&self) -> bool {
        matches!(self, Keeper::Monitor(_))
    }

    /// Whether the whole container has ended for want of memory, as far as its cgroups cannot tell.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        match self {
            Keeper::Monitor(_) => false,
            Keeper::Docker(kept) => kept.ran_out_of_memory(),
        }
    }
}

//! How much a daemon takes on at once.

use std::time::Duration;

/// Bounds of what is kept warm and of what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// How long a container without a task is kept.
    pub(super) idle: Duration,
    /// Containers at once, of all users.
    pub(super) containers_most: usize,
    /// Containers at once, of one user.
    pub(super) containers_per_user_most: usize,
    /// Bytes that the memory limits of all containers add up to.
    pub(super) memory_bytes_most: u64,
    /// Tasks of one user that wait or run.
    pub(super) tasks_per_user_most: usize,
    /// Bytes of calls of one user that wait or run.
    pub(super) bytes_per_user_most: u64,
    /// How long tasks may take to end once the daemon is told to.
    pub(super) drain: Duration,
}

impl Rules {
    /// What `policy` says.
    pub(super) fn of(_: &ric_policies::Policy) -> Rules {
        Rules {
            idle: Duration::from_secs(600),
            containers_most: 1024,
            containers_per_user_most: 1024,
            memory_bytes_most: u64::MAX,
            tasks_per_user_most: 100_000,
            bytes_per_user_most: 1 << 30,
            drain: Duration::from_secs(30),
        }
    }
}

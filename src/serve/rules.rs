//! How much a daemon takes on at once.

use std::time::Duration;

use ric_policies::{Bound, Policy};

/// Longer than any machine is up, and far from what an `Instant` can hold.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

fn most<T: Copy>(bound: &Bound<T>) -> Option<T> {
    bound.most.as_ref().map(|rule| rule.value)
}

/// Bounds of what is kept warm, of what waits, and of what is kept.
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
    /// How long a result is kept that nobody fetches.
    pub(super) keep: Duration,
    /// Submitted tasks of one user, ended ones included.
    pub(super) kept_per_user_most: usize,
    /// Bytes on disk of one user's submitted tasks.
    pub(super) kept_bytes_per_user_most: u64,
    /// How long tasks may take to end once the daemon is told to.
    pub(super) drain: Duration,
}

impl Rules {
    /// What `policy` says; what it does not bound has no bound.
    pub(super) fn of(policy: &Policy) -> Rules {
        let (warm, results) = (&policy.warm, &policy.results);
        let number = |bound: &Bound<u64>| most(bound).unwrap_or(u64::MAX);
        let count = |bound: &Bound<u64>| usize::try_from(number(bound)).unwrap_or(usize::MAX);
        let time = |bound: &Bound<Duration>| most(bound).unwrap_or(FOREVER);
        Rules {
            idle: time(&warm.idle),
            containers_most: count(&warm.containers),
            containers_per_user_most: count(&warm.containers_per_user),
            memory_bytes_most: number(&warm.memory_bytes),
            tasks_per_user_most: count(&warm.tasks_per_user),
            bytes_per_user_most: number(&warm.bytes_per_user),
            keep: time(&results.keep),
            kept_per_user_most: count(&results.tasks_per_user),
            kept_bytes_per_user_most: number(&results.bytes_per_user),
            drain: time(&warm.drain),
        }
    }
}

//! What a daemon has counted since it began.

/// Counters; each only grows.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counted {
    pub(super) connections: u64,
    pub(super) connections_refused: u64,
    pub(super) tasks_ended: u64,
    pub(super) busy: u64,
    pub(super) containers_started: u64,
    pub(super) starts_failed: u64,
    /// Workers that did what no worker may.
    pub(super) breaches: u64,
    /// Containers that did not end in time.
    pub(super) stuck: u64,
    /// Containers in which something remained.
    pub(super) not_clean: u64,
}

//! What a daemon has counted since it began, and how a Prometheus reads it.
//!
//! The text format is that of
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use ric_runtime::Status;
use serde_json::json;

use super::daemon::Daemon;
use super::member::State;
use super::task::Task;

/// Counters; each only grows.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) connections: u64,
    pub(super) connections_refused: u64,
    tasks: BTreeMap<Status, u64>,
    pub(super) busy: u64,
    pub(super) containers_started: u64,
    pub(super) starts_failed: u64,
    /// Workers that did what no worker may.
    pub(super) breaches: u64,
    /// Containers that did not end in time.
    pub(super) stuck: u64,
    /// Containers in which something remained.
    pub(super) not_clean: u64,
    queued: Histogram,
    ran: Histogram,
}

impl Counted {
    /// A task has ended.
    pub(super) fn ended(&mut self, task: &Task, status: Status) {
        *self.tasks.entry(status).or_default() += 1;
        let now = Instant::now();
        self.queued.add(task.begun.unwrap_or(now).saturating_duration_since(task.queued));
        if let Some(begun) = task.begun {
            self.ran.add(now.saturating_duration_since(begun));
        }
    }
}

/// Upper bounds of the buckets of times, in seconds: from a warm call to a job.
const BOUNDS_S: [f64; 11] =
    [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0, 100.0, 1000.0];

/// How many times were how long.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS_S.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(bucket) = BOUNDS_S.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum += time;
    }
}

/// The text that is written.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(
            self.0,
            "# HELP run_in_container_{name} {help}\n# TYPE run_in_container_{name} {kind}\n"
        );
    }

    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "run_in_container_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.value(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, times: &Histogram) {
        self.head(name, "histogram", help);
        let mut below = 0;
        for (bound, count) in BOUNDS_S.iter().zip(times.buckets) {
            below += count;
            self.value(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), below);
        }
        self.value(&format!("{name}_bucket"), "{le=\"+Inf\"}", times.count);
        self.value(&format!("{name}_sum"), "", times.sum.as_secs_f64());
        self.value(&format!("{name}_count"), "", times.count);
    }
}

impl Daemon {
    /// All that is counted and all that there is now.
    pub(super) fn metrics(&self) -> String {
        let counted = &self.counted;
        let mut text = Text::default();
        text.head("tasks_total", "counter", "Tasks that have ended, by how they did.");
        for (status, count) in &counted.tasks {
            text.value("tasks_total", &format!("{{status={}}}", json!(status)), count);
        }
        for (name, help, value) in [
            ("busy_total", "Tasks that were told to come back later.", counted.busy),
            ("connections_total", "Connections of clients.", counted.connections),
            (
                "connections_refused_total",
                "Connections for which there was no room.",
                counted.connections_refused,
            ),
            (
                "containers_started_total",
                "Containers that were started.",
                counted.containers_started,
            ),
            ("starts_failed_total", "Containers that could not be started.", counted.starts_failed),
            (
                "breaches_total",
                "Workers that were ended for what they sent: bugs or attacks.",
                counted.breaches,
            ),
            ("stuck_total", "Containers that did not end in time.", counted.stuck),
            (
                "not_clean_total",
                "Containers thrown away because a task left something behind.",
                counted.not_clean,
            ),
        ] {
            text.one(name, "counter", help, value);
        }
        text.histogram(
            "queued_seconds",
            "Time that tasks waited for a container.",
            &counted.queued,
        );
        text.histogram("ran_seconds", "Time that tasks were with a worker.", &counted.ran);
        self.add_gauges(&mut text);
        text.0
    }

    fn add_gauges(&self, text: &mut Text) {
        text.head("containers", "gauge", "Containers, by what they do.");
        let mut by_state = BTreeMap::from(State::ALL.map(|state| (state.word(), 0_u64)));
        for member in self.members.values() {
            *by_state.entry(member.state.word()).or_default() += 1;
        }
        *by_state.entry("ending").or_default() += self.leaving.len() as u64;
        for (state, count) in by_state {
            text.value("containers", &format!("{{state=\"{state}\"}}"), count);
        }
        let waiting: usize = self.pools.values().map(|pool| pool.queue.len()).sum();
        for (name, help, value) in [
            ("tasks_waiting", "Tasks that wait for a container.", waiting as u64),
            ("tasks_running", "Tasks that a worker has.", (self.tasks.len() - waiting) as u64),
            ("pools", "Pools.", self.pools.len() as u64),
            ("clients", "Clients that are connected.", self.clients.len() as u64),
            (
                "memory_limits_bytes",
                "What the memory limits of all containers add up to.",
                self.memory_bytes,
            ),
        ] {
            text.one(name, "gauge", help, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_the_last_one_has_all() {
        let mut times = Histogram::default();
        for ms in [0, 2, 2, 5_000_000] {
            times.add(Duration::from_millis(ms));
        }
        let mut text = Text::default();
        text.histogram("ran_seconds", "Time.", &times);
        for line in [
            "# TYPE run_in_container_ran_seconds histogram",
            "run_in_container_ran_seconds_bucket{le=\"0.0001\"} 1",
            "run_in_container_ran_seconds_bucket{le=\"0.003\"} 3",
            "run_in_container_ran_seconds_bucket{le=\"1000\"} 3",
            "run_in_container_ran_seconds_bucket{le=\"+Inf\"} 4",
            "run_in_container_ran_seconds_sum 5000.004",
            "run_in_container_ran_seconds_count 4",
        ] {
            assert!(text.0.lines().any(|one| one == line), "{line} is not in\n{}", text.0);
        }
    }
}

//! What was measured, and the goals beside it.

use std::time::Duration;

use crate::contenders::name;

/// All starts of one contender.
pub(crate) struct Series {
    /// Its name.
    pub(crate) name: &'static str,
    took: Vec<Duration>,
}

impl Series {
    pub(crate) fn new(name: &'static str) -> Series {
        Series { name, took: Vec::new() }
    }

    pub(crate) fn add(&mut self, took: Duration) {
        self.took.push(took);
    }

    /// The time, in milliseconds, that this share of starts did not exceed.
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        percentile_ms(&self.took, percent)
    }
}

/// The time, in milliseconds, that this share of some times did not exceed; 0 of none.
pub(crate) fn percentile_ms(took: &[Duration], percent: usize) -> f64 {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).map_or(0.0, |took| took.as_secs_f64() * 1e3)
}

/// One line per contender: p50, p95, and p50 as a multiple of bubblewrap's.
pub(crate) fn print(title: &str, all: &[Series]) {
    let starts = all.first().map_or(0, |series| series.took.len());
    println!("\n{title}, {starts} rounds{:>34}{:>10}{:>10}", "p50 ms", "p95 ms", "/ bwrap");
    let bwrap = p50(all, name::BWRAP);
    for series in all {
        let (p50, p95) = (series.percentile_ms(50), series.percentile_ms(95));
        let ratio = bwrap.map_or("-".to_owned(), |bwrap| format!("{:.2}", p50 / bwrap));
        println!("  {:<40}{p50:>12.2}{p95:>10.2}{ratio:>10}", series.name);
    }
}

fn p50(all: &[Series], name: &str) -> Option<f64> {
    all.iter().find(|series| series.name == name).map(|series| series.percentile_ms(50))
}

/// What was aimed at, and whether it was met this time.
pub(crate) fn print_goals(busy: &[Series], idle: &[Series]) {
    println!("\ngoals (p50)");
    let ratio = |ours, peer| Some(p50(busy, ours)? / p50(busy, peer)?);
    goal("run / bwrap", "at most 1.3", ratio(name::RUN, name::BWRAP), 1.3);
    goal("run / runc", "under 0.25", ratio(name::RUN, name::RUNC), 0.25);
    let waits = p50(idle, name::RUN).zip(p50(busy, name::RUN)).map(|(idle, busy)| idle - busy);
    goal("run after idle, more by", "at most 1 ms", waits, 1.0);
    let bwrap_waits =
        p50(idle, name::BWRAP).zip(p50(busy, name::BWRAP)).map(|(idle, busy)| idle - busy);
    goal("  of that, bwrap too", "", bwrap_waits, f64::INFINITY);
    let more = p50(busy, name::CALL).zip(p50(busy, name::BWRAP_PYTHON)).map(|(c, b)| c - b);
    goal("call - bwrap python3 -c pass", "at most 5 ms", more, 5.0);
    let floor = ratio(name::IN_PROCESS_FLOOR, name::FLOOR);
    goal("in one process / floor", "at most 2.5", floor, 2.5);
}

/// One goal.
pub(crate) fn goal(what: &str, aim: &str, measured: Option<f64>, most: f64) {
    match measured {
        None => println!("  {what:<32}{aim:<18}not measured"),
        Some(value) => {
            let verdict = if value <= most { "met" } else { "missed" };
            let verdict = if aim.is_empty() { "" } else { verdict };
            println!("  {what:<32}{aim:<18}{value:>8.2}  {verdict}");
        }
    }
}

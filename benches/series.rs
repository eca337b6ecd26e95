//! What was measured, as a table, and the goals beside it.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// All times of one contender.
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

    /// The time, in milliseconds, that half of all did not exceed.
    pub(crate) fn p50_ms(&self) -> f64 {
        percentile_ms(&self.took, 50)
    }
}

/// The time, in milliseconds, that this share of some times did not exceed; 0 of none.
pub(crate) fn percentile_ms(took: &[Duration], percent: usize) -> f64 {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).map_or(0.0, |took| took.as_secs_f64() * 1e3)
}

/// One line per contender: p50, p95, and p50 as a multiple of one contender's.
pub(crate) fn print(title: &str, all: &[Series], yardstick: &str) {
    let count = all.first().map_or(0, |series| series.took.len());
    let last = if yardstick.is_empty() { String::new() } else { format!("/ {yardstick}") };
    println!("\n{title}, {count} rounds");
    println!("  {:<40}{:>12}{:>10}   {last}", "", "p50 ms", "p95 ms");
    let unit = p50(all, yardstick);
    for series in all {
        let (p50, p95) = (series.p50_ms(), percentile_ms(&series.took, 95));
        let ratio = unit.map_or(String::new(), |unit| format!("{:.2}", p50 / unit));
        println!("  {:<40}{p50:>12.2}{p95:>10.2}   {ratio}", series.name);
    }
}

/// The median of a contender, in milliseconds, if it took part.
pub(crate) fn p50(all: &[Series], name: &str) -> Option<f64> {
    all.iter().find(|series| series.name == name).map(Series::p50_ms)
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

/// An order of its own for each round, the same in each run: what one contender leaves to be
/// cleared up slows the next, so nobody shall always follow the same one.
pub(crate) fn order(count: usize, round: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|at| Sha256::digest(format!("{round} {at}")));
    order
}

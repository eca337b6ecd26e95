//! What was aimed at, beside what was measured.

use crate::contenders::name;
use crate::series::{Series, goal, p50};

/// What was aimed at, and whether it was met this time.
pub(crate) fn print(busy: &[Series], idle: &[Series]) {
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

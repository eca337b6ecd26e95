//! Prints how long it takes to have a policy: the built-in one, and each file named as an argument.
//!
//! `cargo run --release -p ric-policies --example load_time -- examples/policies/*.yaml`

#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use std::path::PathBuf;
use std::time::Instant;

use ric_policies::{Draft, Policy};

/// Enough for a steady median on a busy machine, in under a second.
const ROUNDS: usize = 1_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let first = microseconds(|| drop(Policy::built_in()));
    println!("built-in, first time in this process: {first:.0} µs");
    println!("built-in: {:.0} µs", median(|| drop(Policy::built_in())));
    for path in std::env::args().skip(1).map(PathBuf::from) {
        let text = std::fs::read_to_string(&path)?;
        Draft::parse(&path, &text)?;
        println!("{}: {:.0} µs", path.display(), median(|| drop(Draft::parse(&path, &text))));
    }
    Ok(())
}

fn median(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| microseconds(&mut run)).collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn microseconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() * 1e6
}

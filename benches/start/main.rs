//! How long a start takes, side by side with peers and with the floor: `cargo bench --bench start`.
//!
//! Every round starts each contender once, in an order of its own, so that whatever else the
//! machine does hits all alike; first back to back, then with 200 ms of idle before each start,
//! where kernels with cgroup v1 make who moves processes between cgroups wait. Nothing is asserted:
//! the table shows the goals beside what was measured. Flags: `--rounds N`, `--idle-rounds N`,
//! `--endurance N`.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

mod contenders;
mod endurance;
mod goals;
mod in_process;
#[path = "../series.rs"]
mod series;
mod sizes;

use std::error::Error;
use std::time::Duration;

use contenders::{Contender, Site, name};
use series::{Series, order};

/// How often each contender starts.
struct Rounds {
    /// Back to back.
    busy: u32,
    /// With idle before.
    idle: u32,
    /// Sandboxes in a row; 0: none.
    endurance: u32,
}

/// Idle before a start, in the second series.
const IDLE: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = rounds(std::env::args().skip(1))?;
    let site = Site::new()?;
    let (mut contenders, left_out) = contenders::all(&site);
    for why in &left_out {
        println!("left out: {why}");
    }
    // Once unmeasured: caches of the machine, and ours of what the host can do.
    contenders.retain_mut(|contender| match contender.start() {
        Ok(_) => true,
        Err(why) => {
            println!("left out: {}: {why}", contender.name);
            false
        }
    });
    let busy = measure(&mut contenders, rounds.busy, None)?;
    series::print("back to back", &busy, name::BWRAP);
    let idle = measure(&mut contenders, rounds.idle, Some(IDLE))?;
    series::print("after 200 ms of idle", &idle, name::BWRAP);
    goals::print(&busy, &idle);
    sizes::print(&site)?;
    if rounds.endurance > 0 {
        endurance::run(&site, rounds.endurance)?;
    }
    Ok(())
}

/// Starts each contender once per round.
fn measure(
    contenders: &mut [Contender],
    rounds: u32,
    idle: Option<Duration>,
) -> Result<Vec<Series>, Box<dyn Error>> {
    let mut series: Vec<Series> = contenders.iter().map(|c| Series::new(c.name)).collect();
    for round in 0..rounds {
        for at in order(contenders.len(), round) {
            if let Some(idle) = idle {
                std::thread::sleep(idle);
            }
            series[at].add(contenders[at].start()?);
        }
    }
    Ok(series)
}

fn rounds(mut words: impl Iterator<Item = String>) -> Result<Rounds, Box<dyn Error>> {
    let mut rounds = Rounds { busy: 100, idle: 15, endurance: 0 };
    while let Some(word) = words.next() {
        let place = match word.as_str() {
            "--rounds" => &mut rounds.busy,
            "--idle-rounds" => &mut rounds.idle,
            "--endurance" => &mut rounds.endurance,
            // What `cargo bench` adds.
            "--bench" => continue,
            _ => return Err(format!("unknown flag {word}").into()),
        };
        *place = words.next().ok_or(format!("{word} needs a number"))?.parse()?;
    }
    Ok(rounds)
}

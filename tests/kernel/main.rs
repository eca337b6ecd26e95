//! What kernels, users and admins see of a sandbox, end to end: `cargo test --test kernel`.
//!
//! Each case is a claim with the needs it has of the machine ([`needs`]), tried by each person for
//! whom it makes sense ([`person`]). The program under test is only its command line ([`launch`]);
//! what a sandbox is like is told by one probe that runs inside it and, as the control, outside
//! ([`posture`]). The same claims run once more in a guest with pure cgroup v2 ([`guest`]), and
//! those about the sandbox itself under runc ([`judge`]).

mod case;
mod cases;
mod cgroups;
mod commands;
mod daemon;
mod docker;
mod guest;
mod images;
mod index;
mod judge;
mod launch;
mod leftovers;
mod needs;
mod peers;
mod person;
mod posture;
mod trees;
mod warm_owner;
mod world;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use libtest_mimic::{Arguments, Failed, Trial};
use signal_hook::consts::SIGINT;

use world::World;

fn main() -> ExitCode {
    // Whoever starts the tests in the background has SIGINT ignored, and what they start would go
    // on ignoring it. A handler is not inherited: programs start with the default.
    let always = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, always)
        .expect("a handler of SIGINT can always be set");
    if let Some(store) = world::variable(warm_owner::SET) {
        return match warm_owner::run(store.into()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "{error:?}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::from_args();
    let world = match World::new() {
        Ok(world) => Arc::new(world),
        Err(failed) => {
            let why = failed.message().unwrap_or("no reason").to_owned();
            let trial = Trial::test("the_harness_can_start", move || Err(Failed::from(&why)));
            return libtest_mimic::run(&arguments, vec![trial]).exit_code();
        }
    };
    let mut trials = case::trials(&world, cases::all());
    trials.push(needs::agreement(&world));
    if !world.in_guest {
        trials.extend(guest::trials(&world, &arguments, &trials));
    }
    if let Some(only) = &world.only {
        trials.retain(|trial| only.iter().any(|name| name == trial.name()));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    world.end();
    conclusion.exit_code()
}

//! Runs one command in a sandbox, from a Rust program: `cargo run --example embed`.
//!
//! The same straight line as the command line's: decide, bring the image, start, run. Nothing is
//! printed, read from the environment or configured behind the caller's back.

use std::error::Error;
use std::path::{Path, PathBuf};

use ric_images::{
    Access, CredentialFiles, Limits, LocalDocker, Reference, Silent, Store, Timeouts,
};
use ric_policies::{Authority, Policy, SITE_FILE};
use ric_runtime::{
    Caller, Container, HostCache, Stream, Streams, Task, WorkAsk, admit, plan, probe_host, trial,
};

fn main() -> Result<(), Box<dyn Error>> {
    // What is asked, allowed and possible.
    let command = ["sh", "-c", "echo hello from uid $(id -u)"].map(str::to_owned);
    let task = Task::new(caller(), Reference::Host, WorkAsk::Command(command.to_vec()));
    let policy = Policy::load(Path::new(SITE_FILE), &[], Authority::Narrow)?.policy;
    let try_it = |kinds: &[_]| trial(&task.caller, kinds);
    let host = match HostCache::open(task.caller.uid) {
        Some(cache) => cache.host(&task.caller, &[], &try_it)?,
        None => probe_host(&task.caller, &[], &try_it)?,
    };

    // The decision, and the image it is about.
    let store = Store::open(&store_root())?;
    let limits = Limits::default();
    let access = Access {
        store: Some(&store),
        registries: &ric_images::Registries::default(),
        shifter_folders: &[],
        below: &[],
        asker: &ric_images::Asker::default(),
        credentials: &CredentialFiles::default(),
        docker: &LocalDocker::default(),
        host_fingerprint: &host.host_fingerprint,
        limits: &limits,
        timeouts: Timeouts::default(),
        progress: &Silent,
    };
    let admitted = admit(&task, &policy)?;
    let manifest = ric_images::resolve(&admitted.references[0], &access)?;
    let plan = plan(&task, &manifest, &policy, &host)?;
    let image = ric_images::ensure(&manifest, plan.sandbox.form, &access)?;

    // The container, and what became of the work in it.
    let container = Container::start(&plan.sandbox, &image, &store, &[])?;
    let streams = Streams {
        stdin: Stream::Null,
        stdout: Stream::Capture,
        stderr: Stream::Capture,
        terminal: None,
    };
    let outcome = container.run_last(&plan.work, streams, None, &[], &[])?;
    serde_json::to_writer_pretty(std::io::stdout(), &outcome)?;
    Ok(())
}

/// This process's user, who asks.
fn caller() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: Vec::new(),
        name: None,
    }
}

/// A program of its own keeps a store of its own: here, where the first argument says.
fn store_root() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let usual = || format!("/var/tmp/run-in-container-embed-{uid}").into();
    std::env::args_os().nth(1).unwrap_or_else(usual).into()
}

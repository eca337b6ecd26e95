//! Ours inside one process: what an embedding daemon pays per sandbox, from start to reaped exit.
//!
//! The decision is made once; starting and running it is what is measured.

use std::error::Error;
use std::time::{Duration, Instant};

use ric_images::{
    Access, CredentialFiles, Image, Limits, LocalDocker, Reference, Silent, Store, Timeouts,
};
use ric_policies::Policy;
use ric_runtime::{
    Caller, Container, Host, Plan, Status, Stream, Streams, Task, WorkAsk, admit, probe_host, trial,
};

use crate::contenders::{Contender, Site, name};

/// A decision and all that starting it takes.
pub(crate) struct Ready {
    plan: Plan,
    image: Image,
    store: Store,
}

/// `/bin/true` in `host:`, decided once and started again and again.
pub(crate) fn of_host(site: &Site) -> Result<Contender, Box<dyn Error>> {
    contender(name::IN_PROCESS, Ready::new(site, Reference::Host, "/bin/true")?)
}

/// The floor's own program on the floor's own root: what is left to differ is the sandbox.
pub(crate) fn of_floor(site: &Site) -> Result<Contender, Box<dyn Error>> {
    let root = format!("dir:{}", site.word("floor/lower")).parse()?;
    contender(name::IN_PROCESS_FLOOR, Ready::new(site, root, "/nothing")?)
}

fn contender(name: &'static str, ready: Ready) -> Result<Contender, Box<dyn Error>> {
    Ok(Contender::new(name, Box::new(move || ready.start())))
}

impl Ready {
    /// The straight line of a task up to its start, under the built-in policy.
    pub(crate) fn new(
        site: &Site,
        image: Reference,
        program: &str,
    ) -> Result<Ready, Box<dyn Error>> {
        let policy = Policy::built_in();
        let task = Task::new(caller(), image, WorkAsk::Command(vec![program.to_owned()]));
        let host: Host = probe_host(&task.caller, &[], &|kinds| trial(&task.caller, kinds))?;
        let store = Store::open(&site.base.join("store-in-process"))?;
        let admitted = admit(&task, &policy)?;
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
        let reference = admitted.references.first().ok_or("no reference was admitted")?;
        let manifest = ric_images::resolve(reference, &access)?;
        let plan = ric_runtime::plan(&task, &manifest, &policy, &host)?;
        let image = ric_images::ensure(&manifest, plan.sandbox.form, &access)?;
        Ok(Ready { plan, image, store })
    }

    /// Starts the sandbox, runs the work, and waits until nothing of it is left.
    pub(crate) fn start(&self) -> Result<Duration, Box<dyn Error>> {
        let streams = Streams {
            stdin: Stream::Null,
            stdout: Stream::Null,
            stderr: Stream::Null,
            terminal: None,
        };
        let start = Instant::now();
        let container = Container::start(&self.plan.sandbox, &self.image, &self.store, &[])?;
        let outcome = container.run_last(&self.plan.work, streams, None, &[], &[])?;
        let took = start.elapsed();
        if outcome.status == Status::Ok { Ok(took) } else { Err(format!("{outcome:?}").into()) }
    }
}

fn caller() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: Vec::new(),
        name: None,
    }
}

//! Ours inside one process: what an embedding daemon pays per sandbox, from start to reaped exit.
//!
//! The decision is made once; starting and running it is what is measured.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use ric_images::{Access, Image, Limits, Reference, Silent, Store, Timeouts};
use ric_policies::Policy;
use ric_runtime::{
    Caller, Container, Fresh, Host, LimitWishes, Plan, Status, Stream, Streams, Task, WorkAsk,
    admit, probe_host, trial,
};

use crate::contenders::{Contender, Site, name};

/// A decision and all that starting it takes.
pub(crate) struct Ready {
    plan: Plan,
    image: Image,
    store: Store,
}

/// Decides once and starts again and again.
pub(crate) fn contender(site: &Site) -> Result<Contender, Box<dyn Error>> {
    let ready = Ready::new(site)?;
    Ok(Contender::new(name::IN_PROCESS, Box::new(move || ready.start())))
}

impl Ready {
    /// The straight line of a task up to its start: `/bin/true` in `host:`, built-in policy.
    pub(crate) fn new(site: &Site) -> Result<Ready, Box<dyn Error>> {
        let policy = Policy::built_in();
        let task = task(caller());
        let host: Host = probe_host(&task.caller, &[], &|kinds| trial(&task.caller, kinds))?;
        let store = Store::open(&site.base.join("store-in-process"))?;
        let admitted = admit(&task, &policy)?;
        let limits = Limits::default();
        let access = Access {
            store: Some(&store),
            plain_hosts: &[],
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
        let mut container = Container::start(&self.plan.sandbox, &self.image, &self.store, &[])?;
        let outcome = container.run(&self.plan.work, streams, None, &[], &[])?;
        drop(container);
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

fn task(caller: Caller) -> Task {
    Task {
        caller,
        image: Reference::Host,
        work: WorkAsk::Command(vec!["/bin/true".to_owned()]),
        engine: None,
        mounts: Vec::new(),
        limits: LimitWishes::default(),
        network: None,
        user: None,
        workdir: None,
        variables: BTreeMap::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        fresh: Fresh::Container,
        tenant: None,
        terminal: false,
    }
}

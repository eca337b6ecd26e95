//! Owns one warm container as a daemon does, and tells what its worker answered.
//!
//! A copy of this harness, started as a person with [`SET`], does what a script on its standard
//! input says and prints a JSON array: what came of each act. So a claim about warm containers
//! needs no daemon, and what is tried is the very seam that a daemon stands on.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use ric_images::{
    Access, Asker, CredentialFiles, Limits, LocalDocker, Registries, Silent, Store, Timeouts,
    ensure, resolve,
};
use ric_policies::{Authority, Fresh, Policy, SITE_FILE};
use ric_runtime::{
    Arguments, Assembler, Caller, Container, Event, FunctionAsk, Kind, NO_TASK, Preload, Received,
    Residue, Task, Wanted, WorkAsk, Worker, admit, encode_frame,
};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Set to make the harness do this, to the store.
pub(crate) const SET: &str = "RIC_WARM_OWNER";

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Script {
    /// Whether every call gets a process of its own, in a container that is reset behind it.
    pub(crate) fork: bool,
    /// One after the other.
    pub(crate) acts: Vec<Act>,
}

/// One act.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Act {
    /// Call `f` of this source text, and wait for how it ends: its value, or what it was instead.
    Call(String),
    /// Call it, and do not wait but for its first byte of output.
    Begin(String),
    /// Reset the container, where calls have processes of their own: `clean`, or what stays.
    Reset,
}

type Failure = Box<dyn std::error::Error>;

/// Does what standard input says.
pub(crate) fn run(store: PathBuf) -> Result<(), Failure> {
    let script: Script = serde_json::from_reader(io::stdin())?;
    let (container, worker) = start(store, script.fork)?;
    let mut owner = Owner { container, worker, assembler: Assembler::new(1 << 20), tasks: 0 };
    let hello = json!({"version_lowest": 1, "version_highest": 1, "ready": true,
        "fork": script.fork});
    owner.send(Kind::Hello, NO_TASK, &hello, b"")?;
    let mut said = vec![];
    if script.fork {
        owner.send(Kind::Again, NO_TASK, &json!({}), b"")?;
    }
    owner.wait_for(Kind::Ready)?;
    for act in &script.acts {
        said.push(match act {
            Act::Call(source) => owner.call(source, script.fork)?,
            Act::Begin(source) => {
                owner.begin(source)?;
                owner.wait_for_output()?
            }
            Act::Reset if script.fork => owner.reset()?,
            Act::Reset => json!("not reset"),
        });
        if said.last() == Some(&json!("gone")) {
            break;
        }
    }
    let ended = owner.container.ended_fd()?;
    owner.container.end();
    poll(&mut [PollFd::new(&ended, PollFlags::IN)], None)?;
    writeln!(io::stdout(), "{}", Value::Array(said))?;
    Ok(())
}

/// A container and a worker in it, by the straight line of every task.
fn start(store: PathBuf, fork: bool) -> Result<(Container, Worker), Failure> {
    let groups = rustix::process::getgroups()?.into_iter().map(|group| group.as_raw()).collect();
    let caller = Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups,
        name: None,
    };
    let policy = Policy::load(SITE_FILE.as_ref(), &[], Authority::Narrow)?.policy;
    let host = ric_runtime::know_host(&caller, &[], &|kinds| ric_runtime::trial(&caller, kinds))?;
    let work = WorkAsk::Call(FunctionAsk {
        file_name: "none.py".into(),
        source: Vec::new(),
        function: "f".into(),
        arguments: Arguments::Json { positional: Vec::new(), named: Default::default() },
        interpreter: None,
        preload: Preload::default(),
    });
    let fresh = if fork { Fresh::Process } else { Fresh::Nothing };
    let task = Task { fresh, ..Task::new(caller, "host:".parse()?, work) };
    let store = Store::open(&store)?;
    let access = Access {
        store: Some(&store),
        asker: &Asker::default(),
        registries: &Registries::default(),
        shifter_folders: &[],
        below: &[],
        credentials: &CredentialFiles::default(),
        docker: &LocalDocker::new(None, Vec::new(), "/var/tmp".into()),
        host_fingerprint: &host.host_fingerprint,
        limits: &Limits::default(),
        timeouts: Timeouts::default(),
        progress: &Silent,
    };
    let manifest = resolve(&admit(&task, &policy)?.references[0], &access)?;
    let plan = ric_runtime::plan(&task, &manifest, &policy, &host)?;
    let image = ensure(&manifest, plan.sandbox.form, &access)?;
    let container = Container::start(&plan.sandbox, &image, &store, &[])?;
    let worker = container.start_worker(&plan.work, &[])?;
    Ok((container, worker))
}

/// One container, its worker, and what has been read of a frame.
struct Owner {
    container: Container,
    worker: Worker,
    assembler: Assembler,
    tasks: u8,
}

impl Owner {
    fn send(
        &mut self,
        kind: Kind,
        task: [u8; 16],
        metadata: &Value,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let frame = encode_frame(kind, task, metadata.to_string().as_bytes(), payload)?;
        // A worker that is gone is seen when it is listened to.
        let _ = (&self.worker.stream).write_all(&frame);
        Ok(())
    }

    fn begin(&mut self, source: &str) -> Result<(), Failure> {
        self.tasks += 1;
        let task = [self.tasks; 16];
        let file = json!({"file_name": "test.py"});
        self.send(Kind::Function, task, &file, source.as_bytes())?;
        let digest: String =
            Sha256::digest(source).iter().map(|byte| format!("{byte:02x}")).collect();
        let call = json!({"function": "f", "function_sha256": digest, "encoding": "json",
            "accepts": ["json"], "result_bytes_max": 1 << 20});
        self.send(Kind::Call, task, &call, br#"{"positional":[],"named":{}}"#)
    }

    fn wait_for_output(&self) -> Result<Value, Failure> {
        poll(&mut [PollFd::new(&self.worker.stdout, PollFlags::IN)], None)?;
        Ok(json!("printed"))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is told as it is")]
    fn call(&mut self, source: &str, fork: bool) -> Result<Value, Failure> {
        self.begin(source)?;
        let mut said = Value::Null;
        loop {
            let Some(received) = self.receive()? else { return Ok(json!("gone")) };
            match received.header.kind {
                Kind::Child => return Ok(said),
                Kind::Result => said = serde_json::from_slice(&received.payload)?,
                Kind::Error => {
                    let raised: Value = serde_json::from_slice(&received.payload)?;
                    said = json!({"raised": raised["message"]});
                }
                other => said = json!(format!("{other:?}")),
            }
            if !fork {
                return Ok(said);
            }
        }
    }

    fn reset(&mut self) -> Result<Value, Failure> {
        self.container.begin_reset()?;
        let residue = loop {
            poll(&mut [PollFd::new(&self.container.control_fd(), PollFlags::IN)], None)?;
            match self.container.hear()? {
                Some(Event::Reset(Residue::Clean)) => break "clean".to_owned(),
                Some(Event::Reset(Residue::Dirty(left))) => return Ok(json!(left.to_string())),
                Some(Event::Ended | Event::Exited(_)) => return Ok(json!("gone")),
                Some(Event::NotStarted(_) | Event::Terminal(_)) | None => {}
            }
        };
        self.send(Kind::Again, NO_TASK, &json!({}), b"")?;
        self.wait_for(Kind::Ready)?;
        Ok(json!(residue))
    }

    /// Skips what comes before a frame of this kind: the end of a child that was reset away.
    fn wait_for(&mut self, kind: Kind) -> Result<(), Failure> {
        while self.receive()?.ok_or("the worker is gone")?.header.kind != kind {}
        Ok(())
    }

    /// The next frame; `None`: the worker has ended, or says what is none.
    fn receive(&mut self) -> Result<Option<Received>, Failure> {
        loop {
            let Wanted::Bytes(most) = self.assembler.wanted() else { return Ok(None) };
            let mut buffer = vec![0; most.min(1 << 16)];
            poll(&mut [PollFd::new(&self.worker.stream.as_fd(), PollFlags::IN)], None)?;
            let read = match rustix::io::read(&self.worker.stream, &mut buffer) {
                Err(rustix::io::Errno::CONNRESET) | Ok(0) => return Ok(None),
                read => read?,
            };
            match self.assembler.push(&buffer[..read]) {
                Ok(None) => {}
                Ok(received) => return Ok(received),
                Err(_) => return Ok(None),
            }
        }
    }
}

//! The daemon, seen from the verbs that use it: found, asked, and called instead of a container of
//! one's own.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Instant;

use ric_runtime::{
    Actor, Call, CallEnd, Client, ClientError, ContainerFacts, Ended, Heard, OpenedFacts, Outcome,
    PayloadDigests, Pool, PoolBounds, Status, Task, TaskId, Usage, WorkAsk,
};
use serde_json::{Value, json};

use crate::args::{CallArgs, SandboxArgs};
use crate::failure::Failure;
use crate::places;
use crate::serve::socket;
use crate::task::Descriptors;

/// Whether a call goes to a daemon, and which.
#[derive(Debug)]
pub(crate) enum Daemon {
    /// A container of its own is wanted.
    No,
    /// The first of these that is there; `named`: it has to be.
    At { sockets: Vec<PathBuf>, named: bool },
}

impl Daemon {
    /// What `args` say of it.
    pub(crate) fn wanted(args: &CallArgs) -> Result<Daemon, Failure> {
        let own = refuse_own(&args.sandbox, "`--no-daemon` instead of `--socket` takes it");
        match (&args.socket, args.no_daemon || own.is_err()) {
            (Some(_), _) => own?,
            (None, true) => return Ok(Daemon::No),
            (None, false) => {}
        }
        let sockets = places::sockets(args.socket.as_deref());
        Ok(Daemon::At { sockets, named: args.socket.is_some() })
    }

    /// Makes the call that `task` is in the daemon. `None`: there is none.
    pub(crate) fn call(
        &self,
        task: &Task,
        descriptors: &Descriptors,
        collect: bool,
    ) -> Result<Option<Outcome>, Failure> {
        let Daemon::At { sockets, named } = self else { return Ok(None) };
        let Some(mut client) = connect(sockets, *named)? else { return Ok(None) };
        let Some((pool, call)) = open(&mut client, task, descriptors)? else { return Ok(None) };
        let (name, digests) = client.call(&pool, &call).map_err(|error| broken(&error))?;
        let (end, printed) = wait(&mut client, name, None, collect)?.expect("it has no end");
        Ok(Some(outcome(end, &pool, digests, &printed)))
    }
}

/// Refuses what a container of the daemon's is not made for; `hint` tells what is.
pub(crate) fn refuse_own(sandbox: &SandboxArgs, hint: &str) -> Result<(), Failure> {
    let flags = [
        ("--input", !sandbox.input.is_empty()),
        ("--output", !sandbox.output.is_empty()),
        ("--policy", !sandbox.policy.is_empty()),
        ("--store", sandbox.store.is_some()),
    ];
    match flags.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            Err(Failure::new(Actor::User, format!("cannot use `{flag}` in the daemon"))
                .cause("it is for a container of the task's own")
                .hint(hint))
        }
    }
}

/// Hands the call that `task` is in, to be fetched later: its id.
pub(crate) fn submit(
    client: &mut Client,
    task: &Task,
    descriptors: &Descriptors,
    rerun: bool,
) -> Result<String, Failure> {
    let (pool, call) = open(client, task, descriptors)?.expect("only calls are submitted");
    let submitted = client.submit(&pool, &call, rerun).map_err(|error| broken(&error))?;
    submitted.map_err(|ended| ended_as(Failure::new(Actor::User, "cannot submit the task"), ended))
}

/// Waits for the end of a submitted task, until a time. `Err` inside: it ended before it had a
/// sandbox.
pub(crate) fn fetch(
    client: &mut Client,
    id: &str,
    until: Option<Instant>,
    collect: bool,
) -> Result<Result<Outcome, Failure>, Failure> {
    let name = client.fetch(id);
    let Some((end, printed)) = wait(client, name, until, collect)? else {
        let failure = Failure::new(Actor::User, format!("cannot have the result of {id} yet"))
            .cause("the task has not ended")
            .hint("`run-in-container status` tells how far it is");
        return Err(Failure { status: Status::Busy, ..failure });
    };
    let attempt = || Failure::new(Actor::User, format!("cannot have a result of {id}"));
    let failure = |end: CallEnd| Failure {
        status: end.status,
        exit_code: exit_code(end.exit_code),
        ..attempt().cause(end.error.unwrap_or_default())
    };
    let Some(call) = end.call.clone() else { return Err(failure(end)) };
    let Some(opened) = call.opened else { return Ok(Err(failure(end))) };
    let digests = PayloadDigests {
        function_sha256: Some(call.function_sha256),
        arguments_sha256: call.arguments_sha256,
        result_sha256: None,
    };
    let OpenedFacts { engine, image, enforced } = opened;
    let bounds = PoolBounds { result_bytes_max: 0 };
    let pool = Pool { pool: 0, image, engine, enforced, bounds };
    Ok(Ok(outcome(end, &pool, digests, &printed)))
}

/// Opens what the call that `task` is needs. `None`: it is no call.
fn open(
    client: &mut Client,
    task: &Task,
    descriptors: &Descriptors,
) -> Result<Option<(Pool, Call)>, Failure> {
    let WorkAsk::Call(function) = &task.work else { return Ok(None) };
    let ask = open_ask(task);
    let mounts: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let pool = match client.open(&ask, &mounts).map_err(|error| broken(&error))? {
        Ok(pool) => pool,
        Err(ended) => {
            let attempt = format!("cannot use image `{}` in the daemon", task.image);
            return Err(ended_as(Failure::new(Actor::User, attempt), ended));
        }
    };
    let call = Call {
        interpreters: Vec::new(),
        file_name: function.file_name.clone(),
        source: function.source.clone(),
        function: function.function.clone(),
        arguments: function.arguments.clone(),
        preload: function.preload.clone(),
    };
    Ok(Some((pool, call)))
}

/// Connects to the first daemon that is there. `Ok(None)`: none is, and none was named.
fn connect(sockets: &[PathBuf], named: bool) -> Result<Option<Client>, Failure> {
    for path in sockets {
        match socket::connect(path) {
            Ok(stream) => {
                let name = concat!("run-in-container ", env!("CARGO_PKG_VERSION"));
                return Client::new(stream, name).map(Some).map_err(|error| broken(&error));
            }
            Err(error) if !named && is_absent(&error) => {}
            Err(error) => {
                let attempt = format!("cannot connect to the daemon at {}", path.display());
                let hint = "start one with `run-in-container serve`, or use `--no-daemon`";
                return Err(Failure::new(Actor::User, attempt).because(&error).hint(hint));
            }
        }
    }
    Ok(None)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    )
}

/// Connects to the daemon that is meant, for verbs that are nothing without one.
pub(crate) fn require(named: Option<&std::path::Path>) -> Result<Client, Failure> {
    let sockets = places::sockets(named);
    connect(&sockets, named.is_some())?.ok_or_else(|| {
        let looked: Vec<String> = sockets.iter().map(|path| path.display().to_string()).collect();
        Failure::new(Actor::User, "cannot find a daemon")
            .cause(format!("nobody listens at {}", looked.join(" or ")))
            .hint("start one with `run-in-container serve`")
    })
}

/// Asks the daemon something.
pub(crate) fn ask(client: &mut Client, question: &Value) -> Result<Value, Failure> {
    let answer = client.ask(question).map_err(|error| broken(&error))?;
    answer.map_err(|ended| Failure {
        status: ended.status,
        exit_code: exit_code(ended.exit_code),
        hint: ended.hint,
        ..Failure::new(Actor::User, ended.error)
    })
}

fn broken(error: &ClientError) -> Failure {
    Failure::new(Actor::Host, "cannot use the daemon")
        .because(error)
        .hint("`--no-daemon` does without it")
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(crate::failure::EXIT_FAILED)
}

/// `failure`, as the daemon has told it.
fn ended_as(failure: Failure, ended: Ended) -> Failure {
    Failure {
        status: ended.status,
        exit_code: exit_code(ended.exit_code),
        hint: ended.hint,
        ..failure.cause(ended.error)
    }
}

/// What a task asks for, as OPEN says it (`docs/protocol.md`).
fn open_ask(task: &Task) -> Value {
    let WorkAsk::Call(function) = &task.work else { return Value::Null };
    let limits = &task.limits;
    let time_ms = limits.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let mounts: Vec<Value> = task
        .mounts
        .iter()
        .map(|mount| {
            json!({
                "asked": mount.source.asked,
                "target": mount.target,
                "access": mount.access,
            })
        })
        .collect();
    json!({
        "image": task.image.to_string(),
        "engine": task.engine,
        "network": task.network,
        "user": task.user,
        "workdir": task.workdir,
        "variables": task.variables,
        "limits": {
            "memory_bytes": limits.memory_bytes,
            "cpus_milli": limits.cpus_milli,
            "pids": limits.pids,
            "time_ms": time_ms,
        },
        "fresh": task.fresh,
        "interpreter": function.interpreter,
        "preload": function.preload,
        "path_first": task.path_first,
        "tenant": task.tenant,
        "mounts": mounts,
        "secrets": task.secrets.iter().map(|secret| &secret.name).collect::<Vec<_>>(),
    })
}

/// What a call printed, to standard output and standard error.
type Printed = [Vec<u8>; 2];

/// Waits for the end of a call, or until a time; what it prints is passed on, or collected.
fn wait(
    client: &mut Client,
    name: TaskId,
    until: Option<Instant>,
    collect: bool,
) -> Result<Option<(CallEnd, Printed)>, Failure> {
    let mut printed = [Vec::new(), Vec::new()];
    loop {
        match client.hear_until(until).map_err(|error| broken(&error))? {
            None => return Ok(None),
            Some(Heard::Printed(_, stderr, bytes)) if collect => {
                printed[usize::from(stderr)].extend_from_slice(&bytes);
            }
            Some(Heard::Printed(_, _, bytes)) => {
                // What a call prints is not its result. A closed stream is no failure of it.
                let _ = io::stderr().lock().write_all(&bytes);
            }
            Some(Heard::CallEnded(ended, end)) if ended == name => {
                return Ok(Some((*end, printed)));
            }
            Some(Heard::CallEnded(..) | Heard::Answer(..)) => {
                return Err(Failure::new(Actor::Us, "the daemon answered for another task"));
            }
        }
    }
}

fn outcome(
    end: CallEnd,
    pool: &Pool,
    digests: PayloadDigests,
    [stdout, stderr]: &Printed,
) -> Outcome {
    let ran = end.ran.unwrap_or_default();
    let seconds = |us: u64| std::time::Duration::from_micros(us).as_secs_f64();
    let exit_code = if end.status == Status::Ok { 0 } else { end.exit_code };
    Outcome {
        status: end.status,
        exit_code,
        result: end.result,
        result_pickle: end.result_pickle,
        stdout: String::from_utf8_lossy(stdout).into_owned(),
        stderr: String::from_utf8_lossy(stderr).into_owned(),
        error: end.error,
        payload: PayloadDigests { result_sha256: end.result_sha256, ..digests },
        usage: Usage {
            wall_s: seconds(ran.wall_us),
            cpu_s: seconds(ran.cpu_us.unwrap_or(0)),
            memory_peak_bytes: ran.memory_peak_bytes.unwrap_or(0),
        },
        container: ContainerFacts {
            id: ran.container,
            engine: pool.engine,
            image: pool.image.clone(),
            warm: ran.warm,
        },
        enforced: pool.enforced.clone(),
        outputs: BTreeMap::new(),
        inputs: BTreeMap::new(),
    }
}

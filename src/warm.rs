//! The daemon, seen from the verbs that use it: found, asked, and called instead of a container of
//! one's own.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use ric_runtime::{
    Actor, CallEnd, Client, ClientError, ContainerFacts, Ended, Heard, Outcome, PayloadDigests,
    Pool, Status, Task, TaskId, Usage, WorkAsk,
};
use serde_json::{Value, json};

use crate::args::CallArgs;
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
    pub(crate) fn wanted(args: &CallArgs) -> Daemon {
        let sandbox = &args.sandbox;
        let own = args.no_daemon
            || !sandbox.input.is_empty()
            || !sandbox.output.is_empty()
            || !sandbox.policy.is_empty()
            || sandbox.store.is_some();
        match (&args.socket, own) {
            (Some(_), _) | (None, false) => Daemon::At {
                sockets: places::sockets(args.socket.as_deref()),
                named: args.socket.is_some(),
            },
            (None, true) => Daemon::No,
        }
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
        let WorkAsk::Call(function) = &task.work else { return Ok(None) };
        let ask = open_ask(task);
        // Of mounts, then of secrets: a call in a daemon has nothing else.
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        let pool = match client.open(&ask, &descriptors).map_err(|error| broken(&error))? {
            Ok(pool) => pool,
            Err(ended) => return Err(not_opened(&task.image.to_string(), ended)),
        };
        let call = ric_runtime::Call {
            interpreters: Vec::new(),
            file_name: function.file_name.clone(),
            source: function.source.clone(),
            function: function.function.clone(),
            arguments: function.arguments.clone(),
            preload: function.preload.clone(),
        };
        let (name, digests) = client.call(&pool, &call).map_err(|error| broken(&error))?;
        wait(&mut client, name, &pool, digests, collect).map(Some)
    }
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
        ..with_hint(Failure::new(Actor::User, ended.error), ended.hint)
    })
}

fn broken(error: &ClientError) -> Failure {
    Failure::new(Actor::Host, "cannot use the daemon")
        .because(error)
        .hint("`--no-daemon` does without it")
}

fn with_hint(failure: Failure, hint: Option<String>) -> Failure {
    Failure { hint, ..failure }
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(crate::failure::EXIT_FAILED)
}

fn not_opened(image: &str, ended: Ended) -> Failure {
    let failure = Failure::new(Actor::User, format!("cannot use image `{image}` in the daemon"));
    let failure = Failure {
        status: ended.status,
        exit_code: exit_code(ended.exit_code),
        ..failure.cause(ended.error)
    };
    with_hint(failure, ended.hint)
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

/// Waits for the end of the call; what it prints is passed on, or collected.
fn wait(
    client: &mut Client,
    name: TaskId,
    pool: &Pool,
    digests: PayloadDigests,
    collect: bool,
) -> Result<Outcome, Failure> {
    let mut printed = [Vec::new(), Vec::new()];
    loop {
        match client.hear().map_err(|error| broken(&error))? {
            Heard::Printed(_, stderr, bytes) if collect => {
                printed[usize::from(stderr)].extend_from_slice(&bytes);
            }
            Heard::Printed(_, _, bytes) => {
                // What a call prints is not its result. A closed stream is no failure of it.
                let _ = io::stderr().lock().write_all(&bytes);
            }
            Heard::CallEnded(ended, end) if ended == name => {
                return Ok(outcome(*end, pool, digests, &printed));
            }
            Heard::CallEnded(..) | Heard::Answer(..) => {
                return Err(Failure::new(Actor::Us, "the daemon answered for another task"));
            }
        }
    }
}

fn outcome(
    end: CallEnd,
    pool: &Pool,
    digests: PayloadDigests,
    [stdout, stderr]: &[Vec<u8>; 2],
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

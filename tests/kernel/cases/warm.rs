//! Warm containers: what one task may find of another, and what it cannot break for the next.

use std::fs;

use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::case::Case;
use crate::commands::Input;
use crate::launch::{Stage, claim};
use crate::leftovers::nothing_left;
use crate::needs::Need;
use crate::warm_owner::{self, Act, Script};

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let residue = RESIDUE
        .iter()
        .map(|residue| Case::new(residue.name, move |stage| no_residue(stage, residue)));
    let all = [
        Case::new("warm_task_that_leaves_shared_memory_ends_its_container", system_v),
        Case::new("warm_container_survives_a_fork_bomb", fork_bomb),
        Case::new("warm_task_that_kills_the_template_ends_its_container", kills_template),
        Case::new("warm_task_that_writes_garbage_ends_its_container", garbage),
        Case::new("warm_task_cannot_reach_the_template", reaches_template),
        Case::new("warm_template_that_was_stopped_goes_on", stops_template),
    ];
    residue.chain(all).map(|case| case.needs(&[Need::Python3])).collect()
}

/// Something that a task leaves, and how another one looks for it: `f` returns whether it is there.
struct Residue {
    name: &'static str,
    leave: &'static str,
    look: &'static str,
}

const RESIDUE: &[Residue] = &[
    Residue {
        name: "warm_task_leaves_no_files",
        leave: r#"
import os
def f():
    for place in ("/task", "/tmp", "/dev/shm", os.environ["HOME"]):
        open(place + "/left", "w").close()
        os.symlink("/etc", place + "/link")
        deep = place + "/.deep"
        for _ in range(40):
            os.mkdir(deep)
            deep += "/d"
        os.mkfifo(place + "/.deep/pipe")
        for number in range(300):
            open(place + "/.deep/" + str(number), "w").close()
        os.chmod(place + "/.deep/d", 0)
        os.chmod(place + "/.deep", 0)
    os.mkdir("/tmp/locked", 0)
"#,
        look: r#"
import os
def f():
    places = ("/task", "/dev/shm", os.environ["HOME"])
    return sum((os.listdir(place) for place in places), []) != [] or os.listdir("/tmp") != ["home"]
"#,
    },
    Residue {
        name: "warm_task_leaves_no_processes",
        leave: r#"
import os, signal, time
def f():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 32):
                if number not in (signal.SIGKILL, signal.SIGSTOP):
                    signal.signal(number, signal.SIG_IGN)
            open("/tmp/started", "w").close()
            while True:
                time.sleep(1)
        os._exit(0)
    while not os.path.exists("/tmp/started"):
        time.sleep(0.01)
"#,
        look: r#"
import os
def f():
    own = {1, os.getpid(), os.getppid()}
    return {int(name) for name in os.listdir("/proc") if name.isdigit()} - own != set()
"#,
    },
    Residue {
        name: "warm_task_leaves_no_listeners",
        leave: r#"
import os, socket, time
def f():
    listener = socket.create_server(("127.0.0.1", 4711))
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
    listener.close()
"#,
        look: r#"
import socket
def f():
    try:
        socket.create_connection(("127.0.0.1", 4711), timeout=5).close()
        return True
    except ConnectionRefusedError:
        return False
"#,
    },
    Residue {
        name: "warm_task_leaves_no_message_queues",
        leave: r#"
import ctypes, os
def f():
    flags = os.O_CREAT | os.O_RDWR
    queue = ctypes.CDLL(None, use_errno=True).syscall(240, b"left", flags, 0o600, None)
    assert queue >= 0, ctypes.get_errno()
    os.close(queue)
"#,
        look: r#"
import ctypes, os
def f():
    return ctypes.CDLL(None).syscall(240, b"left", os.O_RDWR, 0, None) >= 0
"#,
    },
    Residue {
        name: "warm_task_leaves_no_state_in_memory",
        leave: r#"
import os, signal, sys, threading
def f():
    os.environ["LEFT"] = "1"
    sys.left = 1
    sys.path.insert(0, "/tmp")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.umask(0o077)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
"#,
        look: r#"
import os, signal, sys
def f():
    mask = os.umask(0)
    os.umask(mask)
    return "LEFT" in os.environ or hasattr(sys, "left") or sys.path[0] == "/tmp" or mask == 0o077 \
        or signal.pthread_sigmask(signal.SIG_BLOCK, ()) != set() \
        or signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN \
        or len(os.listdir("/proc/self/task")) > 1
"#,
    },
    Residue {
        name: "warm_task_leaves_no_descriptors",
        leave: r#"
import os
def f():
    os.dup2(os.open("/tmp", os.O_RDONLY), 700)
"#,
        look: r#"
import os
def f():
    return os.path.exists("/proc/self/fd/700")
"#,
    },
];

/// Runs a script as the stage's person: what came of each act.
fn play(stage: &Stage, fork: bool, acts: Vec<Act>) -> Result<Vec<Value>, Failed> {
    let harness = stage.world.base.join("harness");
    if !harness.exists() {
        let copying = harness.with_extension(stage.world.fresh_name());
        fs::copy(std::env::current_exe()?, &copying)?;
        fs::rename(&copying, &harness)?;
    }
    let script = serde_json::to_vec(&Script { fork, acts })?;
    let store = stage.store();
    let owner = stage
        .cli::<&str>(&[])
        .started_by(&[harness.to_string_lossy()])
        .variable(warm_owner::SET, &store.to_string_lossy())
        .input(Input::Bytes(script))
        .output()?
        .expect_code(0)?;
    Ok(serde_json::from_str(&owner.answer.stdout)?)
}

fn call(source: &str) -> Act {
    Act::Call(source.to_owned())
}

/// With `fresh: process` the second task finds nothing; the control, one interpreter without a
/// reset, finds it, so that what is looked for was there.
fn no_residue(stage: &Stage, residue: &Residue) -> Result<(), Failed> {
    let (look, leave) = (|| call(residue.look), || call(residue.leave));
    let acts = || vec![look(), Act::Reset, leave(), Act::Reset, look()];
    let came = |reset: &str, found: bool| {
        [json!(false), json!(reset), Value::Null, json!(reset), json!(found)]
    };
    let said = play(stage, true, acts())?;
    claim!(said == came("clean", false), "{said:?}");
    let said = play(stage, false, acts())?;
    claim!(said == came("not reset", true), "{said:?}");
    nothing_left(stage)
}

/// Segments of System V belong to nobody and lie nowhere: a container that has one is not clean.
fn system_v(stage: &Stage) -> Result<(), Failed> {
    for create in ["29, 0, 4096, 0o1600", "68, 0, 0o1600", "64, 0, 1, 0o1600"] {
        let source = format!(
            "import ctypes\ndef f():\n    assert ctypes.CDLL(None).syscall({create}) >= 0\n"
        );
        let said = play(stage, true, vec![call(&source), Act::Reset])?;
        let left = json!("System V shared memory, semaphores or queues");
        claim!(said == [Value::Null, left], "{create}: {said:?}");
    }
    nothing_left(stage)
}

const ALIVE: &str = "def f():\n    return 'alive'\n";

fn fork_bomb(stage: &Stage) -> Result<(), Failed> {
    let bomb = r#"
import os
def f():
    print("begun", flush=True)
    while True:
        try:
            os.fork()
        except OSError:
            pass
"#;
    let acts = vec![Act::Begin(bomb.to_owned()), Act::Reset, call(ALIVE), Act::Reset];
    let said = play(stage, true, acts)?;
    let clean = json!("clean");
    claim!(said == [json!("printed"), clean.clone(), json!("alive"), clean], "{said:?}");
    nothing_left(stage)
}

fn kills_template(stage: &Stage) -> Result<(), Failed> {
    let kill = "import os, time\ndef f():\n    os.kill(os.getppid(), 9)\n    time.sleep(1000)\n";
    let said = play(stage, true, vec![call(kill)])?;
    claim!(said == [json!("gone")], "{said:?}");
    nothing_left(stage)
}

/// Whoever writes into the stream of all calls is believed by nobody.
fn garbage(stage: &Stage) -> Result<(), Failed> {
    let write = r#"
import os, socket
def f():
    for fd in range(3, 2000):
        try:
            os.write(fd, b"\x89RIC" + bytes(200))
        except OSError:
            pass
"#;
    let said = play(stage, true, vec![call(write)])?;
    claim!(said == [json!("gone")], "{said:?}");
    nothing_left(stage)
}

/// The control is a process of the task's own, which it can read.
fn reaches_template(stage: &Stage) -> Result<(), Failed> {
    let reach = r#"
import os, time
def reachable(pid):
    found = []
    for name in ("mem", "environ", "maps", "fd/0", "cwd"):
        try:
            os.close(os.open("/proc/%d/%s" % (pid, name), os.O_RDONLY))
            found.append(name)
        except OSError:
            pass
    return found
def f():
    child = os.fork()
    if child == 0:
        time.sleep(1000)
    return [reachable(os.getppid()), "mem" in reachable(child)]
"#;
    let said = play(stage, true, vec![call(reach), Act::Reset])?;
    claim!(said == [json!([[], true]), json!("clean")], "{said:?}");
    nothing_left(stage)
}

fn stops_template(stage: &Stage) -> Result<(), Failed> {
    let stop =
        "import os\ndef f():\n    print('stops', flush=True)\n    os.kill(os.getppid(), 19)\n";
    let acts = vec![Act::Begin(stop.to_owned()), Act::Reset, call(ALIVE)];
    let said = play(stage, true, acts)?;
    claim!(said == [json!("printed"), json!("clean"), json!("alive")], "{said:?}");
    nothing_left(stage)
}

//! A daemon of a test's own: `serve` at a socket in the person's directory.

use std::path::PathBuf;
use std::time::Duration;

use libtest_mimic::Failed;
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::commands::{Answer, Running};
use crate::launch::{Cli, Ran, Stage, claim};
use crate::leftovers::nothing_left;

/// How long a daemon may take to end once it was told to.
const END_MAX: Duration = Duration::from_secs(60);

/// A daemon that serves. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon<'a> {
    stage: &'a Stage,
    running: Running,
    pub(crate) socket: PathBuf,
}

/// Where a test's daemon listens.
fn place(stage: &Stage) -> PathBuf {
    stage.home.join("run/own/daemon.sock")
}

/// The command line that starts a daemon, to be changed and then handed to [`serve`].
pub(crate) fn command<'a>(stage: &'a Stage, flags: &[&str]) -> Cli<'a> {
    let socket = place(stage).to_string_lossy().into_owned();
    let words: Vec<&str> =
        ["serve", "--socket", &socket].into_iter().chain(flags.iter().copied()).collect();
    stage.cli(&words)
}

/// Starts a daemon and waits until it serves.
pub(crate) fn serve<'a>(stage: &'a Stage, command: Cli<'a>) -> Result<Daemon<'a>, Failed> {
    let mut running = command.start()?;
    running.wait_for_error("serving")?;
    Ok(Daemon { stage, running, socket: place(stage) })
}

/// One that nothing is asked of.
pub(crate) fn start(stage: &Stage) -> Result<Daemon<'_>, Failed> {
    serve(stage, command(stage, &[]))
}

/// Ends it, and looks whether anything is left.
pub(crate) fn end(stage: &Stage, daemon: Daemon<'_>) -> Result<(), Failed> {
    let answer = daemon.end()?;
    claim!(answer.code == Some(0), "the daemon ended so: {}", answer.told());
    nothing_left(stage)
}

/// The name of the container that a task ran in.
pub(crate) fn container(ran: &Ran) -> String {
    ran.outcome["container"]["id"].as_str().unwrap_or_default().to_owned()
}

impl Daemon<'_> {
    /// Lets everyone reach its socket.
    pub(crate) fn open_to_all(&self) -> Result<(), Failed> {
        use std::os::unix::fs::PermissionsExt;
        for folder in [self.stage.home.clone(), self.stage.home.join("run")] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// The same functions as all calls of a test, in this daemon.
    pub(crate) fn call(
        &self,
        flags: &[&str],
        function: &str,
        args: &[&str],
    ) -> Result<Ran, Failed> {
        self.call_as(self.stage, flags, function, args)
    }

    /// The same, by somebody else.
    pub(crate) fn call_as(
        &self,
        stage: &Stage,
        flags: &[&str],
        function: &str,
        args: &[&str],
    ) -> Result<Ran, Failed> {
        function_command(stage, "call", &self.socket, flags, function, args)?.output()
    }

    /// Another verb about it.
    pub(crate) fn verb<'b>(&self, stage: &'b Stage, verb: &str, words: &[&str]) -> Cli<'b> {
        let socket = self.socket.to_string_lossy();
        let words: Vec<&str> = [verb, "--socket", &socket].iter().chain(words).copied().collect();
        stage.cli_alone(&words)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// Starts a call and does not wait for it.
    pub(crate) fn start_call(
        &self,
        flags: &[&str],
        function: &str,
        args: &[&str],
    ) -> Result<Running, Failed> {
        function_command(self.stage, "call", &self.socket, flags, function, args)?.start()
    }

    /// What `ps --json` tells `stage`.
    pub(crate) fn ps(&self, stage: &Stage) -> Result<Value, Failed> {
        let socket = self.socket.to_string_lossy();
        let ran = stage.cli(&["ps", "--json", "--socket", &socket]).output()?;
        Ok(ran.expect_code(0)?.outcome)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits until it says `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<(), Failed> {
        self.running.wait_for_error(text)
    }

    /// Tells it to end, and waits for that.
    pub(crate) fn end(self) -> Result<Answer, Failed> {
        self.running.signal(Signal::TERM);
        if !self.running.ends_within(END_MAX)? {
            return Err("the daemon does not end".into());
        }
        self.running.wait()
    }

    /// Waits for its end after it was killed.
    pub(crate) fn gone(self) -> Result<Answer, Failed> {
        self.running.wait()
    }
}

/// `submit` of the same functions.
pub(crate) fn submit_command<'a>(
    stage: &'a Stage,
    socket: &std::path::Path,
    flags: &[&str],
    function: &str,
    args: &[&str],
) -> Result<Cli<'a>, Failed> {
    function_command(stage, "submit", socket, flags, function, args)
}

fn function_command<'a>(
    stage: &'a Stage,
    verb: &str,
    socket: &std::path::Path,
    flags: &[&str],
    function: &str,
    args: &[&str],
) -> Result<Cli<'a>, Failed> {
    let file = stage.home.join("functions.py");
    // Once: one who was started before may be reading it.
    if !file.exists() {
        stage.file("functions.py", FUNCTIONS)?;
    }
    let file = file.display();
    let target = format!("{file}:{function}");
    let socket = socket.to_string_lossy();
    let mut words = vec![verb, "--socket", &socket];
    words.extend(flags);
    words.push(&target);
    words.extend(args);
    Ok(stage.cli_alone(&words))
}

/// Functions that tests call.
const FUNCTIONS: &str = r#"
import os, sys, time

def greet(name):
    print("said")
    print("erred", file=sys.stderr)
    return "hello, " + name

def who():
    return [os.getuid(), os.getgid(), sorted(os.getgroups())]

def leave(where):
    os.makedirs(where, exist_ok=True)
    open(where + "/left", "w").close()
    os.environ["LEFT"] = "1"
    sys.left = True
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    return os.getpid()

def found(where):
    processes = [name for name in os.listdir("/proc") if name.isdigit()]
    return [os.path.exists(where + "/left"), "LEFT" in os.environ, hasattr(sys, "left"),
            len(processes) - 1]

def number():
    return os.getpid()

def read(path):
    return open(path).read()

def raises():
    raise ValueError("no")

def exits(code):
    os._exit(code)

def killed(signal):
    os.kill(os.getpid(), signal)

def nap(seconds):
    time.sleep(seconds)
    return seconds

def spin():
    while True:
        pass

def eat():
    kept = []
    while True:
        kept.append(bytearray(1 << 22))

def flood(count):
    block = "x" * 65535 + "\n"
    for _ in range(count):
        sys.stdout.write(block)
    return "done"

def garbage():
    for fd in range(3, 1100):
        try:
            os.write(fd, b"\x89RIC" + b"garbage" * 100)
        except OSError:
            pass
    return "wrote"

def repeat(text, times):
    return text * times

def mark(path):
    with open(path, "ab", buffering=0) as file:
        file.write(b"x")
    time.sleep(0.05)

def cgroups():
    return open("/proc/self/cgroup").read()
"#;

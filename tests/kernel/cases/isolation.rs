//! The sandbox and what is around it: processes, sockets, ipc, groups, terminals, mounts.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::case::{Case, EVERYONE};
use crate::commands::{Command, Input};
use crate::launch::{Stage, claim};
use crate::needs::Need;
use crate::person::Person;
use crate::posture::{PYTHON, Place, probe, python, request};

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let python = &[Need::Python3];
    vec![
        Case::new("cannot_reach_a_process_of_its_own_user", cannot_reach_processes)
            .people(EVERYONE)
            .needs(python),
        Case::new("sees_copies_of_small_files_of_the_machine", sees_copies).people(EVERYONE),
        Case::new("has_no_network_but_loopback", has_no_network_but_loopback)
            .people(EVERYONE)
            .needs(python),
        Case::new("cannot_see_ipc_of_the_machine", cannot_see_ipc).needs(python),
        Case::new("inherits_no_descriptor", inherits_no_descriptor).needs(python),
        Case::new("inherits_no_variable", inherits_no_variable),
        Case::new("keeps_a_group_that_denies", keeps_a_group_that_denies)
            .people(&[Person::Rootless])
            .needs(&[Need::Root, Need::Busybox]),
        Case::new("cannot_type_into_its_callers_terminal", cannot_type_into_terminal).needs(python),
        Case::new("gives_a_usable_terminal", gives_a_usable_terminal).needs(python),
        Case::new("short_tasks_on_terminals_end_as_they_did", short_tasks_on_terminals_end)
            .people(EVERYONE)
            .needs(python),
        Case::new("memory_filesystems_are_bounded", memory_filesystems_are_bounded).needs(python),
        Case::new("runs_ordinary_python_programs", runs_python_programs)
            .people(EVERYONE)
            .needs(python),
        Case::new("passes_standard_streams_through", passes_streams),
        Case::new("read_only_mount_is_read_only_below_too", read_only_is_recursive)
            .people(&[Person::Root])
            .needs(python),
        Case::new("a_mount_made_later_does_not_appear", later_mount_stays_outside)
            .people(&[Person::Root])
            .needs(&[Need::Root]),
    ]
}

fn told<'a>(value: &'a Value, keys: &[&str]) -> &'a str {
    keys.iter().fold(value, |value, key| &value[*key]).as_str().unwrap_or("nothing")
}

/// What programs look up in `/etc` reads as on the machine, without being the machine's own file;
/// what is larger than a file is mounted.
fn sees_copies(stage: &Stage) -> Result<(), Failed> {
    let look = "cat /etc/os-release; cat /proc/self/mountinfo >&2";
    let ran = stage.cli(&["run", "--", "/bin/sh", "-c", look]).output()?.expect_code(0)?;
    let machine = std::fs::read_to_string("/etc/os-release")?;
    claim!(ran.answer.stdout == machine, "{}", ran.answer.told());
    let mounts = &ran.answer.stderr;
    claim!(!mounts.contains(" /etc/os-release "), "it is a mount: {mounts}");
    claim!(mounts.contains(" /etc/ssl/certs "), "no control: {mounts}");
    Ok(())
}

/// T22: signals, tracing and `/proc` do not reach a process of the same user on the machine.
fn cannot_reach_processes(stage: &Stage) -> Result<(), Failed> {
    let target = stage.world.as_person(stage.person, &["cat"]).input(Input::Held).start()?;
    let asked = json!({"process": target.pid().as_raw_nonzero().get()});
    let outside = probe(stage, Place::Bare, &["processes"], asked.clone())?;
    claim!(told(&outside, &["processes", "signal"]) == "ok", "no control: {outside}");
    let inside = probe(stage, Place::Sandbox, &["processes"], asked)?;
    claim!(told(&inside, &["processes", "signal"]) == "ESRCH", "signal: {inside}");
    claim!(told(&inside, &["processes", "trace"]) != "ok", "trace: {inside}");
    for name in ["proc_environ", "proc_mem", "proc_root", "proc_cwd"] {
        claim!(told(&inside, &["processes", name]) == "ENOENT", "{name}: {inside}");
    }
    Ok(())
}

/// T23, T25: a listener of the machine, by port and by abstract name, gets no connection.
fn has_no_network_but_loopback(stage: &Stage) -> Result<(), Failed> {
    let name = format!("canary-{}", stage.world.fresh_name());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?;
    let asked = json!({"port": port.local_addr()?.port(), "abstract": name});
    let outside = probe(stage, Place::Bare, &["network"], asked.clone())?;
    claim!(told(&outside, &["network", "host_port"]) == "ok", "no control: {outside}");
    claim!(told(&outside, &["network", "abstract"]) == "ok", "no control: {outside}");
    let inside = &probe(stage, Place::Sandbox, &["network"], asked)?["network"];
    for name in ["host_port", "abstract"] {
        claim!(inside[name] == "ECONNREFUSED", "{name}: {inside}");
    }
    claim!(inside["interfaces"] == json!(["lo"]), "interfaces: {inside}");
    claim!(inside["loopback"] == "ok", "its own loopback does not work: {inside}");
    claim!(inside["add_address"] == "EPERM", "an address could be added: {inside}");
    Ok(())
}

/// T26: a segment of the machine is not there, and the host name is its own.
fn cannot_see_ipc(stage: &Stage) -> Result<(), Failed> {
    // Another for each person: both run at the same time, on one machine.
    let person = if stage.person == Person::Root { 0 } else { 0x100 };
    let key = 0x5249_4000 + person + std::process::id() % 0x100;
    let script = "import ctypes, sys; l = ctypes.CDLL(None); \
         i = l.shmget(int(sys.argv[1]), 4096, 0o1666); print(i, flush=True); sys.stdin.read(); \
         l.shmctl(i, 0, None)";
    let words = [PYTHON, "-c", script, &key.to_string()];
    let mut holder = stage.world.as_person(stage.person, &words).input(Input::Held).start()?;
    holder.write(b"\n")?;
    let asked = json!({"segment_key": key});
    // The holder makes the segment before the control can see it, or the control fails.
    let mut outside = Value::Null;
    for _ in 0..100 {
        outside = probe(stage, Place::Bare, &["ipc"], asked.clone())?;
        if told(&outside, &["ipc", "segment"]) == "ok" {
            break;
        }
    }
    claim!(told(&outside, &["ipc", "segment"]) == "ok", "no control: {outside}");
    let inside = probe(stage, Place::Sandbox, &["ipc"], asked)?;
    holder.wait()?;
    claim!(told(&inside, &["ipc", "segment"]) == "ENOENT", "the segment: {inside}");
    claim!(inside["ipc"]["hostname"] != outside["ipc"]["hostname"], "the host name: {inside}");
    Ok(())
}

/// T01: fifty descriptors that the caller left open do not get in.
fn inherits_no_descriptor(stage: &Stage) -> Result<(), Failed> {
    let opener = "import os, socket, sys\n\
        kept = [os.open('/etc/passwd', os.O_RDONLY), os.open('/', os.O_RDONLY)]\n\
        kept += [os.memfd_create('canary', 0), socket.socket().detach()]\n\
        [os.set_inheritable(fd, True) for fd in kept]\n\
        [os.dup2(fd, 20 + 12 * i + j) for j in range(12) for i, fd in enumerate(kept)]\n\
        os.execv(sys.argv[1], sys.argv[1:])";
    let wrapper = [PYTHON, "-c", opener];
    let list = python(&request(&["descriptors"], json!({})));
    let mut control: Vec<String> = wrapper.map(str::to_owned).to_vec();
    control.extend(list.clone());
    let control: Value = serde_json::from_str(&Command::new(&control).output()?.stdout)?;
    let leaked = control["descriptors"].as_object().map_or(0, serde_json::Map::len);
    claim!(leaked > 50, "no control: only {leaked} descriptors are inherited by a plain exec");
    let mut line = vec!["run".to_owned(), "--".to_owned()];
    line.extend(list);
    let inside = stage.cli(&line).started_by(&wrapper).output()?.expect_code(0)?;
    let inside: Value = serde_json::from_str(&inside.answer.stdout)?;
    let open = inside["descriptors"].as_object().ok_or("no descriptors")?;
    claim!(open.keys().all(|n| ["0", "1", "2"].contains(&n.as_str())), "inherited: {open:?}");
    Ok(())
}

/// T32, the caller's half: nothing of the caller's environment gets in or steers a helper.
fn inherits_no_variable(stage: &Stage) -> Result<(), Failed> {
    let preload = "/nonexistent/canary.so";
    let control = ["env", &format!("LD_PRELOAD={preload}"), "/usr/bin/env"].map(str::to_owned);
    let control = Command::new(&control).output()?;
    claim!(control.stderr.contains(preload), "no control: the loader ignores LD_PRELOAD");
    let ran = stage
        .cli(&["run", "--", "/usr/bin/env"])
        .variable("SECRET", "canary")
        .variable("PYTHONPATH", "/nonexistent/canary")
        .output()?
        .expect_code(0)?;
    claim!(!ran.answer.stdout.contains("canary"), "inherited: {}", ran.answer.stdout);
    Ok(())
}

/// T16: a file that its owner denies to a group stays denied to the group's members.
fn keeps_a_group_that_denies(stage: &Stage) -> Result<(), Failed> {
    const GROUP: u32 = 54_399;
    let root = stage.home.join("image");
    crate::images::fill_root(&root)?;
    let file = root.join("etc/denied");
    std::fs::write(&file, "canary")?;
    std::os::unix::fs::chown(&file, Some(0), Some(GROUP))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o604);
    std::fs::set_permissions(&file, mode)?;
    let image = format!("dir:{}", root.display());
    let words = ["run", "--image", &image, "--", "/bin/cat", "/etc/denied"];
    let control = stage.cli(&words).output()?.expect_code(0)?;
    claim!(control.answer.stdout == "canary", "no control: {}", control.answer.told());
    let denied = stage.cli(&words).groups(&[GROUP]).output()?;
    claim!(denied.answer.code != Some(0), "a member of the group read it");
    claim!(!denied.answer.stdout.contains("canary"), "a member of the group read it");
    Ok(())
}

/// Runs a command line on a terminal of its own and prints what it said and what was typed.
const TERMINAL: &str = include_str!("../terminal.py");

/// T21: a task on the caller's terminal cannot type there and does not control it.
fn cannot_type_into_terminal(stage: &Stage) -> Result<(), Failed> {
    let push = "import fcntl, os, sys\n\
        for request in (0x5412, 0x541C):\n\
        \x20try: fcntl.ioctl(0, request, b'x'); print('pushed')\n\
        \x20except OSError as error: print('refused', error.errno)\n\
        try: os.open('/dev/tty', os.O_RDWR); print('controls')\n\
        except OSError: print('does not control')";
    let wrapper = [PYTHON, "-c", TERMINAL, ""];
    let control = Command::new(&[PYTHON, "-c", TERMINAL, "", PYTHON, "-c", push]).output()?;
    claim!(control.stdout.contains("controls\r\n"), "no control: {}", control.told());
    claim!(control.stdout.contains("pushed"), "no control: {}", control.told());
    let words = ["run", "--", PYTHON, "-c", push];
    let inside = stage.cli(&words).started_by(&wrapper).output()?.expect_code(0)?;
    let said = &inside.answer.stdout;
    claim!(!said.contains("pushed"), "a byte was typed: {said}");
    claim!(said.matches("refused 1\r").count() == 2, "not refused by the filter: {said}");
    claim!(said.contains("does not control"), "it controls the caller's terminal: {said}");
    Ok(())
}

/// `-t`: a shell in the sandbox has a terminal, its own, of the caller's size.
fn gives_a_usable_terminal(stage: &Stage) -> Result<(), Failed> {
    let typed = "tty; stty size; exit 7\n";
    let words = ["run", "-t", "--", "/bin/sh"];
    let ran = stage.cli(&words).started_by(&[PYTHON, "-c", TERMINAL, typed]).output()?;
    let said = ran.answer.told();
    claim!(ran.answer.stdout.contains("/dev/pts/"), "the shell has no terminal: {said}");
    claim!(ran.answer.stdout.contains("40 120"), "the size was not passed on: {said}");
    claim!(ran.answer.code == Some(7), "the exit code was not passed on: {said}");
    Ok(())
}

/// What a task that ends at once said of its end arrives, however its messages fall together.
fn short_tasks_on_terminals_end(stage: &Stage) -> Result<(), Failed> {
    let script = "for round in $(seq 20); do for one in 1 2 3 4 5 6; do \
        { \"$0\" -c \"$TERMINAL\" '' \"$@\"; echo \"code $?\"; } & done; wait; done";
    let words = ["run", "-t", "--", "/bin/sh", "-c", "exit 7"];
    let started = stage.cli(&words).variable("TERMINAL", TERMINAL);
    let ran = started.started_by(&["sh", "-c", script, PYTHON]).output()?;
    let codes = ran.answer.stdout.matches("code 7\n").count();
    claim!(codes == 120, "{codes} of 120 ended with 7: {}", ran.answer.told());
    Ok(())
}

/// T31: more than a bounded filesystem holds gives ENOSPC, or the end by the memory limit.
fn memory_filesystems_are_bounded(stage: &Stage) -> Result<(), Failed> {
    let asked = json!({"fill": ["/tmp", "/task", "/dev/shm"], "fill_bytes_most": 8_u64 << 30});
    let inside = probe(stage, Place::Sandbox, &["memory_filesystems", "mounts"], asked)?;
    for path in ["/tmp", "/task", "/dev/shm"] {
        let answer = &inside["memory_filesystems"][path];
        claim!(answer == "ENOSPC" || answer == "SIGKILL", "{path} took 8 GiB: {answer}");
        let mounts = inside["mounts"].as_array().ok_or("no mounts")?;
        let mount = mounts.iter().rfind(|m| m["target"] == path).ok_or("not a mount")?;
        let options = mount["options"].to_string();
        claim!(options.contains("nosuid") && options.contains("nodev"), "{path}: {options}");
    }
    Ok(())
}

fn runs_python_programs(stage: &Stage) -> Result<(), Failed> {
    let inside = probe(stage, Place::Sandbox, &["python"], json!({}))?;
    for (name, answer) in inside["python"].as_object().ok_or("no answers")? {
        claim!(answer == "ok", "{name}: {answer}");
    }
    Ok(())
}

/// Standard input arrives byte by byte, both outputs come back apart, and so does the exit code.
fn passes_streams(stage: &Stage) -> Result<(), Failed> {
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(1 << 20).collect();
    let script = "sha256sum; echo told >&2; exit 3";
    let ran = stage
        .cli(&["run", "--", "/bin/sh", "-c", script])
        .input(Input::Bytes(bytes.clone()))
        .output()?
        .expect_code(3)?;
    claim!(ran.answer.stdout.starts_with(&crate::images::hex(&bytes)), "{}", ran.answer.told());
    claim!(ran.answer.stderr == "told\n", "stderr: {:?}", ran.answer.stderr);
    Ok(())
}

/// A site policy that lets everyone mount below a test's own directory.
fn mount_policy(stage: &Stage) -> String {
    format!(
        "version: 1\nname: test\nmounts:\n  - {{source: {}, access: read-write}}\n",
        stage.home.display()
    )
}

/// T30: a filesystem mounted below a read-only mount is read-only too.
fn read_only_is_recursive(stage: &Stage) -> Result<(), Failed> {
    let folder = stage.directory("data")?;
    std::fs::create_dir(format!("{folder}/below"))?;
    let script = "mount -t tmpfs -o mode=1777 none \"$0/below\" && exec \"$@\"";
    let wrapper = ["unshare", "--mount", "sh", "-c", script, &folder];
    let run = |access: &str| {
        let mount = format!("{folder}:/data:{access}");
        let asked = request(&["files"], json!({"paths": ["/data/below"]}));
        let mut words = vec!["run".to_owned(), "--mount".to_owned(), mount, "--".to_owned()];
        words.extend(python(&asked));
        let ran = stage.cli(&words).site_policy(&mount_policy(stage))?.started_by(&wrapper);
        let answer = ran.output()?.expect_code(0)?.answer;
        Ok::<Value, Failed>(serde_json::from_str(&answer.stdout)?)
    };
    let control = run("rw")?;
    let write = told(&control, &["files", "/data/below", "write"]).to_owned();
    claim!(write == "ok", "no control: {control}");
    let inside = run("ro")?;
    let write = told(&inside, &["files", "/data/below", "write"]);
    claim!(write == "EROFS", "the mount below took a file: {inside}");
    Ok(())
}

/// T29: what the machine mounts later, below a directory that is mounted, stays outside.
fn later_mount_stays_outside(stage: &Stage) -> Result<(), Failed> {
    let folder = stage.directory("data")?;
    std::fs::create_dir(format!("{folder}/below"))?;
    // The whole scene is in a mount namespace of its own whose mounts are shared, so that a
    // propagating sandbox would get the second tmpfs.
    let script = format!(
        "mount -t tmpfs none {folder} && mount --make-shared {folder} && mkdir {folder}/below && \
         mkfifo -m 666 {folder}/go {folder}/ready && exec \"$@\""
    );
    let inner = "echo >/data/ready; read x </data/go; ls /data/below; grep -c below /proc/mounts";
    let mount = format!("{folder}:/data:rw");
    let outer = format!(
        "\"$@\" & read x <{folder}/ready; mount -t tmpfs none {folder}/below; \
         touch {folder}/below/canary; ls {folder}/below >&2; echo >{folder}/go; wait"
    );
    let wrapper = ["unshare", "--mount", "sh", "-c", &script, "sh", "sh", "-c", &outer, "sh"];
    let words = ["run", "--mount", &mount, "--", "/bin/sh", "-c", inner];
    let ran = stage.cli(&words).site_policy(&mount_policy(stage))?.started_by(&wrapper);
    let answer = ran.output()?.answer;
    claim!(answer.stderr.contains("canary"), "no control: {}", answer.told());
    claim!(!answer.stdout.contains("canary"), "the mount appeared inside: {}", answer.told());
    claim!(answer.stdout.trim() == "0", "the mount appeared inside: {}", answer.told());
    Ok(())
}

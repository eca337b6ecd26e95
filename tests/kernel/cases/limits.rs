//! Limits: what is set, seen from outside, and what a task that passes one gets.

use std::fs;

use libtest_mimic::Failed;

use crate::case::Case;
use crate::commands::{Command, Input};
use crate::launch::{Stage, claim};
use crate::leftovers::nothing_left;
use crate::needs::Need;
use crate::person::Person;
use crate::posture::PYTHON;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let memory = &[Need::CgroupMemory, Need::Python3];
    vec![
        Case::new("limits_are_set_as_asked_seen_from_outside", limits_seen_from_outside)
            .delegated()
            .needs(memory),
        Case::new("device_list_is_enforced_by_the_cgroup", device_list_is_enforced)
            .people(&[Person::Root])
            .delegated(),
        Case::new("too_much_memory_is_told_from_other_kills", too_much_memory)
            .delegated()
            .needs(memory),
        Case::new("memory_filesystem_is_charged_to_the_task", tmpfs_is_charged)
            .delegated()
            .needs(memory),
        Case::new("fork_bomb_is_contained", fork_bomb_is_contained)
            .delegated()
            .needs(&[Need::CgroupPids, Need::Python3]),
        Case::new("kill_by_the_task_itself_is_not_out_of_memory", kill_by_itself),
        Case::new("time_limit_ends_everything", time_limit_ends_everything),
        Case::new("stubborn_task_ends_in_time_too", stubborn_task_ends),
        Case::new("limit_that_cannot_be_enforced_is_refused", refuses_unenforceable_limit)
            .people(&[Person::Rootless])
            .needs(&[Need::Root]),
        Case::new("flood_of_output_is_bounded", flood_of_output_is_bounded),
        Case::new("flood_of_output_passes_through", flood_passes_through),
        Case::new("children_that_stay_are_ended", children_that_stay),
        Case::new("zombies_are_reaped", zombies_are_reaped).needs(&[Need::Python3]),
    ]
}

/// What the kernel says about the sandbox's cgroup is what was asked for, and what `--json` tells.
fn limits_seen_from_outside(stage: &Stage) -> Result<(), Failed> {
    const MEMORY: &str = "134217728";
    let words = [
        "run",
        "--memory",
        "128MiB",
        "--cpus",
        "0.5",
        "--pids",
        "50",
        "--",
        "/bin/sh",
        "-c",
        "echo begun; read x",
    ];
    let mut running = stage.cli(&words).input(Input::Held).start()?;
    let cgroup = stage.cgroup.as_ref().ok_or("no cgroup could be made")?;
    let read = |controller: &str, names: &[&str]| -> Option<String> {
        let folder = cgroup.folder(controller)?;
        let inside =
            fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).find(|path| {
                path.file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with("run-in-container"))
            })?;
        let found = names.iter().find_map(|name| fs::read_to_string(inside.join(name)).ok())?;
        Some(found.trim().to_owned())
    };
    let memory = ["memory.max", "memory.limit_in_bytes"];
    let pids = ["pids.max"];
    let cpu = ["cpu.max", "cpu.cfs_quota_us"];
    // The limits stand before the task starts, and the task waits for input.
    running.wait_for_output("begun")?;
    let seen = [read("memory", &memory), read("pids", &pids), read("cpu", &cpu)];
    running.write(b"\n")?;
    let answer = running.wait()?;
    claim!(answer.code == Some(0), "{}", answer.told());
    claim!(seen[0].as_deref() == Some(MEMORY), "memory: {:?}", seen[0]);
    let pids = seen[1].as_deref().and_then(|text| text.parse::<u64>().ok());
    claim!(pids.is_some_and(|pids| (50..=52).contains(&pids)), "pids: {:?}", seen[1]);
    let quota = seen[2].as_deref().and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    claim!(quota == Some(50_000), "cpu: {:?}", seen[2]);
    nothing_left(stage)
}

/// A process that opens `/dev/kmsg` can no longer do so in the sandbox's cgroup, though it keeps
/// root's capabilities and the machine's `/dev`; what is on the list still opens.
fn device_list_is_enforced(stage: &Stage) -> Result<(), Failed> {
    let words = ["run", "--", "/bin/sh", "-c", "echo begun; read x"];
    let mut running = stage.cli(&words).input(Input::Held).start()?;
    running.wait_for_output("begun")?;
    let cgroup = stage.cgroup.as_ref().ok_or("no cgroup could be made")?;
    // Version 2 has no such controller: its BPF program hangs on the one cgroup there is.
    let folder = cgroup.folder("devices").or_else(|| cgroup.folder("memory"));
    let entries = fs::read_dir(folder.ok_or("no cgroup of devices or memory")?)?;
    let inside = entries.flatten().map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("run-in-container"))
    });
    let inside = inside.ok_or("the sandbox has no cgroup there")?;
    let script = "true < /dev/kmsg && echo before; echo $$ > \"$1/cgroup.procs\" && echo moved; \
                  true < /dev/null && echo null; (true < /dev/kmsg) 2>&1";
    let script = ["/bin/sh", "-c", script, "sh", &inside.to_string_lossy()];
    let answer = Command::new(&script).output()?;
    running.write(b"\n")?;
    running.wait()?;
    let lines: Vec<&str> = answer.stdout.lines().collect();
    claim!(lines.starts_with(&["before", "moved", "null"]), "no control: {}", answer.told());
    let refused = lines.get(3).is_some_and(|line| line.ends_with("Operation not permitted"));
    claim!(refused, "{}", answer.told());
    nothing_left(stage)
}

/// T83, T84: the memory limit's kill has its own status.
fn too_much_memory(stage: &Stage) -> Result<(), Failed> {
    let eat =
        "x = bytearray(512 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint('survived')";
    let control = stage.cli(&["run", "--json", "--memory", "1GiB", "--", PYTHON, "-c", eat]);
    let control = control.output()?.expect_status("ok")?;
    claim!(control.outcome["stdout"] == "survived\n", "no control: {}", control.outcome);
    for child in [false, true] {
        let script = if child {
            format!(
                "import subprocess, sys\n\
                 done = subprocess.run([sys.executable, '-c', {eat:?}])\n\
                 sys.exit(done.returncode != 0)"
            )
        } else {
            eat.to_owned()
        };
        let words = ["run", "--json", "--memory", "64MiB", "--", PYTHON, "-c", &script];
        let ran = stage.cli(&words).output()?.expect_status("out_of_memory")?;
        let enforced = &ran.outcome["enforced"]["memory"];
        claim!(enforced.as_str().is_some_and(|how| how.contains("cgroup")), "{enforced}");
        nothing_left(stage)?;
    }
    Ok(())
}

/// T31: what a task writes to `/tmp` counts as its memory.
fn tmpfs_is_charged(stage: &Stage) -> Result<(), Failed> {
    let script = "head -c 200000000 /dev/zero >/tmp/fill; echo survived >&2";
    let words = ["run", "--json", "--memory", "64MiB", "--", "/bin/sh", "-c", script];
    let ran = stage.cli(&words).output()?;
    let status = ran.outcome["status"].as_str().unwrap_or("");
    let bounded = status == "out_of_memory"
        || ran.outcome["stderr"].as_str().is_some_and(|text| text.contains("No space left"));
    claim!(bounded, "200 MB went into a 64 MiB task: {}", ran.outcome);
    Ok(())
}

/// T86: forks beyond the limit fail inside, and everything is gone after.
fn fork_bomb_is_contained(stage: &Stage) -> Result<(), Failed> {
    let bomb = "import os, time\n\
        made = 0\n\
        try:\n\
        \x20while made < 500:\n\
        \x20 if os.fork() == 0: time.sleep(60); os._exit(0)\n\
        \x20 made += 1\n\
        except OSError as e: print(made, e.errno)";
    let run = |pids: &str| {
        stage.cli(&["run", "--json", "--pids", pids, "--", PYTHON, "-c", bomb]).output()
    };
    let control = run("1000")?.expect_status("ok")?;
    claim!(control.outcome["stdout"] == "", "no control: {}", control.outcome);
    let ran = run("40")?.expect_status("ok")?;
    let said = ran.outcome["stdout"].as_str().unwrap_or("");
    let made: u32 = said.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(999);
    claim!(said.trim().ends_with(" 11") && made < 40, "EAGAIN before 40, got {said:?}");
    nothing_left(stage)
}

/// A SIGKILL that the task sends itself is `killed` or `failed`, never `out_of_memory`.
fn kill_by_itself(stage: &Stage) -> Result<(), Failed> {
    let words = ["run", "--json", "--", "/bin/sh", "-c", "kill -9 $$"];
    let ran = stage.cli(&words).output()?.expect_code(137)?.expect_status("killed")?;
    claim!(ran.outcome["exit_code"] == 137, "{}", ran.outcome);
    Ok(())
}

fn time_limit_ends_everything(stage: &Stage) -> Result<(), Failed> {
    let words =
        ["run", "--json", "--timeout", "1s", "--", "/bin/sh", "-c", "sleep 600 & sleep 600"];
    let ran = stage.cli(&words).output()?.expect_code(124)?.expect_status("timeout")?;
    let wall = ran.outcome["usage"]["wall_s"].as_f64().unwrap_or(0.0);
    claim!(wall >= 1.0, "it was ended early: {}", ran.outcome);
    nothing_left(stage)
}

/// T91: a task that ignores every signal it can, stops itself or spins.
fn stubborn_task_ends(stage: &Stage) -> Result<(), Failed> {
    for script in [
        "trap '' TERM INT HUP QUIT; while :; do :; done",
        "kill -STOP $$",
        "setsid sleep 600 & exec sleep 600",
    ] {
        let words = ["run", "--json", "--timeout", "1s", "--", "/bin/sh", "-c", script];
        let ran = stage.cli(&words).output()?;
        let status = &ran.outcome["status"];
        claim!(ran.answer.code == Some(124) && status == "timeout", "{script}: {}", ran.outcome);
        nothing_left(stage)?;
    }
    Ok(())
}

/// T76: asked for explicitly and not to be had: refused, with the feature named. The twin is the
/// same command line with a delegated cgroup, in `limits_are_set_as_asked_seen_from_outside`.
fn refuses_unenforceable_limit(stage: &Stage) -> Result<(), Failed> {
    let words = ["run", "--memory", "128MiB", "--", "/bin/true"];
    let ran = stage.cli(&words).output()?.expect_code(122)?;
    claim!(ran.answer.stderr.contains("memory"), "it does not say what: {}", ran.answer.stderr);
    let default = stage.cli(&["run", "--json", "--", "/bin/true"]).output()?.expect_status("ok")?;
    let told = &default.outcome["enforced"]["memory"]["not_enforced"];
    claim!(told.is_string(), "a default that was dropped is not told: {}", default.outcome);
    Ok(())
}

/// T92: captured output is cut, the task is not stuck, and the cut is told.
fn flood_of_output_is_bounded(stage: &Stage) -> Result<(), Failed> {
    let bytes = stage.world.effort(1 << 30);
    let script = format!("head -c {bytes} /dev/zero | tr '\\0' x");
    let words = ["run", "--json", "--", "/bin/sh", "-c", &script];
    let ran = stage.cli(&words).output()?.expect_status("ok")?;
    let kept = ran.outcome["stdout"].as_str().map_or(0, str::len);
    claim!(kept > 0 && kept < 100 << 20, "kept {kept} of {bytes} bytes");
    let tail: String =
        ran.outcome["stdout"].as_str().unwrap_or("").chars().rev().take(200).collect();
    claim!(tail.chars().any(|c| c != 'x'), "the cut is not told");
    nothing_left(stage)
}

/// Output that is passed through is not cut.
fn flood_passes_through(stage: &Stage) -> Result<(), Failed> {
    let bytes = stage.world.effort(256 << 20);
    let ran = stage
        .cli(&["run", "--", "head", "-c", &bytes.to_string(), "/dev/zero"])
        .output()?
        .expect_code(0)?;
    claim!(ran.answer.stdout_bytes == bytes, "{} bytes arrived", ran.answer.stdout_bytes);
    Ok(())
}

/// A task's end is the end of what it started, also of what left its session or holds its output.
fn children_that_stay(stage: &Stage) -> Result<(), Failed> {
    let script = "setsid sleep 600 & (sleep 600 &) ; sleep 600 & echo done";
    let ran = stage.cli(&["run", "--", "/bin/sh", "-c", script]).output()?.expect_code(0)?;
    claim!(ran.answer.stdout == "done\n", "{}", ran.answer.told());
    nothing_left(stage)
}

/// T87: orphans that end are reaped by the init of the sandbox.
fn zombies_are_reaped(stage: &Stage) -> Result<(), Failed> {
    let script = "import os, time\n\
        for _ in range(200):\n\
        \x20if os.fork() == 0:\n\
        \x20 if os.fork() == 0: os._exit(0)\n\
        \x20 os._exit(0)\n\
        \x20os.wait()\n\
        def is_dead(p):\n\
        \x20try: return '\\nState:\\tZ' in open(f'/proc/{p}/status').read()\n\
        \x20except OSError: return False\n\
        def zombies(): return sum(map(is_dead, filter(str.isdigit, os.listdir('/proc'))))\n\
        end = time.monotonic() + 30\n\
        while zombies() and time.monotonic() < end: time.sleep(0.01)\n\
        print(zombies())";
    let ran = stage.cli(&["run", "--", PYTHON, "-c", script]).output()?.expect_code(0)?;
    claim!(ran.answer.stdout == "0\n", "zombies: {}", ran.answer.told());
    Ok(())
}

//! Submitted tasks: fetched by others, kept through kills, ended exactly once, nobody else's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::case::Case;
use crate::commands::Command;
use crate::daemon::{Daemon, command, end, serve, start, submit_command};
use crate::launch::{Cgroup, Ran, Stage, claim};
use crate::leftovers::nothing_left;
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let root = &[Person::Root];
    let all = vec![
        Case::new("submitted_task_is_fetched_by_another_process", fetched_by_another),
        Case::new("submitted_task_ends_as_a_call_of_its_own", ends_as_alone),
        Case::new("submitted_result_survives_a_kill", result_survives),
        Case::new("submitted_task_that_waited_runs_in_the_next_life", waits_for_the_next_life),
        Case::new("submitted_task_that_may_have_run_is_lost_or_run_again", lost_or_again),
        Case::new("submitted_tasks_are_neither_lost_nor_doubled", neither_lost_nor_doubled)
            .needs(&[Need::Root]),
        Case::new("submitted_tasks_outlive_an_end_in_good_order", outlive_a_good_end),
        Case::new("journal_with_a_torn_tail_is_read", torn_tail),
        Case::new("journal_that_is_damaged_is_not_cut", damaged_journal),
        Case::new("full_disk_refuses_what_is_submitted", full_disk).people(root),
        Case::new("submitted_tasks_of_others_do_not_exist", not_found_by_others)
            .people(root)
            .needs(&[Need::OrdinaryUser]),
        Case::new("submitted_task_is_cancelled_in_each_phase", cancelled_in_each_phase),
        Case::new("submitted_results_expire", results_expire),
        Case::new("submitted_tasks_are_as_many_as_policy_says", bounded),
        Case::new("submitted_task_ends_with_its_job", ends_with_its_job)
            .people(root)
            .needs(&[Need::CgroupV1]),
        Case::new("one_daemon_keeps_tasks_in_one_place", one_daemon_for_a_place),
        Case::new("submitted_example_gives_what_it_promises", example),
    ];
    all.into_iter().map(|case| case.needs(&[Need::Python3])).collect()
}

/// As if the power had failed; what is left of its containers ends by itself.
fn kill(stage: &Stage, daemon: Daemon<'_>) -> Result<(), Failed> {
    daemon.signal(Signal::KILL);
    daemon.gone()?;
    nothing_left(stage)
}

fn submit(
    daemon: &Daemon<'_>,
    stage: &Stage,
    flags: &[&str],
    function: &str,
    args: &[&str],
) -> Result<String, Failed> {
    let ran = submit_command(stage, &daemon.socket, flags, function, args)?.output()?;
    Ok(ran.expect_code(0)?.answer.stdout.trim().to_owned())
}

fn result(daemon: &Daemon<'_>, stage: &Stage, id: &str, flags: &[&str]) -> Result<Ran, Failed> {
    let words: Vec<&str> = ["--json", id].iter().chain(flags).copied().collect();
    daemon.verb(stage, "result", &words).output()
}

fn status(daemon: &Daemon<'_>, stage: &Stage) -> Result<Vec<Value>, Failed> {
    let ran = daemon.verb(stage, "status", &["--json"]).output()?.expect_code(0)?;
    Ok(ran.outcome.as_array().cloned().unwrap_or_default())
}

/// Waits until a task is so far.
fn until(daemon: &Daemon<'_>, stage: &Stage, id: &str, state: &str) -> Result<(), Failed> {
    loop {
        let ran = daemon.verb(stage, "status", &["--json", id]).output()?.expect_code(0)?;
        if ran.outcome[0]["state"] == state {
            return Ok(());
        }
        claim!(ran.outcome[0]["state"] != "ended", "{}", ran.outcome);
    }
}

fn fetched_by_another(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let id = submit(&daemon, stage, &[], "greet", &["--arg", "world"])?;
    let kept = result(&daemon, stage, &id, &["--keep"])?.expect_status("ok")?;
    claim!(kept.outcome["result"] == "hello, world", "{}", kept.outcome);
    let again = daemon.verb(stage, "result", &[&id]).output()?.expect_code(0)?.answer;
    claim!(again.stdout == "\"hello, world\"\n", "{}", again.told());
    claim!(again.stderr.contains("said") && again.stderr.contains("erred"), "{}", again.told());
    // It was acknowledged, and is no more.
    let gone = daemon.verb(stage, "result", &[&id]).output()?.expect_code(125)?.answer;
    claim!(gone.stderr.contains("no submitted task of this name"), "{}", gone.told());
    claim!(status(&daemon, stage)?.is_empty(), "something is left");
    end(stage, daemon)
}

/// Outcome and exit code are those of a call that is awaited, in a container of its own.
fn ends_as_alone(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    for (function, args) in [
        ("greet", &["--arg", "world"][..]),
        ("raises", &[]),
        ("exits", &["--arg", "7"]),
        ("killed", &["--arg", "9"]),
        ("missing", &[]),
    ] {
        let id = submit(&daemon, stage, &[], function, args)?;
        let submitted = result(&daemon, stage, &id, &[])?;
        let target = format!("{}:{function}", stage.home.join("functions.py").display());
        let words: Vec<&str> =
            ["call", "--json", "--no-daemon", &target].iter().chain(args).copied().collect();
        let alone = stage.cli(&words).output()?;
        let essence = |ran: &Ran| {
            let mut outcome = ran.outcome.clone();
            outcome["container"] = Value::Null;
            outcome["usage"] = Value::Null;
            (outcome, ran.answer.code)
        };
        let (submitted, alone) = (essence(&submitted), essence(&alone));
        claim!(submitted == alone, "{function}: {submitted:?}\nalone: {alone:?}");
    }
    let id = submit(&daemon, stage, &["--timeout", "1s"], "spin", &[])?;
    result(&daemon, stage, &id, &[])?.expect_status("timeout")?.expect_code(124)?;
    end(stage, daemon)
}

fn result_survives(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let id = submit(&daemon, stage, &[], "greet", &["--arg", "world"])?;
    // A result that has a file of its own in the journal, and travels as a memory file.
    let large = submit(&daemon, stage, &[], "repeat", &["--arg", "x", "--arg", "3000000"])?;
    for id in [&id, &large] {
        result(&daemon, stage, id, &["--keep"])?.expect_status("ok")?;
    }
    kill(stage, daemon)?;
    let daemon = start(stage)?;
    let kept = result(&daemon, stage, &id, &[])?.expect_status("ok")?;
    claim!(kept.outcome["result"] == "hello, world", "{}", kept.outcome);
    claim!(kept.outcome["stdout"] == "said\n", "{}", kept.outcome);
    let large = result(&daemon, stage, &large, &[])?.expect_status("ok")?;
    claim!(large.outcome["result"].as_str().map(str::len) == Some(3_000_000), "another result");
    let left = fs::read_dir(stage.home.join("tasks/payloads"))?.count();
    end(stage, daemon)?;
    claim!(left <= 1, "{left} payloads are left of what was fetched");
    Ok(())
}

/// One container, so that the second waits for the first; killed, it has not begun.
fn waits_for_the_next_life(stage: &Stage) -> Result<(), Failed> {
    let text = "version: 1\nname: one\nwarm: {containers: {most: 1}}\n";
    let policy = ["--policy", &stage.file("policy.yaml", text)?];
    let daemon = serve(stage, command(stage, &policy))?;
    let first = submit(&daemon, stage, &[], "nap", &["--arg", "600"])?;
    until(&daemon, stage, &first, "running")?;
    let second = submit(&daemon, stage, &[], "greet", &["--arg", "world"])?;
    until(&daemon, stage, &second, "waiting")?;
    kill(stage, daemon)?;
    let daemon = serve(stage, command(stage, &policy))?;
    let second = result(&daemon, stage, &second, &[])?.expect_status("ok")?;
    claim!(second.outcome["result"] == "hello, world", "{}", second.outcome);
    end(stage, daemon)
}

fn lost_or_again(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let once = submit(&daemon, stage, &[], "nap", &["--arg", "2"])?;
    let again = submit(&daemon, stage, &["--rerun"], "nap", &["--arg", "2"])?;
    for id in [&once, &again] {
        until(&daemon, stage, id, "running")?;
    }
    kill(stage, daemon)?;
    let daemon = start(stage)?;
    let once = result(&daemon, stage, &once, &[])?.expect_status("lost")?.expect_code(125)?;
    claim!(once.outcome["error"].to_string().contains("--rerun"), "{}", once.outcome);
    let again = result(&daemon, stage, &again, &[])?.expect_status("ok")?;
    claim!(again.outcome["result"] == 2, "{}", again.outcome);
    end(stage, daemon)
}

/// Kills at many points of a task's life; each task marks a file each time that it runs.
fn neither_lost_nor_doubled(stage: &Stage) -> Result<(), Failed> {
    const KILLS: u32 = 40;
    /// A busy machine has enough chances within this.
    const WHOLE_MAX: Duration = Duration::from_secs(1);
    let marks = PathBuf::from(stage.directory("marks")?);
    // Root's tasks are nobody's.
    fs::set_permissions(&marks, fs::Permissions::from_mode(0o777))?;
    let policy = format!(
        "version: 1\nname: marks\nmounts: [{{source: {}, access: read-write}}]\n",
        marks.display()
    );
    let mount = format!("{}:/marks:rw", marks.display());
    let (mut taken, mut refused) = (BTreeMap::new(), Vec::new());
    // What a task takes here from its submission to its end, as far as the machine is busy now.
    let mut whole = Duration::ZERO;
    let rounds = u32::try_from(stage.world.effort(KILLS.into()))?;
    for round in 0..rounds {
        let daemon = serve(stage, command(stage, &[]).site_policy(&policy)?)?;
        let mut submissions = Vec::new();
        let since = Instant::now();
        for rerun in [false, true] {
            let name = format!("{round}-{rerun}");
            let mut flags = vec!["--mount", mount.as_str()];
            flags.extend(rerun.then_some("--rerun"));
            let path = format!("/marks/{name}");
            let words = ["--arg", path.as_str()];
            let command = submit_command(stage, &daemon.socket, &flags, "mark", &words)?;
            submissions.push((name, rerun, command.beside(&daemon).start()?));
        }
        // Where it is by then is chance, and that is the point: before the journal, while it is
        // written, in a container that starts, in the function, at its end. The first two are
        // waited for.
        match round {
            0 => {
                while status(&daemon, stage)?.iter().filter(|task| task["state"] == "ended").count()
                    < submissions.len()
                {}
                whole = since.elapsed().min(WHOLE_MAX);
            }
            _ => std::thread::sleep(whole / rounds * round),
        }
        daemon.signal(Signal::KILL);
        daemon.gone()?;
        for (name, rerun, submission) in submissions {
            let answer = submission.wait()?;
            match answer.code {
                Some(0) => drop(taken.insert(answer.stdout.trim().to_owned(), (name, rerun))),
                _ => refused.push((name, rerun)),
            }
        }
    }
    nothing_left(stage)?;
    let daemon = serve(stage, command(stage, &[]).site_policy(&policy)?)?;
    let marked = |name: &str| fs::read(marks.join(name)).map_or(0, |marks| marks.len());
    let mut counts = BTreeMap::<String, usize>::new();
    for (id, (name, rerun)) in &taken {
        let ran = result(&daemon, stage, id, &["--keep"])?;
        let status = ran.outcome["status"].as_str().unwrap_or_default().to_owned();
        let fits = match (status.as_str(), rerun, marked(name)) {
            ("ok", false, count) => count == 1,
            ("lost", false, count) => count <= 1,
            ("ok", true, count) => count >= 1,
            _ => false,
        };
        claim!(fits, "{name} ended as {} with {} marks", ran.outcome, marked(name));
        *counts.entry(status).or_default() += 1;
    }
    for (name, rerun) in &refused {
        claim!(*rerun || marked(name) <= 1, "{name} was refused, and run twice");
    }
    let known = status(&daemon, stage)?;
    claim!(known.len() >= taken.len(), "{} tasks of {}", known.len(), taken.len());
    claim!(counts.contains_key("ok"), "none has ended well: {counts:?}, refused {refused:?}");
    end(stage, daemon)
}

/// SIGTERM lets what runs end, and leaves what waits to the next life.
fn outlive_a_good_end(stage: &Stage) -> Result<(), Failed> {
    let text = "version: 1\nname: one\nwarm: {containers: {most: 1}}\n";
    let policy = ["--policy", &stage.file("policy.yaml", text)?];
    let daemon = serve(stage, command(stage, &policy))?;
    let first = submit(&daemon, stage, &[], "nap", &["--arg", "2"])?;
    until(&daemon, stage, &first, "running")?;
    let second = submit(&daemon, stage, &[], "greet", &["--arg", "world"])?;
    end(stage, daemon)?;
    let daemon = serve(stage, command(stage, &policy))?;
    let ran = result(&daemon, stage, &first, &[])?.expect_status("ok")?;
    claim!(ran.outcome["result"] == 2, "{}", ran.outcome);
    result(&daemon, stage, &second, &[])?.expect_status("ok")?;
    end(stage, daemon)
}

/// A daemon was killed that keeps a result: its id, the journal, and what is in that.
fn killed_with_a_result(stage: &Stage) -> Result<(String, PathBuf, Vec<u8>), Failed> {
    let daemon = start(stage)?;
    let id = submit(&daemon, stage, &[], "greet", &["--arg", "world"])?;
    result(&daemon, stage, &id, &["--keep"])?.expect_status("ok")?;
    kill(stage, daemon)?;
    let journal = stage.home.join("tasks/journal");
    let content = fs::read(&journal)?;
    Ok((id, journal, content))
}

fn torn_tail(stage: &Stage) -> Result<(), Failed> {
    let (id, journal, content) = killed_with_a_result(stage)?;
    // Half of a record that somebody was about to write.
    File::options().append(true).open(&journal)?.write_all(&content[16..40])?;
    let daemon = start(stage)?;
    result(&daemon, stage, &id, &[])?.expect_status("ok")?;
    let id = submit(&daemon, stage, &[], "greet", &["--arg", "again"])?;
    result(&daemon, stage, &id, &[])?.expect_status("ok")?;
    end(stage, daemon)
}

/// Damage before the end is no torn tail: nothing is run, and nothing cut.
fn damaged_journal(stage: &Stage) -> Result<(), Failed> {
    let (id, journal, content) = killed_with_a_result(stage)?;
    let mut damaged = content.clone();
    damaged[40] ^= 1;
    fs::write(&journal, &damaged)?;
    let ran = command(stage, &[]).output()?.expect_code(125)?;
    let said = &ran.answer.stderr;
    claim!(said.contains("damaged at byte 16") && said.contains("--state"), "{said}");
    claim!(fs::read(&journal)? == damaged, "it was changed");
    // The control: undamaged it is read.
    fs::write(&journal, &content)?;
    let daemon = start(stage)?;
    result(&daemon, stage, &id, &[])?.expect_status("ok")?;
    end(stage, daemon)
}

/// A file system that a test has mounted.
struct Mounted(PathBuf);

impl Mounted {
    fn new(folder: &Path, size: &str) -> Result<Mounted, Failed> {
        fs::create_dir(folder)?;
        let (options, place) = (format!("size={size},mode=700"), folder.to_string_lossy());
        let words = ["mount", "-t", "tmpfs", "-o", &options, "tmpfs", &place];
        let answer = Command::new(&words).output()?;
        claim!(answer.code == Some(0), "{}", answer.told());
        Ok(Mounted(folder.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What is left of it shows as a failure of the test that looks for what is left.
        let _ = Command::new(&["umount", &self.0.to_string_lossy()]).output();
    }
}

fn full_disk(stage: &Stage) -> Result<(), Failed> {
    let mounted = Mounted::new(&stage.home.join("small"), "1M")?;
    let state = mounted.0.join("tasks").to_string_lossy().into_owned();
    let flags = ["--state", state.as_str()];
    let daemon = serve(stage, command(stage, &flags))?;
    let before = submit(&daemon, stage, &[], "greet", &["--arg", "before"])?;
    result(&daemon, stage, &before, &["--keep"])?.expect_status("ok")?;
    let filler = mounted.0.join("filler");
    let mut file = File::create(&filler)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    let refused = submit_command(stage, &daemon.socket, &["--json"], "greet", &["--arg", "full"])?;
    let refused = refused.output()?.expect_code(125)?;
    let error = refused.outcome["error"].as_str().unwrap_or_default();
    claim!(error.contains("cannot keep the task"), "{error}");
    claim!(status(&daemon, stage)?.len() == 1, "the refused one is known");
    // What was kept before can be fetched all the same.
    result(&daemon, stage, &before, &["--keep"])?.expect_status("ok")?;
    drop(file);
    fs::remove_file(&filler)?;
    let after = submit(&daemon, stage, &[], "greet", &["--arg", "after"])?;
    result(&daemon, stage, &after, &[])?.expect_status("ok")?;
    kill_with_mount(daemon)?;
    let daemon = serve(stage, command(stage, &flags))?;
    let known = status(&daemon, stage)?;
    claim!(known.len() == 1 && known[0]["id"] == before.as_str(), "{known:?}");
    let answer = daemon.end()?;
    claim!(answer.code == Some(0), "{}", answer.told());
    drop(mounted);
    nothing_left(stage)
}

fn kill_with_mount(daemon: Daemon<'_>) -> Result<(), Failed> {
    daemon.signal(Signal::KILL);
    daemon.gone().map(drop)
}

fn not_found_by_others(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    daemon.open_to_all()?;
    let own = Stage::new(&stage.world, Person::Rootless, Cgroup::Plain)?;
    let other = Stage::new(&stage.world, Person::Unmapped, Cgroup::Plain)?;
    let id = submit(&daemon, &own, &[], "who", &[])?;
    let absent = "0".repeat(32);
    for verb in ["result", "cancel", "status"] {
        let [asked, absent] = [&id, &absent].map(|id| {
            let answer = daemon.verb(&other, verb, &[id]).output()?.expect_code(125)?.answer;
            Ok::<_, Failed>(answer.stderr.replace(id, "ID"))
        });
        let (asked, absent) = (asked?, absent?);
        claim!(asked == absent, "{verb} tells them apart: {asked}\n{absent}");
    }
    claim!(status(&daemon, &other)?.is_empty(), "others see it");
    // The control: its owner does.
    claim!(status(&daemon, &own)?.len() == 1, "its owner does not see it");
    let ran = result(&daemon, &own, &id, &[])?.expect_status("ok")?;
    claim!(ran.outcome["result"][0] == Person::Rootless.ids().uid, "{}", ran.outcome);
    let marks = own.directory("marks")?;
    let mount = format!("{marks}:/marks");
    let refused = submit_command(&own, &daemon.socket, &["--mount", &mount], "who", &[])?;
    refused.output()?.expect_code(122)?;
    end(stage, daemon)?;
    [own, other].iter().try_for_each(nothing_left)
}

fn cancelled_in_each_phase(stage: &Stage) -> Result<(), Failed> {
    let text = "version: 1\nname: one\nwarm: {containers: {most: 1}}\n";
    let policy = ["--policy", &stage.file("policy.yaml", text)?];
    let daemon = serve(stage, command(stage, &policy))?;
    let cancel = |id: &str, expected: bool| -> Result<(), Failed> {
        let ran = daemon.verb(stage, "cancel", &["--json", id]).output()?.expect_code(0)?;
        claim!(ran.outcome["cancelled"] == expected, "{}", ran.outcome);
        Ok(())
    };
    // A container that starts for it, most likely.
    let starting = submit(&daemon, stage, &[], "nap", &["--arg", "600"])?;
    cancel(&starting, true)?;
    let running = submit(&daemon, stage, &[], "nap", &["--arg", "600"])?;
    until(&daemon, stage, &running, "running")?;
    let waiting = submit(&daemon, stage, &[], "nap", &["--arg", "600"])?;
    cancel(&waiting, true)?;
    cancel(&running, true)?;
    for id in [&starting, &running, &waiting] {
        result(&daemon, stage, id, &["--keep"])?.expect_status("cancelled")?.expect_code(143)?;
        // It has ended, and nothing ends it again.
        cancel(id, false)?;
    }
    let ended = submit(&daemon, stage, &[], "greet", &["--arg", "x"])?;
    result(&daemon, stage, &ended, &["--keep"])?.expect_status("ok")?;
    cancel(&ended, false)?;
    result(&daemon, stage, &ended, &[])?.expect_status("ok")?;
    end(stage, daemon)
}

fn results_expire(stage: &Stage) -> Result<(), Failed> {
    let text = "version: 1\nname: short\nresults: {keep: {most: 2s}}\n";
    let policy = stage.file("policy.yaml", text)?;
    let daemon = serve(stage, command(stage, &["--policy", &policy]))?;
    let id = submit(&daemon, stage, &[], "greet", &["--arg", "x"])?;
    result(&daemon, stage, &id, &["--keep"])?.expect_status("ok")?;
    while !status(&daemon, stage)?.is_empty() {}
    result(&daemon, stage, &id, &[])?.expect_code(125)?;
    end(stage, daemon)
}

fn bounded(stage: &Stage) -> Result<(), Failed> {
    let text = "version: 1\nname: tight\nresults: {tasks_per_user: {most: 2}, \
                bytes_per_user: {most: 64KiB}}\n";
    let policy = stage.file("policy.yaml", text)?;
    let daemon = serve(stage, command(stage, &["--policy", &policy]))?;
    let ids = [1, 2].map(|_| submit(&daemon, stage, &[], "greet", &["--arg", "x"]));
    let [first, second] = ids;
    let (first, second) = (first?, second?);
    let full = submit_command(stage, &daemon.socket, &["--json"], "greet", &["--arg", "x"])?;
    full.output()?.expect_status("busy")?.expect_code(125)?;
    result(&daemon, stage, &first, &[])?.expect_status("ok")?;
    // There is room again, but not for what this one returns.
    let large = submit(&daemon, stage, &[], "repeat", &["--arg", "x", "--arg", "100000"])?;
    let large = result(&daemon, stage, &large, &[])?.expect_status("failed")?;
    let error = large.outcome["error"].as_str().unwrap_or_default();
    claim!(error.contains("has no room"), "{error}");
    result(&daemon, stage, &second, &[])?.expect_status("ok")?;
    end(stage, daemon)
}

/// Submitted from a job that is gone in the next life.
fn ends_with_its_job(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let job = Stage::new(&stage.world, Person::Root, Cgroup::Plain)?;
    let id = submit(&daemon, &job, &["--rerun"], "nap", &["--arg", "600"])?;
    until(&daemon, stage, &id, "running")?;
    kill(stage, daemon)?;
    nothing_left(&job)?;
    drop(job);
    let daemon = start(stage)?;
    let ran = result(&daemon, stage, &id, &[])?.expect_status("cancelled")?;
    let error = ran.outcome["error"].as_str().unwrap_or_default();
    claim!(error.contains("the job or the session has ended"), "{error}");
    end(stage, daemon)
}

fn one_daemon_for_a_place(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let socket = stage.home.join("run/second/daemon.sock");
    let ran = stage.cli(&["serve", "--socket", &socket.to_string_lossy()]).output()?;
    let said = &ran.expect_code(125)?.answer.stderr;
    claim!(said.contains("another daemon keeps its tasks there"), "{said}");
    end(stage, daemon)
}

fn example(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = stage.file("submitted.sh", fs::read(root.join("examples/submitted.sh"))?)?;
    let functions = fs::read(root.join("examples/functions/hello.py"))?;
    let functions = stage.file("hello.py", functions)?;
    let program = stage.world.binary.to_string_lossy();
    let socket = format!("RUN_IN_CONTAINER_SOCKET={}", daemon.socket.display());
    let program = format!("PROGRAM={program}");
    let words = ["env", &socket, &program, "sh", &script, &functions];
    let answer = stage.world.as_person(stage.person, &words).output()?;
    claim!(answer.code == Some(0), "{}", answer.told());
    let said = "\"hello, Ada\"\n\"hello, Grace\"\n\"hello, Edsger\"\n";
    claim!(answer.stdout == said, "{}", answer.told());
    claim!(status(&daemon, stage)? == Vec::<Value>::new(), "something is left");
    claim!(json!(answer.stderr) == "", "{}", answer.told());
    end(stage, daemon)
}

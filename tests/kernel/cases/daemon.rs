//! The daemon: warm containers, whose they are, how tasks in them end, what is left of them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use libtest_mimic::Failed;
use ric_runtime::{Kind, NO_TASK, encode_frame};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::case::Case;
use crate::daemon::{command, container, end, serve, start};
use crate::launch::{Cgroup, Ran, Stage, claim};
use crate::leftovers::nothing_left;
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let all = vec![
        Case::new("daemon_answers_as_a_call_of_its_own", answers_as_alone),
        Case::new("daemon_keeps_a_container_warm", keeps_warm),
        Case::new("daemon_gives_a_task_a_new_container_if_asked", gives_new_containers),
        Case::new("daemon_gives_a_task_a_new_process_if_asked", gives_new_processes),
        Case::new("daemon_shares_containers_only_between_equal_sandboxes", shares_equal_only),
        Case::new("daemon_tells_how_tasks_ended", tells_endings),
        Case::new("daemon_stops_tasks_in_time", stops_in_time),
        Case::new("daemon_tells_too_much_memory", tells_too_much_memory)
            .delegated()
            .needs(&[Need::CgroupMemory]),
        Case::new("daemon_goes_on_after_each_kind_of_crash", goes_on_after_crashes),
        Case::new("daemon_refuses_what_a_call_of_its_own_refuses", refuses_the_same),
        Case::new("daemon_of_a_user_serves_nobody_else", serves_nobody_else)
            .people(&[Person::Rootless])
            .needs(&[Need::Root]),
        Case::new("daemon_of_root_serves_each_user_apart", serves_each_apart)
            .people(&[Person::Root])
            .needs(&[Need::OrdinaryUser]),
        Case::new("daemon_puts_containers_below_their_callers_cgroup", below_callers_cgroup)
            .people(&[Person::Root])
            .needs(&[Need::CgroupV1]),
        Case::new("daemon_tells_who_floods_it_that_it_is_busy", tells_busy),
        Case::new("daemon_ends_containers_that_are_idle_or_too_many", bounds_containers),
        Case::new("daemon_survives_hostile_clients", survives_hostile_clients),
        Case::new("daemon_bounds_what_tasks_print", bounds_prints),
        Case::new("daemon_ends_in_good_order", ends_in_good_order),
        Case::new("daemon_that_is_killed_leaves_nothing", killed_leaves_nothing),
        Case::new("daemon_clears_up_after_a_keeper_that_was_killed", killed_keeper_leaves_nothing),
        Case::new("daemon_ends_the_tasks_of_a_client_that_goes", ends_with_its_client),
        Case::new("daemon_keeps_the_old_policy_if_the_new_is_broken", keeps_old_policy),
        Case::new("daemon_decides_anew_under_a_new_policy", decides_anew),
        Case::new("daemon_sees_that_a_policy_file_has_changed", sees_changed_policy),
        Case::new("daemon_takes_no_task_that_gets_less_new_than_the_site_demands", demands_fresh),
        Case::new("stop_ends_containers_and_only_ones_own", stop_ends_containers),
        Case::new("daemon_takes_the_socket_of_a_service_manager", takes_a_given_socket),
    ];
    all.into_iter().map(|case| case.needs(&[Need::Python3])).collect()
}

const WARM: [&str; 3] = ["--json", "--fresh", "nothing"];

/// What does not depend on when and where.
fn essence(ran: &Ran) -> Value {
    let mut outcome = ran.outcome.clone();
    for key in ["container", "usage"] {
        outcome[key] = Value::Null;
    }
    outcome
}

fn answers_as_alone(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    for (function, args) in [
        ("greet", &["--arg", "world"][..]),
        ("who", &[]),
        ("raises", &[]),
        ("exits", &["--arg", "7"]),
        ("killed", &["--arg", "9"]),
        ("missing", &[]),
    ] {
        let warm = daemon.call(&["--json"], function, args)?;
        let mut words = vec!["call", "--json", "--no-daemon"];
        let target = format!("{}:{function}", stage.home.join("functions.py").display());
        words.push(&target);
        words.extend(args);
        let alone = stage.cli(&words).output()?;
        claim!(
            essence(&warm) == essence(&alone) && warm.answer.code == alone.answer.code,
            "{function}: {}\nalone: {}",
            warm.outcome,
            alone.outcome
        );
    }
    end(stage, daemon)
}

fn keeps_warm(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let first = daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    let second = daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    claim!(container(&first) == container(&second), "{} {}", first.outcome, second.outcome);
    claim!(first.outcome["result"] == second.outcome["result"], "another process");
    let warm = [&first, &second].map(|ran| ran.outcome["container"]["warm"].clone());
    claim!(warm == [json!(false), json!(true)], "{warm:?}");
    end(stage, daemon)
}

/// Nothing of a task is found by the next, which the control, a warm container, does find.
fn gives_new_containers(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let place = ["--arg", "/tmp/x"];
    let fresh = ["--json", "--fresh", "container"];
    let first = daemon.call(&fresh, "leave", &place)?.expect_code(0)?;
    let second = daemon.call(&fresh, "found", &place)?.expect_code(0)?;
    claim!(container(&first) != container(&second), "{}", second.outcome);
    claim!(second.outcome["result"] == json!([false, false, false, 1]), "{}", second.outcome);
    daemon.call(&WARM, "leave", &place)?.expect_code(0)?;
    let control = daemon.call(&WARM, "found", &place)?.expect_code(0)?;
    claim!(control.outcome["result"] == json!([true, true, true, 2]), "{}", control.outcome);
    end(stage, daemon)
}

/// One container, a process for each task, and nothing of the one before.
fn gives_new_processes(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let place = ["--arg", "/tmp/x"];
    let fresh = ["--json", "--fresh", "process"];
    // While one container is made ready again, another may take the next task.
    let (mut found_in_it, mut seen) = (0, Vec::new());
    for _ in 0..10 {
        let first = daemon.call(&fresh, "leave", &place)?.expect_code(0)?;
        let second = daemon.call(&fresh, "found", &place)?.expect_code(0)?;
        // Init, the template, and the task itself.
        claim!(second.outcome["result"] == json!([false, false, false, 2]), "{}", second.outcome);
        let both = [container(&first), container(&second)];
        found_in_it += usize::from(both[0] == both[1] || seen.contains(&both[1]));
        seen.push(both[0].clone());
    }
    claim!(found_in_it > 0, "no container was used twice: {seen:?}");
    seen.sort_unstable();
    seen.dedup();
    claim!(seen.len() <= processors_and_half(), "{} containers: {seen:?}", seen.len());
    // The next task finds a new process also where the one before took its own down.
    daemon.call(&fresh, "killed", &["--arg", "9"])?.expect_status("killed")?;
    daemon.call(&fresh, "found", &place)?.expect_code(0)?;
    end(stage, daemon)
}

/// What a daemon starts at most for a caller who says nothing of how many.
fn processors_and_half() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors + processors.div_ceil(2)
}

fn shares_equal_only(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let mut seen = Vec::new();
    for more in [
        &[][..],
        &["--variable", "A=1"],
        &["--variable", "A=2"],
        &["--workdir", "/tmp"],
        &["--timeout", "50s"],
    ] {
        let flags: Vec<&str> = WARM.iter().chain(more).copied().collect();
        let ran = daemon.call(&flags, "number", &[])?.expect_code(0)?;
        seen.push(container(&ran));
    }
    // A time limit is a task's own, so that the last found the first one's container.
    claim!(seen[4] == seen[0], "{seen:?}");
    seen.truncate(4);
    let count = seen.len();
    seen.sort();
    seen.dedup();
    claim!(seen.len() == count, "{seen:?}");
    end(stage, daemon)
}

fn tells_endings(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    for (function, args, status, code) in [
        ("greet", &["--arg", "x"][..], "ok", 0),
        ("raises", &[], "failed", 1),
        ("exits", &["--arg", "5"], "failed", 5),
        ("killed", &["--arg", "11"], "killed", 139),
        ("nothing_of_that_name", &[], "failed", 1),
    ] {
        let ran = daemon.call(&WARM, function, args)?;
        ran.expect_status(status)?.expect_code(code)?;
    }
    end(stage, daemon)
}

/// C code that never looks at a signal is stopped too; the daemon serves on.
fn stops_in_time(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let flags: Vec<&str> = WARM.iter().chain(&["--timeout", "1s"]).copied().collect();
    for function in ["spin", "nap"] {
        let args: &[&str] = if function == "nap" { &["--arg", "600"] } else { &[] };
        let ran = daemon.call(&flags, function, args)?;
        ran.expect_status("timeout")?.expect_code(124)?;
    }
    daemon.call(&flags, "number", &[])?.expect_code(0)?;
    end(stage, daemon)
}

fn tells_too_much_memory(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let flags: Vec<&str> = WARM.iter().chain(&["--memory", "64MiB"]).copied().collect();
    daemon.call(&flags, "eat", &[])?.expect_status("out_of_memory")?;
    // The control: the same limit is enough for one that needs less.
    daemon.call(&flags, "number", &[])?.expect_code(0)?;
    end(stage, daemon)
}

fn goes_on_after_crashes(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    for (function, args) in [
        ("exits", &["--arg", "0"][..]),
        ("killed", &["--arg", "11"]),
        ("killed", &["--arg", "6"]),
        ("garbage", &[]),
    ] {
        let ran = daemon.call(&WARM, function, args)?;
        let status = ran.outcome["status"].as_str().unwrap_or_default().to_owned();
        claim!(
            matches!(status.as_str(), "failed" | "killed" | "corrupt" | "ok"),
            "{function}: {}",
            ran.outcome
        );
        let next = daemon.call(&WARM, "greet", &["--arg", "next"])?.expect_code(0)?;
        claim!(next.outcome["result"] == "hello, next", "{}", next.outcome);
    }
    end(stage, daemon)
}

/// Whatever way a task comes in, policy says the same about it.
fn refuses_the_same(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    for flags in [
        &["--mount", "/etc:/data"][..],
        &["--network", "host"],
        &["--engine", "shifter"],
        &["--user", "image"],
        &["--workdir", "/../.."],
    ] {
        let with_json: Vec<&str> = ["--json"].iter().chain(flags).copied().collect();
        let warm = daemon.call(&with_json, "number", &[])?;
        let target = format!("{}:number", stage.home.join("functions.py").display());
        let mut words = vec!["call", "--json", "--no-daemon"];
        words.extend(flags);
        words.push(&target);
        let alone = stage.cli(&words).output()?;
        let (status, code) = (&alone.outcome["status"], alone.answer.code);
        claim!(
            warm.outcome["status"] == *status && warm.answer.code == code && code != Some(0),
            "{flags:?}: {}\nalone: {}",
            warm.outcome,
            alone.outcome
        );
        let (warm, alone) = (&warm.outcome, &alone.outcome);
        claim!(warm["hint"] == alone["hint"], "{flags:?}: {warm}\nalone: {alone}");
    }
    end(stage, daemon)
}

fn serves_nobody_else(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let other = Stage::new(&stage.world, Person::Unmapped, Cgroup::Plain)?;
    let ran = daemon.call_as(&other, &WARM, "number", &[])?;
    claim!(ran.answer.code == Some(125), "{}", ran.answer.told());
    // Root reaches the socket, and is not served: its tasks would run as this user.
    let root = Stage::new(&stage.world, Person::Root, Cgroup::Plain)?;
    let ran = daemon.call_as(&root, &WARM, "number", &[])?;
    claim!(ran.answer.code == Some(125), "{}", ran.answer.told());
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    end(stage, daemon)
}

/// Each in containers of their own, with their own ids, and without sight of the others'.
fn serves_each_apart(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    // Others have to reach the socket.
    daemon.open_to_all()?;
    let (mut containers, mut stages) = (Vec::new(), Vec::new());
    for person in [Person::Rootless, Person::Unmapped] {
        let theirs = Stage::new(&stage.world, person, Cgroup::Plain)?;
        let ran = daemon.call_as(&theirs, &WARM, "who", &[])?.expect_code(0)?;
        let ids = person.ids();
        claim!(ran.outcome["result"][0] == ids.uid, "{person:?}: {}", ran.outcome);
        claim!(ran.outcome["result"][1] == ids.gid, "{person:?}: {}", ran.outcome);
        let seen = daemon.ps(&theirs)?;
        let seen = seen["containers"].as_array().cloned().unwrap_or_default();
        let own = seen.iter().all(|one| one["uid"] == ids.uid) && !seen.is_empty();
        claim!(own, "{person:?} sees {seen:?}");
        containers.push(container(&ran));
        // With its cgroup its container would end.
        stages.push(theirs);
    }
    claim!(containers[0] != containers[1], "they share {containers:?}");
    let all = daemon.ps(stage)?;
    claim!(all["containers"].as_array().map_or(0, Vec::len) >= 2, "root sees {all}");
    end(stage, daemon)?;
    stages.iter().try_for_each(nothing_left)
}

/// So that the limits of a scheduler's job hold for what it asks of a daemon outside the job.
fn below_callers_cgroup(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let other = Stage::new(&stage.world, Person::Root, Cgroup::Plain)?;
    let ran = daemon.call_as(&other, &WARM, "number", &[])?.expect_code(0)?;
    let id = container(&ran);
    let theirs = other.cgroup.as_ref().ok_or("root can make cgroups")?.contents();
    let is_below = |contents: &crate::cgroups::Contents| {
        contents.cgroups.iter().any(|path| path.ends_with(&id))
    };
    claim!(is_below(&theirs), "{id} is not in {theirs:?}");
    let daemons = stage.cgroup.as_ref().ok_or("root can make cgroups")?.contents();
    claim!(!is_below(&daemons), "{id} is in the daemon's own cgroup");
    end(stage, daemon)?;
    nothing_left(&other)
}

/// A queue has a bound, and who passes it is told so and loses nothing of what was taken.
fn tells_busy(stage: &Stage) -> Result<(), Failed> {
    let text = "version: 1\nname: tight\nwarm: {tasks_per_user: {most: 2}}\n";
    let file = stage.file("policy.yaml", text)?;
    let daemon = serve(stage, command(stage, &["--policy", &file]))?;
    let naps = (0..2).map(|_| daemon.start_call(&WARM, "nap", &["--arg", "3"]));
    let naps = naps.collect::<Result<Vec<_>, _>>()?;
    let busy = || -> Result<bool, Failed> {
        let all = daemon.ps(stage)?;
        let working = all["containers"].as_array().cloned().unwrap_or_default();
        Ok(working.iter().filter(|one| one["state"] == "working").count() == 2)
    };
    while !busy()? {}
    let ran = daemon.call(&WARM, "number", &[])?.expect_status("busy")?.expect_code(125)?;
    let error = ran.outcome["error"].as_str().unwrap_or_default().to_owned();
    claim!(error.contains("your queue is full"), "{error}");
    for nap in naps {
        let answer = nap.wait()?;
        claim!(answer.code == Some(0), "{}", answer.told());
    }
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    end(stage, daemon)
}

fn bounds_containers(stage: &Stage) -> Result<(), Failed> {
    let text = "version: 1\nname: tight\nwarm: {containers: {most: 2}, idle: {most: 2s}}\n";
    let file = stage.file("policy.yaml", text)?;
    let daemon = serve(stage, command(stage, &["--policy", &file]))?;
    let count = || -> Result<usize, Failed> {
        Ok(daemon.ps(stage)?["containers"].as_array().map_or(0, Vec::len))
    };
    for number in 0..5 {
        let variable = format!("NUMBER={number}");
        let flags: Vec<&str> = WARM.iter().chain(&["--variable", &variable]).copied().collect();
        daemon.call(&flags, "number", &[])?.expect_code(0)?;
        let count = count()?;
        claim!(count <= 2, "{count} containers");
    }
    claim!(count()? > 0, "none was kept");
    while count()? > 0 {}
    end(stage, daemon)
}

/// Whatever comes, others are served, and nothing grows.
fn survives_hostile_clients(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    if stage.person != Person::Root && rustix::process::geteuid().is_root() {
        // Root is no client of a user's daemon: what it sends is not even read.
        return end(stage, daemon);
    }
    let hello = encode_frame(
        Kind::Hello,
        NO_TASK,
        br#"{"version_lowest":1,"version_highest":1,"client":"hostile"}"#,
        &[],
    )?;
    let mut long = hello.clone();
    long.extend(encode_frame(Kind::Open, [1; 16], br#"{"mounts":[{},{},{}]}"#, &[])?);
    let mut wrong = hello.clone();
    wrong[30] ^= 1;
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    let inputs: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 1 << 20],
        hello[..40].to_vec(),
        wrong,
        [hello.clone(), hello.clone()].concat(),
        long,
        [hello.clone(), encode_frame(Kind::Result, [1; 16], b"{}", b"1")?].concat(),
        [hello.clone(), encode_frame(Kind::Open, [1; 16], deep.as_bytes(), &[])?].concat(),
        [hello.clone(), encode_frame(Kind::Call, [1; 16], br#"{"pool":9}"#, b"x")?].concat(),
        [hello.clone(), encode_frame(Kind::Cancel, [9; 16], b"", &[])?].concat(),
    ];
    for input in &inputs {
        let mut stream = UnixStream::connect(&daemon.socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        // The daemon may have had enough before all of it is written.
        let _ = stream.write_all(input);
        let _ = stream.read(&mut [0; 4096]);
    }
    let held: Vec<UnixStream> =
        (0..300).map_while(|_| UnixStream::connect(&daemon.socket).ok()).collect();
    daemon.call(&WARM, "greet", &["--arg", "x"])?.expect_code(0)?;
    drop(held);
    end(stage, daemon)
}

fn bounds_prints(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    // 64 MiB, of which 16 are kept.
    let ran = daemon.call(&WARM, "flood", &["--arg", "1024"])?.expect_code(0)?;
    let kept = ran.outcome["stdout"].as_str().map_or(0, str::len);
    claim!(kept <= 16 << 20, "{kept} bytes of output were kept");
    claim!(ran.outcome["result"] == "done", "{}", ran.outcome["result"]);
    let next = daemon.call(&WARM, "greet", &["--arg", "x"])?.expect_code(0)?;
    claim!(next.outcome["stdout"] == "said\n", "{}", next.outcome);
    end(stage, daemon)
}

/// SIGTERM lets tasks end and takes nothing new.
fn ends_in_good_order(stage: &Stage) -> Result<(), Failed> {
    let mut daemon = start(stage)?;
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    let call = daemon.start_call(&WARM, "nap", &["--arg", "2"])?;
    // Until it has begun.
    while daemon.ps(stage)?["containers"]
        .as_array()
        .is_none_or(|all| !all.iter().any(|one| one["state"] == "working"))
    {}
    daemon.signal(Signal::TERM);
    daemon.wait_for("ending")?;
    let answer = call.wait()?;
    claim!(answer.code == Some(0), "{}", answer.told());
    claim!(daemon.gone()?.code == Some(0), "the daemon failed");
    nothing_left(stage)
}

fn killed_leaves_nothing(stage: &Stage) -> Result<(), Failed> {
    for _ in 0..3 {
        let daemon = start(stage)?;
        daemon.call(&WARM, "number", &[])?.expect_code(0)?;
        let call = daemon.start_call(&WARM, "nap", &["--arg", "600"])?;
        while daemon.ps(stage)?["containers"]
            .as_array()
            .is_none_or(|all| !all.iter().any(|one| one["state"] == "working"))
        {}
        daemon.signal(Signal::KILL);
        daemon.gone()?;
        let answer = call.wait()?;
        claim!(answer.code == Some(125), "{}", answer.told());
        nothing_left(stage)?;
    }
    // The next one takes the place of the dead one's socket.
    let daemon = start(stage)?;
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    end(stage, daemon)
}

/// What keeps a container is no more: the container ends with it, and its cgroups are removed.
fn killed_keeper_leaves_nothing(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let before = daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid().as_raw_nonzero());
    let children = fs::read_to_string(children)?;
    let keepers: Vec<i32> =
        children.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    claim!(!keepers.is_empty(), "a warm container has no keeper");
    for keeper in keepers.into_iter().filter_map(Pid::from_raw) {
        kill_process(keeper, Signal::KILL)?;
    }
    while !daemon.ps(stage)?["containers"].as_array().is_some_and(Vec::is_empty) {}
    // While the daemon lives: nobody else removes them.
    let name = container(&before);
    let is_left = |path: &PathBuf| path.ends_with(&name);
    while stage.cgroup.as_ref().is_some_and(|own| own.contents().cgroups.iter().any(is_left)) {}
    let after = daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    claim!(container(&before) != container(&after), "the same container");
    end(stage, daemon)
}

fn ends_with_its_client(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let call = daemon.start_call(&WARM, "nap", &["--arg", "600"])?;
    let working = |stage: &Stage| -> Result<usize, Failed> {
        let all = daemon.ps(stage)?;
        let all = all["containers"].as_array().cloned().unwrap_or_default();
        Ok(all.iter().filter(|one| one["state"] == "working").count())
    };
    while working(stage)? == 0 {}
    call.signal(Signal::KILL);
    call.wait()?;
    while working(stage)? > 0 {}
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    end(stage, daemon)
}

fn keeps_old_policy(stage: &Stage) -> Result<(), Failed> {
    let file = stage.file("policy.yaml", "version: 1\nname: first\n")?;
    let mut daemon = serve(stage, command(stage, &["--policy", &file]))?;
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    stage.file("policy.yaml", "version: 1\nnonsense: true\n")?;
    daemon.signal(Signal::HUP);
    daemon.wait_for("the old one still holds")?;
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    end(stage, daemon)
}

fn decides_anew(stage: &Stage) -> Result<(), Failed> {
    let file = stage.file("policy.yaml", "version: 1\nname: first\n")?;
    let mut daemon = serve(stage, command(stage, &["--policy", &file]))?;
    let before = daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    stage.file("policy.yaml", "version: 1\nname: first\nimages: {allow: [\"host:\"]}\n")?;
    daemon.signal(Signal::HUP);
    daemon.wait_for("a new policy holds")?;
    let after = daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    claim!(container(&before) != container(&after), "a container of the old policy was used");
    stage.file("policy.yaml", "version: 1\nname: first\nimages: {deny: [\"host:\"]}\n")?;
    daemon.signal(Signal::HUP);
    daemon.wait_for("a new policy holds")?;
    daemon.call(&WARM, "number", &[])?.expect_code(122)?;
    end(stage, daemon)
}

fn sees_changed_policy(stage: &Stage) -> Result<(), Failed> {
    let file = stage.file("policy.yaml", "version: 1\nname: first\n")?;
    let mut daemon = serve(stage, command(stage, &["--policy", &file]))?;
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    // In place, as editors do, and by another file of that name, as package managers do.
    stage.file("policy.yaml", "version: 1\nname: first\nimages: {deny: [\"host:\"]}\n")?;
    daemon.wait_for("a new policy holds")?;
    daemon.call(&WARM, "number", &[])?.expect_code(122)?;
    let other = stage.file("other.yaml", "version: 1\nname: first\nfresh: process\n")?;
    fs::rename(other, &file)?;
    daemon.wait_for("a new policy holds")?;
    daemon.call(&["--json"], "number", &[])?.expect_code(0)?;
    // Without its file, a policy must not become one that allows more.
    fs::remove_file(&file)?;
    daemon.wait_for("still holds, until SIGHUP")?;
    daemon.call(&WARM, "number", &[])?.expect_code(122)?;
    end(stage, daemon)
}

fn demands_fresh(stage: &Stage) -> Result<(), Failed> {
    let file = stage.file("policy.yaml", "version: 1\nname: careful\nfresh: process\n")?;
    let daemon = serve(stage, command(stage, &["--policy", &file]))?;
    for asked in [&["--json"][..], &["--json", "--fresh", "process"]] {
        daemon.call(asked, "number", &[])?.expect_code(0)?;
    }
    let refused = daemon.call(&WARM, "number", &[])?.expect_code(122)?;
    let error = refused.outcome["error"].to_string();
    claim!(error.contains("policy.yaml:3"), "does not name the rule: {error}");
    end(stage, daemon)
}

/// As systemd hands it over: descriptor 3, and variables that name this very process.
fn takes_a_given_socket(stage: &Stage) -> Result<(), Failed> {
    const MANAGER: &str = "import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])";
    stage.directory("run/own")?;
    let socket = stage.home.join("run/own/daemon.sock");
    let socket = socket.to_string_lossy();
    let manager = [crate::posture::PYTHON, "-c", MANAGER, &socket];
    let daemon = serve(stage, stage.cli(&["serve"]).started_by(&manager))?;
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    end(stage, daemon)
}

fn stop_ends_containers(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let ran = daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    let (id, socket) = (container(&ran), daemon.socket.to_string_lossy().into_owned());
    let stop = |words: &[&str]| {
        let all: Vec<&str> = ["stop", "--socket", &socket].iter().chain(words).copied().collect();
        stage.cli(&all).output()
    };
    stop(&["run-in-container-0000000000000000"])?.expect_code(125)?;
    stop(&[&id])?.expect_code(0)?;
    let left = daemon.ps(stage)?;
    let is_left = left["containers"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["id"] == id.as_str()));
    claim!(!is_left, "{left}");
    end(stage, daemon)
}

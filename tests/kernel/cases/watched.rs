//! What can be seen of a daemon: why containers were used, what they printed, its numbers.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::case::Case;
use crate::daemon::{command, container, end, serve, start};
use crate::launch::{Cgroup, Stage, claim};
use crate::leftovers::nothing_left;
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let all = vec![
        Case::new("ps_explains_why_containers_were_warm", explains),
        Case::new("logs_show_what_a_container_printed_after_it_ended", shows_logs),
        Case::new("logs_follow_a_container_to_its_end", follows_logs),
        Case::new("logs_and_metrics_are_not_for_others", hides_from_others)
            .people(&[Person::Root])
            .needs(&[Need::OrdinaryUser]),
        Case::new("metrics_are_what_a_prometheus_reads", tells_metrics),
        Case::new("top_shows_what_works", shows_top),
        Case::new("daemon_speaks_json_if_asked", speaks_json),
    ];
    all.into_iter().map(|case| case.needs(&[Need::Python3])).collect()
}

const WARM: [&str; 3] = ["--json", "--fresh", "nothing"];

fn explains(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    for _ in 0..3 {
        daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    }
    let other = [&WARM[..], &["--variable", "A=1"]].concat();
    daemon.call(&other, "number", &[])?.expect_code(0)?;
    let told = daemon.verb(stage, "ps", &["--explain"]).output()?.expect_code(0)?.answer.stdout;
    claim!(told.contains("2 tasks found a container that earlier tasks had left warm"), "{told}");
    claim!(told.contains("1 task waited for a container that was being started"), "{told}");
    claim!(told.contains("which differs in: variables"), "{told}");
    end(stage, daemon)
}

fn shows_logs(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let ran = daemon.call(&["--json"], "greet", &["--arg", "you"])?.expect_code(0)?;
    let id = container(&ran);
    // Each task gets a new container: this one's has ended.
    let logs = daemon.verb(stage, "logs", &[&id]).output()?.expect_code(0)?.answer.stdout;
    claim!(logs.contains("said\n") && logs.contains("erred\n"), "{logs:?}");
    let missing =
        daemon.verb(stage, "logs", &["nonesuch"]).output()?.expect_code(125)?.answer.stderr;
    claim!(missing.contains("there is no container \"nonesuch\""), "{missing}");
    let flood = daemon.call(&WARM, "flood", &["--arg", "20"])?.expect_code(0)?;
    let logs = daemon.verb(stage, "logs", &[&container(&flood)]).output()?.expect_code(0)?.answer;
    claim!(logs.stdout_bytes == 16 << 10, "{} bytes are kept", logs.stdout_bytes);
    end(stage, daemon)
}

fn follows_logs(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let ran = daemon.call(&WARM, "greet", &["--arg", "you"])?.expect_code(0)?;
    let id = container(&ran);
    let mut follower = daemon.verb(stage, "logs", &["--follow", &id]).start()?;
    follower.wait_for_output("said")?;
    daemon.call(&WARM, "greet", &["--arg", "again"])?.expect_code(0)?;
    follower.wait_for_output("said\nerred\nsaid")?;
    daemon.verb(stage, "stop", &[&id]).output()?.expect_code(0)?;
    let answer = follower.wait()?;
    claim!(answer.code == Some(0), "{}", answer.told());
    claim!(answer.stdout == "said\nerred\n".repeat(2), "{:?}", answer.stdout);
    end(stage, daemon)
}

fn hides_from_others(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    daemon.open_to_all()?;
    let id = container(&daemon.call(&WARM, "greet", &["--arg", "you"])?.expect_code(0)?);
    let other = Stage::new(&stage.world, Person::Rootless, Cgroup::Plain)?;
    let logs = daemon.verb(&other, "logs", &[&id]).output()?.expect_code(125)?.answer.stderr;
    claim!(logs.contains("there is no container"), "{logs}");
    let metrics = daemon.verb(&other, "metrics", &[]).output()?.expect_code(122)?.answer.stderr;
    claim!(metrics.contains("they are for root and its owner"), "{metrics}");
    let explained =
        daemon.verb(&other, "ps", &["--explain"]).output()?.expect_code(0)?.answer.stdout;
    claim!(explained.is_empty(), "{explained}");
    // The control: who may see it, does.
    daemon.verb(stage, "logs", &[&id]).output()?.expect_code(0)?;
    end(stage, daemon)?;
    nothing_left(&other)
}

fn tells_metrics(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    daemon.call(&WARM, "number", &[])?.expect_code(0)?;
    daemon.call(&WARM, "raises", &[])?;
    let text = daemon.verb(stage, "metrics", &[]).output()?.expect_code(0)?.answer.stdout;
    for line in [
        "run_in_container_tasks_total{status=\"ok\"} 2",
        "run_in_container_tasks_total{status=\"failed\"} 1",
        "run_in_container_containers_started_total 1",
        "run_in_container_containers{state=\"idle\"} 1",
        "run_in_container_ran_seconds_count 3",
        "run_in_container_tasks_running 0",
    ] {
        claim!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
    // Each line is a comment, or a name with a number; each name was announced.
    for line in text.lines().filter(|line| !line.starts_with("# ")) {
        let (name, value) = line.rsplit_once(' ').ok_or("no value")?;
        claim!(value.parse::<f64>().is_ok(), "{line}");
        let family = name.split('{').next().unwrap_or(name);
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| family.strip_suffix(end))
            .unwrap_or(family);
        claim!(text.contains(&format!("# TYPE {family} ")), "{family} is not announced");
    }
    end(stage, daemon)
}

fn shows_top(stage: &Stage) -> Result<(), Failed> {
    let daemon = start(stage)?;
    let id = container(&daemon.call(&WARM, "number", &[])?.expect_code(0)?);
    let text = daemon.verb(stage, "top", &[]).output()?.expect_code(0)?.answer.stdout;
    claim!(text.starts_with("1 containers, 0 of them working; 0 tasks wait\n"), "{text}");
    claim!(text.lines().any(|line| line.starts_with(&id) && line.contains("idle")), "{text}");
    end(stage, daemon)
}

fn speaks_json(stage: &Stage) -> Result<(), Failed> {
    let daemon = serve(stage, command(stage, &["--json"]))?;
    let answer = daemon.end()?;
    claim!(answer.code == Some(0), "{}", answer.told());
    for line in answer.stderr.lines() {
        let said: Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
        claim!(said["message"].is_string() && said["time"].is_f64(), "{line}");
    }
    nothing_left(stage)
}

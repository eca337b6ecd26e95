//! `top`: the daemon's containers and queues, again and again.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::thread::sleep;
use std::time::Instant;

use serde_json::{Value, json};

use crate::args::TopArgs;
use crate::failure::Failure;
use crate::ps::table;
use crate::{Answer, warm};

/// Puts the cursor into the corner; then each line is cleared to its end, and in the end the rest.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

pub(crate) fn top(args: &TopArgs) -> Result<Answer, Failure> {
    let mut client = warm::require(args.socket.as_deref())?;
    let mut look = || warm::ask(&mut client, &json!({"ask": "ps", "load": true}));
    let (mut before, mut at) = (look()?, Instant::now());
    let watched = io::stdout().is_terminal();
    loop {
        sleep(args.interval);
        let (now, then) = (look()?, Instant::now());
        let text = picture(&before, &now, then.duration_since(at).as_secs_f64());
        if !watched {
            return Ok(Answer::text(text));
        }
        let lines = text.replace('\n', &format!("{CLEAR_LINE}\n"));
        let mut stdout = io::stdout().lock();
        let shown = write!(stdout, "{HOME}{lines}{CLEAR_BELOW}").and_then(|()| stdout.flush());
        if shown.is_err() {
            return Ok(Answer::text(""));
        }
        (before, at) = (now, then);
    }
}

/// What there is, and what was done in the seconds since `before`.
fn picture(before: &Value, now: &Value, seconds: f64) -> String {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let earlier = |name: &str, key: &str, one: &Value, what: &str| {
        list(before, name)
            .iter()
            .find(|other| other[key] == one[key])
            .map_or(0.0, |other| other[what].as_f64().unwrap_or(0.0))
    };
    let mut pools = list(now, "pools");
    for pool in &mut pools {
        let tasks = pool["tasks"].as_f64().unwrap_or(0.0) - earlier("pools", "pool", pool, "tasks");
        pool["rate"] = json!(format!("{:.0}", tasks / seconds));
    }
    let mut containers = list(now, "containers");
    for container in &mut containers {
        let Some(cpu_us) = container["cpu_us"].as_f64() else { continue };
        let used = cpu_us - earlier("containers", "id", container, "cpu_us");
        container["cpu"] = json!(format!("{:.1}%", used / 1e4 / seconds));
    }
    for container in &mut containers {
        let Some(bytes) = container["memory_bytes"].as_f64() else { continue };
        container["memory"] = json!(format!("{:.1}MiB", bytes / f64::from(1 << 20)));
    }
    containers.sort_by_key(|container| {
        let idle = container["state"] == "idle";
        (idle, container["id"].as_str().unwrap_or_default().to_owned())
    });
    let working = containers.iter().filter(|one| one["state"] == "working").count();
    let waiting: u64 = pools.iter().filter_map(|pool| pool["waiting"].as_u64()).sum();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} containers, {working} of them working; {waiting} tasks wait\n",
        containers.len()
    );
    text += &table(
        &["POOL", "UID", "TASKS/S", "WAITING", "CONTAINERS", "STARTING", "IMAGE"],
        &Value::Array(pools),
        &["pool", "uid", "rate", "waiting", "containers", "starting", "image"],
    );
    text.push('\n');
    text += &table(
        &["CONTAINER", "UID", "STATE", "CPU", "MEMORY", "PROCESSES", "TASKS"],
        &Value::Array(containers),
        &["id", "uid", "state", "cpu", "memory", "processes", "tasks"],
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_what_happened_between_two_looks() {
        let look = |tasks: u64, cpu_us: u64| {
            json!({
                "pools": [{"pool": 1, "uid": 7, "tasks": tasks, "waiting": 3, "image": "host:"}],
                "containers": [{"id": "c", "state": "working", "cpu_us": cpu_us,
                    "memory_bytes": 3 << 20}],
            })
        };
        let text = picture(&look(10, 1_000_000), &look(30, 2_000_000), 2.0);
        let row = |name: &str| text.lines().rfind(|line| line.starts_with(name)).unwrap();
        assert!(row("1 ").contains(" 10 "), "{text}");
        assert!(row("c ").contains("50.0%") && row("c ").contains("3.0MiB"), "{text}");
        assert!(text.starts_with("1 containers, 1 of them working; 3 tasks wait\n"), "{text}");
    }

    /// A machine whose cgroups do not tell.
    #[test]
    fn what_is_not_known_is_not_made_up() {
        let look = json!({"pools": [], "containers": [{"id": "c", "state": "idle"}]});
        let text = picture(&look, &look, 1.0);
        assert!(text.lines().last().unwrap().contains(" - "), "{text}");
    }
}

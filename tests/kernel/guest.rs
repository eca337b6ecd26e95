//! The same tests in a guest with pure cgroup v2, so that one run covers both cgroup versions.
//!
//! `tests/guest/boot` starts the guest; this turns what it printed into one test per test that ran
//! there. The guest sees this machine's files read-only, so it runs this very binary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::commands::Command;
use crate::needs::{self, Need};
use crate::world::World;

/// First part of the names of tests that run in the guest.
const PREFIX: &str = "guest";
/// Parts of the names of tests that a cgroup version or an older kernel can change: limits, ends,
/// leftovers, streams, images. What the filter and messages do is the same under both, and an
/// emulated processor is twenty times slower.
const IN_GUEST: [&str; 25] = [
    "::a_mount_made_later",
    "::children_that_stay",
    "::daemon_keeps_a_container_warm",
    "::daemon_tells_too_much",
    "::device_list",
    "::device_node_of_the_image",
    "::docker_archive_oci_archive",
    "::ends_with_its_reader",
    "::example_",
    "::flood_of_output",
    "::fork_bomb",
    "::has_no_setuid_mount",
    "::kill_by_the_task",
    "::layers_cannot_be_written",
    "::leaves_nothing",
    "::limit_that_cannot",
    "::limits_are_set",
    "::memory_filesystem",
    "::passes_",
    "::setuid_file",
    "::stubborn_task",
    "::submitted_example_",
    "::time_limit",
    "::too_much_memory",
    "::zombies",
];
/// What `tests/guest/boot` prints before each line that the guest's tests printed.
const LINE: &str = "guest| ";

/// What the guest is made of.
pub(crate) fn parts() -> Result<PathBuf, String> {
    let boot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/boot");
    let answer = Command::new(&[boot.to_string_lossy().as_ref(), "--check"])
        .output()
        .map_err(|failed| needs::reason(&failed))?;
    if answer.code == Some(0) { Ok(boot) } else { Err(answer.stderr.trim().to_owned()) }
}

/// How one test ended in the guest.
#[derive(Debug, Clone)]
enum Ended {
    Passed,
    Ignored(String),
    Failed(String),
}

/// What the guest told, by test.
type Told = Result<BTreeMap<String, Ended>, String>;

/// One test per test of this binary, run in the guest. It is started when the first is asked for.
pub(crate) fn trials(world: &Arc<World>, arguments: &Arguments, here: &[Trial]) -> Vec<Trial> {
    let told: Arc<OnceLock<Told>> = Arc::default();
    let names: Vec<String> = here
        .iter()
        .map(Trial::name)
        .filter(|name| IN_GUEST.iter().any(|part| name.contains(part)))
        .filter(|name| !arguments.is_filtered_out(&named(name)))
        .map(str::to_owned)
        .collect();
    let wanted = Arc::new(names.clone());
    let trial = |name: String| {
        let (world, told, wanted) = (Arc::clone(world), Arc::clone(&told), Arc::clone(&wanted));
        Trial::ignorable_test(format!("{PREFIX}::{name}"), move || {
            if let Some(ignored) = needs::check(&world, &[Need::Guest])? {
                return Ok(ignored);
            }
            match told.get_or_init(|| run(&world, &wanted)) {
                Err(why) => Err(why.clone().into()),
                Ok(told) => match told.get(&name) {
                    Some(Ended::Passed) => Ok(Completion::Completed),
                    Some(Ended::Ignored(why)) => Ok(Completion::ignored_with(why)),
                    Some(Ended::Failed(why)) => Err(Failed::from(why)),
                    None => Err("it did not run in the guest, or did not end there".into()),
                },
            }
        })
    };
    names.into_iter().map(trial).collect()
}

/// A trial of this name in the guest, to ask whether it is wanted.
fn named(name: &str) -> Trial {
    Trial::test(format!("{PREFIX}::{name}"), || Ok(()))
}

fn run(world: &World, wanted: &[String]) -> Told {
    let boot = parts()?;
    let list = world.base.join("guest-tests");
    std::fs::write(&list, wanted.join("\n")).map_err(|error| error.to_string())?;
    let binary = std::env::current_exe().map_err(|error| error.to_string())?;
    let words = [boot, binary, list].map(|path| path.to_string_lossy().into_owned());
    let running = Command::new(&words).start().map_err(|failed| needs::reason(&failed))?;
    let answer = running.wait_long().map_err(|failed| needs::reason(&failed))?;
    let told = parse(&answer.stdout);
    if told.is_empty() {
        return Err(format!("the guest ran no test: {}", answer.told()));
    }
    Ok(told)
}

/// Reads libtest's lines: `test NAME ... ok`, and the failures that follow them.
fn parse(printed: &str) -> BTreeMap<String, Ended> {
    let mut told = BTreeMap::new();
    let mut failing: Option<String> = None;
    for line in printed.lines().filter_map(|line| line.strip_prefix(LINE)) {
        if let Some((name, end)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ")) {
            let ended = match end.trim() {
                "ok" => Ended::Passed,
                end if end.starts_with("ignored") => Ended::Ignored(
                    end.trim_start_matches("ignored").trim_matches([',', ' ', '(', ')']).to_owned(),
                ),
                _ => Ended::Failed(String::new()),
            };
            told.insert(name.trim().to_owned(), ended);
        } else if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" ----"))
        {
            failing = Some(name.to_owned());
        } else if line == "failures:" {
            failing = None;
        } else if let Some(Ended::Failed(why)) = failing.as_ref().and_then(|n| told.get_mut(n)) {
            why.push_str(line);
            why.push('\n');
        }
    }
    told
}

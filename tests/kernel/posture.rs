//! What `probe.py` tells of a place: the sandbox, and the same machine without one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::commands::Command;
use crate::launch::{Cgroup, Engine, Stage};
use crate::needs::reason;
use crate::person::Person;
use crate::world::{World, become_person};

/// The probe itself.
pub(crate) const PROBE: &str = include_str!("probe.py");
/// The interpreter that `host:` shows, and that the controls use too.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Where the probe runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In a sandbox made by `run`.
    Sandbox,
    /// In the worker of a `call`.
    Call,
    /// In a container that runc made from the same decision.
    Runc,
    /// In a sandbox made by `run` with Docker as its engine.
    Docker,
    /// The control: in namespaces of its own by unshare(1), with every capability over them, and
    /// without any protection: what a denial would be if we forgot it.
    Namespaces,
    /// The control: on the machine itself, as the person.
    Bare,
}

/// Sections that tell of a place without a parameter; one run of them serves many cases.
const GENERAL: &[&str] = &[
    "identity",
    "namespaces",
    "processes",
    "descriptors",
    "devices",
    "mounts",
    "masked",
    "families",
    "abis",
    "terminal",
    "knobs",
    "cgroup",
    "environment",
    "limits",
    "executable",
    "acts",
];

/// Answers by person and place, each asked for once.
#[derive(Debug, Default)]
pub(crate) struct Postures(Mutex<BTreeMap<(Person, Place), Arc<Once>>>);

type Once = OnceLock<Result<Value, String>>;

/// The general sections, for a person in a place. Probed once per run.
pub(crate) fn general(world: &Arc<World>, person: Person, place: Place) -> Result<Value, Failed> {
    let once = {
        let mut all = world.postures.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry((person, place)).or_default())
    };
    let answer = once.get_or_init(|| {
        let engine = if place == Place::Docker { Engine::Docker } else { Engine::Embedded };
        let stage = Stage::new(world, person, Cgroup::Plain).and_then(|stage| stage.on(engine));
        let stage = stage.map_err(|failed| reason(&failed))?;
        probe(&stage, place, GENERAL, json!({})).map_err(|failed| reason(&failed))
    });
    Ok(answer.clone()?)
}

/// Runs sections of the probe with parameters.
pub(crate) fn probe(
    stage: &Stage,
    place: Place,
    sections: &[&str],
    parameters: Value,
) -> Result<Value, Failed> {
    let request = request(sections, parameters);
    let words = python(&request);
    let answer = match place {
        Place::Sandbox | Place::Docker => {
            let mut line = vec!["run".to_owned(), "--".to_owned()];
            line.extend(words);
            stage.cli(&line).output()?.answer
        }
        Place::Call => {
            let file = stage.file("probe.py", PROBE)?;
            stage.cli(&["call", &format!("{file}:main"), "--arg", &request]).output()?.answer
        }
        Place::Runc => crate::judge::run(stage, &words)?,
        Place::Namespaces => {
            let mut line = become_person(stage.person, &[]);
            line.extend(namespaces(stage.person).iter().map(|word| (*word).to_owned()));
            line.extend(words);
            Command::new(&line).output()?
        }
        Place::Bare => {
            let mut line = become_person(stage.person, &[]);
            line.extend(words);
            Command::new(&line).output()?
        }
    };
    if answer.code != Some(0) {
        return Err(format!("the probe did not run in {place:?}: {}", answer.told()).into());
    }
    serde_json::from_str(&answer.stdout).map_err(|e| {
        format!("the probe printed no JSON in {place:?}: {e}: {}", answer.told()).into()
    })
}

/// The probe's parameter: sections and whatever they want to know.
pub(crate) fn request(sections: &[&str], mut parameters: Value) -> String {
    parameters["sections"] = json!(sections);
    parameters.to_string()
}

/// The command line that runs the probe. The script travels as an argument, so that it needs
/// neither a mount nor standard input.
pub(crate) fn python(request: &str) -> Vec<String> {
    [PYTHON, "-I", "-c", PROBE, request].map(str::to_owned).to_vec()
}

/// Namespaces without any other protection. The tmpfs keeps made files away from the machine.
fn namespaces(person: Person) -> Vec<&'static str> {
    let mut words = vec!["unshare"];
    if person != Person::Root {
        words.extend(["--user", "--map-root-user"]);
    }
    words.extend("--mount --pid --fork --ipc --uts --net --cgroup --kill-child".split(' '));
    words.extend(["--mount-proc", "sh", "-c"]);
    words.extend(["ip link set lo up 2>/dev/null; mount -t tmpfs none /tmp && exec \"$@\"", "sh"]);
    words
}

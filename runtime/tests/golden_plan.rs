//! Replays decisions from files: `tests/golden/plan/CASE/` holds what goes in and what comes out.
//!
//! A case says only what is special about it: `task.json`, `host.json` and `manifest.json` are
//! merge patches (RFC 7396) of the files in `base/`, and `host.json` may name another one of
//! `base/hosts/` as `based_on`; `policy.yaml` is the site's whole file. What comes out is
//! `sandbox.json` and `work.json`, or `refusal.txt`. `RIC_BLESS=1` writes it anew; review reads
//! the diff.

#[cfg(test)]
mod golden {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::fs;
    use std::path::{Path, PathBuf};

    use ric_images::{Config, Identity, Manifest};
    use ric_policies::{Draft, Policy};
    use ric_runtime::{BuildStep, Host, Plan, Refusal, StepSettings, Task, plan, plan_build};
    use serde_json::{Map, Value, json};

    const INPUTS: [&str; 5] =
        ["task.json", "policy.yaml", "host.json", "manifest.json", "build.json"];
    const OUTPUTS: [&str; 3] = ["sandbox.json", "work.json", "refusal.txt"];

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/plan")
    }

    fn cases() -> Vec<PathBuf> {
        let entries = fs::read_dir(root()).unwrap();
        let mut all: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        all.retain(|path| path.is_dir() && !path.ends_with("base"));
        all.sort();
        all
    }

    fn read_json(path: &Path) -> Option<Value> {
        let text = fs::read_to_string(path).ok()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    /// RFC 7396.
    fn patched(base: Value, patch: Value) -> Value {
        let Value::Object(patch) = patch else { return patch };
        let mut base = if let Value::Object(base) = base { base } else { Map::new() };
        for (key, value) in patch {
            let old = base.remove(&key).unwrap_or(Value::Null);
            if !value.is_null() {
                base.insert(key, patched(old, value));
            }
        }
        Value::Object(base)
    }

    fn input(case: &Path, name: &str) -> Value {
        let base = root().join("base");
        let mut patch = read_json(&case.join(name)).unwrap_or(json!({}));
        let mut value = read_json(&base.join(name)).unwrap();
        if let Some(other) = patch.as_object_mut().unwrap().remove("based_on") {
            let file = base.join("hosts").join(other.as_str().unwrap());
            value = patched(value, read_json(&file).unwrap());
        }
        patched(value, patch)
    }

    fn policy(case: &Path) -> Policy {
        let own = fs::read_to_string(case.join("policy.yaml")).ok();
        let text =
            own.unwrap_or_else(|| fs::read_to_string(root().join("base/policy.yaml")).unwrap());
        Policy::of_site(&Draft::parse(Path::new("policy.yaml"), &text).unwrap())
    }

    fn manifest(value: &Value) -> Manifest {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let list = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(text).collect()
        };
        let pair = |text: String| {
            let (name, value) = text.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        let identity = match text(&value["digest"]) {
            Some(digest) => Identity::Digest(digest.parse().unwrap()),
            None => Identity::Fingerprint(text(&value["fingerprint"]).unwrap()),
        };
        let config = Config {
            variables: list(&value["variables"]).into_iter().map(pair).collect(),
            workdir: text(&value["workdir"]),
            user: text(&value["user"]),
            entrypoint: list(&value["entrypoint"]),
            command: list(&value["command"]),
            volumes: list(&value["volumes"]),
            architecture: text(&value["architecture"]),
            os: text(&value["os"]),
            ..Config::default()
        };
        let reference = text(&value["reference"]).unwrap();
        let of_root = value["of_root"] == true;
        Manifest { identity, reference, config, layers: Vec::new(), of_root }
    }

    fn decide(case: &Path) -> Result<Plan, Refusal> {
        let task: Task = serde_json::from_value(input(case, "task.json")).unwrap();
        let host: Host = serde_json::from_value(input(case, "host.json")).unwrap();
        let (manifest, policy) = (manifest(&input(case, "manifest.json")), policy(case));
        // A case with this file is a step of a build.
        let Some(build) = read_json(&case.join("build.json")) else {
            return plan(&task, &manifest, &policy, &host);
        };
        let text_of = |value: &Value| value.as_str().map(str::to_owned);
        let text = |key: &str| text_of(&build[key]);
        let variables = build["settings"].as_object().into_iter().flatten();
        let variables = variables.filter_map(|(name, value)| Some((name.clone(), text_of(value)?)));
        let settings = StepSettings { variables: variables.collect(), files: Vec::new() };
        let (user, base) = (text("user"), text("base"));
        let step = BuildStep { user, base, settings, ..BuildStep::default() };
        plan_build(&task, &step, &manifest, &policy, &host)
    }

    /// What a decision looks like on disk: file name and text.
    fn rendered(decision: &Result<Plan, Refusal>) -> Vec<(&'static str, String)> {
        match decision {
            Ok(Plan { sandbox, work }) => {
                let mut sandbox = serde_json::to_value(sandbox).unwrap();
                // It changes with every key that policies learn, and says nothing to a reader.
                sandbox["policy_digest"] = json!("…");
                vec![
                    ("sandbox.json", lines(&sandbox)),
                    ("work.json", lines(&serde_json::to_value(work).unwrap())),
                ]
            }
            Err(refusal) => {
                let (hint, actor) = (refusal.hint(), refusal.must_act());
                vec![("refusal.txt", format!("{refusal}\nhint: {hint}\nmust act: {actor:?}\n"))]
            }
        }
    }

    /// JSON for review: a line per key, and one per element of what has elements.
    fn lines(value: &Value) -> String {
        let mut text = "{\n".to_owned();
        let object = value.as_object().unwrap();
        for (index, (key, value)) in object.iter().enumerate() {
            let elements: Vec<String> = match value {
                Value::Array(all) => all.iter().map(Value::to_string).collect(),
                Value::Object(all) => {
                    all.iter().map(|(k, v)| format!("{}: {v}", json!(k))).collect()
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
            };
            let comma = if index + 1 < object.len() { "," } else { "" };
            if elements.is_empty() {
                writeln!(text, "  {}: {value}{comma}", json!(key)).unwrap();
            } else {
                let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
                let elements = elements.join(",\n    ");
                writeln!(text, "  {}: {open}\n    {elements}\n  {close}{comma}", json!(key))
                    .unwrap();
            }
        }
        text + "}\n"
    }

    /// Compares one case with its files, or writes them; `Err`: what differs.
    fn check(case: &Path, bless: bool) -> Result<(), String> {
        let now = rendered(&decide(case));
        let mut differences = String::new();
        for name in OUTPUTS {
            let path = case.join(name);
            let new = now.iter().find(|(file, _)| *file == name).map(|(_, text)| text);
            if bless {
                match new {
                    Some(text) => fs::write(&path, text).unwrap(),
                    None => drop(fs::remove_file(&path)),
                }
            } else if fs::read_to_string(&path).ok().as_ref() != new {
                let new = new.map_or("nothing", String::as_str);
                writeln!(differences, "{} is now:\n{new}", path.display()).unwrap();
            }
        }
        if differences.is_empty() { Ok(()) } else { Err(differences) }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the switch of this test, not of the program")]
    fn decisions_are_the_reviewed_ones() {
        let bless = std::env::var_os("RIC_BLESS").is_some();
        let wrong: Vec<String> =
            cases().iter().filter_map(|case| check(case, bless).err()).collect();
        assert!(wrong.is_empty(), "{}\nRIC_BLESS=1 accepts this", wrong.join("\n"));
        assert!(cases().len() > 50);
    }

    #[test]
    fn cases_have_no_file_that_nobody_reads() {
        for case in cases() {
            for entry in fs::read_dir(&case).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let known = INPUTS.contains(&name.as_str()) || OUTPUTS.contains(&name.as_str());
                assert!(known, "{}/{name}", case.display());
            }
        }
    }

    /// A refusal that no case shows has never been read by anyone.
    #[test]
    fn every_refusal_has_a_case() {
        let name = |refusal: &Refusal| match refusal {
            Refusal::Image { .. } => "image",
            Refusal::Build { .. } => "build",
            Refusal::ShortName { .. } => "short name",
            Refusal::Platform { .. } => "platform",
            Refusal::Engine { .. } => "engine",
            Refusal::EngineUnavailable { .. } => "engine unavailable",
            Refusal::Protection { .. } => "protection",
            Refusal::Limit { .. } => "limit",
            Refusal::Network { .. } => "network",
            Refusal::Fresh { .. } => "fresh",
            Refusal::Mount { .. } => "mount",
            Refusal::MountSource { .. } => "mount source",
            Refusal::MountTarget { .. } => "mount target",
            Refusal::User { .. } => "user",
            Refusal::Interpreter { .. } => "interpreter",
            Refusal::Malformed { .. } => "malformed",
        };
        let shown: BTreeSet<&str> =
            cases().iter().filter_map(|case| decide(case).err()).map(|r| name(&r)).collect();
        assert_eq!(shown.len(), 16, "{shown:?}");
    }
}

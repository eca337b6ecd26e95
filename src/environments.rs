//! The verbs of `environments`, and what `--env` adds to a task's flags.

mod apply;
mod build;
mod find;
mod lock;
mod packages;

use ric_images::LimitWishes;
use ric_policies::{Cpus, Memory, Pids, Time, Unit};
use serde_json::{Value, json};

use crate::args::{
    EnvironmentsBuildArgs, EnvironmentsListArgs, EnvironmentsShowArgs, EnvironmentsVerb,
};
use crate::failure::{Failure, printable};
use crate::images::build::output::Telling;
use crate::{Answer, session};
use build::Locking;
use find::{Found, Listed, find, folders, list_files};
use packages::Asked;

pub(crate) use apply::{apply, lay_named, lay_text};
pub(crate) use packages::Unbuilt;

pub(crate) fn environments(verb: EnvironmentsVerb) -> Result<Answer, Failure> {
    match verb {
        EnvironmentsVerb::List(args) => list(&args),
        EnvironmentsVerb::Show(args) => show(&args),
        EnvironmentsVerb::Build(args) => build_named(&args),
    }
}

/// Every file of the search path; one that another hides says by which.
fn list(args: &EnvironmentsListArgs) -> Result<Answer, Failure> {
    let files = list_files(&folders(&args.env_path)?)?;
    let rows = files.iter().map(|one| (one, is_built(one, args)));
    if args.json {
        let rows = rows.map(|(one, built)| {
            json!({"name": one.name, "file": one.file, "hidden_by": one.hidden_by, "built": built})
        });
        return Ok(Answer::json(&rows.collect::<Vec<Value>>(), 0));
    }
    let width = files.iter().map(|one| one.name.as_str().len()).max().unwrap_or(0);
    let lines = rows.map(|(one, built)| {
        let file = printable(&one.file.to_string_lossy());
        let more = match (&one.hidden_by, built) {
            (Some(by), _) => format!("  (hidden by {})", by.display()),
            (None, Some(true)) => "  (built)".to_owned(),
            (None, Some(false)) => "  (not built)".to_owned(),
            (None, None) => String::new(),
        };
        format!("{:width$}  {file}{}\n", one.name.as_str(), printable(&more))
    });
    Ok(Answer::text(lines.collect::<String>()))
}

/// Whether an environment with packages is built. `None`: it has none, or cannot be read, which
/// is told to who names it.
fn is_built(listed: &Listed, args: &EnvironmentsListArgs) -> Option<bool> {
    let environment = find::read(&listed.file).ok()?;
    if !environment.has_packages() {
        return None;
    }
    let found = packages::find(&environment, &listed.file, args.store.as_deref());
    found.ok().map(|found| found.is_ok())
}

fn show(args: &EnvironmentsShowArgs) -> Result<Answer, Failure> {
    let found = find(&args.name, &folders(&args.env_path)?)?;
    let mut whole = to_json(&found);
    if found.environment.has_packages() {
        let built = packages::find(&found.environment, &found.file, args.store.as_deref())?;
        match built {
            Ok(reference) => whole["built"] = reference.to_string().into(),
            Err(why) => whole["not_built"] = why.into(),
        }
    }
    if args.json {
        return Ok(Answer::json(&whole, 0));
    }
    whole["environment"]["limits"] = limits_in_words(&found.environment.limits);
    let mut text = String::new();
    let rows = whole.as_object().expect("made as an object above");
    let inner = rows.get("environment").and_then(Value::as_object).into_iter().flatten();
    let rows = rows.iter().filter(|(key, _)| *key != "environment").chain(inner);
    for (key, value) in rows.filter(|(_, value)| !is_nothing(value)) {
        text += &format!("{key:<12} {}\n", printable(&in_words(value)));
    }
    Ok(Answer::text(text))
}

/// Builds an environment, whether it is built or not.
fn build_named(args: &EnvironmentsBuildArgs) -> Result<Answer, Failure> {
    let telling = if args.json { Telling::Json } else { Telling::Text };
    let policy = session::load_policy(&args.policy)?;
    let Found { environment, file, .. } = find(&args.name, &folders(&args.env_path)?)?;
    if !environment.has_packages() {
        let image = &environment.image;
        let attempt = format!("cannot build the environment `{}`", environment.name);
        return Err(Failure::new(ric_runtime::Actor::User, attempt)
            .cause(format!("{} adds no packages to {image}", file.display()))
            .hint(format!("`images pull {image}` fetches its image")));
    }
    let locking = match (args.locked, args.upgrade) {
        (true, _) => Locking::Only,
        (_, true) => Locking::Anew,
        (false, false) => Locking::Follow,
    };
    let store = args.store.as_deref();
    let asked = Asked { environment: &environment, file: &file, policy: &policy, store };
    let built = build::build(&asked, locking, telling)?;
    let (reference, digest) = (built.reference.to_string(), built.manifest.identity.to_string());
    if args.json {
        let event = json!({"event": "image", "reference": reference, "digest": digest});
        return Ok(Answer::json(&event, 0));
    }
    Ok(Answer::text(format!("{digest}  {reference}\n")))
}

/// The limits as the file writes them.
fn limits_in_words(limits: &LimitWishes) -> Value {
    let memory = limits.memory_bytes.map(Memory::show);
    let cpus = limits.cpus_milli.map(Cpus::show);
    let pids = limits.pids.map(Pids::show);
    let time = limits.time.map(Time::show);
    json!({"memory": memory, "cpus": cpus, "pids": pids, "time": time})
}

fn to_json(found: &Found) -> Value {
    json!({"file": found.file, "hides": found.hides, "environment": found.environment})
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(keys) => keys.values().all(is_nothing),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Lists with commas, keys as `KEY=VALUE`.
fn in_words(value: &Value) -> String {
    match value {
        Value::Array(list) => list.iter().map(in_words).collect::<Vec<_>>().join(", "),
        Value::Object(keys) => {
            let said = keys.iter().filter(|(_, value)| !is_nothing(value));
            said.map(|(key, value)| format!("{key}={}", in_words(value)))
                .collect::<Vec<_>>()
                .join(", ")
        }
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

//! The verbs of `environments`, and what `--env` adds to a task's flags.

mod apply;
mod find;

use ric_images::LimitWishes;
use ric_policies::{Cpus, Memory, Pids, Time, Unit};
use serde_json::{Value, json};

use crate::Answer;
use crate::args::{EnvironmentsListArgs, EnvironmentsShowArgs, EnvironmentsVerb};
use crate::failure::{Failure, printable};
use find::{Found, find, folders, list_files};

pub(crate) use apply::{apply, lay_named, lay_text};

pub(crate) fn environments(verb: EnvironmentsVerb) -> Result<Answer, Failure> {
    match verb {
        EnvironmentsVerb::List(args) => list(&args),
        EnvironmentsVerb::Show(args) => show(&args),
    }
}

/// Every file of the search path; one that another hides says by which.
fn list(args: &EnvironmentsListArgs) -> Result<Answer, Failure> {
    let files = list_files(&folders(&args.env_path)?)?;
    if args.json {
        let rows: Vec<Value> = files
            .iter()
            .map(|one| json!({"name": one.name, "file": one.file, "hidden_by": one.hidden_by}))
            .collect();
        return Ok(Answer::json(&rows, 0));
    }
    let width = files.iter().map(|one| one.name.as_str().len()).max().unwrap_or(0);
    let lines = files.iter().map(|one| {
        let file = printable(&one.file.to_string_lossy());
        let hidden = one.hidden_by.as_ref();
        let hidden =
            hidden.map_or_else(String::new, |by| format!("  (hidden by {})", by.display()));
        format!("{:width$}  {file}{}\n", one.name.as_str(), printable(&hidden))
    });
    Ok(Answer::text(lines.collect::<String>()))
}

fn show(args: &EnvironmentsShowArgs) -> Result<Answer, Failure> {
    let found = find(&args.name, &folders(&args.env_path)?)?;
    let mut whole = to_json(&found);
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

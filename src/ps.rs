//! `ps`: the daemon's containers and what waits.

use serde_json::{Value, json};

use crate::args::PsArgs;
use crate::failure::{Failure, printable};
use crate::{Answer, warm};

pub(crate) fn ps(args: &PsArgs) -> Result<Answer, Failure> {
    let mut client = warm::require(args.socket.as_deref())?;
    let question = if args.explain { "explain" } else { "ps" };
    let answer = warm::ask(&mut client, &json!({"ask": question}))?;
    if args.json {
        return Ok(Answer::json(&answer, 0));
    }
    if args.explain {
        return Ok(Answer::text(explained(&answer)));
    }
    let mut text = table(
        &["CONTAINER", "UID", "STATE", "TASKS", "FRESH", "ENGINE", "IMAGE"],
        &answer["containers"],
        &["id", "uid", "state", "tasks", "fresh", "engine", "image"],
    );
    let waits = |pool: &&Value| pool["waiting"] != 0 || pool["starting"] != 0;
    let waiting: Vec<Value> =
        answer["pools"].as_array().into_iter().flatten().filter(waits).cloned().collect();
    if !waiting.is_empty() {
        text.push('\n');
        text += &table(
            &["POOL", "UID", "WAITING", "STARTING", "IMAGE"],
            &Value::Array(waiting),
            &["pool", "uid", "waiting", "starting", "image"],
        );
    }
    if answer["submitted"].as_array().is_some_and(|tasks| !tasks.is_empty()) {
        text.push('\n');
        text += &table(
            &["SUBMITTED", "UID", "STATE", "FUNCTION", "IMAGE"],
            &answer["submitted"],
            &["id", "uid", "state", "function", "image"],
        );
    }
    Ok(Answer::text(text))
}

/// What the tasks of each pool found, and what keeps the pool apart from another.
fn explained(answer: &Value) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), printable);
    let mut text = String::new();
    for pool in answer["pools"].as_array().into_iter().flatten() {
        let facts = ["pool", "uid", "image", "fresh"].map(|key| word(&pool[key]));
        let [pool_id, uid, image, fresh] = facts;
        text += &format!("pool {pool_id} of uid {uid}: {image}, new for each task: {fresh}\n");
        for (found, count) in pool["found"].as_object().into_iter().flatten() {
            let tasks = if *count == 1 { "task" } else { "tasks" };
            text += &format!("  {count} {tasks} {found}\n");
        }
        let unlike = &pool["unlike"];
        if unlike.is_object() {
            let keys = unlike["in"].as_array().into_iter().flatten().map(word);
            let keys = keys.collect::<Vec<_>>().join(", ");
            let other = &unlike["pool"];
            text += &format!("  shares no container with pool {other}, which differs in: {keys}\n");
        }
    }
    text
}

/// Rows of JSON objects as columns, aligned.
pub(crate) fn table(heads: &[&str], rows: &Value, keys: &[&str]) -> String {
    let cell = |row: &Value, key: &str| match row[key].as_str() {
        Some(text) => printable(text),
        None if row[key].is_null() => "-".to_owned(),
        None => row[key].to_string(),
    };
    let rows: Vec<Vec<String>> = rows
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| keys.iter().map(|key| cell(row, key)).collect())
        .collect();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&heads).chain(&rows) {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let widest = rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
            let width = widest.max(heads[at].len());
            line += &format!("{cell:<width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = json!([{"a": "x", "b": 1}, {"a": "longer", "b": null}]);
        let text = table(&["A", "B"], &rows, &["a", "b"]);
        assert_eq!(text, "A       B\nx       1\nlonger  -\n");
    }

    #[test]
    fn pools_are_explained() {
        let answer = json!({"pools": [
            {"pool": 3, "uid": 1000, "image": "host:", "fresh": "nothing",
             "found": {"found one": 2}, "unlike": {"pool": 2, "in": ["sandbox.limits.pids"]}},
            {"pool": 4, "uid": 1000, "image": "\u{1b}[2J", "fresh": "process", "found": {}},
        ]});
        assert_eq!(
            explained(&answer),
            "pool 3 of uid 1000: host:, new for each task: nothing\n  2 tasks found one\n  \
             shares no container with pool 2, which differs in: sandbox.limits.pids\n\
             pool 4 of uid 1000: \\u{1b}[2J, new for each task: process\n"
        );
    }

    /// Names of images are other people's words.
    #[test]
    fn what_others_wrote_steers_no_terminal() {
        let rows = json!([{"a": "\u{1b}[2J"}]);
        assert!(!table(&["A"], &rows, &["a"]).contains('\u{1b}'));
    }
}

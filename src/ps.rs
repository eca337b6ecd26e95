//! `ps`: the daemon's containers and what waits.

use serde_json::{Value, json};

use crate::args::PsArgs;
use crate::failure::{Failure, printable};
use crate::{Answer, warm};

pub(crate) fn ps(args: &PsArgs) -> Result<Answer, Failure> {
    let mut client = warm::require(args.socket.as_deref())?;
    let answer = warm::ask(&mut client, &json!({"ask": "ps"}))?;
    if args.json {
        return Ok(Answer::json(&answer, 0));
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
    Ok(Answer::text(text))
}

/// Rows of JSON objects as columns, aligned.
fn table(heads: &[&str], rows: &Value, keys: &[&str]) -> String {
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

    /// Names of images are other people's words.
    #[test]
    fn what_others_wrote_steers_no_terminal() {
        let rows = json!([{"a": "\u{1b}[2J"}]);
        assert!(!table(&["A"], &rows, &["a"]).contains('\u{1b}'));
    }
}

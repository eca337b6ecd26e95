//! `policy show`, `check` and `schema`.

use std::path::Path;

use ric_policies::{Draft, schema};
use serde_json::{Value, json};

use crate::Answer;
use crate::args::{PolicyCheckArgs, PolicyShowArgs, PolicyVerb};
use crate::failure::{EXIT_FAILED, Failure, printable};
use crate::session;

pub(crate) fn policy(verb: PolicyVerb) -> Result<Answer, Failure> {
    match verb {
        PolicyVerb::Show(args) => show(&args),
        PolicyVerb::Check(args) => Ok(check(&args)),
        PolicyVerb::Schema => Ok(Answer::text(
            serde_json::to_string_pretty(&schema()).expect("a schema is JSON") + "\n",
        )),
    }
}

fn show(args: &PolicyShowArgs) -> Result<Answer, Failure> {
    let loaded = session::load_policy_with_notes(&args.policy)?;
    if args.json {
        return Ok(Answer::json(&loaded.policy, 0));
    }
    let notes = loaded.notes.iter().map(|note| format!("{}\n", printable(&note.to_string())));
    Ok(Answer {
        stderr: notes.collect::<String>().into_bytes(),
        ..Answer::text(loaded.policy.show())
    })
}

/// Every file is judged, so that one run shows what is to be mended in all of them.
fn check(args: &PolicyCheckArgs) -> Answer {
    let verdicts: Vec<(&Path, Option<String>)> =
        args.files.iter().map(|file| (file.as_path(), mistake_in(file))).collect();
    let wrong = verdicts.iter().any(|(_, mistake)| mistake.is_some());
    let exit_code = if wrong { EXIT_FAILED } else { 0 };
    if args.json {
        let rows: Vec<Value> = verdicts
            .iter()
            .map(|(file, mistake)| json!({"file": file, "ok": mistake.is_none(), "error": mistake}))
            .collect();
        return Answer::json(&rows, exit_code);
    }
    let rows = verdicts.iter().map(|(file, mistake)| match mistake {
        None => format!("{}: ok\n", file.display()),
        Some(mistake) => format!("{}\n", printable(mistake)),
    });
    Answer { exit_code, ..Answer::text(rows.collect::<String>()) }
}

/// What is wrong with the file, with its name and the line.
fn mistake_in(file: &Path) -> Option<String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return Some(format!("{}: {error}", file.display())),
    };
    Draft::parse(file, &text).err().map(|mistake| mistake.to_string())
}

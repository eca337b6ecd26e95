//! `status`: how far submitted tasks are.

use std::time::{Duration, SystemTime};

use ric_runtime::Actor;
use serde_json::{Value, json};

use crate::args::StatusArgs;
use crate::failure::Failure;
use crate::ps::table;
use crate::{Answer, warm};

pub(crate) fn status(args: &StatusArgs) -> Result<Answer, Failure> {
    let mut client = warm::require(args.socket.as_deref())?;
    let mut answer = warm::ask(&mut client, &json!({"ask": "status", "ids": args.ids}))?;
    if let Some(unknown) = answer["unknown"].get(0).and_then(Value::as_str) {
        return Err(Failure::new(Actor::User, format!("cannot find the task {unknown:?}"))
            .cause("the daemon has no submitted task of that name that is yours")
            .hint("`run-in-container status` shows those that there are"));
    }
    if args.json {
        return Ok(Answer::json(&answer["tasks"], 0));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for task in answer["tasks"].as_array_mut().into_iter().flatten() {
        let submitted = Duration::from_secs(task["submitted_s"].as_u64().unwrap_or_default());
        task["age"] = age(now.saturating_sub(submitted)).into();
    }
    Ok(Answer::text(table(
        &["TASK", "UID", "STATE", "STATUS", "AGE", "FUNCTION", "IMAGE"],
        &answer["tasks"],
        &["id", "uid", "state", "status", "age", "function", "image"],
    )))
}

/// A time in its largest unit.
fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(length, _)| seconds >= *length);
    let (length, name) = unit.unwrap_or((1, "s"));
    format!("{}{name}", seconds / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_in_their_largest_unit() {
        let ages = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 864_000];
        let told = ages.map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(told, ["0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"]);
    }
}

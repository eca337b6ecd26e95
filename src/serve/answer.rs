//! What a client is told of its tasks besides what the worker says: where they ran, how they ended.

use std::time::{Duration, Instant};

use ric_runtime::{Kind, Status, TaskId};
use serde_json::{Value, json};

use super::task::Task;
use crate::failure::Failure;
use ric_runtime::wire::Writer;

/// How a task ended without an answer of the worker's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ending {
    pub(super) status: Status,
    pub(super) exit_code: i32,
    pub(super) error: String,
    pub(super) hint: Option<String>,
    /// Comes with `busy`.
    pub(super) retry_after: Option<Duration>,
}

impl Ending {
    pub(super) fn new(status: Status, error: impl Into<String>) -> Ending {
        let exit_code = match status {
            Status::Ok => 0,
            Status::Failed | Status::Corrupt => 1,
            Status::Refused => 122,
            Status::Timeout => 124,
            Status::Busy | Status::Error | Status::Lost => 125,
            Status::OutOfMemory | Status::Killed => 128 + 9,
            Status::Cancelled => 128 + 15,
        };
        Ending { status, exit_code, error: error.into(), hint: None, retry_after: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Ending {
        self.hint = Some(hint.into());
        self
    }

    /// Nothing was queued: too much is.
    pub(super) fn busy(error: impl Into<String>, retry_after: Duration) -> Ending {
        let ending = Ending::new(Status::Busy, error);
        Ending { retry_after: Some(retry_after), ..ending }
            .hint("try again later, or ask your site for more room in the queues")
    }

    pub(super) fn of(failure: &Failure) -> Ending {
        let error = failure.to_json()["error"].as_str().unwrap_or_default().to_owned();
        Ending {
            status: failure.status,
            exit_code: failure.exit_code.into(),
            error,
            hint: failure.hint.clone(),
            retry_after: None,
        }
    }

    /// Tells a client that its task `task` has ended.
    pub(super) fn tell(&self, writer: &mut Writer, task: TaskId, ran: Option<Value>) {
        writer.push(Kind::Ended, task, self.to_json(ran).to_string().as_bytes(), &[]);
    }

    /// The metadata of ENDED.
    pub(super) fn to_json(&self, ran: Option<Value>) -> Value {
        let mut metadata = json!({
            "status": self.status,
            "exit_code": self.exit_code,
            "error": shorten(&self.error),
        });
        if let Some(hint) = &self.hint {
            metadata["hint"] = shorten(hint).into();
        }
        if let Some(after) = self.retry_after {
            metadata["retry_after_ms"] =
                u64::try_from(after.as_millis()).unwrap_or(u64::MAX).into();
        }
        if let Some(ran) = ran {
            metadata["ran"] = ran;
        }
        metadata
    }
}

/// Most characters of an error's text: metadata has a bound, and each may take six bytes.
const CHARACTERS_MAX: usize = 4096;

fn shorten(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How a task ended that a worker answered.
pub(super) fn status_of_answer(kind: Kind) -> Status {
    match kind == Kind::Result {
        true => Status::Ok,
        false if kind == Kind::Corrupt => Status::Corrupt,
        false => Status::Failed,
    }
}

/// Where and how long a task ran, for `ran`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ran<'a> {
    pub(super) container: &'a str,
    pub(super) warm: bool,
    pub(super) task: &'a Task,
    pub(super) now: Instant,
    pub(super) cpu_us: Option<u64>,
    pub(super) memory_peak_bytes: Option<u64>,
}

impl Ran<'_> {
    fn times(&self) -> (u128, u128) {
        let begun = self.task.begun.unwrap_or(self.now);
        let queued = begun.saturating_duration_since(self.task.queued).as_micros();
        (queued, self.now.saturating_duration_since(begun).as_micros())
    }

    /// As JSON. Written by hand where every call passes; names of containers need no escapes.
    pub(super) fn to_text(self) -> String {
        use std::fmt::Write;
        let (queued_us, wall_us) = self.times();
        let mut text = format!(
            "{{\"container\":\"{}\",\"warm\":{},\"queued_us\":{queued_us},\"wall_us\":{wall_us}",
            self.container, self.warm
        );
        let left_out = self.task.left_out_bytes;
        let numbers = [
            ("cpu_us", self.cpu_us),
            ("memory_peak_bytes", self.memory_peak_bytes),
            ("left_out_bytes", (left_out > 0).then_some(left_out)),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                let _ = write!(text, ",\"{name}\":{number}");
            }
        }
        text.push('}');
        text
    }

    pub(super) fn to_json(self) -> Value {
        serde_json::from_str(&self.to_text()).unwrap_or(Value::Null)
    }
}

/// Adds `ran` to the metadata of a worker's answer. `None`: that is no JSON object.
pub(super) fn with_ran(metadata: &[u8], ran: &str) -> Option<Vec<u8>> {
    with_key(metadata, "ran", ran)
}

/// Adds a key to metadata. `None`: that is no JSON object.
///
/// Last, because of keys that stand twice readers take the last.
pub(super) fn with_key(metadata: &[u8], key: &str, value: &str) -> Option<Vec<u8>> {
    let whole = metadata.trim_ascii();
    if whole.is_empty() {
        return Some(format!("{{\"{key}\":{value}}}").into_bytes());
    }
    let inner = whole.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let comma = if inner.trim_ascii().is_empty() { "" } else { "," };
    Some([b"{", inner, format!("{comma}\"{key}\":{value}}}").as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_to_an_answer_wins_over_what_the_worker_says() {
        let ran = r#"{"wall_us":1}"#;
        for (metadata, expected) in [
            ("", r#"{"ran":{"wall_us":1}}"#),
            ("{}", r#"{"ran":{"wall_us":1}}"#),
            (r#"{"encoding":"json"}"#, r#"{"encoding":"json","ran":{"wall_us":1}}"#),
        ] {
            assert_eq!(with_ran(metadata.as_bytes(), ran).unwrap(), expected.as_bytes());
        }
        let lying = with_ran(br#"{"ran":{"wall_us":0}}"#, ran).unwrap();
        let read: Value = serde_json::from_slice(&lying).unwrap();
        assert_eq!(read["ran"]["wall_us"], 1);
        assert_eq!(with_ran(b"[]", ran), None);
    }

    #[test]
    fn endings_fit_into_metadata() {
        let mut writer = Writer::default();
        let ending =
            Ending::new(Status::Error, "\u{1}".repeat(1 << 20)).hint("\u{1}".repeat(1 << 20));
        ending.tell(&mut writer, [1; 16], None);
        assert!(!writer.is_empty());
    }
}

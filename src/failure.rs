//! What a user reads when a verb fails: what was tried, what was wrong, who must act, the way out.
//!
//! Every error of the libraries becomes a [`Failure`] here or in the verb that met it, and only
//! `main` prints one.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use ric_runtime::{Actor, Status};
use serde_json::json;

/// Exit code of a refusal: asking again will not help.
pub(crate) const EXIT_REFUSED: u8 = 122;

/// Exit code when this program failed before the task began, and of a wrong command line. Docker's
/// choice; clap's own 2 could be taken for a task's exit code.
pub(crate) const EXIT_FAILED: u8 = 125;

/// Exit code of a program that SIGPIPE ended (128 + 13), which is what a closed pipe means to us.
pub(crate) const EXIT_BROKEN_PIPE: u8 = 141;

/// Why a verb failed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    /// `refused`, `cancelled` or `error`.
    pub status: Status,
    pub exit_code: u8,
    /// What was tried, with operands; lower case, no full stop.
    pub attempt: String,
    /// Why it did not work, outermost first.
    pub causes: Vec<String>,
    pub must_act: Actor,
    /// The way out, when we know it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of this program or its surroundings, before a task began.
    pub(crate) fn new(must_act: Actor, attempt: impl Into<String>) -> Self {
        Self {
            status: Status::Error,
            exit_code: EXIT_FAILED,
            attempt: attempt.into(),
            causes: Vec::new(),
            must_act,
            hint: None,
        }
    }

    /// A request that is not granted.
    pub(crate) fn refused(must_act: Actor, attempt: impl Into<String>) -> Self {
        Self { status: Status::Refused, exit_code: EXIT_REFUSED, ..Self::new(must_act, attempt) }
    }

    /// A command line that clap does not take. Its text is paragraphs: what is wrong, tips, usage
    /// and where to read more; the first is ours to say, and a tip is the best hint.
    pub(crate) fn from_command_line(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let mut paragraphs = text.strip_prefix("error: ").unwrap_or(&text).split("\n\n");
        let failure = Self::new(Actor::User, paragraphs.next().unwrap_or_default());
        let tip = paragraphs
            .flat_map(str::lines)
            .find_map(|line| line.trim_start().strip_prefix("tip: "))
            .unwrap_or("`--help` after the verb tells what it takes");
        failure.hint(tip)
    }

    /// Whether the user ended it, by Ctrl-C or another signal.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.status == Status::Cancelled
    }

    /// Adds `error` and everything that caused it.
    pub(crate) fn because(mut self, error: &(dyn Error + '_)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds a cause in our own words.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The object that `--json` prints.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let mut error = self.attempt.clone();
        for cause in &self.causes {
            error.push_str(": ");
            error.push_str(cause);
        }
        json!({
            "status": self.status,
            "exit_code": self.exit_code,
            "error": error,
            "hint": self.hint,
            "must_act": actor_word(self.must_act),
        })
    }
}

fn actor_word(actor: Actor) -> &'static str {
    match actor {
        Actor::User => "user",
        Actor::Site => "site",
        Actor::Host => "host",
        Actor::Us => "us",
    }
}

/// The text form, with a line feed at its end.
impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "run-in-container: {}", printable(&self.attempt))?;
        for cause in &self.causes {
            writeln!(f, "  {}", printable(cause).replace('\n', "\n  "))?;
        }
        match &self.hint {
            Some(hint) => writeln!(f, "  hint: {}", printable(hint).replace('\n', "\n  ")),
            None => Ok(()),
        }
    }
}

/// `text` without what would steer a terminal: messages quote registries, archives and file names,
/// whose bytes other people chose.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.trim_end().chars() {
        if letter.is_control() && letter != '\n' && letter != '\t' {
            printable.extend(letter.escape_default());
        } else {
            printable.push(letter);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_chain_once_and_the_hint_last() {
        let failure = Failure::refused(Actor::Site, "cannot plan a sandbox for python:3.12")
            .because(&std::io::Error::other("policy `gpu` does not allow mounting /etc"))
            .hint("drop `--mount /etc`");
        assert_eq!(
            failure.to_string(),
            "run-in-container: cannot plan a sandbox for python:3.12\n  \
             policy `gpu` does not allow mounting /etc\n  \
             hint: drop `--mount /etc`\n"
        );
        assert_eq!(
            failure.to_json(),
            json!({
                "status": "refused",
                "exit_code": 122,
                "error": "cannot plan a sandbox for python:3.12: \
                          policy `gpu` does not allow mounting /etc",
                "hint": "drop `--mount /etc`",
                "must_act": "site",
            })
        );
    }

    #[test]
    fn escapes_what_would_steer_a_terminal() {
        let failure = Failure::new(Actor::User, "cannot open \u{1b}]0;x\u{7}");
        assert_eq!(failure.to_string(), "run-in-container: cannot open \\u{1b}]0;x\\u{7}\n");
    }

    #[test]
    fn indents_every_line_of_a_cause() {
        let failure = Failure::new(Actor::Site, "cannot read policy").cause("line 3\n  | limts:");
        assert_eq!(
            failure.to_string(),
            "run-in-container: cannot read policy\n  line 3\n    | limts:\n"
        );
    }
}

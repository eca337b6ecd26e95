//! `logs`: what a container of the daemon printed last.

use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::args::LogsArgs;
use crate::failure::{Failure, printable};
use crate::{Answer, warm};

/// How often a container that is followed is looked at.
const LOOKS_EVERY: Duration = Duration::from_millis(300);

pub(crate) fn logs(args: &LogsArgs) -> Result<Answer, Failure> {
    let mut client = warm::require(args.socket.as_deref())?;
    let mut ask = |from: u64| {
        let question = json!({"ask": "logs", "container": args.container, "from": from});
        warm::ask(&mut client, &question)
    };
    let mut told = ask(0)?;
    if args.json {
        return Ok(Answer::json(&told, 0));
    }
    while args.follow && told["ended"] == false {
        // Nobody reads any more: that is how following ends.
        if write(&told).is_err() {
            return Ok(Answer::text(""));
        }
        sleep(LOOKS_EVERY);
        told = ask(told["to"].as_u64().unwrap_or(0))?;
    }
    Ok(Answer::text(text(&told)))
}

fn write(told: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text(told).as_bytes())?;
    stdout.flush()
}

/// As it was printed; on a terminal without what would steer it.
fn text(told: &Value) -> String {
    let text = told["text"].as_str().unwrap_or_default();
    if !io::stdout().is_terminal() {
        return text.to_owned();
    }
    let end = if text.ends_with('\n') { "\n" } else { "" };
    printable(text) + end
}

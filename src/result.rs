//! `result`: waits for a submitted task and prints what `call` would have.

use std::time::Instant;

use serde_json::json;

use crate::args::ResultArgs;
use crate::failure::Failure;
use crate::{Answer, call, warm};

pub(crate) fn result(args: ResultArgs) -> Result<Answer, Failure> {
    let ResultArgs { id, timeout, keep, socket, json } = args;
    let mut client = warm::require(socket.as_deref())?;
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let ended = warm::fetch(&mut client, &id, until, json)?;
    let mut answer = match ended {
        Ok(outcome) => call::show(outcome, "the function", json),
        Err(failure) => crate::report(&failure, json),
    };
    if !keep {
        // Not before all of it has been printed: it can be had no more afterwards.
        answer.afterwards = Some(Box::new(move || {
            warm::ask(&mut client, &json!({"ask": "forget", "id": id})).map(drop)
        }));
    }
    Ok(answer)
}

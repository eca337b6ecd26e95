//! `cancel`: ends a submitted task.

use serde_json::json;

use crate::args::CancelArgs;
use crate::failure::Failure;
use crate::{Answer, warm};

pub(crate) fn cancel(args: &CancelArgs) -> Result<Answer, Failure> {
    let mut client = warm::require(args.socket.as_deref())?;
    let answer = warm::ask(&mut client, &json!({"ask": "cancel", "id": args.id}))?;
    Ok(if args.json { Answer::json(&answer, 0) } else { Answer::text("") })
}

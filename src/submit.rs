//! `submit`: hands a call in to the daemon, to be fetched later.

use serde_json::json;

use crate::args::SubmitArgs;
use crate::environments::{self, Unbuilt};
use crate::failure::Failure;
use crate::{Answer, session, task, warm};

pub(crate) fn submit(mut args: SubmitArgs) -> Result<Answer, Failure> {
    let json = args.sandbox.json;
    warm::refuse_own(&args.sandbox, "`call --no-daemon` takes it")?;
    let policy = session::load_policy(&[])?;
    let environment = environments::apply(&mut args.sandbox, &policy, Unbuilt::Build)?;
    let (task, descriptors) = task::call(args.sandbox, args.called, environment)?;
    let mut client = warm::require(args.socket.as_deref())?;
    let id = warm::submit(&mut client, &task, &descriptors, args.rerun)?;
    Ok(if json { Answer::json(&json!({"id": id}), 0) } else { Answer::text(format!("{id}\n")) })
}

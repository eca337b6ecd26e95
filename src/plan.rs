//! `plan`: the sandbox that a task would get. Starts nothing, writes nothing.

use serde_json::json;

use crate::Answer;
use crate::args::PlanArgs;
use crate::environments::{self, Unbuilt};
use crate::failure::Failure;
use crate::session::{self, Session};
use crate::task;

pub(crate) fn plan(mut args: PlanArgs) -> Result<Answer, Failure> {
    let json = args.sandbox.json;
    let policy = session::load_policy(&args.sandbox.policy)?;
    environments::apply(&mut args.sandbox, &policy, Unbuilt::Refuse)?;
    let store = args.sandbox.store.clone();
    let (task, _descriptors) = task::command(args.sandbox, args.command, false)?;
    let session = Session::open(policy, &task.caller, store.as_deref())?;
    let decision = session.decide(&task)?;
    let plan = json!({"sandbox": decision.plan.sandbox, "work": decision.plan.work});
    if json {
        return Ok(Answer::json(&plan, 0));
    }
    let text = serde_json::to_string_pretty(&plan).expect("our values have text keys");
    Ok(Answer::text(text + "\n"))
}

//! `stop`: ends containers of the daemon.

use ric_runtime::Actor;
use serde_json::json;

use crate::args::StopArgs;
use crate::failure::Failure;
use crate::{Answer, warm};

pub(crate) fn stop(args: &StopArgs) -> Result<Answer, Failure> {
    let mut client = warm::require(args.socket.as_deref())?;
    let question = json!({
        "ask": "stop",
        "containers": args.containers,
        "all": args.all,
        "job": args.job,
    });
    let answer = warm::ask(&mut client, &question)?;
    let ended: Vec<&str> =
        answer["ended"].as_array().into_iter().flatten().filter_map(|one| one.as_str()).collect();
    if let Some(missing) = args.containers.iter().find(|one| !ended.contains(&one.as_str())) {
        return Err(Failure::new(Actor::User, format!("cannot end the container {missing:?}"))
            .cause("the daemon has none of that name that is yours")
            .hint("`run-in-container ps` shows those that there are"));
    }
    if args.json {
        return Ok(Answer::json(&answer, 0));
    }
    Ok(Answer::text(ended.iter().map(|id| format!("{id}\n")).collect::<String>()))
}

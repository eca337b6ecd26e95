//! `metrics`: the daemon's numbers, for Prometheus.

use serde_json::json;

use crate::args::MetricsArgs;
use crate::failure::Failure;
use crate::{Answer, warm};

pub(crate) fn metrics(args: &MetricsArgs) -> Result<Answer, Failure> {
    let mut client = warm::require(args.socket.as_deref())?;
    let answer = warm::ask(&mut client, &json!({"ask": "metrics"}))?;
    Ok(Answer::text(answer.as_str().unwrap_or_default()))
}

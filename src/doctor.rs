//! `doctor`: what this host can enforce, as a table for people or as JSON.

use ric_runtime::{Finding, Host, doctor as examine};
use serde_json::json;

use crate::Answer;
use crate::args::DoctorArgs;
use crate::failure::{Failure, printable};
use crate::{session, task};

/// Exit code when no sandbox can be made here.
const EXIT_UNFIT: u8 = 1;

pub(crate) fn doctor(args: &DoctorArgs) -> Result<Answer, Failure> {
    let policy = session::load_policy(&args.policy)?;
    let host = session::probe_host(&task::read_caller()?, &policy)?;
    let findings = examine(&host, &policy);
    let fit = host.privileged.works || host.user_namespace.works;
    let exit_code = if fit { 0 } else { EXIT_UNFIT };
    if args.json {
        let report = json!({"fit": fit, "findings": findings, "host": host});
        return Ok(Answer::json(&report, exit_code));
    }
    Ok(Answer { exit_code, ..Answer::text(table(&host, &findings)) })
}

fn table(host: &Host, findings: &[Finding]) -> String {
    let mut text = format!("Linux {} on {}\n\n", host.kernel, host.architecture);
    let width = findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    for (finding, next) in findings.iter().zip(findings.iter().skip(1).map(Some).chain([None])) {
        let mark = if finding.works { "yes" } else { "NO " };
        let detail = printable(&finding.detail);
        text.push_str(&format!("{mark}  {:width$}  {detail}\n", finding.what));
        // What mends several things in a row is said once.
        let remedy = finding.remedy.as_ref();
        if let Some(remedy) =
            remedy.filter(|remedy| next.and_then(|n| n.remedy.as_ref()) != Some(remedy))
        {
            text.push_str(&format!("     hint: {}\n", printable(remedy)));
        }
    }
    text
}

//! Secrets: they reach the task, as a file in memory, and nothing and nobody else.

use std::fs;

use libtest_mimic::Failed;

use crate::case::Case;
use crate::daemon::{Daemon, command, serve};
use crate::launch::{Stage, claim};
use crate::leftovers::nothing_left;
use crate::needs::Need;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("secret_is_a_file_that_only_the_task_reads", reads_secret)
            .needs(&[Need::Python3]),
        Case::new("secret_is_in_no_plan_outcome_or_list_of_processes", shows_nowhere)
            .needs(&[Need::Python3]),
        Case::new("secret_that_cannot_be_read_is_told_before_anything_starts", tells_missing),
        Case::new("daemon_keeps_containers_of_different_secrets_apart", keeps_apart)
            .needs(&[Need::Python3]),
    ]
}

/// What no test may find anywhere else.
const SECRET: &str = "xyzzy-plugh-8f3a";

/// Tells what is in `/run/secrets`, and on what kind of file system.
const LOOK: &str = "import json, os
found = {}
for name in os.listdir('/run/secrets'):
    path = '/run/secrets/' + name
    facts = os.stat(path)
    found[name] = [open(path).read(), oct(facts.st_mode & 0o777), facts.st_uid == os.getuid()]
kinds = [line.split()[2] for line in open('/proc/mounts') if line.split()[1] == '/run/secrets']
print(json.dumps([found, kinds], sort_keys=True))
";

fn reads_secret(stage: &Stage) -> Result<(), Failed> {
    let file = stage.file("token", SECRET)?;
    let flag = format!("token={file}");
    let words = ["run", "--secret", &flag, "--secret", "TOKEN", "--", "python3", "-c", LOOK];
    let ran = stage.cli(&words).variable("TOKEN", "other").output()?.expect_code(0)?;
    let expected = format!(
        "[{{\"TOKEN\": [\"other\", \"0o400\", true], \"token\": [\"{SECRET}\", \"0o400\", true]}}, \
         [\"tmpfs\"]]\n"
    );
    claim!(ran.answer.stdout == expected, "{}", ran.answer.stdout);
    // The control: without one there is no such directory.
    let words = ["run", "--", "python3", "-c", LOOK];
    let without = stage.cli(&words).output()?;
    claim!(without.answer.stderr.contains("No such file"), "{}", without.answer.told());
    nothing_left(stage)
}

fn shows_nowhere(stage: &Stage) -> Result<(), Failed> {
    let file = stage.file("token", SECRET)?;
    let flag = format!("token={file}");
    let plan = stage.cli(&["plan", "--json", "--secret", &flag, "--", "true"]).output()?;
    let plan = plan.expect_code(0)?.answer;
    claim!(plan.stdout.contains("/run/secrets"), "{}", plan.stdout);
    claim!(!plan.told().contains(SECRET), "{}", plan.told());
    let sleeps = [
        "run",
        "--json",
        "--secret",
        &flag,
        "--",
        "python3",
        "-c",
        "import time; print('there', flush=True); time.sleep(2)",
    ];
    let running = stage.cli(&sleeps).start()?;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
    let mut looked = 0;
    while std::time::Instant::now() < until {
        for process in fs::read_dir("/proc")? {
            let process = process?.path();
            for part in ["cmdline", "environ"] {
                let Ok(content) = fs::read(process.join(part)) else { continue };
                looked += 1;
                let shown = content.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
                claim!(!shown, "{}/{part} shows it", process.display());
            }
        }
    }
    claim!(looked > 0, "no process was looked at");
    let answer = running.wait()?;
    claim!(answer.code == Some(0) && !answer.told().contains(SECRET), "{}", answer.told());
    nothing_left(stage)
}

fn tells_missing(stage: &Stage) -> Result<(), Failed> {
    let large = stage.file("large", vec![b'x'; (512 << 10) + 1])?;
    for (flag, expected) in [
        ("nonesuch".to_owned(), "you have no variable nonesuch"),
        ("token=/nonesuch".to_owned(), "No such file"),
        (format!("token={large}"), "more than 524288 bytes"),
        ("a/b=/etc/hostname".to_owned(), "a/b"),
    ] {
        let ran =
            stage.cli(&["run", "--secret", &flag, "--", "true"]).output()?.expect_code(125)?;
        claim!(ran.answer.stderr.contains(expected), "{flag}: {}", ran.answer.stderr);
    }
    nothing_left(stage)
}

fn end(stage: &Stage, daemon: Daemon<'_>) -> Result<(), Failed> {
    let answer = daemon.end()?;
    claim!(answer.code == Some(0) && !answer.told().contains(SECRET), "{}", answer.told());
    nothing_left(stage)
}

/// What one caller may know must not be found by another of its tasks that was not given it.
fn keeps_apart(stage: &Stage) -> Result<(), Failed> {
    let audit = stage.home.join("audit.jsonl").to_string_lossy().into_owned();
    let daemon = serve(stage, command(stage, &["--audit", &audit]))?;
    let files = [stage.file("one", SECRET)?, stage.file("two", format!("{SECRET}2"))?];
    let call = |file: &str| -> Result<(String, String), Failed> {
        let flag = format!("token={file}");
        let flags = ["--json", "--fresh", "nothing", "--secret", &flag];
        let ran = daemon.call(&flags, "read", &["--arg", "/run/secrets/token"])?.expect_code(0)?;
        let text = |key: &str| ran.outcome["container"][key].as_str().map(str::to_owned);
        let result = ran.outcome["result"].as_str().unwrap_or_default().to_owned();
        Ok((result, text("id").unwrap_or_default()))
    };
    let (one, first) = call(&files[0])?;
    let (two, second) = call(&files[1])?;
    let (again, third) = call(&files[0])?;
    claim!(one == SECRET && again == SECRET, "{one} {again}");
    claim!(two == format!("{SECRET}2"), "{two}");
    claim!(first == third && first != second, "{first} {second} {third}");
    // Where a task could leave something for the next, it gets none.
    let flag = format!("token={}", files[0]);
    let flags = ["--json", "--fresh", "process", "--secret", &flag];
    let refused = daemon.call(&flags, "number", &[])?.expect_code(125)?;
    claim!(refused.outcome["error"].to_string().contains("/run/secrets"), "{}", refused.outcome);
    let written = fs::read_to_string(&audit)?;
    claim!(!written.contains(SECRET) && !written.is_empty(), "{written}");
    end(stage, daemon)
}

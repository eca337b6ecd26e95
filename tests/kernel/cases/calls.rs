//! `call`: functions, their results, and how they fail.

use libtest_mimic::Failed;
use serde_json::json;

use crate::case::{Case, EVERYONE};
use crate::images::busybox_root;
use crate::launch::{Ran, Stage, claim};
use crate::leftovers::nothing_left;
use crate::needs::Need;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let all = vec![
        Case::new("call_returns_its_result_as_json", call_returns_its_result).people(EVERYONE),
        Case::new("call_digests_what_travels", call_digests_what_travels),
        Case::new("call_keeps_prints_apart_from_the_result", call_keeps_prints_apart),
        Case::new("call_shows_the_traceback_as_written", call_shows_the_traceback),
        Case::new("call_reports_how_a_function_ended", call_reports_endings),
        Case::new("call_hints_at_what_is_missing", call_hints_at_what_is_missing),
        Case::new("call_does_not_decode_a_pickle", call_does_not_decode_a_pickle),
        Case::new("call_in_host_runs_the_worker_as_bytecode", call_runs_bytecode).people(EVERYONE),
        Case::new("call_without_python_in_the_image_says_so", call_without_python)
            .needs(&[Need::Busybox]),
    ];
    all.into_iter().map(|case| case.needs(&[Need::Python3])).collect()
}

/// Functions that tests call.
const FUNCTIONS: &str = r#"
import os, sys

def greet(name, times=1):
    return ", ".join(["hello"] + [name] * times)

def echo(*arguments, **named):
    return [arguments, named]

def prints(text):
    print(text)
    os.write(1, b"raw\n")
    print("error side", file=sys.stderr)
    return len(text)

def raises(text):
    raise ValueError("no " + text)

def exits(code):
    sys.exit(code)

def leaves(code):
    os._exit(code)

def kills():
    os.kill(os.getpid(), 9)

def odd():
    return {"set": {1, 2}}

def unserialisable():
    return open("/etc/hostname")

def missing():
    import no_such_module

def started_as():
    return open("/proc/self/cmdline").read().split("\0")
"#;

fn call(stage: &Stage, function: &str, flags: &[&str]) -> Result<Ran, Failed> {
    let file = stage.file("functions.py", FUNCTIONS)?;
    let target = format!("{file}:{function}");
    let mut words = vec!["call"];
    words.extend(flags.iter().take_while(|flag| **flag == "--json"));
    words.push(&target);
    words.extend(flags.iter().skip_while(|flag| **flag == "--json"));
    stage.cli(&words).output()
}

fn call_returns_its_result(stage: &Stage) -> Result<(), Failed> {
    let ran = call(stage, "greet", &["--arg", "world", "--kwarg", "times=2"])?.expect_code(0)?;
    claim!(ran.answer.stdout == "\"hello, world, world\"\n", "{}", ran.answer.told());
    let flags =
        ["--arg", "1", "--arg", "[null, true]", "--arg", "{\"a\": 1.5}", "--kwarg", "k=x=y"];
    let ran = call(stage, "echo", &flags)?.expect_code(0)?;
    let result: serde_json::Value = serde_json::from_str(&ran.answer.stdout)?;
    let wanted = json!([[1, [null, true], {"a": 1.5}], {"k": "x=y"}]);
    claim!(result == wanted, "{result}");
    nothing_left(stage)
}

fn call_digests_what_travels(stage: &Stage) -> Result<(), Failed> {
    let ran = call(stage, "greet", &["--json", "--arg", "world"])?.expect_status("ok")?;
    claim!(ran.outcome["result"] == "hello, world", "{}", ran.outcome);
    for name in ["function_sha256", "arguments_sha256", "result_sha256"] {
        let digest = ran.outcome["payload"][name].as_str().unwrap_or("");
        let good = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        claim!(good, "{name} is {digest:?}");
    }
    let source = crate::images::hex(FUNCTIONS.as_bytes());
    claim!(ran.outcome["payload"]["function_sha256"] == source, "{}", ran.outcome["payload"]);
    Ok(())
}

fn call_keeps_prints_apart(stage: &Stage) -> Result<(), Failed> {
    let ran = call(stage, "prints", &["--arg", "some text"])?.expect_code(0)?;
    claim!(ran.answer.stdout == "9\n", "{}", ran.answer.told());
    for text in ["some text\n", "raw\n", "error side\n"] {
        claim!(ran.answer.stderr.contains(text), "{text:?} is lost: {}", ran.answer.stderr);
    }
    Ok(())
}

fn call_shows_the_traceback(stage: &Stage) -> Result<(), Failed> {
    let ran = call(stage, "raises", &["--arg", "luck"])?;
    let said = &ran.answer.stderr;
    claim!(ran.answer.code == Some(1), "{}", ran.answer.told());
    for text in ["Traceback", "functions.py", "in raises", "ValueError: no luck"] {
        claim!(said.contains(text), "{text:?} is not in {said}");
    }
    claim!(said.contains("raise ValueError(\"no \" + text)"), "the line is not shown: {said}");
    claim!(!said.contains("worker.py"), "frames of ours are shown: {said}");
    let ran = call(stage, "raises", &["--json", "--arg", "luck"])?.expect_status("failed")?;
    let error = ran.outcome["error"].as_str().unwrap_or("");
    claim!(error.contains("ValueError: no luck"), "{}", ran.outcome);
    Ok(())
}

fn call_reports_endings(stage: &Stage) -> Result<(), Failed> {
    for (function, argument, status, code) in [
        ("exits", Some("3"), "failed", 3),
        ("leaves", Some("4"), "failed", 4),
        ("leaves", Some("0"), "failed", 1),
        ("kills", None, "killed", 137),
        ("unserialisable", None, "failed", 1),
    ] {
        let mut flags = vec!["--json"];
        flags.extend(argument.iter().flat_map(|argument| ["--arg", argument]));
        let ran = call(stage, function, &flags)?;
        let got = (ran.outcome["status"].as_str().unwrap_or(""), ran.answer.code);
        claim!(got == (status, Some(code)), "{function}({argument:?}): {}", ran.outcome);
        nothing_left(stage)?;
    }
    Ok(())
}

fn call_hints_at_what_is_missing(stage: &Stage) -> Result<(), Failed> {
    let ran = call(stage, "missing", &[])?;
    let said = &ran.answer.stderr;
    claim!(said.contains("no_such_module") && said.contains("hint:"), "no hint: {said}");
    let ran = call(stage, "no_such_function", &[])?;
    let said = &ran.answer.stderr;
    claim!(
        ran.answer.code != Some(0) && said.contains("no_such_function"),
        "{}",
        ran.answer.told()
    );
    Ok(())
}

/// What is not JSON travels as a pickle, which nothing outside a sandbox decodes.
fn call_does_not_decode_a_pickle(stage: &Stage) -> Result<(), Failed> {
    let ran = call(stage, "odd", &[])?;
    claim!(ran.answer.code != Some(0), "{}", ran.answer.told());
    claim!(ran.answer.stderr.contains("JSON"), "it does not say why: {}", ran.answer.stderr);
    Ok(())
}

/// The machine's own interpreter has compiled the worker for itself.
fn call_runs_bytecode(stage: &Stage) -> Result<(), Failed> {
    let ran = call(stage, "started_as", &[])?.expect_code(0)?;
    claim!(ran.answer.stdout.contains("/run-in-container/worker.pyc"), "{}", ran.answer.told());
    nothing_left(stage)
}

fn call_without_python(stage: &Stage) -> Result<(), Failed> {
    let image = format!("dir:{}", busybox_root(&stage.world)?.display());
    let file = stage.file("functions.py", FUNCTIONS)?;
    let target = format!("{file}:greet");
    let ran = stage.cli(&["call", "--image", &image, &target, "--arg", "world"]).output()?;
    claim!(ran.answer.code == Some(127), "{}", ran.answer.told());
    let said = &ran.answer.stderr;
    claim!(said.to_lowercase().contains("python") && said.contains("hint:"), "{said}");
    nothing_left(stage)
}

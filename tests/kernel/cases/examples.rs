//! Every example runs and does what it says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::case::Case;
use crate::launch::{Ran, Stage, claim};
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("example_functions_return_what_they_say", functions_return)
            .needs(&[Need::Python3]),
        Case::new("example_mistakes_end_as_they_say", mistakes_end).needs(&[Need::Python3]),
        Case::new("example_policies_hold", policies_hold).people(&[Person::Root]),
        Case::new("example_program_runs_a_task", program_runs_a_task),
    ]
}

fn example(name: &str) -> Result<String, Failed> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    Ok(fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// Calls a function of an example, from a copy that everyone can read.
fn call(stage: &Stage, name: &str, function: &str, flags: &[&str]) -> Result<Ran, Failed> {
    let file = stage.file("example.py", example(name)?)?;
    let target = format!("{file}:{function}");
    let words: Vec<&str> = ["call", "--json"].iter().chain(flags).copied().collect();
    let (flags, arguments) =
        words.split_at(words.iter().position(|w| *w == "--arg").unwrap_or(words.len()));
    let line: Vec<&str> =
        flags.iter().chain([&target.as_str()]).chain(arguments).copied().collect();
    stage.cli(&line).output()
}

fn functions_return(stage: &Stage) -> Result<(), Failed> {
    let book = stage.file("book.txt", "a rose is a rose is a rose")?;
    let input = ["--input", &book, "--arg", "book.txt", "--arg", "2"];
    let checks: &[(&str, &str, &[&str], Value)] = &[
        ("examples/functions/hello.py", "greet", &["--arg", "world"], json!("hello, world")),
        ("examples/functions/words.py", "count", &input, json!([["a", 3], ["rose", 3]])),
        (
            "examples/functions/parallel.py",
            "largest_primes",
            &["--arg", "[10, 100]"],
            json!([7, 97]),
        ),
        ("examples/functions/fetch.py", "page", &[], json!("hello from inside")),
    ];
    for (name, function, flags, wanted) in checks {
        let ran = call(stage, name, function, flags)?.expect_status("ok")?;
        claim!(ran.outcome["result"] == *wanted, "{name}: {}", ran.outcome);
    }
    let pi = call(stage, "examples/functions/pi.py", "estimate", &["--arg", "1000"])?;
    let near = pi.outcome["result"].as_f64().is_some_and(|pi| (2.8..3.5).contains(&pi));
    claim!(near, "pi: {}", pi.outcome);
    let look = call(stage, "examples/functions/sandbox.py", "look", &[])?.expect_status("ok")?;
    claim!(look.outcome["result"]["directory"] == "/task", "{}", look.outcome);
    Ok(())
}

fn mistakes_end(stage: &Stage) -> Result<(), Failed> {
    for (function, status, says) in [
        ("raise_an_error", "failed", "this function has no answer"),
        ("need_a_package", "failed", "a_package_that_is_not_there"),
        ("leave", "failed", "3"),
        ("return_a_socket", "failed", "socket"),
    ] {
        let ran = call(stage, "examples/functions/mistakes.py", function, &[])?;
        claim!(ran.outcome["status"] == status, "{function}: {}", ran.outcome);
        claim!(ran.outcome["error"].to_string().contains(says), "{function}: {}", ran.outcome);
    }
    let died = call(stage, "examples/functions/mistakes.py", "die", &[])?;
    claim!(died.outcome["exit_code"] == 134, "SIGABRT is 128+6: {}", died.outcome);
    Ok(())
}

/// `examples/embed.rs`, which cargo builds beside the program.
fn program_runs_a_task(stage: &Stage) -> Result<(), Failed> {
    let programs = Path::new(env!("CARGO_BIN_EXE_run-in-container")).parent();
    let built = programs.map(|directory| directory.join("examples/embed")).ok_or("no directory")?;
    let program = stage.home.join("embed");
    fs::copy(&built, &program).map_err(|error| format!("{}: {error}", built.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let (program, store) = (program.to_string_lossy(), stage.store());
    let words = [&*program, &*store.to_string_lossy()];
    let answer = stage.world.as_person(stage.person, &words).output()?;
    claim!(answer.code == Some(0), "{}", answer.told());
    let outcome: Value = serde_json::from_str(&answer.stdout)?;
    claim!(outcome["status"] == "ok", "{outcome}");
    claim!(outcome["stdout"].to_string().contains("hello from uid"), "{outcome}");
    Ok(())
}

/// Each is a policy that loads; the one for a laptop runs a command in `host:`.
fn policies_hold(stage: &Stage) -> Result<(), Failed> {
    for name in [
        "examples/policies/cluster.yaml",
        "examples/policies/laptop.yaml",
        "examples/policies/narrower.yaml",
        "examples/policies/shared-endpoint.yaml",
    ] {
        let yaml = example(name)?;
        let shown = stage.cli(&["policy", "show"]).site_policy(&yaml)?.output()?.expect_code(0)?;
        let called = yaml.lines().find_map(|line| line.strip_prefix("name: ")).ok_or("no name")?;
        claim!(shown.answer.stdout.contains(called), "{name}: {}", shown.answer.told());
    }
    let laptop = example("examples/policies/laptop.yaml")?;
    stage.cli(&["run", "--", "/bin/true"]).site_policy(&laptop)?.output()?.expect_code(0)?;
    Ok(())
}

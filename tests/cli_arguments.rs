//! What a malformed command line gets: the value, what is wrong with it, what is expected; exit
//! code 125.

// The whole file is a test; the lints look for `mod tests`.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn cli(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_run-in-container"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A wrong command line, and all that must be in what is said about it.
fn check(arguments: &[&str], said: &[&str]) {
    let output = cli(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed on standard output");
    assert!(stderr.starts_with("run-in-container: "), "{arguments:?}: {stderr}");
    for words in said {
        assert!(stderr.contains(words), "{arguments:?} does not say `{words}`: {stderr}");
    }
}

#[test]
fn names_the_malformed_size() {
    for size in ["1Gb", "x", "-1", "1.5.GiB", "99999999999TiB", "0", ""] {
        let said = [format!("invalid value '{size}' for '--memory"), "512MiB".into()];
        check(&["run", &format!("--memory={size}"), "true"], &[&said[0], &said[1]]);
    }
}

#[test]
fn names_the_malformed_number_of_processors() {
    for cpus in ["half", "0.0001", "-1", "1,5", ""] {
        let said = format!("invalid value '{cpus}' for '--cpus");
        check(&["run", &format!("--cpus={cpus}"), "true"], &[&said, "`0.5`"]);
    }
}

#[test]
fn names_the_malformed_number_of_processes() {
    for pids in ["many", "1.5", "-3", "0", "99999999999999999999"] {
        let said = format!("invalid value '{pids}' for '--pids");
        check(&["run", &format!("--pids={pids}"), "true"], &[&said, "whole number"]);
    }
}

#[test]
fn names_the_malformed_time() {
    for time in ["90", "soon", "1h-3s", "999999999999999999999d", ""] {
        let said = format!("invalid value '{time}' for '--timeout");
        check(&["run", &format!("--timeout={time}"), "true"], &[&said, "`90s`"]);
    }
}

#[test]
fn names_what_is_wrong_with_a_mount() {
    let cases = [
        ("/a", "it does not say where in the sandbox"),
        (":/a", "it names no source"),
        ("/a:", "must be an absolute path"),
        ("/a:b", "`b` in the sandbox must be an absolute path"),
        ("/a:/b:rx", "`rx` is neither ro nor rw"),
        ("/a:/b:/c:rw", "it has too many colons"),
        ("/a:/", "the sandbox's root cannot be mounted over"),
        ("/a:/b/../c", "must not contain `..`"),
        ("", "it does not say where"),
    ];
    for (mount, problem) in cases {
        let value = format!("invalid value '{mount}' for '--mount");
        check(&["run", &format!("--mount={mount}"), "true"], &[&value, problem]);
    }
}

#[test]
fn names_what_is_wrong_with_a_variable() {
    check(&["run", "--variable", "X", "true"], &["invalid value 'X'", "expected NAME=VALUE"]);
    check(&["run", "--variable", "=1", "true"], &["invalid value '=1'", "it has no name"]);
}

#[test]
fn names_what_is_wrong_with_an_input_or_output() {
    check(&["run", "--input", "/", "true"], &["invalid value '/'", "ends in no file name"]);
    check(&["run", "--input", "a=b/c", "true"], &["`b/c` must be a name directly in /task"]);
    check(&["run", "--input", "a=..", "true"], &["`..` is not a file name"]);
    check(&["run", "--input", "=x", "true"], &["it names no file"]);
    check(&["run", "--output", "a", "true"], &["invalid value 'a'", "expected NAME=PATH"]);
    check(&["run", "--output", "a=", "true"], &["expected NAME=PATH"]);
    check(&["run", "--output", "../a=b", "true"], &["`../a` must be a name directly in /task"]);
}

#[test]
fn names_what_is_wrong_with_a_function() {
    check(&["call", "hello.py"], &["invalid value 'hello.py'", "expected FILE.py:FUNCTION"]);
    check(&["call", "hello.py:"], &["`` is not the name of a Python function"]);
    check(&["call", ":greet"], &["it names no file"]);
    check(&["call", "hello.py:a b"], &["`a b` is not the name of a Python function"]);
    check(&["call"], &["required arguments were not provided", "FILE.py:FUNCTION"]);
    check(&["call", "a.py:f", "--kwarg", "x"], &["invalid value 'x'", "expected NAME=VALUE"]);
    check(&["call", "a.py:f", "--kwarg", "1=2"], &["`1` is not the name of a Python argument"]);
}

#[test]
fn names_what_is_wrong_with_an_image() {
    for image in
        ["docker://", "docker-archive:", "Upper/Case", "a b", "sif:", "oras://r", "oras://"]
    {
        check(&["run", "--image", image, "true"], &[&format!("invalid value '{image}'")]);
        check(&["images", "pull", image], &[&format!("invalid value '{image}'")]);
    }
}

#[test]
fn lists_the_engines_for_an_unknown_one() {
    check(
        &["run", "--engine", "lxc", "true"],
        &["invalid value 'lxc'", "native, oci, docker, apptainer, shifter"],
    );
}

#[test]
fn proposes_the_flag_that_was_meant() {
    check(&["run", "--memroy", "1GiB", "true"], &["'--memroy'", "hint: ", "'--memory'"]);
}

#[test]
fn knows_no_unknown_verb() {
    check(&["exec", "true"], &["'exec'"]);
    check(&["policy", "edit"], &["'edit'"]);
}

#[test]
fn an_environment_excludes_an_image() {
    check(&["run", "--env", "numpy", "--image", "host:", "true"], &["'--env <NAME>'", "'--image"]);
}

#[test]
fn says_that_no_environment_is_known() {
    let known = ["cannot find the environment `numpy`", "there is no numpy.yaml in"];
    check(&["run", "--env", "numpy", "true"], &known);
}

/// It is a wish, not a mistake: it is refused, as policy refuses.
#[test]
fn refuses_devices() {
    let output = cli(&["run", "--device", "/dev/fuse", "true"]);
    assert_eq!(output.status.code(), Some(122), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/fuse"), "{output:?}");
}

#[test]
fn a_mistake_is_json_where_json_is_asked_for() {
    let output = cli(&["run", "--json", "--pids", "none", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stderr.is_empty(), "{output:?}");
    let failure: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(failure["status"], "error");
    assert_eq!(failure["exit_code"], 125);
    assert_eq!(failure["must_act"], "user");
    assert!(failure["error"].as_str().unwrap().contains("'none'"), "{failure}");
}

/// `--json` behind the command is the command's own.
#[test]
fn flags_behind_the_command_are_the_commands_own() {
    let output = cli(&["run", "--pids", "none", "--", "ls", "--json"]);
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(!output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_missing_verb_shows_help_and_fails() {
    let output = cli(&[]);
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: run-in-container"));
}

#[test]
fn help_and_version_go_to_standard_output() {
    for flag in ["--help", "-h", "--version"] {
        let output = cli(&[flag]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(!output.stdout.is_empty());
    }
}

/// `head` that has read enough is no error of ours, and nothing panics.
#[test]
fn a_closed_pipe_ends_it_as_sigpipe_would() {
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let output = Command::new(env!("CARGO_BIN_EXE_run-in-container"))
        .arg("--help")
        .stdout(write)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_full_disk_is_told() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_run-in-container"))
        .arg("--help")
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("cannot write to standard output"), "{stderr}");
}

/// `examples/systemd/run-in-container.service` starts the daemon as it can be started, at the
/// socket of `examples/systemd/run-in-container.socket`, where clients look for root's.
#[test]
fn systemd_units_say_what_the_program_takes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd");
    let value = |file: &str, key: &str| {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{file} has no {key}")).to_owned()
    };
    let start = value("run-in-container.service", "ExecStart");
    let mut words: Vec<&str> = start.split(' ').skip(1).collect();
    // Parsed whole, and nothing is begun.
    words.push("--help");
    let output = cli(&words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    let socket = value("run-in-container.socket", "ListenStream");
    let output = cli(&["ps"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&socket), "clients do not look at {socket}: {said}");
}

//! The whole help is a golden file: a change of the command line is seen in review.
//!
//! `RIC_BLESS=1 cargo test --test cli_help` rewrites it.

// The whole file is a test; the lints look for `mod tests`.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::Path;
use std::process::{Command, Stdio};

fn help(verbs: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_run-in-container"))
        .args(verbs)
        .arg("--help")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{verbs:?} --help: {output:?}");
    assert!(output.stderr.is_empty(), "{verbs:?} --help: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // Wrapped paragraphs end in blanks that editors remove.
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The verbs below `verbs`, as its own help lists them; so a new verb cannot be forgotten.
fn verbs_in(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn whole_help(verbs: &[&str]) -> String {
    let own = help(verbs);
    let mut whole =
        format!("$ run-in-container {}\n\n{own}\n", [verbs, &["--help"]].concat().join(" "));
    for verb in verbs_in(&own) {
        whole.push_str(&whole_help(&[verbs, &[&verb]].concat()));
    }
    whole
}

#[test]
fn help_is_as_recorded() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli/help.txt");
    let now = whole_help(&[]);
    if std::env::var_os("RIC_BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap();
    assert!(
        recorded == now,
        "docs/cli/help.txt is not what the program says; rewrite it with RIC_BLESS=1 and read the \
         difference"
    );
}

/// A line of help that is wider than a terminal is wrapped in the middle of a word there.
#[test]
fn no_line_of_help_is_wider_than_100_columns() {
    let wide: Vec<String> = whole_help(&[])
        .lines()
        .filter(|line| line.chars().count() > 100)
        .map(str::to_owned)
        .collect();
    assert_eq!(wide, Vec::<String>::new());
}

#[test]
fn every_shell_gets_completions_that_know_the_verbs() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = Command::new(env!("CARGO_BIN_EXE_run-in-container"))
            .args(["completions", shell])
            .output()
            .unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{shell}");
        for word in ["doctor", "policy", "images", "--workdir"] {
            let word = if shell == "fish" { word.trim_start_matches("--") } else { word };
            assert!(script.contains(word), "{shell} completions lack {word}");
        }
    }
}

#[test]
fn man_writes_a_page_per_verb() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_run-in-container"))
        .arg("man")
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for page in ["", "-run", "-call", "-plan", "-doctor", "-policy-show", "-images-pull", "-man"] {
        let path = directory.path().join(format!("run-in-container{page}.1"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(".ie"), "{}: {text:.40}", path.display());
    }
}

//! One file per case: what a valid file means, what an invalid one is told, what narrowing leaves.
//!
//! The expected text stands beside each case. `RIC_BLESS=1 cargo nextest run -p ric-policies`
//! writes it anew; review reads the difference.

#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of it is a test")]

mod golden;

use std::error::Error;
use std::path::{Path, PathBuf};

use golden::{check, here};
use ric_policies::{Authority, Draft, Policy};

#[test]
fn valid_files_mean_what_they_say() {
    for file in yaml_files("valid") {
        check(&file.with_extension("txt"), &as_site(&file).show());
    }
}

#[test]
fn invalid_files_are_told_what_is_wrong_and_where() {
    for file in yaml_files("invalid") {
        let bytes = std::fs::read(&file).unwrap();
        let name = Path::new(file.file_name().unwrap());
        let message = match std::str::from_utf8(&bytes) {
            Ok(text) => Draft::parse(name, text).unwrap_err().to_string(),
            Err(_) => told_by_load(&file),
        };
        check(&file.with_extension("txt"), &format!("{message}\n"));
    }
}

#[test]
fn narrowing_takes_away_and_says_what_has_no_effect() {
    for case in entries(&here("narrowing")) {
        let [site, user] = ["site.yaml", "user.yaml"].map(|name| {
            let text = std::fs::read_to_string(case.join(name)).unwrap();
            (PathBuf::from(name), text)
        });
        let site = loaded(&site.0, &site.1);
        let text = match site.narrow(&Draft::parse(&user.0, &user.1).unwrap()) {
            Ok(narrowed) => {
                let notes: String = narrowed.notes.iter().map(|note| format!("{note}\n")).collect();
                format!("{}\nnotes:\n{notes}", narrowed.policy.show())
            }
            Err(error) => format!("{error}\n"),
        };
        check(&case.join("result.txt"), &text);
    }
}

#[test]
fn every_example_is_valid() {
    let examples = here("../../examples/policies");
    assert!(!entries(&examples).is_empty());
    for file in entries(&examples) {
        let text = std::fs::read_to_string(&file).unwrap();
        Draft::parse(&file, &text).unwrap();
    }
}

#[test]
fn what_is_shown_reads_back_as_the_same_policy() {
    for file in yaml_files("valid") {
        let policy = as_site(&file);
        let again = loaded(Path::new("again"), &policy.show());
        assert_eq!(again.digest, policy.digest, "{}", policy.show());
        assert_eq!(again.name, policy.name);
    }
}

/// A second reader of YAML finds the same values in every valid file: what an admin checks with
/// other tools is what this program does.
#[test]
fn another_yaml_reader_agrees() {
    for file in yaml_files("valid") {
        let text = std::fs::read_to_string(&file).unwrap();
        // That reader knows no mark at the beginning; the rest it shall read.
        let read: serde_json::Value =
            serde_yaml::from_str(text.trim_start_matches('\u{feff}')).unwrap();
        let again = loaded(Path::new("again"), &read.to_string());
        assert_eq!(again.digest, as_site(&file).digest, "{}", file.display());
    }
}

fn as_site(file: &Path) -> Policy {
    let text = std::fs::read_to_string(file).unwrap();
    loaded(Path::new(file.file_name().unwrap()), &text)
}

/// The policy of a machine whose site file has this text, without the checks of the file itself.
fn loaded(path: &Path, text: &str) -> Policy {
    Policy::of_site(&Draft::parse(path, text).unwrap())
}

/// The whole chain of causes, for what only [`Policy::load`] can find.
fn told_by_load(file: &Path) -> String {
    let missing = here("no-such-file.yaml");
    let error = Policy::load(&missing, &[file.to_owned()], Authority::Narrow).unwrap_err();
    let cause = error.source().unwrap().to_string();
    cause.replace(&format!("{}/", file.parent().unwrap().display()), "")
}

fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let mut files = entries(&here(folder));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    assert!(!files.is_empty());
    files
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

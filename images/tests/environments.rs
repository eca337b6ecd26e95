//! What a wrong environment file is told: one file per case, the message beside it.
//!
//! `RIC_BLESS=1 cargo nextest run -p ric-images environment` writes the messages anew.

#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of it is a test")]
#![allow(clippy::disallowed_methods, reason = "RIC_BLESS")]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use ric_images::Environment;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|it| it == "yaml")).collect();
    files.sort();
    files
}

#[test]
fn wrong_environments_are_told_what_is_wrong_and_where() {
    let files = files("tests/environments/invalid");
    assert!(files.len() > 10);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = Path::new(file.file_name().unwrap());
        let message = Environment::parse(name, &text).map(drop).unwrap_err().to_string() + "\n";
        let golden = file.with_extension("txt");
        if std::env::var_os("RIC_BLESS").is_some() {
            fs::write(&golden, &message).unwrap();
        }
        assert_eq!(message, fs::read_to_string(&golden).unwrap(), "{}", file.display());
    }
}

#[test]
fn every_example_of_an_environment_is_valid() {
    let files = files("../examples/environments");
    assert!(!files.is_empty());
    for file in files {
        Environment::parse(&file, &fs::read_to_string(&file).unwrap()).unwrap();
    }
}

proptest! {
    /// Whatever stands in a file: no panic, and no message that could steer a terminal.
    #[test]
    fn no_environment_file_panics(text in "(name: e\n)?[\\PC\n]{0,200}") {
        if let Err(mistake) = Environment::parse(Path::new("e.yaml"), &text) {
            prop_assert!(!mistake.to_string().contains(|c: char| c.is_control() && c != '\n'));
        }
    }
}

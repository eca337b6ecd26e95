//! The walls of the house style that neither rustfmt nor clippy checks.
//!
//! Each rule is a function from the tree to the places that break it; a test prints all of them.

// The whole file is tests; the lint looks for a module.
#![expect(clippy::tests_outside_test_module, reason = "an integration test has none")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of one file that are not tests.
const LINES_MAX: usize = 500;
/// Columns of one line of Rust.
const COLUMNS_MAX: usize = 100;
/// Modules that say nothing about what is in them.
const EMPTY_NAMES: &[&str] = &["common", "utils", "util", "helpers", "helper", "types", "misc"];
/// Words that promise work without an issue to find it by.
const PROMISING_WORDS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];
/// Folders that are not ours or not source.
const SKIPPED: &[&str] = &[".git", "target", "node_modules", "__pycache__", "corpus", "corpora"];

/// One file of the tree.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }

    /// Whether all of it is tests.
    fn is_test(&self) -> bool {
        let in_folder = self
            .path
            .components()
            .any(|part| ["tests", "benches"].iter().any(|folder| part.as_os_str() == *folder));
        in_folder || self.path.file_name().is_some_and(|name| name == "tests.rs")
    }

    fn says(&self, line: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.name(), line + 1)
    }
}

/// Every text file, by path from the root of the repository.
fn tree() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable tree").flatten() {
            let kind = entry.file_type().expect("a readable tree");
            let name = entry.file_name();
            if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) {
                folders.push(entry.path());
            } else if kind.is_file()
                && let Ok(text) = fs::read_to_string(entry.path())
            {
                let path = entry.path().strip_prefix(root).expect("below it").to_owned();
                sources.push(Source { path, text });
            }
        }
    }
    assert!(sources.len() > 20, "only {} files were found", sources.len());
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    sources
}

fn rust() -> impl Iterator<Item = Source> {
    tree().into_iter().filter(Source::is_rust)
}

/// Fails with all that breaks a rule.
#[track_caller]
fn none(broken: impl IntoIterator<Item = String>) {
    let broken: Vec<String> = broken.into_iter().collect();
    assert!(broken.is_empty(), "{} places:\n  {}", broken.len(), broken.join("\n  "));
}

/// A line of Rust without what follows `//`, roughly: strings with slashes are cut too.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

#[test]
fn files_begin_with_what_they_are_for() {
    none(rust().filter(|file| !file.text.starts_with("//! ")).map(|file| file.says(0, "no `//!`")));
}

/// A table may be longer and says so at its top.
#[test]
fn files_are_not_longer_than_the_wall() {
    let long = rust().filter(|file| !file.is_test()).filter_map(|file| {
        let lines = file.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        let says_why = file.text.lines().take(3).any(|line| line.contains("Longer than"));
        (lines > LINES_MAX && !says_why).then(|| file.says(lines, "longer than the wall"))
    });
    none(long);
}

#[test]
fn lines_are_not_wider_than_the_wall() {
    none(rust().flat_map(|file| {
        let wide = |(number, line): (usize, &str)| {
            let columns = line.chars().count();
            (columns > COLUMNS_MAX).then(|| file.says(number, &format!("{columns} columns")))
        };
        file.text.lines().enumerate().filter_map(wide).collect::<Vec<_>>()
    }));
}

#[test]
fn modules_say_what_is_in_them() {
    none(rust().flat_map(|file| {
        let empty = |name: &str| EMPTY_NAMES.contains(&name);
        let parts = file.path.iter().filter_map(|part| Path::new(part).file_stem()?.to_str());
        let mut broken: Vec<String> =
            parts.filter(|part| empty(part)).map(|part| file.says(0, part)).collect();
        for (number, line) in file.text.lines().enumerate() {
            let named = line.trim_end_matches([' ', '{', ';']).rsplit_once("mod ");
            broken.extend(named.filter(|(_, n)| empty(n)).map(|(_, n)| file.says(number, n)));
        }
        broken
    }));
}

#[test]
fn no_work_is_promised_without_an_issue() {
    let here = Path::new(file!()).file_name();
    none(tree().iter().filter(|file| file.path.file_name() != here).flat_map(|file| {
        let promises = |(number, line): (usize, &str)| {
            let words: BTreeSet<&str> = line.split(|c: char| !c.is_alphanumeric()).collect();
            let word = PROMISING_WORDS.iter().find(|word| words.contains(**word))?;
            (!line.contains("issue #")).then(|| file.says(number, word))
        };
        file.text.lines().enumerate().filter_map(promises).collect::<Vec<_>>()
    }));
}

/// A test that is ignored proves nothing and looks as if it did.
#[test]
fn no_test_is_ignored() {
    none(rust().flat_map(|file| {
        let ignored = |(number, line): (usize, &str)| {
            line.trim_start().starts_with("#[ignore").then(|| file.says(number, "ignored"))
        };
        file.text.lines().enumerate().filter_map(ignored).collect::<Vec<_>>()
    }));
}

/// Paths of somebody's own machine: a home, or where this happens to be checked out.
#[test]
fn no_file_knows_a_developers_machine() {
    let checkout = env!("CARGO_MANIFEST_DIR");
    let here = Path::new(file!()).file_name();
    none(tree().iter().filter(|file| file.path.file_name() != here).flat_map(|file| {
        let personal = |(number, line): (usize, &str)| {
            let home = line.split_once("/home/").is_some_and(|(_, rest)| {
                rest.starts_with(|c: char| c.is_ascii_lowercase())
                    && !["user", "ada/", "ada`", "ada\"", "eve/", "alice", "bob"]
                        .iter()
                        .any(|n| rest.starts_with(n))
            });
            let found = home || line.contains("/Users/") || line.contains(checkout);
            let root_home = line.contains("/root/.");
            (found || root_home).then(|| file.says(number, line.trim()))
        };
        file.text.lines().enumerate().filter_map(personal).collect::<Vec<_>>()
    }));
}

/// One comment per unsafe block, in the same file.
#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    none(rust().filter_map(|file| {
        let blocks: usize = file
            .text
            .lines()
            .map(|line| {
                code(line).matches(&["unsafe", " {"].concat()).count()
                    + code(line).matches(&["unsafe", " impl"].concat()).count()
            })
            .sum();
        let reasons =
            file.text.lines().filter(|line| line.trim_start().starts_with("// SAFETY: ")).count();
        let what = format!("{blocks} unsafe blocks, {reasons} reasons");
        (blocks != reasons).then(|| file.says(0, &what))
    }));
}

/// A decision that no page links to is not found by who needs it.
#[test]
fn every_decision_is_linked() {
    let tree = tree();
    let pages = || tree.iter().filter(|f| f.path.extension().is_some_and(|e| e == "md"));
    let decisions = pages().filter(|file| file.path.starts_with("docs/decisions"));
    none(decisions.filter(|page| !page.path.ends_with("README.md")).filter_map(|page| {
        let name = page.path.file_name().expect("a page").to_string_lossy().into_owned();
        let is_linked = pages()
            .any(|other| other.path != page.path && other.text.contains(&format!("{name})")));
        (!is_linked).then(|| page.says(0, "no other page links here"))
    }));
}

/// Names of tests: functions, and the claims of the kernel tests.
fn test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in rust() {
        for line in file.text.lines() {
            let function = line.trim_start().trim_start_matches("pub(crate) ").strip_prefix("fn ");
            names
                .extend(function.and_then(|rest| rest.split(['(', '<']).next()).map(str::to_owned));
        }
        if file.path.starts_with("tests/kernel") {
            // Claims and the rows of tables that claims are made of are plain strings.
            for claim in file.text.split('"').filter(|part| is_identifier(part)) {
                for before in ["", "refuses_", "runc_", "runc_refuses_", "says_what_is_wrong_with_"]
                {
                    names.insert(format!("{before}{claim}"));
                }
            }
        }
    }
    names
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
}

/// Each promise names tests, in backquotes, and they exist.
#[test]
fn every_promise_names_tests_that_exist() {
    let page = "docs/promises.md";
    let tree = tree();
    let promises = tree.iter().find(|file| file.path == Path::new(page)).expect(page);
    let known = test_names();
    let mut named = 0;
    let mut broken = Vec::new();
    for (number, line) in promises.text.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let name = quoted.rsplit("::").next().unwrap_or("");
            // A test's name is a claim of several words; other quoted words are not tests.
            if !is_identifier(name) || name.matches('_').count() < 2 {
                continue;
            }
            named += 1;
            if !known.contains(name) {
                broken.push(promises.says(number, &format!("no test is called {name}")));
            }
        }
    }
    assert!(named > 0, "{page} names no test");
    none(broken);
}

/// An example that no test runs is wrong sooner or later.
#[test]
fn every_example_is_run_by_a_test() {
    let tree = tree();
    let tests: Vec<&Source> = tree.iter().filter(|file| file.is_test()).collect();
    let examples = tree
        .iter()
        .filter(|file| file.path.starts_with("examples") && !file.path.ends_with("README.md"));
    none(examples.filter_map(|example| {
        let name = example.name();
        // A Rust example is run by its name, anything else is read by its path.
        let wanted = name
            .strip_suffix(".rs")
            .map_or(name.as_str(), |stem| stem.trim_start_matches("examples/"));
        let is_run = tests.iter().any(|test| test.text.contains(wanted));
        (!is_run).then(|| example.says(0, "no test names it"))
    }));
}

//! What bad input gets: an exit code that says who must act, a message that names what was wrong,
//! and nothing left.
//!
//! Longer than a screen because it is a table.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use libtest_mimic::Failed;
use serde_json::json;

use crate::case::Case;
use crate::commands::Command;
use crate::images::{Image, busybox_root};
use crate::launch::{Ran, Stage, claim};
use crate::leftovers::{files, nothing_left};
use crate::needs::Need;
use crate::person::Person;

/// One command line that must not work. `HOME` in words stands for the test's own directory.
#[derive(Debug, Clone, Copy)]
struct Bad {
    claim: &'static str,
    words: &'static [&'static str],
    /// Exit codes that say who must act: 2 usage, 122 policy, 125 us or the host, 126 and 127 the
    /// command.
    codes: &'static [i32],
    /// What the message must name.
    says: &'static [&'static str],
}

const fn bad(
    claim: &'static str,
    words: &'static [&'static str],
    codes: &'static [i32],
    says: &'static [&'static str],
) -> Bad {
    Bad { claim, words, codes, says }
}

/// Wrong usage: clap's own code, or ours for what was found wrong later.
const USAGE: &[i32] = &[2, 125];
/// It could not begin.
const FAILED: &[i32] = &[125];
/// Policy.
const REFUSED: &[i32] = &[122];

const TABLE: &[Bad] = &[
    bad(
        "missing_docker_archive",
        &["run", "--image", "docker-archive:HOME/no.tar", "--", "true"],
        FAILED,
        &["no.tar", "No such file"],
    ),
    bad(
        "missing_oci_layout",
        &["run", "--image", "oci:HOME/no", "--", "true"],
        FAILED,
        &["HOME/no"],
    ),
    bad(
        "missing_directory",
        &["run", "--image", "dir:HOME/no", "--", "true"],
        FAILED,
        &["HOME/no"],
    ),
    bad(
        "image_that_is_no_archive",
        &["run", "--image", "docker-archive:HOME/text", "--", "true"],
        FAILED,
        &["HOME/text"],
    ),
    bad(
        "truncated_archive",
        &["run", "--image", "docker-archive:HOME/truncated.tar", "--", "true"],
        FAILED,
        &["truncated.tar"],
    ),
    bad(
        "archive_without_its_layer",
        &["run", "--image", "docker-archive:HOME/no-layer.tar", "--", "true"],
        FAILED,
        &["no-layer.tar"],
    ),
    bad(
        "layer_with_a_wrong_digest",
        &["run", "--image", "docker-archive:HOME/wrong.tar", "--", "true"],
        FAILED,
        &["expected blob sha256:"],
    ),
    bad(
        "layer_that_climbs_out",
        &["run", "--image", "docker-archive:HOME/hostile.tar", "--", "true"],
        FAILED,
        &["../"],
    ),
    bad(
        "malformed_reference",
        &["run", "--image", "docker://", "--", "true"],
        USAGE,
        &["docker://"],
    ),
    bad(
        "unknown_transport",
        &["run", "--image", "floppy:a", "--", "true"],
        &[2, 122, 125],
        &["floppy"],
    ),
    bad(
        "digest_that_is_none",
        &["run", "--image", "docker://127.0.0.1:1/a@sha256:../../x", "--", "true"],
        USAGE,
        &["sha256:../../x"],
    ),
    bad("unknown_flag", &["run", "--no-such-flag", "--", "true"], USAGE, &["--no-such-flag"]),
    bad("unknown_verb", &["no-such-verb"], USAGE, &["no-such-verb"]),
    bad("unknown_engine", &["run", "--engine", "steam", "--", "true"], USAGE, &["steam"]),
    bad("missing_command", &["run"], &[2, 122, 125], &["command"]),
    bad("malformed_memory", &["run", "--memory", "lots", "--", "true"], USAGE, &["lots"]),
    bad(
        "memory_without_a_unit_that_exists",
        &["run", "--memory", "3XiB", "--", "true"],
        USAGE,
        &["3XiB"],
    ),
    bad("negative_memory", &["run", "--memory=-1", "--", "true"], USAGE, &["-1"]),
    bad(
        "overflowing_memory",
        &["run", "--memory", "99999999999TiB", "--", "true"],
        USAGE,
        &["99999999999TiB"],
    ),
    bad("malformed_cpus", &["run", "--cpus", "many", "--", "true"], USAGE, &["many"]),
    bad("malformed_pids", &["run", "--pids", "0x10", "--", "true"], USAGE, &["0x10"]),
    bad("malformed_timeout", &["run", "--timeout", "soon", "--", "true"], USAGE, &["soon"]),
    bad("malformed_mount", &["run", "--mount", "nothing", "--", "true"], USAGE, &["nothing"]),
    bad(
        "mount_with_unknown_access",
        &["run", "--mount", "HOME/data:/data:rwx", "--", "true"],
        USAGE,
        &["rwx"],
    ),
    bad(
        "mount_to_a_relative_target",
        &["run", "--mount", "HOME/data:data:ro", "--", "true"],
        USAGE,
        &["data"],
    ),
    bad("malformed_variable", &["run", "--variable", "NOVALUE", "--", "true"], USAGE, &["NOVALUE"]),
    bad(
        "malformed_network",
        &["run", "--network", "everything", "--", "true"],
        USAGE,
        &["everything"],
    ),
    bad("malformed_function", &["call", "HOME/text"], USAGE, &["HOME/text"]),
    bad("missing_file_of_a_function", &["call", "HOME/no.py:f"], FAILED, &["no.py"]),
    bad("missing_input", &["run", "--input", "HOME/no-input", "--", "true"], FAILED, &["no-input"]),
    bad(
        "input_name_that_climbs_out",
        &["run", "--input", "HOME/text=../x", "--", "true"],
        USAGE,
        &["../x"],
    ),
    bad(
        "missing_source_of_a_mount",
        &["run", "--mount", "HOME/no:/data:ro", "--", "true"],
        &[122, 125],
        &["HOME/no"],
    ),
    bad(
        "missing_policy_file",
        &["run", "--policy", "HOME/no.yaml", "--", "true"],
        FAILED,
        &["no.yaml"],
    ),
    bad(
        "unknown_key_of_a_policy",
        &["run", "--policy", "HOME/unknown.yaml", "--", "true"],
        FAILED,
        &["unknown.yaml", "3", "memroy"],
    ),
    bad(
        "duplicate_key_of_a_policy",
        &["run", "--policy", "HOME/duplicate.yaml", "--", "true"],
        FAILED,
        &["duplicate.yaml", "3", "version"],
    ),
    bad(
        "policy_others_can_write",
        &["run", "--policy", "HOME/open.yaml", "--", "true"],
        FAILED,
        &["open.yaml"],
    ),
    bad(
        "more_than_the_policy_allows",
        &["run", "--policy", "HOME/small.yaml", "--pids", "100", "--", "true"],
        REFUSED,
        &["small.yaml", "100", "10", "pids"],
    ),
    bad(
        "image_outside_policy",
        &["run", "--policy", "HOME/images.yaml", "--", "true"],
        REFUSED,
        &["images.yaml", "host:"],
    ),
    bad(
        "network_outside_policy",
        &["run", "--policy", "HOME/small.yaml", "--network", "host", "--", "true"],
        REFUSED,
        &["network"],
    ),
    bad(
        "engine_outside_policy",
        &["run", "--policy", "HOME/small.yaml", "--engine", "docker", "--", "true"],
        REFUSED,
        &["docker"],
    ),
    bad(
        "command_that_is_not_there",
        &["run", "--", "no-such-command"],
        &[127],
        &["no-such-command"],
    ),
    bad("command_that_is_not_executable", &["run", "--", "/etc/passwd"], &[126], &["/etc/passwd"]),
    bad("command_that_is_a_directory", &["run", "--", "/usr"], &[126], &["/usr"]),
    bad(
        "working_directory_that_is_not_there",
        &["run", "--workdir", "/no/such", "--", "true"],
        FAILED,
        &["/no/such"],
    ),
    bad(
        "unreachable_registry",
        &["run", "--image", "docker://127.0.0.1:1/a:b", "--", "true"],
        FAILED,
        &["127.0.0.1:1"],
    ),
];

/// One claim per row, and those that need a scene.
pub(crate) fn cases() -> Vec<Case> {
    let rows = TABLE.iter().map(|row| {
        Case::new(format!("says_what_is_wrong_with_{}", row.claim), |stage| check(*row, stage))
    });
    let scenes = [
        Case::new("refuses_mount_outside_policy", refuses_mount_outside_policy)
            .people(&[Person::Root]),
        Case::new("refuses_path_that_the_caller_may_not_read", refuses_unreadable_path)
            .people(&[Person::Rootless])
            .needs(&[Need::Root]),
        Case::new("runs_nothing_under_a_broken_site_policy", broken_site_policy)
            .people(&[Person::Root]),
        Case::new("plan_starts_nothing_and_refuses_the_same", plan_refuses_the_same),
        Case::new("refuses_to_run_with_borrowed_rights", refuses_borrowed_rights)
            .people(&[Person::Root]),
        Case::new("finds_no_command_in_an_image_without_it", no_command_in_image)
            .needs(&[Need::Busybox]),
    ];
    rows.chain(scenes).collect()
}

/// Files that rows refer to.
fn props(stage: &Stage) -> Result<(), Failed> {
    stage.file("text", "just text\n")?;
    stage.directory("data")?;
    for (name, text) in [
        ("unknown.yaml", "version: 1\nname: a\nmemroy: 1GiB\n"),
        ("duplicate.yaml", "version: 1\nname: a\nversion: 1\n"),
        ("open.yaml", "version: 1\nname: a\n"),
        (
            "small.yaml",
            "version: 1\nname: a\nlimits:\n  pids: {default: 5, most: 10}\n\
             network: [loopback]\nengines: [native]\n",
        ),
        ("images.yaml", "version: 1\nname: a\nimages:\n  allow: [\"dir:/apps/*\"]\n"),
    ] {
        let path = stage.file(name, text)?;
        let mode = if name == "open.yaml" { 0o666 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    let image = Image {
        layers: vec![vec![crate::images::Entry::file("a", 0o644, "content")]],
        config: json!({}),
    };
    let good = image.docker_archive()?;
    stage.file("truncated.tar", &good[..good.len() / 3])?;
    let text = String::from_utf8_lossy(&good).into_owned();
    stage.file(
        "no-layer.tar",
        text.replace("0/layer.tar", "9/layer.tar").replacen("9/layer.tar", "0/layer.tar", 1),
    )?;
    stage.file("wrong.tar", text.replace("content", "CONTENT"))?;
    stage.file("hostile.tar", hostile_archive()?)?;
    Ok(())
}

/// An archive whose layer has an entry above its root; its digests are right.
fn hostile_archive() -> Result<Vec<u8>, Failed> {
    const NAME: &str = "aa/climbs-out";
    let image = Image {
        layers: vec![vec![crate::images::Entry::file(NAME, 0o644, "content")]],
        config: json!({}),
    };
    image.docker_archive_with(|layer| {
        // Rewrites the entry's name and the header's checksum (tar(5), "Old-Style Archive Format").
        layer[..NAME.len()].copy_from_slice(b"../climbs-out");
        layer[148..156].fill(b' ');
        let sum: u32 = layer[..512].iter().map(|byte| u32::from(*byte)).sum();
        layer[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    })
}

fn check(row: Bad, stage: &Stage) -> Result<(), Failed> {
    props(stage)?;
    let home = stage.home.to_string_lossy().into_owned();
    let filled = |word: &&str| word.replace("HOME", &home);
    let before = files(&stage.store())?;
    let ran = stage.cli(&row.words.iter().map(filled).collect::<Vec<_>>()).output()?;
    let code = ran.answer.code.unwrap_or(-1);
    claim!(
        row.codes.contains(&code),
        "exit code {code}, not {:?}: {}",
        row.codes,
        ran.answer.told()
    );
    for says in row.says.iter().map(filled) {
        claim!(ran.answer.stderr.contains(&says), "{says:?} is not named: {}", ran.answer.stderr);
    }
    good_message(&ran)?;
    nothing_left(stage)?;
    let after = files(&stage.store())?;
    // An empty store may have been made; nothing half done may be in it.
    let store = stage.store().to_string_lossy().into_owned();
    let is_partial = |path: &&String| {
        let inside = path.strip_prefix(&store).unwrap_or(path);
        inside.starts_with("/tmp/") || inside.starts_with("/layers/")
    };
    let partial: Vec<_> = after.difference(&before).filter(is_partial).collect();
    claim!(partial.is_empty(), "left in the store: {partial:?}");
    Ok(())
}

/// A message for people: no Rust inside, and nothing on standard output.
fn good_message(ran: &Ran) -> Result<(), Failed> {
    let said = &ran.answer.stderr;
    for rust in ["panicked", "unwrap", "Os {", "Error {", "Some(", "RUST_BACKTRACE"] {
        claim!(!said.contains(rust), "{rust:?} is not for people: {said}");
    }
    claim!(!said.trim().is_empty(), "nothing is said");
    claim!(said.lines().count() < 30, "too much is said: {said}");
    claim!(ran.answer.stdout.is_empty(), "on standard output: {}", ran.answer.stdout);
    Ok(())
}

/// A mount that policy does not list: by name, by a name that only begins alike, by `..`, by a
/// link, of `/`. The control is a directory that it lists.
fn refuses_mount_outside_policy(stage: &Stage) -> Result<(), Failed> {
    let allowed = stage.directory("allowed")?;
    for name in ["allowed2", "other", "allowed/in"] {
        stage.directory(name)?;
    }
    symlink(stage.home.join("other"), stage.home.join("allowed/link"))?;
    let policy =
        format!("version: 1\nname: test\nmounts:\n  - {{source: {allowed}, access: read-only}}\n");
    let run = |source: &str, access: &str| {
        let mount = format!("{source}:/data:{access}");
        let words = ["run", "--mount", &mount, "--", "/bin/true"];
        stage.cli(&words).site_policy(&policy)?.output()
    };
    for good in [allowed.clone(), format!("{allowed}/in"), format!("/{allowed}")] {
        run(&good, "ro")?.expect_code(0)?;
    }
    let home = stage.home.to_string_lossy().into_owned();
    for outside in [
        format!("{home}/allowed2"),
        format!("{home}/other"),
        format!("{allowed}/../other"),
        format!("{allowed}/link"),
        "/".to_owned(),
        "/etc".to_owned(),
        "/proc/self/root".to_owned(),
    ] {
        let ran = run(&outside, "ro")?.expect_code(122)?;
        // The whole machine is nobody's data, whatever a policy says.
        let said = &ran.answer.stderr;
        let names_line = said.contains("policy.yaml:") || said.contains("the whole machine");
        claim!(names_line, "no line: {}", ran.answer.stderr);
        claim!(ran.answer.stderr.contains("hint:"), "no hint: {}", ran.answer.stderr);
        good_message(&ran)?;
    }
    run(&allowed, "rw")?.expect_code(122)?;
    nothing_left(stage)
}

/// A path that the caller cannot open is not opened for the caller.
fn refuses_unreadable_path(stage: &Stage) -> Result<(), Failed> {
    let secret = stage.home.join("secret");
    fs::write(&secret, "canary")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    let input = secret.to_string_lossy().into_owned();
    let words = ["run", "--input", &input, "--", "/bin/cat", "secret"];
    let ran = stage.cli(&words).output()?.expect_code(125)?;
    claim!(ran.answer.stderr.contains("Permission denied"), "{}", ran.answer.stderr);
    stage.world.give(&secret, stage.person)?;
    let control = stage.cli(&words).output()?.expect_code(0)?;
    claim!(control.answer.stdout == "canary", "no control: {}", control.answer.told());
    Ok(())
}

fn broken_site_policy(stage: &Stage) -> Result<(), Failed> {
    let words = ["run", "--", "/bin/true"];
    stage.cli(&words).site_policy("version: 1\nname: good\n")?.output()?.expect_code(0)?;
    for broken in ["version: 1\nmemroy: 1\n", "version: [", "", "version: 99\n", "name: [1]\n"] {
        let ran = stage.cli(&words).site_policy(broken)?.output()?.expect_code(125)?;
        claim!(ran.answer.stderr.contains("policy.yaml"), "{broken:?}: {}", ran.answer.stderr);
        good_message(&ran)?;
    }
    Ok(())
}

/// A set-user-id program has another effective uid than its user; with it, paths would be opened
/// with rights that the user lacks. The control has one uid.
fn refuses_borrowed_rights(stage: &Stage) -> Result<(), Failed> {
    let program = stage.world.binary.to_string_lossy();
    for (flag, code) in [("--reuid=65534", 0), ("--ruid=65534", 125)] {
        let words = ["setpriv", flag, "--clear-groups", &*program, "policy", "schema"];
        let answer = Command::new(&words).output()?;
        claim!(answer.code == Some(code), "{flag}: {}", answer.told());
        claim!(code == 0 || answer.stderr.contains("set-user-id"), "{}", answer.told());
    }
    Ok(())
}

/// `plan` refuses what `run` refuses, in the same words; with `--json` as an object.
fn plan_refuses_the_same(stage: &Stage) -> Result<(), Failed> {
    props(stage)?;
    let policy = stage.home.join("small.yaml").to_string_lossy().into_owned();
    let flags = ["--policy", &policy, "--pids", "100", "--", "/bin/true"];
    let with = |verb: &'static str| -> Vec<&str> { std::iter::once(verb).chain(flags).collect() };
    let run = stage.cli(&with("run")).output()?.expect_code(122)?;
    let plan = stage.cli(&with("plan")).output()?.expect_code(122)?;
    claim!(
        run.answer.stderr == plan.answer.stderr,
        "{}\n{}",
        run.answer.stderr,
        plan.answer.stderr
    );
    let mut words = vec!["run", "--json"];
    words.extend(flags);
    let refused = stage.cli(&words).output()?.expect_code(122)?.expect_status("refused")?;
    claim!(refused.outcome["exit_code"] == 122, "{}", refused.outcome);
    let good = stage.cli(&["plan", "--", "/bin/true"]).output()?.expect_code(0)?;
    let sandbox: serde_json::Value = serde_json::from_str(&good.answer.stdout)?;
    claim!(sandbox.is_object(), "{sandbox}");
    nothing_left(stage)
}

fn no_command_in_image(stage: &Stage) -> Result<(), Failed> {
    let image = format!("dir:{}", busybox_root(&stage.world)?.display());
    let ran = stage.cli(&["run", "--image", &image, "--", "python3"]).output()?.expect_code(127)?;
    claim!(ran.answer.stderr.contains("python3"), "{}", ran.answer.stderr);
    good_message(&ran)
}

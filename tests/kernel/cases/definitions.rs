//! Definition files of Singularity and Apptainer: built without them, run as theirs.

use std::fs;

use libtest_mimic::Failed;
use serde_json::json;

use super::builds::{build, no_work_left, run_tool};
use crate::case::{BOTH, Case, EVERYONE};
use crate::images::Image;
use crate::launch::{Ran, Stage, claim};
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("definition_file_builds_what_runs_its_runscript", builds).people(EVERYONE),
        Case::new("definition_file_has_stages_and_arguments", has_stages).people(BOTH),
        Case::new("environment_that_needs_a_shell_reaches_the_runscript", needs_shell),
        Case::new("failing_test_of_a_definition_file_fails_the_build", test_fails).people(BOTH),
        Case::new("definition_file_begins_with_what_policy_allows", is_bounded)
            .people(&[Person::Root]),
    ]
}

/// A definition file upon busybox, whose sources are in its directory.
fn definition(stage: &Stage, text: &str) -> Result<(String, String), Failed> {
    let archive = Image::busybox(json!({"Env": ["PATH=/bin", "OLD=base"], "Cmd": ["old"]}))?;
    let base = stage.file("base.tar", archive.docker_archive()?)?;
    let folder = stage.directory("project")?;
    let file = format!("{folder}/tool.def");
    fs::write(&file, text.replace("{BASE}", &format!("Bootstrap: docker-archive\nFrom: {base}")))?;
    Ok((folder, file))
}

fn build_from(stage: &Stage, words: &[&str], made: &(String, String)) -> Result<Ran, Failed> {
    build(stage, &[words, &["-f", &made.1]].concat(), &made.0)
}

fn builds(stage: &Stage) -> Result<(), Failed> {
    let made = definition(
        stage,
        "{BASE}\n%files\n data /opt/\n main.sh /opt/data/\n%post\n echo uid=$(id -u) pwd=$(pwd) \
         old=$OLD\n echo made >/made\n%environment\n export WHO=ada\n export PATH=/opt/data:$PATH\n\
         %runscript\n echo run $WHO $OLD $#\n main.sh\n%labels\n Author Ada L\n%help\n Ask.\n\
         %test\n test \"$WHO\" = ada && echo tested && echo x >/left\n",
    )?;
    fs::create_dir(format!("{}/data", made.0))?;
    fs::write(format!("{}/data/file", made.0), "content\n")?;
    fs::write(format!("{}/main.sh", made.0), "#!/bin/sh\ncat /opt/data/file /made\n")?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(format!("{}/main.sh", made.0), mode)?;
    let built = build_from(stage, &[], &made)?.expect_code(0)?.answer;
    for line in ["uid=0 pwd=/ old=base", "tested"] {
        claim!(built.stderr.lines().any(|l| l == line), "`{line}` is missing: {}", built.told());
    }
    let ran = stage.cli(&["run", "--image", "tool"]).output()?.expect_code(0)?.answer;
    claim!(ran.stdout == "run ada base 0\ncontent\nmade\n", "{}", ran.told());
    // Other commands have the environment too, and nothing has what %test did.
    let words = ["run", "--image", "tool", "--", "/bin/sh", "-c", "echo $WHO; ls /made /left"];
    let shown = stage.cli(&words).output()?.answer;
    claim!(shown.stdout == "ada\n/made\n", "{}", shown.told());
    claim!(shown.stderr.contains("/left: No such file"), "{}", shown.told());
    let store = stage.store().to_string_lossy().into_owned();
    let words = ["images", "inspect", "--json", "--store", &store, "localhost/tool:latest"];
    let kept = stage.cli(&words).output()?.expect_code(0)?.answer;
    claim!(kept.stdout.contains("Ada L"), "{}", kept.told());
    // Again: nothing is made anew but what is always looked at.
    let again = build_from(stage, &[], &made)?.expect_code(0)?.answer;
    claim!(again.stdout == built.stdout, "{} {}", built.told(), again.told());
    claim!(!again.stderr.contains("uid=0"), "{}", again.told());
    no_work_left(stage)
}

fn has_stages(stage: &Stage) -> Result<(), Failed> {
    let made = definition(
        stage,
        "{BASE}\nStage: one\n%arguments\n WHAT=default\n%post -c /bin/busybox ash\n \
         mkdir -p /out\n echo {{ WHAT }} >/out/what\n \
         ln -s what /out/link\n\n{BASE}\n%files from one\n /out\n \
         /out/what /srv/copy\n%runscript\n#!/bin/busybox cat\n",
    )?;
    let built = build_from(stage, &["--build-arg", "WHAT=given"], &made)?.expect_code(0)?.answer;
    claim!(built.stderr.contains("stage one"), "{}", built.told());
    let shown = run_tool(stage, &["--", "/bin/cat", "/out/what", "/out/link", "/srv/copy"])?;
    claim!(shown == "given\ngiven\ngiven\n", "the image has {shown}");
    // A positional build file; the twin without the argument.
    let store = stage.store().to_string_lossy().into_owned();
    let words = ["images", "build", "-t", "tool", "--store", &store, &made.1];
    stage.cli(&words).output()?.expect_code(0)?;
    let shown = run_tool(stage, &["--", "/bin/cat", "/out/what"])?;
    claim!(shown == "default\n", "the image has {shown}");
    no_work_left(stage)
}

fn needs_shell(stage: &Stage) -> Result<(), Failed> {
    let made = definition(
        stage,
        "{BASE}\n%post\n echo 'export POST=1' >>$APPTAINER_ENVIRONMENT\n%environment\n \
         export PLAIN=1\n export NOW=$(echo computed)\n%runscript\n echo $PLAIN $NOW $POST\n\
         %test\n test $NOW$POST = computed1\n",
    )?;
    let built = build_from(stage, &[], &made)?.expect_code(0)?.answer;
    claim!(built.stderr.contains("%environment needs a shell"), "{}", built.told());
    let ran = stage.cli(&["run", "--image", "tool"]).output()?.expect_code(0)?.answer;
    claim!(ran.stdout == "1 computed 1\n", "{}", ran.told());
    let ran = run_tool(stage, &["--", "/bin/sh", "-c", "echo $PLAIN=$NOW"])?;
    claim!(ran == "1=\n", "a command sees {ran}");
    no_work_left(stage)
}

fn test_fails(stage: &Stage) -> Result<(), Failed> {
    let made = definition(stage, "{BASE}\n%post\n echo x >/x\n%test\n echo why; exit 3\n")?;
    let failed = build_from(stage, &[], &made)?.expect_code(3)?.answer;
    for part in ["tool.def:", "%test", "  why", "--image localhost/tool-failed:latest"] {
        claim!(failed.stderr.contains(part), "`{part}` is missing: {}", failed.told());
    }
    let none = stage.cli(&["run", "--image", "tool"]).output()?.answer;
    claim!(none.code != Some(0), "an image was named whose test failed: {}", none.told());
    let shell = ["run", "--image", "localhost/tool-failed:latest", "--", "/bin/cat", "/x"];
    let shell = stage.cli(&shell).output()?.expect_code(0)?.answer;
    claim!(shell.stdout == "x\n", "{}", shell.told());
    // The twin: without the test it is built.
    build_from(stage, &["--no-test"], &made)?.expect_code(0)?;
    no_work_left(stage)
}

fn is_bounded(stage: &Stage) -> Result<(), Failed> {
    let made = definition(stage, "{BASE}\n%post\n sleep 600\n")?;
    let policy = stage.file("bases.yaml", "version: 1\nbuild: {bases: ['docker://r/*']}\n")?;
    let refused = build_from(stage, &["--policy", &policy], &made)?.expect_code(122)?.answer;
    claim!(refused.stderr.contains("it allows `docker://r/*`"), "{}", refused.told());
    let policy = stage.file("time.yaml", "version: 1\nbuild: {time: {most: 1s}}\n")?;
    let failed = build_from(stage, &["--policy", &policy], &made)?.expect_code(124)?.answer;
    claim!(failed.stderr.contains("tool.def:3"), "{}", failed.told());
    let setup = definition(stage, "{BASE}\n%setup\n touch /tmp/outside\n")?;
    let refused = build_from(stage, &[], &setup)?.expect_code(125)?.answer;
    for part in ["tool.def:3: `%setup`", "outside of any sandbox"] {
        claim!(refused.stderr.contains(part), "`{part}` is missing: {}", refused.told());
    }
    no_work_left(stage)
}

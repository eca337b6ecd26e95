//! Images of a local Docker: those of a private `dockerd` run.

use libtest_mimic::Failed;
use serde_json::json;

use crate::case::Case;
use crate::images::{Image, fill_root};
use crate::launch::{Cli, Stage, claim};
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let all = vec![
        Case::new("image_of_a_docker_daemon_runs_and_is_written_out_once", image_runs),
        Case::new("a_tag_that_moved_in_docker_is_followed", moved_tag_is_followed),
        Case::new("docker_daemon_refusals_name_what_to_do", refusals_are_clear),
        Case::new("a_policy_for_docker_daemon_asks_no_daemon", policy_holds),
    ];
    all.into_iter().map(|case| case.needs(&[Need::Busybox, Need::Dockerd])).collect()
}

/// A name that no other case and person uses.
fn name_of(stage: &Stage, name: &str) -> String {
    format!("{name}-{}:1", stage.person.name())
}

/// Puts a root with a file that says `word` into Docker and returns its ID.
fn import(stage: &Stage, name: &str, word: &str, options: &[&str]) -> Result<String, Failed> {
    let root = stage.home.join(format!("root-{word}"));
    fill_root(&root)?;
    std::fs::write(root.join("word"), word)?;
    stage.world.docker()?.import(&root, name, options)
}

fn run<'a>(stage: &'a Stage, image: &str, script: &str) -> Result<Cli<'a>, Failed> {
    let words = ["run", "--image", image, "--", "/bin/sh", "-c", script];
    Ok(stage.cli(&words).variable("DOCKER_HOST", &stage.world.docker()?.host()))
}

fn image_runs(stage: &Stage) -> Result<(), Failed> {
    let docker = stage.world.docker()?;
    let name = name_of(stage, "runs");
    let id = import(stage, &name, "first", &["-c", "ENV COLOR=\"a blue\""])?;
    let image = format!("docker-daemon:{name}");
    let look = "cat /word; echo \" $COLOR\"";
    for _ in 0..2 {
        let ran = run(stage, &image, look)?.output()?.expect_code(0)?;
        claim!(ran.answer.stdout == "first a blue\n", "{}", ran.answer.told());
    }
    // By its ID, and by another name, it is the same image.
    docker.docker(&["tag", &name, &format!("other-{name}")])?;
    for image in [format!("docker-daemon:{id}"), format!("docker-daemon:other-{name}")] {
        let ran = run(stage, &image, look)?.output()?.expect_code(0)?;
        claim!(ran.answer.stdout == "first a blue\n", "{}", ran.answer.told());
    }
    let exports = docker.exports(&id)?;
    claim!(exports == 1, "it was written out {exports} times");
    // The twin: a store that does not have it asks for it.
    let other = stage.directory("other-store")?;
    let words = ["images", "pull", &image, "--store", &other];
    let pull = stage.cli(&words).variable("DOCKER_HOST", &docker.host());
    pull.output()?.expect_code(0)?;
    let exports = docker.exports(&id)?;
    claim!(exports == 2, "an empty store had it written out {} times", exports - 1);
    Ok(())
}

fn moved_tag_is_followed(stage: &Stage) -> Result<(), Failed> {
    let name = name_of(stage, "moves");
    let image = format!("docker-daemon:{name}");
    for word in ["old", "new"] {
        import(stage, &name, word, &[])?;
        let ran = run(stage, &image, "cat /word")?.output()?.expect_code(0)?;
        claim!(ran.answer.stdout == word, "{}", ran.answer.told());
    }
    Ok(())
}

fn refusals_are_clear(stage: &Stage) -> Result<(), Failed> {
    let docker = stage.world.docker()?;
    let refused = |host: &str, image: &str, expected: &str| -> Result<(), Failed> {
        let words = ["run", "--image", image, "--", "/bin/true"];
        let ran = stage.cli(&words).variable("DOCKER_HOST", host).output()?.expect_code(125)?;
        let text = &ran.answer.stderr;
        claim!(text.contains(expected) && text.contains(image), "{expected}: {text}");
        Ok(())
    };
    refused(&docker.host(), "docker-daemon:none:1", "has no such image")?;
    let nowhere = format!("unix://{}/none.sock", stage.home.display());
    refused(&nowhere, "docker-daemon:none:1", "no Docker or Podman listens at")?;
    refused("tcp://127.0.0.1:2375", "docker-daemon:none:1", "only unix:// is asked")?;
    if stage.person != Person::Root {
        refused(&docker.closed_host(), "docker-daemon:none:1", "for a group that you are not in")?;
    }
    let id = load_foreign(stage)?;
    refused(&docker.host(), "docker-daemon:test:latest", "it is for linux/s390x")?;
    claim!(docker.exports(&id)? == 0, "it was written out, to be refused");
    let left = std::fs::read_dir(stage.store())?.count();
    claim!(left == 0, "{left} things are in the store");
    Ok(())
}

/// Loads an image for another architecture and returns its ID.
fn load_foreign(stage: &Stage) -> Result<String, Failed> {
    let mut archive = Image::busybox(json!({}))?.docker_archive()?;
    let at = archive.windows(7).position(|bytes| bytes == b"\"amd64\"");
    let at = at.ok_or("its configuration names no architecture")?;
    archive[at..at + 7].copy_from_slice(b"\"s390x\"");
    let docker = stage.world.docker()?;
    docker.docker(&["load", "--input", &stage.file("foreign.tar", archive)?])?;
    let id = docker.docker(&["images", "--quiet", "--no-trunc", "test:latest"])?;
    Ok(id.trim().to_owned())
}

fn policy_holds(stage: &Stage) -> Result<(), Failed> {
    let name = name_of(stage, "denied");
    import(stage, &name, "denied", &[])?;
    let policy = "version: 1\nname: test\nimages: {deny: ['docker-daemon:denied*']}\n";
    let policy = stage.file("policy.yaml", policy)?;
    // Every spelling of the name is the same name.
    for spelling in [name.clone(), format!("docker.io/library/{name}")] {
        let image = format!("docker-daemon:{spelling}");
        let words = ["run", "--policy", &policy, "--image", &image, "--", "/bin/true"];
        let nobody = format!("unix://{}/none.sock", stage.home.display());
        let ran = stage.cli(&words).variable("DOCKER_HOST", &nobody).output()?.expect_code(122)?;
        claim!(
            ran.answer.stderr.contains("`docker-daemon:denied*` denies it"),
            "{}",
            ran.answer.told()
        );
    }
    // The twin: without the policy it runs.
    run(stage, &format!("docker-daemon:{name}"), "true")?.output()?.expect_code(0)?;
    Ok(())
}

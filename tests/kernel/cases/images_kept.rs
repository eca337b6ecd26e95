//! What runs keeps its image, and no longer than it runs.

use std::fs;

use libtest_mimic::Failed;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::case::Case;
use crate::commands::{Input, Running};
use crate::images::Image;
use crate::launch::{Stage, claim};
use crate::leftovers::nothing_left;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("garbage_collection_leaves_what_a_container_uses", leaves_what_is_used),
        Case::new("killed_owner_holds_no_image", killed_owner_holds_none),
    ]
}

/// Says when it runs, waits for a line, and then reads a program that it has not read before.
const WAITS: &str = "echo ready; read line; wc -c </bin/busybox; /bin/busybox true && echo whole";

/// A container that waits, of an image whose name is gone by then.
fn start_and_remove(stage: &Stage) -> Result<Running, Failed> {
    let archive = Image::busybox(json!({}))?.docker_archive()?;
    let reference = format!("docker-archive:{}", stage.file("image.tar", archive)?);
    let words = ["run", "--image", &reference, "--", "/bin/sh", "-c", WAITS];
    let mut running = stage.cli(&words).input(Input::Held).start()?;
    running.wait_for_output("ready")?;
    images(stage, &["remove", &reference])?;
    Ok(running)
}

fn images(stage: &Stage, words: &[&str]) -> Result<Value, Failed> {
    let store = stage.store().to_string_lossy().into_owned();
    let words = [&["images"], words, &["--store", &store, "--json"]].concat();
    Ok(stage.cli(&words).output()?.expect_code(0)?.outcome)
}

fn layers(stage: &Stage) -> Result<usize, Failed> {
    Ok(fs::read_dir(stage.store().join("layers"))?.count())
}

fn leaves_what_is_used(stage: &Stage) -> Result<(), Failed> {
    let mut running = start_and_remove(stage)?;
    for words in [&["gc"][..], &["gc", "--max-size", "1KiB"]] {
        let collected = images(stage, words)?;
        claim!(collected["layers"] == json!([]), "it took a layer: {collected}");
        claim!(collected["in_use"] != json!([]), "nothing was in use: {collected}");
    }
    claim!(layers(stage)? == 1, "the layer is gone");
    running.write(b"go on\n")?;
    let answer = running.wait()?;
    claim!(answer.code == Some(0) && answer.stdout.ends_with("whole\n"), "{}", answer.told());
    // The twin: nothing but the container kept it.
    let collected = images(stage, &["gc"])?;
    claim!(collected["in_use"] == json!([]), "{collected}");
    claim!(layers(stage)? == 0, "the layer stayed after the container: {collected}");
    Ok(())
}

fn killed_owner_holds_none(stage: &Stage) -> Result<(), Failed> {
    let running = start_and_remove(stage)?;
    running.signal(Signal::KILL);
    running.wait()?;
    nothing_left(stage)?;
    let collected = images(stage, &["gc"])?;
    claim!(collected["in_use"] == json!([]), "{collected}");
    claim!(layers(stage)? == 0, "the layer stayed: {collected}");
    Ok(())
}

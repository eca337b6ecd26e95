//! The second implementation that judges the tests: the same claims about the same decision,
//! carried out by runc.
//!
//! What runc is given is the very spec of the native engine (`ric_runtime::oci`), on the very top
//! layer that the native engine made. A claim that only our own engine fulfils says something about
//! the claim.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use ric_runtime::seccomp::Architecture;
use ric_runtime::{Sandbox, oci};
use serde_json::{Value, json};

use crate::commands::{Answer, Command};
use crate::launch::{PATH, Stage};
use crate::world::World;

/// Whether runc can start anything here: a command in its own idea of a container.
pub(crate) fn works(world: &World) -> Result<(), Failed> {
    let folder = world.base.join(world.fresh_name());
    let root = folder.join("rootfs");
    fs::create_dir_all(&root)?;
    for link in ["bin", "sbin", "lib", "lib64"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(link)) {
            symlink(target, root.join(link))?;
        }
    }
    let bundle = folder.to_string_lossy().into_owned();
    let made = Command::new(&["runc", "spec", "--bundle", &bundle]).output()?;
    if made.code != Some(0) {
        return Err(made.told().into());
    }
    let mut spec: Value = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/usr/bin/true"]);
    let options = ["rbind", "ro"];
    let usr = json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": options});
    spec["mounts"].as_array_mut().ok_or("its spec has no mounts")?.push(usr);
    let answer = run_bundle(&folder, &spec)?;
    if answer.code == Some(0) { Ok(()) } else { Err(answer.told().into()) }
}

/// Runs a command in the sandbox that it would get from us, made by runc.
pub(crate) fn run(stage: &Stage, words: &[String]) -> Result<Answer, Failed> {
    let planned = stage.cli(&["plan", "--", "/bin/true"]).output()?.expect_code(0)?;
    let mut planned: Value = serde_json::from_str(&planned.answer.stdout)?;
    let sandbox: Sandbox = serde_json::from_value(planned["sandbox"].take())?;
    // Leaves the top layer and the tools in the store.
    stage.cli(&["run", "--", "/bin/true"]).output()?.expect_code(0)?;
    let folder = stage.home.join("bundle");
    fs::create_dir_all(&folder)?;
    let spec = oci::spec(
        &sandbox,
        &oci::Bundle {
            name: name_of(&folder),
            root: generated(stage, "top")?,
            tools: generated(stage, "tools")?,
            sources: Vec::new(),
            arguments: words.to_vec(),
            variables: vec![("PATH".to_owned(), PATH.to_owned())],
            workdir: "/task".into(),
            architecture: Architecture::NATIVE,
        },
    )?;
    run_bundle(&folder, &serde_json::to_value(spec)?)
}

/// The one directory of a kind that a start has generated in this stage's store.
fn generated(stage: &Stage, kind: &str) -> Result<PathBuf, Failed> {
    let only = |folder: &Path| -> Result<PathBuf, Failed> {
        let mut all = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
        match (all.next(), all.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(format!("{} has not one entry", folder.display()).into()),
        }
    };
    only(&only(&stage.store().join("generated"))?.join(kind))
}

/// A name that no other container of this run has.
fn name_of(folder: &Path) -> String {
    let digits = crate::images::hex(folder.to_string_lossy().as_bytes());
    format!("judge-{}", digits.split_at(12).0)
}

/// Runs a bundle with this spec in it.
pub(crate) fn run_bundle(folder: &Path, spec: &Value) -> Result<Answer, Failed> {
    fs::write(folder.join("config.json"), spec.to_string())?;
    let state = folder.join("state").to_string_lossy().into_owned();
    let bundle = folder.to_string_lossy().into_owned();
    let words = ["runc", "--root", &state, "run", "--bundle", &bundle, &name_of(folder)];
    Command::new(&words).output()
}

//! Disks that are full, of bytes or of files: said, and the store is as before.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use serde_json::json;

use crate::case::Case;
use crate::commands::Command;
use crate::images::Image;
use crate::launch::{Stage, claim};
use crate::needs::Need;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let all = vec![
        Case::new("full_disk_is_told_and_the_store_is_as_before", |stage| {
            fills(stage, "size=2m", "size=40m")
        }),
        Case::new("disk_without_room_for_files_is_told_and_the_store_is_as_before", |stage| {
            fills(stage, "nr_inodes=30", "nr_inodes=2000")
        }),
    ];
    all.into_iter().map(|case| case.needs(&[Need::Root, Need::Busybox])).collect()
}

/// A file system in memory at the place of the store; gone when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(stage: &Stage, bound: &str) -> Result<Small, Failed> {
        let (place, ids) = (stage.store(), stage.person.ids());
        let options = format!("{bound},mode=700,uid={},gid={}", ids.uid, ids.gid);
        mount(&["-t", "tmpfs", "-o", &options, "none"], &place)?;
        Ok(Small(place))
    }

    fn enlarge(&self, bound: &str) -> Result<(), Failed> {
        mount(&["-o", &format!("remount,{bound}")], &self.0)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let place = self.0.to_string_lossy();
        let _ = Command::new(&["umount", "--lazy", &place]).output();
    }
}

fn mount(words: &[&str], place: &Path) -> Result<(), Failed> {
    let place = place.to_string_lossy();
    let mounted = Command::new(&[&["mount"], words, &[&place]].concat()).output()?;
    claim!(mounted.code == Some(0), "{}", mounted.told());
    Ok(())
}

fn fills(stage: &Stage, bound: &str, enough: &str) -> Result<(), Failed> {
    let small = Small::mount(stage, bound)?;
    let archive = Image::busybox(json!({}))?.docker_archive()?;
    let reference = format!("docker-archive:{}", stage.file("image.tar", archive)?);
    let store = stage.store().to_string_lossy().into_owned();
    let images =
        |words: &[&str]| stage.cli(&[&["images"], words, &["--store", &store]].concat()).output();
    let ran = images(&["pull", &reference])?.expect_code(125)?;
    let said = &ran.answer.stderr;
    claim!(said.contains("No space left on device"), "{}", ran.answer.told());
    claim!(said.contains("images gc"), "it does not say what to do: {}", ran.answer.told());
    claim!(!said.contains("panicked"), "{}", ran.answer.told());
    let listed = images(&["list"])?.expect_code(0)?;
    claim!(listed.answer.stdout.is_empty(), "{}", listed.answer.told());
    images(&["verify"])?.expect_code(0)?;
    for folder in ["layers", "tmp"] {
        let left = fs::read_dir(stage.store().join(folder))?.count();
        claim!(left == 0, "{left} things are left in {folder}");
    }
    // The twin: nothing has to be cleared up once there is room.
    small.enlarge(enough)?;
    images(&["pull", &reference])?.expect_code(0)?;
    images(&["verify"])?.expect_code(0)?;
    Ok(())
}

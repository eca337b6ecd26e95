//! What a step finds besides the image: files in its room, shown read-only.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use ric_images::{BuildRoom, Image, ImageFiles, RunFile};
use ric_runtime::{PathFacts, StepSettings};

use crate::machine::{MachineSettings, Mirrors};
use crate::task::{self, Descriptors};

/// Where images keep the list of where their packages are from.
const SOURCES: &str = "/etc/apt/sources.list";
/// More lists in a directory.
const SOURCES_MORE: &str = "/etc/apt/sources.list.d";
/// Bytes of such a list, and how many there may be in the directory.
const SOURCES_BYTES_MAX: u64 = 256 << 10;
const SOURCES_MAX: usize = 64;

/// Where a step finds files, and what they are.
pub(super) type ShownFiles = Vec<(PathBuf, PathFacts)>;

/// Files of one step.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    room: &'a BuildRoom<'a>,
    /// In the order in which files were added.
    pub(super) descriptors: Descriptors,
}

impl<'a> Shown<'a> {
    /// Nothing yet. Files will be in `room`, which is removed with all that is in it.
    pub(super) fn new(room: &'a BuildRoom<'a>) -> Shown<'a> {
        Shown { room, descriptors: Vec::new() }
    }

    /// Writes files that the step shall find.
    pub(super) fn add(&mut self, files: &[RunFile]) -> io::Result<ShownFiles> {
        let mut shown = Vec::new();
        for file in files {
            let path = self.room.path().join(format!("file-{}", self.descriptors.len()));
            std::fs::write(&path, &file.content)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(file.mode))?;
            let fd = OwnedFd::from(File::open(&path)?);
            shown.push((file.path.clone().into(), task::read_facts(&path, &fd)?));
            self.descriptors.push(fd);
        }
        Ok(shown)
    }

    /// Writes what a step upon `image` is told of the machine.
    pub(super) fn add_settings(
        &mut self,
        settings: &MachineSettings,
        image: &Image,
    ) -> io::Result<StepSettings> {
        let mut files = self.add(&settings.files)?;
        files.extend(self.add(&mirrored(&settings.mirrors, image)?)?);
        Ok(StepSettings { variables: settings.variables.clone(), files })
    }
}

/// The image's own lists of sources, with the machine's mirrors in them: shown in the place of the
/// image's, so that what a step leaves behind has nothing of them.
fn mirrored(mirrors: &Mirrors, image: &Image) -> io::Result<Vec<RunFile>> {
    if mirrors.is_empty() {
        return Ok(Vec::new());
    }
    let there = ImageFiles::open(&image.layers)?;
    let more = there.names(SOURCES_MORE)?.into_iter().take(SOURCES_MAX);
    let more = more.filter(|name| name.ends_with(".list") || name.ends_with(".sources"));
    let mut files = Vec::new();
    for path in more.map(|name| format!("{SOURCES_MORE}/{name}")).chain([SOURCES.to_owned()]) {
        // Where a link leads, something else would be covered.
        if !there.has_as_written(&path)? {
            continue;
        }
        let text = there.read(&path, SOURCES_BYTES_MAX)?.unwrap_or_default();
        if let Some(content) = mirrors.applied(&String::from_utf8_lossy(&text)) {
            files.push(RunFile { path, content, mode: 0o444 });
        }
    }
    Ok(files)
}

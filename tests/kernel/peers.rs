//! Other programs of the field, the real ones, that judge what this one writes and whose files it
//! reads.

use std::path::{Path, PathBuf};

use libtest_mimic::Failed;

use crate::commands::Command;

/// Whom Apptainer runs as: it is made for ordinary users, and as root it wants capabilities that
/// the root of a container may lack.
const UID: &str = "65533";

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/apptainer")
}

/// A command line of Apptainer, as an ordinary user in `folder`, which that user may write.
pub(crate) fn apptainer(folder: &Path, words: &[&str]) -> Command {
    with_apptainer(folder, &[&["apptainer", "--quiet"], words].concat())
}

/// A command line of any program that is where Apptainer is, as that user.
pub(crate) fn with_apptainer(folder: &Path, words: &[&str]) -> Command {
    let (script, folder) = (script(), folder.to_string_lossy().into_owned());
    let script = script.to_string_lossy().into_owned();
    Command::new(&[&[script.as_str(), "run", UID, &folder], words].concat())
}

/// A directory below `parent` in which Apptainer may write.
pub(crate) fn folder(parent: &Path) -> Result<PathBuf, Failed> {
    let folder = parent.join("apptainer");
    std::fs::create_dir_all(&folder)?;
    let owner: u32 = UID.parse()?;
    std::os::unix::fs::chown(&folder, Some(owner), Some(owner))?;
    Ok(folder)
}

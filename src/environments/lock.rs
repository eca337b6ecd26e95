//! Lock files: beside the environment file, read and written with the caller's rights.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ric_images::{Environment, EnvironmentName, Lock};
use ric_runtime::Actor;
use ric_yaml::Mistake;
use rustix::fs::Access;

use crate::failure::Failure;
use crate::task;

/// What lock files end in.
const EXTENSION: &str = "lock";

/// The lock of the environment that `file` says; `None` if there is none.
pub(super) fn read(file: &Path) -> Result<Option<Lock>, Failure> {
    let path = path_of(file);
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let bytes = task::read_file(&path, ric_yaml::FILE_BYTES_MAX as u64, "a lock")?;
    let text = String::from_utf8_lossy(&bytes);
    let parsed = match std::str::from_utf8(&bytes) {
        Ok(text) => Lock::parse(&path, text),
        Err(error) => Err(Mistake::not_utf8(&path, &text, &bytes[..error.valid_up_to()])),
    };
    parsed.map(Some).map_err(|mistake| {
        Failure::new(Actor::User, "cannot read the lock of the environment")
            .because(&mistake)
            .hint(format!("remove {}, and build the environment again", path.display()))
    })
}

/// The lock, if it is that of what the environment says; else why not.
pub(super) fn read_current(
    environment: &Environment,
    file: &Path,
) -> Result<Result<Lock, String>, Failure> {
    let Some(lock) = read(file)? else {
        return Ok(Err(format!("there is no {}", path_of(file).display())));
    };
    Ok(match lock.why_stale(environment) {
        None => Ok(lock),
        Some(why) => Err(format!("{}: {why}", path_of(file).display())),
    })
}

/// Fails if [`write`] would, before anything is resolved for it.
pub(super) fn require_writable(name: &EnvironmentName, file: &Path) -> Result<(), Failure> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| {
        cannot_write(&path_of(file), &errno.into()).hint(format!(
            "who may write there runs `run-in-container environments build {name}`, or copy \
             {name}.yaml to a directory of yours and name that with `--env-path`"
        ))
    })
}

/// Writes the lock, whole or not at all.
pub(super) fn write(lock: &Lock, name: &EnvironmentName, file: &Path) -> Result<(), Failure> {
    let path = path_of(file);
    let new = path.with_extension(format!("{EXTENSION}.{}", std::process::id()));
    let text = lock.to_text(name.as_str());
    let written = write_new(&new, &text).and_then(|()| fs::rename(&new, &path));
    written.map_err(|error| {
        // What is left of it says nothing to anyone; the failure is what counts.
        let _ = fs::remove_file(&new);
        cannot_write(&path, &error)
    })
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // Left by one that was killed, perhaps. A link is removed and not followed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Actor::User, format!("cannot write {}", path.display())).because(error)
}

/// Where the lock of the environment in `file` is.
pub(super) fn path_of(file: &Path) -> PathBuf {
    file.with_extension(EXTENSION)
}

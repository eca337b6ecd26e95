//! Where environment files lie, and which one a name means: the first of `--env-path`, the user's
//! own, the site's. Files are read with the caller's rights, and no file is believed more than
//! another: policy decides about all that an environment wants.

use std::io;
use std::path::{Path, PathBuf};

use ric_images::{Environment, EnvironmentName};
use ric_runtime::Actor;
use ric_yaml::Mistake;

use crate::failure::Failure;
use crate::{places, task};

/// What environment files end in.
const EXTENSION: &str = "yaml";

/// An environment, and where it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub environment: Environment,
    /// The file that says so.
    pub file: PathBuf,
    /// Files of the same name later in the search path.
    pub hides: Vec<PathBuf>,
}

/// A file of the search path.
#[derive(Debug)]
pub(super) struct Listed {
    pub name: EnvironmentName,
    pub file: PathBuf,
    /// The file of the same name that is used instead.
    pub hidden_by: Option<PathBuf>,
}

/// A folder of the search path.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// It was named on the command line, so that it has to be there.
    named: bool,
}

/// The search path.
pub(super) fn folders(named: &[PathBuf]) -> Result<Vec<Folder>, Failure> {
    let mut folders = Vec::new();
    for path in named {
        let path = std::path::absolute(path).map_err(|error| cannot_list(path, &error))?;
        folders.push(Folder { path, named: true });
    }
    let usual = places::environment_folders().into_iter();
    folders.extend(usual.map(|path| Folder { path, named: false }));
    Ok(folders)
}

/// The environment of this name.
pub(super) fn find(name: &EnvironmentName, folders: &[Folder]) -> Result<Found, Failure> {
    let attempt = || format!("cannot find the environment `{name}`");
    let mut files = Vec::new();
    for folder in folders {
        if folder.named && !folder.path.is_dir() {
            return Err(Failure::new(Actor::User, attempt())
                .cause(format!("{} is not a directory", folder.path.display())));
        }
        let file = folder.path.join(format!("{name}.{EXTENSION}"));
        // A link to nowhere is a file that cannot be read, not one that is not there.
        if file.symlink_metadata().is_ok() {
            files.push(file);
        }
    }
    if files.is_empty() {
        let looked = folders.iter().map(|folder| folder.path.display().to_string());
        return Err(Failure::new(Actor::User, attempt())
            .cause(format!(
                "there is no {name}.{EXTENSION} in {}",
                looked.collect::<Vec<_>>().join(", ")
            ))
            .hint("`run-in-container environments list` shows those that there are"));
    }
    let hides = files.split_off(1);
    let file = files.remove(0);
    let environment = read(&file)?;
    Ok(Found { environment, file, hides })
}

/// All files of the search path, by name, those in use first.
pub(super) fn list_files(folders: &[Folder]) -> Result<Vec<Listed>, Failure> {
    let mut listed: Vec<Listed> = Vec::new();
    for folder in folders {
        let entries = match std::fs::read_dir(&folder.path) {
            Ok(entries) => entries,
            Err(error) if !folder.named && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(cannot_list(&folder.path, &error)),
        };
        for entry in entries {
            let file = entry.map_err(|error| cannot_list(&folder.path, &error))?.path();
            if file.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            let stem = file.file_stem().and_then(|stem| stem.to_str());
            let Some(name) = stem.and_then(|stem| stem.parse().ok()) else { continue };
            let used = listed.iter().find(|one| one.name == name && one.hidden_by.is_none());
            let hidden_by = used.map(|one| one.file.clone());
            listed.push(Listed { name, file, hidden_by });
        }
    }
    // Stable, so that files of one name stay in the order of the search path.
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(listed)
}

/// The environment that a file says.
pub(super) fn read(file: &Path) -> Result<Environment, Failure> {
    let bytes = task::read_file(file, ric_yaml::FILE_BYTES_MAX as u64, "an environment file")?;
    let text = String::from_utf8_lossy(&bytes);
    let parsed = match std::str::from_utf8(&bytes) {
        Ok(text) => Environment::parse(file, text),
        Err(error) => Err(Mistake::not_utf8(file, &text, &bytes[..error.valid_up_to()])),
    };
    parsed.map_err(|mistake| {
        Failure::new(Actor::User, "cannot read the environment").because(&mistake)
    })
}

fn cannot_list(folder: &Path, error: &io::Error) -> Failure {
    Failure::new(Actor::User, format!("cannot list environments in {}", folder.display()))
        .because(error)
}

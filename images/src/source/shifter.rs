//! An image in the directory of a Shifter image gateway (`shifter:id:`): a squashfs, and a meta
//! file that says how it runs and who may run it.
//!
//! The gateway's list of users and groups is checked as Shifter itself does; that the caller can
//! read the file is not enough. Tags are kept in the gateway's own database, so that images are
//! named by their ids here.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::{Value, json};

use super::root_file::RootFile;
use super::{Network, SourceError};
use crate::shifter_meta::{META_BYTES_MAX, MetaError, ShifterFormat, ShifterMeta};

/// Why an image of a Shifter image directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ShifterError {
    /// The policy names no directory. The site must.
    #[error("the site's policy names no directory of Shifter images")]
    NoFolders,
    /// None of the directories has it. The user must name another.
    #[error("no such image is in {}", list(folders))]
    NotThere {
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// A file of it cannot be read. Many gateways keep images for root's eyes only.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could change it. The site must mend that.
    #[error("{} {wrong}, so that it could be another image than its gateway made", path.display())]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with its owner or mode.
        wrong: String,
    },
    /// It says something else than was meant, or nothing.
    #[error("cannot use {}", path.display())]
    Meta {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: MetaError,
    },
    /// Only Shifter, or the kernel, could use it.
    #[error("the image is kept as {format}: only squashfs is read")]
    Format {
        /// How.
        format: &'static str,
    },
    /// Its owner did not list this user. The image's owner must act.
    #[error("the image is for users and groups that uid {uid} is not one of")]
    NotForThem {
        /// Who asked.
        uid: u32,
    },
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl ShifterError {
    /// A way out, where there is an obvious one.
    pub(super) fn hint(&self) -> Option<String> {
        let text = match self {
            ShifterError::NoFolders => {
                "the site's policy would have to list the gateway's `imagePath` under `images: \
                 shifter:`"
            }
            ShifterError::NotThere { .. } => {
                "`shifterimg images` lists ids, `shifterimg pull TYPE:TAG` brings an image"
            }
            ShifterError::Read { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                "the gateway keeps its images for root alone; ask the site to let you read them"
            }
            ShifterError::Format { .. } => "the gateway's `ImageFormat` has to be squashfs",
            ShifterError::NotForThem { .. } => {
                "whoever pulled it has to list you: `shifterimg --user NAME pull TYPE:TAG`"
            }
            ShifterError::Read { .. } | ShifterError::Unsafe { .. } | ShifterError::Meta { .. } => {
                return None;
            }
        };
        Some(text.to_owned())
    }
}

/// Opens the image `id`, if the caller may have it.
pub(super) fn open(id: &str, network: Network<'_>) -> Result<RootFile, SourceError> {
    let error = |source| SourceError::Shifter { id: id.to_owned(), source };
    let (folder, meta) = find(id, network).map_err(error)?;
    if !meta.admits(network.asker.uid, &network.asker.gids) {
        return Err(error(ShifterError::NotForThem { uid: network.asker.uid }));
    }
    if meta.format != ShifterFormat::Squashfs {
        return Err(error(ShifterError::Format { format: meta.format.as_str() }));
    }
    let path = folder.join(format!("{id}.squashfs"));
    let (file, metadata) = open_kept(&folder, &path).map_err(error)?;
    let image = RootFile::of_squashfs(&path, file, metadata.len(), defaults(&meta))?;
    Ok(image.for_some())
}

/// The first of the directories that has the image, and what its meta file says.
fn find(id: &str, network: Network<'_>) -> Result<(PathBuf, ShifterMeta), ShifterError> {
    if network.shifter_folders.is_empty() {
        return Err(ShifterError::NoFolders);
    }
    for folder in network.shifter_folders {
        let path = folder.join(format!("{id}.meta"));
        let (file, _) = match open_kept(folder, &path) {
            Err(ShifterError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                continue;
            }
            opened => opened?,
        };
        let mut bytes = Vec::new();
        let read = file.take(META_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|source| ShifterError::Read { path: path.clone(), source })?;
        let meta = ShifterMeta::parse(&bytes);
        let meta = meta.map_err(|source| ShifterError::Meta { path, source })?;
        return Ok((folder.clone(), meta));
    }
    Err(ShifterError::NotThere { folders: network.shifter_folders.to_vec() })
}

/// Opens a file that nobody but root and the directory's owner can change.
fn open_kept(folder: &Path, path: &Path) -> Result<(File, Metadata), ShifterError> {
    let read = |path: &Path, source| ShifterError::Read { path: path.to_owned(), source };
    let directory = std::fs::metadata(folder).map_err(|source| read(folder, source))?;
    check_mode(folder, &directory)?;
    // NONBLOCK: opening a FIFO without it waits for a writer for ever.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).expect("open flags fit in the int of open(2)");
    let file = File::options().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|source| read(path, source))?;
    let metadata = file.metadata().map_err(|source| read(path, source))?;
    if !metadata.is_file() {
        return Err(read(path, io::Error::other("it is no regular file")));
    }
    check_mode(path, &metadata)?;
    if metadata.uid() != 0 && metadata.uid() != directory.uid() {
        let wrong = format!("belongs to uid {}, its directory does not", metadata.uid());
        return Err(ShifterError::Unsafe { path: path.to_owned(), wrong });
    }
    Ok((file, metadata))
}

fn check_mode(path: &Path, metadata: &Metadata) -> Result<(), ShifterError> {
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 == 0 {
        return Ok(());
    }
    let wrong = format!("can be written by others than its owner (mode {mode:04o})");
    Err(ShifterError::Unsafe { path: path.to_owned(), wrong })
}

/// The `config` of an image configuration that says what the meta file says.
fn defaults(meta: &ShifterMeta) -> Value {
    let variables = meta.variables.iter().map(|(name, value)| format!("{name}={value}"));
    let mut defaults = json!({
        "Env": variables.collect::<Vec<_>>(),
        "Entrypoint": meta.entrypoint,
        "Cmd": meta.command,
    });
    if let Some(workdir) = &meta.workdir {
        defaults["WorkingDir"] = json!(workdir);
    }
    defaults
}

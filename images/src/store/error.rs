//! Why the store would not do something, in words for who must act.

use std::io;
use std::path::PathBuf;

use crate::Digest;

/// Why the store would not do something. What it holds is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory is not safe to keep images in. The user names another, or mends this one.
    #[error("cannot use {} as image store: {reason}", .root.display())]
    Root {
        /// The directory.
        root: PathBuf,
        /// Why not.
        reason: Unsafe,
    },
    /// Another version of this program laid it out. The user runs that one, or names another
    /// directory.
    #[error(
        "the image store {} has format {found}, this version of the program knows {known}",
        .root.display()
    )]
    Format {
        /// The directory.
        root: PathBuf,
        /// What it has.
        found: u64,
        /// What would be understood.
        known: u64,
    },
    /// A system call failed: a full disk, a missing permission.
    #[error("{call} {}", .path.display())]
    Disk {
        /// The call as its manual page names it.
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What a file holds is not what was stored in it. It must be removed and fetched again.
    #[error("{} is damaged: {what}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It was to be removed, and a container or a pull uses it. It goes when that has ended.
    #[error("{} is in use", .path.display())]
    InUse {
        /// What.
        path: PathBuf,
    },
    /// A file is larger than the caller takes.
    #[error("{} has more than {bytes_max} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What the caller takes.
        bytes_max: u64,
    },
    /// Other bytes than those that a digest names were to be stored.
    #[error("cannot store blob {expected}: its bytes are {actual}")]
    Content {
        /// The name.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
}

impl StoreError {
    /// A way out, where there is an obvious one.
    pub fn hint(&self) -> Option<String> {
        match self {
            StoreError::Disk { source, .. } => hint_if_full(source),
            StoreError::Format { .. } => {
                Some("use the version that made it, or another directory: `--store DIR`".to_owned())
            }
            StoreError::Root { .. }
            | StoreError::Damaged { .. }
            | StoreError::InUse { .. }
            | StoreError::TooLarge { .. }
            | StoreError::Content { .. } => None,
        }
    }
}

/// What to do about a disk that holds no more bytes or files.
pub(crate) fn hint_if_full(source: &io::Error) -> Option<String> {
    let is_full =
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    is_full.then(|| {
        "make room: `run-in-container images gc` removes what no image needs, `--max-size` more"
            .to_owned()
    })
}

/// Why a directory cannot be a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// A link, or a file.
    #[error("it is not a directory (symbolic links are not followed)")]
    NotDirectory,
    /// Somebody else could change what is in it.
    #[error("it belongs to uid {owner}, not to {uid}")]
    Owner {
        /// Who owns it.
        owner: u32,
        /// Who we are.
        uid: u32,
    },
    /// Others could put things into it.
    #[error("others may write to it (mode {mode:04o})")]
    Writable {
        /// Its mode.
        mode: u32,
    },
    /// It is in use for something else.
    #[error("it is neither empty nor a store")]
    NotEmpty,
}

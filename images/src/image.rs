//! One root filesystem in a form that can be mounted.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Config, Digest, Identity, Lease};

/// A form that engines need an image in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Form {
    /// Directories to be stacked by overlayfs.
    Layers,
    /// A file system for the kernel to mount, if the store finds that safe; else `Layers`.
    FileSystem,
}

/// A squashfs of the store's own: nobody but root can have written it, and it was looked through.
#[derive(Debug, Clone)]
pub struct FileSystem {
    /// Its SHA-256.
    pub digest: Digest,
    /// All of it, open for reading.
    pub file: Arc<File>,
}

/// What it holds is what it is.
impl PartialEq for FileSystem {
    fn eq(&self, other: &FileSystem) -> bool {
        self.digest == other.digest
    }
}

/// An image on disk, ready to be mounted.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// What it is.
    pub identity: Identity,
    /// Defaults it declares.
    pub config: Config,
    /// Directories, lowest first: unpacked layers, or the one directory of `dir:`. Empty for
    /// `host:`, and where there is a file system.
    pub layers: Vec<PathBuf>,
    /// What is to be mounted in place of layers.
    pub file_system: Option<FileSystem>,
    /// Keeps the layers in the store, as long as a copy of it lives.
    pub lease: Lease,
}

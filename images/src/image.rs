//! One root filesystem in a form that can be mounted.

use std::path::PathBuf;

use crate::{Config, Identity, Lease};

/// A form that engines need an image in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Form {
    /// Directories to be stacked by overlayfs.
    Layers,
}

/// An image on disk, ready to be mounted.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// What it is.
    pub identity: Identity,
    /// Defaults it declares.
    pub config: Config,
    /// Directories, lowest first: unpacked layers, or the one directory of `dir:`. Empty for
    /// `host:`.
    pub layers: Vec<PathBuf>,
    /// Keeps the layers in the store, as long as a copy of it lives.
    pub lease: Lease,
}

//! An image that is a file system, mounted for one container.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ric_images::{Digest, Image, Store};

use super::start::{StartError, prepare};
use crate::loops;

/// A mount that init attaches, in its own mount namespace, on an empty directory of the store.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) tree: OwnedFd,
    place: PathBuf,
}

impl Mounted {
    /// Mounts the file system of `image`, if it has one.
    pub(super) fn of(image: &Image, store: &Store) -> Result<Option<Mounted>, StartError> {
        let Some(file_system) = &image.file_system else { return Ok(None) };
        let failed = || prepare("the mount of the image's file system");
        // One for all containers: each attaches its own mount where only it can see it.
        let place = store.generated("place", &Digest::of(b""), |_| Ok(()));
        let place = place.map_err(|source| failed()(io::Error::other(source)))?;
        let tree = loops::mount_squashfs(&file_system.file).map_err(failed())?;
        Ok(Some(Mounted { tree, place }))
    }

    /// Where it will be attached.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }
}

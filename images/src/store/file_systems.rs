//! Squashfs files of the store that the kernel may mount as they are.
//!
//! `docs/decisions/filesystem-images.md` says which ones and why. Whose file it was is judged where
//! it is read; here the store makes sure that nobody but root can write to its own copy, and that
//! the copy is what its digest says and shows what unpacking would make of it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use rustix::fs::FlockOperation;

use super::blobs::path_of;
use super::lease::{Lock, Thing};
use super::location::is_kept_here;
use super::{Lease, Store, StoreError};
use crate::image::FileSystem;
use crate::layer::look_through;
use crate::{LayerDescriptor, Limits};

/// The kind of generated trees that stand for blobs that were looked through since the last boot.
const SOUND: &str = "sound";

impl Store {
    /// Whether nobody but root can change what is in the store: this process is root's, and so is
    /// every directory on the way, on a file system of this machine.
    pub(crate) fn is_guarded(&self) -> bool {
        use std::os::fd::{AsFd, AsRawFd};
        use std::os::unix::fs::MetadataExt;
        /// Only its owner takes a name away from such a directory (inode(7)).
        const STICKY: u32 = 0o1000;
        let place = format!("/proc/self/fd/{}", self.as_fd().as_raw_fd());
        let Ok(root) = std::fs::read_link(place) else { return false };
        let is_roots = |path: PathBuf| {
            std::fs::symlink_metadata(path).is_ok_and(|found| {
                let mode = found.mode();
                found.is_dir() && found.uid() == 0 && (mode & 0o022 == 0 || mode & STICKY != 0)
            })
        };
        rustix::process::geteuid().is_root()
            && is_kept_here(self)
            && root.ancestors().all(|path| is_roots(path.to_owned()))
    }

    /// The squashfs `layer` for the kernel; none if the store does not have its blob, or if the
    /// kernel would show another tree than unpacking makes, or could be led astray.
    ///
    /// Verified and looked through once after each boot, whoever wants it.
    pub(crate) fn file_system(
        &self,
        layer: &LayerDescriptor,
        limits: &Limits,
    ) -> Result<Option<(FileSystem, Lease)>, StoreError> {
        let digest = layer.digest;
        let blob = Thing::Blob(digest);
        let Lock::Held(lock) = self.lock_thing(&blob, FlockOperation::LockShared)? else {
            return Ok(None);
        };
        // Not the descriptor of the lock, which is for writing.
        let Some(file) = self.open_file(&path_of(&digest))? else { return Ok(None) };
        let mut is_sound = true;
        let looked = self.generated(SOUND, &digest, |_| {
            if !self.was_verified(layer) {
                self.check_blob(&digest).map_err(io::Error::other)?;
            }
            is_sound = look_through(layer, &file, limits).is_ok();
            if is_sound { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        });
        match looked {
            Ok(_) => Ok(Some((FileSystem { digest, file: Arc::new(file) }, Lease::of_blob(lock)))),
            Err(_) if !is_sound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether this very program wrote the blob or found it right.
    fn was_verified(&self, layer: &LayerDescriptor) -> bool {
        let kept = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        kept.contains_key(&layer.digest)
    }
}

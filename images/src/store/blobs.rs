//! Blobs that are kept as they were: manifests, configurations and packed layers.

use std::fs::File;

use super::{Store, StoreError};
use crate::{Digest, LayerDescriptor, LayerError, LayerTar, Limits, Verified};

pub(super) const BLOBS: &str = "blobs/sha256";

impl Store {
    /// Stores `bytes` under their digest. Durable when it returns; storing again does nothing.
    ///
    /// # Errors
    /// [`StoreError::Content`] if `digest` names other bytes.
    pub fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let actual = Digest::of(bytes);
        if actual != *digest {
            return Err(StoreError::Content { expected: *digest, actual });
        }
        let name = digest.hex();
        let path = format!("{BLOBS}/{name}");
        if self.has(&path)? {
            return Ok(());
        }
        let work = self.work(&format!("blob-{name}"))?;
        if self.has(&path)? {
            return Ok(());
        }
        work.write_file(bytes)?;
        work.publish(BLOBS, &name)
    }

    /// Reads a blob of at most `bytes_max` bytes and checks it; none if the store does not have it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the file is not that blob any more.
    pub fn read_blob(
        &self,
        digest: &Digest,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let path = path_of(digest);
        let Some(bytes) = self.read_file(&path, bytes_max)? else { return Ok(None) };
        let actual = Digest::of(&bytes);
        if actual != *digest {
            let what = format!("its bytes are {actual}");
            return Err(StoreError::Damaged { path: self.root.join(path), what });
        }
        Ok(Some(bytes))
    }

    /// Whether there is a file for a blob. Costs one system call.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.stat(&path_of(digest)).is_ok()
    }

    /// Opens a blob of `blob_bytes` bytes; none if the store does not have it. It is verified while
    /// it is read: a read fails if it is not that blob any more.
    ///
    /// # Errors
    /// [`StoreError::Disk`] if the file is there but cannot be opened.
    pub fn open_blob(
        &self,
        digest: &Digest,
        blob_bytes: u64,
    ) -> Result<Option<Verified<File>>, StoreError> {
        let file = self.open_file(&path_of(digest))?;
        Ok(file.map(|file| Verified::new(file, *digest, blob_bytes)))
    }

    /// The uncompressed tar of a layer, from the blob that it came from. It is verified while it is
    /// read, against the blob's digest and the diff ID; a squashfs is made a tar.
    ///
    /// # Errors
    /// [`LayerError::NotKept`] if the store does not have the blob, even though it may have the
    /// tree. Everything else is found while reading ([`LayerTar`]).
    pub fn layer_tar(
        &self,
        layer: &LayerDescriptor,
        limits: &Limits,
    ) -> Result<LayerTar, LayerError> {
        let (digest, diff_id) = (layer.digest, layer.diff_id);
        let file = self.open_file(&path_of(&digest));
        let file = file.map_err(|source| LayerError::Store { diff_id, source })?;
        LayerTar::new(layer, file.ok_or(LayerError::NotKept { digest, diff_id })?, limits)
    }

    /// Reads all of a blob; what is wrong with it.
    pub(super) fn check_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = path_of(digest);
        let Some(file) = self.open_file(&path)? else { return Ok(()) };
        let actual = crate::source::hash(&[], file).map_err(self.failed("read(2)", &path))?;
        if actual != *digest {
            let what = format!("its bytes are {actual}");
            return Err(StoreError::Damaged { path: self.root.join(path), what });
        }
        Ok(())
    }
}

pub(super) fn path_of(digest: &Digest) -> String {
    format!("{BLOBS}/{}", digest.hex())
}

//! Blobs that are kept whole: manifests and configurations. Layers are only kept unpacked.

use super::{Store, StoreError};
use crate::Digest;

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
        let path = format!("{BLOBS}/{}", digest.hex());
        let Some(bytes) = self.read_file(&path, bytes_max)? else { return Ok(None) };
        let actual = Digest::of(&bytes);
        if actual != *digest {
            let what = format!("its bytes are {actual}");
            return Err(StoreError::Damaged { path: self.root.join(path), what });
        }
        Ok(Some(bytes))
    }
}

//! What the store has of an image: its documents, read again without asking where it came from.

use super::{Store, StoreError};
use crate::document::{DOCUMENT_BYTES_MAX, Document, ManifestError};
use crate::image_config::{ImageConfig, assemble};
use crate::{Digest, Identity, Manifest};

/// An image whose documents are in the store. Its layers may be there or not.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredImage {
    /// What it is made of; its reference is its digest.
    pub manifest: Manifest,
    /// The blob that holds its configuration.
    pub configuration: Digest,
}

/// Why an image that the store names cannot be read from it. Pulling it again mends it, unless its
/// maker must.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The manifest is there, its configuration is not.
    #[error("the store has the manifest {manifest}, but not its configuration {configuration}")]
    Incomplete {
        /// The image.
        manifest: Digest,
        /// What is missing.
        configuration: Digest,
    },
    /// The blob is no image's manifest, or its configuration is none.
    #[error("{digest} in the store is not an image")]
    Manifest {
        /// The image.
        digest: Digest,
        /// Why not.
        source: ManifestError,
    },
    /// The store cannot be read.
    #[error("cannot read the image {digest} from the store")]
    Store {
        /// The image.
        digest: Digest,
        /// Why not.
        source: StoreError,
    },
}

impl Store {
    /// The image whose manifest is `digest`; none if the store does not have that blob.
    ///
    /// # Errors
    /// See [`StoredError`].
    pub fn image(&self, digest: &Digest) -> Result<Option<StoredImage>, StoredError> {
        let digest = *digest;
        let unread = |source| StoredError::Store { digest, source };
        let wrong = |source| StoredError::Manifest { digest, source };
        let read = |blob: &Digest| self.read_blob(blob, DOCUMENT_BYTES_MAX).map_err(unread);
        let Some(manifest) = read(&digest)? else { return Ok(None) };
        let document = Document::parse(&manifest, None).map_err(wrong)?;
        let configuration = match &document {
            Document::Image { config, .. } => config.digest,
            Document::Index(_) => {
                return Err(wrong(ManifestError::Shape { wrong: "is an index of images" }));
            }
        };
        let missing = StoredError::Incomplete { manifest: digest, configuration };
        let bytes = read(&configuration)?.ok_or(missing)?;
        let config = ImageConfig::parse(&bytes).map_err(wrong)?;
        let identity = Identity::Digest(digest);
        let manifest = assemble(digest.to_string(), identity, &document, config).map_err(wrong)?;
        Ok(Some(StoredImage { manifest, configuration }))
    }
}

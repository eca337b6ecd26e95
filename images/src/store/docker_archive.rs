//! An image of the store as the archive that `docker load` takes.
//!
//! Its configuration and layers are the image's own, so Docker knows it by the digest of the
//! configuration, and it is the same image there as one that Docker itself had pulled. Layers
//! travel packed as they came, but for Zstandard, which Docker reads only since version 23.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

use serde_json::json;
use tar::EntryType;

use super::{Store, StoreError, StoredImage};
use crate::document::DOCUMENT_BYTES_MAX;
use crate::layer::{Head, Moment, TarWriter};
use crate::{Digest, LayerDescriptor, LayerError, Limits, MediaType};

/// Why an image of the store is not an archive for Docker.
#[derive(Debug, thiserror::Error)]
pub enum DockerArchiveError {
    /// The image's configuration is gone. Pulling it again mends it.
    #[error("the store does not have the configuration {configuration}")]
    NoConfiguration {
        /// What is missing.
        configuration: Digest,
    },
    /// A layer's blob cannot be read. Pulling it again, or `images verify --repair`, mends it.
    #[error("cannot read the layer {diff_id}")]
    Layer {
        /// The layer.
        diff_id: Digest,
        /// Why not.
        source: Box<LayerError>,
    },
    /// The store cannot be read.
    #[error("cannot read the image from the store")]
    Store {
        /// Why not.
        source: StoreError,
    },
    /// There is no room for the archive, or a blob is damaged.
    #[error("cannot write the archive")]
    Write {
        /// Why.
        source: io::Error,
    },
}

impl Store {
    /// Writes `image`, under `name`, into a file that is gone when it is closed; it is at its
    /// beginning.
    ///
    /// # Errors
    /// [`DockerArchiveError`]; then nothing is left. Every blob is verified while it is read.
    pub fn docker_archive(
        &self,
        image: &StoredImage,
        name: &str,
        limits: &Limits,
    ) -> Result<File, DockerArchiveError> {
        let in_store = |source| DockerArchiveError::Store { source };
        let failed = |source| DockerArchiveError::Write { source };
        let configuration = image.configuration;
        let config = self.read_blob(&configuration, DOCUMENT_BYTES_MAX).map_err(in_store)?;
        let config = config.ok_or(DockerArchiveError::NoConfiguration { configuration })?;
        let config_name = format!("{}.json", configuration.hex());
        let layers = &image.manifest.layers;
        let layer_names: Vec<String> =
            layers.iter().map(|layer| format!("{}.tar", layer.diff_id.hex())).collect();
        let manifest =
            json!([{"Config": config_name, "RepoTags": [name], "Layers": layer_names}]).to_string();

        let spool = self.build_spool().map_err(in_store)?;
        let mut tar = TarWriter::new(&spool.file);
        tar.file(&head(b"manifest.json", manifest.len()), manifest.as_bytes()).map_err(failed)?;
        tar.file(&head(config_name.as_bytes(), config.len()), &config[..]).map_err(failed)?;
        for (layer, name) in layers.iter().zip(&layer_names) {
            self.put_layer(&mut tar, layer, name, limits)?;
        }
        tar.finish().map_err(failed)?;
        let mut file = spool.file.try_clone().map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        Ok(file)
    }

    fn put_layer(
        &self,
        tar: &mut TarWriter<&File>,
        layer: &LayerDescriptor,
        name: &str,
        limits: &Limits,
    ) -> Result<(), DockerArchiveError> {
        let (digest, diff_id) = (layer.digest, layer.diff_id);
        let failed = |source| DockerArchiveError::Write { source };
        let layer_failed = |source| DockerArchiveError::Layer { diff_id, source };
        let mut put = |bytes: u64, content: &mut dyn Read| {
            let head = Head { bytes, ..head(name.as_bytes(), 0) };
            tar.file(&head, content).map_err(failed)
        };
        match layer.media_type {
            MediaType::Tar | MediaType::TarGzip => {
                let blob = self.open_blob(&digest, layer.blob_bytes);
                let blob = blob.map_err(|source| DockerArchiveError::Store { source })?;
                let missing = LayerError::NotKept { digest, diff_id };
                let missing = layer_failed(Box::new(missing));
                put(layer.blob_bytes, &mut blob.ok_or(missing)?)
            }
            MediaType::TarZstd | MediaType::Squashfs | MediaType::Sif => {
                let unpacked = self.layer_tar(layer, limits);
                let mut unpacked = unpacked.map_err(|source| layer_failed(Box::new(source)))?;
                let spool = self.build_spool();
                let spool = spool.map_err(|source| DockerArchiveError::Store { source })?;
                let bytes = io::copy(&mut unpacked, &mut &spool.file).map_err(failed)?;
                (&spool.file).seek(SeekFrom::Start(0)).map_err(failed)?;
                put(bytes, &mut &spool.file)
            }
        }
    }
}

/// A file that everybody may read, of no certain time.
fn head(path: &[u8], bytes: usize) -> Head<'_> {
    Head {
        path,
        kind: EntryType::Regular,
        target: b"",
        device: None,
        bytes: bytes as u64,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Moment::default(),
        xattrs: &[],
    }
}

//! A `docker save` file (`docker-archive:`), in its old layout and in the newer one that is an OCI
//! layout too.
//!
//! Both have `manifest.json`, which is all that is read (moby image-spec v1.2, "Combined Image
//! JSON + Filesystem Changeset Format"). Neither names the image by a manifest's digest, so an
//! OCI manifest is made of configuration and layers here: the same image gets the same digest from
//! any archive.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::archive::{Archive, packing_of};
use super::{Files, Source, SourceError, Top, hash};
use crate::document::{Descriptor, LAYERS_MAX, ManifestError, PLAIN_LAYER, parse_json};
use crate::image_config::ImageConfig;
use crate::shown::shown;
use crate::{BlobFault, Digest, LayerDescriptor};

/// Lists the images of the archive.
pub(super) const LIST: &str = "manifest.json";

/// An opened archive with one image.
#[derive(Debug)]
pub(super) struct DockerArchive {
    archive: Archive,
    manifest: Vec<u8>,
    /// Which file holds a blob.
    files: HashMap<Digest, String>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Option<Vec<String>>,
}

impl DockerArchive {
    /// Opens the archive `path` and makes the manifest of its image.
    pub(super) fn open(path: &Path) -> Result<DockerArchive, SourceError> {
        DockerArchive::of_archive(Archive::open(path)?)
    }

    /// The same of an opened archive.
    pub(super) fn of_archive(archive: Archive) -> Result<DockerArchive, SourceError> {
        let listed = read_list(&archive)?;
        let mut files = HashMap::new();

        let config_file = archive.follow_links(&listed.config)?;
        let config = archive.read_document(&config_file)?;
        let config_digest = Digest::of(&config);
        check_claim(&archive, &listed.config, config_digest)?;
        let diff_ids = ImageConfig::parse(&config)
            .map_err(|source| archive.document_error(&config_file, source))?
            .diff_ids;
        files.insert(config_digest, config_file);

        let layers = listed.layers.unwrap_or_default();
        check_count(&archive, layers.len(), diff_ids.len())?;
        let mut described = Vec::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let file = archive.follow_links(layer)?;
            let (descriptor, digest) = describe_layer(&archive, &file, diff_id)?;
            files.insert(digest, file);
            described.push(descriptor);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest,
                "size": config.len(),
            },
            "layers": described,
        });
        Ok(DockerArchive { archive, manifest: manifest.to_string().into_bytes(), files })
    }
}

fn read_list(archive: &Archive) -> Result<Listed, SourceError> {
    let bytes = archive.read_document(LIST)?;
    let mut images: Vec<Listed> = parse_json("list of images", &bytes)
        .map_err(|source| archive.document_error(LIST, source))?;
    if images.len() == 1 {
        return Ok(images.remove(0));
    }
    let tags = images.iter().flat_map(|image| image.tags.iter().flatten());
    let tags = tags.take(10).map(|tag| shown(tag)).collect::<Vec<_>>().join(", ");
    let offered = format!("{} images ({tags})", images.len());
    let wanted = "where docker-archive: takes one".to_owned();
    Err(SourceError::Choice { path: archive.path().to_owned(), offered, wanted })
}

/// Names made of a digest (`HEX.json`, `blobs/sha256/HEX`) are promises of content.
fn check_claim(archive: &Archive, name: &str, got: Digest) -> Result<(), SourceError> {
    match claimed_digest(name) {
        Some(expected) if expected != got => {
            let fault = BlobFault::Content { expected, got };
            Err(archive.read_error(name, io::Error::new(io::ErrorKind::InvalidData, fault)))
        }
        Some(_) | None => Ok(()),
    }
}

fn claimed_digest(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let hex = last.strip_suffix(".json").unwrap_or(last);
    format!("sha256:{hex}").parse().ok()
}

fn check_count(archive: &Archive, layers: usize, diff_ids: usize) -> Result<(), SourceError> {
    let source = if layers > LAYERS_MAX {
        ManifestError::TooManyLayers { layers }
    } else if layers != diff_ids {
        ManifestError::LayerCount { layers, diff_ids }
    } else {
        return Ok(());
    };
    Err(archive.document_error(LIST, source))
}

/// A layer's descriptor for the manifest. A plain layer is named by its diff ID, unread; a packed
/// one has to be read for its digest, unless its name tells it.
fn describe_layer(
    archive: &Archive,
    file: &str,
    diff_id: Digest,
) -> Result<(serde_json::Value, Digest), SourceError> {
    let (mut reader, size) = archive.open_file(file)?;
    let read_error = |source| archive.read_error(file, source);
    let mut start = Vec::new();
    reader.by_ref().take(8).read_to_end(&mut start).map_err(read_error)?;
    let media_type = match packing_of(&start) {
        None => PLAIN_LAYER,
        Some("gzip") => "application/vnd.oci.image.layer.v1.tar+gzip",
        Some("zstd") => "application/vnd.oci.image.layer.v1.tar+zstd",
        Some(packing) => {
            return Err(SourceError::Packed { path: archive.path().join(file), packing });
        }
    };
    let digest = match (packing_of(&start), claimed_digest(file)) {
        (None, _) => diff_id,
        (Some(_), Some(claimed)) => claimed,
        (Some(_), None) => hash(&start, reader).map_err(read_error)?,
    };
    Ok((json!({"mediaType": media_type, "digest": digest, "size": size}), digest))
}

impl Source for DockerArchive {
    fn top(&self) -> Result<Top, SourceError> {
        let digest = Digest::of(&self.manifest);
        Ok(Top { bytes: self.manifest.clone(), digest, media_type: None })
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.archive.read_blob(self.file_of(descriptor.digest)?, descriptor)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.document(descriptor)
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        Ok(self.archive.open_file(self.file_of(layer.digest)?)?.0)
    }
}

impl DockerArchive {
    /// Whether a document or layer of the image is `digest`.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.files.contains_key(digest)
    }

    /// Which file holds a blob; none if the archive was replaced since the manifest was made.
    fn file_of(&self, digest: Digest) -> Result<&str, SourceError> {
        let missing = || SourceError::Missing {
            path: self.archive.path().to_owned(),
            entry: digest.to_string(),
        };
        self.files.get(&digest).map(String::as_str).ok_or_else(missing)
    }
}

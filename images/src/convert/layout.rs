//! Writes an OCI layout, into a directory (`oci:`) or a tar (`oci-archive:`).
//!
//! OCI image-spec v1.1, "Image Layout". The same image is the same bytes.

use std::collections::HashSet;

use serde_json::json;

use super::ConvertError;
use super::layered::Layered;
use super::sink::Sink;
use crate::Digest;
use crate::document::{OCI_INDEX, OCI_MANIFEST};

/// Writes the one image of a layout.
pub(super) fn write(
    image: &Layered<'_>,
    tag: Option<&str>,
    sink: &mut dyn Sink,
) -> Result<(), ConvertError> {
    let mut manifest = json!({
        "mediaType": OCI_MANIFEST,
        "digest": Digest::of(&image.manifest),
        "size": image.manifest.len(),
    });
    if let Some(tag) = tag {
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest]});
    let mark = json!({"imageLayoutVersion": "1.0.0"});
    image.put_document("oci-layout", mark.to_string().as_bytes(), sink)?;
    image.put_document("index.json", index.to_string().as_bytes(), sink)?;
    let mut known = HashSet::new();
    for document in [&image.manifest, &image.config] {
        let digest = Digest::of(document);
        known.insert(digest);
        image.put_document(&name(&digest), document, sink)?;
    }
    for layer in &image.layers {
        let digest = layer.descriptor.digest;
        if known.insert(digest) {
            image.put_blob(layer, &name(&digest), sink)?;
        }
    }
    Ok(())
}

fn name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

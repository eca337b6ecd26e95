//! Writes an OCI layout, into a directory (`oci:`) or a tar (`oci-archive:`).
//!
//! OCI image-spec v1.1, "Image Layout". The same image is the same bytes.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::ConvertError;
use super::layered::Layered;
use super::sink::Sink;
use super::target::docker_name;
use crate::Digest;
use crate::document::{NAME_HERE, NAME_IN_REGISTRY, OCI_INDEX, OCI_MANIFEST};

/// An image, and what it is called in the index of its layout.
pub(super) struct Entry<'a> {
    pub(super) image: &'a Layered<'a>,
    /// What a program that is shown the layout calls it by.
    pub(super) tag: Option<String>,
    /// What it is called in a store, which may be more than one name.
    pub(super) names: &'a [String],
}

/// Writes a layout of these images. What several of them have is there once.
pub(super) fn write(entries: &[Entry<'_>], sink: &mut dyn Sink) -> Result<(), ConvertError> {
    let Some(Entry { image: first, .. }) = entries.first() else { return Ok(()) };
    let manifests: Vec<Value> = entries.iter().flat_map(describe).collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    let mark = json!({"imageLayoutVersion": "1.0.0"});
    first.put_document("oci-layout", mark.to_string().as_bytes(), sink)?;
    first.put_document("index.json", index.to_string().as_bytes(), sink)?;
    let mut known = HashSet::new();
    for Entry { image, .. } in entries {
        for document in [&image.manifest, &image.config] {
            let digest = Digest::of(document);
            if known.insert(digest) {
                image.put_document(&name(&digest), document, sink)?;
            }
        }
        for layer in &image.layers {
            let digest = layer.descriptor.digest;
            if known.insert(digest) {
                image.put_blob(layer, &name(&digest), sink)?;
            }
        }
    }
    Ok(())
}

/// What the index says of an image: once for each of its names.
fn describe(entry: &Entry<'_>) -> Vec<Value> {
    let manifest = &entry.image.manifest;
    let described = |annotations: Map<String, Value>| {
        let mut described = json!({
            "mediaType": OCI_MANIFEST,
            "digest": Digest::of(manifest),
            "size": manifest.len(),
        });
        if !annotations.is_empty() {
            described["annotations"] = annotations.into();
        }
        described
    };
    let tagged = |tag: &Option<String>| {
        let tag =
            tag.iter().map(|tag| ("org.opencontainers.image.ref.name".to_owned(), json!(tag)));
        tag.collect::<Map<_, _>>()
    };
    if entry.names.is_empty() {
        return vec![described(tagged(&entry.tag))];
    }
    let named = entry.names.iter().map(|name| {
        let in_registry = docker_name(name);
        let mut annotations = tagged(&in_registry);
        annotations.insert(NAME_HERE.to_owned(), json!(name));
        annotations.extend(in_registry.map(|name| (NAME_IN_REGISTRY.to_owned(), json!(name))));
        described(annotations)
    });
    named.collect()
}

fn name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

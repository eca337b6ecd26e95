//! What an image is made of, before any of it is unpacked.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::document::{OCI_CONFIG, OCI_MANIFEST, layer_media_type};
use crate::{Digest, Healthcheck};

/// An image by digest: what `plan` needs to know and what `ensure` needs to fetch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// What this image is, independent of where it came from.
    pub identity: Identity,
    /// The reference it was asked for by, as text.
    pub reference: String,
    /// Defaults that the image declares for its processes.
    pub config: Config,
    /// Layers, lowest first. Empty for `host:` and `dir:`.
    pub layers: Vec<LayerDescriptor>,
    /// Whether it is one file on this machine that only root can have written.
    pub of_root: bool,
}

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Identity {
    /// Digest of the manifest that was verified.
    Digest(Digest),
    /// A fingerprint of paths on this machine (`host:`, `dir:`); not a digest of content.
    Fingerprint(String),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Digest(digest) => digest.fmt(f),
            Identity::Fingerprint(fingerprint) => f.write_str(fingerprint),
        }
    }
}

/// Defaults that an image declares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Config {
    /// `Env`, in order, `NAME=VALUE` split at the first `=`.
    pub variables: Vec<(String, String)>,
    /// `WorkingDir`.
    pub workdir: Option<String>,
    /// `User`, unparsed.
    pub user: Option<String>,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub command: Vec<String>,
    /// `Volumes`: shown, never made.
    pub volumes: Vec<String>,
    /// `architecture`, in Go's words.
    pub architecture: Option<String>,
    /// `os`.
    pub os: Option<String>,
    /// `Labels`. Those that are no text are left out.
    pub labels: BTreeMap<String, String>,
    /// `ExposedPorts`: shown, never opened.
    pub ports: Vec<String>,
    /// `StopSignal`: shown, never sent.
    pub stop_signal: Option<String>,
    /// `Shell`: of instructions in a Dockerfile that is built upon the image.
    pub shell: Vec<String>,
    /// `Healthcheck`: shown, never run.
    pub healthcheck: Option<Healthcheck>,
    /// `OnBuild`: instructions for a Dockerfile that is built upon the image.
    pub on_build: Vec<String>,
}

impl Config {
    /// What is declared here at all, by the names that the OCI image-spec has for it.
    pub fn declared(&self) -> Vec<&'static str> {
        let declared = [
            (!self.variables.is_empty(), "Env"),
            (self.workdir.is_some(), "WorkingDir"),
            (self.user.is_some(), "User"),
            (!self.entrypoint.is_empty(), "Entrypoint"),
            (!self.command.is_empty(), "Cmd"),
            (!self.volumes.is_empty(), "Volumes"),
            (!self.labels.is_empty(), "Labels"),
            (!self.ports.is_empty(), "ExposedPorts"),
            (self.stop_signal.is_some(), "StopSignal"),
            (!self.shell.is_empty(), "Shell"),
            (self.healthcheck.is_some(), "Healthcheck"),
            (!self.on_build.is_empty(), "OnBuild"),
        ];
        declared.into_iter().filter_map(|(is_set, name)| is_set.then_some(name)).collect()
    }
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct LayerDescriptor {
    /// Digest of the blob as stored or sent.
    pub digest: Digest,
    /// Digest of the uncompressed tar, or one made of a squashfs's own: the layer's name in the
    /// store.
    pub diff_id: Digest,
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// How the blob is packed.
    pub media_type: MediaType,
}

/// How a layer's blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum MediaType {
    /// An uncompressed tar.
    Tar,
    /// A tar packed with gzip.
    TarGzip,
    /// A tar packed with Zstandard.
    TarZstd,
    /// A squashfs.
    Squashfs,
    /// A Singularity or Apptainer image, whose root is a squashfs in it.
    Sif,
}

/// Writes the manifest of an image with this configuration and these layers, lowest first.
pub(crate) fn write_manifest(config: &[u8], layers: &[LayerDescriptor]) -> Vec<u8> {
    let layers = layers.iter().map(|layer| Descriptor {
        media_type: layer_media_type(layer.media_type),
        digest: layer.digest,
        size: layer.blob_bytes,
    });
    let manifest = serde_json::to_vec(&ManifestJson {
        schema_version: 2,
        media_type: OCI_MANIFEST,
        config: Descriptor {
            media_type: OCI_CONFIG,
            digest: Digest::of(config),
            size: config.len() as u64,
        },
        layers: layers.collect(),
    });
    manifest.expect("texts, numbers and lists have a JSON form")
}

/// OCI image-spec v1.1, "Image Manifest".
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ManifestJson {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    digest: Digest,
    size: u64,
}

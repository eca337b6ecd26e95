//! A directory with images to convert and a store to unpack what came of them.

use std::fs;
use std::path::{Path, PathBuf};

use ric_images::{
    Access, ConvertError, ConvertOptions, Converted, CredentialFiles, Digest, Form, Limits,
    Manifest, Reference, Silent, Store, Target, Timeouts, convert, ensure, resolve,
};
use serde_json::{Value, json};

use super::layer_archive::chain;
use super::layer_twice::listing;

pub(super) struct Site {
    directory: PathBuf,
    store: Store,
}

impl Site {
    pub(super) fn new(directory: &Path) -> Site {
        let store = Store::open(&directory.join("store")).unwrap();
        Site { directory: directory.canonicalize().unwrap(), store }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes an OCI layout of one image with these layers as plain tars.
    pub(super) fn layout(&self, name: &str, layers: &[Vec<u8>], defaults: &Value) -> Reference {
        let layers: Vec<_> = layers.iter().map(|layer| (&layer[..], &layer[..])).collect();
        self.write_layout(name, "application/vnd.oci.image.layer.v1.tar", &layers, defaults)
    }

    /// The same of one layer that is packed with gzip.
    pub(super) fn packed_layout(
        &self,
        name: &str,
        tar: &[u8],
        packed: &[u8],
        defaults: &Value,
    ) -> Reference {
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        self.write_layout(name, media_type, &[(tar, packed)], defaults)
    }

    /// Layers are tars, and what they are packed to.
    fn write_layout(
        &self,
        name: &str,
        media_type: &str,
        layers: &[(&[u8], &[u8])],
        defaults: &Value,
    ) -> Reference {
        let path = self.path(name);
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8], media_type: &str| {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).unwrap();
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        };
        let diff_ids: Vec<Digest> = layers.iter().map(|(tar, _)| Digest::of(tar)).collect();
        let config = json!({
            "os": "linux", "architecture": here(), "config": defaults,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let layers: Vec<Value> = layers.iter().map(|(_, blob)| put(blob, media_type)).collect();
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers,
        });
        let manifest = put(manifest.to_string().as_bytes(), manifest_type);
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(path.join("index.json"), index.to_string()).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Reference::OciLayout { path, tag: None }
    }

    pub(super) fn access<T>(&self, then: impl FnOnce(&Access<'_>) -> T) -> T {
        then(&Access {
            docker: &ric_images::LocalDocker::default(),
            store: Some(&self.store),
            registries: &ric_images::Registries::default(),
            shifter_folders: &[],
            below: &[],
            asker: &ric_images::Asker::default(),
            host_fingerprint: "host:1",
            limits: &Limits::default(),
            timeouts: Timeouts::default(),
            credentials: &CredentialFiles::default(),
            progress: &Silent,
        })
    }

    pub(super) fn resolve(&self, reference: &Reference) -> Manifest {
        let manifest = self.access(|access| resolve(reference, access));
        manifest.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    pub(super) fn try_convert(
        &self,
        reference: &Reference,
        target: &Target,
        options: ConvertOptions,
    ) -> Result<Converted, ConvertError> {
        let manifest = self.resolve(reference);
        self.access(|access| convert(&manifest, target, options, access))
    }

    pub(super) fn convert(&self, reference: &Reference, target: &Target) -> Converted {
        let converted = self.try_convert(reference, target, ConvertOptions::default());
        converted.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// What a reference of one layer unpacks to, name by name.
    pub(super) fn tree(&self, reference: &Reference) -> Vec<String> {
        listing(&self.root(reference))
    }

    /// What each layer of a reference unpacks to.
    pub(super) fn unpacked(&self, reference: &Reference) -> Vec<Vec<String>> {
        self.roots(reference).iter().map(|root| listing(root)).collect()
    }

    /// Where the layer of a reference of one layer is.
    pub(super) fn root(&self, reference: &Reference) -> PathBuf {
        let roots = self.roots(reference);
        let [root] = &roots[..] else { panic!("{roots:?}") };
        root.clone()
    }

    fn roots(&self, reference: &Reference) -> Vec<PathBuf> {
        let manifest = self.resolve(reference);
        let image = self.access(|access| ensure(&manifest, Form::Layers, access));
        image.unwrap_or_else(|error| panic!("{}", chain(&error))).layers
    }

    /// What is in the site's directory.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }
}

/// This machine's processor in Go's words, told by another way than the library's.
pub(super) fn here() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

//! Makes images for tests, whole or with one thing wrong, in every form that sources read.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ric_images::Digest;
use serde_json::{Value, json};

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// One layer: what is stored, and the tar in it.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) blob: Vec<u8>,
    pub(super) tar: Vec<u8>,
    pub(super) media_type: String,
}

impl Layer {
    pub(super) fn plain(name: &str, content: &str) -> Layer {
        let tar = tar_of(&[(name, content.as_bytes())]);
        let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
        Layer { blob: tar.clone(), tar, media_type }
    }

    pub(super) fn gzip(name: &str, content: &str) -> Layer {
        let Layer { tar, media_type, .. } = Layer::plain(name, content);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&tar).unwrap();
        Layer { blob: encoder.finish().unwrap(), tar, media_type: media_type + "+gzip" }
    }

    pub(super) fn zstd(name: &str, content: &str) -> Layer {
        let Layer { tar, media_type, .. } = Layer::plain(name, content);
        let blob = zstd::encode_all(&tar[..], 1).unwrap();
        Layer { blob, tar, media_type: media_type + "+zstd" }
    }

    fn descriptor(&self) -> Value {
        let (digest, size) = (Digest::of(&self.blob), self.blob.len());
        json!({"mediaType": self.media_type, "digest": digest, "size": size})
    }
}

/// An image's documents and layers.
#[derive(Clone)]
pub(super) struct Fixture {
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) layers: Vec<Layer>,
}

impl Fixture {
    /// For this machine.
    pub(super) fn new(layers: Vec<Layer>) -> Fixture {
        Fixture::for_platform(layers, "linux", here())
    }

    pub(super) fn for_platform(layers: Vec<Layer>, os: &str, architecture: &str) -> Fixture {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(&layer.tar)).collect();
        let config = json!({
            "os": os,
            "architecture": architecture,
            "config": {"Env": ["PATH=/bin", "NAME=fixture"], "Cmd": ["sh"], "WorkingDir": "/work"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Fixture::with_config(layers, config.to_string().into_bytes())
    }

    pub(super) fn with_config(layers: Vec<Layer>, config: Vec<u8>) -> Fixture {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config),
                "size": config.len(),
            },
            "layers": layers.iter().map(Layer::descriptor).collect::<Vec<_>>(),
        });
        Fixture { manifest: manifest.to_string().into_bytes(), config, layers }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// All of it, by digest.
    pub(super) fn blobs(&self) -> Vec<&[u8]> {
        let layers = self.layers.iter().map(|layer| &layer.blob[..]);
        layers.chain([&self.manifest[..], &self.config[..]]).collect()
    }

    /// How an index lists it.
    pub(super) fn entry(&self, tag: Option<&str>, platform: Option<(&str, &str)>) -> Value {
        let mut entry = json!({
            "mediaType": MANIFEST, "digest": self.digest(), "size": self.manifest.len()
        });
        if let Some(tag) = tag {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        if let Some((os, architecture)) = platform {
            entry["platform"] = json!({"os": os, "architecture": architecture});
        }
        entry
    }
}

/// This machine's processor in Go's words, told by another way than the library's.
pub(super) fn here() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

pub(super) fn index_of(entries: Vec<Value>) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    index.to_string().into_bytes()
}

pub(super) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        builder.append_data(&mut header(content.len()), name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn header(bytes: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Writes an OCI layout.
pub(super) fn write_layout(directory: &Path, index: &[u8], blobs: &[&[u8]]) {
    let blobs_directory = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs_directory).unwrap();
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    std::fs::write(directory.join("index.json"), index).unwrap();
    for blob in blobs {
        std::fs::write(blobs_directory.join(Digest::of(blob).hex()), blob).unwrap();
    }
}

/// An OCI archive of a layout.
pub(super) fn layout_archive(index: &[u8], blobs: &[&[u8]]) -> Vec<u8> {
    let names: Vec<_> =
        blobs.iter().map(|blob| format!("blobs/sha256/{}", Digest::of(blob).hex())).collect();
    let mut files =
        vec![("oci-layout", &br#"{"imageLayoutVersion": "1.0.0"}"#[..]), ("./index.json", index)];
    files.extend(names.iter().map(String::as_str).zip(blobs.iter().copied()));
    tar_of(&files)
}

/// A `docker save` file as Docker up to 24 writes it: a directory for each layer; with
/// `linked_layers`, as when layers are shared, the layer's file is elsewhere.
pub(super) fn old_docker_archive(fixture: &Fixture, linked_layers: bool) -> Vec<u8> {
    let config = format!("{}.json", Digest::of(&fixture.config).hex());
    let names: Vec<_> = (0..fixture.layers.len()).map(|n| format!("{n:064x}/layer.tar")).collect();
    let list = json!([{"Config": config, "RepoTags": ["fixture:latest"], "Layers": names}]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut append = |name: &str, content: &[u8]| {
        builder.append_data(&mut header(content.len()), name, content).unwrap();
    };
    append(&config, &fixture.config);
    append("manifest.json", list.to_string().as_bytes());
    for (number, layer) in fixture.layers.iter().enumerate() {
        let name = if linked_layers { format!("{number}.tar") } else { names[number].clone() };
        append(&name, &layer.blob);
    }
    if linked_layers {
        for (number, name) in names.iter().enumerate() {
            let mut header = header(0);
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, name, format!("../{number}.tar")).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// A `docker save` file as Docker from 25 on writes it: an OCI layout with a `manifest.json`.
pub(super) fn new_docker_archive(fixture: &Fixture) -> Vec<u8> {
    let name = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let layers: Vec<_> = fixture.layers.iter().map(|layer| name(&layer.blob)).collect();
    let list = json!([{"Config": name(&fixture.config), "RepoTags": null, "Layers": layers}]);
    let list = list.to_string().into_bytes();
    let index = index_of(vec![fixture.entry(None, None)]);
    let names: Vec<_> = fixture.blobs().iter().map(|blob| name(blob)).collect();
    let mut files = vec![("index.json", &index[..]), ("manifest.json", &list)];
    files.extend(names.iter().map(String::as_str).zip(fixture.blobs()));
    tar_of(&files)
}

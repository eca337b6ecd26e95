//! Reads the JSON documents of an image: manifest and index, OCI and Docker schema 2.
//!
//! Pure: bytes in, checked values out. Whoever got the bytes has verified their digest. What the
//! rest of the crate sees are [`Digest`]s and bounded lists; the JSON itself goes no further.
//! `image_config.rs` reads the third kind of document.

use std::fmt;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::shown::shown;
use crate::{Digest, DigestError, MediaType};

/// Largest manifest, index or configuration that is read. Docker's registry has the same bound
/// (distribution `maxManifestBodySize`), and so has the OCI distribution-spec ("Pushing
/// manifests").
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Most layers of one image. Docker makes at most 127, overlayfs stacks at most 500
/// (`OVL_MAX_STACK`, fs/overlayfs): a longer list is made to cost memory.
pub(crate) const LAYERS_MAX: usize = 1000;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The media type of an image's configuration.
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The media type of a layer that is an uncompressed tar.
pub(crate) const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The media type of a layer that is a squashfs. A name of our own, as there is no common one.
pub(crate) const SQUASHFS_LAYER: &str = "application/vnd.run-in-container.layer.v1.squashfs";

/// The media type of a SIF in a registry, as Apptainer and Singularity push it; and that of their
/// first versions, with a slip of the pen that is part of it (hpcng/singularity#4437).
pub(crate) const SIF_LAYER: &str = "application/vnd.sylabs.sif.layer.v1.sif";
const SIF_LAYER_OF_OLD: &str = "appliciation/vnd.sylabs.sif.layer.tar";

/// Annotation of a SIF in a manifest made here: the digest of the registry's manifest of it.
pub(crate) const MANIFEST_OF_SIF: &str = "org.run-in-container.manifest-of-sif";

/// Media types of documents that [`Document::parse`] reads, as a registry is asked for them.
pub(crate) const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

/// Why a manifest, an index or a configuration is not one of an image that can be used here. The
/// image's maker must act.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the right shape.
    #[error("the {document} is not valid")]
    Json {
        /// Which document.
        document: &'static str,
        /// Where and how.
        source: serde_json::Error,
    },
    /// Larger than any real one.
    #[error("the {document} has {bytes} bytes, at most {DOCUMENT_BYTES_MAX} are allowed")]
    TooLarge {
        /// Which document.
        document: &'static str,
        /// Its size, or how much of it was read.
        bytes: u64,
    },
    /// A manifest of Docker's first format, which names no content by digest.
    #[error("the manifest has Docker's format schema 1, which is not supported: push it anew")]
    Schema1,
    /// Neither an image nor an index, or both at once.
    #[error("the manifest {wrong}")]
    Shape {
        /// How.
        wrong: &'static str,
    },
    /// The document is another than it was said to be, or no image at all.
    #[error("the {document} has the media type `{found}`, expected {expected}")]
    MediaType {
        /// Which document or blob.
        document: String,
        /// What it says or was said to be.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// A digest that is none.
    #[error("the digest of {what} is wrong")]
    Digest {
        /// Whose.
        what: String,
        /// How.
        source: DigestError,
    },
    /// A layer that must be fetched from elsewhere than the image.
    #[error("layer {number} is a foreign layer (`{media_type}`), which is never fetched")]
    ForeignLayer {
        /// Counted from 1, lowest first.
        number: usize,
        /// Its media type.
        media_type: String,
    },
    /// More layers than can be stacked.
    #[error("the image has {layers} layers, at most {LAYERS_MAX} are allowed")]
    TooManyLayers {
        /// How many.
        layers: usize,
    },
    /// Manifest and configuration disagree.
    #[error("the manifest has {layers} layers, its configuration {diff_ids} diff IDs")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// `rootfs.diff_ids` of the configuration.
        diff_ids: usize,
    },
    /// Indexes within indexes.
    #[error("the image's indexes are nested more than {depth_max} deep")]
    TooDeep {
        /// Most that is followed.
        depth_max: usize,
    },
    /// A value that no process could be given.
    #[error("`{field}` of the configuration has the entry `{value}`: expected {expected}")]
    Value {
        /// Field of the configuration.
        field: &'static str,
        /// The value, made fit to be shown.
        value: String,
        /// What would fit.
        expected: &'static str,
    },
}

impl ManifestError {
    /// A way out, where there is an obvious one.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            ManifestError::MediaType { found, .. } if found.contains("sylabs.sif") => {
                Some("a SIF in a registry is written oras://HOST/NAME")
            }
            ManifestError::MediaType { expected, .. } if expected.contains(SIF_LAYER) => {
                Some("an image that is no SIF is written docker://HOST/NAME")
            }
            ManifestError::Json { .. }
            | ManifestError::TooLarge { .. }
            | ManifestError::Schema1
            | ManifestError::Shape { .. }
            | ManifestError::MediaType { .. }
            | ManifestError::Digest { .. }
            | ManifestError::ForeignLayer { .. }
            | ManifestError::TooManyLayers { .. }
            | ManifestError::LayerCount { .. }
            | ManifestError::TooDeep { .. }
            | ManifestError::Value { .. } => None,
        }
    }
}

/// What a blob is and where it belongs (OCI image-spec v1.1, "Descriptors").
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) blob_bytes: u64,
    /// In an index: what the image is for.
    pub(crate) platform: Option<Platform>,
    /// In the index of a layout: the annotation `org.opencontainers.image.ref.name`.
    pub(crate) tag: Option<String>,
    /// In the index of an archive: whole names of an image, the best first.
    pub(crate) names: Vec<String>,
}

/// Annotations by which an archive says what its images are called: this program's, with any
/// reference, and containerd's, with the name in a registry.
pub(crate) const NAME_HERE: &str = "org.run-in-container.reference";
pub(crate) const NAME_IN_REGISTRY: &str = "io.containerd.image.name";

/// Operating system and processor, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
}

impl Platform {
    /// What this machine runs.
    pub(crate) fn here() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            // arm, riscv64 and s390x have one name in both worlds.
            other => other,
        };
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned() }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&format!("{}/{}", self.os, self.architecture)))
    }
}

/// A manifest of one image, or an index of several.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Document {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index(Vec<Descriptor>),
}

impl Document {
    /// Reads a manifest or an index. `said_type` is the media type that its descriptor or the
    /// registry gave; the document must agree (CVE-2021-41190).
    pub(crate) fn parse(bytes: &[u8], said_type: Option<&str>) -> Result<Document, ManifestError> {
        match Shape::parse(bytes, said_type)? {
            Shape::Image { config, layers } => image(config, layers),
            Shape::Index(manifests) => index(manifests),
        }
    }
}

/// Reads the manifest of a SIF in a registry, and returns what describes the SIF.
///
/// What it says of the configuration is not looked at, as Apptainer's versions differ in it; there
/// is nothing in it.
pub(crate) fn parse_sif_manifest(
    bytes: &[u8],
    said_type: Option<&str>,
) -> Result<Descriptor, ManifestError> {
    let Shape::Image { layers, .. } = Shape::parse(bytes, said_type)? else {
        return Err(ManifestError::Shape { wrong: "is an index where one SIF was expected" });
    };
    let count = layers.len();
    let Some(sif) = layers.into_iter().next() else {
        return Err(ManifestError::Shape { wrong: "has no layer" });
    };
    check_media_type("layer", &sif.media_type, &[SIF_LAYER, SIF_LAYER_OF_OLD])?;
    if count > 1 {
        return Err(ManifestError::Shape { wrong: "has several layers, that of a SIF has one" });
    }
    sif.check("layer 1".to_owned())
}

/// The registry's manifest that a manifest made here stands for.
pub(crate) fn manifest_of_sif(made: &[u8]) -> Option<Digest> {
    let json: Json = parse_json("manifest", made).ok()?;
    let sif = json.layers?.into_iter().next()?;
    sif.annotations?.manifest_of_sif?.parse().ok()
}

/// What a document describes, its descriptors unread.
enum Shape {
    Image { config: JsonDescriptor, layers: Vec<JsonDescriptor> },
    Index(Vec<JsonDescriptor>),
}

impl Shape {
    fn parse(bytes: &[u8], said_type: Option<&str>) -> Result<Shape, ManifestError> {
        let json: Json = parse_json("manifest", bytes)?;
        let is_schema_1 = |text: &str| text.contains("docker.distribution.manifest.v1");
        if json.schema_version == Some(1)
            || json.media_type.as_deref().is_some_and(is_schema_1)
            || said_type.is_some_and(is_schema_1)
        {
            return Err(ManifestError::Schema1);
        }
        if json.schema_version.is_some_and(|version| version != 2) {
            return Err(ManifestError::Shape { wrong: "has a `schemaVersion` other than 2" });
        }
        let wrong = |wrong| Err(ManifestError::Shape { wrong });
        let (shape, accepted) = match (json.config, json.layers, json.manifests) {
            (_, Some(_), Some(_)) | (Some(_), None, Some(_)) => {
                return wrong("has both `layers` and `manifests`");
            }
            (Some(config), Some(layers), None) => {
                (Shape::Image { config, layers }, [OCI_MANIFEST, DOCKER_MANIFEST])
            }
            (None, None, Some(manifests)) => (Shape::Index(manifests), [OCI_INDEX, DOCKER_INDEX]),
            (_, None, None) => return wrong("has neither `layers` nor `manifests`"),
            (None, Some(_), None) => return wrong("has no `config`"),
        };
        if json.fs_layers.is_some() {
            return Err(ManifestError::Schema1);
        }
        for media_type in [said_type, json.media_type.as_deref()].into_iter().flatten() {
            check_media_type("manifest", media_type, &accepted)?;
        }
        if let (Some(said), Some(own)) = (said_type, json.media_type.as_deref()) {
            check_media_type("manifest", own, &[said])?;
        }
        Ok(shape)
    }
}

/// Reads JSON of bounded size.
pub(crate) fn parse_json<'a, T: Deserialize<'a>>(
    document: &'static str,
    bytes: &'a [u8],
) -> Result<T, ManifestError> {
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(ManifestError::TooLarge { document, bytes: bytes.len() as u64 });
    }
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { document, source })
}

fn image(config: JsonDescriptor, layers: Vec<JsonDescriptor>) -> Result<Document, ManifestError> {
    if layers.len() > LAYERS_MAX {
        return Err(ManifestError::TooManyLayers { layers: layers.len() });
    }
    let config = config.check("the configuration".to_owned())?;
    check_media_type(
        "configuration",
        &config.media_type,
        &[OCI_CONFIG, "application/vnd.docker.container.image.v1+json"],
    )?;
    let layers: Result<_, _> =
        (1..).zip(layers).map(|(number, layer)| layer.check(format!("layer {number}"))).collect();
    Ok(Document::Image { config, layers: layers? })
}

fn index(manifests: Vec<JsonDescriptor>) -> Result<Document, ManifestError> {
    let manifests: Result<_, _> = (1..)
        .zip(manifests)
        .map(|(number, manifest)| manifest.check(format!("manifest {number} of the index")))
        .collect();
    Ok(Document::Index(manifests?))
}

/// How the layer `number` with this media type is packed.
pub(crate) fn packing(number: usize, media_type: &str) -> Result<MediaType, ManifestError> {
    if media_type.contains(".foreign.") || media_type.contains(".nondistributable.") {
        return Err(ManifestError::ForeignLayer { number, media_type: shown(media_type) });
    }
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Ok(MediaType::Tar),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(MediaType::TarGzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(MediaType::TarZstd),
        SQUASHFS_LAYER => Ok(MediaType::Squashfs),
        SIF_LAYER => Ok(MediaType::Sif),
        other => Err(ManifestError::MediaType {
            document: format!("layer {number}"),
            found: shown(other),
            expected: "a tar, plain or packed with gzip or zstd".to_owned(),
        }),
    }
}

/// The media type of a layer that is packed so.
pub(crate) fn layer_media_type(packing: MediaType) -> &'static str {
    match packing {
        MediaType::Tar => "application/vnd.oci.image.layer.v1.tar",
        MediaType::TarGzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        MediaType::TarZstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        MediaType::Squashfs => SQUASHFS_LAYER,
        MediaType::Sif => SIF_LAYER,
    }
}

fn check_media_type(document: &str, found: &str, accepted: &[&str]) -> Result<(), ManifestError> {
    if accepted.contains(&found) {
        return Ok(());
    }
    let expected = accepted.iter().map(|accepted| format!("`{}`", shown(accepted)));
    let expected = expected.collect::<Vec<_>>().join(" or ");
    Err(ManifestError::MediaType { document: document.to_owned(), found: shown(found), expected })
}

/// Either document as it is written.
#[derive(Deserialize)]
struct Json {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    config: Option<JsonDescriptor>,
    layers: Option<Vec<JsonDescriptor>>,
    manifests: Option<Vec<JsonDescriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct JsonDescriptor {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    tag: Option<String>,
    #[serde(rename = "org.run-in-container.manifest-of-sif")]
    manifest_of_sif: Option<String>,
    // As in `NAME_HERE` and `NAME_IN_REGISTRY`.
    #[serde(rename = "org.run-in-container.reference")]
    name_here: Option<String>,
    #[serde(rename = "io.containerd.image.name")]
    name_in_registry: Option<String>,
}

impl Annotations {
    fn names(&self) -> Vec<String> {
        let in_registry = self.name_in_registry.iter().map(|name| format!("docker://{name}"));
        self.name_here.iter().cloned().chain(in_registry).collect()
    }
}

impl JsonDescriptor {
    fn check(self, what: String) -> Result<Descriptor, ManifestError> {
        let digest =
            self.digest.parse().map_err(|source| ManifestError::Digest { what, source })?;
        Ok(Descriptor {
            media_type: self.media_type,
            digest,
            blob_bytes: self.size,
            platform: self.platform,
            names: self.annotations.as_ref().map(Annotations::names).unwrap_or_default(),
            tag: self.annotations.and_then(|annotations| annotations.tag),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn manifest() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": A,
                "size": 2,
            },
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": A, "size": 3}
            ],
        })
    }

    fn index_of(count: usize) -> Value {
        let entry = json!({"mediaType": OCI_MANIFEST, "digest": A, "size": 2,
            "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}});
        json!({"schemaVersion": 2, "manifests": vec![entry; count]})
    }

    fn parse(json: &Value) -> Result<Document, ManifestError> {
        Document::parse(json.to_string().as_bytes(), None)
    }

    /// The message of the whole chain.
    fn wrong(json: &Value) -> String {
        let error = parse(json).unwrap_err();
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        format!("{error}{}", source.unwrap_or_default())
    }

    fn with(mut json: Value, pointer: &str, key: &str, value: Value) -> Value {
        json.pointer_mut(pointer).unwrap()[key] = value;
        json
    }

    #[test]
    fn reads_an_image_and_an_index() {
        let Ok(Document::Image { config, layers }) = parse(&manifest()) else { panic!() };
        assert_eq!((config.blob_bytes, layers.len(), layers[0].blob_bytes), (2, 1, 3));
        let Ok(Document::Index(manifests)) = parse(&index_of(2)) else { panic!() };
        assert_eq!(manifests[1].platform.as_ref().unwrap().to_string(), "linux/arm64");
    }

    #[test]
    fn reads_docker_schema_2() {
        let docker = with(manifest(), "", "mediaType", json!(DOCKER_MANIFEST));
        let config = json!("application/vnd.docker.container.image.v1+json");
        let docker = with(docker, "/config", "mediaType", config).to_string();
        Document::parse(docker.as_bytes(), Some(DOCKER_MANIFEST)).unwrap();
        let error = Document::parse(docker.as_bytes(), Some(OCI_MANIFEST)).unwrap_err();
        assert!(matches!(error, ManifestError::MediaType { .. }), "{error}");
    }

    #[test]
    fn refuses_documents_that_could_be_read_two_ways() {
        let both = with(manifest(), "", "manifests", index_of(1)["manifests"].clone());
        assert!(wrong(&both).contains("both `layers` and `manifests`"));
        let both = with(index_of(1), "", "config", manifest()["config"].clone());
        assert!(wrong(&both).contains("both `layers` and `manifests`"));
        let index_said_manifest = with(index_of(1), "", "mediaType", json!(OCI_MANIFEST));
        assert!(wrong(&index_said_manifest).contains("has the media type"));
        let manifest_said_index = with(manifest(), "", "mediaType", json!(DOCKER_INDEX));
        assert!(wrong(&manifest_said_index).contains("has the media type"));
        let twice = manifest().to_string().replacen('{', r#"{"layers": [],"#, 1);
        let error = Document::parse(twice.as_bytes(), None).unwrap_err();
        assert!(matches!(error, ManifestError::Json { .. }), "{error}");
    }

    #[test]
    fn refuses_schema_1_by_name() {
        let schema_1 = json!({"schemaVersion": 1, "name": "a", "fsLayers": [{"blobSum": A}]});
        assert!(wrong(&schema_1).contains("schema 1"));
        let said = Some("application/vnd.docker.distribution.manifest.v1+prettyjws");
        let error = Document::parse(b"{}", said).unwrap_err();
        assert!(matches!(error, ManifestError::Schema1), "{error}");
        let hidden = with(manifest(), "", "fsLayers", json!([]));
        assert!(wrong(&hidden).contains("schema 1"));
    }

    #[test]
    fn refuses_what_is_no_image() {
        assert!(wrong(&json!({"schemaVersion": 2})).contains("neither"));
        assert!(wrong(&json!([])).contains("not valid"));
        assert!(wrong(&with(manifest(), "", "schemaVersion", json!(3))).contains("other than 2"));
        assert!(wrong(&with(manifest(), "", "config", Value::Null)).contains("no `config`"));
        let helm = json!("application/vnd.cncf.helm.config.v1+json");
        assert!(wrong(&with(manifest(), "/config", "mediaType", helm)).contains("helm"));
        assert!(wrong(&with(manifest(), "/layers/0", "size", json!(-1))).contains("-1"));
    }

    #[test]
    fn refuses_digests_before_anything_uses_them() {
        for text in ["sha256:../../x", "sha512:00", "md5:00", &A.to_uppercase(), &A[..70]] {
            let bad = with(manifest(), "/layers/0", "digest", json!(text));
            assert!(wrong(&bad).starts_with("the digest of layer 1 is wrong"));
        }
    }

    #[test]
    fn refuses_more_layers_than_can_be_stacked() {
        let layers = vec![manifest()["layers"][0].clone(); LAYERS_MAX + 1];
        let error = parse(&with(manifest(), "", "layers", json!(layers))).unwrap_err();
        assert!(matches!(error, ManifestError::TooManyLayers { layers: 1001 }), "{error}");
        let layers = vec![manifest()["layers"][0].clone(); LAYERS_MAX];
        parse(&with(manifest(), "", "layers", json!(layers))).unwrap();
    }

    #[test]
    fn refuses_documents_beyond_the_limit_unread() {
        let large = vec![b' '; usize::try_from(DOCUMENT_BYTES_MAX).unwrap() + 1];
        let error = Document::parse(&large, None).unwrap_err();
        assert!(matches!(error, ManifestError::TooLarge { .. }), "{error}");
        let deep = "[".repeat(1 << 20);
        assert!(Document::parse(deep.as_bytes(), None).is_err());
    }

    #[test]
    fn knows_how_layers_are_packed() {
        let oci = "application/vnd.oci.image.layer.v1.tar";
        let docker = "application/vnd.docker.image.rootfs";
        assert_eq!(packing(1, oci).unwrap(), MediaType::Tar);
        assert_eq!(packing(1, &format!("{oci}+gzip")).unwrap(), MediaType::TarGzip);
        assert_eq!(packing(1, &format!("{oci}+zstd")).unwrap(), MediaType::TarZstd);
        assert_eq!(packing(1, &format!("{docker}.diff.tar.gzip")).unwrap(), MediaType::TarGzip);
        let foreign = packing(3, &format!("{docker}.foreign.diff.tar.gzip")).unwrap_err();
        assert!(matches!(foreign, ManifestError::ForeignLayer { number: 3, .. }));
        let foreign = packing(1, "application/vnd.oci.image.layer.nondistributable.v1.tar");
        assert!(matches!(foreign, Err(ManifestError::ForeignLayer { .. })));
        for unknown in [&format!("{oci}+xz"), &format!("{oci}+gzip+encrypted"), ""] {
            assert!(matches!(packing(1, unknown), Err(ManifestError::MediaType { .. })));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>, said: Option<String>) {
            let _ = Document::parse(&bytes, said.as_deref());
        }

        /// Valid documents with one byte changed reach deeper than noise.
        #[test]
        fn damaged_documents_do_not_panic(at: usize, byte: u8, is_index: bool) {
            let document = if is_index { index_of(2) } else { manifest() };
            let mut bytes = document.to_string().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = Document::parse(&bytes, Some(OCI_MANIFEST));
        }
    }
}

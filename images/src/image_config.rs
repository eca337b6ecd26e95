//! Reads and writes the configuration of an image: defaults for processes, diff IDs, the platform.
//!
//! OCI image-spec v1.1, "Image Configuration"; Docker's has the same shape. Pure, like
//! `document.rs`.

mod write;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde::de::IgnoredAny;
use serde_json::Value;

pub(crate) use write::write_defaults;
pub use write::{History, write_config};

use crate::document::{Document, LAYERS_MAX, ManifestError, Platform, packing, parse_json};
use crate::shown::shown;
use crate::{Config, Digest, Identity, LayerDescriptor, Manifest};

/// A configuration that was read and checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ImageConfig {
    pub(crate) defaults: Config,
    pub(crate) diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads the configuration of an image.
    pub(crate) fn parse(bytes: &[u8]) -> Result<ImageConfig, ManifestError> {
        let json: Json = parse_json("configuration", bytes)?;
        let defaults = json.config.unwrap_or_default();
        let diff_ids = json.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > LAYERS_MAX {
            return Err(ManifestError::TooManyLayers { layers: diff_ids.len() });
        }
        let variables = defaults.env.unwrap_or_default().into_iter().map(split_variable);
        let volumes = defaults.volumes.unwrap_or_default().into_keys();
        Ok(ImageConfig {
            defaults: Config {
                variables: variables.collect::<Result<_, _>>()?,
                workdir: without_nul("WorkingDir", non_empty(defaults.workdir))?,
                user: without_nul("User", non_empty(defaults.user))?,
                entrypoint: without_nul("Entrypoint", defaults.entrypoint.unwrap_or_default())?,
                command: without_nul("Cmd", defaults.command.unwrap_or_default())?,
                volumes: without_nul("Volumes", volumes.collect())?,
                architecture: without_nul("architecture", non_empty(json.architecture))?,
                os: without_nul("os", non_empty(json.os))?,
                labels: defaults.labels.map(texts).unwrap_or_default(),
                ports: lenient::<BTreeMap<String, IgnoredAny>>(defaults.ports)
                    .into_keys()
                    .collect(),
                stop_signal: non_empty(lenient(defaults.stop_signal)),
                shell: without_nul("Shell", defaults.shell.unwrap_or_default())?,
                healthcheck: lenient(defaults.healthcheck),
                on_build: without_nul("OnBuild", defaults.on_build.unwrap_or_default())?,
            },
            diff_ids: (1..).zip(diff_ids).map(parse_diff_id).collect::<Result<_, _>>()?,
        })
    }

    /// What the image is for, if it says so.
    pub(crate) fn platform(&self) -> Option<Platform> {
        let Config { os, architecture, .. } = &self.defaults;
        Some(Platform { os: os.clone()?, architecture: architecture.clone()? })
    }
}

/// Puts the manifest of one image and its configuration together.
pub(crate) fn assemble(
    reference: String,
    identity: Identity,
    document: &Document,
    config: ImageConfig,
) -> Result<Manifest, ManifestError> {
    let Document::Image { layers, .. } = document else {
        return Err(ManifestError::Shape { wrong: "is an index where an image was expected" });
    };
    if layers.len() != config.diff_ids.len() {
        let diff_ids = config.diff_ids.len();
        return Err(ManifestError::LayerCount { layers: layers.len(), diff_ids });
    }
    let layers = (1..).zip(layers.iter().zip(config.diff_ids)).map(|(number, (layer, diff_id))| {
        Ok(LayerDescriptor {
            digest: layer.digest,
            diff_id,
            blob_bytes: layer.blob_bytes,
            media_type: packing(number, &layer.media_type)?,
        })
    });
    let layers = layers.collect::<Result<_, ManifestError>>()?;
    Ok(Manifest { identity, reference, config: config.defaults, layers, of_root: false })
}

/// Reads a manifest and its configuration as [`resolve`](crate::resolve) does, from memory.
///
/// Checks their form, not whether `config` is the one that `manifest` names: `resolve` reads it by
/// that digest.
///
/// # Errors
/// As in [`ManifestError`]; an index is refused.
pub fn read_documents(manifest: &[u8], config: &[u8]) -> Result<Manifest, ManifestError> {
    let document = Document::parse(manifest, None)?;
    let identity = Identity::Digest(Digest::of(manifest));
    assemble(String::new(), identity, &document, ImageConfig::parse(config)?)
}

/// Labels. Those that are no text are left out: nothing depends on them, and an image must not
/// fail to be shown for one.
fn texts(labels: Value) -> BTreeMap<String, String> {
    let labels: BTreeMap<String, Value> = lenient(Some(labels));
    let text = |(name, value): (String, Value)| Some((name, value.as_str()?.to_owned()));
    labels.into_iter().filter_map(text).collect()
}

/// What is only shown, or nothing if it has another shape: no image fails to run for it.
fn lenient<T: DeserializeOwned + Default>(value: Option<Value>) -> T {
    value.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default()
}

fn parse_diff_id((number, text): (usize, String)) -> Result<Digest, ManifestError> {
    let what = format!("diff ID {number}");
    text.parse().map_err(|source| ManifestError::Digest { what, source })
}

/// `execve(2)` passes any string, but programs find a variable by the text before `=`.
fn split_variable(entry: String) -> Result<(String, String), ManifestError> {
    let wrong = |expected| ManifestError::Value { field: "Env", value: shown(&entry), expected };
    if entry.contains('\0') {
        return Err(wrong(WITHOUT_NUL));
    }
    match entry.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err(wrong("NAME=VALUE")),
    }
}

const WITHOUT_NUL: &str = "a text without NUL bytes, which `execve(2)` cannot pass";

/// Returns `values`, a list or an option of texts, if none has a NUL byte.
fn without_nul<T>(field: &'static str, values: T) -> Result<T, ManifestError>
where
    for<'a> &'a T: IntoIterator<Item = &'a String>,
{
    let wrong = (&values).into_iter().find(|value| value.contains('\0')).map(|value| shown(value));
    match wrong {
        None => Ok(values),
        Some(value) => Err(ManifestError::Value { field, value, expected: WITHOUT_NUL }),
    }
}

/// Go writes an empty text where nothing was set.
fn non_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

#[derive(Deserialize)]
struct Json {
    architecture: Option<String>,
    os: Option<String>,
    config: Option<JsonDefaults>,
    rootfs: JsonRootfs,
}

#[derive(Deserialize, Default)]
struct JsonDefaults {
    #[serde(rename = "Env")]
    env: Option<Vec<String>>,
    #[serde(rename = "WorkingDir")]
    workdir: Option<String>,
    #[serde(rename = "User")]
    user: Option<String>,
    #[serde(rename = "Entrypoint")]
    entrypoint: Option<Vec<String>>,
    #[serde(rename = "Cmd")]
    command: Option<Vec<String>>,
    #[serde(rename = "Volumes")]
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    #[serde(rename = "Labels")]
    labels: Option<Value>,
    #[serde(rename = "ExposedPorts")]
    ports: Option<Value>,
    #[serde(rename = "StopSignal")]
    stop_signal: Option<Value>,
    #[serde(rename = "Shell")]
    shell: Option<Vec<String>>,
    #[serde(rename = "Healthcheck")]
    healthcheck: Option<Value>,
    #[serde(rename = "OnBuild")]
    on_build: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct JsonRootfs {
    diff_ids: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIFF_ID: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn parse(defaults: &str) -> Result<ImageConfig, ManifestError> {
        let text = format!(
            r#"{{"architecture": "amd64", "os": "linux", "created": null, "history": [
                {{"created_by": "LABEL a=b", "empty_layer": true}}, {{"created_by": "COPY"}}],
                "config": {defaults}, "rootfs": {{"type": "layers", "diff_ids": ["{DIFF_ID}"]}}}}"#
        );
        ImageConfig::parse(text.as_bytes())
    }

    #[test]
    fn reads_what_docker_writes() {
        let config = parse(
            r#"{"Env": ["PATH=/bin", "A=b=c", "EMPTY="], "WorkingDir": "", "User": "1000:1000",
                "Entrypoint": null, "Cmd": ["sh", "-c"], "Volumes": {"/b": {}, "/a": {}},
                "Labels": null, "OnBuild": null, "Hostname": ""}"#,
        )
        .unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let Config { variables, workdir, user, entrypoint, command, volumes, .. } =
            config.defaults.clone();
        assert_eq!(variables, [pair("PATH", "/bin"), pair("A", "b=c"), pair("EMPTY", "")]);
        assert_eq!((workdir, user), (None, Some("1000:1000".to_owned())));
        assert_eq!((entrypoint, command), (vec![], vec!["sh".to_owned(), "-c".to_owned()]));
        assert_eq!(volumes, ["/a", "/b"]);
        assert_eq!(config.platform().unwrap().to_string(), "linux/amd64");
        assert_eq!(config.diff_ids.len(), 1, "a step without a layer has no diff ID");
        assert_eq!(parse("null").unwrap().defaults.variables, []);
    }

    #[test]
    fn refuses_variables_that_are_none() {
        for env in [r#"["PATH"]"#, r#"[""]"#, r#"["=value"]"#, r#"["A=\u0000"]"#] {
            let error = parse(&format!(r#"{{"Env": {env}}}"#)).unwrap_err();
            assert!(matches!(error, ManifestError::Value { field: "Env", .. }), "{env}: {error}");
        }
    }

    #[test]
    fn refuses_nul_bytes_everywhere() {
        for (field, value) in [
            ("WorkingDir", r#""/a\u0000b""#),
            ("User", r#""\u0000""#),
            ("Entrypoint", r#"["a", "\u0000"]"#),
            ("Cmd", r#"["\u0000"]"#),
            ("Volumes", r#"{"/\u0000": {}}"#),
        ] {
            let error = parse(&format!(r#"{{"{field}": {value}}}"#)).unwrap_err();
            assert!(matches!(&error, ManifestError::Value { field: f, .. } if *f == field));
            assert!(!error.to_string().contains('\0'));
        }
    }

    #[test]
    fn refuses_a_configuration_without_layers_list() {
        assert!(ImageConfig::parse(br#"{"config": {}}"#).is_err());
        let config = ImageConfig::parse(br#"{"rootfs": {"type": "layers", "diff_ids": null}}"#);
        assert_eq!(config.unwrap().diff_ids, []);
        let bad = br#"{"rootfs": {"diff_ids": ["sha256:../x"]}}"#;
        assert!(matches!(ImageConfig::parse(bad), Err(ManifestError::Digest { .. })));
    }

    #[test]
    fn refuses_layers_without_diff_id() {
        let manifest = format!(
            r#"{{"schemaVersion": 2, "layers": [], "config": {{"size": 1, "digest": "{DIFF_ID}",
                "mediaType": "application/vnd.oci.image.config.v1+json"}}}}"#
        );
        let config = format!(r#"{{"rootfs": {{"diff_ids": ["{DIFF_ID}"]}}}}"#);
        let error = read_documents(manifest.as_bytes(), config.as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::LayerCount { layers: 0, diff_ids: 1 }), "{error}");
        let none = read_documents(manifest.as_bytes(), br#"{"rootfs": {}}"#).unwrap();
        assert_eq!(none.layers, [], "an image made of nothing but settings");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = ImageConfig::parse(&bytes);
        }

        #[test]
        fn variables_split_and_join(name in "[^=\0]{1,8}", value in "[^\0]{0,8}") {
            let joined = format!("{name}={value}");
            prop_assert_eq!(split_variable(joined).unwrap(), (name, value));
        }
    }
}

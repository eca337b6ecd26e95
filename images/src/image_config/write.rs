//! Writes the configuration of an image that was made here.
//!
//! OCI image-spec v1.1, "Image Configuration", with the three fields of Docker's that it leaves
//! out (`Shell`, `Healthcheck`, `OnBuild`; Docker image specification v1.2). No clock: an image
//! made twice of the same things is the same image, so `created` stands nowhere.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Config, Digest, Healthcheck};

/// One line of an image's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct History {
    /// The instruction.
    pub created_by: String,
    /// Whether it made no layer.
    #[serde(rename = "empty_layer", skip_serializing_if = "std::ops::Not::not")]
    pub is_empty: bool,
}

/// Writes the configuration of an image of Linux with these layers, lowest first.
///
/// `history` is lowest first too, one that is not empty for each layer. What this returns is read
/// again by [`read_documents`](crate::read_documents) as the same `config`.
pub fn write_config(config: &Config, diff_ids: &[Digest], history: &[History]) -> Vec<u8> {
    let json = Json {
        architecture: config.architecture.as_deref().unwrap_or_default(),
        os: config.os.as_deref().unwrap_or("linux"),
        config: defaults(config),
        rootfs: RootFs {
            kind: "layers",
            diff_ids: diff_ids.iter().map(Digest::to_string).collect(),
        },
        history,
    };
    serde_json::to_vec(&json).expect("texts, lists and maps with text keys are JSON")
}

/// Writes the part of a configuration that says what the image declares (`config`).
pub(crate) fn write_defaults(config: &Config) -> Vec<u8> {
    serde_json::to_vec(&defaults(config)).expect("texts, lists and maps with text keys are JSON")
}

fn defaults(config: &Config) -> Defaults<'_> {
    let set = |names: &[String]| -> BTreeMap<String, Empty> {
        names.iter().map(|name| (name.clone(), Empty {})).collect()
    };
    let variables = config.variables.iter().map(|(name, value)| format!("{name}={value}"));
    Defaults {
        user: config.user.as_deref(),
        ports: set(&config.ports),
        env: variables.collect(),
        entrypoint: &config.entrypoint,
        command: &config.command,
        volumes: set(&config.volumes),
        workdir: config.workdir.as_deref(),
        labels: &config.labels,
        stop_signal: config.stop_signal.as_deref(),
        shell: &config.shell,
        healthcheck: config.healthcheck.as_ref(),
        on_build: &config.on_build,
    }
}

#[derive(Serialize)]
struct Json<'a> {
    architecture: &'a str,
    os: &'a str,
    config: Defaults<'a>,
    rootfs: RootFs,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    history: &'a [History],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Defaults<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(rename = "ExposedPorts", skip_serializing_if = "BTreeMap::is_empty")]
    ports: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(rename = "Cmd", skip_serializing_if = "<[_]>::is_empty")]
    command: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    volumes: BTreeMap<String, Empty>,
    #[serde(rename = "WorkingDir", skip_serializing_if = "Option::is_none")]
    workdir: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    shell: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<&'a Healthcheck>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    on_build: &'a [String],
}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<String>,
}

/// What stands for a member of a set, in Go's JSON.
#[derive(Serialize)]
struct Empty {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_config::ImageConfig;

    fn config() -> Config {
        let text = str::to_owned;
        Config {
            variables: vec![(text("PATH"), text("/bin")), (text("A"), text("b=\"c\n"))],
            workdir: Some(text("/srv")),
            user: Some(text("1000:1000")),
            entrypoint: vec![text("/bin/sh"), text("-c")],
            command: vec![text("true")],
            volumes: vec![text("/a"), text("/b")],
            architecture: Some(text("amd64")),
            os: Some(text("linux")),
            labels: BTreeMap::from([(text("org.example"), text("x y"))]),
            ports: vec![text("53/udp"), text("80/tcp")],
            stop_signal: Some(text("SIGINT")),
            shell: vec![text("/bin/bash"), text("-c")],
            healthcheck: Some(Healthcheck {
                test: vec![text("CMD"), text("true")],
                interval: 5_000_000_000,
                retries: 3,
                ..Healthcheck::default()
            }),
            on_build: vec![text("RUN true")],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let diff_ids = [Digest::of(b"a"), Digest::of(b"b")];
        for config in [config(), Config { os: Some("linux".to_owned()), ..Config::default() }] {
            let read = ImageConfig::parse(&write_config(&config, &diff_ids, &[])).unwrap();
            assert_eq!((read.defaults, read.diff_ids.as_slice()), (config, diff_ids.as_slice()));
        }
    }

    /// The field names are right if somebody else's reader finds everything.
    #[test]
    fn oci_spec_reads_what_is_written() {
        let step = |text: &str, is_empty| History { created_by: text.to_owned(), is_empty };
        let history = [step("COPY a b", false), step("ENV A=b", true)];
        let bytes = write_config(&config(), &[Digest::of(b"a")], &history);
        let read: oci_spec::image::ImageConfiguration = serde_json::from_slice(&bytes).unwrap();
        let defaults = read.config().as_ref().unwrap();
        assert_eq!(defaults.env().as_ref().unwrap()[1], "A=b=\"c\n");
        let sorted = |set: &Option<Vec<String>>| {
            let mut names = set.clone().unwrap();
            names.sort();
            names
        };
        assert_eq!(sorted(defaults.exposed_ports()), ["53/udp", "80/tcp"]);
        assert_eq!(sorted(defaults.volumes()), ["/a", "/b"]);
        assert_eq!(defaults.cmd().as_ref().unwrap(), &["true"]);
        assert_eq!(defaults.working_dir().as_deref(), Some("/srv"));
        assert_eq!(defaults.stop_signal().as_deref(), Some("SIGINT"));
        assert_eq!(defaults.labels().as_ref().unwrap()["org.example"], "x y");
        assert_eq!(read.rootfs().diff_ids(), &[Digest::of(b"a").to_string()]);
        let history = read.history().as_ref().unwrap();
        assert_eq!(history[1].empty_layer(), Some(true));
        assert_eq!(history[0].created_by().as_deref(), Some("COPY a b"));
    }
}

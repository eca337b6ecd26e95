//! What Apptainer looks for in an image: variables, what to run, labels, and how it was made.
//!
//! It takes them from files below `/.singularity.d` when it runs an image, and from documents
//! beside the root filesystem when it shows one; the files are made here where the image has none,
//! and the documents say what the files do. The texts are ours, after what Apptainer 1.4 does with
//! each (`internal/pkg/util/fs/files/action_script.sh`, `internal/pkg/build/sources`).
//!
//! Apptainer itself writes a variable's value in double quotes, and loses what a shell sees in it.
//! Here every value is written so that it is read back as it was.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use super::quote::{is_name, quote};
use crate::convert::flatten::{Added, Flattened};
use crate::{Config, Manifest, image_config};

/// Sourced before everything else; after it Apptainer completes `PATH`.
const VARIABLES: &str = ".singularity.d/env/10-docker2singularity.sh";
/// Where an image's own `%environment` is.
const ENVIRONMENT: &str = ".singularity.d/env/90-environment.sh";
const DEFINITION: &str = ".singularity.d/Singularity";
const LABELS: &str = ".singularity.d/labels.json";
const RUNSCRIPT: &str = ".singularity.d/runscript";
const STARTSCRIPT: &str = ".singularity.d/startscript";
const TEST: &str = ".singularity.d/test";
const HELP: &str = ".singularity.d/runscript.help";

/// A script that does nothing.
const EMPTY_SCRIPT: &str = "#!/bin/sh\n";

/// After this Apptainer takes in what its user asks for (`APPTAINERENV_…`, `--env`), so it must be
/// there. The directory is where it puts the libraries of graphics cards.
const BASE: &str = "#!/bin/sh
LD_LIBRARY_PATH=\"${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs\"
PS1=\"${PS1:-Apptainer> }\"
export LD_LIBRARY_PATH PS1
";

/// What programs before Apptainer 1.0 start, by name; newer ones have these built in.
const ACTIONS: [(&str, &str); 5] = [
    (".singularity.d/actions/exec", "exec \"$@\""),
    (".singularity.d/actions/run", "exec /.singularity.d/runscript \"$@\""),
    (".singularity.d/actions/shell", "exec /bin/sh \"$@\""),
    (".singularity.d/actions/start", "exec /.singularity.d/startscript \"$@\""),
    (".singularity.d/actions/test", "exec /.singularity.d/test \"$@\""),
];

/// Links that are older than `/.singularity.d`.
const LINKS: [(&str, &str); 6] = [
    ("singularity", ".singularity.d/runscript"),
    (".run", ".singularity.d/actions/run"),
    (".exec", ".singularity.d/actions/exec"),
    (".test", ".singularity.d/actions/test"),
    (".shell", ".singularity.d/actions/shell"),
    ("environment", ".singularity.d/env/90-environment.sh"),
];

/// What Apptainer mounts upon, where it cannot make it.
const DIRECTORIES: [&str; 9] =
    [".singularity.d/libs", "dev", "proc", "root", "var/tmp", "tmp", "etc", "sys", "home"];
const MOUNTED_FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

/// A larger file is no script or list that Apptainer shows.
const SHOWN_BYTES_MAX: u64 = 1 << 20;

/// What stands beside the root filesystem.
#[derive(Debug)]
pub(in crate::convert) struct Documents {
    /// The definition file, or what stands for it.
    pub(super) definition: Vec<u8>,
    /// What `apptainer inspect` shows.
    pub(super) inspection: Vec<u8>,
    /// The OCI configuration, with everything that the image declares.
    pub(super) oci_config: Vec<u8>,
    /// Variables whose names no shell takes: they are in the OCI configuration alone.
    pub(in crate::convert) unnamed: Vec<String>,
}

/// Adds to a tree what Apptainer wants of it. What is there stays, but for the variables of the
/// image, which are those of its configuration.
pub(in crate::convert) fn prepare(
    flattened: &mut Flattened,
    manifest: &Manifest,
) -> io::Result<Documents> {
    let config = &manifest.config;
    for path in DIRECTORIES {
        flattened.add(path, Added::Directory)?;
    }
    for path in MOUNTED_FILES {
        flattened.add(path, Added::File { mode: 0o644, content: "" })?;
    }
    let (variables, unnamed) = variables(config);
    if !config.variables.is_empty() {
        flattened.take_away(VARIABLES);
    }
    let labels = serde_json::to_string_pretty(&config.labels)?;
    let definition = format!("bootstrap: docker\nfrom: {}\n", manifest.identity);
    let (runscript, base) = (runscript(config), BASE.to_owned());
    let empty = || EMPTY_SCRIPT.to_owned();
    for (path, mode, content) in [
        (VARIABLES, 0o755, variables),
        (ENVIRONMENT, 0o755, empty()),
        (".singularity.d/env/99-base.sh", 0o755, base),
        (DEFINITION, 0o644, definition),
        (LABELS, 0o644, labels),
        (RUNSCRIPT, 0o755, runscript),
        (STARTSCRIPT, 0o755, empty()),
    ] {
        flattened.add(path, Added::File { mode, content: &content })?;
    }
    for (path, act) in ACTIONS {
        let content = format!(
            "#!/bin/sh\nfor script in /.singularity.d/env/*.sh; do . \"$script\"; done\n{act}\n"
        );
        flattened.add(path, Added::File { mode: 0o755, content: &content })?;
    }
    for (path, target) in LINKS {
        flattened.add(path, Added::Link { target })?;
    }
    let oci_config = image_config::write_defaults(config);
    let inspection = inspect(flattened)?;
    let definition = shown(flattened, DEFINITION)?.unwrap_or_default().into_bytes();
    Ok(Documents { definition, inspection, oci_config, unnamed })
}

/// The script of the image's variables, and those that are not in it.
///
/// A variable that is set stays: Apptainer has set `HOME`, and its shell makes some that cannot be
/// set. `PATH` is not set at this point, and Apptainer completes what it is set to.
fn variables(config: &Config) -> (String, Vec<String>) {
    let mut script = EMPTY_SCRIPT.to_owned();
    let mut unnamed = Vec::new();
    for (number, (name, value)) in config.variables.iter().enumerate() {
        if config.variables[number + 1..].iter().any(|(later, _)| later == name) {
            continue;
        }
        if !is_name(name) {
            unnamed.push(name.clone());
            continue;
        }
        let value = quote(value);
        script += &match name.as_str() {
            "PATH" => format!("export PATH={value}\n"),
            _ => format!("test -n \"${{{name}:-}}\" || export {name}={value}\n"),
        };
    }
    (script, unnamed)
}

/// The script that `apptainer run` starts: the entry point with the arguments that were given, or
/// with the command if there are none (OCI image-spec v1.1, `Entrypoint` and `Cmd`).
fn runscript(config: &Config) -> String {
    let words = |words: &[String]| words.iter().map(|word| quote(word)).collect::<Vec<_>>();
    let (entrypoint, command) = (words(&config.entrypoint), words(&config.command));
    let mut script = EMPTY_SCRIPT.to_owned();
    if entrypoint.is_empty() && command.is_empty() {
        script += "test $# -gt 0 || set -- /bin/sh\n";
    } else if !command.is_empty() {
        script += &format!("test $# -gt 0 || set -- {}\n", command.join(" "));
    }
    if !entrypoint.is_empty() {
        script += &format!("set -- {} \"$@\"\n", entrypoint.join(" "));
    }
    script + "exec \"$@\"\n"
}

/// What `apptainer inspect` would find in the files of the image (`pkg/inspect/metadata.go`).
fn inspect(flattened: &mut Flattened) -> io::Result<Vec<u8>> {
    let mut environment = BTreeMap::new();
    for path in [VARIABLES, ENVIRONMENT] {
        if let Some(script) = shown(flattened, path)? {
            environment.insert(format!("/{path}"), script);
        }
    }
    let labels = shown(flattened, LABELS)?.unwrap_or_default();
    let attributes = Attributes {
        environment,
        labels: serde_json::from_str(&labels).unwrap_or_default(),
        runscript: shown(flattened, RUNSCRIPT)?,
        test: shown(flattened, TEST)?,
        helpfile: shown(flattened, HELP)?,
        deffile: shown(flattened, DEFINITION)?,
        startscript: shown(flattened, STARTSCRIPT)?,
    };
    let inspection = Inspection { data: Data { attributes }, kind: "container" };
    serde_json::to_vec(&inspection).map_err(io::Error::from)
}

fn shown(flattened: &mut Flattened, path: &str) -> io::Result<Option<String>> {
    let bytes = flattened.read(path, SHOWN_BYTES_MAX)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

#[derive(Serialize)]
struct Inspection {
    data: Data,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Data {
    attributes: Attributes,
}

#[derive(Serialize)]
struct Attributes {
    environment: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runscript: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    helpfile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deffile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    startscript: Option<String>,
}

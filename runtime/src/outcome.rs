//! How a task ended, what it used, what was enforced.

use std::collections::BTreeMap;

use ric_policies::{EngineName, Protection};
use serde::{Deserialize, Serialize};

/// How a task ended. Serialised, it is the object that `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// How it ended, in one word.
    pub status: Status,
    /// The exit code that a shell would see.
    pub exit_code: i32,
    /// The result of a call, if it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// The result of a call as it travelled, if it is not JSON. Never decoded on this side.
    #[serde(skip)]
    pub result_pickle: Option<Vec<u8>>,
    /// Captured standard output; empty when it was passed through.
    pub stdout: String,
    /// Captured standard error; empty when it was passed through.
    pub stderr: String,
    /// What went wrong, for people: a traceback as the user wrote it, or the error with its hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Digests of what travelled.
    pub payload: PayloadDigests,
    /// What it used.
    pub usage: Usage,
    /// Where it ran.
    pub container: ContainerFacts,
    /// What was enforced, and how; read back.
    pub enforced: BTreeMap<Protection, Enforced>,
    /// Output files: name to SHA-256.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
    /// Input files: name to SHA-256.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
}

/// How a task ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It ended by itself with exit code 0 or a result.
    Ok,
    /// The task's own error.
    Failed,
    /// Policy does not allow it. Nothing was started.
    Refused,
    /// It passed its time.
    Timeout,
    /// It passed its memory.
    OutOfMemory,
    /// A signal that neither we nor its limits sent.
    Killed,
    /// The caller ended it.
    Cancelled,
    /// A payload did not match its digest.
    Corrupt,
    /// The machine or the daemon went away.
    Lost,
    /// Nothing was queued, because too much is: come back later.
    Busy,
    /// Ours.
    Error,
}

/// Whether a protection held, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Enforced {
    /// By what, as read back.
    By(String),
    /// A built-in default that this host cannot enforce.
    Not {
        /// Why not.
        not_enforced: String,
    },
}

/// Digests of what travelled, 64 hex digits each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct PayloadDigests {
    /// Of the function's source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_sha256: Option<String>,
    /// Of the arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments_sha256: Option<String>,
    /// Of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_sha256: Option<String>,
}

/// What a task used.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Usage {
    /// Wall-clock seconds from exec to exit.
    pub wall_s: f64,
    /// Processor seconds, all processes.
    pub cpu_s: f64,
    /// Most bytes of memory at once; of the cgroup where there is one, else of the largest process.
    pub memory_peak_bytes: u64,
}

/// Where a task ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerFacts {
    /// Name of the container.
    pub id: String,
    /// Engine.
    pub engine: EngineName,
    /// Image, as [`crate::Sandbox::image`] prints it.
    pub image: String,
    /// Whether it had run a task before.
    pub warm: bool,
}

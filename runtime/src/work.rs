//! The decision about the task in the box: command or call, variables, directory, time, bounds.

use std::time::Duration;

use serde::Serialize;

use crate::{Arguments, InputAsk, OutputAsk, Preload, SecretAsk};

/// The decision about one task in a container.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Work {
    /// What runs.
    pub program: Program,
    /// The whole environment, in order; nothing is inherited.
    pub variables: Vec<(String, String)>,
    /// Working directory inside.
    pub workdir: String,
    /// Wall-clock time from exec to exit; the container is killed when it passes.
    pub deadline: Option<Duration>,
    /// Files to appear in `/task`.
    pub inputs: Vec<InputAsk>,
    /// Secrets to appear in `/run/secrets`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretAsk>,
    /// Files of `/task` to be copied out.
    pub outputs: Vec<OutputAsk>,
    /// Give it a terminal of its own.
    pub terminal: bool,
    /// Most bytes of each kind of output.
    pub bounds: Bounds,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Program {
    /// A command and its arguments.
    Command(Vec<String>),
    /// A Python function, in the worker.
    Call(Call),
}

/// A Python function in the worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Call {
    /// Interpreters to try in order, looked up in `PATH` unless absolute.
    pub interpreters: Vec<String>,
    /// Name shown in tracebacks.
    pub file_name: String,
    /// Source text.
    pub source: Vec<u8>,
    /// Function in it.
    pub function: String,
    /// Arguments.
    pub arguments: Arguments,
    /// What the worker imports before it.
    #[serde(skip_serializing_if = "Preload::is_empty")]
    pub preload: Preload,
}

/// Most bytes of what comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bounds {
    /// Of standard output, when captured; the rest is thrown away and said to be.
    pub stdout_bytes_max: u64,
    /// Of standard error, when captured.
    pub stderr_bytes_max: u64,
    /// Of a call's result.
    pub result_bytes_max: u64,
    /// Of one output file.
    pub output_bytes_max: u64,
}

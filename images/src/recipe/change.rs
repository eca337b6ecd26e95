//! What an instruction declares about the image, and what that does to a configuration.

use serde::{Deserialize, Serialize};

use crate::Config;

/// A change to what an image declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Change {
    /// Sets a variable, in place if it is there.
    Variable(String, String),
    /// Sets the working directory, absolute.
    Workdir(String),
    /// Sets whom processes run as.
    User(String),
    /// Sets the entry point.
    Entrypoint(Vec<String>),
    /// Sets the command.
    Command(Vec<String>),
    /// Sets a label.
    Label(String, String),
    /// Adds a port, `NUMBER/PROTOCOL`.
    Port(String),
    /// Adds a volume.
    Volume(String),
    /// Sets the signal that asks processes to stop.
    StopSignal(String),
    /// Sets the shell of later instructions.
    Shell(Vec<String>),
    /// Sets how to see whether a container is well.
    Healthcheck(Healthcheck),
    /// Adds an instruction for builds upon this image.
    OnBuild(String),
    /// The base's instructions for builds upon it have been taken over.
    OnBuildDone,
}

/// How to see whether a container is well: shown, never run. Times in nanoseconds, 0 for the
/// default (Docker image specification v1.2, "Healthcheck").
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", PROGRAM, …]` or `["CMD-SHELL", LINE]`.
    pub test: Vec<String>,
    /// Between two.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// Until one counts as failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// In which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Between two in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// Failures in a row until the container counts as unwell.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Change {
    /// Makes the change.
    pub fn apply(&self, config: &mut Config) {
        match self.clone() {
            Change::Variable(name, value) => {
                match config.variables.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, old)) => *old = value,
                    None => config.variables.push((name, value)),
                }
            }
            Change::Workdir(workdir) => config.workdir = Some(workdir),
            Change::User(user) => config.user = Some(user),
            Change::Entrypoint(entrypoint) => config.entrypoint = entrypoint,
            Change::Command(command) => config.command = command,
            Change::Label(name, value) => {
                config.labels.insert(name, value);
            }
            Change::Port(port) => add(&mut config.ports, port),
            Change::Volume(volume) => add(&mut config.volumes, volume),
            Change::StopSignal(signal) => config.stop_signal = Some(signal),
            Change::Shell(shell) => config.shell = shell,
            Change::Healthcheck(healthcheck) => config.healthcheck = Some(healthcheck),
            Change::OnBuild(instruction) => config.on_build.push(instruction),
            Change::OnBuildDone => config.on_build.clear(),
        }
    }
}

/// Adds to a set that is kept sorted, as the reader of configurations gives it.
fn add(set: &mut Vec<String>, value: String) {
    if let Err(at) = set.binary_search(&value) {
        set.insert(at, value);
    }
}

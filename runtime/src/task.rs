//! What a caller asks for. Untrusted; nothing here has been allowed yet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ric_images::{LimitWishes, Reference};
use ric_policies::{Access, EngineName, Fresh, Network};
use serde::{Deserialize, Serialize};

/// What a caller asks for: environment, work, inputs, wishes. Untrusted.
///
/// `None` means "asks for nothing": the policy's default applies, and may be dropped where a host
/// cannot enforce it. `Some` is enforced or refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Who asks, as the kernel says.
    pub caller: Caller,
    /// The image; in JSON its canonical text.
    #[serde(with = "image_text")]
    pub image: Reference,
    /// What shall run.
    pub work: WorkAsk,
    /// The engine, if a certain one is wanted.
    #[serde(default)]
    pub engine: Option<EngineName>,
    /// Directories and files to be mounted.
    #[serde(default)]
    pub mounts: Vec<MountAsk>,
    /// Limits.
    #[serde(default)]
    pub limits: LimitWishes,
    /// The network.
    #[serde(default)]
    pub network: Option<Network>,
    /// Whose ids the task runs with.
    #[serde(default)]
    pub user: Option<UserChoice>,
    /// Working directory in the sandbox.
    #[serde(default)]
    pub workdir: Option<PathBuf>,
    /// Directories inside in which programs are looked for before those of the image's `PATH`.
    #[serde(default)]
    pub path_first: Vec<PathBuf>,
    /// Environment variables, which win over the image's.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// Files to appear in `/task`, read-only.
    #[serde(default)]
    pub inputs: Vec<InputAsk>,
    /// Secrets to appear in `/run/secrets`.
    #[serde(default)]
    pub secrets: Vec<SecretAsk>,
    /// Files of `/task` to be copied out.
    #[serde(default)]
    pub outputs: Vec<OutputAsk>,
    /// How much of a warm container may be shared with earlier tasks.
    pub fresh: Fresh,
    /// Keeps tasks of one uid apart from each other, for callers that serve several people.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Give the task a terminal of its own.
    #[serde(default)]
    pub terminal: bool,
}

impl Task {
    /// A task that asks for `work` in `image` and nothing else: policy's defaults apply.
    #[must_use]
    pub fn new(caller: Caller, image: Reference, work: WorkAsk) -> Task {
        Task {
            caller,
            image,
            work,
            engine: None,
            mounts: Vec::new(),
            limits: LimitWishes::default(),
            network: None,
            user: None,
            workdir: None,
            path_first: Vec::new(),
            variables: BTreeMap::new(),
            inputs: Vec::new(),
            secrets: Vec::new(),
            outputs: Vec::new(),
            fresh: Fresh::Container,
            tenant: None,
            terminal: false,
        }
    }
}

/// Who asks, as the kernel says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    /// Login name, if the machine knows one.
    pub name: Option<String>,
}

/// What shall run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkAsk {
    /// A command and its arguments. Empty: the image's entry point and command.
    Command(Vec<String>),
    /// A Python function.
    Call(FunctionAsk),
}

/// A Python function and its arguments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionAsk {
    /// Name shown in tracebacks, such as `hello.py`.
    pub file_name: String,
    /// Source text of the whole file.
    pub source: Vec<u8>,
    /// Name of the function in it.
    pub function: String,
    /// Arguments.
    pub arguments: Arguments,
    /// The Python to run it in, if a certain one is wanted: a path inside, or a name that is looked
    /// up in `PATH`.
    #[serde(default)]
    pub interpreter: Option<String>,
    /// What the worker imports before its first call.
    #[serde(default)]
    pub preload: Preload,
}

/// Modules that a worker imports before its first call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preload {
    /// The environment that wants them; for messages.
    pub environment: String,
    /// Names of modules, in order.
    pub modules: Vec<String>,
}

/// Arguments of a call, in the form in which they travel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arguments {
    /// JSON values.
    Json {
        /// Positional.
        positional: Vec<Argument>,
        /// By name.
        named: BTreeMap<String, Argument>,
    },
    /// A pickle of `(args, kwargs)` made by a caller that is itself Python.
    Pickle {
        /// The bytes. Never decoded on this side.
        bytes: Vec<u8>,
        /// Python `major.minor` that made it.
        python: String,
    },
}

/// One JSON argument.
pub type Argument = serde_json::Value;

impl Preload {
    /// Whether there is nothing to import.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }
}

/// A path outside the sandbox, opened by the caller: what the kernel says about the descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PathFacts {
    /// As the caller wrote it; for messages.
    pub asked: PathBuf,
    /// Real path of the descriptor, symbolic links resolved.
    pub real: PathBuf,
    /// Device number of the inode.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// What it is.
    pub kind: PathKind,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PathKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Anything else: device, socket, pipe.
    Special,
}

/// A mount that a task asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountAsk {
    /// What is mounted.
    pub source: PathFacts,
    /// Index of the open descriptor in the list that travels beside the task.
    pub descriptor: usize,
    /// Absolute path in the sandbox.
    pub target: PathBuf,
    /// Access asked for; `None`: read-only.
    pub access: Option<Access>,
}

/// Whose ids a task runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserChoice {
    /// The caller's.
    Caller,
    /// The image's `User`.
    Image,
    /// Uid 0 of a user namespace of subordinate ids.
    Root,
}

/// A file that shall appear in `/task`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputAsk {
    /// The file.
    pub source: PathFacts,
    /// Index of the open descriptor in the list that travels beside the task.
    pub descriptor: usize,
    /// Name in `/task`, without slashes.
    pub name: String,
}

/// Most bytes of one secret.
pub const SECRET_BYTES_MAX: u64 = 512 << 10;

/// A secret that shall appear in `/run/secrets`. What it is stands nowhere but in the memory file
/// behind its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretAsk {
    /// Name in `/run/secrets`, without slashes.
    pub name: String,
    /// Index of the memory file in the list of descriptors that travels beside the task.
    pub descriptor: usize,
}

/// A file of `/task` that shall be copied out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputAsk {
    /// Name in `/task`, without slashes.
    pub name: String,
    /// Where the caller wants it; for messages. The caller's side opens it.
    pub target: PathBuf,
}

/// A reference in JSON is its canonical text, so that there is one grammar.
mod image_text {
    use ric_images::Reference;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(image: &Reference, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(image)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Reference, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

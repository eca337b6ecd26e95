//! Build files as plain values: what a build does, in order, before any of it is done.
//!
//! A [`Recipe`] is a build file that was read: a Dockerfile, a Singularity definition file, or an
//! environment's packages. It has stages; a stage begins with a base and goes on with [`Step`]s.
//! What the steps are may depend on what the base declares (its variables, its `ONBUILD`), so they
//! are asked for with the base's configuration. All of it is pure: whoever carries a recipe out
//! reads the disk, asks the network and starts sandboxes.
//!
//! **Invariant:** the same text, arguments and base give the same steps; what a layer is made of
//! stands in its [`Act`], whose JSON (`serde_json`, fields in the order written here) is what
//! cache keys are made of. Lines and shown texts are not in it.

mod change;
mod definition;
mod dockerfile;
mod error;
mod expand;

use serde::{Serialize, Serializer};

use crate::{Config, Reference};

pub use change::{Change, Healthcheck};
pub use definition::Definition;
pub use dockerfile::Dockerfile;
pub use error::{Place, RecipeError};

/// Variables about proxies, which commands find without any file asking for them, and which are in
/// no image (Dockerfile reference, "Predefined ARGs").
pub const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What Docker gives to commands where an image says nothing.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where a script lies that a file holds: `/dev` of a step is in no layer.
pub(crate) const SCRIPTS: &str = "/dev/pipes";

/// A build file that was read.
pub trait Recipe {
    /// The file, as its user named it.
    fn file(&self) -> &str;

    /// Its stages; each stands on images, or on stages before it.
    fn stages(&self) -> &[Stage];

    /// The stage whose result is wanted: the one asked for, or the last.
    fn target(&self) -> usize;

    /// What the user should know, one sentence each.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// What a stage does, given what its base declares. `base` is empty for [`Base::Scratch`].
    ///
    /// # Errors
    /// See [`RecipeError`]: what can only be found wrong once the base is known.
    fn steps(&self, stage: usize, base: &Config) -> Result<Vec<Step>, RecipeError>;

    /// The stages that the target needs, itself included, in the order in which to build them.
    fn needed(&self) -> Vec<usize> {
        let stages = self.stages();
        let mut wanted = vec![false; stages.len()];
        if let Some(target) = wanted.get_mut(self.target()) {
            *target = true;
        }
        for (number, stage) in stages.iter().enumerate().rev() {
            if wanted[number] {
                stage.needs.iter().for_each(|needed| wanted[*needed] = true);
            }
        }
        (0..stages.len()).filter(|number| wanted[*number]).collect()
    }
}

/// A part of a recipe that makes one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// What other stages call it.
    pub name: Option<String>,
    /// What it begins with.
    pub base: Base,
    /// Line of the file in which it begins, from 1.
    pub line: usize,
    /// Stages before it that it stands on or takes files from, each once, ascending.
    pub needs: Vec<usize>,
}

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Base {
    /// Nothing at all.
    Scratch,
    /// An image.
    Image(#[serde(serialize_with = "as_text")] Reference),
    /// The result of a stage before.
    Stage(usize),
}

/// One instruction: makes at most one layer, then changes the image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Line of the file, from 1.
    pub line: usize,
    /// The instruction as its user knows it, on one line: for the terminal and the history.
    pub text: String,
    /// What becomes a layer.
    pub act: Option<Act>,
    /// What is declared, in this order, once the layer is made.
    pub changes: Vec<Change>,
}

/// What becomes a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Act {
    /// What a command leaves behind.
    Run(Box<Run>),
    /// Copies of files.
    Copy(Box<CopyFiles>),
    /// What the recipe itself holds. Parents that are missing are made.
    Write(Vec<Entry>),
    /// Nothing: the command has to succeed, and what it changes is thrown away.
    Test(Box<Run>),
}

/// A command to run in a sandbox whose root is what is below, writable.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Run {
    /// Program and arguments; the program is looked up in `PATH` of `variables`.
    pub command: Vec<String>,
    /// Files that it finds, read-only, and that are in no layer.
    pub files: Vec<RunFile>,
    /// All of its environment.
    pub variables: Vec<(String, String)>,
    /// More of its environment that makes no other layer: proxies and mirrors of this machine.
    #[serde(skip)]
    pub machine: Unkeyed,
    /// Where it starts, absolute.
    pub workdir: String,
    /// Whom it runs as, as in `User` of an image; root if none.
    pub user: Option<String>,
    /// Supplementary groups, once the image says which.
    #[serde(skip)]
    pub groups: Vec<u32>,
    /// What it sees besides the image.
    pub mounts: Vec<Mount>,
    /// What it may talk to.
    pub network: Network,
    /// Paths of which nothing goes into the layer, absolute, with all below.
    pub left_out: Vec<String>,
    /// Seconds since 1970 that no time in the layer is later than, so that it comes out the same on
    /// another day.
    pub latest_mtime_s: Option<i64>,
    /// What the layer depends on, besides this value.
    pub key: Key,
}

/// A file that a command finds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunFile {
    /// Where, absolute.
    pub path: String,
    /// What is in it.
    pub content: String,
    /// Its mode: executable or not.
    pub mode: u32,
}

/// Variables that are part of no key, no layer, no message: they may hold passwords.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Unkeyed(pub Vec<(String, String)>);

impl std::fmt::Debug for Unkeyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// What a layer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub enum Key {
    /// On all that is below it.
    #[default]
    Below,
    /// On what this text names, and on nothing else below: layers of the same text are shared by
    /// all images.
    Stated(String),
}

/// What a build step may talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Network {
    /// What policy gives to builds.
    #[default]
    Granted,
    /// Nothing but itself.
    Loopback,
}

/// What a command sees besides the image. Targets are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Mount {
    /// A directory that outlives the build and is in no layer.
    Cache {
        /** Caches of the same name are the same. */
        id: String,
        /** Where. */
        target: String,
        /** Whether several builds may use it at once. */
        sharing: Sharing,
        /** Mode of the directory when it is made. */
        mode: u32,
        /** Its owner when it is made, as the step sees it. */
        uid: u32,
        /** Its group. */
        gid: u32,
        /** Whether writing is refused. */
        is_read_only: bool,
    },
    /// A secret of whoever builds.
    Secret {
        /** Its name. */
        id: String,
        /** The file it is in, if it is to be one. */
        target: Option<String>,
        /** The variable it is in, if it is to be one. */
        variable: Option<String>,
        /** Whether its absence is an error. */
        is_required: bool,
        /** Mode of the file. */
        mode: u32,
        /** Its owner, as the step sees it. */
        uid: u32,
        /** Its group. */
        gid: u32,
    },
    /// Files from elsewhere.
    Bind {
        /** Where they are. */
        from: Origin,
        /** Path in there. */
        source: String,
        /** Where they are shown. */
        target: String,
        /** Whether the step may write; what it writes is thrown away. */
        is_writable: bool,
    },
    /// Memory, empty at first.
    Tmpfs {
        /** Where. */
        target: String,
        /** Bytes at most. */
        bytes_max: Option<u64>,
    },
}

/// Whether several builds may use a cache at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Sharing {
    /// Yes.
    #[default]
    Shared,
    /// Whoever comes second gets one of its own.
    Private,
    /// Whoever comes second waits.
    Locked,
}

/// Where files are taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Origin {
    /// The directory that is built from.
    Context,
    /// The result of a stage.
    Stage(usize),
    /// An image.
    Image(#[serde(serialize_with = "as_text")] Reference),
}

/// Copies files into the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyFiles {
    /// Where they are.
    pub from: Origin,
    /// Paths and patterns in there.
    pub sources: Vec<String>,
    /// Files that the recipe itself holds, copied after the sources.
    pub inline: Vec<InlineFile>,
    /// Where they go, absolute. A directory if it ends with a slash.
    pub target: String,
    /// `USER[:GROUP]` of the copies, names as in the image; root if none.
    pub owner: Option<String>,
    /// Mode of the copies; that of the sources if none.
    pub mode: Option<CopyMode>,
    /// Patterns of what is left out, as in `.dockerignore`.
    pub left_out: Vec<String>,
    /// Whether the sources' own directories are made in the target.
    pub keeps_parents: bool,
    /// Whether the target is a path of the layer alone: no link below is followed.
    pub is_link: bool,
    /// Whether archives among the sources are unpacked.
    pub unpacks: bool,
    /// Which rules decide where copies go.
    pub rules: Rules,
}

/// The mode of copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum CopyMode {
    /// These bits.
    Bits(u32),
    /// A change of each source's own, as chmod(1) reads it: `u=rwX,go=rX`.
    Symbolic(String),
}

/// Which rules decide where copies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Rules {
    /// Dockerfile's `COPY`: of a directory its contents are copied.
    #[default]
    Docker,
    /// cp(1), which `%files` of a definition file follows: the directory itself is copied into one
    /// that is there.
    Cp,
}

/// A file that the recipe itself holds, to be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InlineFile {
    /// Its name, where the target is a directory.
    pub name: String,
    /// What is in it.
    pub content: String,
}

/// Something that the recipe itself puts into the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Entry {
    /// A directory; one that is there already is left as it is.
    Directory {
        /** Where, absolute. */
        path: String,
        /** `USER[:GROUP]`, names as in the image; root if none. */
        owner: Option<String>,
    },
    /// A file of root's.
    File {
        /** Where, absolute. */
        path: String,
        /** What is in it. */
        content: String,
        /** Its mode. */
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /** Where, absolute. */
        path: String,
        /** What it says. */
        target: String,
    },
}

/// What a caller says about a build, besides the file.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// `--build-arg`, in order; the last of a name counts.
    pub arguments: Vec<(String, String)>,
    /// `--target`.
    pub target: Option<String>,
    /// Architecture that is built for and on, in Go's words: `amd64`.
    pub architecture: String,
    /// The directory that is built from, absolute: where a definition file names a path of the
    /// machine, it has to be below.
    pub directory: Option<String>,
    /// Whether the tests of a definition file are run.
    pub tests: bool,
}

/// The stage of `stages` that is `wanted`, by name or number; the last if none is.
fn find_target(file: &str, stages: &[Stage], wanted: Option<&str>) -> Result<usize, RecipeError> {
    let Some(wanted) = wanted else { return Ok(stages.len() - 1) };
    let by_number = || wanted.parse().ok().filter(|number: &usize| *number < stages.len());
    find_stage(stages, wanted).or_else(by_number).ok_or_else(|| {
        let named = stages.iter().enumerate();
        let names = named.map(|(at, stage)| stage.name.clone().unwrap_or(at.to_string()));
        RecipeError::NoStage {
            file: file.to_owned(),
            stage: wanted.to_owned(),
            stages: names.collect::<Vec<_>>().join(", "),
        }
    })
}

/// The stage of this name, whatever its case.
fn find_stage(stages: &[Stage], name: &str) -> Option<usize> {
    let is_called =
        |stage: &Stage| stage.name.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(name));
    stages.iter().position(is_called)
}

/// `path` from the root, without `.` and `..`, seen from `workdir`. Keeps a slash at its end.
fn absolute(workdir: &str, path: &str) -> String {
    let from = if path.starts_with('/') { "" } else { workdir };
    let mut components: Vec<&str> = Vec::new();
    for component in from.split('/').chain(path.split('/')) {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            _ => components.push(component),
        }
    }
    let is_directory = path.ends_with('/') || path == "." || path.ends_with("/.");
    let end = if is_directory && !components.is_empty() { "/" } else { "" };
    format!("/{}{end}", components.join("/"))
}

/// A text for a terminal, whatever is in it.
fn on_one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

fn as_text<S: Serializer>(reference: &Reference, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(reference)
}

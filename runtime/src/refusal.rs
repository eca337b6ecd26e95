//! Why there is no sandbox: a refusal names the rule, what was asked, what is allowed, a way out.
//!
//! Made only by [`admit`](crate::admit()) and [`plan`](crate::plan()): nothing was fetched, nothing
//! was started. Text that came from a caller or an image is escaped and cut before it is shown.

use std::fmt;
use std::path::{Path, PathBuf};

use ric_policies::{Access, EngineName, Fresh, Network, Origin, Policy, Protection};

/// Exit code of a refusal: do not retry.
pub const REFUSED_EXIT_CODE: i32 = 122;

/// Why [`admit`](crate::admit()) or [`plan`](crate::plan()) said no. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The image is denied, or not allowed.
    #[error(
        "{rule} does not allow image {}: {}",
        plain(.reference), told(.denied_by.as_deref(), .allowed)
    )]
    Image {
        /// The image, as canonical text.
        reference: String,
        /// The rule that denies it, or the list that does not allow it.
        rule: Box<Rule>,
        /// The pattern of `deny` that matched; `None`: no pattern of `allow` did.
        denied_by: Option<String>,
        /// The patterns of `allow`.
        allowed: Vec<String>,
    },
    /// Images are not built here.
    #[error("{rule} does not allow building images")]
    Build {
        /// The rule.
        rule: Box<Rule>,
    },
    /// A name without a registry, where policy does not say which registry it means.
    #[error("{rule} does not allow image names without a registry, such as {}", plain(.name))]
    ShortName {
        /// The name.
        name: String,
        /// The rule.
        rule: Box<Rule>,
    },
    /// The image is made for another machine.
    #[error("image {} is for {}, and this machine is {machine}", plain(.reference), bare(.image))]
    Platform {
        /// The image.
        reference: String,
        /// What it is made for, `os/architecture`.
        image: String,
        /// What this machine is.
        machine: String,
    },
    /// An engine that policy does not list.
    #[error("{rule} does not allow engine `{}`: {}", engine(*.asked), allows(engines(.allowed)))]
    Engine {
        /// The engine asked for.
        asked: EngineName,
        /// The engines that policy lists.
        allowed: Vec<EngineName>,
        /// The rule.
        rule: Box<Rule>,
    },
    /// No engine that policy lists can be used.
    #[error("cannot use engine {}: {lack}", engines(.tried).collect::<Vec<_>>().join(" or "))]
    EngineUnavailable {
        /// The engines tried.
        tried: Vec<EngineName>,
        /// What is missing.
        lack: EngineLack,
    },
    /// A protection that was demanded and cannot be had here.
    #[error("{} {demand} cannot be enforced: {why}", protection(*.required))]
    Protection {
        /// The protection.
        required: Protection,
        /// Who demands it.
        demand: Demand,
        /// Why it cannot be had.
        why: String,
        /// What to change.
        remedy: String,
        /// Who can change it.
        actor: Actor,
    },
    /// More than the policy's most.
    #[error("{rule} allows at most {most} of {limit}, and {asked} was asked for")]
    Limit {
        /// What is limited, in the policy's word: `memory`, `cpus`, `pids`, `time`.
        limit: &'static str,
        /// The value asked for, with its unit.
        asked: String,
        /// The most, with its unit.
        most: String,
        /// The rule.
        rule: Box<Rule>,
    },
    /// A network that policy does not list.
    #[error("{rule} does not allow network `{}`: {}", network(*.asked), networks(.allowed))]
    Network {
        /// The network asked for.
        asked: Network,
        /// The networks allowed.
        allowed: Vec<Network>,
        /// The rule.
        rule: Box<Rule>,
    },
    /// Less new for each task than policy demands.
    #[error(
        "{rule} demands that each task gets at least a new {}, and `{}` was asked for",
        fresh(*.least), fresh(*.asked)
    )]
    Fresh {
        /// What was asked to be new.
        asked: Fresh,
        /// The least that has to be.
        least: Fresh,
        /// The rule.
        rule: Box<Rule>,
    },
    /// A mount that policy does not list, or with more access than it lists.
    #[error(
        "{rule} does not allow mounting {} {}: {}",
        shown(.source_path), access(*.asked), at_most(*.most, .allowed)
    )]
    Mount {
        // Not `source`: thiserror takes a field of that name for the cause.
        /// The real path of what should be mounted.
        source_path: PathBuf,
        /// The access asked for.
        asked: Access,
        /// The most that policy allows; `None`: it does not list this path.
        most: Option<Access>,
        /// The paths that it lists.
        allowed: Vec<PathBuf>,
        /// The rule, or the list that has none for this path.
        rule: Box<Rule>,
    },
    /// A path outside that no policy can allow to be mounted.
    #[error("cannot mount {}: {why}", shown(.source_path))]
    MountSource {
        /// The real path.
        source_path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A path inside that nothing may be mounted on.
    #[error("cannot mount on {} in the sandbox: {why}", shown(.target))]
    MountTarget {
        /// The path inside.
        target: PathBuf,
        /// Why not.
        why: String,
    },
    /// Ids that the task cannot have.
    #[error("cannot run as {asked}: {why}")]
    User {
        /// The ids asked for.
        asked: String,
        /// Why not.
        why: String,
        /// A way out.
        remedy: String,
        /// Who can go it.
        actor: Actor,
    },
    /// A function for `host:` on a machine without a Python.
    #[error("this machine has no Python 3.8 or later in {looked_in} for functions in `host:`")]
    Interpreter {
        /// Where it was looked for.
        looked_in: String,
    },
    /// A value that means nothing, whatever the policy.
    #[error("{what} {}: {why}", plain(.value))]
    Malformed {
        /// What it was given for.
        what: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Who can do something about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// Whoever asked: ask otherwise.
    User,
    /// Whoever writes the policy.
    Site,
    /// Whoever runs the machine.
    Host,
    /// Whoever writes this program.
    Us,
}

/// What is missing for an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineLack {
    /// This version of the program cannot speak to it.
    NotInThisVersion {
        /// The engines that can do what is asked.
        can: Vec<EngineName>,
    },
    /// What is asked for cannot be had from it anywhere.
    Task {
        /// What cannot be had.
        detail: String,
        /// How to ask otherwise.
        remedy: String,
    },
    /// This machine lacks something; what was tried, and what the kernel said.
    Host {
        /// What was tried, and what the kernel said.
        detail: String,
        /// What to change.
        remedy: String,
    },
}

/// Who demands a protection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// The task, with this flag.
    Task(&'static str),
    /// A line of the policy.
    Policy(Box<Rule>),
    /// No sandbox is without it.
    Always,
}

/// A rule of a policy, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Name of the policy.
    pub policy: String,
    /// The key, such as `mounts`.
    pub key: &'static str,
    /// `FILE:LINE`, or that it is the built-in default.
    pub place: String,
}

impl Rule {
    /// A rule under `key` that was set at `origin`. In a box, so that what is no refusal, which is
    /// nearly everything, is not as large as one.
    #[must_use]
    pub fn at(policy: &Policy, key: &'static str, origin: &Origin) -> Box<Self> {
        Box::new(Self { policy: policy.name.clone(), key, place: origin.to_string() })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy `{}` ({})", self.policy, self.place)
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(flag) => write!(f, "that `{flag}` asks for"),
            Self::Policy(rule) => write!(f, "that {rule} demands under `{}:`", rule.key),
            Self::Always => f.write_str("that every sandbox has"),
        }
    }
}

impl fmt::Display for EngineLack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInThisVersion { can } => {
                let can: Vec<String> = engines(can).collect();
                write!(f, "this version of run-in-container has only {} for it", can.join(" and "))
            }
            Self::Host { detail, .. } | Self::Task { detail, .. } => f.write_str(detail),
        }
    }
}

impl Refusal {
    /// A way out, as one sentence without a full stop.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Image { denied_by: Some(pattern), .. } => {
                format!(
                    "use another image, or ask your site about `{pattern}` under `images: deny:`"
                )
            }
            Self::Image { denied_by: None, rule, .. } => {
                let list = if rule.key == "build" { "build: bases:" } else { "images: allow:" };
                format!("use another image, or ask your site to add it under `{list}`")
            }
            Self::Build { .. } => {
                "build it elsewhere and pull it, or ask your site about `build: allow:`".to_owned()
            }
            Self::ShortName { name, .. } => {
                format!("name the registry, as in `docker://registry.example.org/{}`", bare(name))
            }
            Self::Platform { machine, .. } => format!("use an image made for {machine}"),
            Self::Engine { asked, .. } => format!(
                "drop `--engine {}`, or ask your site to add it under `engines:`",
                engine(*asked)
            ),
            Self::EngineUnavailable { lack: EngineLack::NotInThisVersion { .. }, .. } => {
                "use `--engine native`, if the site's `engines:` allow it".to_owned()
            }
            Self::EngineUnavailable {
                lack: EngineLack::Host { remedy, .. } | EngineLack::Task { remedy, .. },
                ..
            }
            | Self::Protection { remedy, .. }
            | Self::User { remedy, .. } => remedy.clone(),
            Self::Limit { limit, most, .. } => format!(
                "ask for at most {most}, or ask your site to raise `limits: {limit}: most:`"
            ),
            Self::Network { asked, rule, .. } => format!(
                "drop `--network {}`, or ask your site about `{}:`",
                network(*asked),
                rule.key
            ),
            Self::Fresh { asked, least, .. } => format!(
                "use `--fresh {}` instead of `{}`, or ask your site about `fresh:`",
                fresh(*least),
                fresh(*asked)
            ),
            Self::Mount { most: Some(most), .. } => {
                format!("mount it {}, or ask your site to change the rule", access(*most))
            }
            Self::Mount { source_path, most: None, .. } => format!(
                "drop the mount of {}, or ask your site to add it under `mounts:`",
                shown(source_path)
            ),
            Self::MountSource { .. } => "mount a directory or file of your own data".to_owned(),
            Self::MountTarget { .. } => "choose another path in the sandbox".to_owned(),
            Self::Interpreter { .. } => "install Python 3, use `--image` with an image that has \
                one, or ask your site to add its directory under `host_paths:`"
                .to_owned(),
            Self::Malformed { what, .. } => format!("give another {what}"),
        }
    }

    /// Who can do something about it.
    #[must_use]
    pub fn must_act(&self) -> Actor {
        match self {
            Self::Image { .. }
            | Self::Build { .. }
            | Self::ShortName { .. }
            | Self::Platform { .. }
            | Self::Engine { .. }
            | Self::Limit { .. }
            | Self::Network { .. }
            | Self::Fresh { .. }
            | Self::Mount { .. }
            | Self::MountSource { .. }
            | Self::MountTarget { .. }
            | Self::Malformed { .. } => Actor::User,
            Self::EngineUnavailable { lack: EngineLack::NotInThisVersion { .. }, .. } => Actor::Us,
            Self::EngineUnavailable { lack: EngineLack::Task { .. }, .. } => Actor::User,
            Self::EngineUnavailable { lack: EngineLack::Host { .. }, .. }
            | Self::Interpreter { .. } => Actor::Host,
            Self::Protection { actor, .. } | Self::User { actor, .. } => *actor,
        }
    }
}

/// Most characters of a caller's text that a message repeats.
const SHOWN_CHARS_MAX: usize = 200;

/// Most entries of a list that a message repeats.
const SHOWN_ENTRIES_MAX: usize = 8;

/// `text` without control characters and not too long, so that a message cannot drive a terminal.
fn bare(text: &str) -> String {
    // Quotes are harmless, and escaped ones hard to read.
    let escaped = text.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"");
    match escaped.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &escaped[..end]),
        None => escaped,
    }
}

fn plain(text: &str) -> String {
    format!("`{}`", bare(text))
}

fn shown(path: &Path) -> String {
    bare(&path.to_string_lossy())
}

/// `it allows A, B`, cut where it becomes long.
fn allows(entries: impl ExactSizeIterator<Item = String>) -> String {
    let (count, all) = (entries.len(), entries.take(SHOWN_ENTRIES_MAX).collect::<Vec<_>>());
    match count {
        0 => "it allows none".to_owned(),
        _ if count > all.len() => format!("it allows {} and others", all.join(", ")),
        _ => format!("it allows {}", all.join(", ")),
    }
}

fn told(denied_by: Option<&str>, allowed: &[String]) -> String {
    match denied_by {
        Some(pattern) => format!("{} denies it", plain(pattern)),
        None => allows(allowed.iter().map(|pattern| plain(pattern))),
    }
}

fn at_most(most: Option<Access>, allowed: &[PathBuf]) -> String {
    match most {
        Some(most) => format!("it allows {} at most", access(most)),
        None => allows(allowed.iter().map(|path| shown(path))),
    }
}

fn access(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "read-only",
        Access::ReadWrite => "read-write",
    }
}

fn network(network: Network) -> &'static str {
    match network {
        Network::Loopback => "loopback",
        Network::Host => "host",
    }
}

fn fresh(fresh: Fresh) -> &'static str {
    match fresh {
        Fresh::Nothing => "nothing",
        Fresh::Process => "process",
        Fresh::Container => "container",
    }
}

fn networks(all: &[Network]) -> String {
    allows(all.iter().map(|one| format!("`{}`", network(*one))))
}

/// An engine in the words of `--engine`.
pub(crate) fn engine(engine: EngineName) -> &'static str {
    match engine {
        EngineName::Native => "native",
        EngineName::Oci => "oci",
        EngineName::Docker => "docker",
        EngineName::Apptainer => "apptainer",
        EngineName::Shifter => "shifter",
    }
}

fn engines(all: &[EngineName]) -> impl ExactSizeIterator<Item = String> {
    all.iter().map(|one| format!("`{}`", engine(*one)))
}

/// A protection, as the subject of a sentence.
pub(crate) fn protection(protection: Protection) -> &'static str {
    match protection {
        Protection::Memory => "the memory limit",
        Protection::Cpus => "the processor limit",
        Protection::Pids => "the limit of processes",
        Protection::Seccomp => "the system call filter",
        Protection::Devices => "the list of devices",
        Protection::Namespaces => "the separation by namespaces",
        Protection::Network => "the network of its own",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_cannot_drive_a_terminal_or_fill_it() {
        let name = format!("a\n\x1b[2J\u{202e}it's{}", "x".repeat(10_000));
        let text = Refusal::MountTarget { target: name.into(), why: "no".to_owned() }.to_string();
        assert!(text.contains(r"a\n\u{1b}[2J\u{202e}it's"), "{text}");
        assert!(text.chars().count() < SHOWN_CHARS_MAX + 100);
    }

    #[test]
    fn long_list_of_what_is_allowed_is_cut() {
        let all: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert!(told(None, &all).ends_with("`7` and others"));
        assert_eq!(told(None, &[]), "it allows none");
    }
}

//! OPEN: what many calls need, from what a client says to a decision. Done on a thread of its own,
//! as an image's name may have to be looked up.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ric_images::{Environment, EnvironmentName, Reference};
use ric_policies::{Access, EngineName, Network};
use ric_runtime::{
    Actor, Arguments, Caller, Fresh, FunctionAsk, Host, LimitWishes, MountAsk, Preload,
    SECRET_BYTES_MAX, SecretAsk, Sha256Digest, Task, UserChoice, WorkAsk,
};
use serde::Deserialize;

use super::reopen::{Reopening, Unkept};
use crate::args::{SandboxArgs, Variable};
use crate::environments::{self, Unbuilt};
use crate::failure::Failure;
use crate::session::{Decision, Session};
use crate::task::{self, Descriptors};

/// Most containers that one OPEN may ask for; policy bounds all of them together.
const CONTAINERS_MAX: usize = 1024;

/// What a client says that its calls need.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OpenAsk {
    environments: Vec<EnvironmentAsk>,
    image: Option<String>,
    engine: Option<EngineName>,
    network: Option<Network>,
    user: Option<UserChoice>,
    workdir: Option<PathBuf>,
    variables: BTreeMap<String, String>,
    limits: LimitsAsk,
    fresh: Option<Fresh>,
    interpreter: Option<String>,
    preload: Option<Preload>,
    path_first: Vec<PathBuf>,
    tenant: Option<String>,
    mounts: Vec<MountWish>,
    secrets: Vec<String>,
    pub(super) containers_most: Option<usize>,
    stock: Option<u64>,
    /// The JSON itself, for the journal.
    #[serde(skip)]
    text: String,
}

/// Something that says what is needed, in the manner of an environment file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, untagged)]
enum EnvironmentAsk {
    Name { name: String },
    Text { text: String, file_name: Option<PathBuf> },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsAsk {
    memory_bytes: Option<u64>,
    cpus_milli: Option<u64>,
    pids: Option<u64>,
    time_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MountWish {
    asked: PathBuf,
    target: PathBuf,
    access: Option<Access>,
}

impl OpenAsk {
    /// How many descriptors travel with this metadata; 0 if it is not what it should be, which is
    /// told when it is read.
    pub(super) fn count_descriptors(metadata: &[u8]) -> usize {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Counted<'a> {
            #[serde(borrow)]
            mounts: Vec<BTreeMap<Cow<'a, str>, serde_json::Value>>,
            #[serde(borrow)]
            secrets: Vec<Cow<'a, str>>,
        }
        let count = |counted: Counted<'_>| counted.mounts.len() + counted.secrets.len();
        serde_json::from_slice::<Counted<'_>>(metadata).map_or(0, count)
    }

    pub(super) fn parse(metadata: Vec<u8>) -> Result<OpenAsk, Failure> {
        let attempt = || {
            Failure::new(Actor::User, "cannot read what an OPEN asks for")
                .hint("docs/protocol.md lists its keys")
        };
        let text = String::from_utf8(metadata).map_err(|error| attempt().because(&error))?;
        let ask = serde_json::from_str(&text).map_err(|error| attempt().because(&error))?;
        Ok(OpenAsk { text, ..ask })
    }
}

/// What was decided for an OPEN.
#[derive(Debug)]
pub(super) struct Opened {
    /// What was asked for, to be decided again when the policy changes.
    task: Task,
    host: Arc<Host>,
    pub(super) decision: Decision,
    pub(super) fresh: Fresh,
    /// The caller's, for mounts and secrets.
    pub(super) descriptors: Arc<Descriptors>,
    /// Digests of the secrets. They leave the daemon by no way.
    pub(super) secrets: Vec<Sha256Digest>,
    pub(super) containers_most: usize,
    /// Containers that are kept ready while a client holds this open.
    pub(super) stock: usize,
    /// What a later life opens it by, or why it cannot.
    pub(super) reopening: Result<Arc<Vec<u8>>, Unkept>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) caller: Caller,
    /// `/proc/PID/cgroup` of the process that connected.
    pub(super) cgroups: String,
    /// Whether the daemon has just the caller's rights.
    pub(super) own: bool,
    /// The machine as it is for the caller: with the cgroups of the caller's job.
    pub(super) host: Arc<Host>,
}

/// Decides what `ask` means for `asker`.
pub(super) fn open(
    session: &Session,
    asker: Asker,
    ask: OpenAsk,
    descriptors: Vec<OwnedFd>,
) -> Result<Opened, Failure> {
    let containers_most = ask.containers_most.unwrap_or_else(processors).clamp(1, CONTAINERS_MAX);
    let (text, mounts, secrets) = (ask.text.clone(), ask.mounts.len(), ask.secrets.len());
    let Asked { task, descriptors, secrets: digests, stock } =
        asked(session, &asker.caller, asker.own, ask, descriptors)?;
    if task.fresh == Fresh::Process && !task.secrets.is_empty() {
        return Err(Failure::new(Actor::User, "cannot hand secrets to a container of many tasks")
            .cause("a task could change what the next one finds in /run/secrets")
            .hint("`fresh: container` gives each task secrets of its own"));
    }
    if !asker.own {
        refuse_private_files(&task.image)?;
    }
    let reopening = match secrets {
        0 => Reopening::keep(&asker, text, &task.mounts[..mounts]),
        _ => Err(Unkept::Secrets),
    };
    let (decision, fresh) = (session.decide_on(&task, &asker.host)?, task.fresh);
    let (descriptors, host) = (Arc::new(descriptors), asker.host);
    let stock = stock.min(containers_most);
    Ok(Opened {
        task,
        host,
        decision,
        fresh,
        descriptors,
        secrets: digests,
        containers_most,
        stock,
        reopening,
    })
}

/// Decides the same under another policy.
pub(super) fn again(session: &Session, opened: &Opened) -> Result<Opened, Failure> {
    Ok(Opened {
        task: opened.task.clone(),
        host: Arc::clone(&opened.host),
        decision: session.decide_on(&opened.task, &opened.host)?,
        fresh: opened.fresh,
        descriptors: Arc::clone(&opened.descriptors),
        secrets: opened.secrets.clone(),
        containers_most: opened.containers_most,
        stock: opened.stock,
        reopening: opened.reopening.clone(),
    })
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What an OPEN asks for, before anything is decided.
struct Asked {
    task: Task,
    descriptors: Descriptors,
    secrets: Vec<Sha256Digest>,
    stock: usize,
}

fn asked(
    session: &Session,
    caller: &Caller,
    own: bool,
    ask: OpenAsk,
    mut descriptors: Vec<OwnedFd>,
) -> Result<Asked, Failure> {
    let mut args = sandbox_args(&ask)?;
    args.store = Some(session.store().root().to_owned());
    let mut preload = ask.preload.unwrap_or_default();
    let mut interpreter = ask.interpreter;
    let mut stock = ask.stock;
    for environment in &ask.environments {
        let environment = lay_under(&mut args, environment, session, own)?;
        interpreter = interpreter.or(environment.interpreter);
        stock = stock.or(environment.stock);
        if preload.is_empty() {
            preload =
                Preload { environment: environment.name.to_string(), modules: environment.preload };
        }
    }
    if let Some(image) = &ask.image {
        args.image = parse_image(image)?;
    }
    let mut mounts = Vec::new();
    for (at, mount) in ask.mounts.into_iter().enumerate() {
        mounts.push(received_mount(mount, at, &descriptors)?);
    }
    let (secrets, secret_digests) = received_secrets(ask.secrets, mounts.len(), &descriptors)?;
    for mount in std::mem::take(&mut args.mount) {
        if !own {
            return Err(Failure::new(
                Actor::User,
                format!("cannot mount {}", mount.source.display()),
            )
            .cause("a daemon that serves several users opens no files for them")
            .hint("open it in the client, which passes the descriptor on"));
        }
        mounts.push(task::open_mount(mount, &mut descriptors)?);
    }
    let function = FunctionAsk {
        file_name: "function.py".to_owned(),
        source: Vec::new(),
        function: "function".to_owned(),
        arguments: Arguments::Json { positional: Vec::new(), named: BTreeMap::new() },
        interpreter,
        preload,
    };
    let task = Task {
        engine: args.engine,
        mounts,
        limits: LimitWishes {
            memory_bytes: args.memory,
            cpus_milli: args.cpus,
            pids: args.pids,
            time: args.timeout,
        },
        network: args.network,
        user: args.user,
        workdir: args.workdir,
        path_first: args.path_first,
        variables: args.variable.into_iter().map(|v| (v.name, v.value)).collect(),
        fresh: args.fresh.unwrap_or(Fresh::Container),
        tenant: ask.tenant,
        secrets,
        ..Task::new(caller.clone(), args.image, WorkAsk::Call(function))
    };
    let stock = usize::try_from(stock.unwrap_or(0)).unwrap_or(usize::MAX);
    Ok(Asked { task, descriptors, secrets: secret_digests, stock })
}

/// What is asked for, as if it had been typed.
fn sandbox_args(ask: &OpenAsk) -> Result<SandboxArgs, Failure> {
    let malformed = |what: &str, value: &str| {
        Failure::new(Actor::User, format!("cannot use the {what} {value:?}"))
            .cause("it is empty or has control characters")
    };
    for name in ask.variables.keys() {
        if name.is_empty() || name.contains(['=', '\0']) || name.chars().any(char::is_control) {
            return Err(malformed("variable", name));
        }
    }
    Ok(SandboxArgs {
        engine: ask.engine,
        network: ask.network,
        user: ask.user,
        workdir: ask.workdir.clone(),
        variable: ask
            .variables
            .iter()
            .map(|(name, value)| Variable { name: name.clone(), value: value.clone() })
            .collect(),
        memory: ask.limits.memory_bytes,
        cpus: ask.limits.cpus_milli,
        pids: ask.limits.pids,
        timeout: ask.limits.time_ms.map(Duration::from_millis),
        fresh: ask.fresh,
        path_first: ask.path_first.clone(),
        ..SandboxArgs::nothing()
    })
}

fn lay_under(
    args: &mut SandboxArgs,
    ask: &EnvironmentAsk,
    session: &Session,
    own: bool,
) -> Result<Environment, Failure> {
    match ask {
        EnvironmentAsk::Name { name } => {
            let name: EnvironmentName = name.parse().map_err(|error| {
                Failure::new(Actor::User, format!("cannot find the environment {name:?}"))
                    .because(&error)
            })?;
            environments::lay_named(args, &name, session.policy(), Unbuilt::Refuse)
        }
        EnvironmentAsk::Text { text, file_name } => {
            let usual = Path::new("environment.yaml");
            let path = file_name.as_deref().unwrap_or(usual);
            let environment = environments::lay_text(args, path, text, session.policy(), own)?;
            if !own && environment.prefix.is_some() {
                return Err(Failure::new(Actor::User, "cannot use `prefix:` of an environment")
                    .cause("a daemon that serves several users opens no files for them")
                    .hint("ask your site to put the environment among its own"));
            }
            Ok(environment)
        }
    }
}

fn parse_image(image: &str) -> Result<Reference, Failure> {
    let reference: Reference = image.parse().map_err(|error| {
        Failure::new(Actor::User, format!("cannot use the image {image:?}")).because(&error)
    })?;
    match path_of(&reference) {
        Some(path) if path.is_relative() => {
            Err(Failure::new(Actor::User, format!("cannot use the image {image:?}"))
                .cause("its path is relative, and the daemon has another directory")
                .hint("write the whole path"))
        }
        _ => Ok(reference),
    }
}

/// The file or directory that a reference names.
fn path_of(reference: &Reference) -> Option<&Path> {
    match reference {
        Reference::Dir(path)
        | Reference::DockerArchive(path)
        | Reference::OciArchive(path)
        | Reference::Squashfs(path)
        | Reference::Sif(path)
        | Reference::OciLayout { path, .. } => Some(path),
        Reference::Host
        | Reference::DockerDaemon(_)
        | Reference::Registry(_)
        | Reference::Oras(_)
        | Reference::Shifter(_)
        | Reference::ShortName { .. } => None,
    }
}

/// A daemon that serves several users opens by name only what everyone may read and nobody but
/// root can have put there: else it would read files with rights that the caller lacks.
fn refuse_private_files(image: &Reference) -> Result<(), Failure> {
    let refuse = |why: String| {
        Failure::new(Actor::User, format!("cannot use the image `{image}`"))
            .cause(why)
            .hint("`run-in-container call --no-daemon` opens it with your own rights")
    };
    if matches!(image, Reference::DockerDaemon(_)) {
        return Err(refuse("the daemon asks no Docker on behalf of others".to_owned()));
    }
    let Some(path) = path_of(image) else { return Ok(()) };
    for (place, needed) in
        path.ancestors().zip(std::iter::once(0o004).chain(std::iter::repeat(0o001)))
    {
        let of_root = fs::symlink_metadata(place).is_ok_and(|found| {
            found.uid() == 0
                && found.mode() & 0o022 == 0
                && found.mode() & needed != 0
                && !found.is_symlink()
        });
        if !of_root {
            let place = place.display();
            return Err(refuse(format!(
                "{place} is not root's own and readable by everyone, and the daemon opens no files \
                 of others"
            )));
        }
    }
    Ok(())
}

/// A mount whose descriptor the client sent. Only the kernel is believed about it.
fn received_mount(
    wish: MountWish,
    at: usize,
    descriptors: &[OwnedFd],
) -> Result<MountAsk, Failure> {
    let attempt = || Failure::new(Actor::User, format!("cannot mount {}", wish.asked.display()));
    let fd = descriptors.get(at).ok_or_else(|| attempt().cause("no descriptor came along"))?;
    let source = task::read_facts(&wish.asked, fd).map_err(|error| attempt().because(&error))?;
    if !is_mounted_here(fd) {
        return Err(attempt()
            .cause("it is in another mount namespace, where its path means nothing here")
            .hint("open it outside of containers and user namespaces"));
    }
    Ok(MountAsk { source, descriptor: at, target: wish.target, access: wish.access })
}

/// Secrets whose memory the client sent, after its mounts, and their digests, by which containers
/// are kept apart. Sealed memory stays what it is, whoever else holds it.
fn received_secrets(
    names: Vec<String>,
    mounts: usize,
    descriptors: &[OwnedFd],
) -> Result<(Vec<SecretAsk>, Vec<Sha256Digest>), Failure> {
    let receive = |(at, name): (usize, String)| {
        let attempt = || Failure::new(Actor::User, format!("cannot take the secret {name:?}"));
        let descriptor = mounts + at;
        let memory = descriptors.get(descriptor);
        let memory = memory.ok_or_else(|| attempt().cause("no descriptor came along"))?;
        let digest = ric_runtime::digest_of_sealed(memory, SECRET_BYTES_MAX)
            .map_err(|why| attempt().cause(format!("the client {why}")))?;
        Ok((SecretAsk { name, descriptor }, digest))
    };
    names.into_iter().enumerate().map(receive).collect()
}

/// Whether the mount of a descriptor is one of this process's own namespace, so that its path is
/// what policy believes it to be.
fn is_mounted_here(fd: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
    let id = info.ok().and_then(|info| {
        info.lines().find_map(|line| line.strip_prefix("mnt_id:").map(|id| id.trim().to_owned()))
    });
    let (Some(id), Ok(mounts)) = (id, fs::read_to_string("/proc/self/mountinfo")) else {
        return false;
    };
    mounts.lines().any(|line| line.split(' ').next() == Some(id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_key_is_unknown() {
        let failure = OpenAsk::parse(br#"{"imag":"host:"}"#.to_vec()).unwrap_err();
        assert!(failure.to_string().contains("imag"), "{failure}");
    }

    #[test]
    fn counts_what_brings_descriptors() {
        let two = br#"{"mounts":[{"asked":"/a","target":"/b"},{}],"image":"host:"}"#;
        assert_eq!(OpenAsk::count_descriptors(two), 2);
        assert_eq!(OpenAsk::count_descriptors(br#"{"mounts":[{}],"secrets":["a","b"]}"#), 3);
        assert_eq!(OpenAsk::count_descriptors(b"{}"), 0);
        assert_eq!(OpenAsk::count_descriptors(b"[1"), 0);
    }

    #[test]
    fn a_file_that_is_not_everyones_is_not_opened_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("image.sif");
        fs::write(&file, "").unwrap();
        assert!(refuse_private_files(&Reference::Sif(file)).is_err());
        // The control: the machine's own files are everyone's to read.
        assert_eq!(refuse_private_files(&Reference::Sif("/usr/bin/env".into())), Ok(()));
    }

    #[test]
    fn a_descriptor_of_this_namespace_is_known() {
        let fd = OwnedFd::from(fs::File::open("/usr").unwrap());
        assert!(is_mounted_here(&fd));
        // A pipe is in no mount that anyone sees.
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert!(!is_mounted_here(&read));
    }
}

//! From what was typed to a [`Task`]: opens every path with the caller's own rights, and states
//! what the kernel says about each descriptor. Decides nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use ric_images::{Environment, Reference};
use ric_runtime::{
    Actor, Arguments, Caller, Fresh, FunctionAsk, InputAsk, LimitWishes, MountAsk, OutputAsk,
    PathFacts, PathKind, Preload, SECRET_BYTES_MAX, SecretAsk, Task, WorkAsk,
};
use rustix::fs::{FileType, Mode, OFlags};
use serde_json::Value;

use crate::args::{CalledArgs, Input, Keyword, MountPoint, SandboxArgs, Secret};
use crate::failure::Failure;
use crate::places;

/// Most bytes of a function's source file. Sources are typed by people; more is a mistaken file
/// name, and it would travel whole into the sandbox.
const SOURCE_BYTES_MAX: u64 = 16 << 20;

/// The caller's open descriptors, in the order in which a [`Task`] numbers them.
pub(crate) type Descriptors = Vec<OwnedFd>;

/// A command in a sandbox.
pub(crate) fn command(
    sandbox: SandboxArgs,
    command: Vec<String>,
    terminal: bool,
) -> Result<(Task, Descriptors), Failure> {
    if command.is_empty() && sandbox.image == Reference::Host {
        return Err(Failure::new(Actor::User, "cannot run without a command")
            .cause("image `host:` names none of its own")
            .hint("write it last, as in `run -- ls /`"));
    }
    build(sandbox, WorkAsk::Command(command), terminal)
}

/// A call of a function in a sandbox, in the Python of `environment`.
pub(crate) fn call(
    sandbox: SandboxArgs,
    called: CalledArgs,
    environment: Option<Environment>,
) -> Result<(Task, Descriptors), Failure> {
    let interpreter = environment.as_ref().and_then(|it| it.interpreter.clone());
    let preload = environment.map_or_else(Preload::default, |it| Preload {
        environment: it.name.to_string(),
        modules: it.preload,
    });
    let source = read_file(&called.function.file, SOURCE_BYTES_MAX, "a source file")?;
    let function = FunctionAsk {
        file_name: called.function.file.to_string_lossy().into_owned(),
        source,
        function: called.function.name,
        arguments: Arguments::Json {
            positional: called.arguments,
            named: named_arguments(called.keywords)?,
        },
        interpreter,
        preload,
    };
    build(sandbox, WorkAsk::Call(function), false)
}

fn build(args: SandboxArgs, work: WorkAsk, terminal: bool) -> Result<(Task, Descriptors), Failure> {
    refuse_unknown_wishes(&args)?;
    let mut descriptors = Descriptors::new();
    let mounts = args.mount.into_iter().map(|mount| open_mount(mount, &mut descriptors));
    let mounts = mounts.collect::<Result<_, _>>()?;
    let inputs = args.input.into_iter().map(|input| open_input(input, &mut descriptors));
    let inputs = inputs.collect::<Result<_, _>>()?;
    let secrets = args.secret.into_iter().map(|secret| hold_secret(secret, &mut descriptors));
    let secrets = secrets.collect::<Result<_, _>>()?;
    let outputs = args.output.into_iter();
    let outputs = outputs.map(|output| OutputAsk { name: output.name, target: output.target });
    let task = Task {
        caller: read_caller()?,
        image: absolute(args.image)?,
        work,
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
        inputs,
        secrets,
        outputs: outputs.collect(),
        fresh: args.fresh.unwrap_or(Fresh::Container),
        tenant: None,
        terminal,
    };
    Ok((task, descriptors))
}

/// Flags that are part of the command line's contract before what stands behind them is built.
fn refuse_unknown_wishes(args: &SandboxArgs) -> Result<(), Failure> {
    if let Some(device) = args.device.first() {
        return Err(Failure::refused(Actor::User, format!("cannot grant the device {device}"))
            .cause("this version has no policy for devices, so none is allowed")
            .hint("drop `--device`; every sandbox has null, zero, full, random, urandom and tty"));
    }
    Ok(())
}

pub(crate) fn open_mount(
    mount: MountPoint,
    descriptors: &mut Descriptors,
) -> Result<MountAsk, Failure> {
    let attempt = || format!("cannot mount {}", mount.source.display());
    let user_fault = |error: io::Error| Failure::new(Actor::User, attempt()).because(&error);
    // O_PATH: nothing is read, no device is opened, no FIFO blocks.
    let fd = open(&mount.source, OFlags::PATH).map_err(user_fault)?;
    let source = read_facts(&mount.source, &fd).map_err(user_fault)?;
    require_readable(&source, &fd).map_err(user_fault)?;
    let descriptor = descriptors.len();
    descriptors.push(fd);
    Ok(MountAsk { source, descriptor, target: mount.target, access: mount.access })
}

fn open_input(input: Input, descriptors: &mut Descriptors) -> Result<InputAsk, Failure> {
    let fault =
        || Failure::new(Actor::User, format!("cannot read input {}", input.source.display()));
    let (fd, source) = open_file(&input.source).map_err(|error| fault().because(&error))?;
    if source.kind != PathKind::File {
        return Err(fault()
            .cause("it is not a regular file")
            .hint("`--mount SRC:DST` shows a directory in the sandbox"));
    }
    let descriptor = descriptors.len();
    descriptors.push(fd);
    Ok(InputAsk { source, descriptor, name: input.name })
}

/// Reads a secret into sealed memory, which is all that knows it from then on.
fn hold_secret(secret: Secret, descriptors: &mut Descriptors) -> Result<SecretAsk, Failure> {
    let Secret { name, source } = secret;
    let fault = || Failure::new(Actor::User, format!("cannot read the secret {name}"));
    let content = match &source {
        Some(path) => {
            read_at_most(path, SECRET_BYTES_MAX + 1).map_err(|error| fault().because(&error))?
        }
        None => places::secret_variable(&name).map(OsString::into_vec).ok_or_else(|| {
            fault()
                .cause(format!("you have no variable {name}"))
                .hint(format!("set it, or say `--secret {name}=PATH`"))
        })?,
    };
    if content.len() as u64 > SECRET_BYTES_MAX {
        return Err(fault()
            .cause(format!("it has more than {SECRET_BYTES_MAX} bytes"))
            .hint("`--input PATH` and `--mount SRC:DST` hand larger files over"));
    }
    let sealed = ric_runtime::seal(&content).map_err(|error| {
        Failure::new(Actor::Host, format!("cannot hold the secret {name}")).because(&error)
    })?;
    let descriptor = descriptors.len();
    descriptors.push(sealed);
    Ok(SecretAsk { name, descriptor })
}

/// The first bytes of what is behind `path`, which may be a pipe.
pub(crate) fn read_at_most(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::from(open(path, OFlags::RDONLY | OFlags::NOCTTY)?)
        .take(bytes)
        .read_to_end(&mut content)?;
    Ok(content)
}

/// The whole content of `path`, which has to be a regular file of at most `bytes_max` bytes. `kind`
/// says what it is, with an article.
pub(crate) fn read_file(path: &Path, bytes_max: u64, kind: &str) -> Result<Vec<u8>, Failure> {
    let fault = || Failure::new(Actor::User, format!("cannot read {}", path.display()));
    let (fd, facts) = open_file(path).map_err(|error| fault().because(&error))?;
    if facts.kind != PathKind::File {
        return Err(fault().cause("it is not a regular file"));
    }
    let mut content = Vec::new();
    let mut file = File::from(fd).take(bytes_max + 1);
    file.read_to_end(&mut content).map_err(|error| fault().because(&error))?;
    if content.len() as u64 > bytes_max {
        return Err(fault().cause(format!("{kind} has at most {bytes_max} bytes")));
    }
    Ok(content)
}

fn named_arguments(keywords: Vec<Keyword>) -> Result<BTreeMap<String, Value>, Failure> {
    let mut named = BTreeMap::new();
    for Keyword { name, value } in keywords {
        if named.insert(name.clone(), value).is_some() {
            return Err(Failure::new(Actor::User, format!("the argument `{name}` is given twice")));
        }
    }
    Ok(named)
}

/// Opens a file to read it. O_NONBLOCK, because a FIFO would wait for its writer.
fn open_file(path: &Path) -> io::Result<(OwnedFd, PathFacts)> {
    let fd = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let facts = read_facts(path, &fd)?;
    Ok((fd, facts))
}

fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// What the kernel says about a descriptor: policy compares this, never the name that was typed.
pub(crate) fn read_facts(asked: &Path, fd: &OwnedFd) -> io::Result<PathFacts> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(PathFacts {
        asked: asked.to_owned(),
        real: PathBuf::from(OsString::from_vec(
            rustix::fs::readlink(proc_path(fd), Vec::new())?.into_bytes(),
        )),
        device: stat.st_dev,
        inode: stat.st_ino,
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => PathKind::Directory,
            FileType::RegularFile => PathKind::File,
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => PathKind::Special,
        },
    })
}

/// O_PATH asks for no right on the file itself. A task that cannot read its mount fails late and
/// strangely, so the caller's rights are asked for now.
fn require_readable(facts: &PathFacts, fd: &OwnedFd) -> io::Result<()> {
    use rustix::fs::Access;
    let rights = match facts.kind {
        PathKind::Directory => Access::READ_OK | Access::EXEC_OK,
        PathKind::File | PathKind::Special => Access::READ_OK,
    };
    Ok(rustix::fs::access(proc_path(fd), rights)?)
}

fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Who calls, as the kernel says.
pub(crate) fn read_caller() -> Result<Caller, Failure> {
    let groups = rustix::process::getgroups().map_err(|errno| {
        Failure::new(Actor::Host, "cannot read your groups").because(&io::Error::from(errno))
    })?;
    let mut groups: Vec<u32> = groups.into_iter().map(rustix::process::Gid::as_raw).collect();
    groups.sort_unstable();
    groups.dedup();
    let uid = rustix::process::geteuid().as_raw();
    Ok(Caller { uid, gid: rustix::process::getegid().as_raw(), groups, name: read_login_name(uid) })
}

/// The name of `uid` in `/etc/passwd`. Directory services are not asked: it only makes the
/// sandbox's own `passwd` nicer, and must not make a start wait for a network.
pub(crate) fn read_login_name(uid: u32) -> Option<String> {
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The same image, whatever the current directory: policy compares whole paths.
pub(crate) fn absolute(image: Reference) -> Result<Reference, Failure> {
    absolute_in(image, Path::new(""))
}

/// The same, for a reference that was written in a file of `folder`.
pub(crate) fn absolute_in(image: Reference, folder: &Path) -> Result<Reference, Failure> {
    let absolute_path = |path: PathBuf| absolute_path(folder.join(path));
    Ok(match image {
        Reference::Dir(path) => Reference::Dir(absolute_path(path)?),
        Reference::DockerArchive(path) => Reference::DockerArchive(absolute_path(path)?),
        Reference::OciArchive(path) => Reference::OciArchive(absolute_path(path)?),
        Reference::Squashfs(path) => Reference::Squashfs(absolute_path(path)?),
        Reference::Sif(path) => Reference::Sif(absolute_path(path)?),
        Reference::OciLayout { path, tag } => {
            Reference::OciLayout { path: absolute_path(path)?, tag }
        }
        Reference::Host
        | Reference::DockerDaemon(_)
        | Reference::Registry(_)
        | Reference::Oras(_)
        | Reference::Shifter(_)
        | Reference::ShortName { .. } => image,
    })
}

/// Absolute and without `.` and `..`, by text alone: nothing may reach the disk before policy has
/// seen the name, and what policy has seen is what is opened.
fn absolute_path(path: PathBuf) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(&path).map_err(|error| {
        Failure::new(Actor::User, format!("cannot find {}", path.display())).because(&error)
    })?;
    let mut plain = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                plain.push(component);
            }
        }
    }
    Ok(plain)
}

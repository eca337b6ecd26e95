//! Starts a container on the embedded engine: decision in, verified first process out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use oci_spec::runtime::Spec;
use ric_images::{BuildRoom, DockerArchiveError, Identity, Image, Store};
use ric_policies::{EngineName, Network};
use rustix::fs::{FileType, Mode, OFlags};

use super::keeper::Keeper;
use super::mounted::Mounted;
use super::tools::Tools;
use super::{Container, docker};
use crate::native::blueprint::{self, Places};
use crate::native::monitor::{self, Monitor};
use crate::native::readback::{self, Mismatch};
use crate::native::steps::{self, Step};
use crate::native::translate::CallerMount;
use crate::native::{protocol, top};
use crate::usage::UsageFiles;
use crate::{CgroupPlacement, ContainerFacts, DaemonError, Enforced, IdMap, Sandbox, oci};

/// Why a container could not be started. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The image has something in the way of what every sandbox mounts. Its maker must act.
    #[error("image has a {found} at /{}, where a sandbox needs a directory", .path.display())]
    MountPoint {
        /// The path, without the leading slash.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A layer of the image, or its generated top layer, could not be made or opened.
    #[error("cannot prepare {what}")]
    Prepare {
        /// What was prepared.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// The decision cannot be said as an OCI runtime spec: a defect of this program.
    #[error("cannot describe the sandbox")]
    Describe {
        /// Why not.
        source: oci::SpecError,
    },
    /// The monitor could not be started or spoken to.
    #[error("cannot start the monitor of the container")]
    Monitor {
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error("{step} failed")]
    Step {
        /// The call and what it was for.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A value did not read back as it was written, so it is not enforced.
    #[error("{step} was accepted but reads back as {found:?}")]
    NotApplied {
        /// The call and what it was for.
        step: String,
        /// What was read.
        found: String,
    },
    /// The finished sandbox is not as planned, so nothing was run in it.
    #[error("the sandbox has {what} {found:?} where {planned:?} was planned")]
    Differs {
        /// What was looked at.
        what: String,
        /// What was planned.
        planned: String,
        /// What the kernel says.
        found: String,
    },
    /// The ids of the user namespace could not be mapped.
    #[error("cannot map the ids of the user namespace with {with}")]
    Maps {
        /// The program or file that was to do it.
        with: String,
        /// Why not.
        source: io::Error,
    },
    /// A daemon did not do its part. Its administrator must act, unless the message says who.
    #[error("cannot {what} with a daemon")]
    Daemon {
        /// What it was asked for.
        what: &'static str,
        /// Why not.
        source: DaemonError,
    },
    /// The image cannot be handed to a daemon. Pulling it again mends it.
    #[error("cannot give the image to a daemon")]
    Archive {
        /// Why not.
        source: DockerArchiveError,
    },
    /// The first process ended before it was ready, and the kernel says no more.
    #[error("the first process of the sandbox ended before it was ready")]
    Died,
}

/// Environment of helper programs: nothing of the caller's or the image's.
const HELPER_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

impl Container {
    /// Starts `sandbox` on `image`. `descriptors` are those that the task's mounts name.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is left running, mounted or in a cgroup.
    pub fn start(
        sandbox: &Sandbox,
        image: &Image,
        store: &Store,
        descriptors: &[OwnedFd],
    ) -> Result<Container, StartError> {
        match sandbox.engine {
            EngineName::Docker => docker::start(sandbox, image, store),
            EngineName::Native | EngineName::Oci | EngineName::Apptainer | EngineName::Shifter => {
                Container::start_in(None, sandbox, image, store, descriptors)
            }
        }
    }

    /// As [`start`](Self::start), for a sandbox whose root can be written; changes go into `room`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_build(
        room: &BuildRoom<'_>,
        sandbox: &Sandbox,
        image: &Image,
        store: &Store,
        descriptors: &[OwnedFd],
    ) -> Result<Container, StartError> {
        Container::start_in(Some(room.path()), sandbox, image, store, descriptors)
    }

    fn start_in(
        room: Option<&Path>,
        sandbox: &Sandbox,
        image: &Image,
        store: &Store,
        descriptors: &[OwnedFd],
    ) -> Result<Container, StartError> {
        // First, because it becomes ready beside what follows.
        let mut monitor = Monitor::spawn().map_err(unheard)?;
        let id = new_id()?;
        let tools = Tools::ensure(sandbox, store)?;
        let spec = blueprint::spec(sandbox, &id, &tools.directory)
            .map_err(|source| StartError::Describe { source })?;
        let mounted = Mounted::of(image, store)?;
        let top = top_layer(sandbox, &spec, image, mounted.as_ref(), store)?;
        let stacked = match &mounted {
            Some(mounted) => vec![mounted.place().to_owned()],
            None => stacked(&image.layers),
        };
        let mut named = caller_descriptors(sandbox, descriptors)?;
        let mapped = match (room, blueprint::mapped_from(sandbox)) {
            (Some(room), Some(_)) => mapped_directories(room, &top, &stacked)?,
            _ => Vec::new(),
        };
        named.extend(mapped.iter().map(AsFd::as_fd));
        let layers = match (room, mapped.is_empty()) {
            // Those get short names as they are mapped.
            (_, false) => stacked,
            (room, true) => short_ways(room, stacked, store)?,
        };
        named.extend(mounted.iter().map(|mounted| mounted.tree.as_fd()));
        let places = Places {
            id: &id,
            top: &top,
            layers: &layers,
            attached: mounted.as_ref().map(Mounted::place),
            tools: &tools.directory,
            room,
        };
        let steps = blueprint::steps(sandbox, &spec, &places);
        let (control, theirs) = monitor::socket_pair().map_err(unheard)?;
        monitor.answers_for(steps.iter().filter_map(Step::made_cgroup).map(Into::into).collect());
        monitor.start(&steps::encode(&steps), theirs, &named).map_err(unheard)?;
        let pid = wait_cloned(&monitor, &steps)?;
        if let Some(maps) = blueprint::maps_by_owner(&sandbox.identities) {
            write_maps(pid, maps)?;
            monitor.send(protocol::MAPPED).map_err(unheard)?;
        }
        // From outside, while init is still building; then what it says itself.
        membership(sandbox, &id, pid).map_or(Ok(()), differs)?;
        let text = receive(&control, &steps)?.text;
        let groups = sandbox.identities.groups.as_deref();
        let found = readback::compare(&spec, &String::from_utf8_lossy(&text), groups);
        found.map_or(Ok(()), differs)?;
        Ok(Container {
            usage: UsageFiles::new(sandbox.cgroup.as_ref(), &id),
            facts: facts(sandbox, image, id),
            enforced: enforced(sandbox),
            tools,
            control,
            keeper: Keeper::Monitor(monitor),
            _lease: image.lease.clone(),
        })
    }
}

pub(super) fn unheard(source: io::Error) -> StartError {
    StartError::Monitor { source }
}

/// Waits until init exists and its limits hold: its pid.
pub(super) fn wait_cloned(monitor: &Monitor, steps: &[Step]) -> Result<i32, StartError> {
    let message = receive(monitor.channel(), steps)?;
    i32::try_from(message.numbers[0]).map_err(|_| StartError::Died)
}

pub(super) fn facts(sandbox: &Sandbox, image: &Image, id: String) -> ContainerFacts {
    let image = match &image.identity {
        Identity::Digest(digest) => digest.to_string(),
        Identity::Fingerprint(fingerprint) => fingerprint.clone(),
    };
    ContainerFacts { id, engine: sandbox.engine, image, warm: false }
}

pub(super) fn new_id() -> Result<String, StartError> {
    let mut bytes = [0_u8; 8];
    let random = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    random.map_err(|errno| StartError::Prepare { what: "a name".into(), source: errno.into() })?;
    Ok(format!("run-in-container-{:016x}", u64::from_le_bytes(bytes)))
}

pub(super) fn prepare(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let what = what.into();
    move |source| StartError::Prepare { what, source }
}

fn top_layer(
    sandbox: &Sandbox,
    spec: &Spec,
    image: &Image,
    mounted: Option<&Mounted>,
    store: &Store,
) -> Result<PathBuf, StartError> {
    let resolver = resolver_of(sandbox)?;
    let tree = top::tree(sandbox, spec, &resolver);
    let key = top::digest(&tree, &format!("{:?}", image.identity));
    let mut obstacle = None;
    let made = store.generated("top", &key, |root| {
        obstacle = in_the_way(&tree, image, mounted)?;
        if obstacle.is_some() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        top::write(&tree, root)
    });
    if let Some(obstacle) = obstacle {
        return Err(obstacle);
    }
    made.map_err(|source| prepare("the generated top layer")(io::Error::other(source)))
}

/// A network of its own has no name server; the machine's has the machine's.
pub(super) fn resolver_of(sandbox: &Sandbox) -> Result<String, StartError> {
    match sandbox.network {
        Network::Loopback => Ok(String::new()),
        Network::Host => resolver().map_err(prepare("/etc/resolv.conf of the sandbox")),
    }
}

/// The machine's `/etc/resolv.conf`; empty if it has none.
fn resolver() -> io::Result<String> {
    /// Far more than resolv.conf(5) makes use of.
    const BYTES_MAX: u64 = 64 << 10;
    match File::open("/etc/resolv.conf") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
        Ok(file) => {
            let mut text = String::new();
            io::Read::read_to_string(&mut io::Read::take(file, BYTES_MAX), &mut text)?;
            Ok(text)
        }
    }
}

fn in_the_way(
    tree: &top::Tree,
    image: &Image,
    mounted: Option<&Mounted>,
) -> io::Result<Option<StartError>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |layer: &PathBuf| Ok(rustix::fs::open(layer, flags, Mode::empty())?);
    let mut layers = image.layers.iter().map(open).collect::<io::Result<Vec<OwnedFd>>>()?;
    if let Some(mounted) = mounted {
        layers.push(mounted.tree.try_clone()?);
    }
    Ok(top::obstacle(tree, &layers).map(|(path, found)| {
        let found = match found {
            FileType::Symlink => "symbolic link",
            FileType::RegularFile => "file",
            FileType::Fifo => "pipe",
            FileType::Socket => "socket",
            FileType::BlockDevice | FileType::CharacterDevice => "device",
            FileType::Directory | FileType::Unknown => "thing of an unknown kind",
        };
        StartError::MountPoint { path, found }
    }))
}

/// What an overlay is made of whose ids are mapped, in the order in which steps number it; each
/// layer gets a directory of the room to be attached on.
fn mapped_directories(
    room: &Path,
    top: &Path,
    layers: &[PathBuf],
) -> Result<Vec<OwnedFd>, StartError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| {
        let opened = rustix::fs::open(path, flags, Mode::empty());
        opened.map_err(|errno| prepare(path.display().to_string())(errno.into()))
    };
    let names = (0..layers.len()).map(|number| number.to_string());
    for name in names.chain(["top".to_owned()]) {
        let place = room.join(name);
        match rustix::fs::mkdir(&place, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(prepare(place.display().to_string())(errno.into())),
        }
    }
    let mut all = vec![open(&room.join("changes"))?, open(top)?];
    for layer in layers {
        all.push(open(layer)?);
    }
    Ok(all)
}

/// Layers that fit into a page of options by the paths that they have in a store.
const LAYERS_LONG_MAX: usize = 40;
/// Most that overlayfs stacks (`OVL_MAX_STACK`, fs/overlayfs/params.h), less the top layer.
const LAYERS_MAX: usize = 499;

/// Layers as overlayfs stacks them, which takes no directory twice (`ELOOP`). Where an image has
/// the same layer at two places, the upper one has all that the lower one would show.
fn stacked(layers: &[PathBuf]) -> Vec<PathBuf> {
    let is_last = |at: usize| !layers[at + 1..].contains(&layers[at]);
    (0..layers.len()).filter(|at| is_last(*at)).map(|at| layers[at].clone()).collect()
}

/// The paths of the image's layers; where there are many, by short links: options of mount(2) end
/// with a page, and before Linux 6.7 overlayfs takes all layers in one option.
fn short_ways(
    room: Option<&Path>,
    layers: Vec<PathBuf>,
    store: &Store,
) -> Result<Vec<PathBuf>, StartError> {
    let count = layers.len();
    if count > LAYERS_MAX {
        let why = format!("overlayfs stacks at most {LAYERS_MAX}; build the image with fewer");
        return Err(prepare(format!("a root of {count} layers"))(io::Error::other(why)));
    }
    if count <= LAYERS_LONG_MAX {
        return Ok(layers);
    }
    let link = |folder: BorrowedFd<'_>| -> io::Result<()> {
        for (number, layer) in layers.iter().enumerate() {
            rustix::fs::symlinkat(layer, folder, number.to_string())?;
        }
        Ok(())
    };
    let failed = prepare("links to the image's layers");
    let folder = match room {
        Some(room) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(room, flags, Mode::empty()).map_err(io::Error::from);
            opened.and_then(|opened| link(opened.as_fd())).map_err(failed)?;
            room.to_owned()
        }
        None => {
            let key = format!("{layers:?}");
            let made = store.generated("links", &ric_images::Digest::of(key.as_bytes()), link);
            made.map_err(|source| failed(io::Error::other(source)))?
        }
    };
    Ok((0..count).map(|number| folder.join(number.to_string())).collect())
}

/// The descriptors of the caller's mounts, in the order in which steps number them.
fn caller_descriptors<'a>(
    sandbox: &Sandbox,
    descriptors: &'a [OwnedFd],
) -> Result<Vec<BorrowedFd<'a>>, StartError> {
    let find = |mount: CallerMount<'_>| {
        let index = mount.came_as;
        let missing = || io::Error::other(format!("descriptor {index} did not come along"));
        let fd = descriptors.get(index).ok_or_else(missing);
        fd.map(AsFd::as_fd).map_err(prepare(format!("the mount at {}", mount.target.display())))
    };
    blueprint::caller_mounts(sandbox).into_iter().map(find).collect()
}

/// The next message of a start; what failed becomes the error it is.
pub(super) fn receive(socket: &OwnedFd, steps: &[Step]) -> Result<monitor::Message, StartError> {
    let received = monitor::receive(socket).map_err(unheard)?;
    let message = received.ok_or(StartError::Died)?;
    if message.kind != protocol::FAILED {
        return Ok(message);
    }
    let index = usize::try_from(message.numbers[0]).unwrap_or(usize::MAX);
    let step = steps.get(index).map_or("a step", |step| step.label.as_str()).to_owned();
    if !message.text.is_empty() {
        let found = String::from_utf8_lossy(&message.text).into_owned();
        return Err(StartError::NotApplied { step, found });
    }
    let errno = i32::try_from(message.numbers[1]).unwrap_or(0);
    Err(StartError::Step { step, source: io::Error::from_raw_os_error(errno) })
}

/// Writes the maps of a user namespace, as root to `/proc`, else by the programs that may.
pub(super) fn write_maps(pid: i32, maps: &IdMap) -> Result<(), StartError> {
    for (lines, file, program) in
        [(&maps.uids, "uid_map", "newuidmap"), (&maps.gids, "gid_map", "newgidmap")]
    {
        if maps.by_helper {
            run_map_helper(program, pid, lines)?;
        } else {
            let path = format!("/proc/{pid}/{file}");
            let text: String = lines.iter().map(|(a, b, c)| format!("{a} {b} {c}\n")).collect();
            let written = File::options()
                .write(true)
                .open(&path)
                .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
            written.map_err(|source| StartError::Maps { with: path, source })?;
        }
    }
    Ok(())
}

/// `newuidmap(1)`: the arguments are the pid and the lines of the map.
fn run_map_helper(program: &str, pid: i32, lines: &[(u32, u32, u32)]) -> Result<(), StartError> {
    let failed = |source| StartError::Maps { with: program.to_owned(), source };
    let numbers = lines.iter().flat_map(|(a, b, c)| [a, b, c]).map(u32::to_string);
    let mut command = Command::new(program);
    command.arg(pid.to_string()).args(numbers).env_clear().env("PATH", HELPER_PATH);
    let output = command.current_dir("/").output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(io::Error::other(said)))
}

pub(super) fn differs(mismatch: Mismatch) -> Result<(), StartError> {
    let Mismatch { what, planned, found } = mismatch;
    Err(StartError::Differs { what, planned, found })
}

/// Looks for the first process in every cgroup that it should be in.
fn membership(sandbox: &Sandbox, id: &str, pid: i32) -> Option<Mismatch> {
    let directories: Vec<PathBuf> = match sandbox.cgroup.as_ref()? {
        CgroupPlacement::V1(parents) => parents.values().map(|at| at.join(id)).collect(),
        CgroupPlacement::V2 { parent, .. } => vec![parent.join(id)],
        CgroupPlacement::Daemon { .. } => return None,
    };
    directories.iter().find_map(|directory| {
        let file = directory.join("cgroup.procs");
        let found = std::fs::read_to_string(&file).unwrap_or_else(|error| error.to_string());
        let planned = pid.to_string();
        let inside = found.lines().any(|line| line == planned);
        (!inside).then(|| Mismatch { what: file.display().to_string(), planned, found })
    })
}

/// What is enforced in containers of `sandbox`, which a start reads back, and what was dropped.
#[must_use]
pub fn enforced(sandbox: &Sandbox) -> BTreeMap<ric_policies::Protection, Enforced> {
    let by = sandbox.enforced.iter().map(|(what, how)| (*what, Enforced::By(how.clone())));
    let not = sandbox
        .dropped
        .iter()
        .map(|(what, why)| (*what, Enforced::Not { not_enforced: why.clone() }));
    by.chain(not).collect()
}

//! Starts a container by a daemon: decision in, verified first process out.
//!
//! The same init as everywhere connects to a socket that was bound into the container. From there
//! on nothing but [`Kept`] knows of the daemon.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oci_spec::runtime::Spec;
use ric_images::{Digest, Identity, Image, Limits, Store, StoredImage};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags};

use super::keeper::Keeper;
use super::start::{
    StartError, differs, enforced, facts, new_id, prepare, receive, resolver_of, unheard,
};
use super::tools::Tools;
use super::{Container, owner};
use crate::docker::api::Api;
use crate::docker::{readback, request};
use crate::host::{cgroups_of, missing_cgroups};
use crate::native::steps::{self, Step};
use crate::native::{blueprint, monitor, protocol, top, translate};
use crate::seccomp::Filter;
use crate::usage::UsageFiles;
use crate::{DaemonError, Sandbox};

/// How long the first process may take to connect once the daemon says that it runs.
const CONNECT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// Strangers that are turned away before the first process is heard.
const STRANGERS_MAX: usize = 16;

/// A container that a daemon keeps. Dropping it removes the container, and waits until it is gone.
#[derive(Debug)]
pub(super) struct Kept {
    socket: PathBuf,
    id: String,
    /// At its end when the container has been removed.
    ended: OwnedFd,
    /// Taken by who removes it.
    removal: Mutex<Option<Removal>>,
}

/// What is to be done when a container shall be gone.
#[derive(Debug)]
struct Removal {
    socket: PathBuf,
    id: String,
    /// Cgroups that the daemon made for it and leaves, deepest first.
    cgroups: Vec<PathBuf>,
    /// Closed when it is done.
    _done: OwnedFd,
}

impl Removal {
    /// What the daemon will not remove now, the next start does.
    fn carry_out(self) {
        let _ = Api::open(&self.socket).and_then(|api| api.remove(&self.id));
        for cgroup in &self.cgroups {
            // Another container may be in it by now, and only root may remove it.
            let _ = rustix::fs::rmdir(cgroup);
        }
    }
}

impl Kept {
    fn new(socket: &Path, id: String, cgroups: Vec<PathBuf>) -> io::Result<Kept> {
        let (ended, done) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let socket = socket.to_owned();
        let removal = Removal { socket: socket.clone(), id: id.clone(), cgroups, _done: done };
        Ok(Kept { socket, id, ended, removal: Mutex::new(Some(removal)) })
    }

    fn take_removal(&self) -> Option<Removal> {
        self.removal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has it removed, and does not wait: a daemon takes a third of a second for it.
    pub(super) fn end(&self) {
        if let Some(removal) = self.take_removal() {
            drop(std::thread::spawn(move || removal.carry_out()));
        }
    }

    /// At its end when the container has been removed.
    pub(super) fn ended_fd(&self) -> io::Result<OwnedFd> {
        self.ended.try_clone()
    }

    /// Ends it now.
    pub(super) fn kill(&self) {
        // A daemon that cannot be told leaves it to the end of the control socket.
        let _ = Api::open(&self.socket).and_then(|api| api.kill(&self.id));
    }

    /// Whether the daemon says that the kernel ended it for want of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let state = Api::open(&self.socket).and_then(|api| api.state(&self.id));
        state.is_ok_and(|state| state.oom_killed == Some(true))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        match self.take_removal() {
            Some(removal) => removal.carry_out(),
            // Somebody is at it. Nothing is ever written: what is read is the end.
            None => {
                let mut nothing = [0_u8];
                let read = || rustix::io::read(&self.ended, &mut nothing);
                let _ = rustix::io::retry_on_intr(read);
            }
        }
    }
}

/// Starts `sandbox` on `image`.
pub(super) fn start(
    sandbox: &Sandbox,
    image: &Image,
    store: &Store,
) -> Result<Container, StartError> {
    let daemon = sandbox.daemon.as_ref().ok_or_else(|| nowhere("the decision names none"))?;
    let api = Api::open(&daemon.socket).map_err(asked("start a container"))?;
    owner::remove_those_of_the_dead(&api);
    let name = new_id()?;
    let stored = stored_image(image, store)?;
    let image_id = ensure_image(&api, &stored, store)?;
    let tools = Tools::ensure(sandbox, store)?;
    let etc = etc_files(sandbox, store)?;
    let spec = blueprint::spec(sandbox, &name, &tools.directory)
        .map_err(|source| StartError::Describe { source })?;
    let folder = store.private_folder().map_err(|error| no_socket(io::Error::other(error)))?;
    let (listener, control) = listen(folder.path()).map_err(no_socket)?;
    let whose = owner::label().map_err(prepare("the label of the container"))?;
    let places = request::Places {
        image: &image_id,
        tools: &tools.directory,
        etc: &etc,
        control: &control,
        owner: &whose,
    };
    let body =
        request::create(sandbox, &places).map_err(|source| StartError::Describe { source })?;
    let parent = body.host_config.as_ref().and_then(|config| config.cgroup_parent.as_deref());
    let cgroups = parent.map(missing_cgroups).unwrap_or_default();
    let id = api.create(&name, body).map_err(asked("make a container"))?;
    let kept = Kept::new(&daemon.socket, id, cgroups).map_err(unheard)?;
    api.start(&kept.id).map_err(asked("start a container"))?;
    let (pid, control) = meet(&api, &kept.id, &listener)?;
    // Nobody else is to come, from inside or outside.
    drop((listener, folder));

    let steps = steps_of(sandbox, &spec);
    let (cgroups, unified) = cgroups_of(pid);
    // From outside, before init has been told anything; then what it says itself.
    readback::outside(sandbox, &spec, &cgroups).map_or(Ok(()), differs)?;
    let bytes = steps::encode(&steps);
    let memory = monitor::as_memory(&bytes).map_err(unheard)?;
    let length = bytes.len() as u64;
    monitor::send(&control, protocol::START, length, &[], &[memory.as_fd()]).map_err(unheard)?;
    let text = receive(&control, &steps)?.text;
    readback::inside(sandbox, &spec, &String::from_utf8_lossy(&text)).map_or(Ok(()), differs)?;
    Ok(Container {
        usage: UsageFiles::of(&cgroups, unified),
        facts: facts(sandbox, image, name),
        enforced: enforced(sandbox),
        tools,
        control,
        keeper: Keeper::Docker(kept),
        _lease: image.lease.clone(),
    })
}

fn asked(what: &'static str) -> impl FnOnce(DaemonError) -> StartError {
    move |source| StartError::Daemon { what, source }
}

fn nowhere(why: &str) -> StartError {
    prepare("a daemon")(io::Error::other(why.to_owned()))
}

fn no_socket(source: io::Error) -> StartError {
    prepare("the control socket")(source)
}

fn steps_of(sandbox: &Sandbox, spec: &Spec) -> Vec<Step> {
    let rlimits = spec.process().as_ref().map(translate::rlimit_steps).unwrap_or_default();
    let filter = Filter::named(&sandbox.seccomp).expect("`spec` has refused any other name");
    request::steps(sandbox, rlimits, &filter)
}

/// What the store knows of the image.
fn stored_image(image: &Image, store: &Store) -> Result<StoredImage, StartError> {
    let unread = prepare("the image for a daemon");
    let Identity::Digest(digest) = &image.identity else {
        return Err(unread(io::Error::other("it has no digest")));
    };
    match store.image(digest) {
        Ok(Some(stored)) => Ok(stored),
        Ok(None) => Err(unread(io::Error::other("the store does not have it"))),
        Err(error) => Err(unread(io::Error::other(error))),
    }
}

/// The image's ID there, given to the daemon if it does not have it.
///
/// By the digest of its configuration Docker knows what it pulled itself. A store of containerd's
/// knows images by their index, and then by the name that we gave. Either way it is the same image
/// only if it has the same layers.
fn ensure_image(api: &Api, stored: &StoredImage, store: &Store) -> Result<String, StartError> {
    let layers = &stored.manifest.layers;
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let tag = format!("run-in-container:{}", stored.configuration.hex());
    let find = || {
        for name in [stored.configuration.to_string(), tag.clone()] {
            if let Some(id) = api.image(&name, &diff_ids)? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    };
    if let Some(id) = find().map_err(asked("look for the image"))? {
        return Ok(id);
    }
    let archive = store
        .docker_archive(stored, &tag, &Limits::default())
        .map_err(|source| StartError::Archive { source })?;
    api.load(archive).map_err(asked("load the image"))?;
    let loaded = find().map_err(asked("look for the image"))?;
    loaded.ok_or_else(|| {
        asked("load the image")(api.strange("does not have the image that it was given"))
    })
}

/// The directory of the files of `/etc` that the sandbox has of its own.
fn etc_files(sandbox: &Sandbox, store: &Store) -> Result<PathBuf, StartError> {
    let tree = top::etc(sandbox, &resolver_of(sandbox)?);
    let key: Digest = top::digest(&tree, "etc");
    let made = store.generated("etc", &key, |root| top::write(&tree, root));
    made.map_err(|source| prepare("files of /etc")(io::Error::other(source)))
}

/// A socket in `folder`, which only this user can enter. What is bound into the container is the
/// socket alone; whoever is the first process in there may connect.
fn listen(folder: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    const NAME: &str = "control";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(folder, flags, Mode::empty())?;
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // A path of any length, which an address has no room for.
    let raw = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{raw}/{NAME}"))?;
    rustix::net::bind(&listener, &address)?;
    let path = folder.join(NAME);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    rustix::net::listen(&listener, 4)?;
    Ok((listener, path))
}

/// Waits until the container's first process has connected: its pid, and the socket to it.
fn meet(api: &Api, id: &str, listener: &OwnedFd) -> Result<(i32, OwnedFd), StartError> {
    let what = "start a container";
    let state = api.state(id).map_err(asked(what))?;
    let pid = state.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let pid = pid.ok_or(StartError::Died)?;
    let known = Pid::from_raw(pid).ok_or(StartError::Died)?;
    let Ok(ended) = rustix::process::pidfd_open(known, PidfdFlags::empty()) else {
        return Err(StartError::Died);
    };
    for _ in 0..STRANGERS_MAX {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&CONNECT)))
            .map_err(|errno| unheard(errno.into()))?;
        if fds[0].revents().is_empty() {
            return Err(StartError::Died);
        }
        let flags = SocketFlags::CLOEXEC;
        let accepted = rustix::net::accept_with(listener, flags);
        let socket = accepted.map_err(|errno| unheard(errno.into()))?;
        let peer = rustix::net::sockopt::socket_peercred(&socket);
        if peer.map_err(|errno| unheard(errno.into()))?.pid == known {
            return Ok((pid, socket));
        }
    }
    Err(asked(what)(api.strange("has its containers on another machine, or nobody comes")))
}

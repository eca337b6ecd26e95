//! The daemon's socket: in a directory of its own, with tight modes, one daemon for each.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ric_runtime::Actor;
use rustix::fs::FlockOperation;

use crate::failure::Failure;

/// A socket that listens, and what is removed when it ends.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    /// Held as long as this daemon lives, so that a second one knows.
    _lock: Option<File>,
    made: Option<PathBuf>,
}

impl Socket {
    /// Listens at `path`. Its directory is made if it is not there.
    ///
    /// For root's daemon everyone may connect, and who does is asked of the kernel; for a user's
    /// nobody else reaches it.
    pub(super) fn listen(path: &Path, uid: u32) -> Result<Socket, Failure> {
        let attempt = || Failure::new(Actor::Host, format!("cannot listen at {}", path.display()));
        let fault = |error: io::Error| attempt().because(&error);
        let directory = path.parent().filter(|parent| parent.is_absolute());
        let directory = directory.ok_or_else(|| attempt().cause("it is not a whole path"))?;
        let (directory_mode, socket_mode) = if uid == 0 { (0o755, 0o666) } else { (0o700, 0o600) };
        let made = fs::DirBuilder::new().recursive(true).mode(directory_mode).create(directory);
        made.map_err(fault)?;
        refuse_shared(directory, uid)?;
        let lock = lock(&path.with_extension("lock"), uid)?;
        // Whoever made it has let go of the lock, so nobody listens there.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(fault)?;
        fs::set_permissions(path, Permissions::from_mode(socket_mode)).map_err(fault)?;
        listener.set_nonblocking(true).map_err(fault)?;
        Ok(Socket { listener, _lock: Some(lock), made: Some(path.to_owned()) })
    }

    /// The socket that a service manager has made, `sd_listen_fds(3)`; `None`: it has made none.
    pub(super) fn inherited() -> Result<Option<Socket>, Failure> {
        let fault = |error: io::Error| {
            Failure::new(Actor::Host, "cannot use the socket of the service manager")
                .because(&error)
        };
        let mut inherited = listenfd::ListenFd::from_env();
        let Some(listener) = inherited.take_unix_listener(0).map_err(fault)? else {
            return Ok(None);
        };
        listener.set_nonblocking(true).map_err(fault)?;
        Ok(Some(Socket { listener, _lock: None, made: None }))
    }
}

/// Removes the name, so that clients do not try it.
impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // Nobody is left to be told; the next daemon removes it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Whoever could put another socket in its place would be told what clients send.
fn refuse_shared(directory: &Path, uid: u32) -> Result<(), Failure> {
    let attempt = || Failure::new(Actor::Host, format!("cannot use {}", directory.display()));
    let found = fs::symlink_metadata(directory).map_err(|error| attempt().because(&error))?;
    let why = if !found.is_dir() {
        "it is not a directory".to_owned()
    } else if found.uid() != uid {
        format!("it belongs to uid {}, not to uid {uid}", found.uid())
    } else if found.mode() & 0o022 != 0 {
        format!("others may write to it (mode {:o})", found.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(attempt()
        .cause(why)
        .hint("`--socket PATH` names another place, in a directory of your own"))
}

/// Takes a lock that one daemon has at a time.
///
/// A daemon that is killed while it starts a program leaves a child that holds its descriptors
/// until it executes: that takes a moment, and the lock is free.
///
/// # Errors
/// As `flock(2)`: `WOULDBLOCK` if a daemon has it.
pub(super) fn take_lock(file: &File) -> rustix::io::Result<()> {
    /// Far more than `execve(2)` takes, and no long wait for who starts a second daemon.
    const WAIT_MAX: Duration = Duration::from_secs(2);
    const LOOK: Duration = Duration::from_millis(10);
    let since = Instant::now();
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if since.elapsed() < WAIT_MAX => {
                std::thread::sleep(LOOK);
            }
            taken => return taken,
        }
    }
}

fn lock(path: &Path, uid: u32) -> Result<File, Failure> {
    let attempt = || Failure::new(Actor::Host, format!("cannot lock {}", path.display()));
    let file = File::options().write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|error| attempt().because(&error))?;
    match take_lock(&file) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Failure::new(Actor::User, "cannot start a second daemon at this socket")
                .cause(format!("one of uid {uid} holds {}", path.display()))
                .hint("`run-in-container ps` shows it; `--socket PATH` names another place"))
        }
        Err(errno) => Err(attempt().because(&io::Error::from(errno))),
    }
}

/// Connects to the daemon at `path`, if one listens there that may be trusted: root's or our own.
///
/// # Errors
/// As `connect(2)`, and `PermissionDenied` where somebody else listens.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    let uid = peer.uid.as_raw();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        let text = format!("uid {uid} listens there, who is neither root nor you");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn there_is_one_daemon_at_a_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own/daemon.sock");
        let first = Socket::listen(&path, uid()).unwrap();
        let failure = Socket::listen(&path, uid()).unwrap_err();
        assert!(failure.to_string().contains("second daemon"), "{failure}");
        connect(&path).unwrap();
        drop(first);
        assert!(connect(&path).is_err(), "its name is gone");
        Socket::listen(&path, uid()).unwrap();
    }

    /// A daemon that was killed leaves its socket's name, and nobody behind it.
    #[test]
    fn takes_the_place_of_one_that_was_killed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own/daemon.sock");
        std::mem::forget(Socket::listen(&path, uid()).unwrap());
        // As the kernel does for a process that ends, only later.
        fs::remove_file(path.with_extension("lock")).unwrap();
        Socket::listen(&path, uid()).unwrap();
    }

    /// What a daemon that was killed had begun to start holds its descriptors until it executes.
    #[test]
    fn a_lock_is_waited_for_while_a_dead_daemons_child_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own/daemon.sock");
        let first = Socket::listen(&path, uid()).unwrap();
        let held = first._lock.as_ref().unwrap().try_clone().unwrap();
        drop(first);
        let child = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(held);
        });
        Socket::listen(&path, uid()).unwrap();
        child.join().unwrap();
    }

    #[test]
    fn refuses_a_directory_that_others_can_write() {
        let directory = tempfile::tempdir().unwrap();
        let shared = directory.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        let failure = Socket::listen(&shared.join("daemon.sock"), uid()).unwrap_err();
        assert!(failure.to_string().contains("others may write"), "{failure}");
    }
}

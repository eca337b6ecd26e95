//! What probing found out, kept so that a start does not probe again.
//!
//! One small file per caller and circumstances, in a directory that nobody else can write. Its name
//! and its first part are the circumstances under which it is true: boot, kernel, caller,
//! namespaces, own cgroup, this very program, and the files that the answers were read from. It
//! holds no secret; a file that cannot be read, or says something else, is probed over.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::probe::{ProbeError, Trial, probe_host, read, rlimits_hard};
use super::shown::stamp;
use crate::{Caller, Controller, Host};

/// How long a cached "no" is believed. A "yes" is believed until the next boot: taking a feature
/// away makes a start fail with the kernel's own words, but an administrator who has just given it
/// shall not have to know about this file.
pub const CACHE_BELIEVED_MAX: Duration = Duration::from_secs(60);

/// Largest file that is read: a thousand shown paths would fit.
const CACHE_BYTES_MAX: u64 = 256 * 1024;

/// Most files that are kept: one per shell or job that is alive is what is useful.
const CACHE_FILES_MAX: usize = 64;

/// Files of which a change makes answers wrong, besides what a boot changes.
const STAMPED: [&str; 5] =
    ["/usr/bin", "/etc/ld.so.cache", "/var/lib/dpkg/status", "/etc/subuid", "/etc/subgid"];

/// A directory for cached answers that belongs to this process's user alone.
#[derive(Debug)]
pub struct HostCache {
    directory: OwnedFd,
}

/// What a cache file says.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// The circumstances in full; the file's name is only their hash.
    circumstances: String,
    /// Stamps of the files that `host:` has copies of; which these are is part of the answer.
    copied: String,
    host: Host,
}

/// What this machine can do for `caller`, who is this process: cached if that can be, else probed.
///
/// # Errors
/// As [`probe_host`].
pub fn know_host(
    caller: &Caller,
    host_paths: &[PathBuf],
    trial: &Trial<'_>,
) -> Result<Host, ProbeError> {
    match HostCache::open(caller.uid) {
        Some(cache) => cache.host(caller, host_paths, trial),
        None => probe_host(caller, host_paths, trial),
    }
}

impl HostCache {
    /// Opens the first place that `uid`, who is this process, can have: `/run/run-in-container`,
    /// `/run/user/UID/run-in-container`, `/tmp/run-in-container-UID`.
    ///
    /// `None`: there is none, and every start probes.
    #[must_use]
    pub fn open(uid: u32) -> Option<Self> {
        let places = if uid == 0 {
            vec![PathBuf::from("/run/run-in-container")]
        } else {
            let runtime = PathBuf::from(format!("/run/user/{uid}/run-in-container"));
            vec![runtime, PathBuf::from(format!("/tmp/run-in-container-{uid}"))]
        };
        places.iter().find_map(|place| Self::at(place, uid).ok())
    }

    /// Opens `directory`, made with mode 0700 if it is not there.
    ///
    /// # Errors
    /// It is not a directory, is a link, belongs to another user, or others may write it.
    pub fn at(directory: &Path, uid: u32) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let open = || rustix::fs::open(directory, flags, Mode::empty());
        let opened = match open() {
            Err(rustix::io::Errno::NOENT) => {
                match rustix::fs::mkdir(directory, Mode::RWXU) {
                    // Another start of the same user was quicker; the check below decides.
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open()?
            }
            opened => opened?,
        };
        // On the descriptor: a name in `/tmp` can change hands between a check and its use.
        let found = rustix::fs::fstat(&opened)?;
        if found.st_uid != uid || found.st_mode & 0o022 != 0 {
            return Err(io::Error::other("the directory is not this user's alone"));
        }
        Ok(Self { directory: opened })
    }

    /// The cached answers if they still hold, else those of [`probe_host`], which are kept.
    ///
    /// A cache that cannot be written is no error. `doctor` calls [`clear`](Self::clear) first.
    ///
    /// # Errors
    /// As [`probe_host`].
    pub fn host(
        &self,
        caller: &Caller,
        host_paths: &[PathBuf],
        trial: &Trial<'_>,
    ) -> Result<Host, ProbeError> {
        let circumstances = circumstances(caller, host_paths)?;
        let name = file_name(&circumstances);
        if let Some(host) = self.read(&name, &circumstances) {
            return Ok(host);
        }
        let host = probe_host(caller, host_paths, trial)?;
        // Only speed is lost if it cannot be kept.
        let _ =
            self.write(&name, Entry { circumstances, copied: copied(&host), host: host.clone() });
        Ok(host)
    }

    /// Forgets everything, so that the next start probes.
    pub fn clear(&self) {
        for (_, name) in self.files() {
            let _ = rustix::fs::unlinkat(&self.directory, &name, AtFlags::empty());
        }
    }

    fn read(&self, name: &str, circumstances: &str) -> Option<Host> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::openat(&self.directory, name, flags, Mode::empty()).ok()?;
        let mut file = File::from(opened);
        let found = file.metadata().ok()?;
        if !found.is_file() || found.len() > CACHE_BYTES_MAX {
            return None;
        }
        let mut text = Vec::with_capacity(usize::try_from(found.len()).ok()?);
        Read::by_ref(&mut file).take(CACHE_BYTES_MAX).read_to_end(&mut text).ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        let age = SystemTime::now().duration_since(found.modified().ok()?);
        let young = age.is_ok_and(|age| age < CACHE_BELIEVED_MAX);
        if entry.circumstances != circumstances || !(young || says_only_yes(&entry.host)) {
            return None;
        }
        if entry.copied != copied(&entry.host) {
            return None;
        }
        Some(Host { rlimits_hard: rlimits_hard(), ..entry.host })
    }

    /// Writes beside and renames: a reader sees one whole file or another.
    fn write(&self, name: &str, entry: Entry) -> io::Result<()> {
        let beside = format!("{name}.{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(
            &self.directory,
            &beside,
            flags | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )?;
        let mut file = File::from(opened);
        file.write_all(&serde_json::to_vec(&entry)?)?;
        rustix::fs::renameat(&self.directory, &beside, &self.directory, name)?;
        self.remove_oldest();
        Ok(())
    }

    fn remove_oldest(&self) {
        let mut files = self.files();
        files.sort();
        let excess = files.len().saturating_sub(CACHE_FILES_MAX);
        for (_, name) in files.iter().take(excess) {
            let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
        }
    }

    /// Our own files, with their times.
    fn files(&self) -> Vec<(i64, String)> {
        let Ok(entries) = rustix::fs::Dir::read_from(&self.directory) else { return Vec::new() };
        let names = entries.filter_map(Result::ok).filter_map(|entry| {
            let name = entry.file_name().to_str().ok()?.to_owned();
            name.starts_with(PREFIX).then_some(name)
        });
        let with_time = names.filter_map(|name| {
            let found =
                rustix::fs::statat(&self.directory, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some((found.st_mtime, name))
        });
        with_time.collect()
    }
}

/// How our files' names begin; other things may live in the same directory.
const PREFIX: &str = "host-";

/// Half of a SHA-256 is enough: the whole text is compared.
fn file_name(circumstances: &str) -> String {
    let hash = Sha256::digest(circumstances.as_bytes());
    let digits: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{digits}.json")
}

fn says_only_yes(host: &Host) -> bool {
    let probes = [&host.user_namespace, &host.overlay, &host.seccomp];
    // Nobody but root has the devices controller, and version 2 has none at all: both for good.
    let lacking = host.cgroup.unusable.keys().any(|c| *c != Controller::Devices);
    probes.iter().all(|probe| probe.works) && !lacking
}

/// The stamps of what is copied of this machine, as they are now.
fn copied(host: &Host) -> String {
    host.host_copied.iter().map(|path| stamp(path) + "\n").collect()
}

/// Everything that the answers depend on, as text.
fn circumstances(caller: &Caller, host_paths: &[PathBuf]) -> Result<String, ProbeError> {
    let boot = read("/proc/sys/kernel/random/boot_id")?;
    let own_cgroups = read("/proc/self/cgroup")?;
    let kernel = rustix::system::uname();
    let namespace = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap_or_default();
    let capable = rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits());
    let no_new_privs = rustix::thread::no_new_privs().unwrap_or(false);
    Ok(format!(
        "boot {boot}kernel {} {}\ncaller {caller:?}\nnamespaces {:?} {:?}\ncapabilities {capable} \
         {no_new_privs}\nprogram {}\nfiles {:?}\nhost_paths {host_paths:?}\n{own_cgroups}",
        kernel.release().to_string_lossy(),
        kernel.version().to_string_lossy(),
        namespace("user"),
        namespace("mnt"),
        stamp(Path::new("/proc/self/exe")),
        STAMPED.map(|path| stamp(Path::new(path))),
    ))
}

#[cfg(test)]
mod tests;

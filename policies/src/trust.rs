//! Reads a policy file, if nobody else could have written it.
//!
//! Everything is checked on the opened descriptor, so that what was checked is what is read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open, openat};
use rustix::process::geteuid;

use ric_yaml::FILE_BYTES_MAX;

/// What a file is for decides whom it may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is the boundary: root's, reached through directories that only root can change, and
    /// through no symbolic link.
    Boundary,
    /// It can only take away: root's or the caller's own, wherever it lies.
    Narrowing,
}

/// Why a policy file is not believed. The site must act for its own file, the user for `--policy`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// It belongs to someone who must not decide this.
    #[error("{name} belongs to uid {uid}, not to {wanted}")]
    Owner {
        /// The file or directory.
        name: String,
        /// Its owner.
        uid: u32,
        /// Who it may belong to.
        wanted: &'static str,
    },
    /// Others than its owner can change it.
    #[error("{name} can be changed by others than its owner (mode {mode:04o})")]
    Writable {
        /// The file or directory.
        name: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The way to it can be bent.
    #[error("{name} is a symbolic link")]
    Link {
        /// The link.
        name: String,
    },
    /// It is a directory, pipe, device or socket.
    #[error("{name} is not a regular file")]
    NotAFile {
        /// The name.
        name: String,
    },
    /// A longer one would not be read to its end.
    #[error("{name} has more than {bytes_max} bytes")]
    TooLarge {
        /// The file.
        name: String,
        /// The bound.
        bytes_max: usize,
    },
    /// Someone wrote while it was read, so it may be half of two policies.
    #[error("{name} was changed while it was read")]
    Changed {
        /// The file.
        name: String,
    },
}

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    Distrust(Distrust),
}

impl From<rustix::io::Errno> for ReadError {
    fn from(errno: rustix::io::Errno) -> Self {
        ReadError::Io(errno.into())
    }
}

impl From<Distrust> for ReadError {
    fn from(distrust: Distrust) -> Self {
        ReadError::Distrust(distrust)
    }
}

/// Reads the file at `path`. Never waits for a pipe or a device.
pub(crate) fn read(path: &Path, role: Role) -> Result<Vec<u8>, ReadError> {
    let shown = path.display().to_string();
    let fd = match role {
        Role::Boundary => open_through_trusted(path)?,
        Role::Narrowing => open(path, FILE, Mode::empty())?,
    };
    let before = fstat(&fd)?;
    if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
        return Err(Distrust::NotAFile { name: shown }.into());
    }
    let caller = match role {
        Role::Boundary => None,
        Role::Narrowing => Some(geteuid().as_raw()),
    };
    check_owner(&shown, &before, caller)?;
    check_mode(&shown, &before)?;
    let mut file = File::from(fd);
    let bytes = read_bounded(&mut file, &shown)?;
    let after = fstat(&file)?;
    let stamp = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime_nsec);
    if stamp(&before) != stamp(&after) {
        return Err(Distrust::Changed { name: shown }.into());
    }
    Ok(bytes)
}

/// Non-blocking, because opening a pipe waits for its writer; it changes nothing for a file.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Opens `path` one component at a time, each checked before the next is looked up in it.
fn open_through_trusted(path: &Path) -> Result<OwnedFd, ReadError> {
    let path = std::path::absolute(path).map_err(ReadError::Io)?;
    let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = open("/", step, Mode::empty())?;
    let mut reached = std::path::PathBuf::from("/");
    check_directory(&reached, &at)?;
    let names: Vec<&OsStr> = path
        .components()
        .filter(|component| *component != Component::RootDir)
        .map(Component::as_os_str)
        .collect();
    let Some((file, directories)) = names.split_last() else {
        return Err(Distrust::NotAFile { name: path.display().to_string() }.into());
    };
    for directory in directories {
        reached.push(directory);
        at = openat(&at, *directory, step, Mode::empty())?;
        check_directory(&reached, &at)?;
    }
    match openat(&at, *file, FILE | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => Ok(fd),
        Err(rustix::io::Errno::LOOP) => {
            Err(Distrust::Link { name: path.display().to_string() }.into())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// A directory in which nobody but root can put another file in the place of root's.
fn check_directory(path: &Path, fd: &OwnedFd) -> Result<(), ReadError> {
    let name = path.display().to_string();
    let stat = fstat(fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => return Err(Distrust::Link { name }.into()),
        FileType::Directory => {}
        FileType::RegularFile
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => return Err(rustix::io::Errno::NOTDIR.into()),
    }
    check_owner(&name, &stat, None)?;
    // In a sticky directory only the owner of a file can remove or rename it (inode(7)).
    if Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX) {
        return Ok(());
    }
    Ok(check_mode(&name, &stat)?)
}

/// Root's, or also `caller`'s where one is given.
fn check_owner(name: &str, stat: &Stat, caller: Option<u32>) -> Result<(), Distrust> {
    if stat.st_uid == 0 || Some(stat.st_uid) == caller {
        return Ok(());
    }
    let wanted = if caller.is_some() { "root or to you" } else { "root" };
    Err(Distrust::Owner { name: name.to_owned(), uid: stat.st_uid, wanted })
}

/// Writable by nobody but its owner. An access control list shows in the group's bits (acl(5)).
fn check_mode(name: &str, stat: &Stat) -> Result<(), Distrust> {
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Err(Distrust::Writable { name: name.to_owned(), mode: mode.bits() });
    }
    Ok(())
}

fn read_bounded(file: &mut File, name: &str) -> Result<Vec<u8>, ReadError> {
    let bytes_max = FILE_BYTES_MAX;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file of the largest size from a larger one.
    let bound = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(bound).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() > bytes_max {
        return Err(Distrust::TooLarge { name: name.to_owned(), bytes_max }.into());
    }
    Ok(bytes)
}

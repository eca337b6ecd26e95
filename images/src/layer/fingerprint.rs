//! Digests a tree as it is on disk, to find damage later and to compare trees.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};
use sha2::{Digest as _, Sha256};

use super::owner::OWN_PREFIX;
use crate::Digest;

/// Digests names, kinds, modes, times, link targets, which files are one, `user.*` attributes and
/// contents below `root`. Owners are left out, so that it is the same for whoever unpacked the
/// tree.
///
/// What its own owner may not read is digested without its contents: only root could see those.
pub(crate) fn fingerprint(root: BorrowedFd<'_>) -> Result<Digest> {
    let mut walk = Walk { hasher: Sha256::new(), links: HashMap::new(), buffer: vec![0; 1 << 18] };
    let stat = rustix::fs::fstat(root)?;
    walk.status(b"", &stat);
    walk.directory(root, &stat)?;
    Ok(Digest::from_hasher(walk.hasher))
}

struct Walk {
    hasher: Sha256,
    /// Inodes with several names, by the order in which they were met.
    links: HashMap<u64, u64>,
    buffer: Vec<u8>,
}

impl Walk {
    fn directory(&mut self, directory: BorrowedFd<'_>, stat: &Stat) -> Result<()> {
        if stat.st_mode & 0o500 == 0o500 {
            self.attributes(directory)?;
            for name in sorted_names(directory)? {
                self.entry(directory, &name)?;
            }
        }
        self.field(b"end");
        Ok(())
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.status(name.to_bytes(), &stat);
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_readable = stat.st_mode & 0o400 != 0;
        if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
            self.field(target.to_bytes());
        } else if kind == FileType::Directory && is_readable {
            let directory = open(parent, name, OFlags::DIRECTORY)?;
            self.directory(directory.as_fd(), &stat)?;
        } else if kind == FileType::RegularFile && is_readable && self.is_new(&stat) {
            let file = open(parent, name, OFlags::empty())?;
            self.attributes(file.as_fd())?;
            self.contents(&file)?;
        }
        Ok(())
    }

    fn status(&mut self, name: &[u8], stat: &Stat) {
        self.field(name);
        // A directory's size and times of access are its file system's business.
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let size = if is_directory { 0 } else { stat.st_size };
        for number in [i64::from(stat.st_mode), size, stat.st_mtime] {
            self.hasher.update(number.to_le_bytes());
        }
        self.hasher.update(stat.st_mtime_nsec.to_le_bytes());
    }

    /// Whether a file was not met by another name; says which one if it was.
    fn is_new(&mut self, stat: &Stat) -> bool {
        if stat.st_nlink == 1 {
            return true;
        }
        let next = self.links.len() as u64;
        let order = *self.links.entry(stat.st_ino).or_insert(next);
        self.hasher.update(order.to_le_bytes());
        order == next
    }

    fn attributes(&mut self, file: BorrowedFd<'_>) -> Result<()> {
        // All names of a file together are at most 64 KiB (XATTR_LIST_MAX, limits.h), each value
        // too.
        let mut names = vec![0; 1 << 16];
        let length = match rustix::fs::flistxattr(file, &mut names[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            listed => listed?,
        };
        let mut names: Vec<&[u8]> = names[..length].split(|b| *b == 0).collect();
        names.retain(|name| name.starts_with(b"user.") && !name.starts_with(OWN_PREFIX));
        names.sort_unstable();
        let mut value = vec![0; 1 << 16];
        for name in names {
            let length = rustix::fs::fgetxattr(file, name, &mut value[..])?;
            self.field(name);
            self.field(&value[..length]);
        }
        Ok(())
    }

    fn contents(&mut self, file: &OwnedFd) -> Result<()> {
        loop {
            let count = rustix::io::retry_on_intr(|| rustix::io::read(file, &mut self.buffer[..]))?;
            if count == 0 {
                return Ok(());
            }
            self.hasher.update(&self.buffer[..count]);
        }
    }

    /// Adds bytes of any length so that they cannot be taken for the next ones.
    fn field(&mut self, bytes: &[u8]) {
        self.hasher.update((bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }
}

pub(super) fn open(parent: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    // Looking is not using: access times stay as they are. Non-blocking, should a fifo appear.
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(parent, name, flags, Mode::empty()),
        opened => opened,
    }
}

pub(crate) fn sorted_names(directory: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

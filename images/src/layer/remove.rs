//! Removes trees that were written from untrusted archives, by descriptor.
//!
//! Directories may have any mode, 0000 included, may be nested deeper than there are descriptors,
//! and may hold links to anywhere. No link is followed and no path is ever put together: a
//! directory is emptied into the top of the tree that is being removed, level by level.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RawMode, RenameFlags};
use rustix::io::{Errno, Result};

/// Removes `name` in `parent`, whatever it is; nothing is fine too.
///
/// The caller owns the tree and nobody else writes to it. If this is cut short, what is left is
/// still below `name` and another call removes it.
pub fn remove(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    if !is_directory(parent, name)? {
        return Ok(());
    }
    let top = open_directory(parent, name)?;
    let mut moved: u64 = 0;
    loop {
        let children = names(top.as_fd())?;
        if children.is_empty() {
            return rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
        }
        for child in children {
            if is_directory(top.as_fd(), &child)? {
                let directory = open_directory(top.as_fd(), &child)?;
                empty(directory.as_fd(), top.as_fd(), &mut moved)?;
                rustix::fs::unlinkat(&top, child.as_c_str(), AtFlags::REMOVEDIR)?;
            }
        }
    }
}

/// Unlinks the files of `directory` and moves its directories into `top`.
fn empty(directory: BorrowedFd<'_>, top: BorrowedFd<'_>, moved: &mut u64) -> Result<()> {
    loop {
        let children = names(directory)?;
        if children.is_empty() {
            return Ok(());
        }
        for child in children {
            if is_directory(directory, &child)? {
                // Moving a directory writes its `..`, so it must be writable itself.
                drop(open_directory(directory, &child)?);
                move_up(directory, &child, top, moved)?;
            }
        }
    }
}

fn move_up(from: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> Result<()> {
    loop {
        *moved += 1;
        let target = format!(".removed-{moved}");
        match rustix::fs::renameat_with(from, name, top, &target, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            done => return done,
        }
    }
}

/// Unlinks `name`, unless it is a directory that is not empty: then says so.
fn is_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(false),
        // Linux says EISDIR, POSIX and some file systems EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(false),
        // Without permission to read it, nothing tells whether it is empty.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Opens a directory, after making sure that its owner may list and change it.
fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode as RawMode & 0o7777);
    if !mode.contains(Mode::RWXU) {
        // fchmod(2) refuses an O_PATH descriptor; its link in /proc leads to exactly that inode.
        let itself = format!("/proc/self/fd/{}", handle.as_raw_fd());
        rustix::fs::chmod(itself, mode | Mode::RWXU)?;
    }
    rustix::fs::openat(parent, name, flags | OFlags::RDONLY, Mode::empty())
}

/// Some of the names in a directory; none only if it is empty.
fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>> {
    // Bounds the memory for a directory of millions.
    const NAMES_MAX: usize = 4096;
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
        if names.len() == NAMES_MAX {
            break;
        }
    }
    Ok(names)
}

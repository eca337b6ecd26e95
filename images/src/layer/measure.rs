//! Says how much of a disk a tree takes.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};

/// Bytes that `name` in `parent` takes on disk, with all that is below it; a file with several
/// names counts once. Nothing there is nothing, and what may not be looked into counts as empty.
pub(crate) fn disk_bytes(parent: impl AsFd, name: &str) -> Result<u64> {
    let name = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
    measure(parent.as_fd(), &name, &mut HashSet::new())
}

fn measure(parent: BorrowedFd<'_>, name: &CStr, seen: &mut HashSet<(u64, u64)>) -> Result<u64> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(0),
        found => found?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        let is_new = stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino));
        return Ok(if is_new { allocated(&stat) } else { 0 });
    }
    let mut bytes = allocated(&stat);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS | Errno::NOENT) => return Ok(bytes),
        opened => opened?,
    };
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            bytes += measure(directory.as_fd(), name, seen)?;
        }
    }
    Ok(bytes)
}

/// stat(2): blocks are of 512 bytes, whatever the file system's are.
fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

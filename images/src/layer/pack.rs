//! A directory as the tar of a layer: what a build step has changed, or a whole tree.
//!
//! The same tree gives the same bytes: names are sorted, what a machine adds (inode numbers, times
//! of access, marks of overlayfs) is left out, and times can be clamped.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::EntryType;

use super::fingerprint::{open, sorted_names};
use super::head::{END, Head, padding};
use super::header::Device;
use super::name::{LayerPath, OPAQUE_NAME, WHITEOUT_PREFIX, join};
use super::pax::{Moment, is_kept_xattr};

/// Bytes of content copied at a time.
const COPY_BYTES: usize = 256 << 10;

/// How a tree is packed.
#[derive(Debug, Clone, Default)]
pub struct Pack {
    /// Times after this, in seconds since 1970, are brought to it (`SOURCE_DATE_EPOCH` of
    /// reproducible-builds.org).
    pub mtime_max: Option<i64>,
    /// Paths without a leading slash that are left out, with all below them.
    pub left_out: Vec<Vec<u8>>,
    /// Whether it is all of an image, and not what a step has changed: the root itself is written,
    /// too, and times keep fractions of a second, which Docker and containerd do not write.
    pub is_image: bool,
}

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packed {
    /// Files, directories, links and whiteouts.
    pub entries: u64,
    /// Sockets, which have no place in a layer.
    pub left_out: u64,
}

/// Writes the tree below `root` to `tar`, each directory before what is in it.
///
/// An upper directory of overlayfs becomes the layer that it is: its whiteouts (character devices
/// 0:0) and opaque directories (overlayfs documentation, "whiteouts and opaque directories") are
/// written as the image specification wants them. Owners are those that this process sees, so one
/// in the user namespace of a container writes the container's.
///
/// # Errors
/// What cannot be read or written; `InvalidData` for a file that changed meanwhile or whose name a
/// layer cannot hold. What was written so far means nothing then.
pub fn pack_tree(root: BorrowedFd<'_>, how: &Pack, tar: &mut dyn Write) -> io::Result<Packed> {
    let mut walk =
        Walk { tar: TarWriter::new(tar), how, links: HashMap::new(), packed: Packed::default() };
    let top = rustix::fs::openat(root, c".", directory_flags(), Mode::empty())?;
    if how.is_image {
        let stat = rustix::fs::fstat(&top)?;
        let xattrs = attributes(top.as_fd())?;
        let head = walk.head(b"./", &stat, EntryType::Directory);
        walk.tar.entry(&Head { bytes: 0, xattrs: &xattrs, ..head })?;
        walk.packed.entries += 1;
    }
    walk.directory(&top, &LayerPath::new())?;
    walk.tar.finish()?;
    Ok(walk.packed)
}

/// Writes entries in the order in which they come.
#[derive(Debug)]
pub(crate) struct TarWriter<W: Write> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> TarWriter<W> {
        TarWriter { out }
    }

    /// Writes an entry without content.
    pub(crate) fn entry(&mut self, head: &Head<'_>) -> io::Result<()> {
        self.out.write_all(&head.encode())
    }

    /// Writes an entry and its content, which must have as many bytes as its head says.
    pub(crate) fn file(&mut self, head: &Head<'_>, content: impl Read) -> io::Result<()> {
        self.entry(head)?;
        let mut content = content.take(head.bytes);
        let copied = io::copy(&mut content, &mut self.out)?;
        if copied != head.bytes {
            return Err(changed(head.path));
        }
        self.out.write_all(padding(copied))
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&END)?;
        self.out.flush()
    }
}

struct Walk<'a> {
    tar: TarWriter<&'a mut dyn Write>,
    how: &'a Pack,
    /// The first name of each file that has several, by its inode.
    links: HashMap<(u64, u64), LayerPath>,
    packed: Packed,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &OwnedFd, path: &[u8]) -> io::Result<()> {
        for name in sorted_names(directory.as_fd())? {
            let inner = join(path, name.to_bytes());
            if !self.how.left_out.contains(&inner) {
                self.entry(directory, &name, &inner)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, parent: &OwnedFd, name: &CStr, path: &[u8]) -> io::Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return self.mark(path, name.to_bytes(), &stat);
        }
        if name.to_bytes().starts_with(WHITEOUT_PREFIX) {
            return Err(invalid(path, "its name would be read as a removal"));
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let target = first.clone();
                let head = self.head(path, &stat, EntryType::Link);
                self.packed.entries += 1;
                return self.tar.entry(&Head { target: &target, bytes: 0, ..head });
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        match kind {
            FileType::Directory => return self.whole_directory(parent, name, path, &stat),
            FileType::RegularFile => self.file(parent, name, path, &stat)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
                let head = self.head(path, &stat, EntryType::Symlink);
                self.tar.entry(&Head { target: target.to_bytes(), bytes: 0, ..head })?;
            }
            FileType::Fifo => {
                let head = self.head(path, &stat, EntryType::Fifo);
                self.tar.entry(&Head { bytes: 0, ..head })?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let is_block = kind == FileType::BlockDevice;
                let device = Some(device(stat.st_rdev, is_block));
                let kind = if is_block { EntryType::Block } else { EntryType::Char };
                self.tar.entry(&Head { bytes: 0, device, ..self.head(path, &stat, kind) })?;
            }
            FileType::Socket | FileType::Unknown => {
                self.packed.left_out += 1;
                return Ok(());
            }
        }
        self.packed.entries += 1;
        Ok(())
    }

    fn whole_directory(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        path: &[u8],
        stat: &Stat,
    ) -> io::Result<()> {
        let directory = rustix::fs::openat(parent, name, directory_flags(), Mode::empty())?;
        let xattrs = attributes(directory.as_fd())?;
        let head = self.head(path, stat, EntryType::Directory);
        self.tar.entry(&Head { bytes: 0, xattrs: &xattrs, ..head })?;
        self.packed.entries += 1;
        if is_opaque(directory.as_fd())? {
            self.removal(&join(path, OPAQUE_NAME), stat)?;
        }
        self.directory(&directory, path)
    }

    fn file(&mut self, parent: &OwnedFd, name: &CStr, path: &[u8], stat: &Stat) -> io::Result<()> {
        let file = open(parent.as_fd(), name, OFlags::empty())?;
        let xattrs = attributes(file.as_fd())?;
        let head = Head { xattrs: &xattrs, ..self.head(path, stat, EntryType::Regular) };
        let content = io::BufReader::with_capacity(COPY_BYTES, File::from(file));
        self.tar.file(&head, content)
    }

    /// A name of lower layers that is not there any more.
    fn mark(&mut self, path: &[u8], name: &[u8], stat: &Stat) -> io::Result<()> {
        let parent = &path[..path.len() - name.len()];
        self.removal(&[parent, WHITEOUT_PREFIX, name].concat(), stat)
    }

    fn removal(&mut self, path: &[u8], stat: &Stat) -> io::Result<()> {
        let head = self.head(path, stat, EntryType::Regular);
        self.packed.entries += 1;
        // When something was removed is no part of what is left.
        let mtime = Moment::default();
        self.tar.entry(&Head { bytes: 0, mode: 0, uid: 0, gid: 0, mtime, ..head })
    }

    fn head<'a>(&self, path: &'a [u8], stat: &Stat, kind: EntryType) -> Head<'a> {
        let seconds = stat.st_mtime.min(self.how.mtime_max.unwrap_or(i64::MAX));
        let is_whole = !self.how.is_image || seconds < stat.st_mtime;
        let nanoseconds = if is_whole { 0 } else { i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
        Head {
            path,
            kind,
            target: b"",
            device: None,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Moment { seconds, nanoseconds },
            xattrs: &[],
        }
    }
}

fn device(number: u64, is_block: bool) -> Device {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    Device { is_block, major, minor }
}

/// Attributes that mean the same elsewhere: those of users, and file capabilities, which the kernel
/// translates to what they are in this process's user namespace (capabilities(7), "Namespaced file
/// capabilities").
fn attributes(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in attribute_names(file)? {
        let name = name.to_bytes();
        if is_kept_xattr(name) || name == b"security.capability" {
            let mut value = vec![0; ATTRIBUTE_BYTES];
            let length = rustix::fs::fgetxattr(file, name, &mut value[..])?;
            value.truncate(length);
            found.push((name.to_vec(), value));
        }
    }
    Ok(found)
}

/// Whether overlayfs shows nothing of lower layers in this directory.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> io::Result<bool> {
    for name in [c"trusted.overlay.opaque", c"user.overlay.opaque"] {
        let mut value = [0; 2];
        match rustix::fs::fgetxattr(directory, name, &mut value[..]) {
            Ok(length) if value[..length] == *b"y" => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::RANGE) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

/// Most bytes of a list of names, and of a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`, limits.h).
const ATTRIBUTE_BYTES: usize = 1 << 16;

fn attribute_names(file: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut list = vec![0; ATTRIBUTE_BYTES];
    let length = match rustix::fs::flistxattr(file, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        listed => listed?,
    };
    let names = list[..length].split_inclusive(|byte| *byte == 0);
    let mut names: Vec<CString> =
        names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()).map(CStr::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn changed(path: &[u8]) -> io::Error {
    invalid(path, "it became shorter while it was read")
}

fn invalid(path: &[u8], why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/{}: {why}", path.escape_ascii()))
}

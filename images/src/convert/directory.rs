//! Writes the tree of an image as a directory (`dir:`).
//!
//! The directory is new and ours until it gets its name, so nothing in it can be a link to
//! elsewhere that somebody else has made. Owners and modes come last, from the bottom up: until
//! then each directory is open to us. What the machine, its file system or this user cannot hold
//! is left out and counted.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, makedev};
use rustix::io::Errno;

use super::tree::{Content, Directory, Id, Inode, Node, Tree};
use crate::layer::{LayerPath, Status, join, times};

/// Bytes of a file that are copied at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Bits of a mode that make a program another's.
const SET_ID: u32 = 0o6000;

/// What the directory does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) devices: u64,
    pub(super) xattrs: u64,
    /// Things that belong to this user instead of their owner, without set-user-ID and set-group-ID
    /// bits.
    pub(super) owners: u64,
}

/// Why the directory is not written. The path is that of the thing, from the root of the image.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) call: &'static str,
    pub(super) path: LayerPath,
    pub(super) source: io::Error,
}

/// A directory in the making.
pub(super) struct Writer<'a> {
    tree: &'a Tree,
    content: &'a File,
    root: &'a OwnedFd,
    /// The first name of everything that is no directory.
    links: HashMap<Id, LayerPath>,
    lost: Lost,
}

impl<'a> Writer<'a> {
    /// Of `tree`, whose contents are in `content`, in the empty directory `root`.
    pub(super) fn new(tree: &'a Tree, content: &'a File, root: &'a OwnedFd) -> Writer<'a> {
        Writer { tree, content, root, links: HashMap::new(), lost: Lost::default() }
    }

    /// Writes everything but what the root itself is.
    pub(super) fn fill(&mut self) -> Result<(), Unwritten> {
        self.children(self.tree.root, self.root.as_fd(), &[])
    }

    /// Gives the root its owner, mode and time: once it has its name, as a directory that its owner
    /// may not write to can have no other.
    pub(super) fn finish(mut self) -> Result<Lost, Unwritten> {
        let root = &self.tree.inodes[self.tree.root];
        self.describe(root, self.root.as_fd(), &[])?;
        Ok(self.lost)
    }

    /// Calls itself once for each directory in a path, of which a layer has a bounded number.
    fn children(&mut self, id: Id, here: BorrowedFd<'_>, path: &[u8]) -> Result<(), Unwritten> {
        if let Node::Directory(Directory { children, .. }) = &self.tree.inodes[id].node {
            for (name, child) in children {
                self.entry(*child, here, name, &join(path, name))?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        id: Id,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), Unwritten> {
        let inode = &self.tree.inodes[id];
        if let Node::Directory(_) = &inode.node {
            rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(failed("mkdirat(2)", path))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let here = rustix::fs::openat(parent, name, flags, Mode::empty())
                .map_err(failed("openat(2)", path))?;
            self.children(id, here.as_fd(), path)?;
            return self.describe(inode, here.as_fd(), path);
        }
        if let Some(first) = self.links.get(&id) {
            return rustix::fs::linkat(self.root, &first[..], parent, name, AtFlags::empty())
                .map_err(failed("linkat(2)", path));
        }
        let is_made = match &inode.node {
            Node::File(content) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::RUSR | Mode::WUSR;
                let file = rustix::fs::openat(parent, name, flags | OFlags::CLOEXEC, mode)
                    .map_err(failed("openat(2)", path))?;
                let file = File::from(file);
                self.copy(*content, &file).map_err(|source| Unwritten {
                    call: "write(2)",
                    path: path.to_vec(),
                    source,
                })?;
                self.describe(inode, file.as_fd(), path)?;
                true
            }
            Node::Symlink { target } => {
                rustix::fs::symlinkat(&target[..], parent, name)
                    .map_err(failed("symlinkat(2)", path))?;
                true
            }
            Node::Fifo => {
                rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR, 0)
                    .map_err(failed("mknodat(2)", path))?;
                true
            }
            Node::Device(device) => {
                let kind = match device.is_block {
                    true => FileType::BlockDevice,
                    false => FileType::CharacterDevice,
                };
                let number = makedev(device.major, device.minor);
                match rustix::fs::mknodat(parent, name, kind, Mode::RUSR, number) {
                    Ok(()) => true,
                    // An ordinary user, or root of a container.
                    Err(Errno::PERM) => {
                        self.lost.devices += 1;
                        false
                    }
                    Err(errno) => return Err(failed("mknodat(2)", path)(errno)),
                }
            }
            Node::Directory(_) | Node::Whiteout => false,
        };
        if is_made {
            self.links.insert(id, path.to_vec());
            if !matches!(inode.node, Node::File(_)) {
                self.describe_name(inode, parent, name, path)?;
            }
        }
        Ok(())
    }

    fn copy(&self, content: Content, mut file: &File) -> io::Result<()> {
        let Content { mut offset, bytes } = content;
        let end = offset + bytes;
        let most = usize::try_from(PIECE_BYTES.min(bytes)).unwrap_or_default();
        let mut piece = vec![0; most];
        while offset < end {
            let count = usize::try_from(end - offset).map_or(most, |left| left.min(most));
            self.content.read_exact_at(&mut piece[..count], offset)?;
            file.write_all(&piece[..count])?;
            offset += count as u64;
        }
        Ok(())
    }

    /// Gives an open file or directory its owner, attributes, mode and time, in this order:
    /// chown(2) takes away capabilities and set-user-ID bits.
    fn describe(
        &mut self,
        inode: &Inode,
        file: BorrowedFd<'_>,
        path: &[u8],
    ) -> Result<(), Unwritten> {
        let Status { mode, uid, gid, .. } = inode.status;
        let owned = self.own(rustix::fs::fchown(file, owner(uid), group(gid)), inode);
        let is_owned = owned.map_err(failed("fchown(2)", path))?;
        for (name, value) in &inode.xattrs {
            match rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::OPNOTSUPP) => self.lost.xattrs += 1,
                Err(errno) => return Err(failed("fsetxattr(2)", path)(errno)),
            }
        }
        let mode = if is_owned { mode } else { mode & !SET_ID };
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(failed("fchmod(2)", path))?;
        rustix::fs::futimens(file, &times(&inode.status)).map_err(failed("futimens(3)", path))
    }

    /// The same of something that is not opened: a link, a fifo, a device.
    fn describe_name(
        &mut self,
        inode: &Inode,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), Unwritten> {
        let Status { mode, uid, gid, .. } = inode.status;
        let link = AtFlags::SYMLINK_NOFOLLOW;
        let owned = rustix::fs::chownat(parent, name, owner(uid), group(gid), link);
        let is_owned = self.own(owned, inode).map_err(failed("fchownat(2)", path))?;
        // Only root could give them `trusted.*`, which no tree has.
        self.lost.xattrs += inode.xattrs.len() as u64;
        if !matches!(inode.node, Node::Symlink { .. }) {
            let mode = if is_owned { mode } else { mode & !SET_ID };
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(failed("fchmodat(2)", path))?;
        }
        rustix::fs::utimensat(parent, name, &times(&inode.status), link)
            .map_err(failed("utimensat(2)", path))
    }

    /// Whether something got its owner; it is counted if it may not.
    fn own(&mut self, owned: rustix::io::Result<()>, inode: &Inode) -> rustix::io::Result<bool> {
        let Status { uid, gid, .. } = inode.status;
        let is_us = uid == rustix::process::geteuid().as_raw()
            && gid == rustix::process::getegid().as_raw();
        match owned {
            Ok(()) => Ok(true),
            // Not root, or an id that this user namespace does not map.
            Err(Errno::PERM | Errno::INVAL) if !is_us => {
                self.lost.owners += 1;
                Ok(false)
            }
            Err(errno) => Err(errno),
        }
    }
}

fn owner(uid: u32) -> Option<Uid> {
    Some(Uid::from_raw(uid))
}

fn group(gid: u32) -> Option<Gid> {
    Some(Gid::from_raw(gid))
}

fn failed(call: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Unwritten {
    let path = path.to_vec();
    move |errno| Unwritten { call, path, source: errno.into() }
}

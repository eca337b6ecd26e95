//! Writes the entries of a layer into its tree.
//!
//! Nothing is opened for writing that was there before: every file is made anew
//! (`O_CREAT | O_EXCL | O_NOFOLLOW`) by its last name in a directory that [`Tree`] found.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags, makedev};
use rustix::io::Errno;

use super::Limits;
use super::bytes::Bytes;
use super::error::{Fault, Refused, shown};
use super::header::{Entries, Entry, Kind, Status};
use super::name::{Meaning, clean, join, meaning, split};
use super::tree::{Found, Tree, disk, times};

/// What a layer held. Left out: things that have no place in a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Files, directories, links and whiteouts, directories that no entry names included.
    pub entries: u64,
    /// Device nodes. They are left out alike for root and for everyone: a sandbox brings its own.
    pub devices_left_out: u64,
    /// Extended attributes other than `user.*`: access control lists, capabilities, labels.
    pub xattrs_left_out: u64,
    /// Directories that hold entries but have none of their own, without a leading slash.
    pub implied: Vec<Vec<u8>>,
}

/// Writes all of a tar into the empty directory `root`.
pub(super) fn write(
    bytes: Bytes,
    limits: &Limits,
    root: BorrowedFd<'_>,
) -> Result<Contents, Fault> {
    let mut entries = Entries::new(bytes, limits);
    let mut writer = Writer { tree: Tree::new(root, limits), contents: Contents::default() };
    while let Some(entry) = entries.next()? {
        let path = clean(&entry.path, limits)?;
        writer.entry(&entry, &path, &mut entries).map_err(|fault| name_entry(fault, &entry))?;
    }
    writer.tree.finish()?;
    writer.contents.entries = writer.tree.entries();
    writer.contents.implied = writer.tree.implied().cloned().collect();
    Ok(writer.contents)
}

/// Refusals name the entry as the archive wrote it.
fn name_entry(fault: Fault, entry: &Entry) -> Fault {
    match fault {
        Fault::Entry { reason, .. } => Fault::Entry { path: entry.path.clone(), reason },
        Fault::Malformed { .. } | Fault::Limit { .. } | Fault::Disk { .. } | Fault::Cut => fault,
    }
}

struct Writer<'a> {
    tree: Tree<'a>,
    contents: Contents,
}

impl Writer<'_> {
    fn entry(
        &mut self,
        entry: &Entry,
        path: &[u8],
        entries: &mut Entries<'_>,
    ) -> Result<(), Fault> {
        self.contents.xattrs_left_out += entry.xattrs_ignored;
        let refuse = |reason| Fault::Entry { path: entry.path.clone(), reason };
        self.tree.count()?;
        match (meaning(path).map_err(refuse)?, &entry.kind) {
            (Meaning::Root, Kind::Directory) => self.directory(b"", b"", entry),
            (Meaning::Root, _) => Err(refuse(Refused::Root)),
            (Meaning::Whiteout { parent, name }, Kind::File { .. }) => self.whiteout(parent, name),
            (Meaning::Opaque { parent }, Kind::File { .. }) => {
                let parent = self.tree.ensure(parent)?;
                self.tree.make_opaque(&parent)
            }
            (Meaning::Whiteout { .. } | Meaning::Opaque { .. }, _) => {
                Err(refuse(Refused::Whiteout))
            }
            (Meaning::Entry { parent, name }, kind) => {
                let parent = self.tree.ensure(parent)?;
                match kind {
                    Kind::Directory => self.directory(&parent, name, entry),
                    Kind::File { .. } => self.file(&parent, name, entry, entries),
                    Kind::HardLink { target } => self.hard_link(&parent, name, target),
                    Kind::Symlink { target } => self.symlink(&parent, name, target, entry),
                    Kind::Fifo => self.fifo(&parent, name, entry),
                    Kind::Device(_) => {
                        self.contents.devices_left_out += 1;
                        Ok(())
                    }
                }
            }
        }
    }

    fn directory(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let path = self.tree.make_directory(parent, name, Some(entry.status))?;
        if !entry.xattrs.is_empty() {
            let directory = self.tree.directory(&path)?;
            self.set_xattrs(&directory, entry, &path)?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        parent: &[u8],
        name: &[u8],
        entry: &Entry,
        entries: &mut Entries<'_>,
    ) -> Result<(), Fault> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = self.create(parent, name, "openat(2)", |directory| {
            rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, mode)
        })?;
        let path = join(parent, name);
        entries.content(|piece| write_all(&file, piece).map_err(disk("write(2)", &path)))?;
        if let Some((uid, gid)) = self.tree.owner(&entry.status) {
            rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(disk("fchown(2)", &path))?;
        }
        self.tree.note_owner(&file, &entry.status, &path)?;
        // Before the mode: it may not let its owner write. After the owner: chown(2) clears
        // set-user-id bits and file capabilities.
        self.set_xattrs(&file, entry, &path)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.status.mode))
            .map_err(disk("fchmod(2)", &path))?;
        rustix::fs::futimens(&file, &times(&entry.status)).map_err(disk("futimens(3)", &path))
    }

    /// Links to what this layer holds, never to what a lower layer or the machine does: builders
    /// put both names in a layer, and overlayfs has no link across layers.
    fn hard_link(&mut self, parent: &[u8], name: &[u8], raw: &[u8]) -> Result<(), Fault> {
        let target = clean(raw, self.tree.limits())?;
        let reason = Refused::HardLink { target: shown(raw) };
        let refused = || Fault::Entry { path: raw.to_vec(), reason: reason.clone() };
        let (holder, target_name) = split(&target);
        let holder = self.tree.find(holder)?.ok_or_else(refused)?;
        let source = join(&holder, target_name);
        if target.is_empty() || self.tree.is_directory(&source) || source == join(parent, name) {
            return Err(refused());
        }
        if matches!(self.tree.found(&holder, target_name)?, Found::Nothing | Found::Whiteout) {
            return Err(refused());
        }
        let holder = self.tree.directory(&holder)?;
        self.create(parent, name, "linkat(2)", |directory| {
            rustix::fs::linkat(&*holder, target_name, directory, name, AtFlags::empty())
        })
    }

    fn symlink(
        &mut self,
        parent: &[u8],
        name: &[u8],
        target: &[u8],
        entry: &Entry,
    ) -> Result<(), Fault> {
        // The kernel takes at most PATH_MAX bytes with the ending zero (symlink(2)).
        const TARGET_BYTES_MAX: usize = 4095;
        if target.is_empty() || target.len() > TARGET_BYTES_MAX {
            return Err(Fault::Entry { path: join(parent, name), reason: Refused::LinkTarget });
        }
        self.create(parent, name, "symlinkat(2)", |directory| {
            rustix::fs::symlinkat(target, directory, name)
        })?;
        self.set_status(parent, name, &entry.status)
    }

    fn fifo(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<(), Fault> {
        self.create(parent, name, "mknodat(2)", |directory| {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(directory, name, FileType::Fifo, mode, makedev(0, 0))
        })?;
        // Only `create` put something here, and it is no link; so the mode can go by name.
        let directory = self.tree.directory(parent)?;
        let mode = Mode::from_raw_mode(entry.status.mode);
        self.set_status(parent, name, &entry.status)?;
        rustix::fs::chmodat(&*directory, name, mode, AtFlags::empty())
            .map_err(disk("fchmodat(2)", &join(parent, name)))
    }

    /// Says that lower layers' `name` is gone. What this layer itself has there stays (OCI
    /// image-spec v1.1, layer.md: whiteouts apply to lower layers only), whichever came first.
    fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), Fault> {
        let parent = self.tree.ensure(parent)?;
        let path = join(&parent, name);
        if self.tree.is_directory(&path) {
            return self.tree.make_opaque(&path);
        }
        let directory = self.tree.directory(&parent)?;
        // Device 0:0 is overlayfs's mark, and the one that needs no privilege (Linux 5.8).
        let device = makedev(0, 0);
        let made = rustix::fs::mknodat(
            &*directory,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            device,
        );
        match made {
            // A file or link here already hides what is below.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(disk("mknodat(2)", &path)(errno)),
        }
    }

    /// Makes `name` in `parent`, in place of anything that is there.
    fn create<T>(
        &mut self,
        parent: &[u8],
        name: &[u8],
        call: &'static str,
        make: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Result<T, Fault> {
        use std::os::fd::AsFd;
        let directory = self.tree.directory(parent)?;
        match make(directory.as_fd()) {
            Ok(made) => Ok(made),
            Err(Errno::EXIST) => {
                self.tree.clear(parent, name)?;
                make(directory.as_fd()).map_err(disk(call, &join(parent, name)))
            }
            Err(errno) => Err(disk(call, &join(parent, name))(errno)),
        }
    }

    /// Sets owner and time of something that cannot be opened.
    fn set_status(&mut self, parent: &[u8], name: &[u8], status: &Status) -> Result<(), Fault> {
        let directory = self.tree.directory(parent)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = self.tree.owner(status) {
            rustix::fs::chownat(&*directory, name, Some(uid), Some(gid), flags)
                .map_err(disk("fchownat(2)", &join(parent, name)))?;
        }
        rustix::fs::utimensat(&*directory, name, &times(status), flags)
            .map_err(disk("utimensat(2)", &join(parent, name)))
    }

    fn set_xattrs(&mut self, file: &OwnedFd, entry: &Entry, path: &[u8]) -> Result<(), Fault> {
        for (name, value) in &entry.xattrs {
            match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // A file system without user attributes; no program can rely on them.
                Err(Errno::OPNOTSUPP) => self.contents.xattrs_left_out += 1,
                Err(errno) => return Err(disk("setxattr(2)", path)(errno)),
            }
        }
        Ok(())
    }
}

fn write_all(file: &OwnedFd, mut piece: &[u8]) -> rustix::io::Result<()> {
    while !piece.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(file, piece))?;
        piece = &piece[written..];
    }
    Ok(())
}

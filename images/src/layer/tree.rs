//! The directories of a layer while it is being written: finds, makes and finishes them.
//!
//! **Invariant:** every directory is reached by one `openat2(2)` from the layer's root that
//! resolves no symbolic link, no `..` above the root and no other file system. Links that the layer
//! itself holds are resolved here, one component at a time, into such a path. So the kernel checks
//! each path again that this code computed, and a mistake here ends in an error, not outside.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::fs::{XattrFlags, fsetxattr};
use rustix::io::Errno;

use super::Limits;
use super::error::{Fault, Refused, shown};
use super::header::Status;
use super::name::{LayerPath, NAME_BYTES_MAX, WHITEOUT_PREFIX, check_length, join, split};
use super::pax::Moment;
use super::{owner, remove};
use crate::beneath::open_beneath;

/// Symbolic links on the way to one entry, as in the kernel (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Components visited on the way to one entry: links to links would otherwise multiply.
const STEPS_MAX: usize = 1024;
/// Archives list a directory's files together, and little else in between.
const OPEN_MAX: usize = 16;

/// Who owns a directory that no entry names: containerd, Docker and Podman all make it so.
pub(crate) const IMPLIED: Status =
    Status { mode: 0o755, uid: 0, gid: 0, mtime: Moment { seconds: 0, nanoseconds: 0 } };

/// Owner and mode are written last: until then each directory is ours and open to us.
#[derive(Debug)]
struct Directory {
    status: Status,
    is_implied: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    limits: &'a Limits,
    /// Who owns what is made here.
    maker: (Uid, Gid),
    /// All directories there are. Ordered, so that all below one can be found.
    directories: BTreeMap<LayerPath, Directory>,
    /// Those used last, latest first.
    open: Vec<(LayerPath, Rc<OwnedFd>)>,
    entries: u64,
}

impl<'a> Tree<'a> {
    /// A tree in the empty directory `root`.
    pub(super) fn new(root: BorrowedFd<'a>, limits: &'a Limits) -> Tree<'a> {
        let maker = (rustix::process::geteuid(), rustix::process::getegid());
        let top = Directory { status: IMPLIED, is_implied: true };
        let directories = BTreeMap::from([(LayerPath::new(), top)]);
        Tree { root, limits, maker, directories, open: Vec::new(), entries: 0 }
    }

    /// What the layer may cost.
    pub(super) fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// Entries so far, with the directories that none names.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Directories that no entry names, the root aside.
    pub(super) fn implied(&self) -> impl Iterator<Item = &LayerPath> {
        let named = |(path, made): &(&LayerPath, &Directory)| made.is_implied && !path.is_empty();
        self.directories.iter().filter(named).map(|(path, _)| path)
    }

    /// Counts something that is about to be made.
    pub(super) fn count(&mut self) -> Result<(), Fault> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            return Err(Fault::Limit { limit: "entries_max", most: self.limits.entries_max });
        }
        Ok(())
    }

    /// The directory that `path` means, through links of this layer, as a path without any. What is
    /// missing on the way is made, as entries may come without their parents.
    pub(super) fn ensure(&mut self, path: &[u8]) -> Result<LayerPath, Fault> {
        let made = self
            .walk(path, |tree, parent, name| tree.make_directory(parent, name, None).map(Some))?;
        Ok(made.expect("what is missing was made"))
    }

    /// As `ensure`, but none if something is missing.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<LayerPath>, Fault> {
        self.walk(path, |_, _, _| Ok(None))
    }

    /// Goes along `path`, asking `missing` for a directory where there is nothing.
    fn walk(
        &mut self,
        path: &[u8],
        missing: impl Fn(&mut Self, &[u8], &[u8]) -> Result<Option<LayerPath>, Fault>,
    ) -> Result<Option<LayerPath>, Fault> {
        if self.directories.contains_key(path) {
            return Ok(Some(path.to_vec()));
        }
        let refuse = |reason| Fault::Entry { path: path.to_vec(), reason };
        let mut here = LayerPath::new();
        let mut ahead = Vec::new();
        extend_reversed(&mut ahead, path);
        let (mut links, mut steps) = (0, 0);
        while let Some(component) = ahead.pop() {
            steps += 1;
            if steps > STEPS_MAX || ahead.len() > STEPS_MAX || links > LINKS_MAX {
                return Err(refuse(Refused::Links));
            }
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    here.truncate(split(&here).0.len());
                    continue;
                }
                _ => {}
            }
            let next = join(&here, &component);
            if self.directories.contains_key(&next) {
                here = next;
                continue;
            }
            match self.found(&here, &component)? {
                Found::Link(target) => {
                    links += 1;
                    if target.starts_with(b"/") {
                        here.clear();
                    }
                    extend_reversed(&mut ahead, &target);
                }
                Found::Nothing | Found::Whiteout => match missing(self, &here, &component)? {
                    Some(made) => here = made,
                    None => return Ok(None),
                },
                Found::File => {
                    return Err(refuse(Refused::Parent { parent: shown(&next) }));
                }
            }
        }
        Ok(Some(here))
    }

    /// Makes `name` in `parent` a directory, whatever it was, and keeps its contents if it was one.
    /// Without a status it is one that no entry names.
    pub(super) fn make_directory(
        &mut self,
        parent: &[u8],
        name: &[u8],
        status: Option<Status>,
    ) -> Result<LayerPath, Fault> {
        let path = join(parent, name);
        if let Some(known) = self.directories.get_mut(&path) {
            if let Some(status) = status {
                *known = Directory { status, is_implied: false };
            }
            return Ok(path);
        }
        check_length(&path, self.limits)?;
        if name.starts_with(WHITEOUT_PREFIX) {
            // A link led here: no entry of such a name comes so far.
            return Err(Fault::Entry { path, reason: Refused::Whiteout });
        }
        if status.is_none() {
            self.count()?;
        }
        let directory = self.directory(parent)?;
        let make = || rustix::fs::mkdirat(&*directory, name, Mode::RWXU);
        let is_replacing = match make() {
            Err(Errno::EXIST) => {
                self.clear(parent, name)?;
                make().map_err(disk("mkdirat(2)", &path))?;
                true
            }
            made => made.map(|()| false).map_err(disk("mkdirat(2)", &path))?,
        };
        let made = Directory { status: status.unwrap_or(IMPLIED), is_implied: status.is_none() };
        self.directories.insert(path.clone(), made);
        if is_replacing {
            // What was here, a whiteout or a file, hid all that lower layers have in this place.
            self.make_opaque(&path)?;
        }
        Ok(path)
    }

    /// Hides what lower layers have in a directory of this one.
    pub(super) fn make_opaque(&mut self, path: &[u8]) -> Result<(), Fault> {
        let directory = self.directory(path)?;
        let mark = |name| fsetxattr(&*directory, name, b"y", XattrFlags::empty());
        mark("user.overlay.opaque").map_err(disk("setxattr(2) user.overlay.opaque", path))?;
        if self.maker.0.is_root() {
            match mark("trusted.overlay.opaque") {
                // Root of a user namespace, or of a file system without these: no one mounts such
                // a tree without `userxattr`.
                Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
                Err(errno) => {
                    return Err(disk("setxattr(2) trusted.overlay.opaque", path)(errno));
                }
            }
        }
        Ok(())
    }

    /// Whether `path` is a directory of this layer.
    pub(super) fn is_directory(&self, path: &[u8]) -> bool {
        self.directories.contains_key(path)
    }

    /// Opens a directory by its path without links.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Fault> {
        if let Some(at) = self.open.iter().position(|(known, _)| known == path) {
            self.open[..=at].rotate_right(1);
            return Ok(Rc::clone(&self.open[0].1));
        }
        let opened = Rc::new(self.open_directory(path)?);
        self.open.truncate(OPEN_MAX - 1);
        self.open.insert(0, (path.to_vec(), Rc::clone(&opened)));
        Ok(opened)
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Fault> {
        let from_root: &[u8] = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        open_beneath(self.root, from_root, flags, links).map_err(disk("openat2(2)", path))
    }

    /// Removes what is called `name` in `parent`, so that an entry can take its place.
    pub(super) fn clear(&mut self, parent: &[u8], name: &[u8]) -> Result<(), Fault> {
        let path = join(parent, name);
        let directory = self.directory(parent)?;
        if !self.is_directory(&path) {
            return rustix::fs::unlinkat(&*directory, name, AtFlags::empty())
                .map_err(disk("unlinkat(2)", &path));
        }
        let below = [path.as_slice(), b"/"].concat();
        self.open.retain(|(open, _)| *open != path && !open.starts_with(&below));
        self.directories.remove(&path);
        let from = Bound::Included(below.clone());
        let known = self.directories.range((from, Bound::Unbounded));
        let stale: Vec<_> =
            known.map(|(key, _)| key.clone()).take_while(|key| key.starts_with(&below)).collect();
        for key in stale {
            self.directories.remove(&key);
        }
        let name = CString::new(name).map_err(|_| disk("remove", &path)(Errno::INVAL))?;
        remove::remove(directory.as_fd(), &name).map_err(disk("unlinkat(2)", &path))
    }

    /// What is called `name` in `parent`, if it is no directory.
    pub(super) fn found(&mut self, parent: &[u8], name: &[u8]) -> Result<Found, Fault> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Fault::Entry { path: join(parent, name), reason: Refused::NameLength });
        }
        let directory = self.directory(parent)?;
        match rustix::fs::readlinkat(&*directory, name, Vec::new()) {
            Ok(target) => return Ok(Found::Link(target.into_bytes())),
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(disk("readlinkat(2)", &join(parent, name))(errno)),
        }
        let stat = rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(disk("fstatat(2)", &join(parent, name)))?;
        // Whiteouts are the only devices that are ever made here.
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        Ok(if is_device { Found::Whiteout } else { Found::File })
    }

    /// Whom a file is to be given to. Only root can give files away; everyone else owns all of the
    /// tree.
    pub(super) fn owner(&self, status: &Status) -> Option<(Uid, Gid)> {
        let owner = (Uid::from_raw(status.uid), Gid::from_raw(status.gid));
        (self.maker.0.is_root() && owner != self.maker).then_some(owner)
    }

    /// Notes an owner that cannot be given what it owns.
    pub(super) fn note_owner(
        &self,
        file: &OwnedFd,
        status: &Status,
        path: &[u8],
    ) -> Result<(), Fault> {
        if self.maker.0.is_root() {
            return Ok(());
        }
        owner::note(file, status).map_err(disk("setxattr(2)", path))
    }

    /// Gives every directory its owner, mode and time. Those below come first: after this a
    /// directory may not let us in, and its time no longer changes.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.open.clear();
        for (path, Directory { status, .. }) in self.directories.iter().rev() {
            let directory = self.open_directory(path)?;
            if let Some((uid, gid)) = self.owner(status) {
                rustix::fs::fchown(&directory, Some(uid), Some(gid))
                    .map_err(disk("fchown(2)", path))?;
            }
            self.note_owner(&directory, status, path)?;
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(status.mode))
                .map_err(disk("fchmod(2)", path))?;
            rustix::fs::futimens(&directory, &times(status)).map_err(disk("futimens(3)", path))?;
        }
        Ok(())
    }
}

/// What is called by some name, directories aside.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Link(Vec<u8>),
    Whiteout,
    File,
}

/// Times of access and change, so that a tree is the same whenever it is made.
pub(crate) fn times(status: &Status) -> Timestamps {
    let Moment { seconds, nanoseconds } = status.mtime;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}

/// Names the call and the path that failed.
pub(super) fn disk(call: &'static str, path: &[u8]) -> impl Fn(Errno) -> Fault + use<> {
    let path = path.to_vec();
    move |errno| Fault::Disk { call, path: path.clone(), errno }
}

fn extend_reversed(ahead: &mut Vec<Vec<u8>>, path: &[u8]) {
    ahead.extend(path.rsplit(|b| *b == b'/').map(<[u8]>::to_vec));
}

//! What stacked layers show, without mounting them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::beneath::open_beneath;
use crate::layer::{is_opaque as is_marked_opaque, join, owner, sorted_names, split};

/// Links that are followed on one way (`MAXSYMLINKS`, path_resolution(7)).
const LINKS_MAX: usize = 40;

/// The trees of an image, as overlayfs would show them.
#[derive(Debug)]
pub(crate) struct Merged {
    /// Topmost first.
    trees: Vec<OwnedFd>,
}

/// A way to a directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// What is there of it, root first, without leading slashes; the root itself is left out.
    pub(crate) there: Vec<Vec<u8>>,
    /// What has to be made, parents first.
    pub(crate) missing: Vec<Vec<u8>>,
}

impl Merged {
    /// Opens the trees of an image, lowest first.
    pub(crate) fn open(layers: &[PathBuf]) -> io::Result<Merged> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |layer: &PathBuf| Ok(rustix::fs::open(layer, flags, Mode::empty())?);
        let trees = layers.iter().rev().map(open).collect::<io::Result<_>>()?;
        Ok(Merged { trees })
    }

    /// What is at `path`, without following a link in it; nothing if a layer above took it away.
    pub(crate) fn stat(&self, path: &[u8]) -> io::Result<Option<Stat>> {
        for tree in &self.trees {
            match find(tree, path)? {
                Found::Shown(stat) => return Ok(Some(stat)),
                Found::Hidden => return Ok(None),
                Found::Below => {}
            }
        }
        Ok(None)
    }

    /// The uid and gid in the image of what is at `path`; root's if there is nothing.
    pub(crate) fn owner(&self, path: &[u8]) -> io::Result<(u32, u32)> {
        for tree in &self.trees {
            match find(tree, path)? {
                Found::Shown(stat) => return owner(open(tree, path)?.as_fd(), &stat),
                Found::Hidden => break,
                Found::Below => {}
            }
        }
        Ok((0, 0))
    }

    /// Where the link at `path` leads, if it is one.
    pub(crate) fn link(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        for tree in &self.trees {
            match find(tree, path)? {
                Found::Shown(stat) if is(&stat, FileType::Symlink) => {
                    let link = open(tree, path)?;
                    return Ok(Some(rustix::fs::readlinkat(link, c"", Vec::new())?.into_bytes()));
                }
                Found::Shown(_) | Found::Hidden => return Ok(None),
                Found::Below => {}
            }
        }
        Ok(None)
    }

    /// Names in the directory `path`, sorted; none if it is no directory.
    pub(crate) fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for tree in &self.trees {
            match find(tree, path)? {
                Found::Shown(stat) if is(&stat, FileType::Directory) => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                    let directory = open_as(tree, path, flags)?;
                    let here = sorted_names(directory.as_fd())?;
                    names.extend(here.iter().map(|name| name.to_bytes().to_vec()));
                    if is_opaque(tree, &join(path, b"*"))? {
                        break;
                    }
                }
                Found::Shown(_) | Found::Hidden => break,
                Found::Below => {}
            }
        }
        names.sort_unstable();
        names.dedup();
        let mut shown = Vec::with_capacity(names.len());
        for name in names {
            if self.stat(&join(path, &name))?.is_some() {
                shown.push(name);
            }
        }
        Ok(shown)
    }

    /// Opens the regular file at `path`.
    ///
    /// # Errors
    /// `NotFound` if there is none; no link is followed.
    pub(crate) fn file(&self, path: &[u8]) -> io::Result<(File, Stat)> {
        for tree in &self.trees {
            match find(tree, path)? {
                Found::Shown(_) => {
                    let file = open_as(tree, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
                    let stat = rustix::fs::fstat(&file)?;
                    if !is(&stat, FileType::RegularFile) {
                        break;
                    }
                    return Ok((File::from(file), stat));
                }
                Found::Hidden => break,
                Found::Below => {}
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Where `path` really is, links followed within the image; nothing if it is not there.
    pub(crate) fn real(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut path = path.to_vec();
        for _ in 0..=LINKS_MAX {
            let (parent, name) = split(&path);
            let is_directory = name.is_empty() || name == b"." || name == b"..";
            let way = self.way(if is_directory { &path } else { parent })?;
            if !way.missing.is_empty() {
                return Ok(None);
            }
            let parent = way.there.last().cloned().unwrap_or_default();
            if is_directory {
                return Ok(Some(parent));
            }
            let here = join(&parent, name);
            match self.link(&here)? {
                Some(target) if target.starts_with(b"/") => path = target,
                Some(target) => path = join(&parent, &target),
                None => return Ok(self.stat(&here)?.map(|_| here)),
            }
        }
        Err(Errno::LOOP.into())
    }

    /// The way to the directory `path`, links followed within the image.
    ///
    /// # Errors
    /// `NotADirectory` if something else is on the way.
    pub(crate) fn way(&self, path: &[u8]) -> io::Result<Way> {
        let mut way = Way { there: Vec::new(), missing: Vec::new() };
        let mut ahead: Vec<Vec<u8>> = components(path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                if way.missing.pop().is_none() {
                    way.there.pop();
                }
                continue;
            }
            let last = way.missing.last().or(way.there.last());
            let next = join(last.map_or(b"", Vec::as_slice), &name);
            if !way.missing.is_empty() {
                way.missing.push(next);
                continue;
            }
            match self.stat(&next)? {
                None => way.missing.push(next),
                Some(stat) if is(&stat, FileType::Directory) => way.there.push(next),
                Some(_) => {
                    let target = self.link(&next)?.ok_or(io::ErrorKind::NotADirectory)?;
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    if target.starts_with(b"/") {
                        way.there.clear();
                    }
                    ahead.extend(components(&target));
                }
            }
        }
        Ok(way)
    }
}

/// Last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let named = |name: &&[u8]| !name.is_empty() && *name != b".";
    path.split(|byte| *byte == b'/').rev().filter(named).map(<[u8]>::to_vec).collect()
}

enum Found {
    Shown(Stat),
    /// It is not there, and what layers below have does not show.
    Hidden,
    /// Layers below say.
    Below,
}

fn find(tree: &OwnedFd, path: &[u8]) -> io::Result<Found> {
    let mut end = 0;
    while end < path.len() {
        let slash = path[end..].iter().position(|byte| *byte == b'/');
        let here = slash.map_or(path, |length| &path[..end + length]);
        end = here.len() + 1;
        let opened = match open(tree, here) {
            Err(Errno::NOENT) if is_opaque(tree, here)? => return Ok(Found::Hidden),
            Err(Errno::NOENT) => return Ok(Found::Below),
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&opened)?;
        let is_whiteout = is(&stat, FileType::CharacterDevice) && stat.st_rdev == 0;
        if is_whiteout {
            return Ok(Found::Hidden);
        }
        if here.len() == path.len() {
            return Ok(Found::Shown(stat));
        }
        if !is(&stat, FileType::Directory) {
            return Ok(Found::Hidden);
        }
    }
    Ok(Found::Shown(rustix::fs::fstat(tree)?))
}

/// Whether the directory that `path` would be in hides what lower layers have in it, or one above.
fn is_opaque(tree: &OwnedFd, path: &[u8]) -> io::Result<bool> {
    let mut parent = path;
    while let Some(slash) = parent.iter().rposition(|byte| *byte == b'/') {
        parent = &parent[..slash];
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(tree, parent, flags, Mode::empty())?;
        if is_marked_opaque(directory.as_fd())? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open(tree: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    open_as(tree, path, OFlags::PATH)
}

fn open_as(tree: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    open_beneath(tree, path, flags | OFlags::NOFOLLOW, ResolveFlags::empty())
}

pub(super) fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

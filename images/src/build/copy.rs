//! A layer of copied files: from the directory that is built from, or from an image.
//!
//! **Invariant:** nothing outside the source is read, whatever links are in it: links are followed
//! by [`Merged`], for which its trees are all there is.

mod archive;
mod error;
mod mode;
mod source;

use std::io::{self, Write};
use std::path::PathBuf;

use rustix::fs::{FileType, Stat};
use tar::EntryType;

use super::entries::{Writer, head, like};
use super::merged::{Merged, is};
use super::owner;
use super::patterns::LeftOut;
use crate::layer::{Head, WHITEOUT_PREFIX, join};
use crate::{CopyFiles, CopyMode, Digest, Limits, Rules};
use error::{at, text};
use source::Match;

pub use archive::Scratch;
pub use error::CopyError;
pub use source::CopySource;

/// Links that are followed one into the other (`MAXSYMLINKS`, path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Writes the tar of a layer that copies files into an image of these trees, lowest first; returns
/// what [`digest_copies`] says of what was written.
///
/// Directories on the way are as those of [`write_entries`](crate::write_entries); those that are
/// missing belong to the copies' owner. A source that is a link is followed, within where it is
/// from; links in directories are copied as links, unless cp(1)'s rules hold. Times are whole
/// seconds. Sockets and devices are left out.
///
/// # Errors
/// [`CopyError`]; what was written so far means nothing then.
pub fn write_copies(
    copy: &CopyFiles,
    from: &CopySource,
    layers: &[PathBuf],
    scratch: Scratch<'_>,
    tar: &mut dyn Write,
) -> Result<Digest, CopyError> {
    write(copy, from, layers, Some(scratch), tar)
}

/// Digests what [`write_copies`] would write, all times aside. Archives that it would unpack count
/// as they are.
///
/// # Errors
/// As [`write_copies`].
pub fn digest_copies(
    copy: &CopyFiles,
    from: &CopySource,
    layers: &[PathBuf],
) -> Result<Digest, CopyError> {
    write(copy, from, layers, None, &mut io::sink())
}

fn write(
    copy: &CopyFiles,
    from: &CopySource,
    layers: &[PathBuf],
    scratch: Option<Scratch<'_>>,
    tar: &mut dyn Write,
) -> Result<Digest, CopyError> {
    let target = copy.target.as_bytes();
    let merged = Merged::open(layers).map_err(at(target))?;
    let owner = copy.owner.as_deref().map(|owner| owner::numbers(owner, &merged)).transpose()?;
    let excluded = LeftOut::parse(&copy.left_out.join("\n")).map_err(|line| {
        let pattern = copy.left_out.get(line - 1).cloned().unwrap_or_default();
        CopyError::Pattern { place: "`--exclude`".to_owned(), pattern }
    })?;
    let writer = Writer::new(merged, tar);
    let mut copier = Copier { copy, excluded, writer, owner, waiting: Vec::new(), links: 0 };
    let mut sources = Vec::new();
    for source in &copy.sources {
        let contents = source == "." || source.ends_with("/.");
        sources.extend(from.find(source)?.into_iter().map(|found| (found, contents)));
    }
    let is_directory = copier.is_directory(&copy.target)?;
    if sources.len() + copy.inline.len() > 1 && !is_directory {
        return Err(CopyError::Several { target: copy.target.clone() });
    }
    for (found, contents) in &sources {
        if copy.unpacks && copier.archive(from, &found.path, scratch)? {
            continue;
        }
        copier.source(from, found, *contents, is_directory)?;
    }
    for file in &copy.inline {
        let to = copier.place(&copy.target, is_directory, file.name.as_bytes())?;
        copier.inline(&to, file.content.as_bytes())?;
    }
    copier.writer.tar.finish().map_err(at(target))
}

/// Writes what is copied.
struct Copier<'a> {
    copy: &'a CopyFiles,
    /// `--exclude`.
    excluded: LeftOut,
    writer: Writer<'a>,
    owner: Option<(u32, u32)>,
    /// Directories that are left out, unless something in them is not: where from, and where to.
    waiting: Vec<(Vec<u8>, Vec<u8>, Stat)>,
    /// Links that were followed to what is being copied.
    links: usize,
}

impl Copier<'_> {
    /// Copies what one source has found.
    fn source(
        &mut self,
        from: &CopySource,
        found: &Match,
        contents: bool,
        is_directory: bool,
    ) -> Result<(), CopyError> {
        let Match { path, name, way } = found;
        let target = self.copy.target.clone();
        let stat = from.tree.stat(path).map_err(at(path))?;
        let is_tree = stat.is_some_and(|stat| is(&stat, FileType::Directory));
        if self.copy.keeps_parents && !way.is_empty() {
            let to = self.writer.parent(&format!("{target}/{}", text(way)), self.made_owner());
            return self.entry(from, path, &to.map_err(at(path))?, way);
        }
        let docker = self.copy.rules == Rules::Docker;
        if is_tree && (docker || contents || name.is_empty()) {
            let to = self.make(target.as_bytes())?;
            return self.contents(from, path, &to, b"");
        }
        let to = self.place(&target, is_directory, name)?;
        self.entry(from, path, &to, name)
    }

    /// Copies what is in the archive `path`, if it is one.
    fn archive(
        &mut self,
        from: &CopySource,
        path: &[u8],
        scratch: Option<Scratch<'_>>,
    ) -> Result<bool, CopyError> {
        let stat = from.tree.stat(path).map_err(at(path))?;
        if !stat.is_some_and(|stat| is(&stat, FileType::RegularFile)) {
            return Ok(false);
        }
        let usual = Limits::default();
        let limits = scratch.map_or(&usual, |scratch| scratch.limits);
        let Some(layer) = archive::read(from, path, limits)? else { return Ok(false) };
        let to = self.make(self.copy.target.as_bytes())?;
        self.writer.tar.depend_on(layer.digest.to_string().as_bytes());
        if let Some(scratch) = scratch {
            let unpacked = archive::unpack(&layer, from, path, scratch)?;
            // Its digest stands for what is in it.
            self.writer.tar.is_heard = false;
            let copied = self.contents(&unpacked, b"", &to, b"");
            self.writer.tar.is_heard = true;
            copied?;
        }
        Ok(true)
    }

    /// Whether copies go into the target, and not in its place.
    fn is_directory(&self, target: &str) -> Result<bool, CopyError> {
        let merged = &self.writer.merged;
        let there = match merged.real(target.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
            real => real.map_err(at(target.as_bytes()))?,
        };
        let stat = there.map(|there| merged.stat(&there).map_err(at(&there))).transpose()?;
        let is_there = stat.flatten().is_some_and(|stat| is(&stat, FileType::Directory));
        Ok(is_there || target.ends_with('/') || self.copy.keeps_parents)
    }

    /// Makes or repeats a directory of the image: where it really is.
    fn make(&mut self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        self.writer.directory(path, self.made_owner()).map_err(at(path))
    }

    /// Whom directories belong to that are made on the way.
    fn made_owner(&self) -> (u32, u32) {
        self.owner.unwrap_or((0, 0))
    }

    /// Where a file goes, after the way to it was made.
    fn place(&mut self, target: &str, into: bool, name: &[u8]) -> Result<Vec<u8>, CopyError> {
        if into {
            return Ok(join(&self.make(target.as_bytes())?, name));
        }
        self.writer.parent(target, self.made_owner()).map_err(at(target.as_bytes()))
    }

    /// Copies what is in a directory. `way` is its path from the source on, as `--exclude` sees it.
    fn contents(
        &mut self,
        from: &CopySource,
        path: &[u8],
        to: &[u8],
        way: &[u8],
    ) -> Result<(), CopyError> {
        for name in from.tree.names(path).map_err(at(path))? {
            self.entry(from, &join(path, &name), &join(to, &name), &join(way, &name))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: &CopySource,
        path: &[u8],
        to: &[u8],
        way: &[u8],
    ) -> Result<(), CopyError> {
        let Some(stat) = from.tree.stat(path).map_err(at(path))? else { return Ok(()) };
        let is_directory = is(&stat, FileType::Directory);
        let is_left_out = from.left_out.has(path) || self.excluded.has(way);
        let may_have = from.left_out.has_exceptions() || self.excluded.has_exceptions();
        if is_left_out && !(is_directory && may_have) {
            return Ok(());
        }
        refuse_removal(path, to)?;
        if is_directory {
            self.waiting.push((path.to_vec(), to.to_vec(), stat));
            if !is_left_out {
                self.write_waiting(from)?;
            }
            self.contents(from, path, to, way)?;
            self.waiting.pop();
            return Ok(());
        }
        if is(&stat, FileType::Symlink) && self.copy.rules == Rules::Cp && !from.keeps_owners {
            return self.followed(from, path, to, way);
        }
        if is(&stat, FileType::Symlink) {
            let target = from.tree.link(path).map_err(at(path))?.unwrap_or_default();
            self.allow(from, to, false)?;
            let head = self.head(from, (path, to), &stat, EntryType::Symlink)?;
            let head = Head { mode: 0o777, target: &target, ..head };
            return self.writer.tar.entry(&head).map_err(at(path));
        }
        if is(&stat, FileType::RegularFile) {
            self.allow(from, to, false)?;
            let (file, stat) = from.tree.file(path).map_err(at(path))?;
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            let head = self.head(from, (path, to), &stat, EntryType::Regular)?;
            let head = Head { bytes, ..head };
            return self.writer.tar.file(&head, file).map_err(at(path));
        }
        Ok(())
    }

    /// Copies what the link `path` leads to, as `cp -L` does.
    fn followed(
        &mut self,
        from: &CopySource,
        path: &[u8],
        to: &[u8],
        way: &[u8],
    ) -> Result<(), CopyError> {
        let real = from.real(path)?.ok_or_else(|| from.dangling(path))?;
        if self.links == LINKS_MAX {
            return Err(at(path)(rustix::io::Errno::LOOP.into()));
        }
        self.links += 1;
        let copied = self.entry(from, &real, to, way);
        self.links -= 1;
        copied
    }

    /// Writes the directories that what comes next is in.
    fn write_waiting(&mut self, from: &CopySource) -> Result<(), CopyError> {
        for number in 0..self.waiting.len() {
            let (path, to, stat) = self.waiting[number].clone();
            if self.writer.written.insert(to.clone()) {
                self.refuse_other(&to, true)?;
                let there = self.writer.merged.stat(&to).map_err(at(&to))?;
                let head = match there.filter(|_| self.copy.rules == Rules::Cp) {
                    // cp(1) copies into a directory that is there, and leaves it as it is.
                    Some(there) => {
                        let owner = self.writer.merged.owner(&to).map_err(at(&to))?;
                        Head { kind: EntryType::Directory, ..like(&to, &there, owner) }
                    }
                    None => self.head(from, (&path, &to), &stat, EntryType::Directory)?,
                };
                self.writer.tar.entry(&head).map_err(at(&to))?;
            }
        }
        Ok(())
    }

    fn inline(&mut self, to: &[u8], content: &[u8]) -> Result<(), CopyError> {
        self.refuse_other(to, false)?;
        let mode = self.copy.mode.as_ref().map_or(0o644, |mode| mode::applied(mode, 0o644, false));
        let head = head(to, EntryType::Regular, mode, self.made_owner());
        let head = Head { bytes: content.len() as u64, ..head };
        self.writer.tar.file(&head, content).map_err(at(to))
    }

    /// Makes ready for an entry: the directories that it is in, and nothing else in its way.
    fn allow(&mut self, from: &CopySource, to: &[u8], is_tree: bool) -> Result<(), CopyError> {
        self.write_waiting(from)?;
        self.refuse_other(to, is_tree)
    }

    /// A directory is put on nothing but a directory, and nothing else is put on one.
    fn refuse_other(&self, to: &[u8], is_directory: bool) -> Result<(), CopyError> {
        let Some(stat) = self.writer.merged.stat(to).map_err(at(to))? else { return Ok(()) };
        if is(&stat, FileType::Directory) == is_directory {
            return Ok(());
        }
        let words = ["a directory", "no directory"];
        let (there, wanted) =
            if is_directory { (words[1], words[0]) } else { (words[0], words[1]) };
        Err(CopyError::InTheWay { path: text(to), there, wanted })
    }

    fn head<'a>(
        &self,
        from: &CopySource,
        (path, to): (&[u8], &'a [u8]),
        stat: &Stat,
        kind: EntryType,
    ) -> Result<Head<'a>, CopyError> {
        let owner = match self.owner {
            Some(owner) => owner,
            None if from.keeps_owners => from.tree.owner(path).map_err(at(path))?,
            None => (0, 0),
        };
        let old = like(to, stat, owner);
        let mode = match (&self.copy.mode, self.copy.rules) {
            // What `umask 022` leaves of it.
            (None, Rules::Cp) => old.mode & 0o755,
            (None, Rules::Docker) => old.mode,
            (Some(mode @ (CopyMode::Bits(_) | CopyMode::Symbolic(_))), _) => {
                mode::applied(mode, old.mode, kind == EntryType::Directory)
            }
        };
        Ok(Head { kind, mode, ..old })
    }
}

fn refuse_removal(path: &[u8], to: &[u8]) -> Result<(), CopyError> {
    let name = |path: &[u8]| path.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
    let is_removal = |path: &[u8]| name(path).is_some_and(|name| name.starts_with(WHITEOUT_PREFIX));
    if is_removal(path) || is_removal(to) {
        let what = format!("`{}`", text(to));
        let why = "in a layer such a name means that a file was removed";
        return Err(CopyError::NotSupported { what, why });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

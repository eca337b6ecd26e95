//! A layer of copied files: from the directory that is built from, or from an image.
//!
//! **Invariant:** nothing outside the source is read, whatever links are in it: links are followed
//! by [`Merged`], for which its trees are all there is.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::entries::{Writer, head, like, numbers};
use super::merged::{Merged, is};
use super::patterns::{IGNORE_BYTES_MAX, LeftOut, Pattern, is_pattern};
use crate::layer::{Head, Moment, TarWriter, WHITEOUT_PREFIX, join};
use crate::shown::shown;
use crate::{CopyFiles, CopyMode, Digest, Rules};

/// Why files cannot be copied into an image.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Nothing has this name, or all that has is left out.
    #[error("`{}` is not in {} (or `.dockerignore` leaves it out)", shown(path), shown(place))]
    Missing {
        /// The source.
        path: String,
        /// Where it was looked for.
        place: String,
    },
    /// A source leads out of where it has to be.
    #[error("`{}` leads out of {}", shown(path), shown(place))]
    Outside {
        /// The source.
        path: String,
        /// What it leads out of.
        place: String,
    },
    /// A pattern is not written as patterns are.
    #[error("{}: `{}` is no pattern", shown(place), shown(pattern))]
    Pattern {
        /// Where it stands.
        place: String,
        /// The pattern, or its line.
        pattern: String,
    },
    /// Several files go to one name.
    #[error("several files go to `{}`, which has to end with a slash", shown(target))]
    Several {
        /// The target.
        target: String,
    },
    /// The image has something else there.
    #[error("`/{}` is {there} in the image, and {wanted} among what is copied", shown(path))]
    InTheWay {
        /// In the image.
        path: String,
        /// What it is there.
        there: &'static str,
        /// What it would become.
        wanted: &'static str,
    },
    /// It is asked for something that is not done.
    #[error("{} is not supported: {why}", shown(what))]
    NotSupported {
        /// What.
        what: String,
        /// The reason, or the way out.
        why: &'static str,
    },
    /// It cannot be read or written.
    #[error("cannot copy `{}`", shown(path))]
    Io {
        /// What.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

/// Where files are copied from.
#[derive(Debug)]
pub struct CopySource {
    tree: Merged,
    left_out: LeftOut,
    keeps_owners: bool,
    /// What its user calls it.
    name: String,
}

/// What a source means.
struct Match {
    /// Where it really is.
    path: Vec<u8>,
    /// The name that it was found by.
    name: Vec<u8>,
}

impl CopySource {
    /// The directory that is built from, less what the `.dockerignore` of `dockerfile` leaves out:
    /// `DOCKERFILE.dockerignore` beside it, or else the directory's own.
    ///
    /// # Errors
    /// If one of them cannot be read or is wrong.
    pub fn context(directory: &Path, dockerfile: &Path) -> Result<CopySource, CopyError> {
        let name = directory.display().to_string();
        let tree = Merged::open(&[directory.to_owned()]).map_err(at(name.as_bytes()))?;
        let mut own = dockerfile.as_os_str().to_owned();
        own.push(".dockerignore");
        let mut left_out = LeftOut::default();
        for path in [PathBuf::from(own), directory.join(".dockerignore")] {
            if let Some(text) = read_ignore(&path)? {
                left_out = LeftOut::parse(&text).map_err(|line| CopyError::Pattern {
                    place: format!("{}:{line}", path.display()),
                    pattern: text.lines().nth(line - 1).unwrap_or_default().to_owned(),
                })?;
                break;
            }
        }
        Ok(CopySource { tree, left_out, keeps_owners: false, name })
    }

    /// An image on disk with these layers, lowest first; files keep their owners. `name` is what
    /// its user calls it.
    ///
    /// # Errors
    /// If a layer cannot be opened.
    pub fn image(name: &str, layers: &[PathBuf]) -> Result<CopySource, CopyError> {
        let tree = Merged::open(layers).map_err(at(name.as_bytes()))?;
        let left_out = LeftOut::default();
        Ok(CopySource { tree, left_out, keeps_owners: true, name: name.to_owned() })
    }

    /// What a source means; at least one.
    fn find(&self, source: &str) -> Result<Vec<Match>, CopyError> {
        let outside = || CopyError::Outside { path: source.to_owned(), place: self.name.clone() };
        let mut components: Vec<&str> = Vec::new();
        for name in source.split('/').filter(|name| !name.is_empty() && *name != ".") {
            if name == ".." {
                components.pop().ok_or_else(outside)?;
            } else {
                components.push(name);
            }
        }
        let mut found = vec![Vec::new()];
        for component in components {
            found = self.step(&found, component)?;
        }
        let mut real = Vec::new();
        for path in found {
            let Some(there) = self.real(&path)? else { continue };
            let stat = self.tree.stat(&there).map_err(at(&there))?;
            let is_directory = stat.is_some_and(|stat| is(&stat, FileType::Directory));
            let may_have = is_directory && (there.is_empty() || self.left_out.has_exceptions());
            if may_have || !self.left_out.has(&there) {
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                real.push(Match { name: name.to_vec(), path: there });
            }
        }
        if real.is_empty() {
            let (path, place) = (source.to_owned(), self.name.clone());
            return Err(CopyError::Missing { path, place });
        }
        Ok(real)
    }

    /// What one more component of a source finds in these directories.
    fn step(&self, found: &[Vec<u8>], component: &str) -> Result<Vec<Vec<u8>>, CopyError> {
        if !is_pattern(component) {
            return Ok(found.iter().map(|path| join(path, component.as_bytes())).collect());
        }
        // Among sources two stars mean no more than one.
        let pattern = component.replace("**", "*");
        let wrong = || CopyError::Pattern { place: self.name.clone(), pattern: pattern.clone() };
        let pattern = Pattern::parse(&pattern).ok_or_else(wrong)?;
        let mut next = Vec::new();
        for path in found {
            let Some(there) = self.real(path)? else { continue };
            let names = self.tree.names(&there).map_err(at(&there))?;
            let fits = |name: &&Vec<u8>| pattern.matches(&String::from_utf8_lossy(name));
            next.extend(names.iter().filter(fits).map(|name| join(path, name)));
        }
        Ok(next)
    }

    /// Where it really is. What is no directory has nothing in it.
    fn real(&self, path: &[u8]) -> Result<Option<Vec<u8>>, CopyError> {
        match self.tree.real(path) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
            real => real.map_err(at(path)),
        }
    }
}

/// Writes the tar of a layer that copies files into an image of these trees, lowest first.
///
/// Directories on the way are as those of [`write_entries`](crate::write_entries); those that are
/// missing belong to the copies' owner. A source that is a link is followed, within where it is
/// from; links in directories are copied as links. Times are whole seconds. Sockets and devices
/// are left out.
///
/// # Errors
/// [`CopyError`]; what was written so far means nothing then.
pub fn write_copies(
    copy: &CopyFiles,
    from: &CopySource,
    layers: &[PathBuf],
    tar: &mut dyn Write,
) -> Result<(), CopyError> {
    write(copy, from, layers, true, tar)
}

/// Digests what [`write_copies`] would write, all times aside.
///
/// # Errors
/// As [`write_copies`].
pub fn digest_copies(
    copy: &CopyFiles,
    from: &CopySource,
    layers: &[PathBuf],
) -> Result<Digest, CopyError> {
    let mut digested = Digested(Sha256::new());
    write(copy, from, layers, false, &mut digested)?;
    Ok(Digest::from_hasher(digested.0))
}

/// Keeps nothing of what is written but its digest.
struct Digested(Sha256);

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(
    copy: &CopyFiles,
    from: &CopySource,
    layers: &[PathBuf],
    has_times: bool,
    tar: &mut dyn Write,
) -> Result<(), CopyError> {
    let target = copy.target.as_bytes();
    let bits = refuse(copy)?;
    let owner = copy.owner.as_deref().map(numbers).transpose();
    let owner = owner.map_err(at(copy.owner.as_deref().unwrap_or_default().as_bytes()))?;
    let merged = Merged::open(layers).map_err(at(target))?;
    let writer = Writer { merged, written: Default::default(), tar: TarWriter::new(tar) };
    let mut copier = Copier { from, writer, owner, bits, has_times, waiting: Vec::new() };
    let mut sources = Vec::new();
    for source in &copy.sources {
        sources.extend(from.find(source)?);
    }
    let is_directory = copier.is_directory(&copy.target)?;
    if sources.len() + copy.inline.len() > 1 && !is_directory {
        return Err(CopyError::Several { target: copy.target.clone() });
    }
    for Match { path: source, name } in &sources {
        let stat = from.tree.stat(source).map_err(at(source))?;
        if stat.is_some_and(|stat| is(&stat, FileType::Directory)) {
            let to = copier.make(target)?;
            copier.contents(source, &to)?;
        } else {
            if copy.unpacks {
                refuse_archive(from, source)?;
            }
            let to = copier.place(&copy.target, is_directory, name)?;
            copier.entry(source, &to)?;
        }
    }
    for file in &copy.inline {
        let to = copier.place(&copy.target, is_directory, file.name.as_bytes())?;
        copier.inline(&to, file.content.as_bytes())?;
    }
    copier.writer.tar.finish().map_err(at(target))
}

/// What of a copy is not done yet; else the bits of its mode.
fn refuse(copy: &CopyFiles) -> Result<Option<u32>, CopyError> {
    let not = |what: &str, why| Err(CopyError::NotSupported { what: what.to_owned(), why });
    if !copy.left_out.is_empty() {
        return not("`--exclude`", "name it in .dockerignore");
    }
    if copy.keeps_parents {
        return not("`--parents`", "copy each directory to its own target");
    }
    match (&copy.mode, copy.rules) {
        (_, Rules::Cp) => not("copying as cp does", "Dockerfiles copy what directories hold"),
        (Some(CopyMode::Symbolic(_)), _) => not("a mode in letters", "write it in octal digits"),
        (Some(CopyMode::Bits(bits)), _) => Ok(Some(*bits)),
        (None, _) => Ok(None),
    }
}

/// Writes what is copied.
struct Copier<'a> {
    from: &'a CopySource,
    writer: Writer<'a>,
    owner: Option<(u32, u32)>,
    bits: Option<u32>,
    has_times: bool,
    /// Directories that are left out, unless something in them is not.
    waiting: Vec<(Vec<u8>, Stat)>,
}

impl Copier<'_> {
    /// Whether copies go into the target, and not in its place.
    fn is_directory(&self, target: &str) -> Result<bool, CopyError> {
        let merged = &self.writer.merged;
        let there = match merged.real(target.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
            real => real.map_err(at(target.as_bytes()))?,
        };
        let stat = there.map(|there| merged.stat(&there).map_err(at(&there))).transpose()?;
        let is_there = stat.flatten().is_some_and(|stat| is(&stat, FileType::Directory));
        Ok(is_there || target.ends_with('/'))
    }

    /// Makes or repeats a directory of the image: where it really is.
    fn make(&mut self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        let owner = self.owner.unwrap_or((0, 0));
        self.writer.directory(path, owner).map_err(at(path))
    }

    /// Where a file goes, after the way to it was made.
    fn place(&mut self, target: &str, into: bool, name: &[u8]) -> Result<Vec<u8>, CopyError> {
        if into {
            return Ok(join(&self.make(target.as_bytes())?, name));
        }
        let owner = self.owner.unwrap_or((0, 0));
        self.writer.parent(target, owner).map_err(at(target.as_bytes()))
    }

    fn contents(&mut self, from: &[u8], to: &[u8]) -> Result<(), CopyError> {
        for name in self.from.tree.names(from).map_err(at(from))? {
            self.entry(&join(from, &name), &join(to, &name))?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &[u8], to: &[u8]) -> Result<(), CopyError> {
        let Some(stat) = self.from.tree.stat(from).map_err(at(from))? else { return Ok(()) };
        let name = from.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let target_name = to.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let is_left_out = self.from.left_out.has(from);
        let is_directory = is(&stat, FileType::Directory);
        if is_left_out && !(is_directory && self.from.left_out.has_exceptions()) {
            return Ok(());
        }
        if name.starts_with(WHITEOUT_PREFIX) || target_name.starts_with(WHITEOUT_PREFIX) {
            let what = format!("`{}`", String::from_utf8_lossy(to));
            let why = "in a layer such a name means that a file was removed";
            return Err(CopyError::NotSupported { what, why });
        }
        if is_directory {
            self.waiting.push((to.to_vec(), stat));
            if !is_left_out {
                self.write_waiting()?;
            }
            self.contents(from, to)?;
            self.waiting.pop();
            return Ok(());
        }
        if is(&stat, FileType::Symlink) {
            let target = self.from.tree.link(from).map_err(at(from))?.unwrap_or_default();
            self.allow(to, false)?;
            let head = self.head(to, &stat, EntryType::Symlink);
            let head = Head { mode: 0o777, target: &target, ..head };
            return self.writer.tar.entry(&head).map_err(at(from));
        }
        if is(&stat, FileType::RegularFile) {
            self.allow(to, false)?;
            let (file, stat) = self.from.tree.file(from).map_err(at(from))?;
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            let head = Head { bytes, ..self.head(to, &stat, EntryType::Regular) };
            return self.writer.tar.file(&head, file).map_err(at(from));
        }
        Ok(())
    }

    /// Writes the directories that what comes next is in.
    fn write_waiting(&mut self) -> Result<(), CopyError> {
        for number in 0..self.waiting.len() {
            let (to, stat) = self.waiting[number].clone();
            if self.writer.written.insert(to.clone()) {
                self.refuse_other(&to, true)?;
                let head = self.head(&to, &stat, EntryType::Directory);
                self.writer.tar.entry(&head).map_err(at(&to))?;
            }
        }
        Ok(())
    }

    fn inline(&mut self, to: &[u8], content: &[u8]) -> Result<(), CopyError> {
        self.allow(to, false)?;
        let mode = self.bits.unwrap_or(0o644);
        let head = head(to, EntryType::Regular, mode, self.owner.unwrap_or((0, 0)));
        let head = Head { bytes: content.len() as u64, ..head };
        self.writer.tar.file(&head, content).map_err(at(to))
    }

    /// Makes ready for an entry: the directories that it is in, and nothing else in its way.
    fn allow(&mut self, to: &[u8], is_directory: bool) -> Result<(), CopyError> {
        self.write_waiting()?;
        self.refuse_other(to, is_directory)
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

    fn head<'a>(&self, to: &'a [u8], stat: &Stat, kind: EntryType) -> Head<'a> {
        let old = like(to, stat);
        let is_kept = self.from.keeps_owners;
        let (uid, gid) = self.owner.unwrap_or(if is_kept { (old.uid, old.gid) } else { (0, 0) });
        let mode = self.bits.unwrap_or(old.mode);
        let mtime = if self.has_times { old.mtime } else { Moment { seconds: 0, nanoseconds: 0 } };
        Head { kind, mode, uid, gid, mtime, ..old }
    }
}

/// `ADD` would unpack it.
fn refuse_archive(from: &CopySource, path: &[u8]) -> Result<(), CopyError> {
    let (file, _) = from.tree.file(path).map_err(at(path))?;
    let mut start = Vec::new();
    file.take(512).read_to_end(&mut start).map_err(at(path))?;
    let packed: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    let is_tar = start.get(257..262) == Some(b"ustar");
    if is_tar || packed.iter().any(|magic| start.starts_with(magic)) {
        let what = format!("unpacking `{}`", text(path));
        return Err(CopyError::NotSupported { what, why: "COPY it, and unpack it with RUN" });
    }
    Ok(())
}

/// The text of a `.dockerignore`, if there is one.
fn read_ignore(path: &Path) -> Result<Option<String>, CopyError> {
    let name = path.display().to_string();
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(at(name.as_bytes()))?,
    };
    let mut text = String::new();
    file.take(IGNORE_BYTES_MAX + 1).read_to_string(&mut text).map_err(at(name.as_bytes()))?;
    if text.len() as u64 > IGNORE_BYTES_MAX {
        return Err(at(name.as_bytes())(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(text))
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn at(path: &[u8]) -> impl FnOnce(io::Error) -> CopyError + Copy {
    move |source| CopyError::Io { path: text(path), source }
}

#[cfg(test)]
mod tests;

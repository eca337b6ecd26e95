//! A layer of what a recipe itself holds: directories, files and links.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::PathBuf;

use rustix::fs::Stat;
use tar::EntryType;

use super::merged::Merged;
use super::owner;
use super::timeless::TimelessTar;
use crate::Entry;
use crate::layer::{Head, Moment, join};

/// Writes the tar of a layer with `entries` for an image of these trees, lowest first.
///
/// Directories on the way that are there are in it as they are: a layer without them would give
/// them new owners and modes. Owners are looked up in the image. Times are 0, so that the same
/// entries make the same layer.
///
/// # Errors
/// What cannot be read or written; `NotADirectory` if a file is on the way; an owner that the image
/// does not have.
pub fn write_entries(entries: &[Entry], layers: &[PathBuf], tar: &mut dyn Write) -> io::Result<()> {
    let mut writer = Writer::new(Merged::open(layers)?, tar);
    for entry in entries {
        match entry {
            Entry::Directory { path, owner } => {
                let owner = owner.as_deref().map(|owner| owner::numbers(owner, &writer.merged));
                let owner = owner.transpose().map_err(io::Error::other)?.unwrap_or_default();
                writer.directory(path.as_bytes(), owner)?;
            }
            Entry::File { path, content, mode } => {
                let path = writer.parent(path, (0, 0))?;
                let bytes = content.len() as u64;
                let head = Head { bytes, ..head(&path, EntryType::Regular, *mode, (0, 0)) };
                writer.tar.file(&head, content.as_bytes())?;
            }
            Entry::Link { path, target } => {
                let path = writer.parent(path, (0, 0))?;
                let head = head(&path, EntryType::Symlink, 0o777, (0, 0));
                writer.tar.entry(&Head { target: target.as_bytes(), ..head })?;
            }
        }
    }
    writer.tar.finish().map(drop)
}

pub(super) struct Writer<'a> {
    pub(super) merged: Merged,
    /// Directories that the tar has.
    pub(super) written: HashSet<Vec<u8>>,
    pub(super) tar: TimelessTar<'a>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(merged: Merged, tar: &'a mut dyn Write) -> Writer<'a> {
        Writer { merged, written: HashSet::new(), tar: TimelessTar::new(tar) }
    }

    /// Makes a directory, or repeats it: where it really is.
    pub(super) fn directory(&mut self, path: &[u8], owner: (u32, u32)) -> io::Result<Vec<u8>> {
        let way = self.merged.way(path)?;
        for there in &way.there {
            if let Some(stat) = self.merged.stat(there)?.filter(|_| !self.written.contains(there)) {
                let owner = self.merged.owner(there)?;
                let head = like(there, &stat, owner);
                self.tar.entry(&Head { kind: EntryType::Directory, ..head })?;
                self.written.insert(there.clone());
            }
        }
        let last = way.missing.last().or(way.there.last()).cloned().unwrap_or_default();
        for missing in way.missing {
            if !self.written.contains(&missing) {
                self.tar.entry(&head(&missing, EntryType::Directory, 0o755, owner))?;
                self.written.insert(missing);
            }
        }
        Ok(last)
    }

    /// Where `path` really is, after the way to it was made.
    pub(super) fn parent(&mut self, path: &str, owner: (u32, u32)) -> io::Result<Vec<u8>> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directory(parent.as_bytes(), owner)?;
        Ok(join(&parent, name.as_bytes()))
    }
}

pub(super) fn head(path: &[u8], kind: EntryType, mode: u32, (uid, gid): (u32, u32)) -> Head<'_> {
    let mtime = Moment { seconds: 0, nanoseconds: 0 };
    Head { path, kind, target: b"", device: None, bytes: 0, mode, uid, gid, mtime, xattrs: &[] }
}

/// A directory as it is.
pub(super) fn like<'a>(path: &'a [u8], stat: &Stat, owner: (u32, u32)) -> Head<'a> {
    let mtime = Moment { seconds: stat.st_mtime, nanoseconds: 0 };
    Head { mtime, ..head(path, EntryType::Directory, stat.st_mode & 0o7777, owner) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::{fs, path::Path};

    use super::*;

    /// Paths, modes and kinds of the tar's entries.
    fn written(entries: &[Entry], layers: &[&Path]) -> io::Result<Vec<(String, u32, EntryType)>> {
        let layers: Vec<PathBuf> = layers.iter().map(|layer| layer.to_path_buf()).collect();
        let mut bytes = Vec::new();
        write_entries(entries, &layers, &mut bytes)?;
        let mut archive = tar::Archive::new(bytes.as_slice());
        let read = archive.entries()?.map(|entry| {
            let entry = entry?;
            let path = entry.path()?.to_string_lossy().into_owned();
            Ok((path, entry.header().mode()?, entry.header().entry_type()))
        });
        read.collect()
    }

    fn directory(path: &str) -> Entry {
        Entry::Directory { path: path.to_owned(), owner: None }
    }

    #[test]
    fn directories_on_the_way_stay_as_they_are() {
        let (lower, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(lower.path().join("tmp")).unwrap();
        fs::set_permissions(lower.path().join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
        symlink("/tmp", upper.path().join("link")).unwrap();
        fs::write(upper.path().join("file"), "x").unwrap();
        let layers = [lower.path(), upper.path()];
        let made = written(&[directory("/link/a/b"), directory("/tmp")], &layers).unwrap();
        let entry = |path: &str, mode| (path.to_owned(), mode, EntryType::Directory);
        assert_eq!(made, [entry("tmp", 0o1777), entry("tmp/a", 0o755), entry("tmp/a/b", 0o755)]);
        let error = written(&[directory("/file/a")], &layers).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        let up = written(&[directory("/../../x")], &layers).unwrap();
        assert_eq!(up, [entry("x", 0o755)]);
    }

    #[test]
    fn files_and_links_are_written_where_links_lead() {
        let lower = tempfile::tempdir().unwrap();
        symlink("real", lower.path().join("etc")).unwrap();
        let entries = [
            Entry::File { path: "/etc/a".into(), content: "text".into(), mode: 0o600 },
            Entry::Link { path: "/etc/b".into(), target: "a".into() },
        ];
        let made = written(&entries, &[lower.path()]).unwrap();
        let expected = [
            ("real".to_owned(), 0o755, EntryType::Directory),
            ("real/a".to_owned(), 0o600, EntryType::Regular),
            ("real/b".to_owned(), 0o777, EntryType::Symlink),
        ];
        assert_eq!(made, expected);
        let named = Entry::Directory { path: "/x".into(), owner: Some("ada".into()) };
        assert!(written(&[named], &[lower.path()]).unwrap_err().to_string().contains("no `ada`"));
    }
}

//! What a directory tree is, as text: two trees of the same digest are the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use libtest_mimic::Failed;

use crate::images::hex;

/// A tree that was read: of each path, what it is. The root is `.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<String, String>);

/// What of a tree is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// All of it.
    All,
    /// No fractions of a second, which some formats do not have.
    WholeSeconds,
    /// No attributes (xattr) that users set, either.
    SystemAttributes,
}

impl Tree {
    /// Reads what is below `root`: kinds, modes, owners, times, attributes, contents, links, and
    /// which names are one file.
    pub(crate) fn read(root: &Path, detail: Detail) -> Result<Tree, Failed> {
        let mut tree = BTreeMap::new();
        let mut first_names = BTreeMap::new();
        let mut waiting = vec![root.to_owned()];
        while let Some(path) = waiting.pop() {
            if fs::symlink_metadata(&path)?.is_dir() {
                let mut names: Vec<_> =
                    fs::read_dir(&path)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
                // The last is taken first.
                names.sort_by(|a, b| b.cmp(a));
                waiting.extend(names);
            }
            let name = path.strip_prefix(root)?.as_os_str().as_bytes().escape_ascii().to_string();
            let name = if name.is_empty() { ".".to_owned() } else { name };
            let told = told(&path, &name, detail, &mut first_names)
                .map_err(|error| format!("{}: {error:?}", path.display()))?;
            tree.insert(name, told);
        }
        Ok(Tree(tree))
    }

    /// The same without some paths and what is below them.
    pub(crate) fn without(mut self, paths: &[&str]) -> Tree {
        let is_left_out = |name: &str| {
            let below = |path: &&str| name.strip_prefix(*path).is_some_and(|r| r.starts_with('/'));
            paths.contains(&name) || paths.iter().any(below)
        };
        self.0.retain(|name, _| !is_left_out(name));
        self
    }

    /// SHA-256 of all that was read.
    pub(crate) fn digest(&self) -> String {
        let lines: Vec<String> =
            self.0.iter().map(|(path, told)| format!("{path} {told}")).collect();
        hex(lines.join("\n").as_bytes())
    }

    /// Fails with what differs, unless `other` has the same digest.
    pub(crate) fn expect_same(&self, other: &Tree, what: &str) -> Result<(), Failed> {
        if self.digest() == other.digest() {
            return Ok(());
        }
        let mut text = format!("{what} is another tree");
        for path in self.0.keys().chain(other.0.keys().filter(|path| !self.0.contains_key(*path))) {
            let (was, is) = (self.0.get(path), other.0.get(path));
            if was != is {
                let _ = write!(text, "\n  {path}: {was:?} became {is:?}");
            }
        }
        Err(text.into())
    }
}

fn told(
    path: &Path,
    name: &str,
    detail: Detail,
    first_names: &mut BTreeMap<u64, String>,
) -> Result<String, Failed> {
    let status = fs::symlink_metadata(path)?;
    let kind = status.file_type();
    let (mode, uid, gid) = (status.mode(), status.uid(), status.gid());
    let mut told = format!("{mode:o} {uid}:{gid} {}", status.mtime());
    if detail == Detail::All {
        write!(told, ".{:09}", status.mtime_nsec())?;
    }
    if kind.is_file() {
        write!(told, " {}", hex(&fs::read(path)?))?;
    } else if kind.is_symlink() {
        write!(told, " -> {}", fs::read_link(path)?.display())?;
    } else if kind.is_char_device() || kind.is_block_device() {
        write!(told, " device {:x}", status.rdev())?;
    }
    if !kind.is_dir() && status.nlink() > 1 {
        let first = first_names.entry(status.ino()).or_insert_with(|| name.to_owned());
        write!(told, " is {first}")?;
    }
    let mut names = vec![0; 4096];
    let bytes = rustix::fs::llistxattr(path, &mut names[..])?;
    for attribute in names[..bytes].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if detail == Detail::SystemAttributes && attribute.starts_with(b"user.") {
            continue;
        }
        let mut value = vec![0; 4096];
        let bytes = rustix::fs::lgetxattr(path, attribute, &mut value[..])?;
        write!(told, " {}={}", attribute.escape_ascii(), value[..bytes].escape_ascii())?;
    }
    Ok(told)
}

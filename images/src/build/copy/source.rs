//! Where files are copied from, and what a source means there.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::error::{CopyError, at};
use crate::build::merged::{Merged, is};
use crate::build::patterns::{IGNORE_BYTES_MAX, LeftOut, Pattern, is_pattern};
use crate::layer::join;

/// Where files are copied from.
#[derive(Debug)]
pub struct CopySource {
    pub(super) tree: Merged,
    pub(super) left_out: LeftOut,
    pub(super) keeps_owners: bool,
    /// What its user calls it.
    name: String,
}

/// What a source means.
pub(super) struct Match {
    /// Where it really is.
    pub(super) path: Vec<u8>,
    /// The name that it was found by; empty for the whole of the source.
    pub(super) name: Vec<u8>,
    /// The path that it was found by, less what stands before `/./`.
    pub(super) way: Vec<u8>,
}

impl CopySource {
    /// The directory that is built from, less what the `.dockerignore` of `dockerfile` leaves out:
    /// `DOCKERFILE.dockerignore` beside it, or else the directory's own.
    ///
    /// # Errors
    /// If one of them cannot be read or is wrong.
    pub fn context(directory: &Path, dockerfile: &Path) -> Result<CopySource, CopyError> {
        let mut source = CopySource::directory(directory)?;
        let mut own = dockerfile.as_os_str().to_owned();
        own.push(".dockerignore");
        for path in [PathBuf::from(own), directory.join(".dockerignore")] {
            if let Some(text) = read_ignore(&path)? {
                source.left_out = LeftOut::parse(&text).map_err(|line| CopyError::Pattern {
                    place: format!("{}:{line}", path.display()),
                    pattern: text.lines().nth(line - 1).unwrap_or_default().to_owned(),
                })?;
                break;
            }
        }
        Ok(source)
    }

    /// The directory that is built from, with all that is in it.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn directory(directory: &Path) -> Result<CopySource, CopyError> {
        let name = directory.display().to_string();
        let tree = Merged::open(&[directory.to_owned()]).map_err(at(name.as_bytes()))?;
        Ok(CopySource { tree, left_out: LeftOut::default(), keeps_owners: false, name })
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
    pub(super) fn find(&self, source: &str) -> Result<Vec<Match>, CopyError> {
        let outside = || CopyError::Outside { path: source.to_owned(), place: self.name.clone() };
        let mut components: Vec<&str> = Vec::new();
        // How many of them `--parents` leaves away.
        let mut before = 0;
        for (number, name) in source.split('/').enumerate().filter(|(_, name)| !name.is_empty()) {
            match name {
                "." if number > 0 => before = components.len(),
                "." => {}
                ".." => {
                    components.pop().ok_or_else(outside)?;
                    before = before.min(components.len());
                }
                name => components.push(name),
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
                let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
                let name = parts.last().copied().unwrap_or_default().to_vec();
                let way = parts.get(before..).unwrap_or_default().join(&b'/');
                real.push(Match { name, way, path: there });
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
    pub(super) fn real(&self, path: &[u8]) -> Result<Option<Vec<u8>>, CopyError> {
        match self.tree.real(path) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
            real => real.map_err(at(path)),
        }
    }

    /// A link of this source that leads nowhere.
    pub(super) fn dangling(&self, path: &[u8]) -> CopyError {
        CopyError::Missing { path: super::error::text(path), place: self.name.clone() }
    }
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

//! Looking at single files of an image on disk.

use std::io::{self, Read};
use std::path::PathBuf;

use super::merged::Merged;

/// The files of an image, as a sandbox would show them. Links are followed within the image.
#[derive(Debug)]
pub struct ImageFiles(Merged);

impl ImageFiles {
    /// Opens the layers of an image, lowest first.
    ///
    /// # Errors
    /// If one of them cannot be opened.
    pub fn open(layers: &[PathBuf]) -> io::Result<ImageFiles> {
        Merged::open(layers).map(ImageFiles)
    }

    /// Whether `path` is there, and no link leads to it.
    ///
    /// # Errors
    /// If the layers cannot be read.
    pub fn has_as_written(&self, path: &str) -> io::Result<bool> {
        let path = path.trim_matches('/').as_bytes();
        Ok(self.real(path)?.is_some_and(|real| real == path))
    }

    /// Names in the directory `path`, sorted; none if it is none.
    ///
    /// # Errors
    /// If the layers cannot be read.
    pub fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let Some(real) = self.real(path.as_bytes())? else { return Ok(Vec::new()) };
        let names = self.0.names(&real)?.into_iter();
        Ok(names.filter_map(|name| String::from_utf8(name).ok()).collect())
    }

    /// The file `path`, if there is a regular one of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// If the layers cannot be read.
    pub fn read(&self, path: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(real) = self.real(path.as_bytes())? else { return Ok(None) };
        let file = match self.0.file(&real) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?.0,
        };
        let mut bytes = Vec::new();
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= bytes_max))
    }

    fn real(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self.0.real(path) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
            real => real,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_within_the_image_and_told() {
        let (lower, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(lower.path().join("etc/d")).unwrap();
        fs::write(lower.path().join("etc/d/a"), "lower").unwrap();
        fs::create_dir_all(upper.path().join("etc/d")).unwrap();
        fs::write(upper.path().join("etc/d/b"), "upper").unwrap();
        symlink("/etc/d/a", upper.path().join("etc/link")).unwrap();
        let layers = [lower.path().to_owned(), upper.path().to_owned()];
        let files = ImageFiles::open(&layers).unwrap();
        assert_eq!(files.names("/etc/d").unwrap(), ["a", "b"]);
        assert_eq!(files.read("/etc/link", 5).unwrap().as_deref(), Some(&b"lower"[..]));
        assert_eq!(files.read("/etc/link", 4).unwrap(), None);
        assert_eq!(files.read("/etc/d", 9).unwrap(), None);
        assert_eq!(files.read("/etc/d/a/b", 9).unwrap(), None);
        assert!(files.has_as_written("/etc/d/a").unwrap());
        assert!(!files.has_as_written("/etc/link").unwrap());
    }
}

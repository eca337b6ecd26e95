//! A directory for things that are there for a moment, such as a socket.

use std::path::{Path, PathBuf};

use super::work::Work;
use super::{Store, StoreError};

/// A directory of the store that only this user can enter. Dropping it removes it, with what is in
/// it; so does the next who opens the store, if this process is killed.
#[derive(Debug)]
pub struct PrivateFolder<'a> {
    _work: Work<'a>,
    path: PathBuf,
}

impl Store {
    /// Makes one, empty.
    ///
    /// # Errors
    /// [`StoreError::Disk`]; then nothing is left.
    pub fn private_folder(&self) -> Result<PrivateFolder<'_>, StoreError> {
        let name = format!("folder-{:016x}", self.random()?);
        let work = self.work(&name)?;
        drop(work.make_directory()?);
        Ok(PrivateFolder { _work: work, path: self.root().join("tmp").join(name) })
    }
}

impl PrivateFolder<'_> {
    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

//! Which manifest a reference meant when it was last looked up.

use serde::{Deserialize, Serialize};

use super::{SMALL_FILE_BYTES_MAX, Store, StoreError};
use crate::Digest;

pub(super) const NAMES: &str = "names";

/// One file. It repeats the reference, as its own name is only the digest of it: references have
/// slashes, and may be longer than a file name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    reference: String,
    manifest: Digest,
}

impl Store {
    /// Remembers that `reference` means `manifest`. Durable when it returns; the last one wins.
    pub fn tag(&self, reference: &str, manifest: &Digest) -> Result<(), StoreError> {
        let name = Name { reference: reference.to_owned(), manifest: *manifest };
        let content = serde_json::to_vec(&name).expect("strings have a JSON form");
        let file = file_of(reference);
        let work = self.work(&format!("name-{file}"))?;
        work.write_file(&content)?;
        work.publish(NAMES, &file)
    }

    /// The manifest that `reference` meant last; none if it was never tagged.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the entry cannot be read.
    pub fn tagged(&self, reference: &str) -> Result<Option<Digest>, StoreError> {
        Ok(self.name(&file_of(reference))?.map(|(_, manifest)| manifest))
    }

    /// All references and their manifests, by reference. Damaged entries are left out, so that the
    /// others stay in reach; [`Store::check`] finds them.
    ///
    /// # Errors
    /// [`StoreError::Disk`] if the names cannot be read.
    pub fn tags(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        let mut tags = Vec::new();
        for file in self.names_in(NAMES)? {
            match self.name(&file) {
                Ok(tag) => tags.extend(tag),
                Err(StoreError::Damaged { .. } | StoreError::TooLarge { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        tags.sort_unstable();
        Ok(tags)
    }

    /// One entry by its file; none if it is not there.
    pub(super) fn name(&self, file: &str) -> Result<Option<(String, Digest)>, StoreError> {
        let path = format!("{NAMES}/{file}");
        let Some(bytes) = self.read_file(&path, SMALL_FILE_BYTES_MAX)? else { return Ok(None) };
        let damaged = |what: String| StoreError::Damaged { path: self.root.join(&path), what };
        let name: Name =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if file_of(&name.reference) != file {
            return Err(damaged("it is the entry of another reference".to_owned()));
        }
        Ok(Some((name.reference, name.manifest)))
    }

    pub(super) fn remove_name(&self, file: &str) -> Result<(), StoreError> {
        self.work(&format!("name-{file}"))?.take_away(NAMES, file)
    }
}

fn file_of(reference: &str) -> String {
    Digest::of(reference.as_bytes()).hex()
}

//! Which manifest a reference meant when it was last looked up.

use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, Stat};
use serde::{Deserialize, Serialize};

use super::lease::Thing;
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

/// A name that was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untagged {
    /// What it meant.
    pub manifest: Digest,
    /// Whether that manifest went too.
    pub manifest_removed: bool,
}

impl Store {
    /// Remembers that `reference` means `manifest`. Durable when it returns; the last one wins.
    pub fn tag(&self, reference: &str, manifest: &Digest) -> Result<(), StoreError> {
        let content = to_json(reference, manifest);
        let _lock = self.lock_names(FlockOperation::LockShared)?;
        self.write_name(&file_of(reference), &content)
    }

    /// As [`Store::tag`], and notes that `uid` has used the name now. Writes a name only if it is
    /// new: it costs a wait for the disk.
    pub(crate) fn tag_used(
        &self,
        reference: &str,
        manifest: &Digest,
        uid: u32,
    ) -> Result<(), StoreError> {
        let _lock = self.lock_names(FlockOperation::LockShared)?;
        let file = file_of(reference);
        // A damaged note is written anew.
        if self.name(&file).ok().flatten().is_some_and(|(_, noted)| noted == *manifest) {
            let path = format!("{NAMES}/{file}");
            self.touch(&path).map_err(self.disk("utimensat(2)", &path))?;
        } else {
            self.write_name(&file, &to_json(reference, manifest))?;
        }
        self.note_use(&file, uid)
    }

    fn write_name(&self, file: &str, content: &[u8]) -> Result<(), StoreError> {
        let work = self.work(&format!("name-{file}"))?;
        work.write_file(content)?;
        work.publish(NAMES, file)
    }

    /// When the name in `file` was written or used last.
    pub(super) fn used(&self, file: &str) -> Result<SystemTime, StoreError> {
        let path = format!("{NAMES}/{file}");
        let stat = self.stat(&path).map_err(self.disk("fstatat(2)", &path))?;
        Ok(modified(&stat))
    }

    /// Forgets what `reference` means, and removes the manifest if no other name means it: what it
    /// was and whether that went. None if there was no such name. The rest is left to
    /// [`Store::collect`].
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the entry cannot be read.
    pub fn untag(&self, reference: &str) -> Result<Option<Untagged>, StoreError> {
        let _lock = self.lock_names(FlockOperation::LockExclusive)?;
        let Some(manifest) = self.tagged(reference)? else { return Ok(None) };
        self.remove_name(&file_of(reference))?;
        let is_named = self.tags()?.iter().any(|(_, other)| *other == manifest);
        let manifest_removed = !is_named
            && match self.discard_thing(&Thing::Blob(manifest)) {
                Ok(()) => true,
                Err(StoreError::InUse { .. }) => false,
                Err(error) => return Err(error),
            };
        Ok(Some(Untagged { manifest, manifest_removed }))
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

/// When a file was modified last.
pub(super) fn modified(stat: &Stat) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(stat.st_mtime_nsec)
}

fn to_json(reference: &str, manifest: &Digest) -> Vec<u8> {
    let name = Name { reference: reference.to_owned(), manifest: *manifest };
    serde_json::to_vec(&name).expect("strings have a JSON form")
}

fn file_of(reference: &str) -> String {
    Digest::of(reference.as_bytes()).hex()
}

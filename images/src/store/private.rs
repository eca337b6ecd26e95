//! What came with somebody's credentials, and who else has shown that it is theirs to read.
//!
//! One note beside the store's things, by digest: where it came from, and the uids that may use it.
//! What has no note is for everybody whom the store serves. A note is never wrong for long: whoever
//! is not in it asks the registry, or fetches the same bytes, and is added.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{SMALL_FILE_BYTES_MAX, Store, StoreError};
use crate::Digest;

pub(super) const PRIVATE: &str = "private";

/// Whose something is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Private {
    /// Repositories that gave it to those who showed credentials, `HOST/NAME`.
    pub(crate) origins: BTreeSet<String>,
    /// Users who have had it from there, or have had the same bytes from elsewhere.
    pub(crate) uids: BTreeSet<u32>,
}

impl Store {
    /// The note on something; none if it is for everybody. Costs one system call then.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the note cannot be read: then nobody knows whose it is.
    pub(crate) fn private(&self, digest: &Digest) -> Result<Option<Private>, StoreError> {
        let path = path_of(digest);
        let Some(bytes) = self.read_file(&path, SMALL_FILE_BYTES_MAX)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| StoreError::Damaged {
            path: self.root.join(&path),
            what: error.to_string(),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Notes that `uid` has had something, from `origin` with credentials if one is given. Durable
    /// when it returns; what is known already is not written again.
    pub(crate) fn note_private(
        &self,
        digest: &Digest,
        origin: Option<&str>,
        uid: u32,
    ) -> Result<(), StoreError> {
        let work = self.work(&format!("{PRIVATE}-{}", digest.hex()))?;
        let mut private = self.private(digest)?.unwrap_or_default();
        let is_new = private.uids.insert(uid)
            | origin.is_some_and(|origin| private.origins.insert(origin.to_owned()));
        if !is_new {
            return Ok(());
        }
        self.ensure_directory(PRIVATE)?;
        work.write_file(
            &serde_json::to_vec(&private).expect("texts and numbers have a JSON form"),
        )?;
        work.publish(PRIVATE, &digest.hex())
    }

    /// Forgets whose what is gone was.
    pub(super) fn forget_private(&self) -> Result<(), StoreError> {
        if !self.has(PRIVATE)? {
            return Ok(());
        }
        for name in self.names_in(PRIVATE)? {
            let Ok(digest) = format!("sha256:{name}").parse() else { continue };
            let work = self.work(&format!("{PRIVATE}-{name}"))?;
            // A partial blob is whose it was noted to be.
            let is_coming = self.has(&format!("tmp/partial-{name}"))?;
            if !self.has_blob(&digest) && self.layer(&digest).is_none() && !is_coming {
                work.take_away(PRIVATE, &name)?;
            }
        }
        Ok(())
    }
}

fn path_of(digest: &Digest) -> String {
    format!("{PRIVATE}/{}", digest.hex())
}

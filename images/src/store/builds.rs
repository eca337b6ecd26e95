//! What builds keep in the store: which layer a step made of what it was made from.
//!
//! An entry keeps nothing: a layer that no image needs goes as every other does, and an entry whose
//! layer is gone is no entry.

use std::fs::File;
use std::io;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::lease::LeasedLayer;
use super::work::Work;
use super::{SMALL_FILE_BYTES_MAX, Store, StoreError};
use crate::{Digest, LayerDescriptor, MediaType};

pub(super) const BUILDS: &str = "builds";

/// One file, named by the key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    digest: Digest,
    diff_id: Digest,
    blob_bytes: u64,
}

/// A file in the store that has no name outside of it, for a blob on its way.
#[derive(Debug)]
pub(crate) struct Spool<'a> {
    pub(crate) file: File,
    name: String,
    work: Work<'a>,
}

impl Spool<'_> {
    /// Names what could not be written or read.
    pub(crate) fn failed(&self, source: io::Error) -> StoreError {
        self.work.store().failed("write(2)", &self.name)(source)
    }
}

impl Store {
    pub(crate) fn build_spool(&self) -> Result<Spool<'_>, StoreError> {
        let name = format!("built-{:016x}", self.random()?);
        let work = self.work(&name)?;
        let path = format!("tmp/{name}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self, &path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.disk("openat(2)", &path))?;
        Ok(Spool { file: file.into(), name: path, work })
    }

    /// The layer that was made for `key`, if it is still there. A damaged entry is none.
    pub(crate) fn lease_build(
        &self,
        key: &Digest,
    ) -> Result<Option<(LayerDescriptor, LeasedLayer)>, StoreError> {
        let path = format!("{BUILDS}/{}", key.hex());
        let Some(bytes) = self.read_file(&path, SMALL_FILE_BYTES_MAX)? else { return Ok(None) };
        let Ok(Entry { digest, diff_id, blob_bytes }) = serde_json::from_slice(&bytes) else {
            return Ok(None);
        };
        let layer = LayerDescriptor { digest, diff_id, blob_bytes, media_type: MediaType::TarGzip };
        Ok(self.lease_layer(&diff_id)?.map(|leased| (layer, leased)))
    }

    /// Forgets what was made of layers that are gone.
    pub(super) fn forget_builds(&self) -> Result<(), StoreError> {
        if !self.has(BUILDS)? {
            return Ok(());
        }
        for name in self.names_in(BUILDS)? {
            let Ok(key) = format!("sha256:{name}").parse() else { continue };
            if self.lease_build(&key)?.is_none() {
                self.work(&format!("{BUILDS}-{name}"))?.take_away(BUILDS, &name)?;
            }
        }
        Ok(())
    }

    /// Notes that `layer`, packed with gzip, was made for `key`. The last one wins.
    pub(crate) fn note_build(
        &self,
        key: &Digest,
        layer: &LayerDescriptor,
    ) -> Result<(), StoreError> {
        let LayerDescriptor { digest, diff_id, blob_bytes, media_type: _ } = *layer;
        let content = serde_json::to_vec(&Entry { digest, diff_id, blob_bytes });
        let content = content.expect("digests and numbers have a JSON form");
        self.ensure_directory(BUILDS)?;
        let work = self.work(&format!("{BUILDS}-{}", key.hex()))?;
        work.write_file(&content)?;
        work.publish(BUILDS, &key.hex())
    }
}

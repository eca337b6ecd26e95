//! Finds what a disk, a crash of the machine or a person did to the store.

use std::path::PathBuf;

use rustix::fs::FlockOperation;

use super::blobs::BLOBS;
use super::layers::LAYERS;
use super::lease::{Lock, Thing};
use super::names::NAMES;
use super::{Store, StoreError};
use crate::{Digest, LayerDescriptor, Limits};

/// Something in the store that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
    kind: Kind,
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blob,
    Layer,
    Name,
}

impl Store {
    /// Reads everything in the store and compares it with what it should be.
    ///
    /// Owners of files are not compared, nor contents of files that even their owner cannot read.
    ///
    /// # Errors
    /// [`StoreError`] if the store itself cannot be listed; what cannot be read in it is damage.
    pub fn check(&self) -> Result<Vec<Damage>, StoreError> {
        let mut found = Vec::new();
        for (kind, directory) in [(Kind::Blob, BLOBS), (Kind::Layer, LAYERS), (Kind::Name, NAMES)] {
            for name in self.names_in(directory)? {
                let checked = match kind {
                    Kind::Blob => self.check_named_blob(&name),
                    Kind::Layer => self.check_layer(&name),
                    Kind::Name => self.name(&name).map(|_| None).or_else(told),
                };
                if let Some(what) = checked? {
                    let path = self.root.join(directory).join(&name);
                    found.push(Damage { path, what, kind, name });
                }
            }
        }
        Ok(found)
    }

    /// Removes what is damaged, so that the next pull brings just that again.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if a container or a pull uses it.
    pub fn discard(&self, damage: &Damage) -> Result<(), StoreError> {
        let name = &damage.name;
        match (damage.kind, digest_of(name)) {
            (Kind::Blob, Some(digest)) => self.discard_thing(&Thing::Blob(digest)),
            (Kind::Layer, Some(digest)) => self.discard_thing(&Thing::Layer(digest)),
            // Nobody uses what has no right name.
            (Kind::Blob, None) => self.work(&format!("blob-{name}"))?.take_away(BLOBS, name),
            (Kind::Layer, None) => self.work(&format!("layer-{name}"))?.take_away(LAYERS, name),
            (Kind::Name, _) => {
                let _lock = self.lock_names(FlockOperation::LockExclusive)?;
                self.remove_name(name)
            }
        }
    }

    /// Removes what is damaged, and makes a layer again where the store has the blob that it came
    /// from: whether it could.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if a container or a pull uses it.
    pub fn repair(&self, damage: &Damage, limits: &Limits) -> Result<bool, StoreError> {
        self.discard(damage)?;
        let (Kind::Layer, Some(diff_id)) = (damage.kind, digest_of(&damage.name)) else {
            return Ok(false);
        };
        // The record beside the tree may be what is damaged: the images say what a layer is.
        for (_, manifest) in self.tags()? {
            let Ok(Some(image)) = self.image(&manifest) else { continue };
            let is_kept =
                |layer: &LayerDescriptor| layer.diff_id == diff_id && self.has_blob(&layer.digest);
            if let Some(layer) = image.manifest.layers.into_iter().find(is_kept) {
                return Ok(self.add_layer(&layer, &mut std::io::empty(), limits).is_ok());
            }
        }
        Ok(false)
    }

    /// Removes something that nobody uses; what is not there is fine.
    pub(super) fn discard_thing(&self, thing: &Thing) -> Result<(), StoreError> {
        let (parent, name) = (thing.parent(), thing.digest().hex());
        let work = self.work(&thing.work())?;
        let _lease = match self.lock_thing(thing, FlockOperation::NonBlockingLockExclusive)? {
            Lock::Taken => {
                return Err(StoreError::InUse { path: self.root.join(parent).join(name) });
            }
            Lock::Held(lock) => Some(lock),
            Lock::Absent => None,
        };
        work.take_away(parent, &name)
    }

    fn check_named_blob(&self, name: &str) -> Result<Option<String>, StoreError> {
        match digest_of(name) {
            None => Ok(Some(MISNAMED.to_owned())),
            Some(digest) => self.check_blob(&digest).map(|()| None).or_else(told),
        }
    }

    fn check_layer(&self, name: &str) -> Result<Option<String>, StoreError> {
        let Some(digest) = digest_of(name) else { return Ok(Some(MISNAMED.to_owned())) };
        // So that it does not go while it is read.
        let _lease = match self.lock_thing(&Thing::Layer(digest), FlockOperation::LockShared)? {
            Lock::Held(lock) => Some(lock),
            Lock::Taken | Lock::Absent => None,
        };
        if !self.has(&format!("{LAYERS}/{name}"))? {
            return Ok(None);
        }
        let compared = self.record(name).and_then(|record| {
            let is_same = self.fingerprint(name)? == record.fingerprint;
            Ok((!is_same).then(|| "its tree is not as it was unpacked".to_owned()))
        });
        compared.or_else(told)
    }
}

const MISNAMED: &str = "its name is not a digest";

fn digest_of(name: &str) -> Option<Digest> {
    format!("sha256:{name}").parse().ok()
}

/// What cannot be read is damaged, whatever the reason.
fn told(error: StoreError) -> Result<Option<String>, StoreError> {
    Ok(Some(match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }))
}

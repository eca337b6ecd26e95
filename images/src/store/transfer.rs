//! A layer's blob on its way into the store: unpacked and kept in one go.
//!
//! What comes is written to `tmp/partial-HEX` while it is unpacked, and becomes a blob of the store
//! when all of it was found right. A transfer that broke off, or whose program was killed, leaves
//! that file; the next who wants the blob unpacks what is there and asks for the rest. Nobody
//! trusts it: it is hashed with the rest, and begun anew if the whole is wrong. A blob that the
//! store has already is unpacked again without asking for it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::PoisonError;

use rustix::fs::FlockOperation;

use super::blobs::BLOBS;
use super::lease::{Lock, Thing};
use super::work::{PARTIAL, Work};
use super::{Store, StoreError};
use crate::layer::copy_blob;
use crate::{Digest, LayerDescriptor, LayerError};

/// Where a blob comes from. Nobody is asked before its first byte is read.
pub(crate) trait Origin: Read {
    /// The next read gives the byte `from` of the blob.
    fn start(&mut self, from: u64) -> io::Result<()>;

    /// Whether it can start anywhere, and more than once.
    fn may_resume(&self) -> bool;

    /// All of it was read and found right, and nothing more will be; what came is not on disk yet.
    fn end(&mut self) {}
}

/// A stream that is the blob from its beginning.
pub(super) struct Stream<'a>(pub(super) &'a mut dyn Read);

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Origin for Stream<'_> {
    fn start(&mut self, _from: u64) -> io::Result<()> {
        Ok(())
    }

    fn may_resume(&self) -> bool {
        false
    }
}

/// The right to bring one blob into the store, and what is there of it.
pub(super) struct Transfer<'a> {
    store: &'a Store,
    work: Work<'a>,
    diff_id: Digest,
    blob: Digest,
    blob_bytes: u64,
    /// The blob of the store, or what comes to be it.
    file: File,
    is_stored: bool,
    /// Bytes in `file`.
    have_bytes: u64,
    /// Why the file could not be written.
    failure: Option<io::Error>,
}

impl Store {
    /// Makes the blob that `layer` names exist in the store, as it is, and returns it. `origin` is
    /// not asked for what the store has of it. It stays as long as this store is open.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) fn fetch_blob(
        &self,
        layer: &LayerDescriptor,
        origin: &mut dyn Origin,
    ) -> Result<File, LayerError> {
        let kept = |source| LayerError::Store { diff_id: layer.diff_id, source };
        let mut transfer = Transfer::begin(self, layer, origin.may_resume()).map_err(kept)?;
        let had_some = transfer.has_some();
        let mut copied = copy_blob(layer, &mut transfer.reader(origin), &mut io::sink());
        if had_some && matches!(copied, Err(LayerError::Blob { .. })) {
            transfer.restart().map_err(kept)?;
            copied = copy_blob(layer, &mut transfer.reader(origin), &mut io::sink());
        }
        if let Err(error) = copied {
            return Err(transfer.end(error));
        }
        let path = transfer.work.path();
        transfer.file.sync_all().map_err(self.failed("fsync(2)", &path)).map_err(kept)?;
        let file = transfer.publish().map_err(kept)?;
        let lock = file.try_clone().map_err(self.failed("fcntl(2)", &path)).map_err(kept)?;
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        documents.entry(layer.digest).or_insert(lock.into());
        Ok(file)
    }
}

impl<'a> Transfer<'a> {
    /// Waits until nobody else brings the blob of `layer`. Begins with what there is of it; without
    /// what came in part, if that cannot be gone on with.
    pub(super) fn begin(
        store: &'a Store,
        layer: &LayerDescriptor,
        may_resume: bool,
    ) -> Result<Transfer<'a>, StoreError> {
        let work = store.work_on(&format!("{PARTIAL}{}", layer.digest.hex()))?;
        let size = |file: &File| {
            let path = work.path();
            file.metadata().map(|metadata| metadata.len()).map_err(store.failed("fstat(2)", &path))
        };
        let stored =
            match store.lock_thing(&Thing::Blob(layer.digest), FlockOperation::LockShared)? {
                Lock::Held(stored) => Some(File::from(stored)),
                Lock::Taken | Lock::Absent => None,
            };
        // Of another size it is damaged, and will be replaced.
        let stored = match stored {
            Some(file) if size(&file)? == layer.blob_bytes => Some(file),
            Some(_) | None => None,
        };
        let is_stored = stored.is_some();
        let file = stored.map_or_else(|| work.open_file(), Ok)?;
        let have_bytes = size(&file)?;
        let (blob, blob_bytes, diff_id) = (layer.digest, layer.blob_bytes, layer.diff_id);
        let failure = None;
        let mut transfer = Transfer {
            store,
            work,
            diff_id,
            blob,
            blob_bytes,
            file,
            is_stored,
            have_bytes,
            failure,
        };
        if !is_stored && (!may_resume || have_bytes > blob_bytes) {
            transfer.restart()?;
        }
        Ok(transfer)
    }

    /// Whether some of it was there.
    pub(super) fn has_some(&self) -> bool {
        self.have_bytes > 0
    }

    /// A file that has all of the blob once that was read.
    pub(super) fn copy(&self) -> Result<File, StoreError> {
        self.file.try_clone().map_err(self.store.failed("fcntl(2)", &self.work.path()))
    }

    /// Forgets what is there of the blob: it is wrong.
    pub(super) fn restart(&mut self) -> Result<(), StoreError> {
        if self.is_stored {
            self.file = self.work.open_file()?;
            self.is_stored = false;
        }
        self.have_bytes = 0;
        self.file.set_len(0).map_err(self.store.failed("ftruncate(2)", &self.work.path()))
    }

    /// All of the blob: what is there, then what `origin` has.
    pub(super) fn reader<'r>(&'r mut self, origin: &'r mut dyn Origin) -> impl Read + use<'r, 'a> {
        Arriving { transfer: self, origin, position: 0, is_started: false }
    }

    /// Makes what came the blob of the store, and keeps it from being collected as long as the
    /// returned file is open. It must be right, and on disk.
    pub(super) fn publish(self) -> Result<File, StoreError> {
        if !self.is_stored {
            let path = self.work.path();
            rustix::fs::flock(self.file.as_fd(), FlockOperation::NonBlockingLockShared)
                .map_err(self.store.disk("flock(2)", &path))?;
            self.work.publish(BLOBS, &self.blob.hex())?;
        }
        Ok(self.file)
    }

    /// Ends after `error`; what came stays if going on with it may help.
    pub(super) fn end(mut self, error: LayerError) -> LayerError {
        if let Some(source) = self.failure.take() {
            let source = self.store.failed("write(2)", &self.work.path())(source);
            return LayerError::Store { diff_id: self.diff_id, source };
        }
        if matches!(error, LayerError::Read { .. }) && self.has_some() && !self.is_stored {
            self.work.leave();
        }
        error
    }
}

/// A blob while it is read.
struct Arriving<'r, 'a> {
    transfer: &'r mut Transfer<'a>,
    origin: &'r mut dyn Origin,
    position: u64,
    is_started: bool,
}

impl Read for Arriving<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let transfer = &mut *self.transfer;
        if self.position < transfer.have_bytes {
            let left = transfer.have_bytes - self.position;
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = transfer.file.read_at(&mut buffer[..most], self.position)?;
            self.position += count as u64;
            return Ok(count);
        }
        if !self.is_started {
            // All of it is there: nobody is asked whether more would follow.
            if self.position >= transfer.blob_bytes {
                return Ok(0);
            }
            self.origin.start(self.position)?;
            self.is_started = true;
        }
        let count = self.origin.read(buffer)?;
        if let Err(error) = transfer.file.write_all_at(&buffer[..count], self.position) {
            let told = io::Error::from(error.kind());
            transfer.failure = Some(error);
            return Err(told);
        }
        self.position += count as u64;
        transfer.have_bytes = self.position;
        Ok(count)
    }
}

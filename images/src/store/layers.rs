//! Layers, each unpacked once, whoever asks and however many do.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::lease::{LEASE, LeasedLayer, Thing};
use super::transfer::{Origin, Stream, Transfer};
use super::work::{Work, write_synced};
use super::{SMALL_FILE_BYTES_MAX, Store, StoreError};
use crate::layer::{fingerprint, unpack_kept_layer};
use crate::{Contents, Digest, LayerDescriptor, LayerError, Limits};

pub(super) const LAYERS: &str = "layers";
const TREE: &str = "tree";
const RECORD: &str = "record.json";

/// What stands beside a tree.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The blob it came from.
    pub(super) blob: Digest,
    /// Of the tree as it was when it was made.
    pub(super) fingerprint: Digest,
    entries: u64,
    devices_left_out: u64,
    xattrs_left_out: u64,
    /// Directories that no entry named, as bytes escaped to text.
    implied: Vec<String>,
}

impl Store {
    /// The tree of an unpacked layer; none if it must still be added. Costs one system call.
    pub fn layer(&self, diff_id: &Digest) -> Option<PathBuf> {
        let path = tree_of(diff_id);
        self.stat(&path).is_ok().then(|| self.root.join(path))
    }

    /// Makes the tree of `layer` exist and returns it: what `blob` holds, unpacked, or what was
    /// there already. The blob is kept as it is.
    ///
    /// Idempotent and safe from several processes: one unpacks, the others wait for it without
    /// reading from their `blob`, and take over if it dies. Durable when it returns. On error the
    /// store is as before. `blob` is verified here and need not be before.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub fn add_layer(
        &self,
        layer: &LayerDescriptor,
        blob: &mut dyn Read,
        limits: &Limits,
    ) -> Result<PathBuf, LayerError> {
        self.lease_added_layer(layer, &mut Stream(blob), limits).map(|layer| layer.tree)
    }

    /// As [`Store::add_layer`]; the layer stays as long as what is returned lives. `origin` is not
    /// asked for what the store has of the blob, and gives the rest; what it has given stays if it
    /// can give no more now.
    pub(crate) fn lease_added_layer(
        &self,
        layer: &LayerDescriptor,
        origin: &mut dyn Origin,
        limits: &Limits,
    ) -> Result<LeasedLayer, LayerError> {
        let diff_id = layer.diff_id;
        let kept = |source| LayerError::Store { diff_id, source };
        if let Some(leased) = self.lease_layer(&diff_id).map_err(kept)? {
            return Ok(leased);
        }
        let work = self.work(&Thing::Layer(diff_id).work()).map_err(kept)?;
        if let Some(leased) = self.lease_layer(&diff_id).map_err(kept)? {
            return Ok(leased);
        }
        let mut transfer = Transfer::begin(self, layer, origin.may_resume()).map_err(kept)?;
        let had_some = transfer.has_some();
        let mut made = self.make_layer(&work, layer, &mut transfer, origin, limits);
        if had_some && matches!(made, Err(LayerError::Blob { .. } | LayerError::Limit { .. })) {
            // What was there may be what is wrong. Once: then it comes from `origin` alone.
            work.clear().and_then(|()| transfer.restart()).map_err(kept)?;
            made = self.make_layer(&work, layer, &mut transfer, origin, limits);
        }
        let lock = match made {
            Ok(lock) => lock,
            Err(error) => return Err(transfer.end(error)),
        };
        // The blob first: a tree means that nothing is left to be done.
        let _blob = transfer.publish().map_err(kept)?;
        work.publish(LAYERS, &diff_id.hex()).map_err(kept)?;
        Ok(LeasedLayer { tree: self.root.join(tree_of(&diff_id)), lock })
    }

    /// Makes a layer in `work`, and brings it and its blob to disk.
    fn make_layer(
        &self,
        work: &Work<'_>,
        layer: &LayerDescriptor,
        transfer: &mut Transfer<'_>,
        origin: &mut dyn Origin,
        limits: &Limits,
    ) -> Result<OwnedFd, LayerError> {
        let kept = |source| LayerError::Store { diff_id: layer.diff_id, source };
        // A directory of ours around the tree, whose own mode may be one that cannot be renamed.
        let holder = work.make_directory().map_err(kept)?;
        let tree = self.make_tree(&holder).map_err(kept)?;
        let copy = transfer.copy().map_err(kept)?;
        let mut blob = transfer.reader(origin);
        let contents = unpack_kept_layer(layer, &mut blob, limits, tree.as_fd(), &copy)?;
        drop(blob);
        // While this layer settles, another may be fetched.
        origin.end();
        let fingerprint = self.settle(&tree).map_err(kept)?;
        let record = Record::new(layer, &contents, fingerprint);
        self.write_record(&holder, &record).map_err(kept)?;
        self.new_lease(&holder).map_err(kept)
    }

    /// Removes a layer and the blob that it came from; one that is not there is fine.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if a container uses it.
    pub fn remove_layer(&self, diff_id: &Digest) -> Result<(), StoreError> {
        let blob = self.record(&diff_id.hex()).map(|record| record.blob);
        self.discard_thing(&Thing::Layer(*diff_id))?;
        // Without a record nobody knows the blob: a collector finds it.
        blob.map_or(Ok(()), |blob| self.discard_thing(&Thing::Blob(blob)))
    }

    fn make_tree(&self, holder: &OwnedFd) -> Result<OwnedFd, StoreError> {
        rustix::fs::mkdirat(holder, TREE, Mode::RWXU).map_err(self.disk("mkdirat(2)", TREE))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(holder, TREE, flags, Mode::empty()).map_err(self.disk("openat(2)", TREE))
    }

    /// Brings a tree to disk, and digests it while the disk is busy. One sync for all of its files:
    /// one for each would wait for the journal thousands of times.
    fn settle(&self, tree: &OwnedFd) -> Result<Digest, StoreError> {
        std::thread::scope(|scope| {
            let sync = || rustix::fs::syncfs(tree);
            let synced = std::thread::Builder::new().spawn_scoped(scope, sync);
            let synced = synced.map_err(self.failed("pthread_create(3)", TREE))?;
            let digest = fingerprint(tree.as_fd()).map_err(self.disk("read(2)", TREE));
            let synced = synced.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            synced.map_err(self.disk("syncfs(2)", TREE))?;
            digest
        })
    }

    fn write_record(&self, holder: &OwnedFd, record: &Record) -> Result<(), StoreError> {
        let content = serde_json::to_vec(record).expect("numbers and strings have a JSON form");
        write_synced(holder, RECORD, &content).map_err(self.failed("write(2)", RECORD))?;
        rustix::fs::fsync(holder).map_err(self.disk("fsync(2)", RECORD))
    }

    /// Makes the file that leases are locks on, with one of ours.
    fn new_lease(&self, holder: &OwnedFd) -> Result<OwnedFd, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(holder, LEASE, flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.disk("openat(2)", LEASE))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared)
            .map_err(self.disk("flock(2)", LEASE))?;
        Ok(lock)
    }

    /// Reads what stands beside the tree of a layer.
    pub(super) fn record(&self, name: &str) -> Result<Record, StoreError> {
        let path = format!("{LAYERS}/{name}/{RECORD}");
        let damaged = |what| StoreError::Damaged { path: self.root.join(&path), what };
        let bytes = self.read_file(&path, SMALL_FILE_BYTES_MAX)?;
        let bytes = bytes.ok_or_else(|| damaged("it is missing".to_owned()))?;
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
    }

    /// Digests the tree of a layer as it is now.
    pub(super) fn fingerprint(&self, name: &str) -> Result<Digest, StoreError> {
        let path = format!("{LAYERS}/{name}/{TREE}");
        let tree = self.open_directory(&path)?;
        fingerprint(tree.as_fd()).map_err(self.disk("read(2)", &path))
    }
}

impl Record {
    fn new(layer: &LayerDescriptor, contents: &Contents, fingerprint: Digest) -> Record {
        let implied = contents.implied.iter().map(|path| path.escape_ascii().to_string());
        Record {
            blob: layer.digest,
            fingerprint,
            entries: contents.entries,
            devices_left_out: contents.devices_left_out,
            xattrs_left_out: contents.xattrs_left_out,
            implied: implied.collect(),
        }
    }
}

fn tree_of(diff_id: &Digest) -> String {
    format!("{LAYERS}/{}/{TREE}", diff_id.hex())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::MediaType;

    /// Knows what is in the store when it is let go of.
    struct Looking<'a> {
        store: &'a Store,
        diff_id: Digest,
        blob: &'a [u8],
        ended: Option<bool>,
    }

    impl Read for Looking<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.blob.read(buffer)
        }
    }

    impl Origin for Looking<'_> {
        fn start(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn may_resume(&self) -> bool {
            false
        }

        fn end(&mut self) {
            let is_read = self.blob.is_empty();
            self.ended = Some(is_read && self.store.layer(&self.diff_id).is_none());
        }
    }

    #[test]
    fn the_source_is_let_go_of_before_a_layer_settles() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path()).unwrap();
        let tar = [0; 1024];
        let (digest, blob_bytes, media_type) = (Digest::of(&tar), 1024, MediaType::Tar);
        let layer = LayerDescriptor { digest, diff_id: digest, blob_bytes, media_type };
        let mut origin = Looking { store: &store, diff_id: digest, blob: &tar, ended: None };
        store.lease_added_layer(&layer, &mut origin, &Limits::default()).unwrap();
        assert_eq!(origin.ended, Some(true));
        assert!(store.layer(&digest).is_some());
    }
}

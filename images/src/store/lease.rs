//! Leases: what is in use stays, whoever collects garbage meanwhile.
//!
//! A lease is a shared advisory lock of the kernel (flock(2)) on a file beside what is used. It
//! ends with its holder, however that ends, and nothing is left of it on disk. Whoever removes
//! takes the same lock exclusively, and leaves alone what it does not get at once; it holds it
//! until what it removes has lost its name. So a reader that waits for a lock looks afterwards
//! whether it is still the one that the name leads to.
//!
//! A name is written under a shared lock on one file of the whole store, and garbage is collected
//! under an exclusive one: what a collector takes for unreachable cannot get a name until it is
//! gone.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::blobs::BLOBS;
use super::layers::LAYERS;
use super::{Store, StoreError};
use crate::Digest;

/// Beside each tree.
pub(super) const LEASE: &str = "lease";

/// In the root. A file and not the root itself: network file systems pass locks of files on.
const NAMES_LOCK: &str = "names.lock";

/// What a lease can be had on. Blobs come first: they go before the layers that they name.
/// Whoever has a lease on a layer keeps the blob that it was made from, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    /// A document, or a layer as it was packed.
    Blob(Digest),
    /// A layer, by diff ID.
    Layer(Digest),
}

/// What became of an attempt to get a lock.
#[derive(Debug)]
pub(super) enum Lock {
    /// It is ours until this is dropped.
    Held(OwnedFd),
    /// Another has it, and we were not to wait.
    Taken,
    /// There is no file to be locked.
    Absent,
}

/// The right to use what an image stands on. As long as it or a copy of it lives, nothing of that
/// is removed from the store.
#[derive(Debug, Clone, Default)]
pub struct Lease {
    _locks: Vec<Arc<OwnedFd>>,
}

/// A lease says nothing about what an image is.
impl PartialEq for Lease {
    fn eq(&self, _: &Lease) -> bool {
        true
    }
}

/// A layer that stays while this lives.
#[derive(Debug)]
pub(crate) struct LeasedLayer {
    pub(crate) tree: PathBuf,
    pub(super) lock: OwnedFd,
}

impl Lease {
    /// One lease for all layers of an image.
    pub(crate) fn of(layers: impl IntoIterator<Item = LeasedLayer>) -> Lease {
        Lease { _locks: layers.into_iter().map(|layer| Arc::new(layer.lock)).collect() }
    }

    /// A lease of the blob that `lock` is on.
    pub(super) fn of_blob(lock: OwnedFd) -> Lease {
        Lease { _locks: vec![Arc::new(lock)] }
    }

    /// This lease, and one more layer.
    pub(crate) fn and(&self, layer: LeasedLayer) -> Lease {
        let own = [Arc::new(layer.lock)];
        Lease { _locks: self._locks.iter().cloned().chain(own).collect() }
    }
}

impl Store {
    /// Takes a lease on a layer; none if it must still be added.
    pub(crate) fn lease_layer(&self, diff_id: &Digest) -> Result<Option<LeasedLayer>, StoreError> {
        let lock = self.lock_thing(&Thing::Layer(*diff_id), FlockOperation::LockShared)?;
        Ok(match (lock, self.layer(diff_id)) {
            (Lock::Held(lock), Some(tree)) => Some(LeasedLayer { tree, lock }),
            (Lock::Held(_) | Lock::Taken | Lock::Absent, _) => None,
        })
    }

    /// Stores a document of an image, and keeps it from being removed as long as this store is
    /// open: until the image's name is written, nothing else does.
    pub(crate) fn keep_document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        /// It can be removed between being stored and being locked, but not time and again.
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            self.put_blob(digest, bytes)?;
            let lock = self.lock_thing(&Thing::Blob(*digest), FlockOperation::LockShared)?;
            if let Lock::Held(lock) = lock {
                let mut kept = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
                kept.entry(*digest).or_insert(lock);
                return Ok(());
            }
        }
        let path = self.root.join(BLOBS).join(digest.hex());
        Err(StoreError::Damaged { path, what: "it is not a file".to_owned() })
    }

    /// Whether somebody uses something. What holds for a moment only: who wants to remove it takes
    /// its lock.
    pub(super) fn is_leased(&self, thing: &Thing) -> Result<bool, StoreError> {
        let wait = FlockOperation::NonBlockingLockExclusive;
        Ok(matches!(self.lock_named(&thing.lease(), OFlags::empty(), wait)?, Lock::Taken))
    }

    /// The lock that is the lease of something.
    pub(super) fn lock_thing(
        &self,
        thing: &Thing,
        wait: FlockOperation,
    ) -> Result<Lock, StoreError> {
        // Layers that an earlier version made have no such file yet.
        let create = match thing {
            Thing::Blob(_) => OFlags::empty(),
            Thing::Layer(_) => OFlags::CREATE,
        };
        self.lock_named(&thing.lease(), create, wait)
    }

    /// Held while a name is written, or found to be right: a collector waits, or is waited for.
    pub(super) fn lock_names(&self, wait: FlockOperation) -> Result<OwnedFd, StoreError> {
        match self.lock_named(NAMES_LOCK, OFlags::CREATE, wait)? {
            Lock::Held(lock) => Ok(lock),
            Lock::Taken => Err(self.disk("flock(2)", NAMES_LOCK)(Errno::WOULDBLOCK)),
            Lock::Absent => Err(self.disk("openat(2)", NAMES_LOCK)(Errno::NOENT)),
        }
    }

    /// The lock on the file at `path`, if it still stands there.
    pub(super) fn lock_named(
        &self,
        path: &str,
        create: OFlags,
        wait: FlockOperation,
    ) -> Result<Lock, StoreError> {
        // For writing, without which NFS gives no exclusive lock.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | create;
        loop {
            let lock = match rustix::fs::openat(self, path, flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP) => {
                    return Ok(Lock::Absent);
                }
                opened => opened.map_err(self.disk("openat(2)", path))?,
            };
            match rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, wait)) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(Lock::Taken),
                Err(errno) => return Err(self.disk("flock(2)", path)(errno)),
            }
            let held = rustix::fs::fstat(&lock).map_err(self.disk("fstat(2)", path))?;
            match rustix::fs::statat(self, path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) => {
                    return Ok(Lock::Held(lock));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.disk("fstatat(2)", path)(errno)),
            }
        }
    }
}

impl Thing {
    pub(super) fn digest(&self) -> &Digest {
        match self {
            Thing::Blob(digest) | Thing::Layer(digest) => digest,
        }
    }

    /// The directory that it stands in.
    pub(super) fn parent(&self) -> &'static str {
        match self {
            Thing::Blob(_) => BLOBS,
            Thing::Layer(_) => LAYERS,
        }
    }

    /// The name of the work that makes it.
    pub(super) fn work(&self) -> String {
        match self {
            Thing::Blob(digest) => format!("blob-{}", digest.hex()),
            Thing::Layer(digest) => format!("layer-{}", digest.hex()),
        }
    }

    /// The file that its lease is a lock on; it goes with it.
    fn lease(&self) -> String {
        match self {
            Thing::Blob(digest) => format!("{BLOBS}/{}", digest.hex()),
            Thing::Layer(digest) => format!("{LAYERS}/{}/{LEASE}", digest.hex()),
        }
    }
}

//! Caches of builds: directories that outlive a step and are in no layer (`--mount=type=cache`).
//!
//! Each user has caches of their own: what one user's steps leave there is never another's input. A
//! lease is a lock as on a layer, so that a cache in use stays; an exclusive one keeps others out.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::collect::Collected;
use super::lease::{LEASE, Lock};
use super::names::modified;
use super::room::ROOM;
use super::{Store, StoreError};
use crate::layer::disk_bytes;
use crate::{Digest, Sharing};

const CACHES: &str = "caches";
/// What a step sees of a cache.
const FILES: &str = "files";
/// Stands beside it once the owner and mode are those that were asked for.
const READY: &str = "ready";
/// Caches of one name that are in use at once, each by one build.
const PRIVATE_MAX: u32 = 1000;

/// A cache that stays, and is kept as its sharing says, while this lives.
#[derive(Debug)]
pub struct CacheDirectory<'a> {
    store: &'a Store,
    name: String,
    _lock: OwnedFd,
}

/// A cache, when it was used last, and how large it is.
pub(super) struct KeptCache {
    name: String,
    used: SystemTime,
    pub(super) bytes: u64,
}

impl Store {
    /// Takes the cache `id` of the user `uid`, and makes it if it is not there. Waits for others
    /// where `sharing` says so.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn lease_cache(
        &self,
        uid: u32,
        id: &str,
        sharing: Sharing,
    ) -> Result<CacheDirectory<'_>, StoreError> {
        self.ensure_directory(CACHES)?;
        let digest = Digest::of(id.as_bytes());
        let name = |number| format!("{uid}-{}-{number}", digest.hex());
        let wait = match sharing {
            Sharing::Shared => FlockOperation::LockShared,
            Sharing::Locked => FlockOperation::LockExclusive,
            Sharing::Private => FlockOperation::NonBlockingLockExclusive,
        };
        for number in 0..PRIVATE_MAX {
            let name = name(number);
            if let Some(lock) = self.lock_cache(&name, wait)? {
                let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
                let times = Timestamps { last_access: now, last_modification: now };
                rustix::fs::futimens(&lock, &times).map_err(self.disk("futimens(2)", &name))?;
                self.ensure_directory(&format!("{CACHES}/{name}/{FILES}"))?;
                return Ok(CacheDirectory { store: self, name, _lock: lock });
            }
        }
        Err(self.disk("flock(2)", &name(PRIVATE_MAX))(Errno::WOULDBLOCK))
    }

    /// The lock of a cache; none if another has it. It may be removed while it is asked for.
    fn lock_cache(&self, name: &str, wait: FlockOperation) -> Result<Option<OwnedFd>, StoreError> {
        loop {
            self.ensure_directory(&format!("{CACHES}/{name}"))?;
            match self.lock_named(&format!("{CACHES}/{name}/{LEASE}"), OFlags::CREATE, wait)? {
                Lock::Held(lock) => return Ok(Some(lock)),
                Lock::Taken => return Ok(None),
                Lock::Absent => {}
            }
        }
    }

    /// All caches, least recently used first.
    pub(super) fn caches(&self) -> Result<Vec<KeptCache>, StoreError> {
        if !self.has(CACHES)? {
            return Ok(Vec::new());
        }
        let parent = self.open_directory(CACHES)?;
        let mut caches = Vec::new();
        for name in self.names_in(CACHES)? {
            let bytes = disk_bytes(&parent, &name).map_err(self.disk("fstatat(2)", CACHES))?;
            let stat = self.stat(&format!("{CACHES}/{name}/{LEASE}"));
            let used = stat.map_or(SystemTime::UNIX_EPOCH, |stat| modified(&stat));
            caches.push(KeptCache { name, used, bytes });
        }
        caches.sort_by_key(|cache| cache.used);
        Ok(caches)
    }

    /// Removes the caches used least recently until the others have at most `bytes_max`; returns
    /// what they have. Files that belong to subordinate ids go with the next build.
    pub(super) fn collect_caches(
        &self,
        bytes_max: Option<u64>,
        dry_run: bool,
        collected: &mut Collected,
    ) -> Result<u64, StoreError> {
        let caches = self.caches()?;
        let mut left: u64 = caches.iter().map(|cache| cache.bytes).sum();
        for KeptCache { name, bytes, .. } in caches {
            if bytes_max.is_none_or(|most| left <= most) {
                break;
            }
            let path = format!("{CACHES}/{name}/{LEASE}");
            let wait = FlockOperation::NonBlockingLockExclusive;
            let Lock::Held(_lock) = self.lock_named(&path, OFlags::CREATE, wait)? else { continue };
            if !dry_run {
                let work = self.work(&format!("{ROOM}{:016x}", self.random()?))?;
                let taken = work.take_away(CACHES, &name);
                if self.has(&format!("{CACHES}/{name}"))? {
                    taken?;
                }
            }
            left -= bytes;
            collected.freed_bytes += bytes;
            collected.caches += 1;
        }
        collected.left_bytes += left;
        Ok(left)
    }
}

impl CacheDirectory<'_> {
    /// What a step sees of it, absolute.
    pub fn path(&self) -> PathBuf {
        self.store.root().join(CACHES).join(&self.name).join(FILES)
    }

    /// Whether its owner and mode are still to be set.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn is_new(&self) -> Result<bool, StoreError> {
        self.store.has(&self.ready()).map(|ready| !ready)
    }

    /// Notes that its owner and mode are set.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn note_ready(&self) -> Result<(), StoreError> {
        let (path, flags) = (self.ready(), OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC);
        let made = rustix::fs::openat(self.store, Path::new(&path), flags, Mode::RUSR | Mode::WUSR);
        made.map(drop).map_err(self.store.disk("openat(2)", &path))
    }

    fn ready(&self) -> String {
        format!("{CACHES}/{}/{READY}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Collect;

    #[test]
    fn each_user_and_name_has_a_cache_of_its_own_that_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let path = |uid, id| store.lease_cache(uid, id, Sharing::Shared).unwrap().path();
        let first = store.lease_cache(1, "a", Sharing::Shared).unwrap();
        assert!(first.is_new().unwrap());
        first.note_ready().unwrap();
        assert!(!first.is_new().unwrap());
        fs::write(first.path().join("kept"), "x").unwrap();
        assert_eq!(path(1, "a"), first.path());
        assert!(path(1, "a").join("kept").exists());
        assert_ne!(path(2, "a"), first.path());
        assert_ne!(path(1, "b"), first.path());
    }

    #[test]
    fn private_caches_are_several_and_locked_ones_keep_others_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let first = store.lease_cache(1, "a", Sharing::Private).unwrap();
        let second = store.lease_cache(1, "a", Sharing::Private).unwrap();
        assert_ne!(first.path(), second.path());
        let name = first.name.clone();
        drop(first);
        let locked = store.lease_cache(1, "a", Sharing::Locked).unwrap();
        assert_eq!(locked.name, name);
        let others = store.lock_cache(&name, FlockOperation::NonBlockingLockShared).unwrap();
        assert!(others.is_none());
        drop(locked);
        assert!(store.lock_cache(&name, FlockOperation::NonBlockingLockShared).unwrap().is_some());
    }

    #[test]
    fn garbage_collection_counts_caches_and_removes_them_before_images() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let fill = |id: &str| {
            let cache = store.lease_cache(1, id, Sharing::Shared).unwrap();
            fs::write(cache.path().join("file"), vec![1; 100_000]).unwrap();
            cache
        };
        let (old, used) = (fill("old"), fill("used"));
        let (old_path, used_path) = (old.path(), used.path());
        drop(old);
        let left = store.collect(Collect::default()).unwrap();
        assert!(left.left_bytes >= 200_000 && left.caches == 0, "{left:?}");
        let would = store.collect(Collect { max_bytes: Some(0), dry_run: true }).unwrap();
        assert!(would.caches == 1 && old_path.exists(), "{would:?}");
        let went = store.collect(Collect { max_bytes: Some(0), dry_run: false }).unwrap();
        assert!(went.caches == 1 && went.freed_bytes >= 100_000, "{went:?}");
        assert!(!old_path.exists());
        assert!(used_path.join("file").exists(), "a cache in use is gone");
    }
}

//! Work in progress: a name in `tmp/`, the lock of who works on it, and the way out into the store.
//!
//! The lock is an advisory one of the kernel (flock(2)): it ends with its holder, however that
//! ends. Lock files are removed by their holders; so whoever gets a lock looks whether it is still
//! the one that the name leads to, and tries again if not.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Store, StoreError};

const TMP: &str = "tmp";
const LOCK_SUFFIX: &str = ".lock";

/// Work with such a name is gone on with by the next who does it, however its last worker ended.
pub(super) const PARTIAL: &str = "partial-";

/// The right to make one thing. Dropping it removes what was neither published nor left.
#[derive(Debug)]
pub(super) struct Work<'a> {
    store: &'a Store,
    tmp: OwnedFd,
    name: String,
    /// It stays for the next who does it.
    stays: bool,
    /// Held until this is dropped.
    _lock: OwnedFd,
}

impl Store {
    /// Removes what dead writers left in `tmp/`; what live ones work on is locked and stays.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        for name in self.names_in(TMP)? {
            let name = name.strip_suffix(LOCK_SUFFIX).unwrap_or(&name);
            if name.starts_with(PARTIAL) && self.has(&format!("{TMP}/{name}"))? {
                continue;
            }
            drop(self.lock(name, FlockOperation::NonBlockingLockExclusive)?);
        }
        Ok(())
    }

    /// Waits until nobody works on `name`, and takes it. What a dead writer left is gone.
    pub(super) fn work(&self, name: &str) -> Result<Work<'_>, StoreError> {
        let work = self.work_on(name)?;
        work.clear()?;
        Ok(work)
    }

    /// As `work`, with what the last worker left.
    pub(super) fn work_on(&self, name: &str) -> Result<Work<'_>, StoreError> {
        loop {
            if let Some(work) = self.lock(name, FlockOperation::LockExclusive)? {
                return Ok(work);
            }
        }
    }

    /// Work that can be gone on with, or is being gone on with: names and files.
    pub(super) fn partials(&self) -> Result<Vec<(String, Stat)>, StoreError> {
        let mut names = self.names_in(TMP)?;
        names.retain(|name| name.starts_with(PARTIAL) && !name.ends_with(LOCK_SUFFIX));
        let stat = |name: String| self.stat(&format!("{TMP}/{name}")).ok().map(|stat| (name, stat));
        Ok(names.into_iter().filter_map(stat).collect())
    }

    /// As `work`, but waits for nobody: none if another works on `name`.
    pub(super) fn try_work(&self, name: &str) -> Result<Option<Work<'_>>, StoreError> {
        self.lock(name, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock of `name`; none if another has it, or had it and removed it meanwhile.
    fn lock(&self, name: &str, wait: FlockOperation) -> Result<Option<Work<'_>>, StoreError> {
        let tmp = self.open_directory(TMP)?;
        let file = format!("{name}{LOCK_SUFFIX}");
        let shown = format!("{TMP}/{file}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&tmp, &file, flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.disk("openat(2)", &shown))?;
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, wait)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(self.disk("flock(2)", &shown)(errno)),
        }
        let held = rustix::fs::fstat(&lock).map_err(self.disk("fstat(2)", &shown))?;
        match rustix::fs::statat(&tmp, &file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.disk("fstatat(2)", &shown)(errno)),
        }
        Ok(Some(Work { store: self, tmp, name: name.to_owned(), stays: false, _lock: lock }))
    }
}

impl Work<'_> {
    /// Makes an empty directory to work in, open to us alone.
    pub(super) fn make_directory(&self) -> Result<OwnedFd, StoreError> {
        let path = self.path();
        self.store.ensure_directory(&path)?;
        self.store.open_directory(&path)
    }

    /// Opens the file in the making, and makes it if it is not there.
    pub(super) fn open_file(&self) -> Result<File, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.tmp, &self.name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(self.store.disk("openat(2)", &self.path()))
    }

    /// Writes a file with `content` and syncs it.
    pub(super) fn write_file(&self, content: &[u8]) -> Result<(), StoreError> {
        write_synced(&self.tmp, &self.name, content)
            .map_err(self.store.failed("write(2)", &self.path()))
    }

    /// Moves the work to `target` in the directory `parent` of the store, and syncs that.
    ///
    /// What is in the work must be synced before: after a power failure the name must not be there
    /// without it.
    pub(super) fn publish(self, parent: &str, target: &str) -> Result<(), StoreError> {
        self.publish_unsynced(parent, target)?;
        self.store.sync_directory(parent)
    }

    /// As `publish`, for what need not survive a power failure.
    pub(super) fn publish_unsynced(&self, parent: &str, target: &str) -> Result<(), StoreError> {
        let directory = self.store.open_directory(parent)?;
        rustix::fs::renameat(&self.tmp, &self.name, &directory, target)
            .map_err(self.store.disk("renameat(2)", &self.path()))
    }

    /// Takes something of the store that is no longer wanted; it goes with this work.
    pub(super) fn take_away(self, parent: &str, name: &str) -> Result<(), StoreError> {
        let directory = self.store.open_directory(parent)?;
        match rustix::fs::renameat(&directory, name, &self.tmp, &self.name) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(self.store.disk("renameat(2)", name)(errno)),
        }
        rustix::fs::fsync(&directory).map_err(self.store.disk("fsync(2)", parent))?;
        self.clear()
    }

    /// Moves something of the store into this work's directory `bin`, to go with it. What is not
    /// there any more is fine.
    pub(super) fn move_in(
        &self,
        bin: &OwnedFd,
        parent: &str,
        name: &str,
    ) -> Result<(), StoreError> {
        let directory = self.store.open_directory(parent)?;
        // A blob may have the name of a layer.
        let target = format!("{}-{name}", parent.replace('/', "-"));
        match rustix::fs::renameat(&directory, name, bin, target) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.store.disk("renameat(2)", &format!("{parent}/{name}"))(errno)),
        }
    }

    /// Removes what is in the work, and says if that cannot be done.
    pub(super) fn end(self) -> Result<(), StoreError> {
        self.clear()
    }

    /// Leaves what was made so far to the next who does this.
    pub(super) fn leave(mut self) {
        self.stays = true;
    }

    /// The store that it is for.
    pub(super) fn store(&self) -> &Store {
        self.store
    }

    pub(super) fn path(&self) -> String {
        format!("{TMP}/{}", self.name)
    }

    /// Removes what is in the work, to begin anew.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        let name = CString::new(self.name.as_str()).expect("names of files hold no zero byte");
        crate::layer::remove(self.tmp.as_fd(), &name)
            .map_err(self.store.disk("unlinkat(2)", &self.path()))
    }
}

impl Drop for Work<'_> {
    /// Leftovers first, then the lock file, then (by closing it) the lock: the next holder finds
    /// either everything or nothing. What cannot be removed now, the next sweep tries again.
    fn drop(&mut self) {
        if !self.stays && self.clear().is_ok() {
            let file = format!("{}{LOCK_SUFFIX}", self.name);
            let _ = rustix::fs::unlinkat(&self.tmp, file, AtFlags::empty());
        }
    }
}

/// Writes a new file and syncs its content.
pub(super) fn write_synced(parent: &OwnedFd, name: &str, content: &[u8]) -> std::io::Result<()> {
    write_new(parent.as_fd(), name, content)?.sync_all()
}

/// Writes a new file.
pub(super) fn write_new(
    parent: BorrowedFd<'_>,
    name: &str,
    content: &[u8],
) -> std::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    file.write_all(content)?;
    Ok(file)
}

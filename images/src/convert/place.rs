//! The place of a target: work goes on in a hidden directory beside it, and ends in one rename.
//!
//! The directory is called `.NAME.partial`, is ours alone, and holds a lock for as long as somebody
//! works in it. So two conversions to one place do not meet, and what a killed one left behind goes
//! with the next.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::ConvertError;

const LOCK: &str = "lock";
const CONTENT: &str = "content";

/// What is made in the directory, under this name, becomes the target.
const MADE: &str = "made";

/// Whether something that stands at the target may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// It is an error.
    #[default]
    Keep,
    /// The target takes its place, if it is a file.
    Replace,
}

/// The right to write one target. Dropping it removes what was not published.
pub(super) struct Place {
    path: PathBuf,
    existing: Existing,
    parent: OwnedFd,
    name: CString,
    partial: CString,
    work: OwnedFd,
    /// Held until this is dropped.
    _lock: OwnedFd,
}

impl Place {
    /// Prepares to write the directory `path`, which must name something. None is ever replaced: a
    /// mistyped path would cost all that is below it.
    pub(super) fn prepare_directory(path: &Path) -> Result<Place, ConvertError> {
        if path.symlink_metadata().is_ok() {
            return Err(ConvertError::Occupied { path: path.to_owned() });
        }
        Place::prepare(path, Existing::Keep)
    }

    /// Prepares to write `path`, which must name something.
    pub(super) fn prepare(path: &Path, existing: Existing) -> Result<Place, ConvertError> {
        let name = path.file_name().expect("the grammar of targets wants a name");
        let parent_path = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(parent_path, flags, Mode::empty())
            .map_err(disk("open(2)", parent_path))?;
        let zero = |_| disk("open(2)", path)(Errno::INVAL);
        let name = CString::new(name.as_bytes()).map_err(zero)?;
        let partial = [b".", name.as_bytes(), b".partial"].concat();
        let partial = CString::new(partial).expect("the name has no zero byte");
        let there = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW);
        if existing == Existing::Keep && there.is_ok() {
            return Err(ConvertError::Exists { path: path.to_owned() });
        }
        let (work, lock) = enter(&parent, &partial, parent_path)?;
        let path = path.to_owned();
        let place = Place { path, existing, parent, name, partial, work, _lock: lock };
        place.clear().map_err(place.failed("unlinkat(2)"))?;
        Ok(place)
    }

    /// The directory that work is done in.
    pub(super) fn work(&self) -> BorrowedFd<'_> {
        self.work.as_fd()
    }

    /// Makes a file without a name, which is gone when the last descriptor is.
    pub(super) fn scratch_file(&self) -> Result<File, ConvertError> {
        let file = self.create(CONTENT, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::unlinkat(&self.work, CONTENT, AtFlags::empty())
            .map_err(self.failed("unlinkat(2)"))?;
        Ok(file)
    }

    /// Makes the file that becomes the target, with what the user's mask leaves of `mode`.
    pub(super) fn make_file(&self, mode: u32) -> Result<File, ConvertError> {
        self.create(MADE, Mode::from_raw_mode(mode))
    }

    fn create(&self, name: &str, mode: Mode) -> Result<File, ConvertError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.work, name, flags | OFlags::CLOEXEC, mode);
        file.map(File::from).map_err(self.failed("openat(2)"))
    }

    /// Makes the directory that becomes the target, with what the user's mask leaves of its mode.
    pub(super) fn make_directory(&self) -> Result<OwnedFd, ConvertError> {
        rustix::fs::mkdirat(&self.work, MADE, Mode::from_raw_mode(0o777))
            .map_err(self.failed("mkdirat(2)"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.work, MADE, flags, Mode::empty()).map_err(self.failed("openat(2)"))
    }

    /// Brings what is in the directory that [`Place::make_directory`] made to disk, and gives it
    /// its name.
    pub(super) fn publish_directory(self) -> Result<(), ConvertError> {
        rustix::fs::syncfs(&self.work).map_err(self.failed("syncfs(2)"))?;
        self.publish()
    }

    /// Brings `file`, which [`Place::make_file`] made, to disk and gives it its name.
    pub(super) fn publish_file(self, file: &File) -> Result<(), ConvertError> {
        rustix::fs::fsync(file).map_err(self.failed("fsync(2)"))?;
        self.publish()
    }

    fn publish(self) -> Result<(), ConvertError> {
        match self.existing {
            Existing::Keep => self.rename_new()?,
            Existing::Replace => {
                rustix::fs::renameat(&self.work, MADE, &self.parent, &self.name)
                    .map_err(self.failed("renameat(2)"))?;
            }
        }
        rustix::fs::fsync(&self.parent).map_err(self.failed("fsync(2)"))
    }

    /// Gives the work its name unless something got it in the meantime.
    fn rename_new(&self) -> Result<(), ConvertError> {
        let flags = RenameFlags::NOREPLACE;
        let renamed = rustix::fs::renameat_with(&self.work, MADE, &self.parent, &self.name, flags);
        match renamed {
            // A file system without that call, such as NFS; link(2) replaces nothing either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                let flags = AtFlags::empty();
                match rustix::fs::linkat(&self.work, MADE, &self.parent, &self.name, flags) {
                    Err(Errno::EXIST) => Err(ConvertError::Exists { path: self.path.clone() }),
                    // A directory: rename(2) replaces none but an empty one.
                    Err(Errno::PERM) => {
                        rustix::fs::renameat(&self.work, MADE, &self.parent, &self.name)
                            .map_err(self.failed("renameat(2)"))
                    }
                    linked => linked.map_err(self.failed("linkat(2)")),
                }
            }
            Err(Errno::EXIST) => Err(ConvertError::Exists { path: self.path.clone() }),
            renamed => renamed.map_err(self.failed("renameat2(2)")),
        }
    }

    /// As [`Place::failed`], for what the standard library says.
    pub(super) fn unwritten(
        &self,
        call: &'static str,
    ) -> impl Fn(io::Error) -> ConvertError + use<> {
        let path = self.path.clone();
        move |source| ConvertError::Disk { call, path: path.clone(), source }
    }

    /// Names the call that failed on the target.
    pub(super) fn failed(&self, call: &'static str) -> impl Fn(Errno) -> ConvertError + use<> {
        disk(call, &self.path)
    }

    /// Removes what is in the directory, but for the lock.
    fn clear(&self) -> rustix::io::Result<()> {
        for name in [CONTENT, MADE, SPOOL] {
            let name = CString::new(name).expect("our names have no zero byte");
            crate::layer::remove(self.work(), &name)?;
        }
        Ok(())
    }
}

/// What reading a squashfs leaves if it is killed at a bad moment.
const SPOOL: &str = ".spool";

impl Drop for Place {
    /// What cannot be removed now goes with the next conversion to this place.
    fn drop(&mut self) {
        if self.clear().is_ok() {
            let _ = rustix::fs::unlinkat(&self.work, LOCK, AtFlags::empty());
            let _ = rustix::fs::unlinkat(&self.parent, &self.partial, AtFlags::REMOVEDIR);
        }
    }
}

/// Makes or takes over the directory to work in, with its lock.
fn enter(
    parent: &OwnedFd,
    partial: &CString,
    parent_path: &Path,
) -> Result<(OwnedFd, OwnedFd), ConvertError> {
    let path = parent_path.join(OsStr::from_bytes(partial.as_bytes()));
    let busy = || ConvertError::Busy { path: path.clone() };
    match rustix::fs::mkdirat(parent, partial, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(disk("mkdirat(2)", &path)(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let work = match rustix::fs::openat(parent, partial, flags, Mode::empty()) {
        // A file or a link of somebody else's, or a conversion that ends right now.
        Err(Errno::LOOP | Errno::NOTDIR | Errno::NOENT | Errno::ACCESS) => return Err(busy()),
        opened => opened.map_err(disk("openat(2)", &path))?,
    };
    let stat = rustix::fs::fstat(&work).map_err(disk("fstat(2)", &path))?;
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if !is_ours || stat.st_mode & 0o077 != 0 {
        return Err(busy());
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = match rustix::fs::openat(&work, LOCK, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::NOENT) => return Err(busy()),
        opened => opened.map_err(disk("openat(2)", &path))?,
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(busy()),
        Err(errno) => return Err(disk("flock(2)", &path)(errno)),
    }
    // Who had the lock before may have removed it, and the directory, since it was opened.
    let held = rustix::fs::fstat(&lock).map_err(disk("fstat(2)", &path))?;
    if held.st_nlink == 0 { Err(busy()) } else { Ok((work, lock)) }
}

fn disk(call: &'static str, path: &Path) -> impl Fn(Errno) -> ConvertError + use<> {
    let path = path.to_owned();
    move |errno| {
        let (path, source) = (path.clone(), io::Error::from(errno));
        ConvertError::Disk { call, path, source }
    }
}

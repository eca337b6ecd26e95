//! Rooms: where the changes of a build step stand until they are a layer.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::work::Work;
use super::{Store, StoreError};

/// Begins the name of every room in `tmp/`.
pub(super) const ROOM: &str = "build-";

/// The directories that an engine needs for a root that can be changed. Dropping it removes what
/// this user may remove; changes that belong to subordinate ids are removed from within their user
/// namespace before, or by the next build.
#[derive(Debug)]
pub struct BuildRoom<'a> {
    _work: Work<'a>,
    path: PathBuf,
}

impl Store {
    /// Makes a room: `root` to mount on, and `changes` with overlayfs's `upper` and `work`.
    ///
    /// # Errors
    /// [`StoreError::Disk`]; then nothing is left.
    pub fn build_room(&self) -> Result<BuildRoom<'_>, StoreError> {
        let name = format!("{ROOM}{:016x}", self.random()?);
        let work = self.work(&name)?;
        let room = work.make_directory()?;
        let path = self.root().join("tmp").join(&name);
        // Uid 0 of a user namespace is a stranger here: what keeps others out is `tmp` itself.
        let open = Mode::from_raw_mode(0o755);
        rustix::fs::fchmod(&room, open).map_err(self.disk("fchmod(2)", &name))?;
        for inner in ["root", "changes", "changes/upper", "changes/work"] {
            rustix::fs::mkdirat(&room, inner, open).map_err(self.disk("mkdirat(2)", inner))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(room.as_fd(), inner, flags, Mode::empty())
                .map_err(self.disk("openat(2)", inner))?;
            // The caller's umask takes from what mkdir(2) gives.
            rustix::fs::fchmod(&made, open).map_err(self.disk("fchmod(2)", inner))?;
        }
        Ok(BuildRoom { _work: work, path })
    }

    /// Rooms that were left by builds that are gone, and that no sweep could remove: changes in
    /// them belong to subordinate ids of this user.
    ///
    /// # Errors
    /// [`StoreError::Disk`] if the store cannot be listed.
    pub fn left_rooms(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut left = Vec::new();
        for name in self.names_in("tmp")? {
            if name.starts_with(ROOM) && !name.ends_with(".lock") && !self.is_worked_on(&name)? {
                left.push(self.root().join("tmp").join(name));
            }
        }
        Ok(left)
    }

    pub(super) fn random(&self) -> Result<u64, StoreError> {
        let mut bytes = [0_u8; 8];
        let flags = rustix::rand::GetRandomFlags::empty();
        rustix::rand::getrandom(&mut bytes, flags).map_err(self.disk("getrandom(2)", "tmp"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Whether somebody works on `name`. What nobody works on, and can be removed, is.
    fn is_worked_on(&self, name: &str) -> Result<bool, StoreError> {
        let Some(work) = self.try_work(name)? else { return Ok(true) };
        drop(work);
        Ok(!self.has(&format!("tmp/{name}"))?)
    }
}

impl BuildRoom<'_> {
    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where what was changed stands: overlayfs's upper directory.
    pub fn upper(&self) -> PathBuf {
        self.path.join("changes/upper")
    }
}

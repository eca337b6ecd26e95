//! Who has used which image: whoever takes more than a share of the store makes room first.
//!
//! One empty file for each user and name, touched at each use. Users are noted where a store serves
//! others than its owner; an image that nobody is noted for is everybody's.

use std::collections::{BTreeMap, BTreeSet};

use rustix::fs::{AtFlags, Mode, OFlags, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use super::collect::{Named, Sizes, bytes_of};
use super::names::NAMES;
use super::{Store, StoreError};

const USES: &str = "uses";

impl Store {
    /// Notes that `uid` has used the name in `file` now.
    pub(super) fn note_use(&self, file: &str, uid: u32) -> Result<(), StoreError> {
        let is_owner = uid == rustix::process::geteuid().as_raw();
        if is_owner && !self.has(USES)? {
            return Ok(());
        }
        let path = format!("{USES}/{uid}/{file}");
        match self.touch(&path) {
            Err(Errno::NOENT) => {
                self.ensure_directory(USES)?;
                self.ensure_directory(&format!("{USES}/{uid}"))?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(self, &path, flags, Mode::RUSR | Mode::WUSR);
                made.map(drop).map_err(self.disk("openat(2)", &path))
            }
            touched => touched.map_err(self.disk("utimensat(2)", &path)),
        }
    }

    /// Sets the time of last modification of a file to now.
    pub(super) fn touch(&self, path: &str) -> rustix::io::Result<()> {
        let at = |tv_nsec| rustix::fs::Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps { last_access: at(UTIME_OMIT), last_modification: at(UTIME_NOW) };
        rustix::fs::utimensat(self, path, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Who has used a name, by the file of the name.
    pub(super) fn users(&self) -> Result<BTreeMap<String, BTreeSet<u32>>, StoreError> {
        let mut users: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for (uid, file) in self.uses()? {
            users.entry(file).or_default().insert(uid);
        }
        Ok(users)
    }

    fn uses(&self) -> Result<Vec<(u32, String)>, StoreError> {
        let mut uses = Vec::new();
        if !self.has(USES)? {
            return Ok(uses);
        }
        for name in self.names_in(USES)? {
            // What has another name is not ours.
            let Ok(uid) = name.parse() else { continue };
            uses.extend(
                self.names_in(&format!("{USES}/{uid}"))?.into_iter().map(|file| (uid, file)),
            );
        }
        Ok(uses)
    }

    /// Forgets the uses of names that are gone.
    pub(super) fn forget_uses(&self) -> Result<(), StoreError> {
        for (uid, file) in self.uses()? {
            if self.has(&format!("{NAMES}/{file}"))? {
                continue;
            }
            let path = format!("{USES}/{uid}/{file}");
            match rustix::fs::unlinkat(self, &path, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.disk("unlinkat(2)", &path)(errno)),
            }
        }
        Ok(())
    }
}

/// Which of `names`, least recently used first, goes next so that they fit into `max_bytes`; those
/// in `in_use` cannot.
///
/// An equal share of the room is each user's. Of those who take more, by what they alone have used,
/// the one who takes most gives first; if nobody does, what all of them have used least recently.
pub(super) fn next_to_go(
    names: &[Named],
    in_use: &BTreeSet<String>,
    sizes: &Sizes,
    max_bytes: u64,
) -> Option<usize> {
    let users: BTreeSet<u32> = names.iter().flat_map(|named| named.users.clone()).collect();
    let share = max_bytes / u64::try_from(users.len()).unwrap_or(u64::MAX).max(1);
    let is_own = |named: &Named, uid| named.users.len() == 1 && named.users.contains(&uid);
    let taken = |uid| {
        let of_others = names.iter().filter(|named| !is_own(named, uid));
        let all = bytes_of(names.iter(), sizes);
        all - bytes_of(of_others, sizes)
    };
    let mut over: Vec<(u64, u32)> = users.into_iter().map(|uid| (taken(uid), uid)).collect();
    over.retain(|(bytes, _)| *bytes > share);
    over.sort_unstable_by(|a, b| b.cmp(a));
    let can_go = |named: &Named| !in_use.contains(&named.file);
    let own = over
        .into_iter()
        .find_map(|(_, uid)| names.iter().position(|named| can_go(named) && is_own(named, uid)));
    own.or_else(|| names.iter().position(can_go))
}

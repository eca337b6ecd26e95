//! What a step mounts: caches of the store, secrets of the user, memory. Files that it binds are
//! layers, which this only makes read-only.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use ric_images::{BuildRoom, CacheDirectory, Mount, Owned, Run, Store, StoreError};
use ric_policies::Access;
use ric_runtime::{Actor, IdMap, StepMount, StepMountKind, UserNamespace};
use rustix::fs::{Mode, OFlags};

use super::changes;
use super::secrets::{SecretFile, Secrets};
use crate::blame;
use crate::failure::Failure;
use crate::task::{self, Descriptors};

/// What one step mounts, and what keeps it. Caches are the step's until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Mounted<'a> {
    pub(super) mounts: Vec<StepMount>,
    pub(super) read_only: Vec<PathBuf>,
    /// Of the mounts that have one, in their order.
    pub(super) descriptors: Descriptors,
    /// Secrets that are variables.
    pub(super) variables: Vec<(String, String)>,
    /// What is to be given to ids inside.
    owned: Vec<(PathBuf, (u32, u32))>,
    /// Caches whose owners are being set.
    new: Vec<usize>,
    caches: Vec<CacheDirectory<'a>>,
    secrets: Vec<SecretFile>,
}

impl<'a> Mounted<'a> {
    /// Takes what `run` mounts. Waits for caches that others have locked.
    pub(super) fn take(
        run: &Run,
        secrets: &Secrets,
        store: &'a Store,
        room: &BuildRoom<'_>,
        uid: u32,
    ) -> Result<Mounted<'a>, Failure> {
        let mut mounted = Mounted::default();
        for mount in &run.mounts {
            match mount {
                Mount::Tmpfs { target, bytes_max } => {
                    let (target, kind) = (target.into(), StepMountKind::Tmpfs(*bytes_max));
                    mounted.mounts.push(StepMount { target, kind });
                }
                Mount::Bind { target, is_writable, .. } => {
                    mounted.read_only.extend((!is_writable).then(|| target.into()));
                }
                Mount::Cache { .. } => mounted.cache(mount, store, uid)?,
                Mount::Secret { .. } => mounted.secret(mount, secrets, room)?,
            }
        }
        Ok(mounted)
    }

    fn cache(&mut self, mount: &Mount, store: &'a Store, user: u32) -> Result<(), Failure> {
        let Mount::Cache { id, target, sharing, mode, uid, gid, is_read_only } = mount else {
            return Ok(());
        };
        let unkept = |error: StoreError| blame::store(store.root(), &error);
        let cache = store.lease_cache(user, id, *sharing).map_err(unkept)?;
        let path = cache.path();
        let failed = |error: io::Error| {
            let what = format!("cannot open the cache `{id}`");
            Failure::new(Actor::Host, what).cause(path.display().to_string()).because(&error)
        };
        if cache.is_new().map_err(unkept)? {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).map_err(failed)?;
            self.owned.push((path.clone(), (*uid, *gid)));
            self.new.push(self.caches.len());
        }
        // Its mode may keep out whoever has given it to another.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let access = if *is_read_only { Access::ReadOnly } else { Access::ReadWrite };
        self.own(target, &path, fd, access).map_err(failed)?;
        self.caches.push(cache);
        Ok(())
    }

    fn secret(
        &mut self,
        mount: &Mount,
        secrets: &Secrets,
        room: &BuildRoom<'_>,
    ) -> Result<(), Failure> {
        let Mount::Secret { id, target, variable, mode, uid, gid, .. } = mount else {
            return Ok(());
        };
        let failed = || Failure::new(Actor::User, format!("cannot give the secret `{id}`"));
        let Some(value) = secrets.get(id) else { return Ok(()) };
        if let Some(name) = variable {
            let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
            let text = text.ok_or_else(|| {
                failed().cause(format!("it is no text, which the variable {name} could have"))
            })?;
            self.variables.push((name.clone(), text.to_owned()));
        }
        let Some(target) = target else { return Ok(()) };
        let base = room.path().file_name().unwrap_or_default().to_string_lossy();
        let name = format!("run-in-container-{base}-{}", self.secrets.len());
        let host = |error: io::Error| Failure { must_act: Actor::Host, ..failed() }.because(&error);
        let (file, fd) = SecretFile::write(&name, value, *mode).map_err(host)?;
        self.owned.push((file.path.clone(), (*uid, *gid)));
        self.own(target, &file.path, fd, Access::ReadOnly).map_err(host)?;
        self.secrets.push(file);
        Ok(())
    }

    fn own(&mut self, target: &str, path: &Path, fd: OwnedFd, access: Access) -> io::Result<()> {
        let kind = StepMountKind::Own(task::read_facts(path, &fd)?, access);
        self.mounts.push(StepMount { target: target.into(), kind });
        self.descriptors.push(fd);
        Ok(())
    }

    /// Gives what is new to those whom the step shall see it belong to.
    pub(super) fn set_owners(
        &mut self,
        map: Option<&IdMap>,
        namespace: Option<&UserNamespace>,
    ) -> Result<(), Failure> {
        for (path, ids) in std::mem::take(&mut self.owned) {
            let failed = |why: String| {
                let what = format!("cannot give a mount to uid {} and gid {}", ids.0, ids.1);
                Failure::new(Actor::User, what).cause(why)
            };
            let Some(outside) = outside(map, ids) else {
                let why = "your user namespace does not have these ids; `run-in-container doctor` \
                           tells how to get subordinate ids";
                return Err(failed(why.to_owned()));
            };
            let given = match namespace {
                // Uid 0 inside is this user, whose files these are.
                Some(_) if ids == (0, 0) => Ok(()),
                Some(namespace) => changes::own(&path, &[Owned::itself(ids)], namespace),
                None => lchown(&path, Some(outside.0), Some(outside.1)),
            };
            given.map_err(|error| failed(error.to_string()))?;
        }
        for number in std::mem::take(&mut self.new) {
            let unkept = |error: StoreError| {
                Failure::new(Actor::Host, "cannot keep a cache").because(&error)
            };
            self.caches[number].note_ready().map_err(unkept)?;
        }
        Ok(())
    }

    /// Takes the names of secrets away: the sandbox has them.
    pub(super) fn forget_names(&mut self) {
        self.secrets.clear();
    }
}

/// What ids inside are on this machine.
pub(super) fn outside(map: Option<&IdMap>, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
    let Some(map) = map else { return Some((uid, gid)) };
    let of = |lines: &[(u32, u32, u32)], id: u32| {
        let line = lines.iter().find(|(inside, _, count)| {
            id.checked_sub(*inside).is_some_and(|offset| offset < *count)
        });
        line.map(|(inside, outside, _)| outside + (id - inside))
    };
    Some((of(&map.uids, uid)?, of(&map.gids, gid)?))
}

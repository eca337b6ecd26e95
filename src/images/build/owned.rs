//! Shows a step of an ordinary user's whom the files of its image belong to.
//!
//! All of a tree that a user unpacked is that user's, who is uid 0 of a step: others of the image
//! could not write what is theirs. So what is theirs is copied, once in a build, into a tree above
//! the layer's own and given to subordinate ids there. Root's trees have the owners that they say.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ric_images::{BuildRoom, Image, Owned, Store, copy_owned};
use ric_runtime::{Actor, Identities, UserNamespace};
use rustix::fs::{Mode, OFlags};

use super::{changes, mounts};
use crate::blame;
use crate::failure::Failure;

/// The trees that were made so far. Dropping this removes them.
#[derive(Debug)]
pub(super) struct OwnedTrees<'a> {
    room: BuildRoom<'a>,
    namespace: UserNamespace,
    /// By the tree that they stand above; `None`: all of that is root's.
    made: BTreeMap<PathBuf, Option<PathBuf>>,
}

impl<'a> OwnedTrees<'a> {
    /// None yet. Nothing at all for identities without a user namespace.
    pub(super) fn new(
        store: &'a Store,
        identities: &Identities,
    ) -> Result<Option<OwnedTrees<'a>>, Failure> {
        let namespace =
            UserNamespace::start(identities).map_err(|error| blame::namespace(&error))?;
        let Some(namespace) = namespace else { return Ok(None) };
        let room = store.build_room().map_err(|error| blame::store(store.root(), &error))?;
        Ok(Some(OwnedTrees { room, namespace, made: BTreeMap::new() }))
    }

    /// `image` with what belongs to others above each of its layers.
    pub(super) fn above(
        &mut self,
        image: &Image,
        identities: &Identities,
    ) -> Result<Image, Failure> {
        let mut layers = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            layers.push(layer.clone());
            if !self.made.contains_key(layer) {
                let made = self.make(layer, identities).map_err(|error| {
                    let what = format!("cannot give the files of {} to owners", layer.display());
                    Failure::new(Actor::Host, what).because(&error)
                })?;
                self.made.insert(layer.clone(), made);
            }
            layers.extend(self.made.get(layer).cloned().flatten());
        }
        Ok(Image { layers, ..image.clone() })
    }

    fn make(&self, layer: &Path, identities: &Identities) -> io::Result<Option<PathBuf>> {
        let path = self.room.path().join(format!("owned-{}", self.made.len()));
        std::fs::create_dir(&path)?;
        let mut owned = copy_owned(open(layer)?.as_fd(), open(&path)?.as_fd())?;
        let map = identities.user_namespace.as_ref();
        owned.retain(|Owned { uid, gid, .. }| mounts::outside(map, (*uid, *gid)).is_some());
        if owned.is_empty() {
            return Ok(None);
        }
        changes::own(&path, &owned, &self.namespace)?;
        Ok(Some(path))
    }
}

impl Drop for OwnedTrees<'_> {
    fn drop(&mut self) {
        // What stays is tried again by the next build.
        let _ = changes::remove(self.room.path(), Some(&self.namespace));
    }
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}

//! Removes what no name reaches and nobody uses, and the images used least recently where a site
//! wants that.
//!
//! Names go first, then documents, then layers: whenever this is cut short, no name or manifest
//! claims what is gone. Everything is renamed into `tmp/` before anything is deleted, so that a
//! collector that dies leaves nothing but what the next one to open the store removes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use super::blobs::BLOBS;
use super::layers::LAYERS;
use super::lease::{Lock, Thing};
use super::names::{NAMES, modified};
use super::shares::next_to_go;
use super::work::Work;
use super::{Store, StoreError};
use crate::document::{DOCUMENT_BYTES_MAX, Document};
use crate::layer::disk_bytes;
use crate::{Digest, Reference, StoredError};

/// What shall be collected.
#[derive(Debug, Clone, Copy, Default)]
pub struct Collect {
    /// Most bytes that images may take on disk; the least recently used go until they fit, first
    /// those of users who take more than an equal share.
    pub max_bytes: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What was collected, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Names of images that were used least recently, and their manifests.
    pub names: Vec<(String, Digest)>,
    /// Layers, by diff ID.
    pub layers: Vec<Digest>,
    /// Manifests, indexes, configurations and packed layers.
    pub blobs: Vec<Digest>,
    /// Blobs that came in part, and that nobody has gone on with for a day.
    pub partials: u64,
    /// Layers and blobs that no name reaches, and that stay because they are in use.
    pub in_use: Vec<Digest>,
    /// Caches of builds.
    pub caches: u64,
    /// Bytes on disk that went.
    pub freed_bytes: u64,
    /// Bytes on disk that are left.
    pub left_bytes: u64,
}

/// A name, when it was used last, and what of the store it needs.
pub(super) struct Named {
    reference: String,
    manifest: Digest,
    pub(super) file: String,
    used: SystemTime,
    /// Those who are noted for it.
    pub(super) users: BTreeSet<u32>,
    pub(super) needs: BTreeSet<Thing>,
}

/// How long a blob that came in part is kept for whoever goes on with it.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Unit of `st_blocks` (stat(3type)).
const STAT_BLOCK_BYTES: u64 = 512;

pub(super) type Sizes = BTreeMap<Thing, u64>;

impl Store {
    /// Removes what no name reaches. Waits for nobody: what is in use or being made stays.
    ///
    /// A name whose image is in use stays too, however little room there is. An image whose
    /// documents are damaged reaches nothing but them: the rest would be fetched again.
    ///
    /// # Errors
    /// [`StoreError::Disk`]; what went before stays gone, and no name claims any of it.
    pub fn collect(&self, wish: Collect) -> Result<Collected, StoreError> {
        // The slow part, before anybody has to wait for a name.
        let mut sizes = Sizes::new();
        self.measure(&mut sizes)?;
        let mut collected = Collected::default();
        // Caches go first: an image is harder to have again.
        let room = match wish.max_bytes {
            Some(max) => Some(max.saturating_sub(bytes_of(self.named()?.iter(), &sizes))),
            None => None,
        };
        let caches = self.collect_caches(room, wish.dry_run, &mut collected)?;
        let work = self.work("garbage")?;
        let bin = work.make_directory()?;
        let lock = self.lock_names(FlockOperation::LockExclusive)?;
        self.measure(&mut sizes)?;
        let mut names = self.named()?;
        let evicted = match wish.max_bytes {
            Some(max_bytes) => self.evict(&mut names, &sizes, max_bytes.saturating_sub(caches))?,
            None => Vec::new(),
        };
        for Named { file, reference, manifest, .. } in evicted {
            if !wish.dry_run {
                work.move_in(&bin, NAMES, &file)?;
            }
            collected.names.push((reference, manifest));
        }
        if !wish.dry_run && !collected.names.is_empty() {
            self.sync_directory(NAMES)?;
        }
        let mut live: BTreeSet<Thing> = names.into_iter().flat_map(|named| named.needs).collect();
        self.add_blobs_in_use(&mut live, &sizes)?;
        for (thing, bytes) in sizes {
            if live.contains(&thing) {
                collected.left_bytes += bytes;
                continue;
            }
            let bin = (!wish.dry_run).then_some((&work, &bin));
            collected.note(thing, bytes, self.take(&thing, bin)?);
        }
        drop(lock);
        work.end()?;
        self.collect_partials(wish, &mut collected)?;
        if !wish.dry_run {
            self.forget_builds()?;
            self.forget_private()?;
            self.forget_uses()?;
        }
        Ok(collected)
    }

    /// Adds the blobs of layers that no name reaches and somebody uses: they stay together.
    fn add_blobs_in_use(
        &self,
        live: &mut BTreeSet<Thing>,
        sizes: &Sizes,
    ) -> Result<(), StoreError> {
        for thing in sizes.keys() {
            let Thing::Layer(diff_id) = thing else { continue };
            // A damaged record names nothing.
            if !live.contains(thing)
                && self.is_leased(thing)?
                && let Ok(record) = self.record(&diff_id.hex())
            {
                live.insert(Thing::Blob(record.blob));
            }
        }
        Ok(())
    }

    /// Removes what came of blobs that nobody went on with.
    fn collect_partials(&self, wish: Collect, collected: &mut Collected) -> Result<(), StoreError> {
        let now = SystemTime::now();
        for (name, stat) in self.partials()? {
            let disk_bytes = u64::try_from(stat.st_blocks).unwrap_or(0) * STAT_BLOCK_BYTES;
            let age = now.duration_since(modified(&stat));
            match self.try_work(&name)? {
                Some(work) if age.is_ok_and(|age| age >= PARTIAL_AGE) => {
                    collected.freed_bytes += disk_bytes;
                    collected.partials += 1;
                    if wish.dry_run { work.leave() } else { work.end()? }
                }
                Some(work) => {
                    collected.left_bytes += disk_bytes;
                    work.leave();
                }
                None => collected.left_bytes += disk_bytes,
            }
        }
        Ok(())
    }

    /// Adds the sizes of what is not in `sizes` yet, and forgets what is gone.
    fn measure(&self, sizes: &mut Sizes) -> Result<(), StoreError> {
        let mut there = Sizes::new();
        for (directory, thing) in
            [(BLOBS, Thing::Blob as fn(Digest) -> Thing), (LAYERS, Thing::Layer)]
        {
            let parent = self.open_directory(directory)?;
            for name in self.names_in(directory)? {
                // What has another name is damage, which `check` finds.
                let Ok(digest) = format!("sha256:{name}").parse() else { continue };
                let thing = thing(digest);
                let known = sizes.get(&thing).copied();
                let bytes = known.map_or_else(|| disk_bytes(&parent, &name), Ok);
                there.insert(thing, bytes.map_err(self.disk("fstatat(2)", directory))?);
            }
        }
        *sizes = there;
        Ok(())
    }

    /// All names, least recently used first.
    fn named(&self) -> Result<Vec<Named>, StoreError> {
        let mut names = Vec::new();
        let mut users = self.users()?;
        for file in self.names_in(NAMES)? {
            let Ok(Some((reference, manifest))) = self.name(&file) else { continue };
            let used = self.used(&file)?;
            let needs = self.needs(&reference, manifest)?;
            let users = users.remove(&file).unwrap_or_default();
            names.push(Named { reference, manifest, file, used, users, needs });
        }
        // An image is used under any of its names, and loses all of them together.
        let mut latest = BTreeMap::new();
        for named in &names {
            let used = latest.entry(named.manifest).or_insert(named.used);
            *used = named.used.max(*used);
        }
        names.sort_by_key(|named: &Named| {
            (latest.get(&named.manifest).copied(), named.manifest, named.file.clone())
        });
        Ok(names)
    }

    /// What a name needs: its image, and the index that it names by digest.
    fn needs(&self, reference: &str, manifest: Digest) -> Result<BTreeSet<Thing>, StoreError> {
        let mut needs = BTreeSet::from([Thing::Blob(manifest)]);
        match self.image(&manifest) {
            Ok(Some(image)) => {
                needs.insert(Thing::Blob(image.configuration));
                for layer in &image.manifest.layers {
                    needs.extend([Thing::Layer(layer.diff_id), Thing::Blob(layer.digest)]);
                }
            }
            Err(StoredError::Store { source: error @ StoreError::Disk { .. }, .. }) => {
                return Err(error);
            }
            Ok(None)
            | Err(
                StoredError::Incomplete { .. }
                | StoredError::Manifest { .. }
                | StoredError::Store { .. },
            ) => {}
        }
        if let Ok(Reference::Registry(name)) = reference.parse()
            && let Some(Ok(pinned)) = name.digest.map(|digest| digest.parse())
        {
            needs.insert(Thing::Blob(pinned));
            let index = self.read_blob(&pinned, DOCUMENT_BYTES_MAX).ok().flatten();
            let index = index.and_then(|bytes| Document::parse(&bytes, None).ok());
            if let Some(Document::Index(entries)) = index {
                needs.extend(entries.into_iter().map(|entry| Thing::Blob(entry.digest)));
            }
        }
        Ok(needs)
    }

    /// Takes names away from `names` until what the others need fits.
    fn evict(
        &self,
        names: &mut Vec<Named>,
        sizes: &Sizes,
        max_bytes: u64,
    ) -> Result<Vec<Named>, StoreError> {
        let (mut evicted, mut in_use) = (Vec::new(), BTreeSet::new());
        while bytes_of(names.iter(), sizes) > max_bytes {
            let Some(at) = next_to_go(names, &in_use, sizes, max_bytes) else { break };
            if self.any_leased(&names[at].needs)? {
                in_use.insert(names[at].file.clone());
            } else {
                evicted.push(names.remove(at));
            }
        }
        Ok(evicted)
    }

    fn any_leased(&self, things: &BTreeSet<Thing>) -> Result<bool, StoreError> {
        for thing in things {
            if self.is_leased(thing)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves something into the bin, or finds out whether that could be done: `false` if it is in
    /// use.
    fn take(&self, thing: &Thing, bin: Option<(&Work<'_>, &OwnedFd)>) -> Result<bool, StoreError> {
        let Some((work, bin)) = bin else { return Ok(!self.is_leased(thing)?) };
        let Some(_making) = self.try_work(&thing.work())? else { return Ok(false) };
        let _lease = match self.lock_thing(thing, FlockOperation::NonBlockingLockExclusive)? {
            Lock::Taken => return Ok(false),
            Lock::Held(lock) => Some(lock),
            Lock::Absent => None,
        };
        work.move_in(bin, thing.parent(), &thing.digest().hex())?;
        Ok(true)
    }
}

/// Bytes on disk that names need, all together.
pub(super) fn bytes_of<'a>(names: impl Iterator<Item = &'a Named>, sizes: &Sizes) -> u64 {
    let needed: BTreeSet<&Thing> = names.flat_map(|named| &named.needs).collect();
    needed.into_iter().filter_map(|thing| sizes.get(thing)).sum()
}

impl Collected {
    fn note(&mut self, thing: Thing, bytes: u64, went: bool) {
        if !went {
            self.left_bytes += bytes;
            self.in_use.push(*thing.digest());
            return;
        }
        self.freed_bytes += bytes;
        match thing {
            Thing::Blob(digest) => self.blobs.push(digest),
            Thing::Layer(digest) => self.layers.push(digest),
        }
    }
}

//! The verb that makes the root of a [`Manifest`] exist on disk: layers from a source into the
//! store.
//!
//! Layers that the store has are not fetched; the others are, a few at the same time. A source only
//! streams, the store checks, unpacks and publishes ([`Store::add_layer`]).

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use crate::below::Below;
use crate::fetched::Fetched;
use crate::layer::{LayerError, copy_blob};
use crate::private::{may_use, note_fetched, note_had};
use crate::resolve::directory_fingerprint;
use crate::source::{self, Source};
use crate::store::{LeasedLayer, Origin, Store, StoreError};
use crate::turns::{Turn, Turns};
use crate::{
    Access, Digest, FileSystem, Form, Identity, Image, LayerDescriptor, Lease, Manifest, MediaType,
    Reference, ReferenceError, SourceError,
};

/// Layers fetched at the same time: more does not fill a link better, and each unpacks on a core.
const LAYERS_AT_ONCE: usize = 3;

/// Layers that settle on disk while others are fetched.
const SETTLING_AT_ONCE: usize = 3;

/// Why an image could not be brought onto disk. Layers that were finished stay in the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// No store to put layers in.
    #[error("cannot fetch {reference} without a store")]
    NoStore {
        /// What was asked for.
        reference: String,
    },
    /// The manifest's reference is none, or none that layers can come from.
    #[error("cannot fetch layers from `{reference}`")]
    Reference {
        /// What the manifest says.
        reference: String,
        /// What is wrong with it, if it does not parse.
        source: Option<ReferenceError>,
    },
    /// The directory of `dir:` cannot be used any more.
    #[error("cannot use the directory of {reference}")]
    Directory {
        /// What was asked for.
        reference: String,
        /// Why.
        source: io::Error,
    },
    /// The directory of `dir:` is another than `resolve` saw.
    #[error("the directory of {reference} was changed or replaced while it was about to be used")]
    Changed {
        /// What was asked for.
        reference: String,
    },
    /// A layer could not be read from where the image is.
    #[error("cannot fetch layer {digest} of {reference}")]
    Source {
        /// What was asked for.
        reference: String,
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: Box<SourceError>,
    },
    /// The place that the image is in cannot be opened any more.
    #[error("cannot fetch the layers of {reference}")]
    Open {
        /// What was asked for.
        reference: String,
        /// Why.
        source: Box<SourceError>,
    },
    /// A layer broke off, is another than it should be, or cannot be unpacked.
    #[error("cannot unpack layer {digest} of {reference}")]
    Layer {
        /// What was asked for.
        reference: String,
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: Box<LayerError>,
    },
    /// The store cannot keep the image's layers or its name.
    #[error("cannot keep {reference} in the store")]
    Store {
        /// What was asked for.
        reference: String,
        /// Why.
        source: StoreError,
    },
}

impl PullError {
    /// A way out, where there is an obvious one.
    pub fn hint(&self) -> Option<String> {
        match self {
            PullError::Source { source, .. } | PullError::Open { source, .. } => source.hint(),
            PullError::NoStore { .. }
            | PullError::Reference { .. }
            | PullError::Directory { .. }
            | PullError::Changed { .. } => None,
            PullError::Layer { source, .. } => source.hint(),
            PullError::Store { source, .. } => source.hint(),
        }
    }
}

/// Makes the root of `manifest` exist on disk in `form` and returns it.
///
/// Idempotent, and safe from several processes as far as [`Store::add_layer`] is. Makes no request
/// if the store has all layers. On error the store may have more layers than before, each complete.
///
/// # Errors
/// As in [`PullError`].
pub fn ensure(manifest: &Manifest, form: Form, access: &Access<'_>) -> Result<Image, PullError> {
    let mut file_system = None;
    let (layers, lease) = match &manifest.identity {
        Identity::Fingerprint(fingerprint) => {
            (directory_layers(manifest, fingerprint)?, Lease::default())
        }
        Identity::Digest(digest) => {
            let reference = || manifest.reference.clone();
            let no_store = || PullError::NoStore { reference: reference() };
            let store = access.store.ok_or_else(no_store)?;
            let layers = match ensure_file_system(manifest, form, store, access)? {
                Some((found, lease)) => {
                    file_system = Some(found);
                    (Vec::new(), lease)
                }
                None => ensure_layers(manifest, store, access)?,
            };
            let error = |source| PullError::Store { reference: reference(), source };
            store.tag_used(&manifest.reference, digest, access.asker.uid).map_err(error)?;
            layers
        }
    };
    let (identity, config) = (manifest.identity.clone(), manifest.config.clone());
    Ok(Image { identity, config, layers, file_system, lease })
}

fn parse_reference(manifest: &Manifest) -> Result<Reference, PullError> {
    manifest.reference.parse().map_err(|source| PullError::Reference {
        reference: manifest.reference.clone(),
        source: Some(source),
    })
}

/// The one directory of `dir:`; none for `host:`, whose paths the runtime knows.
fn directory_layers(manifest: &Manifest, fingerprint: &str) -> Result<Vec<PathBuf>, PullError> {
    let reference = || manifest.reference.clone();
    match parse_reference(manifest)? {
        Reference::Host => Ok(Vec::new()),
        Reference::Dir(path) => {
            let error = |source| PullError::Directory { reference: reference(), source };
            if directory_fingerprint(&path).map_err(error)? != fingerprint {
                return Err(PullError::Changed { reference: reference() });
            }
            Ok(vec![path])
        }
        Reference::DockerDaemon(_)
        | Reference::DockerArchive(_)
        | Reference::OciArchive(_)
        | Reference::OciLayout { .. }
        | Reference::Squashfs(_)
        | Reference::Sif(_)
        | Reference::Registry(_)
        | Reference::Oras(_)
        | Reference::Shifter(_)
        | Reference::ShortName { .. } => {
            Err(PullError::Reference { reference: reference(), source: None })
        }
    }
}

/// The one file system that the image is, if it shall be mounted and may be; what was unpacked
/// before is used as it is.
fn ensure_file_system(
    manifest: &Manifest,
    form: Form,
    store: &Store,
    access: &Access<'_>,
) -> Result<Option<(FileSystem, Lease)>, PullError> {
    let [layer] = &manifest.layers[..] else { return Ok(None) };
    let is_wanted = form == Form::FileSystem && manifest.of_root;
    let is_there = store.layer(&layer.diff_id).is_some();
    if !is_wanted || is_there || layer.media_type != MediaType::Squashfs || !store.is_guarded() {
        return Ok(None);
    }
    let fetch = Fetch::new(manifest, parse_reference(manifest)?, store, access);
    if !store.has_blob(&layer.digest) {
        fetch.bring(layer, &|| (), |blob| store.fetch_blob(layer, blob))?;
    }
    store.file_system(layer, access.limits).map_err(|source| fetch.kept(source))
}

fn ensure_layers(
    manifest: &Manifest,
    store: &Store,
    access: &Access<'_>,
) -> Result<(Vec<PathBuf>, Lease), PullError> {
    ensure_layers_from(None, manifest, store, access)
}

/// The same, from an opened place.
pub(crate) fn ensure_layers_from(
    source: Option<Box<dyn Source>>,
    manifest: &Manifest,
    store: &Store,
    access: &Access<'_>,
) -> Result<(Vec<PathBuf>, Lease), PullError> {
    let reference = parse_reference(manifest)?;
    let kept = |source| PullError::Store { reference: manifest.reference.clone(), source };
    let mut there = HashMap::new();
    let mut missing: Vec<&LayerDescriptor> = Vec::new();
    let mut unproven: Vec<&LayerDescriptor> = Vec::new();
    for layer in &manifest.layers {
        if there.contains_key(&layer.diff_id) {
            continue;
        }
        match store.lease_layer(&layer.diff_id).map_err(kept)? {
            Some(leased) => {
                there.insert(layer.diff_id, leased);
                if !may_use(store, layer, &reference, access.asker.uid).map_err(kept)? {
                    unproven.push(layer);
                }
            }
            None if missing.iter().any(|other| other.diff_id == layer.diff_id) => {}
            None => missing.push(layer),
        }
    }
    if !missing.is_empty() || !unproven.is_empty() {
        let mut fetch = Fetch::new(manifest, reference, store, access);
        fetch.source = source.map_or_else(OnceLock::new, OnceLock::from);
        unproven.iter().try_for_each(|layer| fetch.prove(layer))?;
        there.extend(fetch.all(&missing)?);
    }
    let path = |layer: &LayerDescriptor| there[&layer.diff_id].tree.clone();
    let paths = manifest.layers.iter().map(path).collect();
    Ok((paths, Lease::of(there.into_values())))
}

/// Layers on their way into the store, by several threads.
struct Fetch<'a> {
    manifest: &'a Manifest,
    reference: Reference,
    /// Opened when the first blob is wanted that the store does not have.
    source: OnceLock<Box<dyn Source>>,
    store: &'a Store,
    access: &'a Access<'a>,
    /// To fetch a layer.
    turns: Turns,
    /// The first layer that nobody has taken yet.
    next: AtomicUsize,
    /// One layer failed: the others need not end.
    stop: AtomicBool,
}

impl<'a> Fetch<'a> {
    fn new(
        manifest: &'a Manifest,
        reference: Reference,
        store: &'a Store,
        access: &'a Access<'a>,
    ) -> Fetch<'a> {
        let (source, next, stop) = (OnceLock::new(), AtomicUsize::new(0), AtomicBool::new(false));
        let turns = Turns::new(LAYERS_AT_ONCE);
        Fetch { manifest, reference, source, store, access, turns, next, stop }
    }

    fn all(&self, layers: &[&LayerDescriptor]) -> Result<HashMap<Digest, LeasedLayer>, PullError> {
        let done = Mutex::new(Ok(HashMap::new()));
        thread::scope(|scope| {
            for _ in 0..layers.len().min(LAYERS_AT_ONCE + SETTLING_AT_ONCE) {
                scope.spawn(|| {
                    while let Some((layer, turn)) = self.take(layers) {
                        let result = self.one(layer, turn);
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        match (&mut *done, result) {
                            (Ok(done), Ok(leased)) => {
                                done.insert(layer.diff_id, leased);
                            }
                            (done @ Ok(_), Err(error)) => {
                                self.stop.store(true, Ordering::Relaxed);
                                *done = Err(error);
                            }
                            // The first error is the cause, later ones follow from stopping.
                            (Err(_), _) => {}
                        }
                    }
                });
            }
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next layer, and the right to fetch it.
    fn take<'b>(&self, layers: &[&'b LayerDescriptor]) -> Option<(&'b LayerDescriptor, Turn<'_>)> {
        let turn = self.turns.wait();
        if self.is_stopped() {
            return None;
        }
        let layer = layers.get(self.next.fetch_add(1, Ordering::Relaxed)).copied();
        layer.map(|layer| (layer, turn))
    }

    fn one(&self, layer: &LayerDescriptor, turn: Turn<'_>) -> Result<LeasedLayer, PullError> {
        let limits = self.access.limits;
        let turn = Cell::new(Some(turn));
        let ended = || drop(turn.take());
        self.bring(layer, &ended, |blob| self.store.lease_added_layer(layer, blob, limits))
    }

    /// Has `take` read the layer's blob, from wherever it is; `ended` is told when that is done.
    fn bring<T>(
        &self,
        layer: &LayerDescriptor,
        ended: &dyn Fn(),
        take: impl Fn(&mut dyn Origin) -> Result<T, LayerError>,
    ) -> Result<T, PullError> {
        if Below(self.access.below).layer(layer, 0).is_some() {
            match self.bring_from(Below(self.access.below), layer, ended, &take) {
                // What the site keeps is damaged: it comes from where the image is.
                Err(PullError::Layer { source, .. })
                    if matches!(*source, LayerError::Blob { .. }) => {}
                brought => return brought,
            }
        }
        self.bring_from(Below(&[]), layer, ended, &take)
    }

    fn bring_from<T>(
        &self,
        below: Below<'_>,
        layer: &LayerDescriptor,
        ended: &dyn Fn(),
        take: &impl Fn(&mut dyn Origin) -> Result<T, LayerError>,
    ) -> Result<T, PullError> {
        let (reference, digest) = (self.manifest.reference.clone(), layer.digest);
        let progress = self.access.progress;
        progress.started(&digest, layer.blob_bytes);
        let opened_from = Cell::new(None);
        let open = |from| {
            opened_from.set(Some(from));
            match below.layer(layer, from) {
                Some(file) => Ok(Box::new(file) as Box<dyn Read + Send + '_>),
                None => self.open(layer, from),
            }
        };
        let is_stopped = || self.is_stopped();
        let mut blob = Fetched::new(layer, progress, &open, &is_stopped, ended);
        let taken = take(&mut blob);
        match (taken, blob.into_failure()) {
            (Ok(taken), _) => {
                // What others fetched, whole or in part, is not this user's yet.
                if opened_from.get() != Some(0) {
                    self.prove(layer)?;
                }
                progress.finished(&digest);
                Ok(taken)
            }
            (Err(_), Some(error)) => Err(error),
            (Err(error), None) => {
                Err(PullError::Layer { reference, digest, source: Box::new(error) })
            }
        }
    }

    /// Opens a layer's blob; notes first whose it is, if it is not for everybody.
    fn open(
        &self,
        layer: &LayerDescriptor,
        from: u64,
    ) -> Result<Box<dyn Read + Send + '_>, PullError> {
        let source = self.source()?;
        let blob = source.layer_from(layer, from).map_err(|source| PullError::Source {
            reference: self.manifest.reference.clone(),
            digest: layer.digest,
            source: Box::new(source),
        })?;
        if source.knows_the_asker() {
            let uid = self.access.asker.uid;
            let noted = note_fetched(self.store, layer, &self.reference, uid);
            noted.map_err(|source| self.kept(source))?;
        }
        Ok(blob)
    }

    /// Makes sure that this user may use what the store has of a layer: fetches all of it, if it
    /// came to others alone.
    fn prove(&self, layer: &LayerDescriptor) -> Result<(), PullError> {
        let uid = self.access.asker.uid;
        let may_use = may_use(self.store, layer, &self.reference, uid);
        if may_use.map_err(|source| self.kept(source))? {
            return Ok(());
        }
        let mut blob = self.open(layer, 0)?;
        copy_blob(layer, &mut blob, &mut io::sink()).map_err(|source| PullError::Layer {
            reference: self.manifest.reference.clone(),
            digest: layer.digest,
            source: Box::new(source),
        })?;
        note_had(self.store, layer, uid).map_err(|source| self.kept(source))
    }

    fn kept(&self, source: StoreError) -> PullError {
        PullError::Store { reference: self.manifest.reference.clone(), source }
    }

    /// The place that the image is in. Threads that ask at the same time may open it twice.
    fn source(&self) -> Result<&dyn Source, PullError> {
        if let Some(source) = self.source.get() {
            return Ok(source.as_ref());
        }
        let text = || self.manifest.reference.clone();
        let opened = source::open(&self.reference, self.access.network());
        let error = |source| PullError::Open { reference: text(), source: Box::new(source) };
        let opened = opened.map_err(error)?;
        let opened = opened.ok_or(PullError::Reference { reference: text(), source: None })?;
        Ok(self.source.get_or_init(|| opened).as_ref())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

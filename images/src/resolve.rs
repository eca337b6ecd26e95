//! The verb that turns a [`Reference`] into a [`Manifest`]: small documents only, no layers.
//!
//! Follows indexes to the image for this machine, reads its configuration, and checks that all of
//! it fits together. What was read is put into the store by digest, so that a reference with a
//! digest needs no network the next time; a tag is asked for anew each time, because it may have
//! moved.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::below::Below;
use crate::document::{
    DOCUMENT_BYTES_MAX, Descriptor, Document, ManifestError, PLAIN_LAYER, Platform, manifest_of_sif,
};
use crate::image_config::{ImageConfig, assemble};
use crate::private::{may_read, note_documents};
use crate::source::{self, Asked, NoSif, SifManifest, Source, Top};
use crate::store::{Store, StoreError};
use crate::{
    Access, Config, Digest, Identity, LayerDescriptor, LayerError, Manifest, Reference,
    RegistryName, SourceError,
};

/// Indexes that are followed one after the other (an index of indexes is allowed, but not made by
/// any tool; deeper ones are made to cost requests).
const INDEX_DEPTH_MAX: usize = 2;

/// Why a reference has no manifest that can be used here. No layer was fetched.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A short name reached the network. The site's policy says what short names mean.
    #[error("`{name}` names no registry")]
    ShortName {
        /// The reference.
        name: String,
    },
    /// The directory of `dir:` cannot be used.
    #[error("cannot use the directory {}", path.display())]
    Directory {
        /// What was named.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image could not be read from where it is.
    #[error("cannot find the image {reference}")]
    Source {
        /// What was asked for.
        reference: String,
        /// Why.
        source: Box<SourceError>,
    },
    /// One of the image's documents is wrong. Its maker must act.
    #[error("the image {reference} cannot be used")]
    Manifest {
        /// What was asked for.
        reference: String,
        /// How.
        source: ManifestError,
    },
    /// The image is for other machines. The user must name another.
    #[error("the image {reference} is for {offered}, this machine runs {wanted}")]
    Platform {
        /// What was asked for.
        reference: String,
        /// What the image is for.
        offered: String,
        /// What this machine is.
        wanted: String,
    },
    /// What has to be read to know what the image is broke off, or is another than it should be.
    #[error("cannot fetch the image {reference}")]
    Blob {
        /// What was asked for.
        reference: String,
        /// Why.
        source: Box<LayerError>,
    },
    /// The store cannot keep the documents.
    #[error("cannot keep the manifest of {reference}")]
    Store {
        /// What was asked for.
        reference: String,
        /// Why.
        source: StoreError,
    },
}

impl ResolveError {
    /// A way out, where there is an obvious one.
    pub fn hint(&self) -> Option<String> {
        match self {
            ResolveError::ShortName { name } => Some(format!("write docker://HOST/{name}")),
            ResolveError::Source { source, .. } => source.hint(),
            ResolveError::Manifest { source, .. } => source.hint().map(str::to_owned),
            ResolveError::Directory { .. }
            | ResolveError::Blob { .. }
            | ResolveError::Platform { .. }
            | ResolveError::Store { .. } => None,
        }
    }
}

/// Finds out what `reference` is, now.
///
/// Reads small documents from disk or network; keeps them in the store, if there is one. A
/// reference with a digest whose documents are kept makes no request.
///
/// # Errors
/// As in [`ResolveError`].
pub fn resolve(reference: &Reference, access: &Access<'_>) -> Result<Manifest, ResolveError> {
    match reference {
        Reference::Host => {
            Ok(without_layers(reference, Identity::Fingerprint(access.host_fingerprint.to_owned())))
        }
        Reference::Dir(path) => {
            let error = |source| ResolveError::Directory { path: path.clone(), source };
            let fingerprint = directory_fingerprint(path).map_err(error)?;
            Ok(without_layers(reference, Identity::Fingerprint(fingerprint)))
        }
        Reference::ShortName { .. } => Err(ResolveError::ShortName { name: reference.to_string() }),
        Reference::DockerArchive(_)
        | Reference::OciArchive(_)
        | Reference::OciLayout { .. }
        | Reference::Squashfs(_)
        | Reference::Sif(_)
        | Reference::Shifter(_) => resolve_image(reference, access),
        Reference::DockerDaemon(name) => resolve_in_docker(reference, name, access),
        Reference::Oras(name) => resolve_sif(reference, name, access),
        Reference::Registry(name) => resolve_in_registry(reference, name, access),
    }
}

/// Looks first into the store and what the site keeps below it, where that is enough to know and
/// this user may use what is there.
fn resolve_in_registry(
    reference: &Reference,
    name: &RegistryName,
    access: &Access<'_>,
) -> Result<Manifest, ResolveError> {
    let (text, below) = (reference.to_string(), Below(access.below));
    let tagged = || match access.store {
        Some(store) => store.tagged(&text).map_err(unread(reference)),
        None => Ok(None),
    };
    let known = match pinned(name) {
        Some(digest) => Some(digest),
        None if is_local(name) => tagged()?,
        None if access.registries.offline => tagged()?.or_else(|| below.named(&text)),
        None => None,
    };
    let Some(digest) = known else { return resolve_image(reference, access) };
    let is_theirs = match access.store {
        Some(store) => may_read(store, &digest, access.asker.uid).map_err(unread(reference))?,
        None => false,
    };
    let store = access.store.filter(|_| is_theirs);
    // What the site keeps is for everybody.
    match (read_image(reference, &Kept { store, below, digest }), access.store) {
        (Err(ResolveError::Source { .. }), _) => resolve_image(reference, access),
        (kept, Some(store)) => keep(reference, kept?, store),
        (kept, None) => Ok(kept?.manifest),
    }
}

/// Whether the store itself is asked first, wherever registries may be: what was built here is
/// called so.
fn is_local(name: &RegistryName) -> bool {
    name.host == "localhost"
}

fn unread(reference: &Reference) -> impl FnOnce(StoreError) -> ResolveError {
    let reference = reference.to_string();
    move |source| ResolveError::Store { reference, source }
}

fn without_layers(reference: &Reference, identity: Identity) -> Manifest {
    let config = Config::default();
    let (reference, layers) = (reference.to_string(), Vec::new());
    Manifest { identity, reference, config, layers, of_root: false }
}

/// Device, inode and time of last change of the directory itself: another directory in its place is
/// seen, a change deep inside is not, which is why this is no digest.
pub(crate) fn directory_fingerprint(path: &Path) -> io::Result<String> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let (device, inode) = (metadata.dev(), metadata.ino());
    Ok(format!("dir:{device}:{inode}:{}.{:09}", metadata.ctime(), metadata.ctime_nsec()))
}

fn pinned(name: &RegistryName) -> Option<Digest> {
    name.digest.as_deref().and_then(|digest| digest.parse().ok())
}

fn resolve_image(reference: &Reference, access: &Access<'_>) -> Result<Manifest, ResolveError> {
    let error =
        |error| ResolveError::Source { reference: reference.to_string(), source: Box::new(error) };
    let source = source::open(reference, access.network()).map_err(error)?;
    let source = source.expect("references without blobs were handled by the caller");
    if let Some(store) = access.store {
        source.look_at(store).map_err(error)?;
    }
    let mut image = read_image(reference, source.as_ref())?;
    image.manifest.of_root = source.is_of_root();
    keep_given(reference, image, source.as_ref(), access)
}

/// Keeps what a registry has given, and notes to whom, if it is not for everybody.
fn keep_given(
    reference: &Reference,
    image: ReadImage,
    source: &dyn Source,
    access: &Access<'_>,
) -> Result<Manifest, ResolveError> {
    let Some(store) = access.store else { return Ok(image.manifest) };
    let documents = image.documents.iter().map(|(digest, _)| digest);
    let is_known = source.knows_the_asker();
    note_documents(store, documents, reference, is_known, access.asker.uid)
        .map_err(unread(reference))?;
    keep(reference, image, store)
}

/// Asks the daemon what it has under `name`; what the store knows is not written out anew.
fn resolve_in_docker(
    reference: &Reference,
    name: &str,
    access: &Access<'_>,
) -> Result<Manifest, ResolveError> {
    let error =
        |error| ResolveError::Source { reference: reference.to_string(), source: Box::new(error) };
    let asked = Asked::ask(name, access.network()).map_err(error)?;
    let Some(store) = access.store else {
        let written = asked.write().map_err(error)?;
        return Ok(read_image(reference, &written)?.manifest);
    };
    if let Some(digest) = kept_as_written(store, &asked.id)
        && let Ok(kept) = read_image(reference, &Kept::own(store, digest))
    {
        return keep(reference, kept, store);
    }
    let written = asked.write().map_err(error)?;
    keep(reference, read_image(reference, &written)?, store)
}

/// The manifest that was made of a `docker save` file with the configuration `id`. One of a
/// registry with the same configuration has other blobs, and another digest.
fn kept_as_written(store: &Store, id: &Digest) -> Option<Digest> {
    find_kept(store, |bytes| {
        matches!(Document::parse(bytes, None), Ok(Document::Image { config, layers })
            if config.digest == *id && layers.iter().all(|layer| layer.media_type == PLAIN_LAYER))
    })
}

/// The first manifest of an image of the store that `is_it`.
fn find_kept(store: &Store, is_it: impl Fn(&[u8]) -> bool) -> Option<Digest> {
    store.tags().ok()?.into_iter().map(|(_, digest)| digest).find(|digest| {
        let bytes = store.read_blob(digest, DOCUMENT_BYTES_MAX).ok().flatten();
        bytes.is_some_and(|bytes| is_it(&bytes))
    })
}

/// Asks the registry what it has under `name`; a SIF that the store knows is not fetched again.
fn resolve_sif(
    reference: &Reference,
    name: &RegistryName,
    access: &Access<'_>,
) -> Result<Manifest, ResolveError> {
    let text = || reference.to_string();
    let error = |no_sif| match no_sif {
        NoSif::Source(error) => ResolveError::Source { reference: text(), source: Box::new(error) },
        NoSif::Manifest(source) => ResolveError::Manifest { reference: text(), source },
        NoSif::Blob(error) => ResolveError::Blob { reference: text(), source: Box::new(error) },
    };
    let kept = |manifest: Digest| {
        let store = access.store?;
        let digest = find_kept(store, |made| manifest_of_sif(made) == Some(manifest))?;
        Some((read_image(reference, &Kept::own(store, digest)).ok()?, store))
    };
    if let Some((image, store)) = pinned(name).and_then(kept)
        && may_read_all(store, &image, access).map_err(unread(reference))?
    {
        return keep(reference, image, store);
    }
    let tagged = offline_tag(reference, access)?;
    if let Some((image, store)) = tagged.and_then(|digest| {
        let store = access.store?;
        Some((read_image(reference, &Kept::own(store, digest)).ok()?, store))
    }) {
        return keep(reference, image, store);
    }
    let sif = SifManifest::ask(name, access.network()).map_err(error)?;
    if let Some((image, _)) = kept(sif.digest) {
        return keep_given(reference, image, sif.source(), access);
    }
    let sif = sif.fetch(reference, access).map_err(error)?;
    keep_given(reference, read_image(reference, &sif)?, &sif, access)
}

/// Whether this user may use all documents of an image of the store without asking anybody.
fn may_read_all(store: &Store, image: &ReadImage, access: &Access<'_>) -> Result<bool, StoreError> {
    for (digest, _) in &image.documents {
        if !may_read(store, digest, access.asker.uid)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a tag meant when it was looked up last, where nobody can be asked and the user may use it.
fn offline_tag(reference: &Reference, access: &Access<'_>) -> Result<Option<Digest>, ResolveError> {
    let Some(store) = access.store.filter(|_| access.registries.offline) else { return Ok(None) };
    let digest = store.tagged(&reference.to_string()).map_err(unread(reference))?;
    let Some(digest) = digest else { return Ok(None) };
    let may_read = may_read(store, &digest, access.asker.uid).map_err(unread(reference))?;
    Ok(may_read.then_some(digest))
}

fn keep(reference: &Reference, image: ReadImage, store: &Store) -> Result<Manifest, ResolveError> {
    for (digest, bytes) in &image.documents {
        store
            .keep_document(digest, bytes)
            .map_err(|source| ResolveError::Store { reference: reference.to_string(), source })?;
    }
    Ok(image.manifest)
}

/// Reads the image that `source` holds, and keeps its documents under the name `reference`.
pub(crate) fn take_documents(
    reference: &Reference,
    source: &dyn Source,
    store: &Store,
) -> Result<Manifest, ResolveError> {
    keep(reference, read_image(reference, source)?, store)
}

/// A manifest and the documents it was made of.
struct ReadImage {
    manifest: Manifest,
    documents: Vec<(Digest, Vec<u8>)>,
}

/// The manifest and the configuration of an image that was resolved before, byte for byte, from
/// where it is.
///
/// # Errors
/// As [`resolve`]; [`SourceError::Missing`] if another image is there now.
pub(crate) fn read_again(
    manifest: &Manifest,
    reference: &Reference,
    source: &dyn Source,
) -> Result<[Vec<u8>; 2], ResolveError> {
    let mut image = read_image(reference, source)?;
    let reference = reference.to_string();
    let missing = || SourceError::Missing {
        path: PathBuf::from(&reference),
        entry: manifest.identity.to_string(),
    };
    match (image.documents.pop(), image.documents.pop()) {
        (Some((_, config)), Some((_, bytes))) if image.manifest.identity == manifest.identity => {
            Ok([bytes, config])
        }
        _ => {
            let source = Box::new(missing());
            Err(ResolveError::Source { reference, source })
        }
    }
}

fn read_image(reference: &Reference, source: &dyn Source) -> Result<ReadImage, ResolveError> {
    let text = || reference.to_string();
    let wrong = |source| ResolveError::Manifest { reference: text(), source };
    let no_source = |error| ResolveError::Source { reference: text(), source: Box::new(error) };
    let mut documents = Vec::new();

    let mut top = source.top().map_err(no_source)?;
    let (document, config) = loop {
        let document = Document::parse(&top.bytes, top.media_type.as_deref()).map_err(wrong)?;
        let next = match &document {
            Document::Image { config, .. } => {
                let config = config.clone();
                break (document, config);
            }
            Document::Index(_) if documents.len() == INDEX_DEPTH_MAX => {
                return Err(wrong(ManifestError::TooDeep { depth_max: INDEX_DEPTH_MAX }));
            }
            Document::Index(manifests) => choose(reference, manifests)?.clone(),
        };
        let bytes = source.document(&next).map_err(no_source)?;
        let next = Top { bytes, digest: next.digest, media_type: Some(next.media_type) };
        let index = std::mem::replace(&mut top, next);
        documents.push((index.digest, index.bytes));
    };

    let digest = config.digest;
    let bytes = source.config(&config).map_err(no_source)?;
    let config = ImageConfig::parse(&bytes).map_err(wrong)?;
    let here = Platform::here();
    if let Some(platform) = config.platform().filter(|platform| *platform != here) {
        return Err(other_platform(reference, platform.to_string()));
    }
    let identity = Identity::Digest(top.digest);
    let manifest = assemble(text(), identity, &document, config).map_err(wrong)?;
    documents.extend([(top.digest, top.bytes), (digest, bytes)]);
    Ok(ReadImage { manifest, documents })
}

/// The image for this machine, or the only one if the index does not say what it is for.
fn choose<'a>(
    reference: &Reference,
    manifests: &'a [Descriptor],
) -> Result<&'a Descriptor, ResolveError> {
    let here = Some(Platform::here());
    if let Some(fitting) = manifests.iter().find(|manifest| manifest.platform == here) {
        return Ok(fitting);
    }
    if let [Descriptor { platform: None, .. }] = manifests {
        return Ok(&manifests[0]);
    }
    // Docker gives attestations the platform `unknown/unknown`.
    let platforms = manifests.iter().filter_map(|manifest| manifest.platform.as_ref());
    let mut offered: Vec<_> =
        platforms.filter(|p| p.os != "unknown").map(|p| p.to_string()).collect();
    offered.dedup();
    offered.truncate(PLATFORMS_SHOWN_MAX);
    let offered = if offered.is_empty() { "no platform".to_owned() } else { offered.join(", ") };
    Err(other_platform(reference, offered))
}

/// Platforms that a message lists: official images have about ten.
const PLATFORMS_SHOWN_MAX: usize = 16;

fn other_platform(reference: &Reference, offered: String) -> ResolveError {
    let (reference, wanted) = (reference.to_string(), Platform::here().to_string());
    ResolveError::Platform { reference, offered, wanted }
}

/// The store as a source of documents that were fetched before.
///
/// A blob that is not there or is damaged is `Missing`, which lets the caller fetch it anew.
struct Kept<'a> {
    /// None if what it has is not for this user.
    store: Option<&'a Store>,
    below: Below<'a>,
    digest: Digest,
}

impl<'a> Kept<'a> {
    /// What the store itself has.
    fn own(store: &'a Store, digest: Digest) -> Kept<'a> {
        Kept { store: Some(store), below: Below(&[]), digest }
    }

    fn read(&self, digest: Digest) -> Result<Vec<u8>, SourceError> {
        let own = |store: &Store| store.read_blob(&digest, DOCUMENT_BYTES_MAX).ok().flatten();
        let kept = self.store.and_then(own).or_else(|| self.below.document(&digest));
        let missing = || SourceError::Missing { path: "store".into(), entry: digest.to_string() };
        kept.ok_or_else(missing)
    }
}

impl Source for Kept<'_> {
    fn top(&self) -> Result<Top, SourceError> {
        Ok(Top { bytes: self.read(self.digest)?, digest: self.digest, media_type: None })
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.read(descriptor.digest)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.read(descriptor.digest)
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        // Layers are kept unpacked; `ensure` looks for those first.
        Err(SourceError::Missing { path: "store".into(), entry: layer.digest.to_string() })
    }
}

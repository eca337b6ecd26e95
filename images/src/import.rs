//! Takes images out of an OCI archive into the store, under the names that it gives them.

use std::path::{Path, PathBuf};

use crate::pull::ensure_layers_from;
use crate::resolve::take_documents;
use crate::source::{list_archive, open_archived};
use crate::{
    Access, Digest, Identity, Lease, PullError, Reference, ResolveError, SourceError, StoreError,
};

/// An image that is in the store now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// What it is called.
    pub reference: String,
    /// Its manifest.
    pub digest: Digest,
}

/// Why images were not imported. No name was given; layers that were finished stay.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read, or is no OCI archive.
    #[error("cannot import {}", path.display())]
    Archive {
        /// What was named.
        path: PathBuf,
        /// Why not.
        source: Box<SourceError>,
    },
    /// It does not say what an image is called. The user does.
    #[error("{} does not say what its image {digest} is called", path.display())]
    Unnamed {
        /// The archive.
        path: PathBuf,
        /// The image.
        digest: Digest,
    },
    /// One name was given for several images.
    #[error("{} has {images} images, which cannot have one name", path.display())]
    Several {
        /// The archive.
        path: PathBuf,
        /// How many.
        images: usize,
    },
    /// What is described is no image for this machine, or not what its digest says.
    #[error("cannot import {reference}")]
    Image {
        /// What it is called.
        reference: String,
        /// Why not.
        source: Box<ResolveError>,
    },
    /// A layer is damaged, or cannot be unpacked.
    #[error("cannot import {reference}")]
    Layers {
        /// What it is called.
        reference: String,
        /// Why not.
        source: Box<PullError>,
    },
    /// The store cannot keep a name.
    #[error("cannot keep {reference} in the store")]
    Store {
        /// What it is called.
        reference: String,
        /// Why not.
        source: StoreError,
    },
}

impl ImportError {
    /// A way out, where there is an obvious one.
    pub fn hint(&self) -> Option<String> {
        match self {
            ImportError::Archive { source, .. } => source.hint(),
            ImportError::Unnamed { .. } => Some("`--name NAME` gives it one".to_owned()),
            ImportError::Several { .. } => Some("import it without `--name`".to_owned()),
            ImportError::Image { source, .. } => source.hint(),
            ImportError::Layers { source, .. } => source.hint(),
            ImportError::Store { .. } => None,
        }
    }
}

/// Whether an image by digest can have this name.
fn can_be_called(reference: &Reference) -> bool {
    let names_a_place = matches!(reference, Reference::Host | Reference::Dir(_));
    !names_a_place && !matches!(reference, Reference::ShortName { .. })
}

/// Brings all images of the archive `path` into the store; the only one under `name`, if that is
/// given. All of every image is verified before any name is given.
///
/// # Errors
/// As in [`ImportError`].
///
/// # Panics
/// If `access` has no store.
pub fn import(
    path: &Path,
    name: Option<&Reference>,
    access: &Access<'_>,
) -> Result<Vec<Imported>, ImportError> {
    let store = access.store.expect("whoever imports has a store");
    let archive = |source| ImportError::Archive { path: path.to_owned(), source: Box::new(source) };
    let images = list_archive(path).map_err(archive)?;
    if name.is_some() && images.len() > 1 {
        return Err(ImportError::Several { path: path.to_owned(), images: images.len() });
    }
    let mut brought: Vec<(Imported, Lease)> = Vec::new();
    for image in images {
        let parse = |text: &String| text.parse().ok().filter(can_be_called);
        let reference = name.cloned().or_else(|| image.names.iter().find_map(parse));
        let unnamed = || ImportError::Unnamed { path: path.to_owned(), digest: image.digest };
        let reference = reference.ok_or_else(unnamed)?;
        let called = || reference.to_string();
        let source = open_archived(path, &image).map_err(archive)?;
        let manifest = take_documents(&reference, source.as_ref(), store).map_err(|source| {
            ImportError::Image { reference: called(), source: Box::new(source) }
        })?;
        let Identity::Digest(digest) = manifest.identity else { continue };
        let layers = ensure_layers_from(Some(source), &manifest, store, access);
        let (_, lease) = layers.map_err(|source| ImportError::Layers {
            reference: called(),
            source: Box::new(source),
        })?;
        brought.push((Imported { reference: called(), digest }, lease));
    }
    for (Imported { reference, digest }, _lease) in &brought {
        let unkept = |source| ImportError::Store { reference: reference.clone(), source };
        store.tag_used(reference, digest, access.asker.uid).map_err(unkept)?;
    }
    Ok(brought.into_iter().map(|(imported, _)| imported).collect())
}

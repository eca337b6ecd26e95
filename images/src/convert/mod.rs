//! Writes an image in another format.
//!
//! All sources become one tree, all formats are made of that tree: n + m converters. In reading
//! order:
//!
//! - `target` is where an image goes, `place` how it gets there: whole or not at all;
//! - `flatten` makes one `tree` of all layers, and one file of all contents;
//! - `squashfs` writes a file system of them, and `sif` the same with what Apptainer wants to know.
//!
//! Nothing is unpacked to disk as a tree and nothing mounted, so that owners, modes, attributes and
//! times are the same whoever converts; `docs/decisions/conversion.md` says what follows from that.

mod error;
mod flatten;
mod place;
mod sif;
mod squashfs;
mod target;
mod tree;

use std::fs::File;
use std::io::{self, Read};

pub use error::ConvertError;
pub use place::Existing;
pub use squashfs::Compression;
pub use target::{Target, TargetError};

use crate::layer::{Place as Spool, read_layer};
use crate::shown::shown;
use crate::source::Source;
use crate::{Access, Digest, Identity, LayerDescriptor, Manifest, Progress, Reference, source};
use flatten::{Dropped, Flattened};
use place::Place;
use squashfs::Unwritten;

/// How an image is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConvertOptions {
    /// Of the file system, where the target is one.
    pub compression: Compression,
    /// What becomes of something that stands at the target.
    pub existing: Existing,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Bytes of the target.
    pub bytes: u64,
    /// What the image has and the target does not.
    pub left_out: LeftOut,
}

/// What an image has that a target cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// Device nodes without a number.
    pub devices: u64,
    /// Extended attributes: access control lists, labels, marks of overlayfs.
    pub xattrs: u64,
    /// Times of change that lost fractions of a second, or were brought into the target's range.
    pub times_changed: u64,
    /// What the image declares, by its name in an OCI configuration (`Env`); a single variable as
    /// `Env NAME`.
    pub settings: Vec<String>,
}

/// Writes the image of `manifest` to `target`.
///
/// Reads its layers from where it is, and verifies them. The target is written under another name
/// and synced before it gets its own; on error what was there before is still there. Needs room for
/// the unpacked image beside the target while it works.
///
/// # Errors
/// As in [`ConvertError`].
pub fn convert(
    manifest: &Manifest,
    target: &Target,
    options: ConvertOptions,
    access: &Access<'_>,
) -> Result<Converted, ConvertError> {
    let place = Place::prepare(target.path(), options.existing)?;
    let flattened = flatten(manifest, &place, access)?;
    let conversion = Conversion { manifest, target, options, access };
    match target {
        Target::Squashfs(_) => conversion.write_squashfs(flattened, place),
        Target::Sif(_) => conversion.write_sif(flattened, place),
    }
}

/// Reads all layers, lowest first.
fn flatten(
    manifest: &Manifest,
    place: &Place,
    access: &Access<'_>,
) -> Result<Flattened, ConvertError> {
    let text = || manifest.reference.clone();
    let no_source = |error| ConvertError::Source { reference: text(), source: Box::new(error) };
    let reference: Reference = manifest
        .reference
        .parse()
        .map_err(|source| ConvertError::Reference { reference: text(), source })?;
    let source = source::open(&reference, access.network()).map_err(no_source)?;
    let source = source.ok_or_else(|| ConvertError::NoLayers { reference: text() })?;
    let mut flattened = Flattened::new(place.scratch_file()?);
    for layer in &manifest.layers {
        let (digest, progress) = (layer.digest, access.progress);
        let blob = open_layer(layer, source.as_ref(), access, &text)?;
        progress.started(&digest, layer.blob_bytes);
        let mut watched = Watched { blob, digest, progress };
        let scratch = Spool::Within(place.work());
        let add = |bytes| flattened.add_layer(bytes, access.limits);
        read_layer(layer, &mut watched, access.limits, scratch, add).map_err(|error| {
            ConvertError::Layer { reference: text(), digest, source: Box::new(error) }
        })?;
        progress.finished(&digest);
    }
    Ok(flattened)
}

/// Opens a layer as it came: the store's own copy, if there is one, else that of the source.
fn open_layer<'a>(
    layer: &LayerDescriptor,
    source: &'a dyn Source,
    access: &Access<'_>,
    text: &dyn Fn() -> String,
) -> Result<Box<dyn Read + Send + 'a>, ConvertError> {
    if let Some(store) = access.store {
        let kept = store.open_blob(&layer.digest, layer.blob_bytes);
        let kept = kept.map_err(|source| ConvertError::Store { reference: text(), source })?;
        if let Some(kept) = kept {
            return Ok(Box::new(kept));
        }
    }
    let error = |error| ConvertError::Source { reference: text(), source: Box::new(error) };
    source.layer(layer).map_err(error)
}

/// Tells how much of a layer was read.
struct Watched<'a> {
    blob: Box<dyn Read + Send + 'a>,
    digest: Digest,
    progress: &'a dyn Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.read(buffer)?;
        self.progress.advanced(&self.digest, count as u64);
        Ok(count)
    }
}

/// An image on its way to a target.
struct Conversion<'a> {
    manifest: &'a Manifest,
    target: &'a Target,
    options: ConvertOptions,
    access: &'a Access<'a>,
}

impl Conversion<'_> {
    fn write_squashfs(
        &self,
        flattened: Flattened,
        place: Place,
    ) -> Result<Converted, ConvertError> {
        let file = place.make_file(0o666)?;
        let (written, mut left_out) = self.file_system(flattened, &file, 0)?;
        place.publish_file(&file)?;
        left_out.settings = texts(self.manifest.config.declared());
        Ok(Converted { bytes: written, left_out })
    }

    fn write_sif(&self, mut flattened: Flattened, place: Place) -> Result<Converted, ConvertError> {
        let documents =
            sif::prepare(&mut flattened, self.manifest).map_err(self.disk("write(2)"))?;
        let sif = sif::Sif::new(&documents, self.manifest.config.architecture.as_deref());
        // A SIF is a program too.
        let file = place.make_file(0o777)?;
        let (root_bytes, mut left_out) = self.file_system(flattened, &file, sif.root_at())?;
        sif.write(&file, root_bytes).map_err(|why| self.unwritten(why))?;
        place.publish_file(&file)?;
        left_out.settings =
            documents.unnamed.iter().map(|name| format!("Env {}", shown(name))).collect();
        Ok(Converted { bytes: sif.root_at() + root_bytes, left_out })
    }

    /// Writes a file system to `file` from byte `base` on, tells how that gets on, and how many
    /// bytes it has.
    fn file_system(
        &self,
        flattened: Flattened,
        file: &File,
        base: u64,
    ) -> Result<(u64, LeftOut), ConvertError> {
        let (tree, dropped, content) = flattened.finish().map_err(self.disk("write(2)"))?;
        let digest = match &self.manifest.identity {
            Identity::Digest(digest) => *digest,
            Identity::Fingerprint(text) => Digest::of(text.as_bytes()),
        };
        let metadata = content.metadata().map_err(self.disk("fstat(2)"))?;
        let progress = self.access.progress;
        progress.started(&digest, metadata.len());
        let advanced = |bytes| progress.advanced(&digest, bytes);
        let compression = self.options.compression;
        let written = squashfs::write(&tree, &content, file, base, compression, &advanced)
            .map_err(|why| self.unwritten(why))?;
        progress.finished(&digest);
        let (Dropped { devices, xattrs }, settings) = (dropped, Vec::new());
        let times_changed = written.times_changed;
        Ok((written.bytes, LeftOut { devices, xattrs, times_changed, settings }))
    }

    /// Names the call that failed on the target.
    fn disk(&self, call: &'static str) -> impl FnOnce(io::Error) -> ConvertError {
        let path = self.target.path().to_owned();
        move |source| ConvertError::Disk { call, path, source }
    }

    fn unwritten(&self, why: Unwritten) -> ConvertError {
        match why {
            Unwritten::Disk { call, source } => self.disk(call)(source),
            Unwritten::Unholdable(what) => {
                ConvertError::Unholdable { target: self.target.to_string(), what }
            }
        }
    }
}

fn texts(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

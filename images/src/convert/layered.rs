//! An image as it travels: two documents and its layers, packed as they are.
//!
//! Layers that are tars go on as they came, packed, by the same digests; so does an OCI manifest.
//! A squashfs, which only this program takes for a layer, becomes a plain tar first, and then the
//! documents are made anew; and so they are for a directory.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use rustix::io::Errno;

use super::ConvertError;
use super::origin::{Hashing, Layer, Origin, config_of};
use super::place::Place;
use super::sink::Sink;
use crate::document::{OCI_CONFIG, Platform};
use crate::layer::Fault;
use crate::manifest::write_manifest;
use crate::{Config, Digest, LayerDescriptor, MediaType, write_config};

/// See the module.
pub(super) struct Layered<'a> {
    origin: &'a Origin<'a>,
    place: &'a Place,
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) layers: Vec<Layer>,
}

impl<'a> Layered<'a> {
    /// Brings the image into this form. Nothing is read of layers that may go on as they are.
    pub(super) fn of(
        origin: &'a Origin<'a>,
        place: &'a Place,
    ) -> Result<Layered<'a>, ConvertError> {
        let layers =
            origin.layers(place)?.into_iter().map(|layer| match layer.descriptor.media_type {
                MediaType::Tar | MediaType::TarGzip | MediaType::TarZstd => Ok(layer),
                MediaType::Squashfs | MediaType::Sif => unpack(origin, &layer, place),
            });
        let layers: Vec<Layer> = layers.collect::<Result<_, _>>()?;
        let descriptors: Vec<_> = layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let (manifest, config) = if layers.iter().any(|layer| layer.made.is_some()) {
            let config = made_config(&origin.manifest.config, &descriptors);
            (write_manifest(&config, &descriptors), config)
        } else {
            let documents = origin.documents()?;
            let config = config_of(&documents.manifest);
            let manifest = match config.is_some_and(|config| config.media_type == OCI_CONFIG) {
                true => documents.manifest,
                // Docker's manifest, which has no place in an OCI layout.
                false => write_manifest(&documents.config, &descriptors),
            };
            (manifest, documents.config)
        };
        Ok(Layered { origin, place, manifest, config, layers })
    }

    /// Puts a layer's blob into `sink`, as it is, and verifies it.
    pub(super) fn put_blob(
        &self,
        layer: &Layer,
        name: &str,
        sink: &mut dyn Sink,
    ) -> Result<(), ConvertError> {
        let LayerDescriptor { digest, blob_bytes, .. } = layer.descriptor;
        let blob = self.origin.open_verified(layer)?;
        let mut noticed = Noticing { inner: blob, has_failed: false };
        let put = sink.put(name, blob_bytes, &mut noticed);
        put.map_err(|source| match noticed.has_failed {
            false => self.place.unwritten("write(2)")(source),
            true => ConvertError::Blob { reference: self.origin.reference(), digest, source },
        })
    }

    /// Puts a layer's tar into `sink`, unpacked, and verifies it.
    pub(super) fn put_tar(
        &self,
        layer: &Layer,
        name: &str,
        sink: &mut dyn Sink,
    ) -> Result<(), ConvertError> {
        if layer.made.is_some() || layer.descriptor.media_type == MediaType::Tar {
            return self.put_blob(layer, name, sink);
        }
        // The size stands before the content.
        let made = unpack(self.origin, layer, self.place)?;
        self.put_blob(&made, name, sink)
    }

    pub(super) fn put_document(
        &self,
        name: &str,
        bytes: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), ConvertError> {
        let put = sink.put(name, bytes.len() as u64, &mut &*bytes);
        put.map_err(self.place.unwritten("write(2)"))
    }
}

/// Makes a plain tar of a layer, in a file without a name.
fn unpack(origin: &Origin<'_>, layer: &Layer, place: &Place) -> Result<Layer, ConvertError> {
    let mut tar = Hashing::new(place.scratch_file()?);
    let tar = origin.read_layer(layer, place, |mut bytes| {
        bytes.pieces(|piece| {
            tar.write_all(piece).map_err(|error| Fault::Disk {
                call: "write(2)",
                path: b"tar".to_vec(),
                errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
            })
        })?;
        Ok(tar)
    })?;
    tar.finish().map_err(place.unwritten("write(2)"))
}

/// The configuration of an image that was not made of tars. Where it is not said what it runs on,
/// that is this machine: others do not read it without.
fn made_config(config: &Config, layers: &[LayerDescriptor]) -> Vec<u8> {
    let mut config = Cow::Borrowed(config);
    if config.os.is_none() || config.architecture.is_none() {
        let Platform { os, architecture } = Platform::here();
        let config = config.to_mut();
        (config.os, config.architecture) = (Some(os), Some(architecture));
    }
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    write_config(&config, &diff_ids, &[])
}

/// Remembers that what failed was reading.
struct Noticing<R> {
    inner: R,
    has_failed: bool,
}

impl<R: Read> Read for Noticing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        self.has_failed |= read.is_err();
        read
    }
}

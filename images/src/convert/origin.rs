//! Where an image that is converted comes from: the store's own blobs first, then its source.
//!
//! A directory (`dir:`) is packed as one layer, which is what it would be in an image. Sockets and
//! device nodes are left out of it and counted.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::ConvertError;
use super::place::Place;
use crate::document::{DOCUMENT_BYTES_MAX, Descriptor, Document};
use crate::layer::{Bytes, Fault, Pack, Place as Spool, pack_tree, read_layer};
use crate::private::may_use;
use crate::source::{self, Source};
use crate::{
    Access, Digest, Identity, LayerDescriptor, Manifest, MediaType, Progress, Reference,
    StoreError, Verified, resolve,
};

/// Bytes of a tar that are collected before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// An image to be converted. Its source is opened no earlier than something is needed that the
/// store does not have.
pub(super) struct Origin<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) access: &'a Access<'a>,
    source: OnceCell<Box<dyn Source>>,
    /// Sockets and device nodes of a directory.
    left_out: Cell<u64>,
}

/// One layer of an image, and its blob where that was made here.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) descriptor: LayerDescriptor,
    pub(super) made: Option<File>,
}

/// The documents of an image as they came.
#[derive(Debug)]
pub(super) struct Documents {
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
}

impl<'a> Origin<'a> {
    pub(super) fn new(manifest: &'a Manifest, access: &'a Access<'a>) -> Origin<'a> {
        Origin { manifest, access, source: OnceCell::new(), left_out: Cell::new(0) }
    }

    /// How many sockets and device nodes of a directory are in no layer.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.get()
    }

    /// Reads all layers, lowest first: verifies each and hands its tar to `add`.
    pub(super) fn read_layers(
        &self,
        place: &Place,
        mut add: impl FnMut(Bytes) -> Result<(), Fault> + Send,
    ) -> Result<(), ConvertError> {
        self.layers(place)?.iter().try_for_each(|layer| self.read_layer(layer, place, &mut add))
    }

    /// Verifies a layer and hands its tar to `read`, in a thread of its own.
    pub(super) fn read_layer<T: Send>(
        &self,
        layer: &Layer,
        place: &Place,
        read: impl FnOnce(Bytes) -> Result<T, Fault> + Send,
    ) -> Result<T, ConvertError> {
        let mut blob = self.open(layer)?;
        let (scratch, layer) = (Spool::Within(place.work()), &layer.descriptor);
        read_layer(layer, &mut blob, self.access.limits, scratch, read).map_err(|error| {
            let (reference, digest) = (self.reference(), layer.digest);
            ConvertError::Layer { reference, digest, source: Box::new(error) }
        })
    }

    /// The layers of the image, lowest first.
    ///
    /// # Errors
    /// [`ConvertError::NoLayers`] if it is not made of any.
    pub(super) fn layers(&self, place: &Place) -> Result<Vec<Layer>, ConvertError> {
        if let Identity::Digest(_) = self.manifest.identity {
            let layers = self.manifest.layers.iter().cloned();
            return Ok(layers.map(|descriptor| Layer { descriptor, made: None }).collect());
        }
        let Reference::Dir(path) = self.parsed()? else {
            return Err(ConvertError::NoLayers { reference: self.reference() });
        };
        Ok(vec![self.pack(&path, place)?])
    }

    /// Makes a layer of the directory `path`.
    fn pack(&self, path: &Path, place: &Place) -> Result<Layer, ConvertError> {
        let mut tar = Hashing::new(place.scratch_file()?);
        let how = Pack { is_image: true, ..Pack::default() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let packed = rustix::fs::open(path, flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|root| pack_tree(root.as_fd(), &how, &mut tar));
        let unread = |source| ConvertError::Pack { path: path.to_owned(), source };
        self.left_out.set(self.left_out.get() + packed.map_err(unread)?.left_out);
        tar.finish().map_err(place.unwritten("write(2)"))
    }

    /// Opens a layer's blob, which is verified while it is read.
    pub(super) fn open_verified<'l>(
        &'l self,
        layer: &'l Layer,
    ) -> Result<Box<dyn Read + 'l>, ConvertError> {
        let LayerDescriptor { digest, blob_bytes, .. } = layer.descriptor;
        Ok(Box::new(Verified::new(self.open(layer)?, digest, blob_bytes)))
    }

    /// Opens a layer's blob, and tells how reading it gets on.
    fn open<'l>(&'l self, layer: &'l Layer) -> Result<Box<dyn Read + Send + 'l>, ConvertError> {
        let progress = self.access.progress;
        let Layer { descriptor, made } = layer;
        let blob: Box<dyn Read + Send + 'l> = match made {
            Some(made) => Box::new(Whole { file: made, offset: 0 }),
            None => match self.kept(descriptor)? {
                Some(kept) => kept,
                None => self.source()?.layer(descriptor).map_err(|error| self.no_source(error))?,
            },
        };
        progress.started(&descriptor.digest, descriptor.blob_bytes);
        Ok(Box::new(Watched { blob, digest: descriptor.digest, progress }))
    }

    fn kept(
        &self,
        layer: &LayerDescriptor,
    ) -> Result<Option<Box<dyn Read + Send + '_>>, ConvertError> {
        let Some(store) = self.access.store else { return Ok(None) };
        // What another user fetched with credentials is asked for again with this one's.
        let may_use = may_use(store, layer, &self.parsed()?, self.access.asker.uid);
        if !may_use.map_err(|error| self.no_store(error))? {
            return Ok(None);
        }
        let kept = store.open_blob(&layer.digest, layer.blob_bytes);
        let kept = kept.map_err(|error| self.no_store(error))?;
        Ok(kept.map(|blob| Box::new(blob) as Box<dyn Read + Send>))
    }

    /// The manifest and the configuration, byte for byte.
    pub(super) fn documents(&self) -> Result<Documents, ConvertError> {
        if let Some(kept) = self.kept_documents()? {
            return Ok(kept);
        }
        let unread = |source| {
            let (reference, source) = (self.reference(), Box::new(source));
            ConvertError::Documents { reference, source }
        };
        let (reference, source) = (self.parsed()?, self.source()?);
        let [manifest, config] =
            resolve::read_again(self.manifest, &reference, source).map_err(unread)?;
        Ok(Documents { manifest, config })
    }

    fn kept_documents(&self) -> Result<Option<Documents>, ConvertError> {
        let (Some(store), Identity::Digest(digest)) = (self.access.store, &self.manifest.identity)
        else {
            return Ok(None);
        };
        let read = |digest: &Digest| {
            store.read_blob(digest, DOCUMENT_BYTES_MAX).map_err(|error| self.no_store(error))
        };
        let Some(manifest) = read(digest)? else { return Ok(None) };
        // What is no manifest any more is looked for where it came from.
        let Some(config) = config_of(&manifest) else { return Ok(None) };
        Ok(read(&config.digest)?.map(|config| Documents { manifest, config }))
    }

    fn source(&self) -> Result<&dyn Source, ConvertError> {
        if let Some(source) = self.source.get() {
            return Ok(source.as_ref());
        }
        let opened = source::open(&self.parsed()?, self.access.network());
        let opened = opened.map_err(|error| self.no_source(error))?;
        let no_layers = || ConvertError::NoLayers { reference: self.reference() };
        let opened = opened.ok_or_else(no_layers)?;
        Ok(self.source.get_or_init(|| opened).as_ref())
    }

    fn parsed(&self) -> Result<Reference, ConvertError> {
        let wrong = |source| ConvertError::Reference { reference: self.reference(), source };
        self.manifest.reference.parse().map_err(wrong)
    }

    pub(super) fn reference(&self) -> String {
        self.manifest.reference.clone()
    }

    fn no_source(&self, error: crate::SourceError) -> ConvertError {
        ConvertError::Source { reference: self.reference(), source: Box::new(error) }
    }

    fn no_store(&self, source: StoreError) -> ConvertError {
        ConvertError::Store { reference: self.reference(), source }
    }
}

/// What a manifest says about its configuration.
pub(super) fn config_of(manifest: &[u8]) -> Option<Descriptor> {
    match Document::parse(manifest, None).ok()? {
        Document::Image { config, .. } => Some(config),
        Document::Index(_) => None,
    }
}

/// A file from its beginning, whoever has read it before.
struct Whole<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Writes the blob of a layer that is made here: a plain tar.
pub(super) struct Hashing {
    file: BufWriter<File>,
    hasher: Sha256,
    bytes: u64,
}

impl Hashing {
    /// Writes to `file`, which is new.
    pub(super) fn new(file: File) -> Hashing {
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Hashing { file, hasher: Sha256::new(), bytes: 0 }
    }

    /// The layer that was written.
    pub(super) fn finish(self) -> io::Result<Layer> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let (digest, blob_bytes) = (Digest::from_hasher(self.hasher), self.bytes);
        let media_type = MediaType::Tar;
        let descriptor = LayerDescriptor { digest, diff_id: digest, blob_bytes, media_type };
        Ok(Layer { descriptor, made: Some(file) })
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
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

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.progress.finished(&self.digest);
    }
}

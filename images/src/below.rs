//! What a site keeps below everybody's own store: OCI layouts on file systems that users share.
//!
//! Nothing is written there, locked or listed, so that it may be read-only and far away. What is
//! found has a digest, and is compared with that by whoever reads it: whose the directory is and
//! who can change it decides what is there, never what it is.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use crate::document::{DOCUMENT_BYTES_MAX, Platform};
use crate::source::list_layout;
use crate::{Digest, LayerDescriptor};

/// The layouts of a site, in the order in which they are looked through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Below<'a>(pub(crate) &'a [PathBuf]);

impl Below<'_> {
    /// A manifest, index or configuration; none if no layout has it as it should be.
    pub(crate) fn document(self, digest: &Digest) -> Option<Vec<u8>> {
        self.0.iter().find_map(|folder| {
            let mut bytes = Vec::new();
            let file = open(folder, digest)?.take(DOCUMENT_BYTES_MAX + 1);
            { file }.read_to_end(&mut bytes).ok()?;
            (Digest::of(&bytes) == *digest).then_some(bytes)
        })
    }

    /// The blob of a layer from the byte `from` on, not verified; none if no layout has one of its
    /// size.
    pub(crate) fn layer(self, layer: &LayerDescriptor, from: u64) -> Option<File> {
        self.0.iter().find_map(|folder| {
            let mut file = open(folder, &layer.digest)?;
            let is_whole = file.metadata().ok()?.len() == layer.blob_bytes;
            (is_whole && file.seek(SeekFrom::Start(from)).ok()? == from).then_some(file)
        })
    }

    /// What the first layout that knows an image of this name says it is. A layout that cannot be
    /// read knows none.
    pub(crate) fn named(self, reference: &str) -> Option<Digest> {
        let here = Platform::here();
        self.0.iter().find_map(|folder| {
            let images = list_layout(folder).ok()?;
            let is_it = |image: &&crate::document::Descriptor| {
                image.names.iter().any(|name| name == reference)
                    && image.platform.as_ref().is_none_or(|platform| *platform == here)
            };
            images.iter().find(is_it).map(|image| image.digest)
        })
    }
}

/// Opens a blob of a layout, if that is a file.
fn open(folder: &Path, digest: &Digest) -> Option<File> {
    let path = folder.join("blobs/sha256").join(digest.hex());
    // Should a fifo have the name, it is not waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).ok()?.st_mode);
    (kind == FileType::RegularFile).then(|| File::from(file))
}

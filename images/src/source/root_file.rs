//! A file that holds one root filesystem (`squashfs:`, `sif:`, `shifter:`).
//!
//! It has no documents, so an OCI manifest and a configuration are made of it here: one layer,
//! which is the squashfs as it is, named by its SHA-256. The same bytes get the same digests
//! wherever they lie. Nothing in it is executed to learn how it wants to be run: the scripts that
//! Apptainer puts below `/.singularity.d` are files like others.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::{Source, SourceError, Top, hash, open_regular};
use crate::document::{DOCUMENT_BYTES_MAX, Descriptor, SQUASHFS_LAYER};
use crate::layer::sif::{self, Sif, Span};
use crate::layer::{SUPERBLOCK_BYTES, Superblock, squashfs_diff_id};
use crate::{Digest, LayerDescriptor, Store};

/// An opened file and where its squashfs is.
pub(super) struct RootFile {
    path: PathBuf,
    file: Arc<File>,
    span: Span,
    architecture: Option<&'static str>,
    /// The `config` of an image configuration.
    defaults: Value,
    /// Whether it is for some users only, so that a copy of it is made for nobody else.
    is_for_some: bool,
    /// Of the squashfs, found out when it is asked for, as all of it has to be read.
    digest: OnceLock<Digest>,
}

/// The documents of an image that has none, of one layer.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    manifest: Vec<u8>,
    config: Vec<u8>,
}

impl Documents {
    /// Makes them. `defaults` becomes the `config` of the configuration, `layer` is how the
    /// manifest describes the layer.
    pub(super) fn new(
        defaults: &Value,
        architecture: Option<&str>,
        layer: &Value,
        diff_id: Digest,
    ) -> Documents {
        let rootfs = json!({"type": "layers", "diff_ids": [diff_id]});
        let mut config = json!({"config": defaults, "rootfs": rootfs});
        if let Some(architecture) = architecture {
            config["architecture"] = json!(architecture);
            config["os"] = json!("linux");
        }
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config),
                "size": config.len(),
            },
            "layers": [layer],
        });
        Documents { manifest: manifest.to_string().into_bytes(), config }
    }

    pub(super) fn top(&self) -> Top {
        let bytes = self.manifest.clone();
        Top { digest: Digest::of(&bytes), bytes, media_type: None }
    }

    /// None if it is another configuration that is asked for.
    pub(super) fn config(&self, descriptor: &Descriptor) -> Option<Vec<u8>> {
        (Digest::of(&self.config) == descriptor.digest).then(|| self.config.clone())
    }
}

impl RootFile {
    /// Opens a squashfs.
    pub(super) fn open_squashfs(path: &Path) -> Result<RootFile, SourceError> {
        let (file, bytes) = open_regular(path)?;
        RootFile::of_squashfs(path, file, bytes, json!({}))
    }

    /// Takes `file` of `bytes` bytes, which is called `path` and a squashfs, for an image with
    /// these defaults.
    pub(super) fn of_squashfs(
        path: &Path,
        file: File,
        bytes: u64,
        defaults: Value,
    ) -> Result<RootFile, SourceError> {
        let span = Span { offset: 0, bytes };
        check_squashfs(&file, span).map_err(unusable(path, "squashfs"))?;
        Ok(RootFile::new(path, file, span, None, defaults))
    }

    /// Opens a Singularity or Apptainer image.
    pub(super) fn open_sif(path: &Path) -> Result<RootFile, SourceError> {
        let (file, bytes) = open_regular(path)?;
        let (sif, defaults) = read_sif(path, &file, bytes)?;
        Ok(RootFile::new(path, file, sif.root, sif.architecture, defaults))
    }

    fn new(
        path: &Path,
        file: File,
        span: Span,
        architecture: Option<&'static str>,
        defaults: Value,
    ) -> RootFile {
        let (path, file, digest) = (path.to_owned(), Arc::new(file), OnceLock::new());
        RootFile { path, file, span, architecture, defaults, is_for_some: false, digest }
    }

    /// The same file, which is for some users only.
    pub(super) fn for_some(self) -> RootFile {
        RootFile { is_for_some: true, ..self }
    }

    fn part(&self) -> Part {
        let Span { offset, bytes } = self.span;
        Part { file: Arc::clone(&self.file), offset, left: bytes }
    }

    fn documents(&self) -> Result<Documents, SourceError> {
        let digest = match self.digest.get() {
            Some(digest) => *digest,
            None => *self.digest.get_or_init({
                let digest = self.hash()?;
                move || digest
            }),
        };
        let layer = json!({"mediaType": SQUASHFS_LAYER, "digest": digest, "size": self.span.bytes});
        let diff_id = squashfs_diff_id(&digest);
        Ok(Documents::new(&self.defaults, self.architecture, &layer, diff_id))
    }

    fn hash(&self) -> Result<Digest, SourceError> {
        hash(&[], self.part()).map_err(|source| self.read_error(source))
    }

    fn read_error(&self, source: io::Error) -> SourceError {
        SourceError::Read { path: self.path.clone(), entry: "root filesystem".to_owned(), source }
    }

    fn missing(&self, digest: Digest) -> SourceError {
        SourceError::Missing { path: self.path.clone(), entry: digest.to_string() }
    }
}

fn unusable(path: &Path, format: &'static str) -> impl FnOnce(String) -> SourceError {
    let path = path.to_owned();
    move |wrong| SourceError::RootFile { path, format, wrong }
}

/// Looks at the superblock, so that another kind of file is refused before all of it is read.
fn check_squashfs(file: &File, span: Span) -> Result<(), sif::Wrong> {
    let count = usize::try_from(span.bytes).map_or(SUPERBLOCK_BYTES, |n| n.min(SUPERBLOCK_BYTES));
    let start = sif::read(file, span.offset, count, u64::MAX)?;
    Superblock::parse(&start, span.bytes).map(|_| ())
}

/// Reads where things are in the SIF `file` of `bytes` bytes, which is called `path`, and the
/// `config` of the OCI image that it was made of.
pub(super) fn read_sif(path: &Path, file: &File, bytes: u64) -> Result<(Sif, Value), SourceError> {
    let unusable = || unusable(path, "SIF");
    let sif = Sif::read(file, bytes).map_err(unusable())?;
    check_squashfs(file, sif.root).map_err(unusable())?;
    let defaults = match sif.oci_config {
        Some(span) => read_defaults(file, span, bytes).map_err(unusable())?,
        None => json!({}),
    };
    Ok((sif, defaults))
}

/// Reads what a SIF made of an OCI image keeps of its configuration.
fn read_defaults(file: &File, span: Span, file_bytes: u64) -> Result<Value, sif::Wrong> {
    if span.bytes > DOCUMENT_BYTES_MAX {
        return Err(format!("its OCI configuration has {} bytes", span.bytes));
    }
    let count = usize::try_from(span.bytes).expect("the size of a document is bounded");
    let bytes = sif::read(file, span.offset, count, file_bytes)?;
    match serde_json::from_slice(&bytes) {
        Ok(defaults @ Value::Object(_)) => Ok(defaults),
        Ok(_) => Err("its OCI configuration is no JSON object".to_owned()),
        Err(error) => Err(format!("its OCI configuration is not valid: {error}")),
    }
}

impl Source for RootFile {
    fn top(&self) -> Result<Top, SourceError> {
        Ok(self.documents()?.top())
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        Err(self.missing(descriptor.digest))
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let config = self.documents()?.config(descriptor);
        config.ok_or_else(|| self.missing(descriptor.digest))
    }

    fn is_of_root(&self) -> bool {
        let can_be_others = |mode: u32| mode & 0o022 != 0;
        // Attributes of access control lists cannot give more than the bits of the group say.
        let of_root = self
            .file
            .metadata()
            .is_ok_and(|found| found.is_file() && found.uid() == 0 && !can_be_others(found.mode()));
        of_root && !is_on_fuse(self.file.as_fd())
    }

    /// Finds out its digest, or knows it from before. Where the kernel may be given what the store
    /// has of it, the store gets it now: it is read once for both.
    fn look_at(&self, store: &Store) -> Result<(), SourceError> {
        let digest = store.digest_of(&self.file, self.span, || {
            if !self.is_for_some && self.is_of_root() && store.is_guarded() {
                // If that fails, whoever needs the copy says why.
                if let Ok(digest) = store.take_in(&mut self.part()) {
                    return Ok(digest);
                }
            }
            self.hash()
        })?;
        self.digest.get_or_init(|| digest);
        Ok(())
    }

    fn layer(&self, _layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        // Whoever unpacks it checks that it is still the layer that was asked for.
        Ok(Box::new(self.part()))
    }
}

/// Whether a program answers for what is in a file: any user may have started it, and it says of
/// its files what it likes.
fn is_on_fuse(file: BorrowedFd<'_>) -> bool {
    // linux/magic.h
    const FUSE: i64 = 0x6573_5546;
    rustix::fs::fstatfs(file).is_ok_and(|kind| kind.f_type & 0xffff_ffff == FUSE)
}

/// Reads a part of a file, whoever else reads it.
struct Part {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

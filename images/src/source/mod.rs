//! Where images come from: one file a transport, all giving the same two things.
//!
//! A [`Source`] gives documents, which it verifies while it reads them, and layers, which
//! [`Store::add_layer`](crate::Store::add_layer) verifies while it unpacks them: each byte is
//! hashed once. It decides nothing: `resolve` follows indexes and picks the platform, `ensure`
//! knows which layers are wanted. What a source cannot know is deliberately absent here: the store
//! and policy.

mod archive;
mod body;
mod connect;
mod directory;
mod docker_archive;
mod docker_daemon;
mod docker_error;
mod docker_load;
mod http;
mod layout;
mod login;
mod mirrored;
mod oras;
mod proxy;
mod registry;
mod registry_error;
mod resume;
mod retry;
mod root_file;
mod shifter;
mod token;
mod url;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

pub(crate) use docker_daemon::Asked;
pub use docker_daemon::LocalDocker;
pub use docker_error::DockerError;
pub(crate) use docker_load::load;
pub use http::{HttpError, Timeouts};
use layout::Wanted;
pub(crate) use oras::{NoSif, SifManifest};
pub use proxy::Proxies;
pub use registry_error::RegistryError;
pub use shifter::ShifterError;

use crate::document::{DOCUMENT_BYTES_MAX, Descriptor, ManifestError};
use crate::layer::unnamed_file;
use crate::{
    Asker, CredentialFiles, Digest, LayerDescriptor, Reference, Registries, RegistryName, Store,
    Verified,
};

/// An opened place that images come from.
pub(crate) trait Source: Send + Sync {
    /// Reads the document that the reference names: a manifest or an index.
    fn top(&self) -> Result<Top, SourceError>;

    /// Reads a document that an index names, and verifies it.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError>;

    /// Reads an image's configuration, and verifies it.
    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError>;

    /// Opens a layer's blob for [`Store::add_layer`](crate::Store::add_layer), which verifies it.
    /// Several may be read at the same time, in several threads. Before a read fails, a transfer
    /// that broke off has been taken up again as often as makes sense.
    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError>;

    /// Whether what was given so far was given to somebody who showed credentials.
    fn knows_the_asker(&self) -> bool {
        false
    }

    /// Whether it is one file on this machine that only root can have written.
    fn is_of_root(&self) -> bool {
        false
    }

    /// Does with the help of the store what has to be done to know its documents.
    fn look_at(&self, _store: &Store) -> Result<(), SourceError> {
        Ok(())
    }

    /// As [`Source::layer`], from the byte `from` on. Where that has no advantage, the beginning is
    /// read and passed over.
    fn layer_from(
        &self,
        layer: &LayerDescriptor,
        from: u64,
    ) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        Ok(Box::new(PassingOver { blob: self.layer(layer)?, left_bytes: from }))
    }
}

/// A blob whose beginning is known.
struct PassingOver<R> {
    blob: R,
    left_bytes: u64,
}

impl<R: Read> Read for PassingOver<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left_bytes > 0 {
            match io::copy(&mut (&mut self.blob).take(self.left_bytes), &mut io::sink())? {
                0 => return Ok(0),
                passed => self.left_bytes -= passed,
            }
        }
        self.blob.read(buffer)
    }
}

/// The document that a reference names.
#[derive(Debug)]
pub(crate) struct Top {
    pub(crate) bytes: Vec<u8>,
    /// Of `bytes`; equal to the reference's if it has one.
    pub(crate) digest: Digest,
    /// What the place that named it says it is.
    pub(crate) media_type: Option<String>,
}

/// Why an image could not be read from where it is.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file or directory cannot be opened. The user must name another, or its owner share it.
    #[error("cannot open {}", path.display())]
    Open {
        /// What was named.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part of the image cannot be read, or is not what its digest says ([`crate::BlobFault`]).
    #[error("cannot read `{entry}` of {}", path.display())]
    Read {
        /// The archive or layout.
        path: PathBuf,
        /// Which part.
        entry: String,
        /// Why.
        source: io::Error,
    },
    /// The archive, or a layer in it, is packed in a way that is not read.
    #[error("{} is packed with {packing}", path.display())]
    Packed {
        /// The archive or the layer.
        path: PathBuf,
        /// Name of the format.
        packing: &'static str,
    },
    /// The file is no tar archive, or one that is made to deceive.
    #[error("{} is not a usable tar archive: {wrong} at byte {offset}", path.display())]
    Tar {
        /// The archive.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What.
        wrong: String,
    },
    /// The archive ends before an entry does.
    #[error("{} is cut off: `{entry}` should end at byte {end}, the file ends at {bytes}",
        path.display())]
    Truncated {
        /// The archive.
        path: PathBuf,
        /// The entry.
        entry: String,
        /// Where it should end.
        end: u64,
        /// Size of the file.
        bytes: u64,
    },
    /// The archive or layout lacks a part.
    #[error("{} has no `{entry}`", path.display())]
    Missing {
        /// The archive or layout.
        path: PathBuf,
        /// The part.
        entry: String,
    },
    /// A part is there but not as a file.
    #[error("`{entry}` of {} is {wrong}", path.display())]
    NotAFile {
        /// The archive or layout.
        path: PathBuf,
        /// The part.
        entry: String,
        /// What it is instead.
        wrong: &'static str,
    },
    /// The file is not the image that it should be, or one of a kind that is not read.
    #[error("{} is not a usable {format}: {wrong}", path.display())]
    RootFile {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// What is wrong with it.
        wrong: String,
    },
    /// The reference does not say which of several images is meant, or names one that is not there.
    #[error("{} has {offered}, {wanted}", path.display())]
    Choice {
        /// The archive or layout.
        path: PathBuf,
        /// What is in it.
        offered: String,
        /// What was asked for.
        wanted: String,
    },
    /// One of its documents is wrong.
    #[error("`{entry}` of {} is wrong", path.display())]
    Document {
        /// The archive or layout.
        path: PathBuf,
        /// Which document.
        entry: String,
        /// How.
        source: ManifestError,
    },
    /// No directory of Shifter images gives it.
    #[error("cannot use the Shifter image {id}")]
    Shifter {
        /// The image's id.
        id: String,
        /// Why.
        source: ShifterError,
    },
    /// A local Docker or Podman did not give it.
    #[error("cannot get `{name}` from a Docker or Podman of this machine")]
    Docker {
        /// Name or ID of the image there.
        name: String,
        /// Why.
        source: Box<DockerError>,
    },
    /// A registry did not give it.
    #[error("cannot fetch from the registry {host}{}", Mirrors(mirrors.as_deref()))]
    Registry {
        /// Host and port.
        host: String,
        /// Why its mirrors did not give it either, if there are any.
        mirrors: Option<String>,
        /// Why.
        source: Box<RegistryError>,
    },
}

impl SourceError {
    /// A way out, where there is an obvious one.
    pub fn hint(&self) -> Option<String> {
        match self {
            SourceError::Packed { packing, .. } => {
                Some(format!("unpack it with {packing} -d first"))
            }
            SourceError::Missing { entry, .. } if entry == docker_archive::LIST => {
                Some("an OCI archive is written oci-archive:PATH".to_owned())
            }
            SourceError::Missing { entry, .. }
                if [layout::MARK, layout::INDEX].contains(&&**entry) =>
            {
                Some("a `docker save` file is written docker-archive:PATH".to_owned())
            }
            SourceError::Choice { .. } => {
                Some("`skopeo copy` makes an archive or layout of one image".to_owned())
            }
            SourceError::RootFile { wrong, .. } if wrong.contains(" are read") => {
                Some("make it anew with `mksquashfs -comp zstd`".to_owned())
            }
            SourceError::Registry { host, source, .. } => source.hint(host),
            SourceError::Docker { source, .. } => source.hint(),
            SourceError::Shifter { source, .. } => source.hint(),
            SourceError::Open { .. }
            | SourceError::Read { .. }
            | SourceError::Tar { .. }
            | SourceError::Truncated { .. }
            | SourceError::Missing { .. }
            | SourceError::NotAFile { .. }
            | SourceError::RootFile { .. }
            | SourceError::Document { .. } => None,
        }
    }
}

/// Why mirrors did not give an image, for a message.
struct Mirrors<'a>(Option<&'a str>);

impl fmt::Display for Mirrors<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |reasons| write!(f, " after its mirrors ({reasons})"))
    }
}

/// What sources need to know from the caller.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network<'a> {
    pub(crate) asker: &'a Asker,
    pub(crate) registries: &'a Registries,
    pub(crate) shifter_folders: &'a [PathBuf],
    pub(crate) credentials: &'a CredentialFiles,
    pub(crate) timeouts: Timeouts,
    pub(crate) docker: &'a LocalDocker,
    /// Where what a daemon writes goes, if there is a store.
    pub(crate) work_folder: Option<&'a Path>,
    /// Most that it may write.
    pub(crate) archive_bytes_max: u64,
}

impl Network<'_> {
    /// A file that is gone when it is closed, with room for whole images.
    fn spool_file(&self) -> io::Result<File> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(self.spool_folder(), flags, Mode::empty())?;
        // In a folder that everybody may write to, a name that nobody can take before.
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        unnamed_file(folder.as_fd(), &format!(".spool-{:016x}", u64::from_ne_bytes(random)))
    }

    fn spool_folder(&self) -> &Path {
        self.work_folder.unwrap_or(&self.docker.folder)
    }
}

/// What the index of the OCI layout `path` describes.
pub(crate) fn list_layout(path: &Path) -> Result<Vec<Descriptor>, SourceError> {
    layout::Layout::new(directory::Directory::open(path)?, Wanted::Only).manifests()
}

/// What the index of the OCI archive `path` describes.
pub(crate) fn list_archive(path: &Path) -> Result<Vec<Descriptor>, SourceError> {
    layout::Layout::new(archive::Archive::open(path)?, Wanted::Only).manifests()
}

/// Opens one image of the OCI archive `path`.
pub(crate) fn open_archived(
    path: &Path,
    image: &Descriptor,
) -> Result<Box<dyn Source>, SourceError> {
    let wanted = Wanted::This(image.clone());
    Ok(Box::new(layout::Layout::new(archive::Archive::open(path)?, wanted)))
}

/// Opens the place that `reference` names. `None` for references that have no blobs.
pub(crate) fn open(
    reference: &Reference,
    network: Network<'_>,
) -> Result<Option<Box<dyn Source>>, SourceError> {
    Ok(Some(match reference {
        Reference::DockerDaemon(name) => docker_daemon::take(name, network)?,
        Reference::DockerArchive(path) => Box::new(docker_archive::DockerArchive::open(path)?),
        Reference::OciArchive(path) => {
            Box::new(layout::Layout::new(archive::Archive::open(path)?, Wanted::Only))
        }
        Reference::OciLayout { path, tag } => {
            let wanted = tag.clone().map_or(Wanted::Only, Wanted::Tag);
            Box::new(layout::Layout::new(directory::Directory::open(path)?, wanted))
        }
        Reference::Squashfs(path) => Box::new(root_file::RootFile::open_squashfs(path)?),
        Reference::Sif(path) => Box::new(root_file::RootFile::open_sif(path)?),
        Reference::Shifter(id) => Box::new(shifter::open(id, network)?),
        // The layer of an `oras:` is a blob of the registry like any other.
        Reference::Registry(name) | Reference::Oras(name) => open_registry(name, network)?,
        Reference::Host | Reference::Dir(_) | Reference::ShortName { .. } => return Ok(None),
    }))
}

/// The registry that has `name`, with its mirrors.
fn open_registry(
    name: &RegistryName,
    network: Network<'_>,
) -> Result<Box<dyn Source>, SourceError> {
    if network.registries.offline {
        let (host, source) = (name.host.clone(), Box::new(RegistryError::Offline));
        return Err(SourceError::Registry { host, mirrors: None, source });
    }
    let is_mirrored = !network.registries.in_mirrors(name).is_empty();
    Ok(match is_mirrored {
        true => Box::new(mirrored::Mirrored::new(name, network)),
        false => Box::new(registry::Registry::new(name, network)),
    })
}

/// Opens a file that has a beginning and an end, and tells its size in bytes.
fn open_regular(path: &Path) -> Result<(File, u64), SourceError> {
    let error = |source| SourceError::Open { path: path.to_owned(), source };
    // NONBLOCK: opening a FIFO without it waits for a writer for ever.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).expect("open flags fit in the int of open(2)");
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(error)?;
    let metadata = file.metadata().map_err(error)?;
    if !metadata.is_file() {
        return Err(error(io::Error::other("it is no regular file")));
    }
    Ok((file, metadata.len()))
}

/// The digest of `start` and all that follows it.
pub(crate) fn hash(start: &[u8], mut rest: impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new_with_prefix(start);
    let mut buffer = vec![0; 128 << 10];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(Digest::from_hasher(hasher)),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Files by name: a directory or an archive.
pub(crate) trait Files: Send + Sync {
    /// What the user named.
    fn path(&self) -> &Path;

    /// Opens the regular file `name` and tells its size in bytes.
    fn open_file(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), SourceError>;

    /// Reads a small file whole.
    fn read_document(&self, name: &str) -> Result<Vec<u8>, SourceError> {
        let (reader, bytes) = self.open_file(name)?;
        let mut content = Vec::new();
        let read = reader.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut content);
        read.map_err(|source| self.read_error(name, source))?;
        if content.len() as u64 > DOCUMENT_BYTES_MAX {
            let source = ManifestError::TooLarge { document: "file", bytes };
            return Err(self.document_error(name, source));
        }
        Ok(content)
    }

    /// Reads the small blob in the file `name`, and verifies it.
    fn read_blob(&self, name: &str, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let (reader, _) = self.open_file(name)?;
        let blob = Verified::new(reader, descriptor.digest, descriptor.blob_bytes);
        blob.read_all(DOCUMENT_BYTES_MAX).map_err(|source| self.read_error(name, source))
    }

    /// A failed read of `name`.
    fn read_error(&self, name: &str, source: io::Error) -> SourceError {
        SourceError::Read { path: self.path().to_owned(), entry: name.to_owned(), source }
    }

    /// A wrong document in `name`.
    fn document_error(&self, name: &str, source: ManifestError) -> SourceError {
        SourceError::Document { path: self.path().to_owned(), entry: name.to_owned(), source }
    }
}

//! An image of a Docker or Podman of this machine (`docker-daemon:`).
//!
//! The daemon is asked for the image's ID first, so that what the store has is not fetched. What
//! is fetched is what `docker save` writes (Docker Engine API v1.41, `GET /images/{name}/get`). Its
//! list of layers comes last, so all of it is written to a file without a name, which is then read
//! as any other `docker save` file. bollard speaks the protocol, on a runtime that lives as long as
//! one question.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ImageInspect;
use futures_util::StreamExt as _;
use tokio::runtime::Runtime;

use super::archive::Archive;
use super::docker_archive::DockerArchive;
use super::docker_error::DockerError;
use super::{Files as _, Network, Source, SourceError, Top};
use crate::document::{Descriptor, Platform};
use crate::shown::shown;
use crate::{Digest, LayerDescriptor};

/// For the first byte of an archive: before Docker 25 the daemon writes all of it to its own disk
/// before it sends any.
pub(super) const GATHER: Duration = Duration::from_secs(60 * 60);

/// A Docker or Podman of this machine: where it listens, and what it has written for this process.
#[derive(Debug, Default)]
pub struct LocalDocker {
    /// `DOCKER_HOST`, if it is set: then no other is asked.
    pub host: Option<String>,
    /// Sockets that are tried otherwise, in this order.
    pub sockets: Vec<PathBuf>,
    /// Where archives go when there is no store. It should have room for whole images.
    pub folder: PathBuf,
    /// By reference. An archive is taken out by whoever fetches its layers.
    written: Mutex<HashMap<String, Written>>,
}

/// What a daemon wrote.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    id: Digest,
    archive: Arc<DockerArchive>,
}

/// A daemon that answers.
pub(super) struct Daemon {
    pub(super) docker: Docker,
    pub(super) runtime: Runtime,
    pub(super) socket: PathBuf,
}

impl Daemon {
    /// Finds the daemon, and agrees with it about the version of the protocol.
    pub(super) fn connect(network: Network<'_>) -> Result<Daemon, DockerError> {
        let socket = network.docker.find()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| DockerError::Runtime { source })?;
        let failed = |source| DockerError::Answer { socket: socket.clone(), source };
        let path = socket.to_str().unwrap_or_default();
        let docker = runtime.block_on(async {
            let docker =
                Docker::connect_with_unix(path, GATHER.as_secs(), bollard::API_DEFAULT_VERSION)
                    .map_err(failed)?;
            let waited = network.timeouts.answer;
            let silent = |_| DockerError::Silent { socket: socket.clone(), waited };
            let agreed = tokio::time::timeout(waited, docker.negotiate_version()).await;
            agreed.map_err(silent)?.map_err(failed)
        })?;
        Ok(Daemon { docker, runtime, socket })
    }
}

/// A daemon, and the image that it is asked for.
pub(crate) struct Asked<'a> {
    daemon: Daemon,
    name: &'a str,
    /// What the image is there. Docker's own store names images by their configuration,
    /// containerd's by their manifest or index.
    pub(crate) id: Digest,
    network: Network<'a>,
}

impl LocalDocker {
    /// Docker on `host`, which is the text of `DOCKER_HOST`, or else on the first of `sockets` that
    /// answers. Nothing is asked yet.
    pub fn new(host: Option<String>, sockets: Vec<PathBuf>, folder: PathBuf) -> LocalDocker {
        LocalDocker { host, sockets, folder, written: Mutex::default() }
    }

    /// The socket of a daemon that listens.
    ///
    /// # Errors
    /// [`DockerError::Host`], [`DockerError::NoSocket`] or [`DockerError::Connect`].
    pub fn find(&self) -> Result<PathBuf, DockerError> {
        let sockets = match self.host.as_deref().map(|host| (host, host.strip_prefix("unix://"))) {
            None => self.sockets.clone(),
            Some((_, Some(path))) => vec![PathBuf::from(path)],
            Some((host, None)) => {
                // What follows may name a user.
                let scheme = shown(host.split("//").next().unwrap_or_default());
                return Err(DockerError::Host { scheme });
            }
        };
        let mut failed = None;
        for socket in &sockets {
            match UnixStream::connect(socket) {
                Ok(_) => return Ok(socket.clone()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let socket = socket.clone();
                    failed = failed.or(Some(DockerError::Connect { socket, source }));
                }
            }
        }
        Err(failed.unwrap_or(DockerError::NoSocket { tried: sockets }))
    }
}

impl<'a> Asked<'a> {
    /// Asks what `name` is now.
    pub(crate) fn ask(name: &'a str, network: Network<'a>) -> Result<Asked<'a>, SourceError> {
        Asked::try_ask(name, network).map_err(|source| error(name, source))
    }

    fn try_ask(name: &'a str, network: Network<'a>) -> Result<Asked<'a>, DockerError> {
        let daemon = Daemon::connect(network)?;
        let Daemon { docker, runtime, socket } = &daemon;
        let waited = network.timeouts.answer;
        let image = runtime.block_on(async {
            let asked = tokio::time::timeout(waited, docker.inspect_image(name)).await;
            let silent = |_| DockerError::Silent { socket: socket.clone(), waited };
            asked.map_err(silent)?.map_err(|source| {
                let socket = socket.clone();
                if matches!(source, Error::DockerResponseServerError { status_code: 404, .. }) {
                    return DockerError::NotThere { socket };
                }
                DockerError::Answer { socket, source }
            })
        })?;
        let id = id_of(&image, name, socket)?;
        check_platform(&image)?;
        Ok(Asked { daemon, name, id, network })
    }

    /// What the daemon writes of the image, once in a process; kept for [`take`].
    pub(crate) fn write(self) -> Result<Written, SourceError> {
        let written = &self.network.docker.written;
        let lock = || written.lock().unwrap_or_else(PoisonError::into_inner);
        let before = lock().get(self.name).filter(|before| before.id == self.id).cloned();
        if let Some(before) = before {
            return Ok(before);
        }
        let label = PathBuf::from(format!("docker-daemon:{}", self.name));
        let (file, bytes) = self.save().map_err(|source| error(self.name, source))?;
        let archive = Archive::of_file(&label, file, bytes)?;
        let by_digest = format!("blobs/sha256/{}", self.id.hex());
        let has_id = archive.open_file(&by_digest).is_ok();
        let archive = DockerArchive::of_archive(archive)?;
        if !has_id && !archive.has(&self.id) {
            let id = self.id;
            return Err(error(self.name, DockerError::Another { socket: self.daemon.socket, id }));
        }
        let new = Written { id: self.id, archive: Arc::new(archive) };
        lock().insert(self.name.to_owned(), new.clone());
        Ok(new)
    }

    /// Writes the archive to a file without a name, and tells its size in bytes.
    fn save(&self) -> Result<(File, u64), DockerError> {
        let bytes_max = self.network.archive_bytes_max;
        let mut file = self.network.spool_file().map_err(|source| self.no_room(source))?;
        let mut bytes = 0_u64;
        let mut wait = GATHER;
        let Daemon { docker, runtime, socket } = &self.daemon;
        runtime.block_on(async {
            let id = self.id.to_string();
            let mut stream = pin!(docker.export_image(&id));
            loop {
                let silent = |_| DockerError::Silent { socket: socket.clone(), waited: wait };
                let piece = tokio::time::timeout(wait, stream.next()).await.map_err(silent)?;
                let Some(piece) = piece else { return Ok(()) };
                let failed = |source| DockerError::Answer { socket: socket.clone(), source };
                let piece = piece.map_err(failed)?;
                bytes = bytes.saturating_add(piece.len() as u64);
                if bytes > bytes_max {
                    return Err(DockerError::TooLarge { bytes_max });
                }
                file.write_all(&piece).map_err(|source| self.no_room(source))?;
                wait = self.network.timeouts.answer;
            }
        })?;
        Ok((file, bytes))
    }

    fn no_room(&self, source: io::Error) -> DockerError {
        DockerError::Write { folder: self.network.spool_folder().to_owned(), source }
    }
}

/// The archive that [`Asked::write`] left, or a new one.
pub(super) fn take(name: &str, network: Network<'_>) -> Result<Box<dyn Source>, SourceError> {
    let written = &network.docker.written;
    let before = written.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    if let Some(before) = before {
        return Ok(Box::new(before));
    }
    let new = Asked::ask(name, network)?.write()?;
    written.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    Ok(Box::new(new))
}

fn error(name: &str, source: DockerError) -> SourceError {
    SourceError::Docker { name: name.to_owned(), source: Box::new(source) }
}

/// The image's ID, which must be the one that was asked for if one was.
pub(super) fn id_of(
    image: &ImageInspect,
    name: &str,
    socket: &Path,
) -> Result<Digest, DockerError> {
    let said = image.id.as_deref().unwrap_or_default();
    // Podman leaves the algorithm out.
    let id = if said.contains(':') { said.parse() } else { format!("sha256:{said}").parse() };
    let id: Digest =
        id.map_err(|_| DockerError::Id { socket: socket.to_owned(), said: shown(said) })?;
    match name.parse::<Digest>() {
        Ok(asked) if asked != id => {
            Err(DockerError::Another { socket: socket.to_owned(), id: asked })
        }
        Ok(_) | Err(_) => Ok(id),
    }
}

/// Whether the image runs here, before all of it is written.
fn check_platform(image: &ImageInspect) -> Result<(), DockerError> {
    let (Some(os), Some(architecture)) = (&image.os, &image.architecture) else { return Ok(()) };
    let (offered, wanted) =
        (Platform { os: os.clone(), architecture: architecture.clone() }, Platform::here());
    if offered == wanted || os.is_empty() || architecture.is_empty() {
        return Ok(());
    }
    let (offered, wanted) = (offered.to_string(), wanted.to_string());
    Err(DockerError::Platform { offered, wanted })
}

impl Source for Written {
    fn top(&self) -> Result<Top, SourceError> {
        self.archive.top()
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.archive.document(descriptor)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.archive.config(descriptor)
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send + '_>, SourceError> {
        self.archive.layer(layer)
    }
}

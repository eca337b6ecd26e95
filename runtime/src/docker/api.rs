//! The effect: questions to a daemon through its Unix socket, one at a time, each bounded.
//!
//! bollard speaks the protocol, on a runtime that lives as long as this does. A container that runs
//! keeps neither: whoever ends it asks again.

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerState, SystemInfo};
use bollard::query_parameters::{
    CreateContainerOptions, ImportImageOptions, KillContainerOptions, ListContainersOptions,
    RemoveContainerOptions,
};
use futures_util::StreamExt as _;
use tokio::runtime::Runtime;

use super::request::LABEL;

/// For an answer: a daemon under load takes seconds to start a container.
const ANSWER: Duration = Duration::from_secs(60);

/// For all of an image, which the daemon unpacks while it comes.
const LOAD: Duration = Duration::from_secs(60 * 60);

/// Bytes of an archive that are sent at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Why a daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It refused or failed, or speaks another protocol.
    #[error("the daemon at {} gave no usable answer", socket.display())]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// What it said.
        source: Box<Error>,
    },
    /// Nothing came for too long.
    #[error("the daemon at {} did not answer within {} s", socket.display(), waited.as_secs())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// This process has no means to wait for an answer.
    #[error("cannot wait for a daemon")]
    Runtime {
        /// Why.
        source: io::Error,
    },
    /// It is not where this program is, or lies.
    #[error("the daemon at {} {what}", socket.display())]
    Strange {
        /// The socket.
        socket: PathBuf,
        /// What is odd.
        what: String,
    },
}

/// A daemon that can be asked.
#[derive(Debug)]
pub(crate) struct Api {
    docker: Docker,
    runtime: Runtime,
    socket: PathBuf,
}

impl Api {
    /// Connects, and settles which version of the protocol is spoken.
    pub(crate) fn open(socket: &Path) -> Result<Api, DaemonError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| DaemonError::Runtime { source })?;
        let failed =
            |source| DaemonError::Answer { socket: socket.to_owned(), source: Box::new(source) };
        let path = socket.to_str().unwrap_or_default();
        let docker = runtime.block_on(async {
            let version = bollard::API_DEFAULT_VERSION;
            let docker = Docker::connect_with_unix(path, LOAD.as_secs(), version);
            let negotiated = docker.map_err(failed)?.negotiate_version();
            let silent = |_| DaemonError::Silent { socket: socket.to_owned(), waited: ANSWER };
            tokio::time::timeout(ANSWER, negotiated).await.map_err(silent)?.map_err(failed)
        })?;
        Ok(Api { docker, runtime, socket: socket.to_owned() })
    }

    fn wait<T>(
        &self,
        waited: Duration,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, DaemonError> {
        let socket = || self.socket.clone();
        let answer = self.runtime.block_on(async { tokio::time::timeout(waited, asked).await });
        let answer = answer.map_err(|_| DaemonError::Silent { socket: socket(), waited })?;
        answer.map_err(|source| DaemonError::Answer { socket: socket(), source: Box::new(source) })
    }

    /// Something that a daemon of this machine would not say.
    pub(crate) fn strange(&self, what: impl Into<String>) -> DaemonError {
        DaemonError::Strange { socket: self.socket.clone(), what: what.into() }
    }

    /// What the daemon says of itself.
    pub(crate) fn info(&self) -> Result<SystemInfo, DaemonError> {
        self.wait(ANSWER, self.docker.info())
    }

    /// The ID of the image called `name`, if it is there and has exactly these layers.
    pub(crate) fn image(
        &self,
        name: &str,
        diff_ids: &[String],
    ) -> Result<Option<String>, DaemonError> {
        let found = match self.wait(ANSWER, self.docker.inspect_image(name)) {
            Err(DaemonError::Answer { source, .. }) if is_not_there(&source) => return Ok(None),
            found => found?,
        };
        let layers = found.root_fs.and_then(|root| root.layers).unwrap_or_default();
        Ok(found.id.filter(|_| layers == diff_ids))
    }

    /// Has the daemon unpack an image from an archive of `docker save`.
    pub(crate) fn load(&self, archive: File) -> Result<(), DaemonError> {
        let pieces = std::iter::from_fn(move || {
            let mut piece = Vec::with_capacity(CHUNK_BYTES);
            match Read::take(&archive, CHUNK_BYTES as u64).read_to_end(&mut piece) {
                Ok(0) => None,
                Ok(_) => Some(Ok(piece.into())),
                Err(error) => Some(Err(error)),
            }
        });
        let body = bollard::body_try_stream(futures_util::stream::iter(pieces));
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        self.wait(LOAD, async {
            let mut said = std::pin::pin!(self.docker.import_image(options, body, None));
            while let Some(piece) = said.next().await {
                piece?;
            }
            Ok(())
        })
    }

    /// Makes a container called `name`: its ID.
    pub(crate) fn create(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<String, DaemonError> {
        let options =
            CreateContainerOptions { name: Some(name.to_owned()), platform: String::new() };
        Ok(self.wait(ANSWER, self.docker.create_container(Some(options), body))?.id)
    }

    /// Starts a container.
    pub(crate) fn start(&self, id: &str) -> Result<(), DaemonError> {
        self.wait(ANSWER, self.docker.start_container(id, None))
    }

    /// How a container is.
    pub(crate) fn state(&self, id: &str) -> Result<ContainerState, DaemonError> {
        let found = self.wait(ANSWER, self.docker.inspect_container(id, None))?;
        found.state.ok_or_else(|| self.strange("does not say how a container is"))
    }

    /// Ends a container.
    pub(crate) fn kill(&self, id: &str) -> Result<(), DaemonError> {
        self.wait(ANSWER, self.docker.kill_container(id, None::<KillContainerOptions>))
    }

    /// Removes a container, and ends it if it has not ended. Done when it returns.
    pub(crate) fn remove(&self, id: &str) -> Result<(), DaemonError> {
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        self.wait(ANSWER, self.docker.remove_container(id, Some(options)))
    }

    /// All containers with our label, and what the label says.
    pub(crate) fn labelled(&self) -> Result<Vec<(String, String)>, DaemonError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), vec![LABEL.to_owned()])])),
            ..ListContainersOptions::default()
        };
        let all = self.wait(ANSWER, self.docker.list_containers(Some(options)))?;
        let named = all
            .into_iter()
            .filter_map(|container| Some((container.id?, container.labels?.remove(LABEL)?)));
        Ok(named.collect())
    }
}

fn is_not_there(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

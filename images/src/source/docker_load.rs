//! Puts an image into a Docker or Podman of this machine: what `docker load` does (Docker Engine
//! API v1.41, `POST /images/load`).

use std::fs::File;
use std::io::Read;
use std::pin::pin;

use bollard::errors::Error;
use bollard::query_parameters::ImportImageOptions;
use futures_util::{StreamExt as _, stream};

use super::Network;
use super::docker_daemon::{Daemon, GATHER, id_of};
use super::docker_error::DockerError;
use crate::Digest;
use crate::shown::shown;

/// Bytes of the archive that are sent at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Hands the `docker save` file `archive` to the daemon, which calls the image `name`, and returns
/// the ID that it has there. It is what `name` meant before only if the daemon says that it failed.
pub(crate) fn load(archive: File, name: &str, network: Network<'_>) -> Result<Digest, DockerError> {
    let daemon = Daemon::connect(network)?;
    let failed = |source| {
        let socket = daemon.socket.clone();
        if let Error::DockerStreamError { error } = &source {
            return DockerError::Load { socket, said: shown(error) };
        }
        DockerError::Answer { socket, source }
    };
    let pieces = stream::iter(pieces(archive).map(|piece| piece.map(Into::into)));
    let body = bollard::body_try_stream(pieces);
    let loaded = async {
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let mut answers = pin!(daemon.docker.import_image(options, body, None));
        while let Some(answer) = answers.next().await {
            answer.map_err(failed)?;
        }
        daemon.docker.inspect_image(name).await.map_err(failed)
    };
    let silent = |_| DockerError::Silent { socket: daemon.socket.clone(), waited: GATHER };
    let waited = async { tokio::time::timeout(GATHER, loaded).await.map_err(silent)? };
    let image = daemon.runtime.block_on(waited)?;
    id_of(&image, name, &daemon.socket)
}

/// A file piece by piece. It is on this machine's own disk: nobody else waits for the thread.
fn pieces(mut file: File) -> impl Iterator<Item = std::io::Result<Vec<u8>>> {
    std::iter::from_fn(move || {
        let mut piece = vec![0; PIECE_BYTES];
        match file.read(&mut piece) {
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                Some(Ok(piece))
            }
            Err(error) => Some(Err(error)),
        }
    })
    .fuse()
}

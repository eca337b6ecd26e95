//! Why a Docker or Podman of this machine did not give an image, and who must act.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::Digest;

/// Why a local Docker or Podman gave no image.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// `DOCKER_HOST` names another machine. The user must unset it.
    #[error("DOCKER_HOST begins with `{scheme}`, and only unix:// is asked")]
    Host {
        /// What it begins with.
        scheme: String,
    },
    /// Nobody listens.
    #[error("no Docker or Podman listens at {}", list(tried))]
    NoSocket {
        /// Where one was looked for.
        tried: Vec<PathBuf>,
    },
    /// The socket is there but cannot be used. Its owner must admit the user, or start the daemon.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This process has no means to wait for an answer.
    #[error("cannot wait for a daemon")]
    Runtime {
        /// Why.
        source: io::Error,
    },
    /// The daemon has no such image. The user must name another, or pull it there.
    #[error("the daemon at {} has no such image", socket.display())]
    NotThere {
        /// The socket.
        socket: PathBuf,
    },
    /// The image is for other machines. The user must name another.
    #[error("it is for {offered}, this machine runs {wanted}")]
    Platform {
        /// What the image is for.
        offered: String,
        /// What this machine is.
        wanted: String,
    },
    /// The daemon failed, or speaks another protocol.
    #[error("the daemon at {} gave no usable answer", socket.display())]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// What it said.
        source: bollard::errors::Error,
    },
    /// The daemon did not take an image that it was given.
    #[error("the daemon at {} does not take the image: {said}", socket.display())]
    Load {
        /// The socket.
        socket: PathBuf,
        /// What it said.
        said: String,
    },
    /// Nothing came for too long.
    #[error("the daemon at {} sent nothing for {} s", socket.display(), waited.as_secs_f32())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// Its name for the image is none.
    #[error("the daemon at {} names the image `{said}`, which is no SHA-256", socket.display())]
    Id {
        /// The socket.
        socket: PathBuf,
        /// What it said.
        said: String,
    },
    /// What it wrote is not what it was asked for.
    #[error("the daemon at {} gave another image than {id}", socket.display())]
    Another {
        /// The socket.
        socket: PathBuf,
        /// What was asked for.
        id: Digest,
    },
    /// The archive is larger than any image may be.
    #[error("its archive has more than {bytes_max} bytes")]
    TooLarge {
        /// Most bytes.
        bytes_max: u64,
    },
    /// There is no room for the archive.
    #[error("cannot keep its archive in {}", folder.display())]
    Write {
        /// Where it was to be.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DockerError {
    /// A way out, where there is an obvious one.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            DockerError::Host { .. } => Some("unset DOCKER_HOST for this command".to_owned()),
            DockerError::NoSocket { .. } => Some(
                "start it, or set DOCKER_HOST=unix://SOCKET; docker:// needs no daemon".to_owned(),
            ),
            DockerError::Connect { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("its socket is for a group that you are not in (`docker`, usually)".to_owned())
            }
            DockerError::NotThere { .. } => {
                Some("`docker images` lists them; docker:// pulls from a registry".to_owned())
            }
            DockerError::Write { .. } => {
                Some("`--store DIR` or TMPDIR names a directory with more room".to_owned())
            }
            DockerError::Connect { .. }
            | DockerError::Runtime { .. }
            | DockerError::Platform { .. }
            | DockerError::Answer { .. }
            | DockerError::Load { .. }
            | DockerError::Silent { .. }
            | DockerError::Id { .. }
            | DockerError::Another { .. }
            | DockerError::TooLarge { .. } => None,
        }
    }
}

fn list(sockets: &[PathBuf]) -> String {
    let sockets: Vec<_> = sockets.iter().map(|socket| socket.display().to_string()).collect();
    sockets.join(" or ")
}

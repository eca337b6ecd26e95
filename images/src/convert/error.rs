//! Why an image was not converted, in words for who must act.

use std::io;
use std::path::PathBuf;

use crate::{
    Digest, DockerError, LayerError, ReferenceError, ResolveError, SourceError, StoreError,
};

/// Why an image was not converted. What was at the target before is still there.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// It is not made of layers: this machine's own system.
    #[error("{reference} has no layers that could be converted")]
    NoLayers {
        /// What was asked for.
        reference: String,
    },
    /// The store's copy of a layer cannot be opened.
    #[error("cannot read a layer of {reference} from the store")]
    Store {
        /// What was asked for.
        reference: String,
        /// Why.
        source: StoreError,
    },
    /// The manifest's reference is none.
    #[error("cannot read layers from `{reference}`")]
    Reference {
        /// What the manifest says.
        reference: String,
        /// What is wrong with it.
        source: ReferenceError,
    },
    /// The place that the image is in cannot be opened any more, or does not give a layer.
    #[error("cannot read the layers of {reference}")]
    Source {
        /// What was asked for.
        reference: String,
        /// Why.
        source: Box<SourceError>,
    },
    /// The manifest or the configuration is not to be had as it was.
    #[error("cannot read the documents of {reference} again")]
    Documents {
        /// What was asked for.
        reference: String,
        /// Why.
        source: Box<ResolveError>,
    },
    /// A directory cannot be read, or holds what no layer can. The user names another.
    #[error("cannot read the directory {} as an image", path.display())]
    Pack {
        /// What was named.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A layer that would go on as it is broke off, or is another than it should be.
    #[error("cannot copy layer {digest} of {reference}")]
    Blob {
        /// What was asked for.
        reference: String,
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// A layer broke off, is another than it should be, or cannot be read.
    #[error("cannot convert layer {digest} of {reference}")]
    Layer {
        /// What was asked for.
        reference: String,
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: Box<LayerError>,
    },
    /// Something is there already.
    #[error("{} exists", path.display())]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// Something is there already, where a directory would have to be made.
    #[error("{} exists, and what is there is never replaced by a directory", path.display())]
    Occupied {
        /// What.
        path: PathBuf,
    },
    /// Another conversion writes to the same place, or somebody else has left something there.
    #[error("{} is in use by another conversion, or not ours", path.display())]
    Busy {
        /// The directory that work is done in.
        path: PathBuf,
    },
    /// The Docker or Podman of this machine does not take it.
    #[error("cannot put `{name}` into a Docker or Podman of this machine")]
    Docker {
        /// What it would be called there.
        name: String,
        /// Why not.
        source: Box<DockerError>,
    },
    /// The target's format has no place for something that the image has.
    #[error("{target} cannot hold {what}")]
    Unholdable {
        /// The target.
        target: String,
        /// What of the image.
        what: String,
    },
    /// The target cannot be written: the disk is full, or this user may not.
    #[error("{call} {}", path.display())]
    Disk {
        /// The call that failed.
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ConvertError {
    /// A way out, where there is an obvious one.
    pub fn hint(&self) -> Option<String> {
        let is_full = |source: &io::Error| source.kind() == io::ErrorKind::StorageFull;
        let full = || {
            "the disk of the target must hold the unpacked image and the target for a while"
                .to_owned()
        };
        match self {
            ConvertError::NoLayers { .. } => Some("dir:PATH is an image of a directory".to_owned()),
            ConvertError::Source { source, .. } => source.hint(),
            ConvertError::Documents { source, .. } => source.hint(),
            ConvertError::Docker { source, .. } => source.hint(),
            ConvertError::Exists { .. } => Some("`--force` replaces it".to_owned()),
            ConvertError::Occupied { .. } => Some("remove it, or name another place".to_owned()),
            ConvertError::Busy { .. } => {
                Some("remove it if no other conversion is at work".to_owned())
            }
            ConvertError::Disk { source, .. } if is_full(source) => Some(full()),
            ConvertError::Layer { source, .. } => match source.as_ref() {
                LayerError::Disk { source, .. } if is_full(source) => Some(full()),
                LayerError::Disk { .. }
                | LayerError::Read { .. }
                | LayerError::Blob { .. }
                | LayerError::DiffId { .. }
                | LayerError::NotKept { .. }
                | LayerError::Packing { .. }
                | LayerError::Malformed { .. }
                | LayerError::Entry { .. }
                | LayerError::Limit { .. }
                | LayerError::Store { .. } => None,
            },
            ConvertError::Store { .. }
            | ConvertError::Reference { .. }
            | ConvertError::Blob { .. }
            | ConvertError::Pack { .. }
            | ConvertError::Unholdable { .. }
            | ConvertError::Disk { .. } => None,
        }
    }
}

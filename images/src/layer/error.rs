//! Why a layer was not unpacked, in words for who must act.

use std::io;

use rustix::io::Errno;

use crate::store::hint_if_full;
use crate::{BlobFault, Digest, StoreError};

/// Why a layer was not unpacked. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob could not be read. Worth another try.
    #[error("cannot read blob {digest} at byte {offset}")]
    Read {
        /// The blob.
        digest: Digest,
        /// Where in it.
        offset: u64,
        /// What the source of the blob said.
        source: io::Error,
    },
    /// Other bytes came than the manifest names: damage on the way, or a source that lies.
    #[error("the blob of layer {diff_id} is not what its manifest names")]
    Blob {
        /// The layer.
        diff_id: Digest,
        /// What is wrong with the blob.
        source: BlobFault,
    },
    /// The blob is what the manifest names, but not the layer that the configuration names.
    #[error("blob {digest} should unpack to {expected}, its tar is {actual}")]
    DiffId {
        /// The blob.
        digest: Digest,
        /// What the image configuration promised.
        expected: Digest,
        /// What came out.
        actual: Digest,
    },
    /// The blob is not packed as its media type says, or packed wrongly. The image must be fixed.
    #[error("cannot unpack blob {digest} as {packing}: {what}")]
    Packing {
        /// The blob.
        digest: Digest,
        /// How it should be packed.
        packing: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// What was packed is not a tar archive that everyone reads alike.
    #[error("malformed tar archive at byte {offset}: {what}")]
    Malformed {
        /// Where, in the uncompressed tar.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// An entry that no honest layer has.
    #[error("refused entry `{path}`: {reason}")]
    Entry {
        /// Its name, escaped for a terminal.
        path: String,
        /// Why.
        reason: Refused,
    },
    /// A bound of [`Limits`](crate::Limits) was passed.
    #[error("layer passes the limit {limit}: {most}")]
    Limit {
        /// The field of `Limits`.
        limit: &'static str,
        /// Its value.
        most: u64,
    },
    /// The kernel would not write the tree: the disk is full or cannot hold what layers need, or
    /// this user may have no more threads.
    #[error("{call} `{path}` in the tree of layer {diff_id}")]
    Disk {
        /// The call that failed.
        call: &'static str,
        /// On what, inside the tree, escaped for a terminal.
        path: String,
        /// Which layer.
        diff_id: Digest,
        /// What the kernel said.
        source: io::Error,
    },
    /// The tree is there, the blob it was made from is not: an earlier version of this program did
    /// not keep it, or somebody removed it. Pulling the image anew after removing it brings both.
    #[error("the store does not have the blob {digest} of layer {diff_id}")]
    NotKept {
        /// The blob.
        digest: Digest,
        /// Which layer.
        diff_id: Digest,
    },
    /// The store around the tree failed.
    #[error("cannot keep layer {diff_id}")]
    Store {
        /// Which layer.
        diff_id: Digest,
        /// Why.
        source: StoreError,
    },
}

impl LayerError {
    /// A way out, where there is an obvious one.
    pub fn hint(&self) -> Option<String> {
        match self {
            LayerError::Disk { source, .. } => hint_if_full(source),
            LayerError::Store { source, .. } => source.hint(),
            LayerError::Read { .. }
            | LayerError::Blob { .. }
            | LayerError::DiffId { .. }
            | LayerError::NotKept { .. }
            | LayerError::Packing { .. }
            | LayerError::Malformed { .. }
            | LayerError::Entry { .. }
            | LayerError::Limit { .. } => None,
        }
    }
}

/// What is wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no name.
    #[error("its name is empty")]
    EmptyName,
    /// `..` in a name or in a hard link's target.
    #[error("`..` in a path")]
    DotDot,
    /// A NUL byte in a name, a link target or an attribute.
    #[error("a zero byte in a name")]
    ZeroByte,
    /// A component that no Linux file system stores (`NAME_MAX`, limits.h).
    #[error("a name of more than 255 bytes")]
    NameLength,
    /// The root of a layer can only be a directory.
    #[error("the root of a layer must be a directory")]
    Root,
    /// Something on the way to it is a file.
    #[error("`{parent}` is not a directory")]
    Parent {
        /// What is on the way.
        parent: String,
    },
    /// Too many symbolic links on the way to it (as ELOOP).
    #[error("too many symbolic links on the way")]
    Links,
    /// A hard link to something that this layer does not hold.
    #[error("its hard link target `{target}` is not a file of this layer")]
    HardLink {
        /// What it names.
        target: String,
    },
    /// A symbolic link to nothing, or to more than a path can hold.
    #[error("its link target is empty or too long")]
    LinkTarget,
    /// A whiteout that names nothing, or is not a plain file.
    #[error("malformed whiteout")]
    Whiteout,
    /// Sparse files have four encodings that readers disagree about; no image builder writes them.
    #[error("sparse files are not supported")]
    Sparse,
    /// A kind of entry that has no meaning in a layer.
    #[error("entry type {kind:#04x} is not supported")]
    Kind {
        /// The type flag of its header.
        kind: u8,
    },
    /// Readers disagree whether content follows such an entry.
    #[error("it claims {bytes} bytes of content but cannot have any")]
    Content {
        /// What it claims.
        bytes: u64,
    },
    /// An owner that cannot be mapped into a user namespace.
    #[error("owner {id} is not between 0 and 2147483647")]
    Owner {
        /// The user or group id.
        id: u64,
    },
}

/// Text of untrusted bytes, safe for a terminal and of bounded length.
pub(crate) fn shown(bytes: &[u8]) -> String {
    crate::shown::shown(&String::from_utf8_lossy(bytes))
}

/// What went wrong inside the tree, before anyone knows which layer it belongs to.
#[derive(Debug)]
pub(crate) enum Fault {
    Malformed {
        offset: u64,
        what: String,
    },
    Entry {
        path: Vec<u8>,
        reason: Refused,
    },
    Limit {
        limit: &'static str,
        most: u64,
    },
    Disk {
        call: &'static str,
        path: Vec<u8>,
        errno: Errno,
    },
    /// The sender of the bytes is gone before their end; it knows why.
    Cut,
}

//! Unpacks one layer: a blob in, one directory out that overlayfs can stack.
//!
//! Layers come from strangers, so this is where most attacks on an unpacker aim. Each file does one
//! thing about it, in the order in which bytes travel:
//!
//! - `packed` reads the blob once, counts and hashes it, and bounds what comes out of it;
//! - `spool` keeps a blob that must be read at random, `sif` finds the squashfs in it, and
//!   `squashfs` makes a tar of that;
//! - `bytes` carries the tar between threads;
//! - `header` and `pax` make entries of it, and refuse what readers disagree about;
//! - `name` says which path of the layer an entry means;
//! - `tree` finds and makes directories, below the layer's root whatever links there are;
//! - `write` makes everything else;
//! - `owner` knows whom files belong to that could not be given to them;
//! - `remove` takes a tree away again;
//! - `head` and `pack` go the other way: they make a tar of a tree;
//! - `unpacked` gives the tar itself, to whoever writes another format;
//! - `fingerprint` digests a tree as it is on disk, and `measure` says how much of it that takes.
//!
//! Three threads work on a layer: this one unpacks, one hashes the tar, one writes. A layer is
//! unpacked without its lower ones, so that layers can be unpacked in any order and shared by all
//! images; `docs/decisions/layers.md` says what follows from that.
//!
//! **Invariant:** nothing outside the root is read, changed or made, whatever the archive holds,
//! and what is accepted does not depend on who unpacks it.

mod bytes;
mod error;
mod fingerprint;
mod head;
mod header;
mod limits;
mod measure;
mod name;
mod owner;
mod pack;
mod packed;
mod pax;
mod remove;
pub(crate) mod sif;
mod spool;
mod squashfs;
mod tree;
mod unpacked;
mod write;

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};

pub use error::{LayerError, Refused};
pub use limits::Limits;
pub use owner::{Owned, copy_owned, give_away};
pub use pack::{Pack, Packed, pack_tree};
pub use remove::remove;
pub use unpacked::LayerTar;
pub use write::Contents;

pub(crate) use bytes::Bytes;
pub(crate) use error::{Fault, shown};
pub(crate) use fingerprint::{fingerprint, sorted_names};
pub(crate) use head::{END, Head};
pub(crate) use header::{Device, Entries, Entry, Kind, Status};
pub(crate) use measure::disk_bytes;
pub(crate) use name::{
    LayerPath, Meaning, NAME_BYTES_MAX, WHITEOUT_PREFIX, clean, join, meaning, split,
};
pub(crate) use owner::owner;
pub(crate) use pack::{TarWriter, is_opaque};
pub(crate) use pax::{CAPABILITY, Moment};
pub(crate) use spool::{Place, unnamed_file};
pub(crate) use squashfs::{SUPERBLOCK_BYTES, Superblock, diff_id as squashfs_diff_id};
pub(crate) use tree::{IMPLIED, times};

use crate::{Digest, LayerDescriptor, MediaType};
use bytes::Chunk;
use packed::{Counted, Stop};

/// Chunks on their way to each thread: enough to even out large and small files.
const CHUNKS_AHEAD: usize = 8;

/// Unpacks `blob` into the empty directory `root`, checking its size, its digest and its diff ID.
///
/// On error what was written so far is left in `root`, and means nothing: nobody may look at it
/// before this returns. Nothing is synced to disk.
///
/// # Errors
/// See [`LayerError`]. A blob that is not what the manifest names is told apart from one that is
/// but holds something wrong.
pub fn unpack_layer(
    layer: &LayerDescriptor,
    blob: &mut dyn std::io::Read,
    limits: &Limits,
    root: BorrowedFd<'_>,
) -> Result<Contents, LayerError> {
    read_layer(layer, blob, limits, Place::Within(root), |bytes| write::write(bytes, limits, root))
}

/// As [`unpack_layer`], of a `blob` that is kept in the file `copy` as far as it was read.
pub(crate) fn unpack_kept_layer(
    layer: &LayerDescriptor,
    blob: &mut dyn std::io::Read,
    limits: &Limits,
    root: BorrowedFd<'_>,
    copy: &File,
) -> Result<Contents, LayerError> {
    read_layer(layer, blob, limits, Place::Kept(copy), |bytes| write::write(bytes, limits, root))
}

/// Hands the tar in `blob` to `read`, in a thread of its own, and returns what it makes of that,
/// after the same checks as [`unpack_layer`].
///
/// # Errors
/// As [`unpack_layer`]; a [`Fault`] of `read` becomes the error it stands for.
pub(crate) fn read_layer<T: Send>(
    layer: &LayerDescriptor,
    blob: &mut dyn std::io::Read,
    limits: &Limits,
    place: Place<'_>,
    read: impl FnOnce(Bytes) -> Result<T, Fault> + Send,
) -> Result<T, LayerError> {
    let blob = Counted::new(blob, layer);
    let verify = || blob.drain().map_err(|stop| from_stop(stop, layer));
    let ended = run(layer, &blob, limits, place, read);
    let Ended { unpacked, read, diff_id } = ended.map_err(|source| no_thread(layer, source))?;
    let failed = match (unpacked, read) {
        (Ok(()), Ok(made)) => {
            verify()?;
            return check_diff_id(layer, diff_id).map(|()| made);
        }
        (Ok(()) | Err(Stop::Refused), Err(fault)) => from_fault(fault, layer),
        (Err(stop), _) => from_stop(stop, layer),
    };
    // Damage on the way shows as nonsense in the archive long before the digest can tell.
    if matches!(
        failed,
        LayerError::Packing { .. } | LayerError::Malformed { .. } | LayerError::Entry { .. }
    ) {
        verify()?;
    }
    Err(failed)
}

/// How the three threads ended.
struct Ended<T> {
    unpacked: Result<(), Stop>,
    read: Result<T, Fault>,
    diff_id: Digest,
}

/// Runs the three threads to their ends: unpacking, reading entries, and the digest of the tar.
fn run<T: Send>(
    layer: &LayerDescriptor,
    blob: &Counted<'_>,
    limits: &Limits,
    place: Place<'_>,
    read: impl FnOnce(Bytes) -> Result<T, Fault> + Send,
) -> std::io::Result<Ended<T>> {
    std::thread::scope(|scope| {
        let (to_reader, for_reader) = sync_channel(CHUNKS_AHEAD);
        let (to_hasher, for_hasher) = sync_channel(CHUNKS_AHEAD);
        // Where a user may have no more threads, the scope still ends: both channels close.
        let thread = std::thread::Builder::new;
        let reader = thread().spawn_scoped(scope, move || read(Bytes::new(for_reader)))?;
        let hasher = thread().spawn_scoped(scope, move || hash(&for_hasher))?;
        let unpacked = feed(layer, blob, limits, place, &to_reader, &to_hasher);
        drop((to_reader, to_hasher));
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let diff_id = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Ended { unpacked, read, diff_id })
    })
}

fn feed(
    layer: &LayerDescriptor,
    blob: &Counted<'_>,
    limits: &Limits,
    place: Place<'_>,
    reader: &SyncSender<Option<Chunk>>,
    hasher: &SyncSender<Chunk>,
) -> Result<(), Stop> {
    let mut sink = |chunk: Chunk| {
        hasher.send(Chunk::clone(&chunk)).is_ok() && reader.send(Some(chunk)).is_ok()
    };
    packed::unpack(blob, layer.media_type, limits, place, &mut sink)?;
    reader.send(None).map_err(|_| Stop::Refused)
}

/// Looks the squashfs `layer`, which is all of `file`, through for a kernel that shall mount it.
///
/// # Errors
/// As [`unpack_layer`], and for whatever unpacking would leave out or change.
pub(crate) fn look_through(
    layer: &LayerDescriptor,
    file: &File,
    limits: &Limits,
) -> Result<(), LayerError> {
    let span = sif::Span { offset: 0, bytes: layer.blob_bytes };
    squashfs::look_through(file, span, limits).map_err(|stop| from_stop(stop, layer))
}

/// Copies `blob` as it is to `target`, checking its size and its digest.
///
/// # Errors
/// [`LayerError::Read`], [`LayerError::Blob`] or [`LayerError::Disk`]; what was copied so far
/// means nothing.
pub(crate) fn copy_blob(
    layer: &LayerDescriptor,
    blob: &mut dyn std::io::Read,
    target: &mut dyn std::io::Write,
) -> Result<(), LayerError> {
    let blob = Counted::new(blob, layer);
    spool::copy_to(&blob, &mut &blob, target).map_err(|stop| from_stop(stop, layer))
}

fn hash(chunks: &Receiver<Chunk>) -> Digest {
    let mut hasher = Sha256::new();
    for chunk in chunks {
        hasher.update(&*chunk);
    }
    Digest::from_hasher(hasher)
}

/// Whether the tar with the digest `actual` is that of the layer. That of a squashfs, alone or in a
/// SIF, has no name of its own: its blob was verified.
fn check_diff_id(layer: &LayerDescriptor, actual: Digest) -> Result<(), LayerError> {
    let actual = match layer.media_type {
        MediaType::Squashfs => squashfs::diff_id(&layer.digest),
        MediaType::Sif => sif::diff_id(&layer.digest),
        MediaType::Tar | MediaType::TarGzip | MediaType::TarZstd => actual,
    };
    let (digest, expected) = (layer.digest, layer.diff_id);
    if actual != expected {
        return Err(LayerError::DiffId { digest, expected, actual });
    }
    Ok(())
}

/// This user may have no more threads (`RLIMIT_NPROC`, a pids cgroup).
fn no_thread(layer: &LayerDescriptor, source: std::io::Error) -> LayerError {
    let (call, path, diff_id) = ("pthread_create(3)", ".".to_owned(), layer.diff_id);
    LayerError::Disk { call, path, diff_id, source }
}

fn from_stop(stop: Stop, layer: &LayerDescriptor) -> LayerError {
    let digest = layer.digest;
    match stop {
        Stop::Read { offset, source } => LayerError::Read { digest, offset, source },
        Stop::Blob(source) => LayerError::Blob { diff_id: layer.diff_id, source },
        Stop::Packing(what) => {
            let packing = packed::packing(layer.media_type);
            LayerError::Packing { digest, packing, what }
        }
        Stop::Disk { call, source } => {
            let (path, diff_id) = (".".to_owned(), layer.diff_id);
            LayerError::Disk { call, path, diff_id, source }
        }
        Stop::Limit { limit, most } => LayerError::Limit { limit, most },
        Stop::Refused => unreachable!("a reader that refuses chunks has failed"),
    }
}

fn from_fault(fault: Fault, layer: &LayerDescriptor) -> LayerError {
    match fault {
        Fault::Malformed { offset, what } => LayerError::Malformed { offset, what },
        Fault::Entry { path, reason } => LayerError::Entry { path: shown(&path), reason },
        Fault::Limit { limit, most } => LayerError::Limit { limit, most },
        Fault::Disk { call, path, errno } => LayerError::Disk {
            call,
            path: shown(&path),
            diff_id: layer.diff_id,
            source: errno.into(),
        },
        Fault::Cut => unreachable!("chunks end early only when unpacking failed"),
    }
}

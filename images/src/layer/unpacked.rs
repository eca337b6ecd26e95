//! The uncompressed tar of a layer whose blob is in a file: what writers of other formats read.
//!
//! A thread unpacks, and hashes what comes out; it is at most a few chunks ahead of the reader. As
//! in [`Verified`](crate::Verified), the last bytes are handed out only after everything was found
//! right.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use super::bytes::Chunk;
use super::packed::{self, Counted, Stop};
use super::spool::Place;
use super::{CHUNKS_AHEAD, LayerError, Limits, check_diff_id, from_stop, no_thread};
use crate::{Digest, LayerDescriptor};

/// The uncompressed tar of a layer. What it says about its entries is not looked at.
///
/// A read fails with a [`LayerError`] inside the [`io::Error`] if the blob is not the layer's, is
/// wrongly packed, or passes a limit. Whoever has read to the end has read what the diff ID names;
/// of a squashfs, what this version of the program makes of a blob that is the layer's.
#[derive(Debug)]
pub struct LayerTar {
    /// Closed without an end if the thread failed in a way that it could not tell.
    pieces: Option<Receiver<Piece>>,
    current: Chunk,
    position: usize,
    thread: Option<JoinHandle<()>>,
}

enum Piece {
    Bytes(Chunk),
    Failure(LayerError),
    End,
}

impl LayerTar {
    /// Unpacks `blob`, which should be that of `layer`, from its beginning.
    pub(crate) fn new(
        layer: &LayerDescriptor,
        blob: File,
        limits: &Limits,
    ) -> Result<LayerTar, LayerError> {
        let (sender, pieces) = sync_channel(CHUNKS_AHEAD);
        let (whose, limits) = (layer.clone(), limits.clone());
        let unpack = move || {
            let end = match unpack(&whose, &blob, &limits, &sender) {
                Ok(()) => Piece::End,
                Err(Some(error)) => Piece::Failure(error),
                Err(None) => return,
            };
            // Nobody may want to know any more.
            let _ = sender.send(end);
        };
        let thread = std::thread::Builder::new().spawn(unpack);
        let thread = Some(thread.map_err(|source| no_thread(layer, source))?);
        Ok(LayerTar { pieces: Some(pieces), current: Chunk::default(), position: 0, thread })
    }

    /// Waits for the next chunk; `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        let Some(pieces) = &self.pieces else { return Ok(false) };
        match pieces.recv() {
            Ok(Piece::Bytes(chunk)) => {
                (self.current, self.position) = (chunk, 0);
                Ok(true)
            }
            Ok(Piece::End) => {
                self.pieces = None;
                Ok(false)
            }
            Ok(Piece::Failure(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(_) => Err(io::Error::other("this layer's tar was found to be wrong before")),
        }
    }
}

impl Read for LayerTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() {
            if buffer.is_empty() || !self.next()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.current.len() - self.position);
        buffer[..count].copy_from_slice(&self.current[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

impl Drop for LayerTar {
    /// The thread sees that nobody listens, and ends.
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends the tar of `layer`, all but the end. `Err(None)`: nobody wants it any more.
fn unpack(
    layer: &LayerDescriptor,
    file: &File,
    limits: &Limits,
    sender: &SyncSender<Piece>,
) -> Result<(), Option<LayerError>> {
    let stopped = |stop| match stop {
        Stop::Refused => None,
        stop @ (Stop::Read { .. }
        | Stop::Blob(_)
        | Stop::Packing(_)
        | Stop::Disk { .. }
        | Stop::Limit { .. }) => Some(from_stop(stop, layer)),
    };
    let mut from_start = file;
    let blob = Counted::new(&mut from_start, layer);
    let mut hasher = Sha256::new();
    let mut held: Option<Chunk> = None;
    let mut sink = |chunk: Chunk| {
        hasher.update(&*chunk);
        held.replace(chunk).is_none_or(|before| sender.send(Piece::Bytes(before)).is_ok())
    };
    let unpacked = packed::unpack(&blob, layer.media_type, limits, Place::Kept(file), &mut sink);
    match unpacked {
        Ok(()) => blob.drain().map_err(stopped)?,
        // Damage shows as nonsense in what is packed before the digest can tell.
        Err(stop @ Stop::Packing(_)) => {
            blob.drain().map_err(stopped)?;
            return Err(stopped(stop));
        }
        Err(stop) => return Err(stopped(stop)),
    }
    check_diff_id(layer, Digest::from_hasher(hasher)).map_err(Some)?;
    match held {
        Some(last) => sender.send(Piece::Bytes(last)).map_err(|_| None),
        None => Ok(()),
    }
}

//! Writes a tar, piece by piece: what the rest of the extractor reads.

use std::sync::Arc;

use crate::layer::Limits;
use crate::layer::bytes::Chunk;
use crate::layer::head::{END, Head, padding};
use crate::layer::packed::{CHUNK_BYTES, Stop, check_size};

/// Collects bytes to chunks and hands those on.
pub(super) struct Archive<'a> {
    sink: &'a mut dyn FnMut(Chunk) -> bool,
    limits: &'a Limits,
    chunk: Vec<u8>,
    total: u64,
    packed: u64,
}

impl<'a> Archive<'a> {
    /// An archive made of `packed` bytes, by which its size is judged.
    pub(super) fn new(
        packed: u64,
        limits: &'a Limits,
        sink: &'a mut dyn FnMut(Chunk) -> bool,
    ) -> Archive<'a> {
        Archive { sink, limits, chunk: Vec::with_capacity(CHUNK_BYTES), total: 0, packed }
    }

    /// Writes the headers of an entry.
    pub(super) fn head(&mut self, head: &Head<'_>) -> Result<(), Stop> {
        self.write(&head.encode())
    }

    /// Writes a piece of content.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let count = bytes.len().min(CHUNK_BYTES - self.chunk.len());
            self.chunk.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.chunk.len() == CHUNK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Fills the last block after `content` bytes.
    pub(super) fn pad(&mut self, content: u64) -> Result<(), Stop> {
        self.write(padding(content))
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<(), Stop> {
        self.write(&END)?;
        if self.chunk.is_empty() { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.total += self.chunk.len() as u64;
        check_size(self.total, self.packed, self.limits)?;
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        if (self.sink)(Arc::new(chunk)) { Ok(()) } else { Err(Stop::Refused) }
    }
}

//! The uncompressed tar as it arrives from the thread that unpacks it, without copying.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::error::Fault;

/// Unit of a tar archive: headers fill one block, contents are padded to whole ones (ustar,
/// POSIX.1-2017 `pax`).
pub(super) const BLOCK_BYTES: usize = 512;

/// A piece of the tar, shared by the threads that hash it and that write its files.
pub(super) type Chunk = Arc<Vec<u8>>;

/// The receiving end. Each chunk is `Some`, the proper end is `None`; a sender that goes away
/// before it has failed, and knows why.
#[derive(Debug)]
pub(crate) struct Bytes {
    chunks: Receiver<Option<Chunk>>,
    current: Chunk,
    position: usize,
    offset: u64,
    ended: bool,
}

impl Bytes {
    pub(super) fn new(chunks: Receiver<Option<Chunk>>) -> Bytes {
        Bytes { chunks, current: Arc::default(), position: 0, offset: 0, ended: false }
    }

    /// Bytes of the tar that were taken so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes what is at hand, at most `most` bytes. Empty only at the end of the tar.
    pub(super) fn take(&mut self, most: u64) -> Result<&[u8], Fault> {
        while self.position == self.current.len() && !self.ended {
            match self.chunks.recv() {
                Ok(Some(chunk)) => (self.current, self.position) = (chunk, 0),
                Ok(None) => self.ended = true,
                Err(_) => return Err(Fault::Cut),
            }
        }
        let start = self.position;
        let left = self.current.len() - start;
        let taken = usize::try_from(most).map_or(left, |most| most.min(left));
        self.position += taken;
        self.offset += taken as u64;
        Ok(&self.current[start..start + taken])
    }

    /// Takes one whole block; none at the end of the tar.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, Fault> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let piece = self.take((BLOCK_BYTES - filled) as u64)?;
            if piece.is_empty() && filled == 0 {
                return Ok(None);
            }
            if piece.is_empty() {
                return Err(self.truncated());
            }
            block[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        Ok(Some(block))
    }

    /// Hands exactly `count` bytes to `sink`, piece by piece.
    pub(super) fn copy(
        &mut self,
        count: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut left = count;
        while left > 0 {
            let piece = self.take(left)?;
            if piece.is_empty() {
                return Err(self.truncated());
            }
            left -= piece.len() as u64;
            sink(piece)?;
        }
        Ok(())
    }

    /// Hands everything that is left to `sink`, piece by piece.
    pub(crate) fn pieces(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        loop {
            match self.take(u64::MAX)? {
                [] => return Ok(()),
                piece => sink(piece)?,
            }
        }
    }

    /// Takes everything that is left, so that all of it is hashed and counted.
    pub(super) fn drain(&mut self) -> Result<(), Fault> {
        self.pieces(|_| Ok(()))
    }

    fn truncated(&self) -> Fault {
        Fault::Malformed { offset: self.offset, what: "the archive ends in the middle".to_owned() }
    }
}

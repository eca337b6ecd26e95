//! Blocks of 8 KiB that hold everything but contents, and rows of numbers in them.

use super::Unwritten;
use super::pack::{Compression, Packer};

/// Bytes of a block before it is packed (squashfs.rst, "Inodes").
pub(super) const BLOCK_BYTES: usize = 8192;

/// Numbers of a format, little-endian, one after the other.
#[derive(Debug, Default)]
pub(in crate::convert) struct Row(Vec<u8>);

impl Row {
    pub(in crate::convert) fn bytes(&mut self, bytes: &[u8]) -> &mut Row {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(in crate::convert) fn u16(&mut self, value: u16) -> &mut Row {
        self.bytes(&value.to_le_bytes())
    }

    pub(in crate::convert) fn u32(&mut self, value: u32) -> &mut Row {
        self.bytes(&value.to_le_bytes())
    }

    pub(in crate::convert) fn u64(&mut self, value: u64) -> &mut Row {
        self.bytes(&value.to_le_bytes())
    }

    pub(in crate::convert) fn i64(&mut self, value: i64) -> &mut Row {
        self.bytes(&value.to_le_bytes())
    }

    /// Adds zeros until there are `count` bytes.
    pub(in crate::convert) fn fill(&mut self, count: usize) -> &mut Row {
        self.0.resize(count.max(self.0.len()), 0);
        self
    }

    pub(in crate::convert) fn len(&self) -> usize {
        self.0.len()
    }

    pub(in crate::convert) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

/// A place in a stream of blocks: where its block begins once packed, and where in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: u64,
    pub(super) offset: u16,
}

impl Place {
    /// As one number, which is how inodes refer to places.
    pub(super) fn reference(self) -> u64 {
        self.block << 16 | u64::from(self.offset)
    }
}

/// A stream of bytes in packed blocks.
pub(super) struct Table {
    packer: Packer,
    block: Vec<u8>,
    packed: Vec<u8>,
    /// Where each block begins.
    starts: Vec<u64>,
}

impl Table {
    pub(super) fn new(compression: Compression) -> Result<Table, Unwritten> {
        let packer = Packer::new(compression)?;
        Ok(Table { packer, block: Vec::new(), packed: Vec::new(), starts: Vec::new() })
    }

    /// Where the next byte will be.
    pub(super) fn place(&self) -> Place {
        let offset = u16::try_from(self.block.len()).expect("a full block was packed");
        Place { block: self.packed.len() as u64, offset }
    }

    pub(super) fn row(&mut self, row: &Row) {
        self.write(row.as_slice());
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = bytes.len().min(BLOCK_BYTES - self.block.len());
            self.block.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.block.len() == BLOCK_BYTES {
                self.flush();
            }
        }
    }

    /// The packed blocks, and where each of them begins.
    pub(super) fn finish(mut self) -> (Vec<u8>, Vec<u64>) {
        if !self.block.is_empty() {
            self.flush();
        }
        (self.packed, self.starts)
    }

    fn flush(&mut self) {
        const PLAIN: u16 = 1 << 15;
        self.starts.push(self.packed.len() as u64);
        let packed = self.packer.pack(std::mem::take(&mut self.block));
        let count = u16::try_from(packed.bytes.len()).expect("a block has at most 8192 bytes");
        let header = if packed.is_plain { count | PLAIN } else { count };
        self.packed.extend_from_slice(&header.to_le_bytes());
        self.packed.extend_from_slice(&packed.bytes);
    }
}

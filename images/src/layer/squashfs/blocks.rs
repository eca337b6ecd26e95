//! Bytes of the file, and blocks of it unpacked: never beyond its end, never more than a block
//! holds, and in all no more than the limits allow.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use flate2::{Decompress, FlushDecompress, Status};
use lzma_rust2::XzReader;

use super::superblock::{Packing, Superblock};
use super::wrong;
use crate::Limits;
use crate::layer::packed::Stop;

/// Most bytes that a block of a table unpacks to (squashfs.rst, "Inodes").
pub(super) const TABLE_BLOCK_BYTES: usize = 8192;

/// Memory for one block in xz. The kernel takes dictionaries of at most a block, 1 MiB
/// (fs/squashfs/xz_wrapper.c); the rest is the decoder's own.
const XZ_MEMORY_KIB_MAX: u32 = 2 << 10;

/// Blocks that are kept unpacked. Neighbours in a directory share those of tables and, as packers
/// write tails in the same order, those of tails.
const TABLE_BLOCKS_KEPT: usize = 128;
const FRAGMENTS_KEPT: usize = 8;

/// A block of a table.
#[derive(Debug)]
pub(super) struct TableBlock {
    pub(super) bytes: Vec<u8>,
    /// Where the next one begins.
    pub(super) next: u64,
}

/// Reads blocks of one file system.
pub(super) struct Blocks<'a> {
    file: &'a File,
    /// Where the file system begins in it.
    start: u64,
    pub(super) superblock: &'a Superblock,
    unpacker: Unpacker,
    tables: Recent<TableBlock>,
    fragments: Recent<Vec<u8>>,
    /// Bytes unpacked so far, again and again if the file has one block read many times.
    unpacked: u64,
    unpacked_max: u64,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(
        file: &'a File,
        start: u64,
        superblock: &'a Superblock,
        limits: &Limits,
    ) -> Result<Blocks<'a>, Stop> {
        Ok(Blocks {
            file,
            start,
            superblock,
            unpacker: Unpacker::new(superblock.packing)?,
            tables: Recent::new(TABLE_BLOCKS_KEPT),
            fragments: Recent::new(FRAGMENTS_KEPT),
            unpacked: 0,
            unpacked_max: limits.unpacked_bytes_max,
        })
    }

    /// Reads `count` bytes at `offset` of the file system as they are in the file.
    pub(super) fn read(&self, offset: u64, count: usize) -> Result<Vec<u8>, Stop> {
        self.check_within(offset, count)?;
        let mut bytes = vec![0; count];
        self.file
            .read_exact_at(&mut bytes, self.start + offset)
            .map_err(|source| Stop::Disk { call: "pread(2)", source })?;
        Ok(bytes)
    }

    /// The block of a table that begins at `offset`.
    pub(super) fn table(&mut self, offset: u64) -> Result<Rc<TableBlock>, Stop> {
        if let Some(block) = self.tables.get(offset) {
            return Ok(block);
        }
        const PLAIN: u16 = 1 << 15;
        let header = self.read(offset, 2)?;
        let header = u16::from_le_bytes([header[0], header[1]]);
        let count = usize::from(header & !PLAIN);
        if count == 0 || count > TABLE_BLOCK_BYTES {
            return Err(wrong(format!("the block of a table at byte {offset} has a wrong size")));
        }
        let bytes = self.unpack(offset + 2, count, header & PLAIN != 0, TABLE_BLOCK_BYTES)?;
        let next = offset + 2 + count as u64;
        Ok(self.tables.keep(offset, TableBlock { bytes, next }))
    }

    /// The block of tails that begins at `offset`.
    pub(super) fn fragment(&mut self, offset: u64, size: u32) -> Result<Rc<Vec<u8>>, Stop> {
        if let Some(block) = self.fragments.get(offset) {
            return Ok(block);
        }
        let bytes = self.data(offset, size)?;
        Ok(self.fragments.keep(offset, bytes))
    }

    /// A block of data at `offset`, whose size is written as in a list of blocks.
    pub(super) fn data(&mut self, offset: u64, size: u32) -> Result<Vec<u8>, Stop> {
        let (count, is_plain) = packed_size(size);
        self.check_data(offset, size)?;
        self.unpack(offset, count, is_plain, self.superblock.block_bytes)
    }

    /// Whether such a block can be one, and lies within the file.
    pub(super) fn check_data(&self, offset: u64, size: u32) -> Result<(), Stop> {
        let (count, _) = packed_size(size);
        if count == 0 || count > self.superblock.block_bytes {
            return Err(wrong(format!("the data at byte {offset} has a wrong size")));
        }
        self.check_within(offset, count)
    }

    fn check_within(&self, offset: u64, count: usize) -> Result<(), Stop> {
        let end = offset.checked_add(count as u64);
        if end.is_none_or(|end| end > self.superblock.end) {
            return Err(wrong(format!("it refers to byte {offset}, beyond its end")));
        }
        Ok(())
    }

    fn unpack(
        &mut self,
        offset: u64,
        count: usize,
        is_plain: bool,
        most: usize,
    ) -> Result<Vec<u8>, Stop> {
        let packed = self.read(offset, count)?;
        let bytes = if is_plain { packed } else { self.unpacker.run(&packed, most, offset)? };
        self.unpacked += bytes.len() as u64;
        if self.unpacked > self.unpacked_max {
            return Err(Stop::Limit { limit: "unpacked_bytes_max", most: self.unpacked_max });
        }
        Ok(bytes)
    }
}

/// Bytes of a data block in the file, and whether they are not packed. 0 bytes is a hole.
pub(super) fn packed_size(size: u32) -> (usize, bool) {
    const PLAIN: u32 = 1 << 24;
    // The bits above are zero in every real file, and too much for any block otherwise.
    (usize::try_from(size & !PLAIN).unwrap_or(usize::MAX), size & PLAIN != 0)
}

enum Unpacker {
    Zlib(Box<Decompress>),
    Xz,
    Lz4,
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Unpacker {
    fn new(packing: Packing) -> Result<Unpacker, Stop> {
        Ok(match packing {
            Packing::Zlib => Unpacker::Zlib(Box::new(Decompress::new(true))),
            Packing::Xz => Unpacker::Xz,
            Packing::Lz4 => Unpacker::Lz4,
            Packing::Zstd => Unpacker::Zstd(zstd::bulk::Decompressor::new().map_err(damaged(0))?),
        })
    }

    /// Unpacks one block to at most `most` bytes; none at all is wrong too.
    fn run(&mut self, packed: &[u8], most: usize, offset: u64) -> Result<Vec<u8>, Stop> {
        let mut bytes = Vec::with_capacity(most);
        match self {
            Unpacker::Zlib(stream) => {
                stream.reset(true);
                let status = stream.decompress_vec(packed, &mut bytes, FlushDecompress::Finish);
                let status = status.map_err(io::Error::other).map_err(damaged(offset))?;
                if status != Status::StreamEnd {
                    return Err(damaged(offset)(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Unpacker::Xz => {
                let stream = XzReader::new_mem_limit(packed, false, XZ_MEMORY_KIB_MAX);
                // One byte more tells a block that is too large from one that is full.
                let mut bounded = stream.take(most as u64 + 1);
                bounded.read_to_end(&mut bytes).map_err(damaged(offset))?;
                if bytes.len() > most {
                    return Err(wrong(format!("the block at byte {offset} is too large")));
                }
            }
            Unpacker::Lz4 => {
                bytes.resize(most, 0);
                let count = lz4_flex::block::decompress_into(packed, &mut bytes);
                bytes.truncate(count.map_err(io::Error::other).map_err(damaged(offset))?);
            }
            Unpacker::Zstd(context) => {
                context.decompress_to_buffer(packed, &mut bytes).map_err(damaged(offset))?;
            }
        }
        if bytes.is_empty() {
            return Err(wrong(format!("the block at byte {offset} is empty")));
        }
        Ok(bytes)
    }
}

fn damaged(offset: u64) -> impl FnOnce(io::Error) -> Stop {
    move |error| wrong(format!("the block at byte {offset} cannot be unpacked: {error}"))
}

/// The blocks used last, latest first, by where they begin.
struct Recent<T> {
    kept: Vec<(u64, Rc<T>)>,
    most: usize,
}

impl<T> Recent<T> {
    fn new(most: usize) -> Recent<T> {
        Recent { kept: Vec::with_capacity(most), most }
    }

    fn get(&mut self, offset: u64) -> Option<Rc<T>> {
        let at = self.kept.iter().position(|(known, _)| *known == offset)?;
        self.kept[..=at].rotate_right(1);
        Some(Rc::clone(&self.kept[0].1))
    }

    fn keep(&mut self, offset: u64, block: T) -> Rc<T> {
        let block = Rc::new(block);
        self.kept.truncate(self.most - 1);
        self.kept.insert(0, (offset, Rc::clone(&block)));
        block
    }
}

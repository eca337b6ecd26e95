//! Packs one block, with whichever compressor was asked for.

use std::io;

use flate2::{Compress, FlushCompress, Status};

use super::Unwritten;

/// Level of zlib that `gzip(1)` has by default: the next ones cost twice the time for a hundredth.
const GZIP_LEVEL: u32 = 6;
/// Level of Zstandard that the library has by default. `mksquashfs` takes 15, at fifteen times the
/// time for an eighth of the bytes.
const ZSTD_LEVEL: i32 = 3;

/// How blocks of a squashfs are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// What kernels read since 4.14 and Apptainer's `squashfuse` does.
    #[default]
    Zstd,
    /// What every kernel reads, more slowly.
    Gzip,
}

impl Compression {
    /// Its number in a superblock (squashfs_fs.h, `ZLIB_COMPRESSION`, `ZSTD_COMPRESSION`).
    pub(super) fn number(self) -> u16 {
        match self {
            Compression::Gzip => 1,
            Compression::Zstd => 6,
        }
    }
}

/// A block as it is stored.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) bytes: Vec<u8>,
    /// Packing would not have made it smaller.
    pub(super) is_plain: bool,
}

/// Packs blocks, one after the other, each for itself.
pub(super) enum Packer {
    Gzip(Box<Compress>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Packer {
    pub(super) fn new(compression: Compression) -> Result<Packer, Unwritten> {
        let failed = |source: io::Error| Unwritten::Disk { call: "malloc(3)", source };
        Ok(match compression {
            Compression::Gzip => {
                Packer::Gzip(Box::new(Compress::new(flate2::Compression::new(GZIP_LEVEL), true)))
            }
            Compression::Zstd => {
                Packer::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(failed)?)
            }
        })
    }

    /// Packs a block, or leaves it as it is if that is no larger.
    pub(super) fn pack(&mut self, block: Vec<u8>) -> Packed {
        // No room for more than the block itself: what does not fit is not worth packing.
        let mut bytes = Vec::with_capacity(block.len());
        let fits = match self {
            Packer::Gzip(stream) => {
                stream.reset();
                let packed = stream.compress_vec(&block, &mut bytes, FlushCompress::Finish);
                matches!(packed, Ok(Status::StreamEnd))
            }
            Packer::Zstd(context) => context.compress_to_buffer(&block, &mut bytes).is_ok(),
        };
        if fits && bytes.len() < block.len() {
            Packed { bytes, is_plain: false }
        } else {
            Packed { bytes: block, is_plain: true }
        }
    }
}

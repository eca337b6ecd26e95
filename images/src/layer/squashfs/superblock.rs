//! The first 96 bytes of a squashfs: what it is and where its tables are.
//!
//! Format 4.0 of Linux 2.6.29 and later (Documentation/filesystems/squashfs.rst and
//! fs/squashfs/squashfs_fs.h). Pure: bytes in, checked numbers out.

/// Bytes of the superblock.
pub(crate) const SUPERBLOCK_BYTES: usize = 96;

/// Stands for a table that is not there.
const ABSENT: u64 = u64::MAX;

/// `hsqs`, little-endian.
const MAGIC: u32 = 0x7371_7368;

/// Sizes of a data block that the kernel takes: 4 KiB to 1 MiB (`SQUASHFS_FILE_MAX_LOG`).
const BLOCK_LOG: std::ops::RangeInclusive<u16> = 12..=20;

/// How blocks are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Zlib,
    Xz,
    Lz4,
    Zstd,
}

/// A superblock whose numbers lie within the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(super) packing: Packing,
    /// Bytes of a full data block.
    pub(super) block_bytes: usize,
    /// End of the file system; what follows is padding.
    pub(super) end: u64,
    pub(super) ids: u16,
    pub(super) fragments: u32,
    /// Where the root's inode is, relative to `inode_table`.
    pub(super) root: u64,
    pub(super) id_table: u64,
    pub(super) inode_table: u64,
    pub(super) directory_table: u64,
    /// None if no file has a tail in a fragment.
    pub(super) fragment_table: Option<u64>,
    /// None if no file has extended attributes.
    pub(super) xattr_table: Option<u64>,
}

impl Superblock {
    /// Reads the superblock at the start of a file system in `file_bytes` bytes.
    ///
    /// # Errors
    /// What is wrong with the first number that cannot be.
    pub(crate) fn parse(start: &[u8], file_bytes: u64) -> Result<Superblock, String> {
        let Some(bytes) = start.first_chunk::<SUPERBLOCK_BYTES>() else {
            return Err(format!("it has {} bytes, fewer than any squashfs", start.len()));
        };
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC {
            return Err("it does not begin as a squashfs does".to_owned());
        }
        let (major, minor) = (u16_at(28), u16_at(30));
        if (major, minor) != (4, 0) {
            return Err(format!("its format is {major}.{minor}, only 4.0 is read"));
        }
        let (block_bytes, block_log) = (u32_at(12), u16_at(22));
        if !BLOCK_LOG.contains(&block_log) || block_bytes != 1 << block_log {
            return Err(format!("its block size {block_bytes} is wrong"));
        }
        let end = u64_at(40);
        if end > file_bytes {
            return Err(format!("it should have {end} bytes, there are {file_bytes}"));
        }
        let table = |name: &str, at: usize| match u64_at(at) {
            offset if (SUPERBLOCK_BYTES as u64..end).contains(&offset) => Ok(offset),
            offset => Err(format!("its {name} table at byte {offset} is not within it")),
        };
        let optional = |name: &str, at: usize| {
            if u64_at(at) == ABSENT { Ok(None) } else { table(name, at).map(Some) }
        };
        let (ids, fragments) = (u16_at(26), u32_at(16));
        if ids == 0 {
            return Err("it has no owners".to_owned());
        }
        Ok(Superblock {
            packing: packing(u16_at(20))?,
            block_bytes: 1 << block_log,
            end,
            ids,
            fragments,
            root: u64_at(32),
            id_table: table("id", 48)?,
            xattr_table: optional("attribute", 56)?,
            inode_table: table("inode", 64)?,
            directory_table: table("directory", 72)?,
            fragment_table: if fragments == 0 { None } else { optional("fragment", 80)? },
        })
    }
}

fn packing(number: u16) -> Result<Packing, String> {
    let name = match number {
        1 => return Ok(Packing::Zlib),
        4 => return Ok(Packing::Xz),
        5 => return Ok(Packing::Lz4),
        6 => return Ok(Packing::Zstd),
        2 => "lzma",
        3 => "lzo",
        _ => return Err(format!("its packing {number} is unknown")),
    };
    Err(format!("its blocks are packed with {name}: only gzip, xz, lz4 and zstd are read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"hsqs");
        put(12, &(128_u32 << 10).to_le_bytes());
        put(20, &[1, 0, 17, 0]);
        put(26, &[1, 0, 4, 0]);
        put(40, &4096_u64.to_le_bytes());
        for (at, offset) in [(48, 400_u64), (56, ABSENT), (64, 200), (72, 300), (80, ABSENT)] {
            put(at, &offset.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn reads_where_tables_are() {
        let superblock = Superblock::parse(&valid(), 4096).unwrap();
        assert_eq!((superblock.block_bytes, superblock.packing), (128 << 10, Packing::Zlib));
        assert_eq!((superblock.inode_table, superblock.directory_table), (200, 300));
        assert_eq!((superblock.fragment_table, superblock.xattr_table), (None, None));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let cases: [(usize, &[u8], &str); 9] = [
            (0, b"sqsh", "does not begin"),
            (12, &[0, 0, 0, 0], "block size"),
            (22, &[31, 0], "block size"),
            (20, &[3, 0], "lzo"),
            (20, &[9, 0], "packing 9"),
            (28, &[3, 0], "3.0"),
            (26, &[0, 0], "owners"),
            (40, &[1, 16], "there are 4096"),
            (72, &[0xff; 7], "directory table"),
        ];
        for (at, value, expected) in cases {
            let mut bytes = valid();
            bytes[at..at + value.len()].copy_from_slice(value);
            let wrong = Superblock::parse(&bytes, 4096).unwrap_err();
            assert!(wrong.contains(expected), "{at}: {wrong}");
        }
        assert!(Superblock::parse(&valid()[..95], 95).unwrap_err().contains("95 bytes"));
    }
}

//! Writes a squashfs of a tree: format 4.0 of Linux 2.6.29 and later, as the kernel mounts it.
//!
//! The writer is ours: `mksquashfs` is not on every node and needs an unpacked tree with the right
//! owners, and no crate keeps hard links and attributes (`docs/decisions/conversion.md`). In the
//! order in which a file system is written:
//!
//! - `number` gives every inode its number, and files their order;
//! - `data` packs contents with all processors, in that order;
//! - `metadata` packs everything else in blocks of 8 KiB;
//! - `attributes` and `inodes` say what things are, `listing` what they are called.
//!
//! The same tree gives the same bytes, whoever writes it and however many processors there are:
//! the superblock's time is 0, and nothing depends on what is ready first.
//!
//! Field names and layouts are those of fs/squashfs/squashfs_fs.h (Linux 6.1) and
//! Documentation/filesystems/squashfs.rst.

mod attributes;
mod data;
mod inodes;
mod listing;
mod metadata;
mod number;
mod pack;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::tree::Tree;
use metadata::Table;

pub(super) use metadata::Row;
pub use pack::Compression;

/// Bytes of a full block of data: what every tool makes by default.
const BLOCK_BYTES: usize = 128 << 10;
const BLOCK_LOG: u16 = 17;

const SUPERBLOCK_BYTES: usize = 96;

/// File systems end at a multiple of this, so that a loop device shows all of them.
const PADDING_BYTES: u64 = 4096;

/// Stands for a table or a fragment that is not there.
const ABSENT: u64 = u64::MAX;
const NONE: u32 = u32::MAX;

/// Why no file system was written.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// A file cannot be read or written.
    Disk { call: &'static str, source: io::Error },
    /// The tree has something that the format cannot hold.
    Unholdable(String),
}

/// What became of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// With padding.
    pub(super) bytes: u64,
    /// Times that lost a fraction of a second, or lie outside of what 32 bits count from 1970.
    pub(super) times_changed: u64,
}

/// Writes `tree`, whose contents are in `content`, to `file` from byte `base` on. `advanced` is
/// told how many bytes of contents were read.
pub(super) fn write(
    tree: &Tree,
    content: &File,
    file: &File,
    base: u64,
    compression: Compression,
    advanced: &dyn Fn(u64),
) -> Result<Written, Unwritten> {
    let mut output = Output { file, base, position: SUPERBLOCK_BYTES as u64 };
    let numbered = number::number(tree)?;
    let data = data::write(tree, &numbered.files, content, &mut output, compression, advanced)?;
    let attributes = attributes::Attributes::of(tree, &numbered, compression)?;
    let inodes = inodes::write(tree, &numbered, &data, &attributes, compression)?;

    let inode_table = output.write(&inodes.table)?;
    let directory_table = output.write(&inodes.directories)?;
    let fragment_table = output.write_table(fragment_rows(&data, compression)?)?;
    let export_table = output.write_table(export_rows(&inodes.references, compression)?)?;
    let id_table = output.write_table(id_rows(&inodes.owners, compression)?)?;
    let xattr_table = attributes.write(&mut output)?;

    let mut superblock = Row::default();
    superblock.bytes(b"hsqs").u32(numbered.count).u32(0).u32(size(BLOCK_BYTES)?);
    superblock.u32(size(data.fragments.len())?).u16(compression.number()).u16(BLOCK_LOG);
    superblock.u16(flags(xattr_table)).u16(inodes.owners.len_u16()?).u16(4).u16(0);
    superblock.u64(inodes.root).u64(output.position).u64(id_table);
    superblock.u64(xattr_table).u64(inode_table).u64(directory_table);
    superblock.u64(fragment_table).u64(export_table);
    output.write_at(superblock.as_slice(), 0)?;
    let bytes = output.position.next_multiple_of(PADDING_BYTES);
    let padding = usize::try_from(bytes - output.position).unwrap_or_default();
    output.write(&vec![0; padding])?;
    Ok(Written { bytes, times_changed: inodes.times_changed })
}

fn flags(xattr_table: u64) -> u16 {
    const ALWAYS_FRAGMENTS: u16 = 0x20;
    const EXPORTABLE: u16 = 0x80;
    const NO_XATTRS: u16 = 0x200;
    let xattrs = if xattr_table == ABSENT { NO_XATTRS } else { 0 };
    ALWAYS_FRAGMENTS | EXPORTABLE | xattrs
}

fn fragment_rows(data: &data::Data, compression: Compression) -> Result<Table, Unwritten> {
    let mut table = Table::new(compression)?;
    for fragment in &data.fragments {
        table.row(Row::default().u64(fragment.start).u32(fragment.size).u32(0));
    }
    Ok(table)
}

/// Where each inode is, by number: what NFS servers look files up by.
fn export_rows(references: &[u64], compression: Compression) -> Result<Table, Unwritten> {
    let mut table = Table::new(compression)?;
    for reference in references {
        table.row(Row::default().u64(*reference));
    }
    Ok(table)
}

fn id_rows(owners: &inodes::Owners, compression: Compression) -> Result<Table, Unwritten> {
    let mut table = Table::new(compression)?;
    for id in owners.in_order() {
        table.row(Row::default().u32(id));
    }
    Ok(table)
}

/// A count as the format holds it.
fn size(count: usize) -> Result<u32, Unwritten> {
    u32::try_from(count).map_err(|_| Unwritten::Unholdable(format!("{count} of one kind")))
}

/// The file system as it grows; all places in it count from its own start.
struct Output<'a> {
    file: &'a File,
    base: u64,
    position: u64,
}

impl Output<'_> {
    /// Appends bytes, and returns where they are.
    fn write(&mut self, bytes: &[u8]) -> Result<u64, Unwritten> {
        let at = self.position;
        self.write_at(bytes, at)?;
        self.position += bytes.len() as u64;
        Ok(at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), Unwritten> {
        let written = self.file.write_all_at(bytes, self.base + at);
        written.map_err(|source| Unwritten::Disk { call: "pwrite(2)", source })
    }

    /// Appends a table and the list of its blocks, and returns where that list is.
    fn write_table(&mut self, table: Table) -> Result<u64, Unwritten> {
        let (packed, starts) = table.finish();
        let at = self.write(&packed)?;
        let mut list = Row::default();
        for start in starts {
            list.u64(at + start);
        }
        self.write(list.as_slice())
    }
}

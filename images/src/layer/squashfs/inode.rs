//! One inode: what something is, whatever its names.

use super::blocks::Blocks;
use super::cursor::Cursor;
use super::wrong;
use crate::layer::Device;
use crate::layer::packed::Stop;

/// A file, directory or whatever else, without its names.
#[derive(Debug)]
pub(super) struct Inode {
    /// Permission bits.
    pub(super) mode: u16,
    /// Places in the table of owners.
    pub(super) uid: u16,
    pub(super) gid: u16,
    /// Seconds since 1970.
    pub(super) mtime: u32,
    /// How many names it has, if that is written.
    pub(super) names: u32,
    /// Place in the table of attributes.
    pub(super) xattrs: Option<u32>,
    pub(super) kind: Kind,
}

/// What an inode is.
#[derive(Debug)]
pub(super) enum Kind {
    Directory(Listing),
    File(Content),
    Symlink {
        target: Vec<u8>,
    },
    Fifo,
    Device(Device),
    /// Nothing that can be in a layer.
    Socket,
}

/// Where the entries of a directory are.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    /// Relative to the table of directories.
    pub(super) block: u32,
    pub(super) offset: u16,
    /// Bytes of all entries.
    pub(super) bytes: u32,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) bytes: u64,
    /// Where its first block begins in the file system.
    pub(super) start: u64,
    /// The fragment that its tail is in, and where in it.
    pub(super) fragment: Option<(u32, u32)>,
    /// Where the sizes of its blocks are.
    pub(super) sizes: Cursor,
}

/// Marks what an inode does not have.
const NONE: u32 = u32::MAX;

/// The kernel takes at most `PATH_MAX` bytes with the ending zero (symlink(2)).
const TARGET_BYTES_MAX: usize = 4095;

/// The entries of a directory are counted three bytes too long, for `.` and `..` (squashfs_fs.h).
const LISTING_EXCESS_BYTES: u32 = 3;

impl Inode {
    /// Reads the inode that `reference` leads to.
    pub(super) fn read(blocks: &mut Blocks<'_>, reference: u64) -> Result<Inode, Stop> {
        let table = blocks.superblock.inode_table;
        let mut at = Cursor::at(blocks, table, reference)?;
        let number = at.u16(blocks)?;
        let (mode, uid, gid) = (at.u16(blocks)?, at.u16(blocks)?, at.u16(blocks)?);
        let mtime = at.u32(blocks)?;
        // Its number: hard links are found by reference, which cannot lie.
        at.u32(blocks)?;
        let (kind, names, xattrs) = match number {
            1 => basic_directory(blocks, &mut at)?,
            8 => extended_directory(blocks, &mut at)?,
            2 => basic_file(blocks, at)?,
            9 => extended_file(blocks, at)?,
            3 | 10 => {
                let names = at.u32(blocks)?;
                let target = target(blocks, &mut at)?;
                (Kind::Symlink { target }, names, extended(number, blocks, &mut at)?)
            }
            4 | 5 | 11 | 12 => {
                let names = at.u32(blocks)?;
                let device = device(at.u32(blocks)?, matches!(number, 4 | 11));
                (Kind::Device(device), names, extended(number, blocks, &mut at)?)
            }
            6 | 7 | 13 | 14 => {
                let names = at.u32(blocks)?;
                let kind = if matches!(number, 6 | 13) { Kind::Fifo } else { Kind::Socket };
                (kind, names, extended(number, blocks, &mut at)?)
            }
            other => return Err(wrong(format!("an inode has the unknown type {other}"))),
        };
        let xattrs = xattrs.filter(|place| *place != NONE);
        Ok(Inode { mode: mode & 0o7777, uid, gid, mtime, names, xattrs, kind })
    }
}

type Parsed = (Kind, u32, Option<u32>);

fn basic_directory(blocks: &mut Blocks<'_>, at: &mut Cursor) -> Result<Parsed, Stop> {
    let (block, _names) = (at.u32(blocks)?, at.u32(blocks)?);
    let (bytes, offset) = (at.u16(blocks)?, at.u16(blocks)?);
    let bytes = u32::from(bytes).saturating_sub(LISTING_EXCESS_BYTES);
    Ok((Kind::Directory(Listing { block, offset, bytes }), 1, None))
}

fn extended_directory(blocks: &mut Blocks<'_>, at: &mut Cursor) -> Result<Parsed, Stop> {
    let _names = at.u32(blocks)?;
    let bytes = at.u32(blocks)?.saturating_sub(LISTING_EXCESS_BYTES);
    let block = at.u32(blocks)?;
    let (_parent, _indexes) = (at.u32(blocks)?, at.u16(blocks)?);
    let offset = at.u16(blocks)?;
    let xattrs = at.u32(blocks)?;
    Ok((Kind::Directory(Listing { block, offset, bytes }), 1, Some(xattrs)))
}

fn basic_file(blocks: &mut Blocks<'_>, mut at: Cursor) -> Result<Parsed, Stop> {
    let start = u64::from(at.u32(blocks)?);
    let (fragment, offset) = (at.u32(blocks)?, at.u32(blocks)?);
    let bytes = u64::from(at.u32(blocks)?);
    let fragment = Some((fragment, offset)).filter(|(fragment, _)| *fragment != NONE);
    Ok((Kind::File(Content { bytes, start, fragment, sizes: at }), 1, None))
}

fn extended_file(blocks: &mut Blocks<'_>, mut at: Cursor) -> Result<Parsed, Stop> {
    let (start, bytes) = (at.u64(blocks)?, at.u64(blocks)?);
    let _sparse_bytes = at.u64(blocks)?;
    let names = at.u32(blocks)?;
    let (fragment, offset) = (at.u32(blocks)?, at.u32(blocks)?);
    let xattrs = at.u32(blocks)?;
    let fragment = Some((fragment, offset)).filter(|(fragment, _)| *fragment != NONE);
    Ok((Kind::File(Content { bytes, start, fragment, sizes: at }), names, Some(xattrs)))
}

fn target(blocks: &mut Blocks<'_>, at: &mut Cursor) -> Result<Vec<u8>, Stop> {
    match usize::try_from(at.u32(blocks)?) {
        Ok(count) if (1..=TARGET_BYTES_MAX).contains(&count) => at.bytes(blocks, count),
        Ok(_) | Err(_) => Err(wrong("a symbolic link is empty or too long".to_owned())),
    }
}

/// A device's numbers, as the kernel packs them (`new_encode_dev`, linux/kdev_t.h).
fn device(packed: u32, is_block: bool) -> Device {
    let (major, minor) = ((packed >> 8) & 0xfff, (packed & 0xff) | ((packed >> 12) & 0xf_ff00));
    Device { is_block, major, minor }
}

/// Types from 8 on are the others with attributes.
fn extended(number: u16, blocks: &mut Blocks<'_>, at: &mut Cursor) -> Result<Option<u32>, Stop> {
    if number < 8 { Ok(None) } else { at.u32(blocks).map(Some) }
}

//! The entries of a directory, one after the other.

use super::blocks::Blocks;
use super::cursor::Cursor;
use super::inode::Listing;
use super::wrong;
use crate::layer::name::NAME_BYTES_MAX;
use crate::layer::packed::Stop;

/// Most entries that share a header (squashfs_fs.h, `SQUASHFS_DIR_COUNT`).
const RUN_MAX: u32 = 256;

/// A directory that is being read.
#[derive(Debug)]
pub(super) struct Entries {
    /// None if it is empty.
    at: Option<Cursor>,
    /// Bytes that are left.
    left: u32,
    /// Entries that are left of the current run, and the block of inodes that it refers to.
    run: u32,
    inodes: u32,
    last: Vec<u8>,
}

/// A name and what it leads to.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: Vec<u8>,
    /// Of its inode.
    pub(super) reference: u64,
}

impl Entries {
    pub(super) fn new(blocks: &mut Blocks<'_>, listing: &Listing) -> Result<Entries, Stop> {
        let table = blocks.superblock.directory_table;
        let at = if listing.bytes == 0 {
            None
        } else {
            let block = table.saturating_add(u64::from(listing.block));
            Some(Cursor::new(blocks, block, listing.offset)?)
        };
        Ok(Entries { at, left: listing.bytes, run: 0, inodes: 0, last: Vec::new() })
    }

    /// The next entry; none after the last.
    ///
    /// Names must be sorted, as the kernel relies on it: so none is there twice.
    pub(super) fn next(&mut self, blocks: &mut Blocks<'_>) -> Result<Option<Named>, Stop> {
        let Some(at) = self.at.as_mut().filter(|_| self.left > 0) else { return Ok(None) };
        if self.run == 0 {
            take(&mut self.left, 12)?;
            let count = at.u32(blocks)?;
            if count >= RUN_MAX {
                return Err(wrong("a directory has a wrong header".to_owned()));
            }
            self.run = count + 1;
            self.inodes = at.u32(blocks)?;
            let _number = at.u32(blocks)?;
        }
        self.run -= 1;
        take(&mut self.left, 8)?;
        let offset = at.u16(blocks)?;
        let (_number, _kind) = (at.u16(blocks)?, at.u16(blocks)?);
        let count = at.u16(blocks)?.saturating_add(1);
        take(&mut self.left, count.into())?;
        if usize::from(count) > NAME_BYTES_MAX {
            return Err(wrong("a name has more than 255 bytes".to_owned()));
        }
        let name = at.bytes(blocks, count.into())?;
        check(&name, &self.last)?;
        self.last.clone_from(&name);
        Ok(Some(Named { name, reference: u64::from(self.inodes) << 16 | u64::from(offset) }))
    }
}

fn take(left: &mut u32, count: u32) -> Result<(), Stop> {
    *left = left
        .checked_sub(count)
        .ok_or_else(|| wrong("a directory ends in the middle of an entry".to_owned()))?;
    Ok(())
}

/// A name that begins like a whiteout is a plain file in a file system, but would remove a file as
/// soon as it is in a layer: it has no meaning that both agree on.
fn check(name: &[u8], last: &[u8]) -> Result<(), Stop> {
    let shown = || super::super::error::shown(name);
    if matches!(name, b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
        return Err(wrong(format!("`{}` is no name", shown())));
    }
    if name.starts_with(b".wh.") {
        return Err(wrong(format!("`{}` would remove a file in a layer", shown())));
    }
    if name <= last {
        return Err(wrong(format!("the name `{}` is there twice or not in order", shown())));
    }
    Ok(())
}

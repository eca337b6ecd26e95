//! Tables that are found through a list of their blocks: owners, tails of files, attributes.

use super::blocks::Blocks;
use super::cursor::Cursor;
use super::wrong;
use crate::layer::packed::Stop;

/// Owners in one block, 4 bytes each.
const IDS_PER_BLOCK: u32 = 2048;
/// Fragments in one block, 16 bytes each.
const FRAGMENTS_PER_BLOCK: u32 = 512;
/// Sets of attributes in one block, 16 bytes each.
const XATTR_SETS_PER_BLOCK: u32 = 512;

/// Most attributes of one inode, and bytes of one: what Linux takes (`XATTR_LIST_MAX` of 64 KiB
/// names, `XATTR_SIZE_MAX` of 64 KiB; limits.h).
const XATTRS_MAX: u32 = 4096;
const XATTR_BYTES_MAX: u32 = 64 << 10;

/// Reads all owners. There are at most 65535, as their number has 16 bits.
pub(super) fn owners(blocks: &mut Blocks<'_>) -> Result<Vec<u32>, Stop> {
    let (table, count) = (blocks.superblock.id_table, blocks.superblock.ids);
    (0..u32::from(count))
        .map(|number| {
            let mut at = row(blocks, table, number, IDS_PER_BLOCK, 4)?;
            at.u32(blocks)
        })
        .collect()
}

/// Where a block of tails is, and its size as in a list of blocks.
pub(super) fn fragment(blocks: &mut Blocks<'_>, number: u32) -> Result<(u64, u32), Stop> {
    let missing = || wrong(format!("a file has its end in fragment {number}, which is missing"));
    let table = blocks.superblock.fragment_table.ok_or_else(missing)?;
    if number >= blocks.superblock.fragments {
        return Err(missing());
    }
    let mut at = row(blocks, table, number, FRAGMENTS_PER_BLOCK, 16)?;
    Ok((at.u64(blocks)?, at.u32(blocks)?))
}

/// An attribute's full name and value.
type Xattr = (Vec<u8>, Vec<u8>);

/// Reads the attributes of the set `number`, of at most `bytes_max` bytes in all.
pub(super) fn xattrs(
    blocks: &mut Blocks<'_>,
    number: u32,
    bytes_max: usize,
) -> Result<Vec<Xattr>, Stop> {
    let missing = || wrong(format!("attributes {number} are missing"));
    let table = blocks.superblock.xattr_table.ok_or_else(missing)?;
    let head = blocks.read(table, 16)?;
    let mut fields = head
        .chunks_exact(4)
        .map(|field| u32::from_le_bytes([field[0], field[1], field[2], field[3]]));
    let mut next = || fields.next().unwrap_or_default();
    let (low, high, sets) = (next(), next(), next());
    let values = u64::from(low) | u64::from(high) << 32;
    if number >= sets {
        return Err(missing());
    }
    let mut at = row(blocks, table + 16, number, XATTR_SETS_PER_BLOCK, 16)?;
    let (reference, count) = (at.u64(blocks)?, at.u32(blocks)?);
    if count > XATTRS_MAX {
        return Err(wrong(format!("attributes {number} are {count}")));
    }
    let mut at = Cursor::at(blocks, values, reference)?;
    let mut held = 0;
    let mut found = Vec::new();
    for _ in 0..count {
        let (name, value) = xattr(blocks, &mut at, values)?;
        held += name.len() + value.len();
        if held > bytes_max {
            return Err(Stop::Limit { limit: "xattr_bytes_max", most: bytes_max as u64 });
        }
        found.push((name, value));
    }
    Ok(found)
}

fn xattr(blocks: &mut Blocks<'_>, at: &mut Cursor, values: u64) -> Result<Xattr, Stop> {
    /// The value is not here but where a reference says.
    const ELSEWHERE: u16 = 0x100;
    let (kind, count) = (at.u16(blocks)?, at.u16(blocks)?);
    let prefix: &[u8] = match kind & !ELSEWHERE {
        0 => b"user.",
        1 => b"trusted.",
        2 => b"security.",
        other => return Err(wrong(format!("an attribute has the unknown type {other}"))),
    };
    if count > 255 {
        return Err(wrong("an attribute has a name of more than 255 bytes".to_owned()));
    }
    let name = [prefix, &at.bytes(blocks, count.into())?].concat();
    let value = value(blocks, at)?;
    if kind & ELSEWHERE == 0 {
        return Ok((name, value));
    }
    let reference = value.try_into().map(u64::from_le_bytes);
    let reference = reference.map_err(|_| wrong("an attribute refers to nothing".to_owned()))?;
    let mut there = Cursor::at(blocks, values, reference)?;
    Ok((name, self::value(blocks, &mut there)?))
}

fn value(blocks: &mut Blocks<'_>, at: &mut Cursor) -> Result<Vec<u8>, Stop> {
    match at.u32(blocks)? {
        count if count > XATTR_BYTES_MAX => {
            Err(wrong(format!("an attribute has a value of {count} bytes")))
        }
        count => at.bytes(blocks, usize::try_from(count).unwrap_or_default()),
    }
}

/// Goes to a row of a table whose list of blocks begins at `list`.
fn row(
    blocks: &mut Blocks<'_>,
    list: u64,
    number: u32,
    rows_per_block: u32,
    row_bytes: u32,
) -> Result<Cursor, Stop> {
    let place = blocks.read(list.saturating_add(u64::from(number / rows_per_block) * 8), 8)?;
    let place = place.try_into().map(u64::from_le_bytes).expect("eight bytes were read");
    let offset = number % rows_per_block * row_bytes;
    Cursor::new(blocks, place, u16::try_from(offset).expect("a block has 8192 bytes"))
}

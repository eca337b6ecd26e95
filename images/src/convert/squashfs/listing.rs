//! The entries of one directory, in runs that share a header, with an index of the runs.

use super::Unwritten;
use super::metadata::{BLOCK_BYTES, Place, Row, Table};

/// Most entries that share a header (squashfs_fs.h, `SQUASHFS_DIR_COUNT`).
const RUN_MAX: usize = 256;

/// Bytes of a run's header, and of an entry besides its name.
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 8;

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Named<'a> {
    pub(super) name: &'a [u8],
    /// Where its inode is.
    pub(super) inode: Place,
    pub(super) number: u32,
    /// The basic type of its inode.
    pub(super) kind: u16,
}

/// Where the entries of a directory are.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) place: Place,
    pub(super) bytes: usize,
    /// Runs that a reader may begin at, one for each block that the entries fill.
    pub(super) index: Vec<Index>,
}

/// A run, by its first name.
#[derive(Debug)]
pub(super) struct Index {
    /// Bytes of the listing before it.
    pub(super) bytes_before: usize,
    /// Where its block begins.
    pub(super) block: u64,
    pub(super) name: Vec<u8>,
}

/// Writes the entries of a directory, which are in order of names.
pub(super) fn write(entries: &[Named<'_>], table: &mut Table) -> Result<Listing, Unwritten> {
    let mut listing = Listing { place: table.place(), bytes: 0, index: Vec::new() };
    let mut left = entries;
    // Bytes before the last run that the index has; the listing itself is found without it.
    let mut indexed = 0;
    while let Some(first) = left.first() {
        let count = run_length(left);
        if listing.bytes - indexed >= BLOCK_BYTES / 2 {
            let (bytes_before, block) = (listing.bytes, table.place().block);
            listing.index.push(Index { bytes_before, block, name: first.name.to_vec() });
            indexed = listing.bytes;
        }
        let run = run(first, &left[..count])?;
        table.row(&run);
        listing.bytes += run.as_slice().len();
        left = &left[count..];
    }
    Ok(listing)
}

/// How many of the first entries share a header: their inodes are in one block and their numbers
/// near each other; together they fill at most a block, so that the index has one for each.
fn run_length(entries: &[Named<'_>]) -> usize {
    let first = &entries[0];
    let mut bytes = HEADER_BYTES;
    let fits = |entry: &&Named<'_>| {
        bytes += ENTRY_BYTES + entry.name.len();
        entry.inode.block == first.inode.block
            && difference(first, entry).is_ok()
            && bytes <= BLOCK_BYTES
    };
    // The first always fits: a name has at most 255 bytes.
    entries.iter().take(RUN_MAX).take_while(fits).count().max(1)
}

/// How far apart the numbers of two inodes are.
fn difference(first: &Named<'_>, entry: &Named<'_>) -> Result<i16, Unwritten> {
    let far = |_| Unwritten::Unholdable("inodes that are too far apart".to_owned());
    i16::try_from(i64::from(entry.number) - i64::from(first.number)).map_err(far)
}

fn run(first: &Named<'_>, entries: &[Named<'_>]) -> Result<Row, Unwritten> {
    let mut row = Row::default();
    row.u32(super::size(entries.len() - 1)?).u32(block(first.inode)?).u32(first.number);
    for entry in entries {
        let name_bytes = u16::try_from(entry.name.len() - 1);
        let name_bytes = name_bytes.map_err(|_| Unwritten::Unholdable("a name".to_owned()))?;
        row.u16(entry.inode.offset).bytes(&difference(first, entry)?.to_le_bytes());
        row.u16(entry.kind).u16(name_bytes).bytes(entry.name);
    }
    Ok(row)
}

/// Where a block of inodes or entries begins, as directories hold it.
pub(super) fn block(place: Place) -> Result<u32, Unwritten> {
    let far = |_| Unwritten::Unholdable("more than 4 GiB of inodes or names".to_owned());
    u32::try_from(place.block).map_err(far)
}

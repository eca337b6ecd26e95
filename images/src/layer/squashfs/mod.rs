//! A squashfs as a tar, so that one unpacker writes both.
//!
//! The reader is ours and in user space: a file system that a user wrote is never given to the
//! kernel, and no crate read one with bounded memory (`docs/decisions/filesystem-images.md`). In
//! reading order:
//!
//! - `superblock` says where everything is, and refuses what is not within the file;
//! - `blocks` reads and unpacks blocks, bounded in size and in sum;
//! - `cursor` and `tables` go through them;
//! - `inode` and `directory` make sense of what is found;
//! - `archive` writes the tar;
//! - `look` judges it without the data of files, for a file system that the kernel shall mount.
//!
//! The walk keeps one block for each directory it is in, and the first names of hard links.
//! Nothing else grows with the image. A directory that is found twice is refused, so the walk ends.

mod archive;
mod blocks;
mod cursor;
mod directory;
mod inode;
mod look;
mod superblock;
mod tables;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use tar::EntryType;

use super::Limits;
use super::bytes::Chunk;
use super::head::Head;
use super::header::Device;
use super::name::{LayerPath, join};
use super::packed::Stop;
use super::pax::Moment;
use super::sif::Span;
use crate::Digest;
use archive::Archive;
use blocks::{Blocks, packed_size};
use directory::{Entries, Named};
use inode::{Content, Inode, Kind};
use look::Look;

pub(crate) use superblock::{SUPERBLOCK_BYTES, Superblock};

/// Bytes of first names of hard links that are kept: ten times what any known image needs.
const LINK_NAMES_BYTES_MAX: usize = 128 << 20;

/// The name in the store of what a squashfs with `digest` unpacks to. No tar has it as its diff ID:
/// it is the digest of a text that is none.
pub(crate) fn diff_id(digest: &Digest) -> Digest {
    Digest::of(format!("squashfs {digest}").as_bytes())
}

/// Unpacks the file system at `span` of `file` to a tar and hands its chunks to `sink`, which says
/// whether it wants more. The span lies within the file.
pub(super) fn unpack(
    file: &File,
    span: Span,
    limits: &Limits,
    sink: &mut dyn FnMut(Chunk) -> bool,
) -> Result<(), Stop> {
    let purpose = Purpose::Archive(Archive::new(span.bytes, limits, sink));
    match walk(file, span, limits, purpose)? {
        Purpose::Archive(archive) => archive.finish(),
        Purpose::Look(_) => unreachable!("a walk keeps its purpose"),
    }
}

/// Goes through the file system at `span` of `file` as [`unpack`] does, but for the data of files,
/// and refuses more: whatever the kernel would show otherwise than [`unpack`] makes it.
pub(super) fn look_through(file: &File, span: Span, limits: &Limits) -> Result<(), Stop> {
    walk(file, span, limits, Purpose::Look(Look::new(span.bytes, limits))).map(drop)
}

/// What a walk is for.
enum Purpose<'a> {
    Archive(Archive<'a>),
    Look(Look<'a>),
}

fn walk<'a>(
    file: &File,
    span: Span,
    limits: &'a Limits,
    purpose: Purpose<'a>,
) -> Result<Purpose<'a>, Stop> {
    let disk = |source| Stop::Disk { call: "pread(2)", source };
    let mut start = [0; SUPERBLOCK_BYTES];
    let count = usize::try_from(span.bytes).map_or(SUPERBLOCK_BYTES, |n| n.min(SUPERBLOCK_BYTES));
    file.read_exact_at(&mut start[..count], span.offset).map_err(disk)?;
    let superblock = Superblock::parse(&start[..count], span.bytes).map_err(wrong)?;
    let mut blocks = Blocks::new(file, span.offset, &superblock, limits)?;
    let owners = tables::owners(&mut blocks)?;
    let mut walk = Walk {
        blocks,
        owners,
        limits,
        purpose,
        directories: HashSet::new(),
        links: HashMap::new(),
        links_bytes: 0,
    };
    walk.run(superblock.root)?;
    Ok(walk.purpose)
}

/// Something that no squashfs of a real packer has.
fn wrong(what: String) -> Stop {
    Stop::Packing(what)
}

struct Walk<'b, 'a> {
    blocks: Blocks<'b>,
    owners: Vec<u32>,
    limits: &'a Limits,
    purpose: Purpose<'a>,
    /// Those seen, by the reference of their inode.
    directories: HashSet<u64>,
    /// The first name of each inode that has several, by its reference.
    links: HashMap<u64, LayerPath>,
    links_bytes: usize,
}

impl Walk<'_, '_> {
    /// Goes through all directories, each before what is in it.
    fn run(&mut self, root: u64) -> Result<(), Stop> {
        let inode = Inode::read(&mut self.blocks, root)?;
        let Kind::Directory(_) = inode.kind else {
            return Err(wrong("its root is no directory".to_owned()));
        };
        let mut open = Vec::new();
        open.extend(self.entry(LayerPath::new(), root, inode)?);
        while let Some((path, entries)) = open.last_mut() {
            let Some(Named { name, reference }) = entries.next(&mut self.blocks)? else {
                open.pop();
                continue;
            };
            let path = join(path, &name);
            if open.len() > self.limits.path_depth_max {
                let most = self.limits.path_depth_max as u64;
                return Err(Stop::Limit { limit: "path_depth_max", most });
            }
            if path.len() > self.limits.path_bytes_max {
                let most = self.limits.path_bytes_max as u64;
                return Err(Stop::Limit { limit: "path_bytes_max", most });
            }
            let inode = Inode::read(&mut self.blocks, reference)?;
            open.extend(self.entry(path, reference, inode)?);
        }
        Ok(())
    }

    /// Writes one entry; returns what is in it if it is a directory.
    fn entry(
        &mut self,
        path: LayerPath,
        reference: u64,
        inode: Inode,
    ) -> Result<Option<(LayerPath, Entries)>, Stop> {
        if let Some(first) = self.links.get(&reference) {
            let first = first.clone();
            self.head(&path, &inode, EntryType::Link, &first, 0)?;
            return Ok(None);
        }
        let is_directory = matches!(inode.kind, Kind::Directory(_));
        if inode.names > 1 && !is_directory {
            self.links_bytes += path.len();
            if self.links_bytes > LINK_NAMES_BYTES_MAX {
                return Err(wrong("it has too many hard links".to_owned()));
            }
            self.links.insert(reference, path.clone());
        }
        match &inode.kind {
            Kind::Directory(listing) => {
                if !self.directories.insert(reference) {
                    return Err(wrong("a directory is in two places".to_owned()));
                }
                let name = if path.is_empty() { b"./" } else { path.as_slice() };
                self.head(name, &inode, EntryType::Directory, b"", 0)?;
                let entries = Entries::new(&mut self.blocks, listing)?;
                return Ok(Some((path, entries)));
            }
            Kind::File(content) => {
                self.head(&path, &inode, EntryType::Regular, b"", content.bytes)?;
                match &mut self.purpose {
                    Purpose::Archive(archive) => {
                        copy_content(&mut self.blocks, archive, content.clone())?;
                    }
                    Purpose::Look(_) => look::content(&mut self.blocks, content.clone())?,
                }
            }
            Kind::Symlink { target } => {
                self.head(&path, &inode, EntryType::Symlink, target, 0)?;
            }
            Kind::Fifo => self.head(&path, &inode, EntryType::Fifo, b"", 0)?,
            Kind::Device(Device { is_block: true, .. }) => {
                self.head(&path, &inode, EntryType::Block, b"", 0)?;
            }
            // A socket stands for a device without a number: whoever reads the tar leaves it out,
            // and counts it.
            Kind::Device(_) | Kind::Socket => {
                self.head(&path, &inode, EntryType::Char, b"", 0)?;
            }
        }
        Ok(None)
    }

    fn head(
        &mut self,
        path: &[u8],
        inode: &Inode,
        kind: EntryType,
        target: &[u8],
        bytes: u64,
    ) -> Result<(), Stop> {
        let owner = |place: u16| {
            let owner = self.owners.get(usize::from(place)).copied();
            owner.ok_or_else(|| wrong(format!("owner {place} is missing")))
        };
        let (uid, gid) = (owner(inode.uid)?, owner(inode.gid)?);
        let xattrs = match inode.xattrs {
            Some(number) if kind != EntryType::Link => {
                tables::xattrs(&mut self.blocks, number, self.limits.xattr_bytes_max)?
            }
            Some(_) | None => Vec::new(),
        };
        let mode = inode.mode.into();
        let mtime = Moment { seconds: inode.mtime.into(), nanoseconds: 0 };
        let device = match inode.kind {
            Kind::Device(device) => Some(device),
            Kind::Directory(_)
            | Kind::File(_)
            | Kind::Symlink { .. }
            | Kind::Fifo
            | Kind::Socket => None,
        };
        let head =
            Head { path, kind, target, device, bytes, mode, uid, gid, mtime, xattrs: &xattrs };
        match &mut self.purpose {
            Purpose::Archive(archive) => archive.head(&head),
            Purpose::Look(look) => look.head(&head),
        }
    }
}

/// Writes the content of a file: its blocks, then its tail.
fn copy_content(
    blocks: &mut Blocks<'_>,
    archive: &mut Archive<'_>,
    mut content: Content,
) -> Result<(), Stop> {
    let block_bytes = blocks.superblock.block_bytes;
    let mut left = content.bytes;
    let mut offset = content.start;
    while left > 0 {
        let wanted = usize::try_from(left).map_or(block_bytes, |left| left.min(block_bytes));
        if let Some((number, start)) = content.fragment.filter(|_| wanted < block_bytes) {
            copy_tail(blocks, archive, number, start, wanted)?;
            break;
        }
        let size = content.sizes.u32(blocks)?;
        let (packed, _) = packed_size(size);
        if packed == 0 {
            copy_hole(archive, wanted)?;
        } else {
            let data = blocks.data(offset, size)?;
            if data.len() != wanted {
                return Err(wrong(format!("the data at byte {offset} has another length")));
            }
            archive.write(&data)?;
        }
        offset = offset.saturating_add(packed as u64);
        left -= wanted as u64;
    }
    archive.pad(content.bytes)
}

fn copy_tail(
    blocks: &mut Blocks<'_>,
    archive: &mut Archive<'_>,
    number: u32,
    start: u32,
    count: usize,
) -> Result<(), Stop> {
    let (offset, size) = tables::fragment(blocks, number)?;
    let block = blocks.fragment(offset, size)?;
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let tail = block.get(start..).and_then(|rest| rest.get(..count));
    archive.write(tail.ok_or_else(|| wrong(format!("fragment {number} is too short")))?)
}

fn copy_hole(archive: &mut Archive<'_>, count: usize) -> Result<(), Stop> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut left = count;
    while left > 0 {
        let piece = left.min(ZEROS.len());
        archive.write(&ZEROS[..piece])?;
        left -= piece;
    }
    Ok(())
}

//! Inodes, and the entries of directories: what is in a directory is written before it, as it must
//! know where that is.

use std::collections::BTreeMap;

use super::attributes::Attributes;
use super::data::{Data, Located};
use super::listing::{self, Listing, Named, block};
use super::metadata::{Place, Row, Table};
use super::number::Numbered;
use super::pack::Compression;
use super::{NONE, Unwritten, size};
use crate::convert::tree::{Content, Directory, Id, Inode, Node, Tree};
use crate::layer::{Device, Moment};

/// The entries of a directory are counted three bytes too long, for `.` and `..` (squashfs_fs.h).
const LISTING_EXCESS_BYTES: usize = 3;

/// Inodes with more than the basic types hold have a type that is so much higher.
const EXTENDED: u16 = 7;

const DIRECTORY: u16 = 1;
const FILE: u16 = 2;
const SYMLINK: u16 = 3;
const BLOCK_DEVICE: u16 = 4;
const CHARACTER_DEVICE: u16 = 5;
const FIFO: u16 = 6;

/// Both tables as they go into the file system.
pub(super) struct Inodes {
    pub(super) table: Vec<u8>,
    pub(super) directories: Vec<u8>,
    /// Of the root's inode.
    pub(super) root: u64,
    /// Where each inode is, by number less one.
    pub(super) references: Vec<u64>,
    pub(super) owners: Owners,
    pub(super) times_changed: u64,
}

/// All users and groups, numbered as they are met.
#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<u32, u16>);

impl Owners {
    fn number(&mut self, id: u32) -> Result<u16, Unwritten> {
        let next = self.len_u16()?;
        Ok(*self.0.entry(id).or_insert(next))
    }

    /// How many there are; the format has 16 bits for it.
    pub(super) fn len_u16(&self) -> Result<u16, Unwritten> {
        let many = |_| Unwritten::Unholdable("more than 65535 users and groups".to_owned());
        u16::try_from(self.0.len()).map_err(many)
    }

    /// By number.
    pub(super) fn in_order(&self) -> impl Iterator<Item = u32> {
        let by_number: BTreeMap<u16, u32> =
            self.0.iter().map(|(id, number)| (*number, *id)).collect();
        by_number.into_values()
    }
}

/// Writes all inodes that have a number.
pub(super) fn write(
    tree: &Tree,
    numbered: &Numbered,
    data: &Data,
    attributes: &Attributes,
    compression: Compression,
) -> Result<Inodes, Unwritten> {
    let mut writer = Writer {
        tree,
        numbered,
        data,
        attributes,
        inodes: Table::new(compression)?,
        directories: Table::new(compression)?,
        places: vec![None; tree.inodes.len()],
        owners: Owners::default(),
        times_changed: 0,
    };
    // The root has no parent; the number after the last one stands for it (mksquashfs.c).
    let root = writer.directory(tree.root, numbered.count.saturating_add(1))?;
    let mut references = vec![0; usize::try_from(numbered.count).unwrap_or_default()];
    for (number, place) in numbered.numbers.iter().zip(&writer.places) {
        if let (Some(row), Some(place)) = (number.checked_sub(1), place) {
            references[usize::try_from(row).unwrap_or_default()] = place.reference();
        }
    }
    Ok(Inodes {
        table: writer.inodes.finish().0,
        directories: writer.directories.finish().0,
        root: root.reference(),
        references,
        owners: writer.owners,
        times_changed: writer.times_changed,
    })
}

struct Writer<'a> {
    tree: &'a Tree,
    numbered: &'a Numbered,
    data: &'a Data,
    attributes: &'a Attributes,
    inodes: Table,
    directories: Table,
    /// Of the inodes that were written.
    places: Vec<Option<Place>>,
    owners: Owners,
    times_changed: u64,
}

impl Writer<'_> {
    /// Writes a directory and all that is below it. Calls itself once for each directory in a path,
    /// of which layers have a bounded number.
    fn directory(&mut self, id: Id, parent: u32) -> Result<Place, Unwritten> {
        let tree = self.tree;
        let inode = &tree.inodes[id];
        let directory = tree.directory(id).expect("the caller looked");
        let own = self.numbered.numbers[id];
        for child in directory.children.values() {
            if tree.directory(*child).is_some() {
                self.directory(*child, own)?;
            }
        }
        for child in directory.children.values() {
            if self.places[*child].is_none() {
                self.leaf(*child)?;
            }
        }
        let listing = self.list(directory)?;
        let below = directory.children.values().filter(|child| tree.directory(**child).is_some());
        let names = size(below.count() + 2)?;
        let row = self.directory_row(id, inode, &listing, names, parent)?;
        Ok(self.put(id, &row))
    }

    fn list(&mut self, directory: &Directory) -> Result<Listing, Unwritten> {
        let mut entries = Vec::with_capacity(directory.children.len());
        for (name, id) in &directory.children {
            let inode = self.places[*id].expect("what is in a directory is written before it");
            let (number, kind) = (self.numbered.numbers[*id], kind(&self.tree.inodes[*id].node));
            entries.push(Named { name, inode, number, kind });
        }
        listing::write(&entries, &mut self.directories)
    }

    fn directory_row(
        &mut self,
        id: Id,
        inode: &Inode,
        listing: &Listing,
        names: u32,
        parent: u32,
    ) -> Result<Row, Unwritten> {
        let xattrs = self.attributes.set_of(id);
        let bytes = listing.bytes + LISTING_EXCESS_BYTES;
        let start = block(listing.place)?;
        if let (Ok(bytes), None, []) = (u16::try_from(bytes), xattrs, &listing.index[..]) {
            let mut row = self.head(id, inode, DIRECTORY)?;
            row.u32(start).u32(names).u16(bytes).u16(listing.place.offset).u32(parent);
            return Ok(row);
        }
        let many = |_| Unwritten::Unholdable("a directory of so many names".to_owned());
        let indexes = u16::try_from(listing.index.len()).map_err(many)?;
        let mut row = self.head(id, inode, DIRECTORY + EXTENDED)?;
        row.u32(names).u32(size(bytes)?).u32(start).u32(parent).u16(indexes);
        row.u16(listing.place.offset).u32(xattrs.unwrap_or(NONE));
        for index in &listing.index {
            let at = Place { block: index.block, offset: 0 };
            row.u32(size(index.bytes_before)?).u32(block(at)?);
            row.u32(size(index.name.len() - 1)?).bytes(&index.name);
        }
        Ok(row)
    }

    /// Writes anything but a directory.
    fn leaf(&mut self, id: Id) -> Result<(), Unwritten> {
        let inode = &self.tree.inodes[id];
        let xattrs = self.attributes.set_of(id);
        let extended = if xattrs.is_some() { EXTENDED } else { 0 };
        let names = self.numbered.names[id];
        let mut row = match &inode.node {
            Node::File(content) => self.file(id, inode, *content, names)?,
            Node::Symlink { target } => {
                let mut row = self.head(id, inode, SYMLINK + extended)?;
                row.u32(names).u32(size(target.len())?).bytes(target);
                row
            }
            Node::Fifo => {
                let mut row = self.head(id, inode, FIFO + extended)?;
                row.u32(names);
                row
            }
            Node::Device(device) => {
                let mut row = self.head(id, inode, kind(&inode.node) + extended)?;
                row.u32(names).u32(device_number(*device));
                row
            }
            Node::Directory(_) | Node::Whiteout => {
                unreachable!("directories are written by `directory`, merged trees have no marks")
            }
        };
        if let (Some(set), false) = (xattrs, matches!(inode.node, Node::File(_))) {
            row.u32(set);
        }
        self.put(id, &row);
        Ok(())
    }

    fn file(
        &mut self,
        id: Id,
        inode: &Inode,
        content: Content,
        names: u32,
    ) -> Result<Row, Unwritten> {
        let nothing = Located::default();
        let located = self.data.files.get(&id).unwrap_or(&nothing);
        let start = if located.sizes.is_empty() { 0 } else { located.start };
        let (fragment, offset) = located.tail.unwrap_or((NONE, 0));
        let xattrs = self.attributes.set_of(id);
        let is_plain = names == 1 && xattrs.is_none() && located.hole_bytes == 0;
        let small = (u32::try_from(start), u32::try_from(content.bytes));
        let mut row = match small {
            (Ok(start), Ok(bytes)) if is_plain => {
                let mut row = self.head(id, inode, FILE)?;
                row.u32(start).u32(fragment).u32(offset).u32(bytes);
                row
            }
            (Ok(_) | Err(_), _) => {
                let mut row = self.head(id, inode, FILE + EXTENDED)?;
                row.u64(start).u64(content.bytes).u64(located.hole_bytes).u32(names);
                row.u32(fragment).u32(offset).u32(xattrs.unwrap_or(NONE));
                row
            }
        };
        for size in &located.sizes {
            row.u32(*size);
        }
        Ok(row)
    }

    /// What every inode begins with.
    fn head(&mut self, id: Id, inode: &Inode, kind: u16) -> Result<Row, Unwritten> {
        let status = &inode.status;
        let (uid, gid) = (self.owners.number(status.uid)?, self.owners.number(status.gid)?);
        let mode = u16::try_from(status.mode & 0o7777).expect("twelve bits fit in sixteen");
        let mtime = self.mtime(status.mtime);
        let mut row = Row::default();
        row.u16(kind).u16(mode).u16(uid).u16(gid).u32(mtime).u32(self.numbered.numbers[id]);
        Ok(row)
    }

    /// The nearest time that the format holds.
    fn mtime(&mut self, mtime: Moment) -> u32 {
        let Moment { seconds, nanoseconds } = mtime;
        let held = u32::try_from(seconds);
        if held.is_err() || nanoseconds != 0 {
            self.times_changed += 1;
        }
        held.unwrap_or(if seconds < 0 { 0 } else { u32::MAX })
    }

    fn put(&mut self, id: Id, row: &Row) -> Place {
        let place = self.inodes.place();
        self.inodes.row(row);
        self.places[id] = Some(place);
        place
    }
}

/// The basic type of an inode.
fn kind(node: &Node) -> u16 {
    match node {
        Node::Directory(_) => DIRECTORY,
        Node::File(_) => FILE,
        Node::Symlink { .. } => SYMLINK,
        Node::Device(Device { is_block: true, .. }) => BLOCK_DEVICE,
        Node::Device(Device { is_block: false, .. }) => CHARACTER_DEVICE,
        Node::Fifo => FIFO,
        Node::Whiteout => unreachable!("merged trees have no marks"),
    }
}

/// A device's numbers in one (linux/kdev_t.h, `new_encode_dev`).
fn device_number(device: Device) -> u32 {
    let Device { major, minor, .. } = device;
    minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

//! Extended attributes: each set of them once, and which inode has which.

use std::collections::HashMap;

use super::metadata::{Row, Table};
use super::number::Numbered;
use super::pack::Compression;
use super::{ABSENT, Output, Unwritten, size};
use crate::convert::tree::{Id, Inode, Tree};

/// Kinds of attribute by the begin of their names (squashfs_fs.h, `SQUASHFS_XATTR_USER`…). Others
/// have no place in the format.
const PREFIXES: [(u16, &[u8]); 3] = [(0, b"user."), (1, b"trusted."), (2, b"security.")];

/// All sets of attributes of a tree.
pub(super) struct Attributes {
    by_inode: HashMap<Id, u32>,
    sets: Vec<Set>,
    values: Table,
    compression: Compression,
}

/// Where a set is.
struct Set {
    reference: u64,
    count: u32,
    bytes: u32,
}

impl Attributes {
    pub(super) fn of(
        tree: &Tree,
        numbered: &Numbered,
        compression: Compression,
    ) -> Result<Attributes, Unwritten> {
        let (by_inode, sets) = (HashMap::new(), Vec::new());
        let values = Table::new(compression)?;
        let mut attributes = Attributes { by_inode, sets, values, compression };
        let mut known: HashMap<Vec<u8>, u32> = HashMap::new();
        for (id, inode) in tree.inodes.iter().enumerate() {
            if numbered.numbers[id] == 0 || inode.xattrs.is_empty() {
                continue;
            }
            let (count, rows) = rows(inode)?;
            let number = match known.get(rows.as_slice()) {
                Some(number) => *number,
                None => {
                    let number = attributes.add(count, rows.as_slice())?;
                    known.insert(rows.as_slice().to_vec(), number);
                    number
                }
            };
            attributes.by_inode.insert(id, number);
        }
        Ok(attributes)
    }

    /// The number of the set that an inode has, if it has one.
    pub(super) fn set_of(&self, id: Id) -> Option<u32> {
        self.by_inode.get(&id).copied()
    }

    fn add(&mut self, count: u32, rows: &[u8]) -> Result<u32, Unwritten> {
        let number = size(self.sets.len())?;
        let reference = self.values.place().reference();
        self.sets.push(Set { reference, count, bytes: size(rows.len())? });
        self.values.write(rows);
        Ok(number)
    }

    /// Appends the tables to `output`, and returns where their head is.
    pub(super) fn write(self, output: &mut Output<'_>) -> Result<u64, Unwritten> {
        if self.sets.is_empty() {
            return Ok(ABSENT);
        }
        let values = output.write(&self.values.finish().0)?;
        let mut table = Table::new(self.compression)?;
        for set in &self.sets {
            table.row(Row::default().u64(set.reference).u32(set.count).u32(set.bytes));
        }
        let (packed, starts) = table.finish();
        let at = output.write(&packed)?;
        let mut head = Row::default();
        head.u64(values).u32(size(self.sets.len())?).u32(0);
        for start in starts {
            head.u64(at + start);
        }
        output.write(head.as_slice())
    }
}

/// The attributes of an inode in order of names, which is the same however a layer lists them.
fn rows(inode: &Inode) -> Result<(u32, Row), Unwritten> {
    let mut xattrs: Vec<_> = inode.xattrs.iter().collect();
    xattrs.sort_unstable();
    let mut rows = Row::default();
    for (name, value) in &xattrs {
        let wrong = |what: &str| {
            Unwritten::Unholdable(format!("the attribute `{}`{what}", name.escape_ascii()))
        };
        let kind = PREFIXES
            .iter()
            .find_map(|(kind, prefix)| name.strip_prefix(*prefix).map(|rest| (*kind, rest)));
        let (kind, rest) = kind.ok_or_else(|| wrong(""))?;
        let count = u16::try_from(rest.len()).map_err(|_| wrong(" with so long a name"))?;
        rows.u16(kind).u16(count).bytes(rest).u32(size(value.len())?).bytes(value);
    }
    Ok((size(xattrs.len())?, rows))
}

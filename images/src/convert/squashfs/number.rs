//! Gives every inode a number, and files the order in which their contents are written.

use super::{Unwritten, size};
use crate::convert::tree::{Id, Node, Tree};

/// What a walk over all names finds.
#[derive(Debug)]
pub(super) struct Numbered {
    /// By inode; 0 for those without a name. The root is 1.
    pub(super) numbers: Vec<u32>,
    /// How many names each inode has.
    pub(super) names: Vec<u32>,
    /// Each file once, neighbours of a directory together.
    pub(super) files: Vec<Id>,
    /// Inodes that have a name.
    pub(super) count: u32,
}

/// Numbers what is in a directory one after the other, before what is below it: a directory's
/// entries then differ little in their numbers, which is how it stores them.
pub(super) fn number(tree: &Tree) -> Result<Numbered, Unwritten> {
    let inodes = tree.inodes.len();
    size(inodes)?;
    let (numbers, names) = (vec![0; inodes], vec![0; inodes]);
    let mut numbered = Numbered { numbers, names, files: Vec::new(), count: 0 };
    numbered.name(tree, tree.root);
    let mut ahead = vec![tree.root];
    while let Some(id) = ahead.pop() {
        let Some(directory) = tree.directory(id) else { continue };
        for child in directory.children.values() {
            numbered.name(tree, *child);
        }
        ahead.extend(directory.children.values().rev());
    }
    Ok(numbered)
}

impl Numbered {
    /// Counts a name of an inode.
    fn name(&mut self, tree: &Tree, id: Id) {
        self.names[id] += 1;
        if self.numbers[id] == 0 {
            self.count += 1;
            self.numbers[id] = self.count;
            if matches!(tree.inodes[id].node, Node::File(_)) {
                self.files.push(id);
            }
        }
    }
}

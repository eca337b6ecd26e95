//! The tree that an image is, in memory: everything but the contents of files.
//!
//! Each layer becomes a tree of its own first, by the rules of `docs/decisions/layers.md`; merging
//! puts one on top of what is there as overlayfs would show it. So an image is the same tree
//! whether its layers are stacked or it is converted.

use std::collections::BTreeMap;

use crate::layer::{Device, IMPLIED, Status};

/// A place in [`Tree::inodes`].
pub(super) type Id = usize;

/// Something with a status, whatever its names.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) status: Status,
    /// By full name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) node: Node,
}

/// What an inode is.
#[derive(Debug)]
pub(super) enum Node {
    Directory(Directory),
    File(Content),
    Symlink {
        target: Vec<u8>,
    },
    Fifo,
    Device(Device),
    /// Says that lower layers have nothing by its name. There are none in a merged tree.
    Whiteout,
}

/// Where the bytes of a file are in the file of all contents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What is in a directory, in order of names.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) children: BTreeMap<Vec<u8>, Id>,
    /// Nothing of lower layers is in it.
    pub(super) is_opaque: bool,
}

/// All inodes that were ever made; those that no name leads to mean nothing.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) inodes: Vec<Inode>,
    pub(super) root: Id,
}

impl Tree {
    /// Nothing but an empty root.
    pub(super) fn new() -> Tree {
        let mut tree = Tree { inodes: Vec::new(), root: 0 };
        tree.root = tree.add_directory(IMPLIED);
        tree
    }

    /// Adds something that has no name yet.
    pub(super) fn add(&mut self, status: Status, node: Node) -> Id {
        self.inodes.push(Inode { status, xattrs: Vec::new(), node });
        self.inodes.len() - 1
    }

    /// Adds an empty directory that has no name yet.
    pub(super) fn add_directory(&mut self, status: Status) -> Id {
        self.add(status, Node::Directory(Directory::default()))
    }

    /// The directory that `id` is, if it is one.
    pub(super) fn directory(&self, id: Id) -> Option<&Directory> {
        match &self.inodes[id].node {
            Node::Directory(directory) => Some(directory),
            Node::File(_)
            | Node::Symlink { .. }
            | Node::Fifo
            | Node::Device(_)
            | Node::Whiteout => None,
        }
    }

    /// As `directory`, to be changed.
    pub(super) fn directory_mut(&mut self, id: Id) -> Option<&mut Directory> {
        match &mut self.inodes[id].node {
            Node::Directory(directory) => Some(directory),
            Node::File(_)
            | Node::Symlink { .. }
            | Node::Fifo
            | Node::Device(_)
            | Node::Whiteout => None,
        }
    }

    /// What is called `name` in the directory `parent`.
    pub(super) fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        self.directory(parent)?.children.get(name).copied()
    }

    /// Puts the directory `upper` of a higher layer onto the directory `lower`.
    ///
    /// Calls itself once for each directory in a path, of which a layer has a bounded number.
    pub(super) fn merge(&mut self, lower: Id, upper: Id) {
        self.inodes[lower].status = self.inodes[upper].status;
        self.inodes[lower].xattrs = std::mem::take(&mut self.inodes[upper].xattrs);
        let taken = self.directory_mut(upper).map(std::mem::take).unwrap_or_default();
        if taken.is_opaque
            && let Some(directory) = self.directory_mut(lower)
        {
            directory.children.clear();
        }
        for (name, id) in taken.children {
            let place = match &self.inodes[id].node {
                Node::Whiteout => None,
                Node::Directory(_) => {
                    let below = self.child(lower, &name);
                    let below = below.filter(|below| self.directory(*below).is_some());
                    let below = below.unwrap_or_else(|| self.add_directory(IMPLIED));
                    self.merge(below, id);
                    Some(below)
                }
                Node::File(_) | Node::Symlink { .. } | Node::Fifo | Node::Device(_) => Some(id),
            };
            let Some(directory) = self.directory_mut(lower) else { return };
            match place {
                Some(id) => directory.children.insert(name, id),
                None => directory.children.remove(&name),
            };
        }
    }
}

//! Makes one tree of an image's layers, and one file of all their contents.
//!
//! Nothing is unpacked: owners, modes, attributes and times stay what the layers say, whoever
//! converts. Memory holds names and statuses, never contents. The rules are those of
//! `docs/decisions/layers.md`, with two things kept that sandboxes have no use for but other
//! formats hold: device nodes and file capabilities.

mod added;

use std::fs::File;
use std::io::{BufWriter, Write};

use rustix::io::Errno;

use super::tree::{Content, Id, Node, Tree};
use crate::Limits;
use crate::layer::{
    Bytes, CAPABILITY, Device, Entries, Entry, Fault, IMPLIED, Kind, LayerPath, Meaning,
    NAME_BYTES_MAX, Refused, clean, meaning, shown, split,
};
pub(super) use added::Added;

/// Symbolic links on the way to one entry, and components visited, as when a layer is unpacked.
const LINKS_MAX: usize = 40;
const STEPS_MAX: usize = 1024;

/// The kernel takes at most PATH_MAX bytes with the ending zero (symlink(2)).
const TARGET_BYTES_MAX: usize = 4095;

/// Contents are written to disk in pieces of so many bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// What the layers held and the tree does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// Devices without a number: whiteouts by another name.
    pub(super) devices: u64,
    /// Attributes other than `user.*` and file capabilities.
    pub(super) xattrs: u64,
}

/// The tree of all layers so far, and where contents go.
pub(super) struct Flattened {
    pub(super) tree: Tree,
    pub(super) dropped: Dropped,
    content: BufWriter<File>,
    content_bytes: u64,
    entries: u64,
}

impl Flattened {
    /// An empty image, whose contents will be written to `content`, a new file.
    pub(super) fn new(content: File) -> Flattened {
        Flattened {
            tree: Tree::new(),
            dropped: Dropped::default(),
            content: BufWriter::with_capacity(BUFFER_BYTES, content),
            content_bytes: 0,
            entries: 0,
        }
    }

    /// Puts a layer, as a tar, on top of those before.
    pub(super) fn add_layer(&mut self, bytes: Bytes, limits: &Limits) -> Result<(), Fault> {
        let mut entries = Entries::new(bytes, limits);
        let root = self.tree.add_directory(IMPLIED);
        let mut layer = Layer { all: self, root, limits };
        while let Some(entry) = entries.next()? {
            layer.entry(&entry, &mut entries).map_err(|fault| name_entry(fault, &entry))?;
        }
        self.tree.merge(self.tree.root, root);
        Ok(())
    }

    /// The tree, what was left out, and the file of all contents.
    pub(super) fn finish(self) -> std::io::Result<(Tree, Dropped, File)> {
        let content = self.content.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        Ok((self.tree, self.dropped, content))
    }
}

/// Refusals name the entry as the archive wrote it.
fn name_entry(fault: Fault, entry: &Entry) -> Fault {
    match fault {
        Fault::Entry { reason, .. } => Fault::Entry { path: entry.path.clone(), reason },
        Fault::Malformed { .. } | Fault::Limit { .. } | Fault::Disk { .. } | Fault::Cut => fault,
    }
}

/// One layer on its way into a tree of its own.
struct Layer<'a> {
    all: &'a mut Flattened,
    root: Id,
    limits: &'a Limits,
}

impl Layer<'_> {
    fn entry(&mut self, entry: &Entry, entries: &mut Entries<'_>) -> Result<(), Fault> {
        let path = clean(&entry.path, self.limits)?;
        self.all.dropped.xattrs += entry.xattrs_ignored;
        self.count()?;
        let refuse = |reason| Fault::Entry { path: entry.path.clone(), reason };
        match (meaning(&path).map_err(refuse)?, &entry.kind) {
            (Meaning::Root, Kind::Directory) => {
                let root = self.root;
                self.describe(root, entry);
                Ok(())
            }
            (Meaning::Root, _) => Err(refuse(Refused::Root)),
            (Meaning::Whiteout { parent, name }, Kind::File { .. }) => {
                let parent = self.ensure(parent)?;
                self.white_out(parent, name);
                Ok(())
            }
            (Meaning::Opaque { parent }, Kind::File { .. }) => {
                let parent = self.ensure(parent)?;
                self.make_opaque(parent);
                Ok(())
            }
            (Meaning::Whiteout { .. } | Meaning::Opaque { .. }, _) => {
                Err(refuse(Refused::Whiteout))
            }
            (Meaning::Entry { parent, name }, _) => {
                let parent = self.ensure(parent)?;
                self.make(parent, name, entry, entries)
            }
        }
    }

    /// Makes what an entry describes, in place of anything that is there.
    fn make(
        &mut self,
        parent: Id,
        name: &[u8],
        entry: &Entry,
        entries: &mut Entries<'_>,
    ) -> Result<(), Fault> {
        let node = match &entry.kind {
            Kind::Directory => {
                let directory = self.make_directory(parent, name);
                self.describe(directory, entry);
                return Ok(());
            }
            Kind::HardLink { target } => {
                let target = self.link_target(parent, name, target)?;
                self.put(parent, name, target);
                return Ok(());
            }
            Kind::File { .. } => Node::File(self.content(entry, entries)?),
            Kind::Symlink { target } => {
                if target.is_empty() || target.len() > TARGET_BYTES_MAX {
                    let reason = Refused::LinkTarget;
                    return Err(Fault::Entry { path: entry.path.clone(), reason });
                }
                Node::Symlink { target: target.clone() }
            }
            Kind::Fifo => Node::Fifo,
            Kind::Device(Device { major: 0, minor: 0, .. }) => {
                self.all.dropped.devices += 1;
                return Ok(());
            }
            Kind::Device(device) => Node::Device(*device),
        };
        let id = self.all.tree.add(entry.status, node);
        self.describe(id, entry);
        self.put(parent, name, id);
        Ok(())
    }

    /// Copies a file's content to the others.
    fn content(&mut self, entry: &Entry, entries: &mut Entries<'_>) -> Result<Content, Fault> {
        let offset = self.all.content_bytes;
        let content = &mut self.all.content;
        let mut bytes = 0;
        entries.content(|piece| {
            bytes += piece.len() as u64;
            content.write_all(piece).map_err(|error| Fault::Disk {
                call: "write(2)",
                path: entry.path.clone(),
                errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
            })
        })?;
        self.all.content_bytes += bytes;
        Ok(Content { offset, bytes })
    }

    /// Gives an inode the status and attributes of an entry.
    fn describe(&mut self, id: Id, entry: &Entry) {
        let inode = &mut self.all.tree.inodes[id];
        inode.status = entry.status;
        for (name, value) in &entry.xattrs {
            inode.xattrs.retain(|(known, _)| known != name);
            inode.xattrs.push((name.clone(), value.clone()));
        }
        if let Some(capability) = &entry.capability
            && matches!(inode.node, Node::File(_))
        {
            inode.xattrs.push((CAPABILITY.to_vec(), capability.clone()));
            self.all.dropped.xattrs -= 1;
        }
    }

    /// The file of this layer that a hard link leads to.
    fn link_target(&mut self, parent: Id, name: &[u8], raw: &[u8]) -> Result<Id, Fault> {
        let target = clean(raw, self.limits)?;
        let reason = Refused::HardLink { target: shown(raw) };
        let refused = || Fault::Entry { path: raw.to_vec(), reason: reason.clone() };
        let (holder, target_name) = split(&target);
        let holder = self.walk(holder, false)?.ok_or_else(refused)?;
        if holder == parent && target_name == name {
            return Err(refused());
        }
        let found = self.all.tree.child(holder, target_name).ok_or_else(refused)?;
        match self.all.tree.inodes[found].node {
            Node::Directory(_) | Node::Whiteout => Err(refused()),
            Node::File(_) | Node::Symlink { .. } | Node::Fifo | Node::Device(_) => Ok(found),
        }
    }

    fn put(&mut self, parent: Id, name: &[u8], id: Id) {
        if let Some(directory) = self.all.tree.directory_mut(parent) {
            directory.children.insert(name.to_vec(), id);
        }
    }

    /// Makes `name` a directory and keeps what is in it if it was one.
    fn make_directory(&mut self, parent: Id, name: &[u8]) -> Id {
        let known = self.all.tree.child(parent, name);
        if let Some(known) = known.filter(|known| self.all.tree.directory(*known).is_some()) {
            return known;
        }
        let made = self.all.tree.add_directory(IMPLIED);
        if known.is_some() {
            // What was here, a whiteout or a file, hid all that lower layers have in this place.
            self.make_opaque(made);
        }
        self.put(parent, name, made);
        made
    }

    fn make_opaque(&mut self, id: Id) {
        if let Some(directory) = self.all.tree.directory_mut(id) {
            directory.is_opaque = true;
        }
    }

    /// Says that lower layers' `name` is gone; what this layer itself has there stays.
    fn white_out(&mut self, parent: Id, name: &[u8]) {
        match self.all.tree.child(parent, name) {
            Some(known) => self.make_opaque(known),
            None => {
                let mark = self.all.tree.add(IMPLIED, Node::Whiteout);
                self.put(parent, name, mark);
            }
        }
    }

    fn ensure(&mut self, path: &[u8]) -> Result<Id, Fault> {
        let made = self.walk(path, true)?;
        Ok(made.expect("what is missing was made"))
    }

    /// The directory that `path` means, through links of this layer. What is missing on the way is
    /// made, or means that there is none.
    fn walk(&mut self, path: &[u8], makes_missing: bool) -> Result<Option<Id>, Fault> {
        let refuse = |reason| Err(Fault::Entry { path: path.to_vec(), reason });
        let mut here = vec![self.root];
        let mut ahead: Vec<LayerPath> = reversed(path).collect();
        let (mut links, mut steps) = (0, 0);
        while let Some(component) = ahead.pop() {
            steps += 1;
            if steps > STEPS_MAX || ahead.len() > STEPS_MAX || links > LINKS_MAX {
                return refuse(Refused::Links);
            }
            if component == b".." {
                here.truncate((here.len() - 1).max(1));
                continue;
            }
            let parent = here.last().copied().expect("the root is never taken off");
            let found = self.all.tree.child(parent, &component);
            match found.map(|id| (id, &self.all.tree.inodes[id].node)) {
                Some((id, Node::Directory(_))) => here.push(id),
                Some((_, Node::Symlink { target })) => {
                    links += 1;
                    ahead.extend(reversed(target));
                    if target.starts_with(b"/") {
                        here.truncate(1);
                    }
                }
                Some((_, Node::File(_) | Node::Fifo | Node::Device(_))) => {
                    return refuse(Refused::Parent { parent: shown(&component) });
                }
                None | Some((_, Node::Whiteout)) if !makes_missing => return Ok(None),
                None | Some((_, Node::Whiteout)) => {
                    if component.len() > NAME_BYTES_MAX {
                        return refuse(Refused::NameLength);
                    }
                    if here.len() > self.limits.path_depth_max {
                        let most = self.limits.path_depth_max as u64;
                        return Err(Fault::Limit { limit: "path_depth_max", most });
                    }
                    self.count()?;
                    here.push(self.make_directory(parent, &component));
                }
            }
        }
        Ok(here.last().copied())
    }

    /// Counts something that is about to be made, in this layer and those below.
    fn count(&mut self) -> Result<(), Fault> {
        self.all.entries += 1;
        let most = self.limits.entries_max;
        if self.all.entries > most {
            Err(Fault::Limit { limit: "entries_max", most })
        } else {
            Ok(())
        }
    }
}

/// The components of a path, last first, without those that lead nowhere.
fn reversed(path: &[u8]) -> impl Iterator<Item = LayerPath> {
    let real = |component: &&[u8]| !matches!(*component, b"" | b".");
    path.rsplit(|byte| *byte == b'/').filter(real).map(<[u8]>::to_vec)
}

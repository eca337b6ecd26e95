//! What a format needs in the tree besides what the image has.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::Flattened;
use crate::convert::tree::{Content, Id, Node};
use crate::layer::IMPLIED;

/// Something to be added, of root and with the time 0.
#[derive(Debug, Clone, Copy)]
pub(in crate::convert) enum Added<'a> {
    /// A directory that everybody may look into.
    Directory,
    /// A file.
    File { mode: u32, content: &'a str },
    /// A symbolic link.
    Link { target: &'a str },
}

impl Flattened {
    /// Adds something as `path`, with the directories that it is in. What is there stays as it is,
    /// and nothing is added where a directory of the path is something else: a link says where the
    /// image's maker wants things to be.
    pub(in crate::convert) fn add(&mut self, path: &str, added: Added<'_>) -> io::Result<()> {
        let Some((parent, name)) = self.parent_of(path) else { return Ok(()) };
        if self.tree.child(parent, name).is_some() {
            return Ok(());
        }
        let mut status = IMPLIED;
        let node = match added {
            Added::Directory => {
                self.put_directory(parent, name);
                return Ok(());
            }
            Added::File { mode, content } => {
                status.mode = mode;
                let (offset, bytes) = (self.content_bytes, content.len() as u64);
                self.content.write_all(content.as_bytes())?;
                self.content_bytes += bytes;
                Node::File(Content { offset, bytes })
            }
            Added::Link { target } => {
                status.mode = 0o777;
                Node::Symlink { target: target.as_bytes().to_vec() }
            }
        };
        let id = self.tree.add(status, node);
        if let Some(directory) = self.tree.directory_mut(parent) {
            directory.children.insert(name.to_vec(), id);
        }
        Ok(())
    }

    /// Takes away what is called `path`, unless it is a directory.
    pub(in crate::convert) fn take_away(&mut self, path: &str) {
        let (parent, name) = split(path);
        let Some(parent) = self.find(parent) else { return };
        let is_directory = |id| self.tree.directory(id).is_some();
        if self.tree.child(parent, name).is_some_and(|id| !is_directory(id))
            && let Some(directory) = self.tree.directory_mut(parent)
        {
            directory.children.remove(name);
        }
    }

    /// Reads the file `path`, if it is one of at most `bytes_max` bytes. No link is followed.
    pub(in crate::convert) fn read(
        &mut self,
        path: &str,
        bytes_max: u64,
    ) -> io::Result<Option<Vec<u8>>> {
        let Some(id) = self.find(path) else { return Ok(None) };
        let Node::File(Content { offset, bytes }) = self.tree.inodes[id].node else {
            return Ok(None);
        };
        let Some(count) = usize::try_from(bytes).ok().filter(|_| bytes <= bytes_max) else {
            return Ok(None);
        };
        self.content.flush()?;
        let mut content = vec![0; count];
        self.content.get_ref().read_exact_at(&mut content, offset)?;
        Ok(Some(content))
    }

    /// The directory that `path` is in, and its name there. Directories that are missing are made.
    fn parent_of<'a>(&mut self, path: &'a str) -> Option<(Id, &'a [u8])> {
        let (parent, name) = split(path);
        let mut here = self.tree.root;
        for component in components(parent) {
            if self.tree.child(here, component).is_none() {
                self.put_directory(here, component);
            }
            here = self.tree.child(here, component)?;
            self.tree.directory(here)?;
        }
        Some((here, name))
    }

    fn put_directory(&mut self, parent: Id, name: &[u8]) {
        let id = self.tree.add_directory(IMPLIED);
        if let Some(directory) = self.tree.directory_mut(parent) {
            directory.children.insert(name.to_vec(), id);
        }
    }

    fn find(&self, path: &str) -> Option<Id> {
        let down = |here, component| self.tree.child(here, component);
        components(path).try_fold(self.tree.root, down)
    }
}

fn split(path: &str) -> (&str, &[u8]) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    (parent, name.as_bytes())
}

fn components(path: &str) -> impl Iterator<Item = &[u8]> {
    path.split('/').filter(|component| !component.is_empty()).map(str::as_bytes)
}

//! Files of an OCI layout directory (`oci:`).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat};

use super::{Files, SourceError};
use crate::beneath::open_beneath;

/// An opened directory. Every name is resolved below it.
pub(super) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

impl Directory {
    /// Opens the directory `path`.
    pub(super) fn open(path: &Path) -> Result<Directory, SourceError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Directory { path: path.to_owned(), fd }),
            Err(errno) => Err(SourceError::Open { path: path.to_owned(), source: errno.into() }),
        }
    }
}

impl Files for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open_file(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), SourceError> {
        // NONBLOCK: opening a FIFO without it waits for a writer for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        // Links may share blobs within the layout, but lead nowhere else.
        let file = match open_beneath(&self.fd, name, flags, ResolveFlags::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => {
                return Err(SourceError::Missing {
                    path: self.path.clone(),
                    entry: name.to_owned(),
                });
            }
            Err(rustix::io::Errno::XDEV) => {
                return Err(self.not_a_file(name, "a link that leads out"));
            }
            Err(errno) => return Err(self.read_error(name, io::Error::from(errno))),
        };
        let metadata = file.metadata().map_err(|source| self.read_error(name, source))?;
        if !metadata.is_file() {
            return Err(self.not_a_file(name, "no regular file"));
        }
        Ok((Box::new(file), metadata.len()))
    }
}

impl Directory {
    fn not_a_file(&self, name: &str, wrong: &'static str) -> SourceError {
        SourceError::NotAFile { path: self.path.clone(), entry: name.to_owned(), wrong }
    }
}

//! Where the files of a layout go: a directory, or a tar.

use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tar::EntryType;

use crate::layer::{Head, Moment, TarWriter};

/// Takes files by name, one after the other.
pub(super) trait Sink {
    /// Writes the file `name`, whose directories are made if they are missing, with `bytes` bytes
    /// of `content`.
    fn put(&mut self, name: &str, bytes: u64, content: &mut dyn Read) -> io::Result<()>;
}

/// A new directory, which is ours until it gets its name.
pub(super) struct Folder {
    directory: OwnedFd,
    /// Of all files.
    pub(super) bytes: u64,
}

impl Folder {
    pub(super) fn new(directory: OwnedFd) -> Folder {
        Folder { directory, bytes: 0 }
    }
}

impl Sink for Folder {
    fn put(&mut self, name: &str, bytes: u64, content: &mut dyn Read) -> io::Result<()> {
        for (end, _) in name.match_indices('/') {
            match rustix::fs::mkdirat(&self.directory, &name[..end], Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o666);
        let file = rustix::fs::openat(&self.directory, name, flags | OFlags::CLOEXEC, mode)?;
        if io::copy(&mut content.take(bytes), &mut File::from(file))? != bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes += bytes;
        Ok(())
    }
}

/// Bytes of a tar that are collected before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// A tar. Nothing in it depends on who writes it and when.
pub(super) struct Tar<'a>(TarWriter<BufWriter<&'a File>>);

impl<'a> Tar<'a> {
    /// Writes to a new file.
    pub(super) fn new(file: &'a File) -> Tar<'a> {
        Tar(TarWriter::new(BufWriter::with_capacity(BUFFER_BYTES, file)))
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.0.finish()
    }
}

impl Sink for Tar<'_> {
    fn put(&mut self, name: &str, bytes: u64, content: &mut dyn Read) -> io::Result<()> {
        let head = Head {
            path: name.as_bytes(),
            kind: EntryType::Regular,
            target: b"",
            device: None,
            bytes,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Moment::default(),
            xattrs: &[],
        };
        self.0.file(&head, content)
    }
}

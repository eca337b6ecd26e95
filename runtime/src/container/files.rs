//! Files that go into `/task` and come out of it, hashed on the way.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use sha2::{Digest as _, Sha256};

use super::run::{RunError, attend};
use crate::frame::hex;
use crate::{SecretAsk, Work};

/// Bytes moved at a time: what a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// The memory files of a task's secrets, each from its beginning: whoever has a copy of a
/// descriptor moves its place too, and more than one container may get the same secret.
pub(super) fn open_secrets(work: &Work, descriptors: &[OwnedFd]) -> Result<Vec<OwnedFd>, RunError> {
    let open = |secret: &SecretAsk| {
        let missing = || io::Error::other("its descriptor did not come along");
        let memory = descriptors.get(secret.descriptor).ok_or_else(missing)?;
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        Ok(OwnedFd::from(File::open(path)?))
    };
    let opened = work.secrets.iter().map(|secret| {
        open(secret).map_err(attend(format!("hand over the secret {}", secret.name)))
    });
    opened.collect()
}

/// One input on its way into the sandbox. What is hashed is what is delivered, whatever happens to
/// the file meanwhile.
pub(super) struct Feed {
    name: String,
    file: File,
    pipe: Option<OwnedFd>,
    hash: Sha256,
    chunk: Vec<u8>,
}

impl Feed {
    /// The feed and the end that init reads. `source` must be open for reading or reopenable.
    pub(super) fn new(name: &str, source: BorrowedFd<'_>) -> io::Result<(Feed, OwnedFd)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&write, true)?;
        let feed = Feed {
            name: name.to_owned(),
            file: File::from(source.try_clone_to_owned()?),
            pipe: Some(write),
            hash: Sha256::new(),
            chunk: Vec::new(),
        };
        Ok((feed, read))
    }

    /// The descriptor to wait for until it can be written to; `None` when all is delivered.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Moves what can be moved.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        while let Some(pipe) = &self.pipe {
            if self.chunk.is_empty() {
                self.chunk.resize(CHUNK_BYTES, 0);
                let bytes = self.file.read(&mut self.chunk)?;
                self.chunk.truncate(bytes);
                self.hash.update(&self.chunk);
                if bytes == 0 {
                    self.pipe = None;
                    break;
                }
            }
            match rustix::io::write(pipe, &self.chunk) {
                Ok(bytes) => drop(self.chunk.drain(..bytes)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // Init has given up on it, and says why.
                Err(Errno::PIPE) => self.pipe = None,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Name and SHA-256 of what was delivered.
    pub(super) fn into_digest(self) -> (String, String) {
        (self.name, hex(&self.hash.finalize()))
    }
}

/// Copies an output that init opened to where the caller wants it: its SHA-256.
pub(super) fn copy_output(
    from: OwnedFd,
    to: &mut dyn io::Write,
    bytes_max: u64,
) -> io::Result<String> {
    let stat = rustix::fs::fstat(&from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    let mut file = File::from(from).take(bytes_max + 1);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut copied = 0;
    loop {
        let bytes = file.read(&mut chunk)?;
        if bytes == 0 {
            return Ok(hex(&hash.finalize()));
        }
        copied += bytes as u64;
        if copied > bytes_max {
            return Err(io::Error::other(format!("larger than {bytes_max} bytes")));
        }
        hash.update(&chunk[..bytes]);
        to.write_all(&chunk[..bytes])?;
    }
}

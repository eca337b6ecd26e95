//! The directory of a journal: who may have it, and large payloads as files named by their digest.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ric_runtime::wire::Payload;
use ric_runtime::{DESCRIPTOR_BYTES_MIN, Sha256Digest, memory_file, seal_memory};
use sha2::{Digest, Sha256};

use super::record::Part;
use crate::serve::socket::take_lock;

/// Bytes copied at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A directory that is this daemon's alone.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Held as long as this lives, so that a second daemon knows.
    _lock: File,
}

/// Why a directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(in crate::serve) enum FolderError {
    #[error("cannot make it")]
    Make(#[source] io::Error),
    #[error("uid {uid} owns it, or others may use it (mode {mode:o})")]
    Shared { uid: u32, mode: u32 },
    #[error("another daemon keeps its tasks there")]
    Taken,
}

impl Folder {
    /// Makes it if it is not there, and takes it.
    pub(super) fn take(path: &Path) -> Result<Folder, FolderError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(FolderError::Make)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(FolderError::Make(error));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(path).map_err(FolderError::Make)?;
        let (uid, mode) = (found.uid(), found.mode() & 0o7777);
        let own = uid == rustix::process::geteuid().as_raw() && found.is_dir();
        if !own || mode & 0o077 != 0 {
            return Err(FolderError::Shared { uid, mode });
        }
        let lock = open_new(&path.join("lock")).map_err(FolderError::Make)?;
        match take_lock(&lock) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(FolderError::Taken),
            Err(errno) => return Err(FolderError::Make(errno.into())),
        }
        let folder = Folder { path: path.to_owned(), _lock: lock };
        fs::create_dir_all(folder.payloads()).map_err(FolderError::Make)?;
        Ok(folder)
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// A journal that is being written anew.
    pub(super) fn next_journal(&self) -> PathBuf {
        self.path.join("journal.new")
    }

    fn payloads(&self) -> PathBuf {
        self.path.join("payloads")
    }

    fn payload(&self, part: &Part) -> PathBuf {
        self.payloads().join(part.file_name())
    }

    /// Has the new journal take the old one's place. `Ok(false)`: a power failure may undo it.
    pub(super) fn replace_journal(&self) -> io::Result<bool> {
        fs::rename(self.next_journal(), self.journal())?;
        Ok(File::open(&self.path).and_then(|folder| folder.sync_all()).is_ok())
    }

    /// Removes every payload that is not `needed`, and what is half written.
    pub(super) fn remove_others(&self, needed: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(self.payloads())? {
            let entry = entry?;
            if !needed(&entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
        match fs::remove_file(self.next_journal()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Removes the payload with this digest. What cannot be removed is at the next start.
    pub(super) fn remove(&self, sha256: Sha256Digest) {
        let _ = fs::remove_file(self.payload(&Part { bytes: 0, sha256 }));
    }

    /// Makes `payload` a file that survives a crash; `Ok(Some(_))`: why it is not what `part` says.
    pub(super) fn keep(&self, part: &Part, payload: &Content) -> io::Result<Option<String>> {
        let path = self.payload(part);
        // Under its name it is whole and verified.
        if path.exists() {
            return Ok(None);
        }
        let half = path.with_extension("half");
        let written = self.write(&half, part, payload);
        if !matches!(written, Ok(None)) {
            let _ = fs::remove_file(&half);
            return written;
        }
        fs::rename(&half, &path)?;
        File::open(self.payloads())?.sync_all()?;
        Ok(None)
    }

    fn write(&self, half: &Path, part: &Part, payload: &Content) -> io::Result<Option<String>> {
        let mut file = open_new(half)?;
        file.set_len(0)?;
        let fault = payload.copy_to(part, &mut file)?;
        file.sync_data()?;
        Ok(fault)
    }

    /// The payload of `part`, verified.
    pub(super) fn read(&self, part: &Part) -> io::Result<Payload> {
        let mut file = File::open(self.payload(part))?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut copy = |sink: &mut dyn Write| -> io::Result<()> {
            loop {
                let bytes = file.read(&mut chunk)?;
                if bytes == 0 {
                    break;
                }
                hash.update(&chunk[..bytes]);
                sink.write_all(&chunk[..bytes])?;
            }
            match Sha256Digest::from(hash.finalize_reset()) == part.sha256 {
                true => Ok(()),
                false => Err(io::Error::new(io::ErrorKind::InvalidData, "a payload is damaged")),
            }
        };
        if part.bytes < DESCRIPTOR_BYTES_MIN {
            let mut bytes = Vec::new();
            copy(&mut bytes)?;
            return Ok(Payload::Bytes(bytes));
        }
        let mut memory = memory_file()?;
        copy(&mut memory)?;
        seal_memory(memory).map(Payload::Memory)
    }
}

fn open_new(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The journal's file, made if it is not there.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let file = open_new(path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

/// Bytes that shall become part of a record.
#[derive(Debug)]
pub(in crate::serve) enum Content {
    /// Of many records.
    Shared(std::sync::Arc<Vec<u8>>),
    /// As it came.
    Payload(Payload),
}

impl Content {
    pub(in crate::serve) fn bytes(bytes: impl Into<Vec<u8>>) -> Content {
        Content::Payload(Payload::Bytes(bytes.into()))
    }

    /// Copies it; `Ok(Some(_))`: why it is not what `part` says.
    pub(super) fn copy_to(&self, part: &Part, sink: &mut dyn Write) -> io::Result<Option<String>> {
        let mut hash = Sha256::new();
        let mut copied = 0;
        let mut take = |bytes: &[u8]| {
            hash.update(bytes);
            copied += bytes.len() as u64;
            sink.write_all(bytes)
        };
        let sound = match self {
            Content::Shared(bytes) => take(bytes).map(Ok)?,
            Content::Payload(Payload::Bytes(bytes)) => take(bytes).map(Ok)?,
            Content::Payload(Payload::Memory(memory)) => {
                ric_runtime::copy_sealed(memory, part.bytes, CHUNK_BYTES, &mut take)?
            }
        };
        if let Err(why) = sound {
            return Ok(Some(format!("the sender {why}")));
        }
        let got = Sha256Digest::from(hash.finalize());
        Ok((copied != part.bytes || got != part.sha256).then(|| {
            let (expected, got) = (ric_runtime::hex(&part.sha256), ric_runtime::hex(&got));
            format!("a payload has the digest {got}, and was said to have {expected}")
        }))
    }
}

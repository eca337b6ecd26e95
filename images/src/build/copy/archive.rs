//! `ADD` of an archive: unpacked by the extractor of layers, then copied like any other tree.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::error::{CopyError, at, text};
use super::source::CopySource;
use crate::layer::{is_opaque, sorted_names};
use crate::{Digest, LayerDescriptor, Limits, MediaType, unpack_layer};

/// Where the header of a tar says that it is one.
const MAGIC: std::ops::Range<usize> = 257..262;

/// Where archives are unpacked before they are copied, and how much may be in them.
#[derive(Debug, Clone, Copy)]
pub struct Scratch<'a> {
    /// An empty directory, which the caller removes with all that is in it.
    pub directory: &'a Path,
    /// As of a layer.
    pub limits: &'a Limits,
}

/// The file `path` as an archive; `None` if it is copied like any other file. As Docker does, it is
/// asked what it holds, not what it is called.
pub(super) fn read(
    from: &CopySource,
    path: &[u8],
    limits: &Limits,
) -> Result<Option<LayerDescriptor>, CopyError> {
    let open = || from.tree.file(path).map(|(file, _)| file).map_err(at(path));
    let start = |file: &mut dyn Read| {
        let mut start = Vec::new();
        // What is cut or damaged is no archive.
        let _ = file.take(512).read_to_end(&mut start);
        start
    };
    let bytes = start(&mut open()?);
    let is_tar = |start: &[u8]| start.get(MAGIC) == Some(b"ustar");
    let media_type = if is_tar(&bytes) {
        MediaType::Tar
    } else if bytes.starts_with(b"\x1f\x8b") {
        MediaType::TarGzip
    } else if bytes.starts_with(b"\x28\xb5\x2f\xfd") {
        MediaType::TarZstd
    } else if bytes.starts_with(b"BZh") || bytes.starts_with(b"\xfd7zXZ\0") {
        let what = format!("unpacking `{}`", text(path));
        let why = "of packed archives gzip and zstd are read: COPY it, and unpack it with RUN";
        return Err(CopyError::NotSupported { what, why });
    } else {
        return Ok(None);
    };
    if media_type != MediaType::Tar {
        let mut unpacked = decoded(open()?, media_type, limits).map_err(at(path))?;
        if !is_tar(&start(&mut unpacked)) {
            return Ok(None);
        }
    }
    let (digest, blob_bytes) = digested(open()?, u64::MAX).map_err(at(path))?;
    let most = limits.unpacked_bytes_max;
    let (diff_id, _) = decoded(open()?, media_type, limits)
        .and_then(|tar| digested(tar, most))
        .map_err(at(path))?;
    Ok(Some(LayerDescriptor { digest, diff_id, blob_bytes, media_type }))
}

/// Unpacks an archive that was [`read`], which must not have changed since.
pub(super) fn unpack(
    layer: &LayerDescriptor,
    from: &CopySource,
    path: &[u8],
    scratch: Scratch<'_>,
) -> Result<CopySource, CopyError> {
    let directory = scratch.directory.join(format!("archive-{}", layer.digest.hex()));
    let tree = make(&directory).map_err(at(path))?;
    let (mut file, _) = from.tree.file(path).map_err(at(path))?;
    unpack_layer(layer, &mut file, scratch.limits, tree.as_fd())
        .map_err(|source| CopyError::Archive { path: text(path), source: Box::new(source) })?;
    refuse_removals(&tree, path)?;
    CopySource::image(&text(path), &[directory])
}

fn make(directory: &PathBuf) -> io::Result<OwnedFd> {
    match std::fs::create_dir(directory) {
        // The same archive twice.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_dir_all(directory)?;
            std::fs::create_dir(directory)?;
        }
        made => made?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}

/// What in a layer says that a file was removed means nothing in an archive, and would remove files
/// of the image.
fn refuse_removals(directory: &OwnedFd, path: &[u8]) -> Result<(), CopyError> {
    let failed = at(path);
    if is_opaque(directory.as_fd()).map_err(failed)? {
        return Err(removal(path));
    }
    for name in sorted_names(directory.as_fd()).map_err(|error| failed(error.into()))? {
        let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|error| failed(error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => return Err(removal(path)),
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(directory, &name, flags, Mode::empty());
                refuse_removals(&inner.map_err(|error| failed(error.into()))?, path)?;
            }
            FileType::RegularFile
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::BlockDevice
            | FileType::Unknown => {}
        }
    }
    Ok(())
}

fn removal(path: &[u8]) -> CopyError {
    let what = format!("a name that begins with `.wh.` in `{}`", text(path));
    let why = "in a layer such a name means that a file was removed";
    CopyError::NotSupported { what, why }
}

fn decoded(file: File, media_type: MediaType, limits: &Limits) -> io::Result<Box<dyn Read>> {
    Ok(match media_type {
        MediaType::TarGzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
        MediaType::TarZstd => {
            let mut decoder = zstd::Decoder::new(file)?;
            decoder.window_log_max(limits.zstd_window_log_max)?;
            Box::new(decoder)
        }
        MediaType::Tar | MediaType::Squashfs | MediaType::Sif => Box::new(file),
    })
}

/// Digest and length of all there is, which may be no more than `most`.
fn digested(mut from: impl Read, most: u64) -> io::Result<(Digest, u64)> {
    let (mut digest, mut bytes) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok((Digest::from_hasher(digest), bytes));
        }
        bytes += read as u64;
        if bytes > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        digest.update(&buffer[..read]);
    }
}

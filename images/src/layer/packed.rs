//! The packed end: reads a blob once, verifies and counts it, and unpacks it into chunks.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use super::Limits;
use super::bytes::Chunk;
use super::sif::{Sif, Span};
use super::spool::{Place, spool};
use super::squashfs;
use crate::{BlobFault, LayerDescriptor, MediaType, Verified};

/// Bytes read from a blob at a time, and of each chunk: large enough to make system calls and
/// hand-overs rare, small enough to stay in a core's cache until hashed and written.
const READ_BYTES: usize = 256 << 10;
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Why unpacking stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The blob could not be read.
    Read { offset: u64, source: io::Error },
    /// It is another one than promised.
    Blob(BlobFault),
    /// It is not packed as its media type says.
    Packing(String),
    /// The blob could not be kept for reading it at random.
    Disk { call: &'static str, source: io::Error },
    /// A bound of [`Limits`] was passed.
    Limit { limit: &'static str, most: u64 },
    /// Nobody takes the chunks any more; whoever did knows why.
    Refused,
}

/// Unpacks all of `blob`, which may be had at random in `place`, and hands the chunks to `sink`,
/// which says whether it wants more.
pub(super) fn unpack(
    blob: &Counted<'_>,
    media_type: MediaType,
    limits: &Limits,
    place: Place<'_>,
    sink: &mut dyn FnMut(Chunk) -> bool,
) -> Result<(), Stop> {
    let mut packed = BufReader::with_capacity(READ_BYTES, blob);
    let start = packed.fill_buf().map_err(|error| blob.stop(error))?;
    check_magic(start, media_type).map_err(Stop::Packing)?;
    match media_type {
        MediaType::Tar => pump(blob, &mut packed, limits, sink),
        MediaType::TarGzip => pump(blob, &mut MultiGzDecoder::new(packed), limits, sink),
        MediaType::TarZstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(packed);
            let mut decoder = decoder.map_err(|error| blob.stop(error))?;
            decoder.window_log_max(limits.zstd_window_log_max).map_err(|error| blob.stop(error))?;
            pump(blob, &mut decoder, limits, sink)
        }
        MediaType::Squashfs => {
            let file = spool(blob, &mut packed, place)?;
            let bytes = file_bytes(&file)?;
            squashfs::unpack(&file, Span { offset: 0, bytes }, limits, sink)
        }
        MediaType::Sif => {
            let file = spool(blob, &mut packed, place)?;
            let sif = Sif::read(&file, file_bytes(&file)?).map_err(Stop::Packing)?;
            squashfs::unpack(&file, sif.root, limits, sink)
        }
    }
}

fn file_bytes(file: &File) -> Result<u64, Stop> {
    let metadata = file.metadata().map_err(|source| Stop::Disk { call: "fstat(2)", source })?;
    Ok(metadata.len())
}

fn pump(
    blob: &Counted<'_>,
    unpacked: &mut dyn Read,
    limits: &Limits,
    sink: &mut dyn FnMut(Chunk) -> bool,
) -> Result<(), Stop> {
    let mut total: u64 = 0;
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut filled = 0;
        while filled < CHUNK_BYTES {
            match unpacked.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(blob.stop(error)),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        total += filled as u64;
        check_size(total, blob.count(), limits)?;
        chunk.truncate(filled);
        if !sink(Arc::new(chunk)) {
            return Err(Stop::Refused);
        }
    }
}

/// Checked before a chunk is handed on, so nothing past a bound is ever written.
pub(super) fn check_size(unpacked: u64, packed: u64, limits: &Limits) -> Result<(), Stop> {
    if unpacked > limits.unpacked_bytes_max {
        let most = limits.unpacked_bytes_max;
        return Err(Stop::Limit { limit: "unpacked_bytes_max", most });
    }
    let is_small = unpacked <= limits.ratio_floor_bytes;
    if !is_small && unpacked > packed.saturating_mul(limits.ratio_max) {
        return Err(Stop::Limit { limit: "ratio_max", most: limits.ratio_max });
    }
    Ok(())
}

/// Tells a wrong media type from damage, where the first bytes can.
fn check_magic(start: &[u8], media_type: MediaType) -> Result<(), String> {
    // RFC 1952, 2.3.1; RFC 8878, 3.1.1 and 3.1.2.
    let is_gzip = start.starts_with(&[0x1f, 0x8b]);
    let is_zstd = start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18];
    let found = match (is_gzip, is_zstd) {
        (true, _) => "gzip",
        (_, true) => "zstd",
        _ => "neither gzip nor zstd",
    };
    let is_right = match media_type {
        MediaType::Tar => !is_gzip && !is_zstd,
        MediaType::TarGzip => is_gzip,
        MediaType::TarZstd => is_zstd,
        // Their own headers say more.
        MediaType::Squashfs | MediaType::Sif => true,
    };
    if is_right { Ok(()) } else { Err(format!("its first bytes are {found}")) }
}

/// The packing in the words of its own documents.
pub(super) fn packing(media_type: MediaType) -> &'static str {
    match media_type {
        MediaType::Tar => "plain tar",
        MediaType::TarGzip => "gzip",
        MediaType::TarZstd => "zstd",
        MediaType::Squashfs => "squashfs",
        MediaType::Sif => "SIF",
    }
}

/// A blob that is verified and counted as it is read. Decoders hide why a read failed; this
/// remembers it.
pub(super) struct Counted<'a>(RefCell<State<'a>>);

struct State<'a> {
    blob: Verified<&'a mut dyn Read>,
    count: u64,
    failure: Option<Stop>,
}

impl<'a> Counted<'a> {
    pub(super) fn new(blob: &'a mut dyn Read, layer: &LayerDescriptor) -> Counted<'a> {
        let blob = Verified::new(blob, layer.digest, layer.blob_bytes);
        Counted(RefCell::new(State { blob, count: 0, failure: None }))
    }

    /// Bytes read so far.
    fn count(&self) -> u64 {
        self.0.borrow().count
    }

    /// Reads what is left, so that all of the blob is verified.
    pub(super) fn drain(&self) -> Result<(), Stop> {
        let copied = io::copy(&mut &*self, &mut io::sink());
        copied.map(|_| ()).map_err(|error| self.stop(error))
    }

    /// Finds out whether an error of a decoder is its own or the blob's.
    pub(super) fn stop(&self, error: io::Error) -> Stop {
        self.0.borrow_mut().failure.take().unwrap_or_else(|| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return Stop::Packing("it ends in the middle".to_owned());
            }
            Stop::Packing(error.to_string())
        })
    }
}

impl Read for &Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = &mut *self.0.borrow_mut();
        match state.blob.read(buffer) {
            Ok(count) => {
                state.count += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(source) => {
                let fault = source.get_ref().and_then(|inner| inner.downcast_ref::<BlobFault>());
                state.failure = Some(match fault {
                    Some(fault) => Stop::Blob(fault.clone()),
                    None => Stop::Read { offset: state.count, source },
                });
                Err(io::ErrorKind::Other.into())
            }
        }
    }
}

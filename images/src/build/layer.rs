//! A tar as a layer of the store: packed, named by what it is, unpacked.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Seek, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::PrepareError;
use crate::store::LeasedLayer;
use crate::{Digest, LayerDescriptor, LayerError, Limits, MediaType, Store, StoreError};

/// Text packs to a third by the first levels, and each further one costs twice the time for a few
/// parts in a hundred.
const LEVEL: u32 = 3;

/// Why what a step made cannot become a layer. The store is as before.
#[derive(Debug, thiserror::Error)]
pub enum AddError<E: Debug + 'static> {
    /// It could not be made.
    #[error("cannot make the layer")]
    Made {
        /// Why not.
        cause: E,
    },
    /// Its step cannot have what it asks for.
    #[error("cannot prepare the step")]
    Prepare {
        /// Why not.
        source: PrepareError,
    },
    /// It is larger than may be.
    #[error("the layer has more than {bytes_max} bytes")]
    TooLarge {
        /// The most.
        bytes_max: u64,
    },
    /// It cannot be kept.
    #[error("cannot keep the layer")]
    Kept {
        /// Why not.
        source: LayerError,
    },
    /// The store cannot be written.
    #[error("cannot write the layer into the store")]
    Store {
        /// Why not.
        source: StoreError,
    },
}

impl<E: Debug + 'static> From<PrepareError> for AddError<E> {
    fn from(source: PrepareError) -> AddError<E> {
        AddError::Prepare { source }
    }
}

impl Store {
    /// Keeps the layer whose uncompressed tar `make` writes, at most `limits.unpacked_bytes_max`
    /// bytes of it.
    ///
    /// The same tar gives the same blob, whoever makes it. A layer that is there already is not
    /// written again.
    ///
    /// # Errors
    /// [`AddError`]; nothing of it is left.
    pub fn add_built<E: Debug + 'static>(
        &self,
        limits: &Limits,
        make: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<LayerDescriptor, AddError<E>> {
        self.lease_built(limits, make).map(|(layer, _)| layer)
    }

    /// As [`Store::add_built`]; the layer stays as long as what is returned lives.
    pub(crate) fn lease_built<E: Debug + 'static>(
        &self,
        limits: &Limits,
        make: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(LayerDescriptor, LeasedLayer), AddError<E>> {
        let store = |source| AddError::Store { source };
        let spool = self.build_spool().map_err(store)?;
        let mut packer = Packer::new(&spool.file, limits.unpacked_bytes_max);
        let made = make(&mut packer);
        if packer.is_too_large {
            return Err(AddError::TooLarge { bytes_max: limits.unpacked_bytes_max });
        }
        made.map_err(|cause| AddError::Made { cause })?;
        let layer = packer.finish().map_err(|source| store(spool.failed(source)))?;
        // What was made here packs as well as it does.
        let limits = Limits { ratio_max: u64::MAX, ..limits.clone() };
        let kept = |source| AddError::Kept { source };
        loop {
            let mut blob = &spool.file;
            blob.rewind().map_err(|source| store(spool.failed(source)))?;
            self.add_layer(&layer, &mut blob, &limits).map_err(kept)?;
            // A collector may have taken it in between.
            if let Some(leased) = self.lease_layer(&layer.diff_id).map_err(store)? {
                return Ok((layer, leased));
            }
        }
    }
}

/// Packs a tar into a file, and digests both.
struct Packer<'a> {
    tar: Sha256,
    tar_bytes: u64,
    bytes_max: u64,
    is_too_large: bool,
    gzip: GzEncoder<Hashed<'a>>,
}

/// A file, and the digest of what was written to it.
struct Hashed<'a> {
    file: io::BufWriter<&'a File>,
    hash: Sha256,
    bytes: u64,
}

impl<'a> Packer<'a> {
    fn new(file: &'a File, bytes_max: u64) -> Packer<'a> {
        let file = io::BufWriter::with_capacity(1 << 17, file);
        let out = Hashed { file, hash: Sha256::new(), bytes: 0 };
        // No name and no time in the head: `GzEncoder` writes none.
        let gzip = GzEncoder::new(out, Compression::new(LEVEL));
        Packer { tar: Sha256::new(), tar_bytes: 0, bytes_max, is_too_large: false, gzip }
    }

    fn finish(self) -> io::Result<LayerDescriptor> {
        let mut out = self.gzip.finish()?;
        out.file.flush()?;
        Ok(LayerDescriptor {
            digest: Digest::from_hasher(out.hash),
            diff_id: Digest::from_hasher(self.tar),
            blob_bytes: out.bytes,
            media_type: MediaType::TarGzip,
        })
    }
}

impl Write for Packer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tar_bytes += bytes.len() as u64;
        if self.tar_bytes > self.bytes_max {
            self.is_too_large = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.gzip.write_all(bytes)?;
        self.tar.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

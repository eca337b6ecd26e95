//! What must be done at least, by plain libraries on one core.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::Done;
use crate::site::scratch;

/// Decompresses a gzip layer, hashes both forms, and writes its files: three passes, added up.
pub(crate) fn pull(blob: &[u8]) -> Done<Duration> {
    let folder = scratch("floor")?;
    let start = Instant::now();
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar)?;
    let digests = (Sha256::digest(blob), Sha256::digest(&tar));
    let mut archive = tar::Archive::new(tar.as_slice());
    archive.set_preserve_permissions(true);
    archive.unpack(&folder)?;
    rustix::fs::syncfs(File::open(&folder)?)?;
    let took = start.elapsed();
    std::hint::black_box(digests);
    fs::remove_dir_all(&folder)?;
    Ok(took)
}

/// Hashes a file and copies it.
pub(crate) fn hash_and_copy(path: &Path) -> Done<Duration> {
    let folder = scratch("copy")?;
    let start = Instant::now();
    let mut from = File::open(path)?;
    let mut to = File::create(folder.join("copy"))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
    std::hint::black_box(hasher.finalize());
    let took = start.elapsed();
    fs::remove_dir_all(&folder)?;
    Ok(took)
}

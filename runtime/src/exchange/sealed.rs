//! Payloads as sealed memory: a file that no one can write to or resize any more, memfd_create(2).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::{Errno, pread};
use sha2::{Digest as _, Sha256};

use crate::Sha256Digest;

/// Without these its sender could change it after it has been verified.
const SEALS_NEEDED: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW);

/// Makes a sealed memfd that holds `payload`.
///
/// # Errors
/// As [`memory_file`].
pub fn seal(payload: &[u8]) -> io::Result<OwnedFd> {
    let mut memory = memory_file()?;
    memory.write_all(payload)?;
    seal_memory(memory)
}

/// Makes a memfd that can be sealed, memfd_create(2).
///
/// # Errors
/// What the kernel says: no descriptor or no memory is left.
pub fn memory_file() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Hosts with vm.memfd_noexec=2 demand the flag, kernels before 6.3 do not know it.
    let memory = match memfd_create(c"payload", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(c"payload", flags)?,
        made => made?,
    };
    Ok(memory.into())
}

/// Seals what has been written to a [`memory_file`], so that a receiver takes it as a payload.
///
/// # Errors
/// What the kernel says, as for a descriptor that is no memfd.
pub fn seal_memory(memory: File) -> io::Result<OwnedFd> {
    fcntl_add_seals(&memory, SEALS_NEEDED | SealFlags::SEAL)?;
    Ok(memory.into())
}

/// Whether a memfd that somebody else made is sealed memory of `bytes` bytes, so that it cannot
/// change while it is read.
///
/// Only memory files have seals, so what has them is no pipe, device or file system that could keep
/// a reader waiting.
fn check_sealed(memory: impl AsFd, bytes: u64) -> Result<(), &'static str> {
    let seals = fcntl_get_seals(&memory).map_err(|_| "passed a descriptor that is no memfd")?;
    if !seals.contains(SEALS_NEEDED) {
        return Err("passed a memfd that is not sealed against change");
    }
    let status = fstat(&memory).map_err(|_| "passed a memfd that has no size")?;
    if u64::try_from(status.st_size) != Ok(bytes) {
        return Err("passed a memfd of another size than its frame says");
    }
    Ok(())
}

/// Reads a memfd that somebody else made; `bytes` has been checked against its bound.
pub(crate) fn read_sealed(memory: impl AsFd, bytes: u64) -> Result<Vec<u8>, &'static str> {
    check_sealed(&memory, bytes)?;
    let mut payload = vec![0; usize::try_from(bytes).map_err(|_| "passed too much memory")?];
    let mut have = 0;
    while have < payload.len() {
        have += read_some(&memory, &mut payload[have..], have as u64)?;
    }
    Ok(payload)
}

/// The SHA-256 of what a memfd holds that somebody else made, of at most `bytes_max` bytes.
///
/// # Errors
/// What its sender did, to be said after "the client": it is no memory, can still change, is too
/// large.
pub fn digest_of_sealed(memory: impl AsFd, bytes_max: u64) -> Result<Sha256Digest, &'static str> {
    let status = fstat(&memory).map_err(|_| "passed a memfd that has no size")?;
    match u64::try_from(status.st_size) {
        Ok(bytes) if bytes <= bytes_max => Ok(Sha256::digest(read_sealed(memory, bytes)?).into()),
        _ => Err("passed more memory than is allowed"),
    }
}

/// Shows `take` a memfd that somebody else made, in pieces of at most `piece_bytes`.
/// `Ok(Err(_))`: it is not the sealed memory that it should be.
///
/// # Errors
/// What `take` says.
pub fn copy_sealed(
    memory: impl AsFd,
    bytes: u64,
    piece_bytes: usize,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Result<(), &'static str>> {
    if let Err(why) = check_sealed(&memory, bytes) {
        return Ok(Err(why));
    }
    let mut piece = vec![0; piece_bytes];
    let mut have = 0;
    while have < bytes {
        match read_some(&memory, &mut piece, have) {
            Ok(read) => {
                take(&piece[..read])?;
                have += read as u64;
            }
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(()))
}

fn read_some(memory: impl AsFd, piece: &mut [u8], at: u64) -> Result<usize, &'static str> {
    match rustix::io::retry_on_intr(|| pread(&memory, &mut *piece, at)) {
        Ok(0) => Err("passed a memfd that ends early"),
        Ok(read) => Ok(read),
        Err(_) => Err("passed a memfd that cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_memory_reads_back() {
        let payload = vec![7; 100_000];
        let memory = seal(&payload).unwrap();
        assert_eq!(read_sealed(&memory, 100_000), Ok(payload));
    }

    #[test]
    fn nobody_can_change_sealed_memory() {
        let memory = File::from(seal(b"payload").unwrap());
        assert!((&memory).write_all(b"other").is_err());
        assert!(memory.set_len(3).is_err());
        assert!(memory.set_len(30).is_err());
    }

    #[test]
    fn refuses_what_could_still_change() {
        let open = memfd_create(c"open", MemfdFlags::ALLOW_SEALING).unwrap();
        File::from(open.try_clone().unwrap()).write_all(b"payload").unwrap();
        assert!(read_sealed(&open, 7).unwrap_err().contains("not sealed"));
        // The control: the same memory with its seals is taken.
        fcntl_add_seals(&open, SEALS_NEEDED).unwrap();
        assert_eq!(read_sealed(&open, 7).unwrap(), b"payload");
    }

    #[test]
    fn refuses_descriptors_that_are_no_memory() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        assert!(read_sealed(reader, 0).unwrap_err().contains("no memfd"));
        let file = tempfile::tempfile().unwrap();
        assert!(read_sealed(file, 0).is_err());
        let memory = seal(b"payload").unwrap();
        assert!(read_sealed(&memory, 8).unwrap_err().contains("another size"));
    }
}

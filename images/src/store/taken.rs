//! Files of this machine that hold an image: what their digests are, and copies of them.

use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use super::blobs::BLOBS;
use super::location::is_kept_here;
use super::work::write_new;
use super::{Store, StoreError};
use crate::Digest;
use crate::layer::sif::Span;

/// The kind of generated trees that note digests, and the file in each.
const KNOWN: &str = "known";
const DIGEST: &str = "digest";

/// Most bytes of a note.
const NOTE_BYTES_MAX: u64 = 128;

/// How long a file must have been left alone before its digest is noted: its times are as coarse as
/// the kernel's tick, and a change within one would not show.
const SETTLED_AGE: Duration = Duration::from_secs(2);

/// Bytes copied at a time, and how many pieces may wait for the hash.
const PIECE_BYTES: usize = 256 << 10;
const PIECES_AHEAD: usize = 8;

impl Store {
    /// The SHA-256 of `span` of `file`, which `read` finds out unless it is known since the last
    /// boot: nothing then has written to the file.
    ///
    /// # Errors
    /// Those of `read`. What cannot be noted is found out again.
    pub(crate) fn digest_of<E>(
        &self,
        file: &File,
        span: Span,
        read: impl FnOnce() -> Result<Digest, E>,
    ) -> Result<Digest, E> {
        let known = |key: &Digest| {
            let path = self.generated_path(KNOWN, key).ok()?;
            let note = self.read_file(&format!("{path}/{DIGEST}"), NOTE_BYTES_MAX).ok()??;
            std::str::from_utf8(&note).ok()?.parse().ok()
        };
        if let Some(digest) = key_of(file, span).as_ref().and_then(known) {
            return Ok(digest);
        }
        // From here on every write shows in the file's times, those through a mapping too: its
        // pages are clean, and the first write to each is seen (`filemap_page_mkwrite` in
        // mm/filemap.c).
        let before = file.sync_data().ok().and_then(|()| key_of(file, span));
        let digest = read()?;
        if let Some(key) = before.filter(|key| key_of(file, span) == Some(*key)) {
            let _ = self.generated(KNOWN, &key, |directory| {
                write_new(directory, DIGEST, digest.to_string().as_bytes()).map(drop)
            });
        }
        Ok(digest)
    }

    /// Copies what `part` has into the store as a blob, and returns its digest. The blob stays as
    /// long as this store is open. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Disk`], also if `part` cannot be read; then nothing is left.
    pub(crate) fn take_in(&self, part: &mut dyn Read) -> Result<Digest, StoreError> {
        let name = format!("taken-{:016x}", self.random()?);
        let work = self.work(&name)?;
        let file = work.open_file()?;
        let failed = |call| self.failed(call, &work.path());
        let digest = copy_hashed(part, &file).map_err(failed("write(2)"))?;
        if !self.has_blob(&digest) {
            file.sync_all().map_err(failed("fsync(2)"))?;
            rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockShared)
                .map_err(self.disk("flock(2)", &work.path()))?;
            work.publish(BLOBS, &digest.hex())?;
            let mut kept = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
            if let Entry::Vacant(place) = kept.entry(digest) {
                place.insert(file.into());
            }
        }
        Ok(digest)
    }
}

/// What says that a file is still the one that was read. None where that cannot be told: on file
/// systems of other machines, and of users, who may claim any time.
fn key_of(file: &File, span: Span) -> Option<Digest> {
    let metadata = file.metadata().ok()?;
    let (changed, nanoseconds) = (metadata.ctime(), metadata.ctime_nsec());
    let since = Duration::new(changed.try_into().ok()?, nanoseconds.try_into().ok()?);
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since).ok()?;
    if age < SETTLED_AGE || !is_kept_here(file) {
        return None;
    }
    Some(Digest::of(
        format!(
            "{} {} {} {}.{} {changed}.{nanoseconds} {} {}",
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            span.offset,
            span.bytes,
        )
        .as_bytes(),
    ))
}

/// Copies all of `part` to `file`, and hashes it meanwhile.
fn copy_hashed(part: &mut dyn Read, mut file: &File) -> io::Result<Digest> {
    std::thread::scope(|scope| {
        let (to_hasher, for_hasher) = sync_channel::<Vec<u8>>(PIECES_AHEAD);
        let hash = move || {
            let mut hasher = Sha256::new();
            for_hasher.iter().for_each(|piece| hasher.update(piece));
            Digest::from_hasher(hasher)
        };
        let hasher = std::thread::Builder::new().spawn_scoped(scope, hash)?;
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            if part.take(PIECE_BYTES as u64).read_to_end(&mut piece)? == 0 {
                break;
            }
            file.write_all(&piece)?;
            to_hasher.send(piece).expect("it takes pieces until the sender is gone");
        }
        drop(to_hasher);
        Ok(hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(file: &File, ago: u64) {
        let then = SystemTime::now() - Duration::from_secs(ago);
        file.set_modified(then).unwrap();
    }

    #[test]
    fn a_digest_is_known_until_the_file_changes() {
        let room = tempfile::tempdir().unwrap();
        let store = Store::open(&room.path().join("store")).unwrap();
        let path = room.path().join("file");
        std::fs::write(&path, "first").unwrap();
        let file = File::open(&path).unwrap();
        let span = Span { offset: 0, bytes: 5 };
        let read = |text: &str| {
            let mut asked = false;
            let digest = store.digest_of(&file, span, || {
                asked = true;
                Ok::<_, io::Error>(Digest::of(text.as_bytes()))
            });
            (digest.unwrap(), asked)
        };
        // It has just been written: a further change might not show.
        assert!(read("first").1);
        assert!(read("first").1);
        std::thread::sleep(SETTLED_AGE);
        assert!(read("first").1);
        assert_eq!(read("not read"), (Digest::of(b"first"), false));
        change(&File::options().write(true).open(&path).unwrap(), 100);
        assert_eq!(read("second"), (Digest::of(b"second"), true));
    }

    #[test]
    fn what_is_taken_in_is_a_blob() {
        let room = tempfile::tempdir().unwrap();
        let store = Store::open(&room.path().join("store")).unwrap();
        let bytes = vec![7; 3 * PIECE_BYTES + 1];
        let digest = store.take_in(&mut &bytes[..]).unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        assert_eq!(store.read_blob(&digest, 1 << 30).unwrap().unwrap(), bytes);
        assert_eq!(store.take_in(&mut &bytes[..]).unwrap(), digest);
        assert_eq!(store.names_in("tmp").unwrap(), Vec::<String>::new());
    }
}

//! The name of a blob by its content, and the one way to read a blob: hashed and bounded while it
//! is read.
//!
//! A digest is validated before anything uses it in a path or a request. There is deliberately no
//! reader that skips the check; [`Verified`] also withholds the last bytes until the whole is
//! right.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::shown::shown;

/// The only algorithm accepted: every registry and tool writes it, and its hex is a safe file name.
const PREFIX: &str = "sha256:";

/// The SHA-256 of a blob. Text form: `sha256:` and 64 lower-case hex digits (OCI image-spec v1.1,
/// "Digests").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is not a [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a digest: {wrong}, expected `sha256:` and 64 lower-case hex digits")]
pub struct DigestError {
    /// The text, made fit to be shown.
    text: String,
    /// What is wrong with it.
    wrong: &'static str,
}

impl Digest {
    /// Computes the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digest of everything that `hasher` was given.
    pub(crate) fn from_hasher(hasher: Sha256) -> Digest {
        Digest(hasher.finalize().into())
    }

    /// The 64 hex digits without the algorithm: the blob's file name in an OCI layout.
    pub fn hex(&self) -> String {
        self.to_string()[PREFIX.len()..].to_owned()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let wrong = |wrong| DigestError { text: shown(text), wrong };
        let hex = text.strip_prefix(PREFIX).ok_or_else(|| wrong("its algorithm is not sha256"))?;
        if hex.len() != 64 {
            return Err(wrong("it has another length"));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let high = hex_value(pair[0]).ok_or_else(|| wrong("it has other characters"))?;
            let low = hex_value(pair[1]).ok_or_else(|| wrong("it has other characters"))?;
            *byte = high << 4 | low;
        }
        Ok(Digest(bytes))
    }
}

/// Lower case only: upper case would give one blob two names.
fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How a blob differs from what its descriptor promised. Found inside the [`io::Error`] that a
/// [`Verified`] reader returns ([`io::Error::get_ref`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobFault {
    /// The blob ended early: the archive or the transfer was cut.
    #[error("blob {digest} ended after {read_bytes} of {blob_bytes} bytes")]
    Short {
        /// Digest that was expected.
        digest: Digest,
        /// Bytes that came.
        read_bytes: u64,
        /// Bytes that were promised.
        blob_bytes: u64,
    },
    /// More bytes follow where the blob should end.
    #[error("blob {digest} goes on after its {blob_bytes} bytes")]
    Long {
        /// Digest that was expected.
        digest: Digest,
        /// Bytes that were promised.
        blob_bytes: u64,
    },
    /// The right number of other bytes.
    #[error("expected blob {expected}, got {got}")]
    Content {
        /// Digest that was expected.
        expected: Digest,
        /// Digest of what came.
        got: Digest,
    },
}

/// Reads a blob of known digest and size, and fails instead of ending if it is not that blob.
///
/// A consumer that has read all `blob_bytes` has read a verified blob: the last bytes are handed
/// out only after the digest matched and the source ended.
pub struct Verified<R> {
    inner: R,
    digest: Digest,
    blob_bytes: u64,
    read_bytes: u64,
    /// Taken when the check was made.
    hasher: Option<Sha256>,
    fault: Option<BlobFault>,
}

impl<R> fmt::Debug for Verified<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified")
            .field("digest", &self.digest)
            .field("blob_bytes", &self.blob_bytes)
            .field("read_bytes", &self.read_bytes)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Verified<R> {
    /// Wraps `inner`, which should hold exactly the `blob_bytes` bytes of the blob `digest`.
    pub fn new(inner: R, digest: Digest, blob_bytes: u64) -> Verified<R> {
        let hasher = Some(Sha256::new());
        Verified { inner, digest, blob_bytes, read_bytes: 0, hasher, fault: None }
    }

    /// Reads the whole blob into memory, at most `bytes_max` bytes of it.
    ///
    /// # Errors
    /// `FileTooLarge` before anything is read if the blob is promised to be larger; else what the
    /// source or the check says.
    pub fn read_all(mut self, bytes_max: u64) -> io::Result<Vec<u8>> {
        if self.blob_bytes > bytes_max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!(
                    "blob {} has {} bytes, at most {bytes_max} are read",
                    self.digest, self.blob_bytes
                ),
            ));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Compares what was read with what was promised, once all promised bytes are there.
    fn check(&mut self) -> io::Result<()> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let got = Digest::from_hasher(hasher);
        if got != self.digest {
            return Err(self.fail(BlobFault::Content { expected: self.digest, got }));
        }
        // All bytes came and are right: an error after them is the transport's, not the blob's.
        match read_some(&mut self.inner, &mut [0]) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => {
                let fault = BlobFault::Long { digest: self.digest, blob_bytes: self.blob_bytes };
                Err(self.fail(fault))
            }
        }
    }

    fn fail(&mut self, fault: BlobFault) -> io::Error {
        self.fault = Some(fault.clone());
        io::Error::new(io::ErrorKind::InvalidData, fault)
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(fault) = self.fault.clone() {
            return Err(self.fail(fault));
        }
        let left_bytes = self.blob_bytes - self.read_bytes;
        if left_bytes == 0 {
            self.check()?;
            return Ok(0);
        }
        let room = usize::try_from(left_bytes).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..room])?;
        if count == 0 {
            let (digest, read_bytes, blob_bytes) = (self.digest, self.read_bytes, self.blob_bytes);
            return Err(self.fail(BlobFault::Short { digest, read_bytes, blob_bytes }));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.read_bytes += count as u64;
        if self.read_bytes == self.blob_bytes {
            self.check()?;
        }
        Ok(count)
    }
}

/// `read`, again if a signal interrupted it: the check happens once and must not be lost to one.
fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(bytes: &[u8], digest: Digest, blob_bytes: u64) -> BlobFault {
        let error = Verified::new(bytes, digest, blob_bytes).read_all(1 << 20).unwrap_err();
        error.get_ref().unwrap().downcast_ref::<BlobFault>().unwrap().clone()
    }

    #[test]
    fn refuses_texts_that_are_no_digest() {
        let hex = "0".repeat(64);
        for text in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            &hex,
            &format!("sha256:{}", "A".repeat(64)),
            &format!("sha256:{}", "0".repeat(63)),
            &format!("sha256:{}", "é".repeat(32)),
            &format!("sha512:{}", "0".repeat(128)),
            &format!("md5:{}", "0".repeat(32)),
            &format!("sha256:{}", "0".repeat(1 << 20)),
            &format!("SHA256:{hex}"),
            &format!("sha256:{hex}\n"),
        ] {
            let error = text.parse::<Digest>().unwrap_err();
            assert!(error.to_string().len() < 400, "{error}");
        }
    }

    #[test]
    fn reads_the_blob_that_was_promised() {
        for bytes in [&b""[..], b"abc"] {
            let digest = Digest::of(bytes);
            let read = Verified::new(bytes, digest, bytes.len() as u64).read_all(3).unwrap();
            assert_eq!(read, bytes);
        }
    }

    #[test]
    fn tells_short_long_and_other_content_apart() {
        let digest = Digest::of(b"abc");
        let got = Digest::of(b"abd");
        assert_eq!(
            fault(b"ab", digest, 3),
            BlobFault::Short { digest, read_bytes: 2, blob_bytes: 3 }
        );
        assert_eq!(fault(b"abcd", digest, 3), BlobFault::Long { digest, blob_bytes: 3 });
        assert_eq!(fault(b"abd", digest, 3), BlobFault::Content { expected: digest, got });
        assert!(matches!(fault(b"", digest, 0), BlobFault::Content { .. }));
    }

    #[test]
    fn withholds_the_last_bytes_of_a_wrong_blob() {
        let mut reader = Verified::new(&b"abd"[..], Digest::of(b"abc"), 3);
        let mut buffer = [0; 2];
        assert_eq!(reader.read(&mut buffer).unwrap(), 2);
        assert!(reader.read(&mut buffer).is_err());
        assert!(reader.read(&mut buffer).is_err(), "a fault stays a fault");
    }

    #[test]
    fn does_not_start_on_a_blob_beyond_the_limit() {
        let error = Verified::new(&b"abc"[..], Digest::of(b"abc"), 3).read_all(2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    proptest! {
        #[test]
        fn print_parse_is_identity(bytes: Vec<u8>) {
            let digest = Digest::of(&bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
            prop_assert_eq!(digest.hex().len(), 64);
        }

        #[test]
        fn arbitrary_text_is_refused_or_printed_back(text: String) {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn every_flipped_bit_is_found(
            bytes in prop::collection::vec(any::<u8>(), 1..200),
            at: usize,
        ) {
            let digest = Digest::of(&bytes);
            let mut other = bytes.clone();
            let at = at % (bytes.len() * 8);
            other[at / 8] ^= 1 << (at % 8);
            let expected = BlobFault::Content { expected: digest, got: Digest::of(&other) };
            prop_assert_eq!(fault(&other, digest, bytes.len() as u64), expected);
        }
    }
}

//! A tar that is written, and what names it whatever the times in it are.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::layer::{Head, Moment, TarWriter};

/// Writes a tar, and digests it with all times 0: two tars of the same digest hold the same, and
/// what was written is what was digested.
pub(super) struct TimelessTar<'a> {
    tar: TarWriter<&'a mut dyn Write>,
    digest: Sha256,
    /// Whether what is written now is digested.
    pub(super) is_heard: bool,
}

impl<'a> TimelessTar<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> TimelessTar<'a> {
        TimelessTar { tar: TarWriter::new(out), digest: Sha256::new(), is_heard: true }
    }

    /// Writes an entry without content.
    pub(super) fn entry(&mut self, head: &Head<'_>) -> io::Result<()> {
        self.digest_head(head);
        self.tar.entry(head)
    }

    /// Writes an entry and its content, which must have as many bytes as its head says.
    pub(super) fn file(&mut self, head: &Head<'_>, content: impl Read) -> io::Result<()> {
        self.digest_head(head);
        let digest = self.is_heard.then_some(&mut self.digest);
        self.tar.file(head, Heard { content, digest })
    }

    /// Digests what decides what is written without being written itself.
    pub(super) fn depend_on(&mut self, bytes: &[u8]) {
        self.digest.update(bytes.len().to_le_bytes());
        self.digest.update(bytes);
    }

    /// Ends the tar.
    pub(super) fn finish(self) -> io::Result<Digest> {
        self.tar.finish()?;
        Ok(Digest::from_hasher(self.digest))
    }

    fn digest_head(&mut self, head: &Head<'_>) {
        if self.is_heard {
            let mtime = Moment { seconds: 0, nanoseconds: 0 };
            self.digest.update(Head { mtime, ..*head }.encode());
        }
    }
}

/// Content that is digested as it is read.
struct Heard<'a, R> {
    content: R,
    digest: Option<&'a mut Sha256>,
}

impl<R: Read> Read for Heard<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.content.read(buffer)?;
        if let Some(digest) = &mut self.digest {
            digest.update(&buffer[..bytes]);
        }
        Ok(bytes)
    }
}

//! Writes a tar, piece by piece: what the rest of the extractor reads.

use std::sync::Arc;

use tar::{EntryType, Header};

use crate::layer::Limits;
use crate::layer::bytes::{BLOCK_BYTES, Chunk};
use crate::layer::packed::{CHUNK_BYTES, Stop, check_size};

/// Names longer than this are written as extended headers (ustar `name` and `linkname`).
const FIELD_BYTES: usize = 100;

/// What an entry says besides its content.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub(super) path: &'a [u8],
    pub(super) kind: EntryType,
    pub(super) target: &'a [u8],
    pub(super) bytes: u64,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u32,
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Collects bytes to chunks and hands those on.
pub(super) struct Archive<'a> {
    sink: &'a mut dyn FnMut(Chunk) -> bool,
    limits: &'a Limits,
    chunk: Vec<u8>,
    total: u64,
    packed: u64,
}

impl<'a> Archive<'a> {
    /// An archive made of `packed` bytes, by which its size is judged.
    pub(super) fn new(
        packed: u64,
        limits: &'a Limits,
        sink: &'a mut dyn FnMut(Chunk) -> bool,
    ) -> Archive<'a> {
        Archive { sink, limits, chunk: Vec::with_capacity(CHUNK_BYTES), total: 0, packed }
    }

    /// Writes the headers of an entry.
    pub(super) fn head(&mut self, head: &Head<'_>) -> Result<(), Stop> {
        let records = records(head);
        if !records.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            extended.set_size(records.len() as u64);
            extended.set_cksum();
            self.write(extended.as_bytes())?;
            self.write(&records)?;
            self.pad(records.len() as u64)?;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(head.kind);
        put(&mut header.as_old_mut().name, head.path);
        put(&mut header.as_old_mut().linkname, head.target);
        header.set_size(head.bytes);
        header.set_mode(head.mode.into());
        header.set_uid(head.uid.into());
        header.set_gid(head.gid.into());
        header.set_mtime(head.mtime.into());
        header.set_cksum();
        self.write(header.as_bytes())
    }

    /// Writes a piece of content.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let count = bytes.len().min(CHUNK_BYTES - self.chunk.len());
            self.chunk.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.chunk.len() == CHUNK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Fills the last block after `content` bytes.
    pub(super) fn pad(&mut self, content: u64) -> Result<(), Stop> {
        let over = usize::try_from(content % BLOCK_BYTES as u64).unwrap_or_default();
        if over == 0 { Ok(()) } else { self.write(&[0; BLOCK_BYTES][over..]) }
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<(), Stop> {
        self.write(&[0; 2 * BLOCK_BYTES])?;
        if self.chunk.is_empty() { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.total += self.chunk.len() as u64;
        check_size(self.total, self.packed, self.limits)?;
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        if (self.sink)(Arc::new(chunk)) { Ok(()) } else { Err(Stop::Refused) }
    }
}

fn put(field: &mut [u8; FIELD_BYTES], text: &[u8]) {
    let count = text.len().min(FIELD_BYTES);
    field[..count].copy_from_slice(&text[..count]);
}

/// What does not fit in the header.
fn records(head: &Head<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    if head.path.len() > FIELD_BYTES {
        record(&mut records, b"path", head.path);
    }
    if head.target.len() > FIELD_BYTES {
        record(&mut records, b"linkpath", head.target);
    }
    for (name, value) in head.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    records
}

/// Adds `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let digits = |length: usize| length.to_string().len();
    let mut length = rest + digits(rest);
    length = rest + digits(length);
    records.extend_from_slice(length.to_string().as_bytes());
    for part in [b" ", key, b"=", value, b"\n"] {
        records.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        for bytes in 0..2000 {
            let mut records = Vec::new();
            record(&mut records, b"path", &vec![b'a'; bytes]);
            let text = String::from_utf8(records).unwrap();
            let length: usize = text.split_once(' ').unwrap().0.parse().unwrap();
            assert_eq!(length, text.len(), "{bytes}");
        }
    }
}

//! The headers of a tar entry as bytes: the one place where tars are written.
//!
//! ustar (POSIX.1-2017 `pax`), with an extended header for what its fields cannot hold, so that
//! short entries stay one block and every reader takes them.

use tar::{EntryType, Header};

use super::bytes::BLOCK_BYTES;
use super::header::Device;
use super::pax::Moment;

/// Bytes of a ustar `name` and `linkname`.
const NAME_BYTES: usize = 100;
/// Largest number in a field of seven octal digits: `uid`, `gid`.
const ID_MAX: u32 = 0o7_777_777;
/// Largest number in a field of eleven octal digits: `size`, `mtime`.
const NUMBER_MAX: u64 = 0o77_777_777_777;

/// What an entry says besides its content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    /// Without a leading slash.
    pub(crate) path: &'a [u8],
    pub(crate) kind: EntryType,
    /// Of a link; else empty.
    pub(crate) target: &'a [u8],
    /// Of a device node.
    pub(crate) device: Option<Device>,
    /// Length of the content that follows.
    pub(crate) bytes: u64,
    /// Permission bits, set-user-id and sticky ones included.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Moment,
    /// By full name.
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Head<'_> {
    /// The blocks that come before the content.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut blocks = Vec::with_capacity(BLOCK_BYTES);
        let records = self.records();
        if !records.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            extended.set_size(records.len() as u64);
            extended.set_cksum();
            blocks.extend_from_slice(extended.as_bytes());
            blocks.extend_from_slice(&records);
            blocks.extend_from_slice(padding(records.len() as u64));
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        put(&mut header.as_old_mut().name, self.path);
        put(&mut header.as_old_mut().linkname, self.target);
        header.set_size(self.bytes.min(NUMBER_MAX));
        header.set_mode(self.mode);
        header.set_uid(self.uid.min(ID_MAX).into());
        header.set_gid(self.gid.min(ID_MAX).into());
        header.set_mtime(u64::try_from(self.mtime.seconds).unwrap_or(0).min(NUMBER_MAX));
        if let (Some(device), Some(ustar)) = (self.device, header.as_ustar_mut()) {
            ustar.set_device_major(device.major.min(ID_MAX));
            ustar.set_device_minor(device.minor.min(ID_MAX));
        }
        header.set_cksum();
        blocks.extend_from_slice(header.as_bytes());
        blocks
    }

    /// What does not fit in the header.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        if self.path.len() > NAME_BYTES {
            record(&mut records, b"path", self.path);
        }
        if self.target.len() > NAME_BYTES {
            record(&mut records, b"linkpath", self.target);
        }
        if self.bytes > NUMBER_MAX {
            record(&mut records, b"size", self.bytes.to_string().as_bytes());
        }
        for (key, id) in [(b"uid", self.uid), (b"gid", self.gid)] {
            if id > ID_MAX {
                record(&mut records, key, id.to_string().as_bytes());
            }
        }
        let whole = u64::try_from(self.mtime.seconds).is_ok_and(|seconds| seconds <= NUMBER_MAX);
        if !whole || self.mtime.nanoseconds != 0 {
            record(&mut records, b"mtime", decimal(self.mtime).as_bytes());
        }
        for (name, value) in self.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        records
    }
}

/// The zeros that fill the last block of `content` bytes.
pub(crate) fn padding(content: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    match usize::try_from(content % BLOCK_BYTES as u64).unwrap_or_default() {
        0 => &[],
        over => &ZEROS[over..],
    }
}

/// What ends an archive.
pub(crate) const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

fn put(field: &mut [u8; NAME_BYTES], text: &[u8]) {
    let count = text.len().min(NAME_BYTES);
    field[..count].copy_from_slice(&text[..count]);
}

/// Seconds with a fraction, where before 1970 the fraction counts away from it.
fn decimal(time: Moment) -> String {
    let Moment { mut seconds, mut nanoseconds } = time;
    let sign = if seconds < 0 { "-" } else { "" };
    if seconds < 0 && nanoseconds > 0 {
        seconds += 1;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    let fraction = format!("{nanoseconds:09}");
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{dot}{fraction}", seconds.unsigned_abs())
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
    use crate::layer::pax::Extended;

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

    #[test]
    fn what_no_field_holds_is_read_back_from_records() {
        let (path, target) = (vec![b'p'; 101], vec![b't'; 300]);
        for (seconds, nanoseconds) in [(1, 1), (-1, 0), (-2, 250_000_000), (1 << 34, 5)] {
            let mtime = Moment { seconds, nanoseconds };
            let xattrs = [(b"user.a".to_vec(), b"\n\0=".to_vec())];
            let head = Head {
                path: &path,
                kind: EntryType::Regular,
                target: &target,
                device: None,
                bytes: 1 << 40,
                mode: 0o4755,
                uid: 1 << 30,
                gid: 1 << 29,
                mtime,
                xattrs: &xattrs,
            };
            let read = Extended::parse(&head.records()).unwrap();
            assert_eq!((read.path.unwrap(), read.link.unwrap()), (path.clone(), target.clone()));
            assert_eq!(
                (read.size, read.uid, read.gid),
                (Some(1 << 40), Some(1 << 30), Some(1 << 29))
            );
            assert_eq!(read.mtime, Some(mtime));
            assert_eq!(read.xattrs, xattrs);
        }
    }

    #[test]
    fn ordinary_entries_are_one_block() {
        let head = Head {
            path: b"etc/passwd",
            kind: EntryType::Regular,
            target: b"",
            device: None,
            bytes: 5,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Moment { seconds: 1_700_000_000, nanoseconds: 0 },
            xattrs: &[],
        };
        assert_eq!(head.encode().len(), BLOCK_BYTES);
        assert_eq!(padding(5).len(), BLOCK_BYTES - 5);
        assert_eq!(padding(1024).len(), 0);
    }
}

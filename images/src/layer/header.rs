//! Entries of a tar archive, in order: headers and what extends them become one plain [`Entry`].
//!
//! The `tar` crate decodes the fields of a header. Everything about sizes and about which header
//! belongs to which entry is decided here, strictly: where common readers disagree about where
//! the next entry begins, the archive is refused, so that nobody sees another tree than we do.

use std::borrow::Cow;

use tar::Header;

use super::Limits;
use super::bytes::{BLOCK_BYTES, Bytes};
use super::error::{Fault, Refused};
use super::pax::{Extended, Moment, check_global};

/// One entry, checked for what can be checked without the tree.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As written, only never with a zero byte.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) status: Status,
    /// To be set, by full name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// That are not to be set.
    pub(crate) xattrs_ignored: u64,
    /// `security.capability`, one of those.
    pub(crate) capability: Option<Vec<u8>>,
}

/// What an entry makes.
#[derive(Debug)]
pub(crate) enum Kind {
    Directory,
    File { bytes: u64 },
    HardLink { target: Vec<u8> },
    Symlink { target: Vec<u8> },
    Fifo,
    Device(Device),
}

/// A device node, by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) is_block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// Mode, owner and time, whatever the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// Permission bits, set-user-id and sticky ones included.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Moment,
}

/// Ids above cannot be mapped into every user namespace: the kernel takes them as signed in places.
const ID_MAX: u64 = (1 << 31) - 1;

/// Times that ext4 with 256-byte inodes can hold (ext4 documentation, "Inode Timestamps"). Others
/// are brought to the nearer end, so that a tree does not depend on its file system.
const MTIME_MIN: i64 = -(1 << 31);
const MTIME_MAX: i64 = (1 << 34) - (1 << 31) - 1;

/// Reads entries from the tar. Content that the caller leaves is skipped.
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    bytes: Bytes,
    limits: &'a Limits,
    /// Content of the current entry that was not taken yet, and the padding after it.
    content: u64,
    padding: u64,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(bytes: Bytes, limits: &'a Limits) -> Entries<'a> {
        Entries { bytes, limits, content: 0, padding: 0 }
    }

    /// The next entry; none after the last, when all bytes of the tar were taken.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let mut extension = Extension::default();
        loop {
            self.content(|_| Ok(()))?;
            let Some(block) = self.header()? else {
                if extension.bytes > 0 {
                    return Err(self.malformed("the archive ends after an extended header"));
                }
                return Ok(None);
            };
            let header = Header::from_byte_slice(&block);
            match header.as_old().linkflag[0] {
                b'x' => {
                    let data = self.extended_header(header, &mut extension.bytes)?;
                    if extension.records.is_some() {
                        return Err(self.malformed("two extended headers for one entry"));
                    }
                    extension.records = Some(self.checked(Extended::parse(&data))?);
                }
                b'L' => {
                    let data = self.extended_header(header, &mut extension.bytes)?;
                    self.checked(set_once(&mut extension.long_path, &data))?;
                }
                b'K' => {
                    let data = self.extended_header(header, &mut extension.bytes)?;
                    self.checked(set_once(&mut extension.long_link, &data))?;
                }
                b'g' => {
                    let data = self.extended_header(header, &mut 0)?;
                    self.checked(check_global(&data))?;
                }
                _ => return self.entry(header, extension).map(Some),
            }
        }
    }

    /// Reads the content of a header that extends an entry, whose headers have `held` bytes so far.
    fn extended_header(&mut self, header: &Header, held: &mut u64) -> Result<Vec<u8>, Fault> {
        let claimed = self.size(header)?;
        *held += claimed;
        if *held > self.limits.header_bytes_max {
            let most = self.limits.header_bytes_max;
            return Err(Fault::Limit { limit: "header_bytes_max", most });
        }
        let mut data = Vec::new();
        self.begin_content(claimed);
        self.content(|piece| {
            data.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(data)
    }

    /// Hands the content of the current entry to `sink`, and takes the padding after it.
    pub(crate) fn content(
        &mut self,
        sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (content, padding) = (self.content, self.padding);
        (self.content, self.padding) = (0, 0);
        self.bytes.copy(content, sink)?;
        self.bytes.copy(padding, |_| Ok(()))
    }

    fn begin_content(&mut self, bytes: u64) {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        self.content = bytes;
        self.padding = (BLOCK - bytes % BLOCK) % BLOCK;
    }

    /// The next header block with a right checksum. Two blocks of zeros end an archive, and so does
    /// the end of its bytes, as many archives lack the blocks; what follows them means nothing.
    fn header(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, Fault> {
        let Some(block) = self.bytes.block()? else {
            if self.bytes.offset() == 0 {
                return Err(self.malformed("the archive is empty"));
            }
            return Ok(None);
        };
        if block != [0; BLOCK_BYTES] {
            let sum = |block: &[u8]| block.iter().map(|b| u32::from(*b)).sum::<u32>();
            // The checksum field itself counts as eight spaces (POSIX `pax`, "ustar").
            let expected = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
            if Header::from_byte_slice(&block).cksum().ok() != Some(expected) {
                return Err(self.malformed("not a tar header: its checksum is wrong"));
            }
            return Ok(Some(block));
        }
        if self.bytes.block()?.is_some_and(|second| second != [0; BLOCK_BYTES]) {
            return Err(self.malformed("a single block of zeros"));
        }
        self.bytes.drain()?;
        Ok(None)
    }

    fn entry(&mut self, header: &Header, extension: Extension) -> Result<Entry, Fault> {
        let Extension { records, long_path, long_link, .. } = extension;
        let mut records = records.unwrap_or_default();
        let path = records.path.take().or(long_path);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = records.link.take().or(long_link);
        let link = link.or_else(|| header.link_name_bytes().map(Cow::into_owned));
        let link = link.unwrap_or_default();
        let bytes = match records.size {
            Some(size) => self.bounded(size)?,
            None => self.size(header)?,
        };
        let refuse = |reason| Fault::Entry { path: path.clone(), reason };
        let has_zero = |name: &[u8]| name.contains(&0);
        if has_zero(&path) || has_zero(&link) || records.xattrs.iter().any(|(n, _)| has_zero(n)) {
            return Err(refuse(Refused::ZeroByte));
        }
        if records.sparse {
            return Err(refuse(Refused::Sparse));
        }
        let kind = kind_of(header, &path, link, bytes).map_err(refuse)?;
        if let Kind::File { bytes } = kind {
            self.begin_content(bytes);
        } else if bytes > 0 {
            return Err(refuse(Refused::Content { bytes }));
        }
        let held: usize = records.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if held > self.limits.xattr_bytes_max {
            let most = self.limits.xattr_bytes_max as u64;
            return Err(Fault::Limit { limit: "xattr_bytes_max", most });
        }
        let uid = records.uid.map_or_else(|| self.field("uid", header.uid()), Ok)?;
        let gid = records.gid.map_or_else(|| self.field("gid", header.gid()), Ok)?;
        let status = Status {
            mode: self.field("mode", header.mode())? & 0o7777,
            uid: checked_id(uid).map_err(refuse)?,
            gid: checked_id(gid).map_err(refuse)?,
            mtime: within_range(match records.mtime {
                Some(mtime) => mtime,
                // A binary field is two's complement, so the sign survives.
                None => {
                    let seconds = self.field("mtime", header.mtime())?.cast_signed();
                    Moment { seconds, nanoseconds: 0 }
                }
            }),
        };
        let Extended { xattrs, xattrs_ignored, capability, .. } = records;
        Ok(Entry { path, kind, status, xattrs, xattrs_ignored, capability })
    }

    /// The size field, bounded before anyone allocates or waits for that much.
    fn size(&self, header: &Header) -> Result<u64, Fault> {
        // The `tar` crate reads the last eight bytes of a binary field; others read all twelve.
        let field = &header.as_old().size;
        if field[0] & 0x80 != 0 && field[..4] != [0x80, 0, 0, 0] {
            return Err(self.malformed("a negative or absurd size"));
        }
        self.bounded(self.field("size", header.entry_size())?)
    }

    fn bounded(&self, size: u64) -> Result<u64, Fault> {
        let most = self.limits.unpacked_bytes_max;
        if size > most {
            return Err(Fault::Limit { limit: "unpacked_bytes_max", most });
        }
        Ok(size)
    }

    fn field<T>(&self, name: &str, parsed: std::io::Result<T>) -> Result<T, Fault> {
        parsed.map_err(|_| self.malformed(&format!("{name} is not a number")))
    }

    fn checked<T>(&self, parsed: Result<T, String>) -> Result<T, Fault> {
        parsed.map_err(|what| self.malformed(&what))
    }

    fn malformed(&self, what: &str) -> Fault {
        Fault::Malformed { offset: self.bytes.offset(), what: what.to_owned() }
    }
}

/// What the headers before an entry say about it.
#[derive(Debug, Default)]
struct Extension {
    records: Option<Extended>,
    /// Names too long for a header, as GNU tar writes them.
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// Of all these headers together.
    bytes: u64,
}

fn kind_of(header: &Header, path: &[u8], link: Vec<u8>, bytes: u64) -> Result<Kind, Refused> {
    // Numbers that cannot be read stand for no device at all.
    let number = |field: std::io::Result<Option<u32>>| field.ok().flatten().unwrap_or_default();
    let device = |is_block| {
        let (major, minor) = (number(header.device_major()), number(header.device_minor()));
        Kind::Device(Device { is_block, major, minor })
    };
    Ok(match header.as_old().linkflag[0] {
        // Before POSIX, a directory was a file whose name ends in a slash.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' => Kind::File { bytes },
        b'1' => Kind::HardLink { target: link },
        b'2' => Kind::Symlink { target: link },
        b'3' => device(false),
        b'4' => device(true),
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'S' => return Err(Refused::Sparse),
        kind => return Err(Refused::Kind { kind }),
    })
}

fn set_once(name: &mut Option<Vec<u8>>, data: &[u8]) -> Result<(), String> {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    match name.replace(data[..end].to_vec()) {
        None => Ok(()),
        Some(_) => Err("two long names for one entry".to_owned()),
    }
}

fn checked_id(id: u64) -> Result<u32, Refused> {
    u32::try_from(id).ok().filter(|_| id <= ID_MAX).ok_or(Refused::Owner { id })
}

fn within_range(mtime: Moment) -> Moment {
    if (MTIME_MIN..=MTIME_MAX).contains(&mtime.seconds) {
        return mtime;
    }
    Moment { seconds: mtime.seconds.clamp(MTIME_MIN, MTIME_MAX), nanoseconds: 0 }
}

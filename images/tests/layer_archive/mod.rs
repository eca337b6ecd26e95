//! Writes tar archives byte by byte, so that malformed ones are as easy as right ones.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use ric_images::{Digest, LayerDescriptor, MediaType};

/// A header before it is written. Fields are raw bytes; checksum and padding come by themselves.
#[derive(Clone, Debug)]
pub struct Header {
    block: [u8; 512],
}

impl Header {
    /// A ustar header of type `kind` with mode 0755, owner 0:0 and time 1000.
    pub fn new(kind: u8, name: impl AsRef<[u8]>) -> Header {
        let mut header = Header { block: [0; 512] };
        header.block[257..265].copy_from_slice(b"ustar\x0000");
        header.block[156] = kind;
        header.bytes(0, name.as_ref()).mode(0o755).uid(0).gid(0).size(0).mtime(1000)
    }

    /// Overwrites bytes from `at` on.
    pub fn bytes(mut self, at: usize, bytes: &[u8]) -> Header {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn mode(self, mode: u32) -> Header {
        self.bytes(100, format!("{mode:07o}\0").as_bytes())
    }

    /// In octal where it fits, else in binary as GNU tar does.
    pub fn uid(self, uid: u64) -> Header {
        self.number::<8>(108, uid.cast_signed())
    }

    pub fn gid(self, gid: u64) -> Header {
        self.number::<8>(116, gid.cast_signed())
    }

    pub fn size(self, size: i64) -> Header {
        self.number::<12>(124, size)
    }

    pub fn mtime(self, mtime: i64) -> Header {
        self.number::<12>(136, mtime)
    }

    pub fn link(self, target: impl AsRef<[u8]>) -> Header {
        self.bytes(157, target.as_ref())
    }

    fn number<const WIDTH: usize>(self, at: usize, value: i64) -> Header {
        let octal = format!("{value:0width$o}\0", width = WIDTH - 1);
        if value >= 0 && octal.len() == WIDTH {
            return self.bytes(at, octal.as_bytes());
        }
        let mut field = [if value < 0 { 0xff } else { 0 }; WIDTH];
        field[WIDTH - 8..].copy_from_slice(&value.to_be_bytes());
        field[0] |= 0x80;
        self.bytes(at, &field)
    }

    fn finished(mut self) -> [u8; 512] {
        self.block[148..156].copy_from_slice(b"        ");
        let sum: u32 = self.block.iter().map(|b| u32::from(*b)).sum();
        self.block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.block
    }
}

/// An archive in the making.
#[derive(Clone, Debug, Default)]
pub struct Archive(pub Vec<u8>);

impl Archive {
    pub fn new() -> Archive {
        Archive::default()
    }

    /// Appends a header as it is.
    pub fn header(mut self, header: Header) -> Archive {
        self.0.extend(header.finished());
        self
    }

    /// Appends bytes, padded to blocks.
    pub fn content(mut self, content: &[u8]) -> Archive {
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, content: &str) -> Archive {
        let header = Header::new(b'0', name).mode(0o644);
        self.sized(header, content.as_bytes())
    }

    /// A header with its size set, and the content.
    pub fn sized(self, header: Header, content: &[u8]) -> Archive {
        self.header(header.size(i64::try_from(content.len()).unwrap())).content(content)
    }

    pub fn directory(self, name: &str) -> Archive {
        self.header(Header::new(b'5', name))
    }

    pub fn symlink(self, name: &str, target: &str) -> Archive {
        self.header(Header::new(b'2', name).mode(0o777).link(target))
    }

    pub fn hard_link(self, name: &str, target: &str) -> Archive {
        self.header(Header::new(b'1', name).mode(0o644).link(target))
    }

    /// A PAX extended header with these records, of type `kind`: `x`, or `g` for all that follow.
    pub fn pax(self, kind: u8, records: &[(&str, &[u8])]) -> Archive {
        let mut data = Vec::new();
        for (key, value) in records {
            let body = 3 + key.len() + value.len();
            let length = (1..).find(|digits| (body + digits).to_string().len() == *digits);
            let length = body + length.unwrap();
            data.extend(format!("{length} {key}=").as_bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        self.sized(Header::new(kind, "pax"), &data)
    }

    /// A GNU long name (`L`) or long link target (`K`).
    pub fn long(self, kind: u8, name: &str) -> Archive {
        self.sized(Header::new(kind, "././@LongLink"), format!("{name}\0").as_bytes())
    }

    /// The two blocks of zeros, and the bytes.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// The descriptor that is right for a plain tar.
pub fn plain(tar: &[u8]) -> LayerDescriptor {
    packed(tar, tar, MediaType::Tar)
}

/// The descriptor that is right for `blob`, which unpacks to `tar`.
pub fn packed(blob: &[u8], tar: &[u8], media_type: MediaType) -> LayerDescriptor {
    let (digest, diff_id) = (Digest::of(blob), Digest::of(tar));
    LayerDescriptor { digest, diff_id, blob_bytes: blob.len() as u64, media_type }
}

pub fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(tar: &[u8]) -> Vec<u8> {
    zstd::encode_all(tar, 1).unwrap()
}

/// All of an error, as users see it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

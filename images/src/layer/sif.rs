//! Reads where things are in a Singularity Image Format file: header and descriptors.
//!
//! Version 01, as apptainer/sif v2 writes it (`pkg/sif/sif.go`, `descriptor.go`); all numbers are
//! little-endian and packed. Pure but for reads at offsets, each bounded by the file. Stricter than
//! the format's own tools, which believe counts and let objects overlap: no real file needs that.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::Digest;

/// Bytes of the header and of one descriptor.
const HEADER_BYTES: usize = 128;
pub(crate) const DESCRIPTOR_BYTES: usize = 585;

/// Where in a descriptor is what only some kinds of object have.
pub(crate) const EXTRA_AT: usize = 201;

/// Most descriptors. Files have room for 48 unless asked for more.
const DESCRIPTORS_MAX: u64 = 4096;

pub(crate) const MAGIC: &[u8] = b"SIF_MAGIC\0";
pub(crate) const VERSION: &[u8] = b"01\0";

/// Kinds of object: the text that an image was made by, a file system, a document.
pub(crate) const DEFINITION: u32 = 0x4001;
pub(crate) const PARTITION: u32 = 0x4004;
pub(crate) const JSON: u32 = 0x4006;

/// Kinds of file system, and the one that is the root.
pub(crate) const SQUASHFS: u32 = 1;
pub(crate) const PRIMARY_SYSTEM: u32 = 2;

/// The document that the configuration of an OCI image is kept in.
pub(crate) const OCI_CONFIG: &str = "oci-config.json";

/// Architectures by their codes, in Go's words. `00` leaves it open.
pub(crate) const ARCHITECTURES: [(&[u8; 3], &str); 13] = [
    (b"01\0", "386"),
    (b"02\0", "amd64"),
    (b"03\0", "arm"),
    (b"04\0", "arm64"),
    (b"05\0", "ppc64"),
    (b"06\0", "ppc64le"),
    (b"07\0", "mips"),
    (b"08\0", "mipsle"),
    (b"09\0", "mips64"),
    (b"10\0", "mips64le"),
    (b"11\0", "s390x"),
    (b"12\0", "riscv64"),
    (b"13\0", "loong64"),
];

/// A place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// What of a file matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sif {
    /// The primary system partition, which is a squashfs.
    pub(crate) root: Span,
    /// What it is for, in Go's words, if it says so.
    pub(crate) architecture: Option<&'static str>,
    /// The configuration of the OCI image it was made of.
    pub(crate) oci_config: Option<Span>,
}

/// One used descriptor.
struct Descriptor {
    kind: u32,
    id: u32,
    span: Span,
    name: Vec<u8>,
    file_system: u32,
    partition: u32,
    architecture: [u8; 3],
}

/// What is wrong with a file.
pub(crate) type Wrong = String;

/// The name in the store of what the SIF with `digest` unpacks to.
pub(crate) fn diff_id(digest: &Digest) -> Digest {
    Digest::of(format!("sif {digest}").as_bytes())
}

impl Sif {
    /// Reads `file`, which has `file_bytes` bytes.
    ///
    /// # Errors
    /// What is wrong with it, or why its kind is not read.
    pub(crate) fn read(file: &File, file_bytes: u64) -> Result<Sif, Wrong> {
        let header: [u8; HEADER_BYTES] = read(file, 0, HEADER_BYTES, file_bytes)?
            .try_into()
            .expect("as many bytes were read as asked for");
        if header[0x20..0x2a] != *MAGIC {
            return Err("it does not begin as a SIF does".to_owned());
        }
        if header[0x2a..0x2d] != *VERSION {
            return Err("its version is not 01".to_owned());
        }
        let count = u64_at(&header, 0x58);
        let table = Span { offset: u64_at(&header, 0x60), bytes: u64_at(&header, 0x68) };
        if count > DESCRIPTORS_MAX || table.bytes != count * DESCRIPTOR_BYTES as u64 {
            return Err(format!("its {count} descriptors have {} bytes", table.bytes));
        }
        if table.offset < HEADER_BYTES as u64 {
            return Err("its descriptors are in its header".to_owned());
        }
        let bytes = usize::try_from(table.bytes).expect("the count of descriptors is bounded");
        let bytes = read(file, table.offset, bytes, file_bytes)?;
        let descriptors: Vec<_> =
            bytes.chunks_exact(DESCRIPTOR_BYTES).filter_map(parse_descriptor).collect();
        check_spans(&descriptors, table, file_bytes)?;
        choose(&descriptors, &header[0x2d..0x30])
    }
}

/// Reads bytes that must be within the file.
pub(crate) fn read(
    file: &File,
    offset: u64,
    count: usize,
    file_bytes: u64,
) -> Result<Vec<u8>, Wrong> {
    let end = offset.checked_add(count as u64).filter(|end| *end <= file_bytes);
    if end.is_none() {
        return Err(format!("it refers to byte {offset}, the file has {file_bytes}"));
    }
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, offset)
        .map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(bytes)
}

/// None if the descriptor is not used.
fn parse_descriptor(bytes: &[u8]) -> Option<Descriptor> {
    const NAME: std::ops::Range<usize> = 73..201;
    let name = bytes[NAME].split(|byte| *byte == 0).next().unwrap_or_default();
    (bytes[4] != 0).then(|| Descriptor {
        kind: u32_at(bytes, 0),
        id: u32_at(bytes, 5),
        span: Span { offset: u64_at(bytes, 17), bytes: u64_at(bytes, 25) },
        name: name.to_vec(),
        file_system: u32_at(bytes, EXTRA_AT),
        partition: u32_at(bytes, EXTRA_AT + 4),
        architecture: [bytes[EXTRA_AT + 8], bytes[EXTRA_AT + 9], bytes[EXTRA_AT + 10]],
    })
}

/// Every object lies within the file, and none on another, on the header or the descriptors: a file
/// means the same to whoever reads it.
fn check_spans(descriptors: &[Descriptor], table: Span, file_bytes: u64) -> Result<(), Wrong> {
    let mut ids = HashSet::new();
    let mut spans = vec![Span { offset: 0, bytes: HEADER_BYTES as u64 }, table];
    for Descriptor { id, span, .. } in descriptors {
        if !ids.insert(*id) {
            return Err(format!("two of its objects are number {id}"));
        }
        if span.offset.checked_add(span.bytes).is_none_or(|end| end > file_bytes) {
            return Err(format!("object {id} is not within the file of {file_bytes} bytes"));
        }
        spans.push(*span);
    }
    spans.retain(|span| span.bytes > 0);
    spans.sort_by_key(|span| span.offset);
    let overlap = spans.windows(2).find(|pair| pair[0].offset + pair[0].bytes > pair[1].offset);
    overlap.map_or(Ok(()), |pair| Err(format!("two objects overlap at byte {}", pair[1].offset)))
}

fn choose(descriptors: &[Descriptor], header_architecture: &[u8]) -> Result<Sif, Wrong> {
    let is_primary = |d: &&Descriptor| d.kind == PARTITION && d.partition == PRIMARY_SYSTEM;
    let mut primary = descriptors.iter().filter(is_primary);
    let root = match (primary.next(), primary.next()) {
        (Some(root), None) => root,
        (None, _) => return Err("it has no primary system partition".to_owned()),
        (Some(_), Some(_)) => return Err("it has two primary system partitions".to_owned()),
    };
    let other = match root.file_system {
        SQUASHFS => None,
        2 => Some("ext3, which only the kernel could mount"),
        3 => Some("an archive"),
        4 => Some("raw"),
        5 | 6 => Some("encrypted"),
        _ => Some("of an unknown kind"),
    };
    if let Some(other) = other {
        return Err(format!("its root filesystem is {other}: only squashfs is read"));
    }
    let architecture = architecture(&root.architecture)?;
    if architecture != self::architecture(header_architecture)? {
        return Err("its header and its root filesystem are for two architectures".to_owned());
    }
    let mut configs = descriptors.iter().filter(|descriptor| {
        descriptor.kind == JSON
            && [OCI_CONFIG.as_bytes(), b"oci-config"].contains(&&*descriptor.name)
    });
    let oci_config = configs.next().map(|descriptor| descriptor.span);
    if configs.next().is_some() {
        return Err("it has two OCI configurations".to_owned());
    }
    Ok(Sif { root: root.span, architecture, oci_config })
}

/// Go's word for an architecture; none if the file leaves it open.
fn architecture(code: &[u8]) -> Result<Option<&'static str>, Wrong> {
    if code == b"00\0" {
        return Ok(None);
    }
    let known = ARCHITECTURES.iter().find(|(known, _)| *known == code);
    let unknown = || format!("its architecture `{}` is unknown", code.escape_ascii());
    known.map(|(_, word)| Some(*word)).ok_or_else(unknown)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

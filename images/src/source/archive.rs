//! Files of an uncompressed tar, by name and at random: one pass reads the headers, later reads go
//! to the offset.
//!
//! POSIX.1-2017 pax, "ustar Interchange Format", with the long names of pax and GNU. The headers
//! are walked here, not by the `tar` crate's iterator, which reads extensions of any length into
//! memory. Nothing is ever unpacked: an entry that would matter only to an unpacker is not looked
//! at, one that could make two readers see two archives is refused.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tar::{EntryType, Header, PaxExtensions};

use super::{Files, SourceError, open_regular};
use crate::shown::shown;

/// Bytes of a tar block.
const BLOCK_BYTES: u64 = 512;

/// Most entries: an image has at most a thousand layers, with three entries each in old archives.
/// More is made to fill memory.
const ENTRIES_MAX: usize = 100_000;

/// Most bytes of an extended header or long name: names have at most 4096 (`PATH_MAX`), the rest of
/// a pax header is small.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// Links followed from one name: Docker's old archives need one.
const LINKS_MAX: usize = 8;

/// An opened archive and what is in it.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    entries: HashMap<String, Entry>,
}

/// What an archive has under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    File {
        offset: u64,
        bytes: u64,
    },
    /// Relative to the entry's directory.
    Symlink {
        target: String,
    },
    /// Relative to the archive.
    Hardlink {
        target: String,
    },
    Directory,
    Other,
}

impl Archive {
    /// Opens the archive `path` and reads its headers.
    pub(super) fn open(path: &Path) -> Result<Archive, SourceError> {
        let (file, file_bytes) = open_regular(path)?;
        Archive::of_file(path, file, file_bytes)
    }

    /// Reads the headers of an opened archive, which messages call `path`.
    pub(super) fn of_file(
        path: &Path,
        file: File,
        file_bytes: u64,
    ) -> Result<Archive, SourceError> {
        let scan = Scan { path, file: &file, file_bytes, entries: HashMap::new() };
        let entries = scan.run()?;
        Ok(Archive { path: path.to_owned(), file: Arc::new(file), entries })
    }

    /// The name of the regular file that `name` leads to through links inside the archive.
    pub(super) fn follow_links(&self, name: &str) -> Result<String, SourceError> {
        let mut name = clean_name(name.as_bytes()).ok_or_else(|| self.not_a_file(name, OUT))?;
        for _ in 0..LINKS_MAX {
            let target = match self.entries.get(&name) {
                Some(Entry::Symlink { target }) => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    join(directory, target)
                }
                Some(Entry::Hardlink { target }) => join("", target),
                Some(Entry::File { .. } | Entry::Directory | Entry::Other) | None => {
                    return Ok(name);
                }
            };
            name = target.ok_or_else(|| self.not_a_file(&name, OUT))?;
        }
        Err(self.not_a_file(&name, "a link to a link to a link, too often"))
    }

    fn not_a_file(&self, name: &str, wrong: &'static str) -> SourceError {
        SourceError::NotAFile { path: self.path.clone(), entry: shown(name), wrong }
    }
}

const OUT: &str = "a link that leads out of the archive";

impl Files for Archive {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open_file(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), SourceError> {
        match self.entries.get(name) {
            Some(&Entry::File { offset, bytes }) => {
                Ok((Box::new(Section { file: Arc::clone(&self.file), offset, left: bytes }), bytes))
            }
            Some(Entry::Symlink { .. } | Entry::Hardlink { .. }) => {
                Err(self.not_a_file(name, "a link, where a file was expected"))
            }
            Some(Entry::Directory | Entry::Other) => Err(self.not_a_file(name, "no regular file")),
            None => Err(SourceError::Missing { path: self.path.clone(), entry: shown(name) }),
        }
    }
}

/// Part of a file, read without moving its position: several can be read at once.
struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..room], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// The pass over the headers.
struct Scan<'a> {
    path: &'a Path,
    file: &'a File,
    file_bytes: u64,
    entries: HashMap<String, Entry>,
}

/// What extensions said of the next entry.
#[derive(Default, PartialEq)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: Option<u64>,
}

impl Scan<'_> {
    fn run(mut self) -> Result<HashMap<String, Entry>, SourceError> {
        let mut offset = 0;
        let mut extensions = Extensions::default();
        while let Some(header) = self.read_header(offset)? {
            let kind = header.entry_type();
            let size = header.entry_size().map_err(|_| self.wrong(offset, "no valid size"))?;
            let is_extension = kind.is_gnu_longname()
                || kind.is_gnu_longlink()
                || kind.is_pax_local_extensions()
                || kind.is_pax_global_extensions();
            let bytes = if is_extension { size } else { extensions.bytes.unwrap_or(size) };
            let start = offset + BLOCK_BYTES;
            let end = start
                .checked_add(bytes)
                .and_then(|end| end.checked_next_multiple_of(BLOCK_BYTES))
                .ok_or_else(|| self.wrong(offset, "no valid size"))?;
            if start + bytes > self.file_bytes {
                return Err(self.truncated(&header, &extensions, start + bytes));
            }
            if is_extension {
                self.read_extension(kind, start, bytes, &mut extensions)?;
            } else {
                self.add(&header, std::mem::take(&mut extensions), offset, bytes)?;
            }
            offset = end;
        }
        Ok(self.entries)
    }

    /// The header at `offset`, or `None` at the end.
    fn read_header(&self, offset: u64) -> Result<Option<Header>, SourceError> {
        if offset >= self.file_bytes && offset > 0 {
            return Ok(None);
        }
        let mut block = [0; 512];
        self.read_at(&mut block, offset)?;
        if block == [0; 512] {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block);
        let sum: u32 = (0..).zip(block).map(|(at, byte)| checksummed(at, byte)).sum();
        if header.cksum().ok() != Some(sum) {
            return Err(match packing_of(&block) {
                Some(packing) if offset == 0 => {
                    SourceError::Packed { path: self.path.to_owned(), packing }
                }
                Some(_) | None => self.wrong(offset, "no header with a valid checksum"),
            });
        }
        Ok(Some(header.clone()))
    }

    fn read_extension(
        &self,
        kind: EntryType,
        offset: u64,
        bytes: u64,
        extensions: &mut Extensions,
    ) -> Result<(), SourceError> {
        if kind.is_pax_global_extensions() {
            let mut global = Extensions::default();
            self.read_records(offset, &self.read_content(offset, bytes)?, &mut global)?;
            if global != Extensions::default() {
                // Some readers apply it to entries that follow, some do not.
                return Err(self.wrong(offset, "a name or size for all entries"));
            }
        } else if kind.is_gnu_longname() {
            extensions.name = Some(until_nul(self.read_content(offset, bytes)?));
        } else if kind.is_gnu_longlink() {
            extensions.link = Some(until_nul(self.read_content(offset, bytes)?));
        } else {
            self.read_records(offset, &self.read_content(offset, bytes)?, extensions)?;
        }
        Ok(())
    }

    fn read_content(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, SourceError> {
        if bytes > EXTENSION_BYTES_MAX {
            return Err(self.wrong(offset, "too large an extended header"));
        }
        let length = usize::try_from(bytes).expect("bounded above");
        let mut content = vec![0; length];
        self.read_at(&mut content, offset)?;
        Ok(content)
    }

    fn read_records(
        &self,
        offset: u64,
        content: &[u8],
        extensions: &mut Extensions,
    ) -> Result<(), SourceError> {
        for record in PaxExtensions::new(content) {
            let record = record.map_err(|_| self.wrong(offset, "no valid pax record"))?;
            let value = record.value_bytes().to_vec();
            match record.key_bytes() {
                b"path" => extensions.name = Some(value),
                b"linkpath" => extensions.link = Some(value),
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    let size = size.ok_or_else(|| self.wrong(offset, "no valid pax size"))?;
                    extensions.bytes = Some(size);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(self.wrong(offset, "a sparse file"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        header: &Header,
        extensions: Extensions,
        offset: u64,
        bytes: u64,
    ) -> Result<(), SourceError> {
        let name = extensions.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let Some(name) = clean_name(&name) else {
            return Err(self.wrong(offset, "a name that is absolute or has `..`"));
        };
        let link = extensions.link.or_else(|| header.link_name_bytes().map(|link| link.into()));
        let target = String::from_utf8_lossy(&link.unwrap_or_default()).into_owned();
        let kind = header.entry_type();
        let entry = if kind.is_file() || kind.is_contiguous() {
            Entry::File { offset: offset + BLOCK_BYTES, bytes }
        } else if kind.is_gnu_sparse() {
            return Err(self.wrong(offset, "a sparse file"));
        } else if bytes != 0 {
            // Readers disagree whether content follows: the next header would be found twice.
            return Err(self.wrong(offset, "content of an entry that can have none"));
        } else if kind.is_symlink() {
            Entry::Symlink { target }
        } else if kind.is_hard_link() {
            Entry::Hardlink { target }
        } else if kind.is_dir() {
            Entry::Directory
        } else {
            Entry::Other
        };
        if self.entries.len() == ENTRIES_MAX {
            return Err(self.wrong(offset, "more entries than any image has"));
        }
        match self.entries.insert(name, entry) {
            None | Some(Entry::Directory) => Ok(()),
            Some(Entry::File { .. } | Entry::Symlink { .. } | Entry::Hardlink { .. })
            | Some(Entry::Other) => Err(self.wrong(offset, "a name for the second time")),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.file.read_exact_at(buffer, offset).map_err(|source| {
            if source.kind() != io::ErrorKind::UnexpectedEof {
                return SourceError::Open { path: self.path.to_owned(), source };
            }
            self.wrong(offset, "the end of the file in a header")
        })
    }

    fn wrong(&self, offset: u64, wrong: &str) -> SourceError {
        SourceError::Tar { path: self.path.to_owned(), offset, wrong: wrong.to_owned() }
    }

    fn truncated(&self, header: &Header, extensions: &Extensions, end: u64) -> SourceError {
        let name = extensions.name.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        let entry = shown(&String::from_utf8_lossy(&name));
        SourceError::Truncated { path: self.path.to_owned(), entry, end, bytes: self.file_bytes }
    }
}

/// The checksum counts its own eight bytes as spaces.
fn checksummed(at: usize, byte: u8) -> u32 {
    if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(byte) }
}

/// GNU ends long names with a NUL byte.
fn until_nul(mut content: Vec<u8>) -> Vec<u8> {
    content.truncate(content.iter().position(|byte| *byte == 0).unwrap_or(content.len()));
    content
}

/// The name without `.` and doubled slashes; `None` if it is absolute or has `..`.
fn clean_name(name: &[u8]) -> Option<String> {
    let name = String::from_utf8_lossy(name);
    if name.split('/').any(|component| component == "..") { None } else { join("", &name) }
}

/// Resolves `target` from `directory` by its text; `None` if it is absolute or leads out.
fn join(directory: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut components: Vec<&str> = Vec::new();
    for component in directory.split('/').chain(target.split('/')) {
        match component {
            "" | "." => {}
            ".." => {
                components.pop()?;
            }
            component => components.push(component),
        }
    }
    Some(components.join("/"))
}

/// The format that content beginning with `start` is packed in, if it is a known one.
pub(super) fn packing_of(start: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 4] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
    ];
    MAGIC.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn open(bytes: &[u8]) -> Result<Archive, SourceError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Archive::open(file.path())
    }

    /// One entry with any name, as a writer that means harm makes it.
    fn entry(kind: EntryType, name: &[u8], link: &[u8], bytes: u64, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_size(bytes);
        header.set_cksum();
        let mut entry = header.as_bytes().to_vec();
        entry.extend_from_slice(content);
        entry.resize(entry.len().next_multiple_of(512), 0);
        entry
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        entry(EntryType::Regular, name.as_bytes(), b"", content.len() as u64, content)
    }

    fn link(kind: EntryType, name: &str, target: &str) -> Vec<u8> {
        entry(kind, name.as_bytes(), target.as_bytes(), 0, b"")
    }

    fn extension(kind: EntryType, content: &[u8]) -> Vec<u8> {
        entry(kind, b"extension", b"", content.len() as u64, content)
    }

    fn content(archive: &Archive, name: &str) -> Vec<u8> {
        let (mut reader, _) = archive.open_file(name).unwrap();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn wrong(bytes: &[u8]) -> String {
        match open(bytes).map(|archive| archive.entries) {
            Err(error) => error.to_string(),
            Ok(entries) => panic!("{entries:?}"),
        }
    }

    #[test]
    fn reads_files_by_name_in_any_order() {
        let archive = open(&[file("./a//b", b"1"), file("c", &[b'2'; 600])].concat()).unwrap();
        assert_eq!(content(&archive, "c"), [b'2'; 600]);
        assert_eq!(content(&archive, "a/b"), b"1");
        assert!(matches!(archive.open_file("d"), Err(SourceError::Missing { .. })));
    }

    #[test]
    fn reads_long_names_of_both_kinds() {
        let long = "x".repeat(300);
        let gnu = extension(EntryType::GNULongName, format!("{long}\0").as_bytes());
        let pax = extension(EntryType::XHeader, b"10 path=y\n9 size=3\n");
        let archive = open(&[gnu, file("cut", b"1"), pax, file("z", b"222")].concat()).unwrap();
        assert_eq!(content(&archive, &long), b"1");
        assert_eq!(content(&archive, "y"), b"222");
    }

    /// The size in a pax header counts, for every reader alike: an entry that the two sizes would
    /// hide or show (CVE-2025-62518) is part of the content.
    #[test]
    fn size_of_a_pax_header_counts() {
        let hidden = file("hidden", b"");
        let pax = extension(EntryType::XHeader, b"12 size=512\n");
        let mut outer = entry(EntryType::Regular, b"outer", b"", 0, b"");
        outer.extend(&hidden);
        let archive = open(&[pax, outer].concat()).unwrap();
        assert!(!archive.entries.contains_key("hidden"));
        assert_eq!(content(&archive, "outer"), hidden);
    }

    #[test]
    fn follows_links_inside_only() {
        let symlink = |name, target| link(EntryType::Symlink, name, target);
        let archive = open(
            &[
                file("1.tar", b"1"),
                symlink("a/layer.tar", "../b/layer.tar"),
                symlink("b/layer.tar", "../1.tar"),
                link(EntryType::Link, "hard", "a/layer.tar"),
                symlink("out", "../1.tar"),
                symlink("absolute", "/1.tar"),
                symlink("loop", "loop"),
            ]
            .concat(),
        )
        .unwrap();
        assert_eq!(archive.follow_links("hard").unwrap(), "1.tar");
        for name in ["out", "absolute", "loop", "../1.tar", "/1.tar"] {
            let error = archive.follow_links(name).unwrap_err();
            assert!(matches!(error, SourceError::NotAFile { .. }), "{name}: {error}");
        }
        let error = archive.open_file("hard").err().unwrap();
        assert!(error.to_string().contains("a link, where a file was expected"), "{error}");
    }

    #[test]
    fn refuses_what_two_readers_could_read_differently() {
        let mut broken = file("a", b"1");
        broken[0] ^= 1;
        let long = vec![b'x'; usize::try_from(EXTENSION_BYTES_MAX).unwrap() + 1];
        for (bytes, expected) in [
            (file("../a", b"1"), "absolute or has `..`"),
            (file("a/../b", b"1"), "absolute or has `..`"),
            (file("/a", b"1"), "absolute or has `..`"),
            ([file("a", b"1"), file("./a", b"2")].concat(), "for the second time"),
            (entry(EntryType::Symlink, b"a", b"b", 512, &[0; 512]), "can have none"),
            (entry(EntryType::Directory, b"a", b"", 512, &[0; 512]), "can have none"),
            (entry(EntryType::GNUSparse, b"a", b"", 0, b""), "a sparse file"),
            (extension(EntryType::XHeader, b"22 GNU.sparse.major=1\n"), "a sparse file"),
            (extension(EntryType::XHeader, b"8 path=a\n"), "no valid pax record"),
            (extension(EntryType::XHeader, b"12 size=-10\n"), "no valid pax size"),
            (extension(EntryType::XGlobalHeader, b"9 size=3\n"), "for all entries"),
            (extension(EntryType::GNULongName, &long), "too large"),
            (broken, "no header with a valid checksum"),
        ] {
            let message = wrong(&bytes);
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }

    #[test]
    fn refuses_sizes_beyond_the_file_before_anything_is_read() {
        for bytes in [1 << 50, u64::MAX / 2] {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[0] = b'a';
            header.set_size(bytes);
            header.set_cksum();
            let message = wrong(header.as_bytes());
            assert!(message.contains("is cut off"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn damaged_archives_do_not_panic(at in 0..2048_usize, byte: u8) {
            let pax = extension(EntryType::XHeader, b"10 path=y\n9 size=1\n");
            let mut bytes = [pax, file("a", b"1")].concat();
            bytes[at % 1536] = byte;
            // A wrong checksum would end it early.
            for header in [0, 1024] {
                let mut fixed = Header::from_byte_slice(&bytes[header..header + 512]).clone();
                fixed.set_cksum();
                bytes[header..header + 512].copy_from_slice(fixed.as_bytes());
            }
            let _ = open(&bytes);
        }
    }
}

//! Judges a file system that the kernel shall mount: whether that shows what unpacking would make.
//!
//! Everything that leads somewhere is followed, so that a table, a list of blocks or an owner that
//! points beyond the end is found here and not by the kernel. Only the data of files stays packed.

use tar::EntryType;

use super::blocks::{Blocks, packed_size};
use super::inode::Content;
use super::{tables, wrong};
use crate::layer::Limits;
use crate::layer::head::Head;
use crate::layer::packed::{Stop, check_size};
use crate::layer::pax::is_kept_xattr;

/// Owners above are none that a user namespace can map.
const OWNER_MAX: u32 = i32::MAX.unsigned_abs();

/// What was found so far.
pub(super) struct Look<'a> {
    limits: &'a Limits,
    packed: u64,
    entries: u64,
    bytes: u64,
}

impl<'a> Look<'a> {
    /// Nothing yet of a file system of `packed` bytes, by which its size is judged.
    pub(super) fn new(packed: u64, limits: &'a Limits) -> Look<'a> {
        Look { limits, packed, entries: 0, bytes: 0 }
    }

    /// One name. What unpacking would leave out or refuse is refused.
    pub(super) fn head(&mut self, head: &Head<'_>) -> Result<(), Stop> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            return Err(Stop::Limit { limit: "entries_max", most: self.limits.entries_max });
        }
        self.bytes = self.bytes.saturating_add(head.bytes);
        check_size(self.bytes, self.packed, self.limits)?;
        if matches!(head.kind, EntryType::Char | EntryType::Block) {
            return Err(wrong("it has device nodes or sockets".to_owned()));
        }
        if head.uid.max(head.gid) > OWNER_MAX {
            return Err(wrong(format!("owner {} is too large", head.uid.max(head.gid))));
        }
        match head.xattrs.iter().find(|(name, _)| !is_kept_xattr(name)) {
            Some((name, _)) => Err(wrong(format!("it has attributes {}", name.escape_ascii()))),
            None => Ok(()),
        }
    }
}

/// Follows the blocks of a file.
pub(super) fn content(blocks: &mut Blocks<'_>, mut content: Content) -> Result<(), Stop> {
    let block_bytes = blocks.superblock.block_bytes;
    let mut left = content.bytes;
    let mut offset = content.start;
    while left > 0 {
        let wanted = usize::try_from(left).map_or(block_bytes, |left| left.min(block_bytes));
        if let Some((number, start)) = content.fragment.filter(|_| wanted < block_bytes) {
            let (offset, size) = tables::fragment(blocks, number)?;
            blocks.check_data(offset, size)?;
            let (packed, is_plain) = packed_size(size);
            let most = if is_plain { packed } else { block_bytes };
            let end = usize::try_from(start).ok().and_then(|start| start.checked_add(wanted));
            return match end {
                Some(end) if end <= most => Ok(()),
                Some(_) | None => Err(wrong(format!("fragment {number} is too short"))),
            };
        }
        let size = content.sizes.u32(blocks)?;
        let (packed, is_plain) = packed_size(size);
        if packed > 0 {
            blocks.check_data(offset, size)?;
            if is_plain && packed != wanted {
                return Err(wrong(format!("the data at byte {offset} has another length")));
            }
        }
        offset = offset.saturating_add(packed as u64);
        left -= wanted as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use proptest::prelude::Rng as _;
    use proptest::test_runner::{RngAlgorithm, TestRng};

    use crate::Limits;
    use crate::layer::packed::Stop;
    use crate::layer::sif::Span;
    use crate::layer::squashfs::{look_through, unpack};

    /// One of everything, a device node too; and a small one with nothing packed.
    const GZIP: &[u8] = include_bytes!("../../../tests/root_files/gzip.squashfs");
    const PLAIN: &[u8] = include_bytes!("../../../tests/root_files/plain.squashfs");
    /// Where data ends and tables begin in the latter.
    const INODES: usize = 0x277a;

    fn whole(bytes: &[u8]) -> (File, Span) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        (file, Span { offset: 0, bytes: bytes.len() as u64 })
    }

    fn looked(bytes: &[u8], limits: &Limits) -> Result<(), Stop> {
        let (file, span) = whole(bytes);
        look_through(&file, span, limits)
    }

    fn told(bytes: &[u8], limits: &Limits) -> String {
        format!("{:?}", looked(bytes, limits).unwrap_err())
    }

    #[test]
    fn what_unpacking_would_change_is_not_mounted() {
        let limits = Limits::default();
        assert!(looked(PLAIN, &limits).is_ok());
        assert!(told(GZIP, &limits).contains("device nodes"), "{}", told(GZIP, &limits));
        let few = Limits { entries_max: 2, ..Limits::default() };
        assert!(told(PLAIN, &few).contains("entries_max"));
        let small = Limits { unpacked_bytes_max: 10, ..Limits::default() };
        assert!(told(PLAIN, &small).contains("unpacked_bytes_max"));
    }

    /// Whether unpacking stopped at what only the data of a file shows.
    fn is_of_data(stop: &Stop) -> bool {
        let told = format!("{stop:?}");
        ["cannot be unpacked", "another length", "too short"].iter().any(|at| told.contains(at))
    }

    /// But for the data of files, which the kernel is the first to unpack.
    #[test]
    fn what_cannot_be_unpacked_is_not_mounted() {
        let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
        let (mut refused, mut accepted) = (0, 0);
        for round in 0..1500_usize {
            let mut bytes = PLAIN.to_vec();
            for _ in 0..=round % 3 {
                let place = usize::try_from(random.next_u64() >> 1).unwrap();
                // Every third time in the superblock.
                let place = match round % 3 {
                    0 => place % 96,
                    _ => INODES + place % (bytes.len() - INODES),
                };
                bytes[place] ^= 1 << (random.next_u32() % 8);
            }
            let (file, span) = whole(&bytes);
            let unpacked = unpack(&file, span, &Limits::default(), &mut |_| true);
            let looked = look_through(&file, span, &Limits::default());
            let is_expected = match (&unpacked, &looked) {
                (Err(stop), Ok(())) => is_of_data(stop),
                _ => true,
            };
            assert!(is_expected, "{round}: {unpacked:?}");
            *(if looked.is_ok() { &mut accepted } else { &mut refused }) += 1;
        }
        assert!(refused > 100 && accepted > 20, "{refused} refused, {accepted} accepted");
    }
}

//! What one layer may cost: every bound of the extractor, in one place.

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Bounds for unpacking one layer. Passing one is an error that names it; nothing is left behind.
///
/// The defaults admit every image known to be in use in research computing with room to spare, and
/// stop an archive that exists to fill a disk or memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed tar. The largest accelerator images have layers of about 20 GiB.
    pub unpacked_bytes_max: u64,
    /// Unpacked bytes for each packed byte. Text packs 10:1; only padding comes near this.
    pub ratio_max: u64,
    /// Unpacked bytes below which `ratio_max` is not applied: a small layer may well be all zeros.
    pub ratio_floor_bytes: u64,
    /// Files, directories, links and whiteouts, directories that no entry names included. Large
    /// conda environments have about half a million.
    pub entries_max: u64,
    /// Bytes of one path. Linux takes at most 4095 in one call (`PATH_MAX`, limits.h).
    pub path_bytes_max: usize,
    /// Components of one path, after symbolic links in it are resolved.
    pub path_depth_max: usize,
    /// Bytes of all extended headers of one entry together: PAX records and GNU long names.
    pub header_bytes_max: u64,
    /// Bytes of names and values of all extended attributes of one entry. Linux takes 64 KiB each
    /// (`XATTR_SIZE_MAX`, limits.h).
    pub xattr_bytes_max: usize,
    /// Largest window of a Zstandard frame, as a power of two: memory that the packer of a blob
    /// makes us allocate. 27 is 128 MiB, what `zstd -d` takes by itself.
    pub zstd_window_log_max: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            unpacked_bytes_max: 128 * GIB,
            ratio_max: 200,
            ratio_floor_bytes: 256 * MIB,
            entries_max: 2_000_000,
            path_bytes_max: 4095,
            path_depth_max: 255,
            header_bytes_max: MIB,
            xattr_bytes_max: 256 << 10,
            zstd_window_log_max: 27,
        }
    }
}

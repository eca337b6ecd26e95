//! A blob as a file, for formats that cannot be read from front to back.
//!
//! The file is verified before anyone looks into it, and has no name: it is gone when the last
//! descriptor is, however this program ends.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::packed::{Counted, Stop};

/// Bytes copied at a time.
const COPY_BYTES: usize = 256 << 10;

/// A name that is there for a moment in the still empty tree. Not `O_TMPFILE`, which some file
/// systems under a store lack.
const NAME: &str = ".spool";

/// Copies all of `blob`, which is read through `packed`, into a file without a name on the file
/// system of `root`.
pub(super) fn spool(
    blob: &Counted<'_>,
    packed: &mut dyn Read,
    root: BorrowedFd<'_>,
) -> Result<File, Stop> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let disk = |call, source| Stop::Disk { call, source };
    let file = rustix::fs::openat(root, NAME, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| disk("openat(2)", errno.into()))?;
    rustix::fs::unlinkat(root, NAME, AtFlags::empty())
        .map_err(|errno| disk("unlinkat(2)", errno.into()))?;
    let mut file = File::from(file);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match packed.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(count) => {
                file.write_all(&buffer[..count]).map_err(|error| disk("write(2)", error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(blob.stop(error)),
        }
    }
}

//! A blob as a file, for formats that cannot be read from front to back.
//!
//! The file is verified before anyone looks into it. Where nobody keeps the blob it has no name: it
//! is gone when the last descriptor is, however this program ends.

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

/// Where a blob can be read at random.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// Nowhere yet. In this still empty directory a file can be made.
    Within(BorrowedFd<'a>),
    /// In this file, once all of the blob was read: whoever is read from keeps it there.
    Kept(&'a File),
}

/// Makes a file in `folder` that no other process can reach: it has `name`, which must be new, for
/// a moment, and then none.
pub(crate) fn unnamed_file(folder: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
    Ok(File::from(file))
}

/// Reads all of `blob` through `packed`, and returns a file that holds it.
pub(super) fn spool(
    blob: &Counted<'_>,
    packed: &mut dyn Read,
    place: Place<'_>,
) -> Result<File, Stop> {
    match place {
        Place::Within(directory) => copy(blob, packed, directory),
        Place::Kept(file) => {
            io::copy(packed, &mut io::sink()).map_err(|error| blob.stop(error))?;
            let file = file.try_clone();
            file.map_err(|source| Stop::Disk { call: "fcntl(2)", source })
        }
    }
}

/// Copies all of `blob` into a file without a name on the file system of `root`.
fn copy(blob: &Counted<'_>, packed: &mut dyn Read, root: BorrowedFd<'_>) -> Result<File, Stop> {
    let file = unnamed_file(root, NAME);
    let mut file = file.map_err(|source| Stop::Disk { call: "openat(2)", source })?;
    copy_to(blob, packed, &mut file)?;
    Ok(file)
}

/// Copies all of `blob`, read through `packed`, to `target`.
pub(super) fn copy_to(
    blob: &Counted<'_>,
    packed: &mut dyn Read,
    target: &mut dyn Write,
) -> Result<(), Stop> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match packed.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                let written = target.write_all(&buffer[..count]);
                written.map_err(|source| Stop::Disk { call: "write(2)", source })?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(blob.stop(error)),
        }
    }
}

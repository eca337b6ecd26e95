//! Small trees that engines make for themselves: top layers with mount points and account files,
//! our own programs.
//!
//! They can be made again at any time, so they are never synced: they are kept by the kernel's boot
//! identity, and those of earlier boots are removed. A start that finds its tree pays one system
//! call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::Mode;

use super::{Store, StoreError};
use crate::Digest;

const GENERATED: &str = "generated";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Store {
    /// The directory `key` of `kind`, made by `make` if nobody has since the last boot.
    ///
    /// `make` gets an empty directory of mode 0755 and may set another. It runs at most once for
    /// all who ask at the same time, and must always make the same for one key. `kind` is a word of
    /// ours.
    ///
    /// # Errors
    /// [`StoreError::Disk`] with what `make` or the kernel said; then nothing is left.
    pub fn generated(
        &self,
        kind: &str,
        key: &Digest,
        make: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<PathBuf, StoreError> {
        let (boot, name) = (boot()?, key.hex());
        let path = self.generated_path(kind, key)?;
        if self.stat(&path).is_ok() {
            return Ok(self.root.join(path));
        }
        let parent = self.directory_of(boot, kind)?;
        let work = self.work(&format!("generated-{kind}-{name}"))?;
        if !self.has(&path)? {
            let directory = work.make_directory()?;
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755))
                .map_err(self.disk("fchmod(2)", &path))?;
            make(directory.as_fd()).map_err(self.failed("cannot generate", &path))?;
            work.publish_unsynced(&parent, &name)?;
        }
        Ok(self.root.join(path))
    }

    /// Where the directory `key` of `kind` is, below the store's root, if it is there.
    pub(super) fn generated_path(&self, kind: &str, key: &Digest) -> Result<String, StoreError> {
        Ok(format!("{GENERATED}/{}/{kind}/{}", boot()?, key.hex()))
    }

    /// The directory of a kind. When it is the first one since the boot, those of earlier boots go:
    /// whatever used them is gone too.
    fn directory_of(&self, boot: &str, kind: &str) -> Result<String, StoreError> {
        let current = format!("{GENERATED}/{boot}");
        if !self.has(&current)? {
            self.ensure_directory(&current)?;
            for other in self.names_in(GENERATED)? {
                if other != boot {
                    self.work(&format!("boot-{other}"))?.take_away(GENERATED, &other)?;
                }
            }
        }
        let parent = format!("{current}/{kind}");
        self.ensure_directory(&parent)?;
        Ok(parent)
    }
}

/// Which boot of this machine it is, read once: it cannot change under a process.
fn boot() -> Result<&'static str, StoreError> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(boot);
    }
    let read = std::fs::read_to_string(BOOT_ID);
    let boot =
        read.map_err(|source| StoreError::Disk { call: "read(2)", path: BOOT_ID.into(), source })?;
    Ok(BOOT.get_or_init(|| boot.trim().to_owned()))
}

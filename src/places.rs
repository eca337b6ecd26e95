//! Where this user's images are kept. The only part of the program that reads the environment.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use ric_images::{default_root, is_local_filesystem};
use rustix::fs::Access;

/// The directory of images: the one that is named, made absolute, else this user's.
#[expect(clippy::disallowed_methods, reason = "libraries get what the environment says from here")]
pub(crate) fn store_root(named: Option<&Path>) -> io::Result<PathBuf> {
    if let Some(path) = named {
        return std::path::absolute(path);
    }
    let data_home = std::env::var_os("XDG_DATA_HOME");
    let home = std::env::var_os("HOME");
    Ok(usual_root(data_home, home))
}

/// Whether a store has been made in `root`: an OCI layout has this file (image-spec v1.1,
/// "oci-layout file").
pub(crate) fn is_store(root: &Path) -> bool {
    root.join("oci-layout").is_file()
}

fn usual_root(data_home: Option<OsString>, home: Option<OsString>) -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let path = |text: Option<OsString>| text.map(PathBuf::from);
    let (data_home, home) = (path(data_home), path(home));
    default_root(uid, data_home.as_deref(), home.as_deref(), |place| {
        is_local_filesystem(place) && is_writable(place)
    })
}

/// Whether `path`, or what of it exists, may be written by this user. `HOME` names someone else's
/// home under setpriv(1) and some batch systems.
fn is_writable(path: &Path) -> bool {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing.is_some_and(|existing| rustix::fs::access(existing, Access::WRITE_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_wins_and_is_absolute() {
        assert_eq!(store_root(Some(Path::new("/a/b"))).unwrap(), PathBuf::from("/a/b"));
        assert!(store_root(Some(Path::new("b"))).unwrap().is_absolute());
    }

    /// `/proc` cannot be written by anybody, root included.
    #[test]
    fn a_home_that_cannot_be_written_is_not_used() {
        assert!(!is_writable(Path::new("/proc/self/nothing")));
        assert!(is_writable(Path::new("/dev/null")));
    }
}

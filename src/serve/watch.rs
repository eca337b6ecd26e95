//! Policy files, watched for change: by their directories, as files are replaced more often than
//! written.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// Watches files. Its descriptor is readable when something happened beside one of them.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: OwnedFd,
    files: Vec<PathBuf>,
}

impl Watch {
    /// Watches `files`, whether they are there or not.
    ///
    /// # Errors
    /// What `inotify_init(2)` says, usually that a user has too many of them.
    pub(super) fn new(files: Vec<PathBuf>) -> io::Result<Watch> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let watch = Watch { inotify, files };
        watch.arm();
        Ok(watch)
    }

    /// Watches the directory of each file, or the nearest one above it that is there. To watch one
    /// twice changes nothing, inotify_add_watch(2).
    fn arm(&self) {
        let happens = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        for file in &self.files {
            let above = file.ancestors().skip(1);
            // Without any of them SIGHUP still has the policy read again.
            let _ = above.into_iter().find(|directory| {
                let directory =
                    if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
                inotify::add_watch(&self.inotify, directory, happens).is_ok()
            });
        }
    }

    /// Takes what has happened: whether any of it may have changed a file.
    pub(super) fn take(&self) -> bool {
        let names = self.names();
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut space);
        let mut changed = false;
        while let Ok(event) = events.next() {
            let of_file = event
                .file_name()
                .is_some_and(|name| names.contains(std::ffi::OsStr::from_bytes(name.to_bytes())));
            changed |= of_file || event.events().contains(ReadFlags::QUEUE_OVERFLOW);
        }
        if changed {
            self.arm();
        }
        changed
    }

    /// Every name on the way to a file: a directory that comes into being counts too.
    fn names(&self) -> HashSet<OsString> {
        let parts = self.files.iter().flat_map(|file| file.components());
        parts.map(|part| part.as_os_str().to_owned()).collect()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_written_replaced_or_removed_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.yaml");
        let watch = Watch::new(vec![file.clone()]).unwrap();
        assert!(!watch.take());
        fs::write(directory.path().join("other"), "").unwrap();
        assert!(!watch.take(), "another file is nobody's business");
        fs::write(&file, "1").unwrap();
        assert!(watch.take());
        fs::write(directory.path().join("new"), "2").unwrap();
        assert!(!watch.take());
        fs::rename(directory.path().join("new"), &file).unwrap();
        assert!(watch.take());
        fs::remove_file(&file).unwrap();
        assert!(watch.take());
    }

    #[test]
    fn a_file_may_come_with_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a/b/policy.yaml");
        let watch = Watch::new(vec![file.clone()]).unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        assert!(watch.take());
        fs::create_dir(directory.path().join("a/b")).unwrap();
        assert!(watch.take());
        fs::write(&file, "").unwrap();
        assert!(watch.take());
    }
}

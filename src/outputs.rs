//! Where the files go that a task leaves behind: whole under their name, or not at all.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use ric_runtime::{Actor, OutputAsk};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::failure::Failure;

/// Opened before the task starts, so that a directory that is not there is told before hours of
/// work and not after them; published after it has ended well.
#[derive(Debug)]
pub(crate) struct Outputs {
    files: Vec<File>,
    pending: Vec<Pending>,
}

/// How an output gets its name.
#[derive(Debug)]
enum Pending {
    /// The file has no name yet (O_TMPFILE), so nothing is left if this program is killed.
    Nameless { directory: OwnedFd, name: PathBuf },
    /// The file has another name beside the one it will get: the filesystem knows no nameless
    /// files.
    Beside { directory: OwnedFd, beside: String, name: PathBuf },
    /// A pipe, terminal or device, or what a symbolic link leads to (`/dev/stdout` is one): it
    /// stays what it is and is written to.
    Direct { name: PathBuf },
}

/// Permission bits before the umask.
const FILE_MODE: u32 = 0o666;

impl Outputs {
    pub(crate) fn open(asked: &[OutputAsk]) -> Result<Self, Failure> {
        let mut outputs = Self { files: Vec::new(), pending: Vec::new() };
        for output in asked {
            let (file, pending) = open_target(&output.target)
                .map_err(|error| failure(&output.target).because(&error))?;
            outputs.files.push(file);
            outputs.pending.push(pending);
        }
        Ok(outputs)
    }

    /// The open files, in the order of the asks.
    pub(crate) fn files(&self) -> &[File] {
        &self.files
    }

    /// Gives every file its name, in place of what had it.
    pub(crate) fn publish(mut self) -> Result<(), Failure> {
        for (file, pending) in self.files.iter().zip(self.pending.drain(..)) {
            pending.publish(file).map_err(|(name, error)| failure(&name).because(&error))?;
        }
        Ok(())
    }
}

/// What was not published is removed.
impl Drop for Outputs {
    fn drop(&mut self) {
        for pending in &self.pending {
            if let Pending::Beside { directory, beside, .. } = pending {
                // Nobody is left to be told; the file is empty or half written, and beside.
                let _ = rustix::fs::unlinkat(directory, beside.as_str(), AtFlags::empty());
            }
        }
    }
}

impl Pending {
    fn publish(self, file: &File) -> Result<(), (PathBuf, io::Error)> {
        match self {
            Pending::Direct { name } => cut(file).map_err(|error| (name, error)),
            Pending::Nameless { directory, name } => {
                // linkat(2) replaces nothing, rename(2) does.
                let beside = beside();
                let source = format!("/proc/self/fd/{}", file.as_raw_fd());
                let flags = AtFlags::SYMLINK_FOLLOW;
                rustix::fs::linkat(CWD, source, &directory, beside.as_str(), flags)
                    .and_then(|()| rename(&directory, &beside, &name))
                    .map_err(|errno| (name, errno.into()))
            }
            Pending::Beside { directory, beside, name } => {
                rename(&directory, &beside, &name).map_err(|errno| (name, errno.into()))
            }
        }
    }
}

/// Cuts what a longer file before held behind what was written. Only a link's file can be longer.
fn cut(mut file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        let end = file.stream_position()?;
        file.set_len(end)?;
    }
    Ok(())
}

fn rename(directory: &OwnedFd, beside: &str, name: &Path) -> rustix::io::Result<()> {
    rustix::fs::renameat(directory, beside, directory, name).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = rustix::fs::unlinkat(directory, beside, AtFlags::empty());
    })
}

/// A name that no other output of any process has.
fn beside() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(".run-in-container-{}-{count}", std::process::id())
}

fn open_target(target: &Path) -> io::Result<(File, Pending)> {
    if let Some(special) = open_special(target)? {
        return Ok((special, Pending::Direct { name: target.to_owned() }));
    }
    let name = target.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let name = PathBuf::from(name);
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent.unwrap_or(Path::new(".")), flags, Mode::empty())?;
    let mode = Mode::from_raw_mode(FILE_MODE);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(&directory, ".", flags | OFlags::TMPFILE, mode) {
        Ok(file) => Ok((file.into(), Pending::Nameless { directory, name })),
        // EISDIR is the answer of kernels to a filesystem without it, open(2).
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            let beside = beside();
            let flags = flags | OFlags::CREATE | OFlags::EXCL;
            let file = rustix::fs::openat(&directory, beside.as_str(), flags, mode)?;
            Ok((file.into(), Pending::Beside { directory, beside, name }))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// What is there already and is neither a file nor nothing, opened to be written to.
fn open_special(target: &Path) -> io::Result<Option<File>> {
    let stat = match rustix::fs::lstat(target) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(None),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        FileType::Symlink => {
            File::options().write(true).create(true).truncate(false).open(target).map(Some)
        }
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => File::options().write(true).open(target).map(Some),
    }
}

fn failure(target: &Path) -> Failure {
    Failure::new(Actor::User, format!("cannot write the output {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn ask(target: PathBuf) -> Vec<OutputAsk> {
        vec![OutputAsk { name: "result".into(), target }]
    }

    #[test]
    fn keeps_the_old_file_until_the_new_one_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("result");
        std::fs::write(&target, "old").unwrap();
        let outputs = Outputs::open(&ask(target.clone())).unwrap();
        outputs.files()[0].try_clone().unwrap().write_all(b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "old");
        outputs.publish().unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn leaves_nothing_of_a_task_that_failed() {
        let directory = tempfile::tempdir().unwrap();
        let outputs = Outputs::open(&ask(directory.path().join("result"))).unwrap();
        outputs.files()[0].try_clone().unwrap().write_all(b"half").unwrap();
        drop(outputs);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn tells_a_missing_directory_before_the_task_starts() {
        let directory = tempfile::tempdir().unwrap();
        let failure = Outputs::open(&ask(directory.path().join("no/result"))).unwrap_err();
        assert!(failure.to_string().contains("no/result"), "{failure}");
        let failure = Outputs::open(&ask(directory.path().to_owned())).unwrap_err();
        assert_eq!(failure.must_act, Actor::User);
    }

    /// `/dev/stdout` is a link: in its place a file would break every other program.
    #[test]
    fn writes_through_a_link_and_leaves_it() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&file, "something longer").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let outputs = Outputs::open(&ask(link.clone())).unwrap();
        outputs.files()[0].try_clone().unwrap().write_all(b"new").unwrap();
        outputs.publish().unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
    }

    #[test]
    fn writes_to_a_device_as_it_is() {
        let outputs = Outputs::open(&ask("/dev/null".into())).unwrap();
        outputs.publish().unwrap();
        assert!(!Path::new("/dev/null").is_file());
    }
}

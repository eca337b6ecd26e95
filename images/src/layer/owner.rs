//! Whom files of a layer belong to, where their owners on disk cannot say.
//!
//! Only root can give files away: all of a tree that an ordinary user unpacked is that user's. Who
//! owns a file in the image is noted in an attribute then, for the builds that stand on the layer.
//! Only files and directories can have one (xattr(7), "Extended user attributes"), so links are
//! root's. It is this store's own: no archive sets it, no layer holds it, no fingerprint knows it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::fingerprint::{open, sorted_names};
use super::header::Status;
use super::name::{LayerPath, join};
use super::tree::times;
use crate::beneath::open_beneath;

/// Begins the names of attributes that only the store sets.
pub(super) const OWN_PREFIX: &[u8] = b"user.run-in-container.";

const OWNER: &str = "user.run-in-container.owner";

/// Most bytes of two ids and what stands between them.
const OWNER_BYTES_MAX: usize = 21;

/// Notes the owner of a file or directory that this process cannot give to them.
pub(super) fn note(file: &OwnedFd, status: &Status) -> rustix::io::Result<()> {
    if (status.uid, status.gid) == (0, 0) {
        return Ok(());
    }
    let owner = format!("{}:{}", status.uid, status.gid);
    match rustix::fs::fsetxattr(file, OWNER, owner.as_bytes(), XattrFlags::empty()) {
        // A file system without user attributes: all files are root's there.
        Err(Errno::OPNOTSUPP) => Ok(()),
        noted => noted,
    }
}

/// The uid and gid in the image of something in an unpacked tree.
pub(crate) fn owner(file: BorrowedFd<'_>, stat: &Stat) -> io::Result<(u32, u32)> {
    if rustix::process::geteuid().is_root() {
        return Ok((stat.st_uid, stat.st_gid));
    }
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok((0, 0));
    }
    let mut value = [0; OWNER_BYTES_MAX];
    // By way of /proc, as the file may be one that was opened to be looked at only (O_PATH).
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::getxattr(path, OWNER, &mut value[..]) {
        Ok(length) => Ok(parse(&value[..length]).unwrap_or((0, 0))),
        // What cannot be read says nothing: its directory has to do without, too.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE | Errno::ACCESS) => Ok((0, 0)),
        Err(errno) => Err(errno.into()),
    }
}

fn parse(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Something that belongs to others than root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Below what it is a part of, without a leading slash; empty is that itself.
    pub path: Vec<u8>,
    /// Its owner in the image.
    pub uid: u32,
    /// Its group in the image.
    pub gid: u32,
}

impl Owned {
    /// Something that stands for itself.
    pub fn itself((uid, gid): (u32, u32)) -> Owned {
        Owned { path: Vec::new(), uid, gid }
    }

    /// Appends it to a list: `UID:GID PATH`, and a zero byte.
    pub fn append_to(&self, list: &mut Vec<u8>) {
        list.extend(format!("{}:{} ", self.uid, self.gid).bytes());
        list.extend(&self.path);
        list.push(0);
    }

    /// Reads such a list; nothing if it is none.
    pub fn parse_list(list: &[u8]) -> Option<Vec<Owned>> {
        let lines = list.strip_suffix(b"\0")?.split(|byte| *byte == 0);
        let parse = |line: &[u8]| {
            let space = line.iter().position(|byte| *byte == b' ')?;
            let (uid, gid) = parse(&line[..space])?;
            Some(Owned { path: line[space + 1..].to_vec(), uid, gid })
        };
        lines.map(parse).collect()
    }
}

/// Gives what is below `root` to its owners: uids and gids as this process sees them. Modes stay.
///
/// # Errors
/// What cannot be given away, with its path.
pub fn give_away(root: BorrowedFd<'_>, owned: &[Owned]) -> io::Result<()> {
    // Those below come first: a directory may not let in whoever has given it away.
    for Owned { path, uid, gid } in owned.iter().rev() {
        let failed = |errno: Errno| {
            let why = io::Error::from(errno);
            io::Error::new(why.kind(), format!("/{}: {why}", path.escape_ascii()))
        };
        let opened;
        let file = if path.is_empty() {
            root
        } else {
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            opened = open_beneath(root, path, flags, resolve).map_err(failed)?;
            opened.as_fd()
        };
        let stat = rustix::fs::fstat(file).map_err(failed)?;
        let (uid, gid) = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
        rustix::fs::chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH).map_err(failed)?;
        if stat.st_mode & 0o6000 != 0 {
            // chown(2) takes set-user-id and set-group-id away.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::chmod(path, mode).map_err(failed)?;
        }
    }
    Ok(())
}

/// Copies what belongs to others than root from a tree of this user's into the empty directory
/// `target`, with the directories that lead there: a layer to put upon the tree's, once what is
/// returned was given to its owners. Nothing is copied if nothing is theirs.
///
/// # Errors
/// What cannot be read or written; what was copied until then is left.
pub fn copy_owned(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<Vec<Owned>> {
    let mut copy = Copy { target, made: Vec::new(), owned: Vec::new() };
    let top = rustix::fs::openat(tree, c".", DIRECTORY, Mode::empty())?;
    copy.directory(top, LayerPath::new())?;
    Ok(copy.owned)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Copy<'a> {
    target: BorrowedFd<'a>,
    /// The directories from the root to where the walk is, and which of them have been made.
    made: Vec<Step>,
    owned: Vec<Owned>,
}

struct Step {
    path: LayerPath,
    stat: Stat,
    made: Option<OwnedFd>,
}

impl Copy<'_> {
    fn directory(&mut self, directory: OwnedFd, path: LayerPath) -> io::Result<()> {
        let stat = rustix::fs::fstat(&directory)?;
        let ids = owner(directory.as_fd(), &stat)?;
        self.made.push(Step { path: path.clone(), stat, made: None });
        if ids != (0, 0) {
            self.way()?;
            self.note(path.clone(), ids);
        }
        for name in sorted_names(directory.as_fd())? {
            let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let inner = join(&path, name.to_bytes());
            let kind = FileType::from_raw_mode(stat.st_mode);
            let may_be_read = stat.st_mode & 0o400 != 0;
            if kind == FileType::Directory && stat.st_mode & 0o500 == 0o500 {
                let opened = rustix::fs::openat(&directory, &name, DIRECTORY, Mode::empty())?;
                self.directory(opened, inner)?;
            } else if kind == FileType::RegularFile && may_be_read {
                let file = open(directory.as_fd(), &name, OFlags::empty())?;
                let ids = owner(file.as_fd(), &stat)?;
                if ids != (0, 0) {
                    self.file(File::from(file), name.as_c_str(), &stat)?;
                    self.note(inner, ids);
                }
            }
        }
        let left = self.made.pop();
        if let Some(Step { made: Some(made), stat, .. }) = left {
            // Last: until then it is open to us, and has times of its own.
            finish(&made, &stat)?;
        }
        Ok(())
    }

    /// Makes the directories in which the walk is.
    fn way(&mut self) -> io::Result<BorrowedFd<'_>> {
        for number in 0..self.made.len() {
            if self.made[number].made.is_some() {
                continue;
            }
            let made = match number.checked_sub(1).map(|above| &self.made[above]) {
                None => rustix::fs::openat(self.target, c".", DIRECTORY, Mode::empty())?,
                Some(above) => {
                    let path = &self.made[number].path;
                    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                    let parent = above.made.as_ref().expect("those above were made before");
                    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
                    rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?
                }
            };
            self.made[number].made = Some(made);
        }
        let last = self.made.last().and_then(|step| step.made.as_ref());
        Ok(last.expect("the walk is in a directory, which was made").as_fd())
    }

    fn file(&mut self, mut from: File, name: &std::ffi::CStr, stat: &Stat) -> io::Result<()> {
        let parent = self.way()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut to = File::from(to);
        io::copy(&mut from, &mut to)?;
        finish(&OwnedFd::from(to), stat)
    }

    fn note(&mut self, path: LayerPath, (uid, gid): (u32, u32)) {
        self.owned.push(Owned { path, uid, gid });
    }
}

/// Mode and times of the original.
fn finish(made: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let seconds = stat.st_mtime;
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let mtime = super::pax::Moment { seconds, nanoseconds };
    let status = Status { mode: stat.st_mode & 0o7777, uid: 0, gid: 0, mtime };
    rustix::fs::fchmod(made, Mode::from_raw_mode(status.mode))?;
    Ok(rustix::fs::futimens(made, &times(&status))?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn opened(path: &Path) -> OwnedFd {
        OwnedFd::from(File::open(path).unwrap())
    }

    /// Gives a file away, or notes to whom it should be.
    fn give(path: &Path, uid: u32, gid: u32) {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        } else {
            let mtime = super::super::pax::Moment { seconds: 0, nanoseconds: 0 };
            note(&opened(path), &Status { mode: 0, uid, gid, mtime }).unwrap();
        }
    }

    #[test]
    fn what_belongs_to_others_is_copied_with_the_way_to_it() {
        let (tree, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |path: &str| tree.path().join(path);
        fs::create_dir_all(at("a/b/c")).unwrap();
        fs::create_dir(at("roots")).unwrap();
        for (path, content) in [("a/b/file", "theirs"), ("a/b/roots", "r"), ("roots/file", "r")] {
            fs::write(at(path), content).unwrap();
        }
        give(&at("a/b/file"), 5, 7);
        give(&at("a/b/c"), 0, 8);
        fs::set_permissions(at("a/b"), PermissionsExt::from_mode(0o1751)).unwrap();
        let owned = copy_owned(opened(tree.path()).as_fd(), opened(copy.path()).as_fd()).unwrap();
        let expected = [(&b"a/b/c"[..], 0, 8), (b"a/b/file", 5, 7)];
        let expected = expected.map(|(path, uid, gid)| Owned { path: path.to_vec(), uid, gid });
        assert_eq!(owned, expected);
        let made = |path: &str| copy.path().join(path);
        assert_eq!(fs::read(made("a/b/file")).unwrap(), b"theirs");
        assert_eq!(fs::metadata(made("a/b")).unwrap().permissions().mode() & 0o7777, 0o1751);
        assert!(made("a/b/c").is_dir() && !made("a/b/roots").exists() && !made("roots").exists());
    }

    #[test]
    fn lists_are_read_as_they_were_written() {
        let owned = |path: &[u8], uid, gid| Owned { path: path.to_vec(), uid, gid };
        let all = [owned(b"a b\n", 0, 5), Owned::itself((7, 8)), owned(b"\xff/c", u32::MAX, 1)];
        let mut list = Vec::new();
        all.iter().for_each(|owned| owned.append_to(&mut list));
        assert_eq!(Owned::parse_list(&list).unwrap(), all);
        for wrong in [&b""[..], b"1:2 a", b"1:2\0", b"1 a\0", b"-1:2 a\0", b"1:2 a\0x:1 b\0"] {
            assert_eq!(Owned::parse_list(wrong), None, "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn owners_are_read_of_marks_that_are_whole() {
        for (mark, expected) in
            [("5:7", Some((5, 7))), ("5", None), ("5:", None), ("a:b", None), ("-1:2", None)]
        {
            assert_eq!(parse(mark.as_bytes()), expected, "{mark}");
        }
    }

    #[test]
    fn what_is_given_away_keeps_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o2755)).unwrap();
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let owned = Owned { path: b"file".to_vec(), ..Owned::itself(own) };
        give_away(opened(root.path()).as_fd(), &[owned]).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o2755);
        for outside in [&b"../file"[..], b"/etc/passwd", b"missing"] {
            let owned = Owned { path: outside.to_vec(), ..Owned::itself(own) };
            assert!(give_away(opened(root.path()).as_fd(), &[owned]).is_err());
        }
    }
}

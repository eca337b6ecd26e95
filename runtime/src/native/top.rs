//! The generated top layer: mount points, device placeholders, account files.
//!
//! Plain data first ([`tree`]), so that its digest names it and one copy on disk serves every
//! sandbox of the same shape; then written once, by descriptor.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime as oci;
use ric_images::Digest;
use ric_policies::Access;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};

use crate::host::read_copied;
use crate::{Mount, MountKind, OWN_DIRECTORY, RootSource, Sandbox};

/// What one path of the layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A directory that the image may add to.
    Directory,
    /// A directory of which the image's part is hidden.
    Opaque,
    /// A directory that everybody may write to, under a mount: an OCI runtime may give the mount
    /// the mode of what it covers (runc 1.1 does).
    Shared,
    /// A file with this text; empty: a mount point.
    File(String),
    /// A symbolic link.
    Link(PathBuf),
    /// A mount point for what the machine has at this path: the same kind.
    LikeHost,
    /// A copy of the machine's file at this path.
    Copy,
}

/// Every path of the layer, without the leading slash, parents before children.
pub(crate) type Tree = BTreeMap<PathBuf, Entry>;

/// The top layer of a sandbox. `resolver` is the text of its `/etc/resolv.conf`.
pub(crate) fn tree(sandbox: &Sandbox, spec: &oci::Spec, resolver: &str) -> Tree {
    let mut tree = Tree::new();
    for directory in ["dev/pts", "etc", "proc", "sys"] {
        add(&mut tree, Path::new(directory), Entry::Directory);
    }
    add(&mut tree, Path::new(OWN_DIRECTORY), Entry::Directory);
    let dev = match sandbox.root {
        RootSource::Layers => Entry::Opaque,
        // Nothing lies below.
        RootSource::Host { .. } => Entry::Directory,
    };
    tree.insert("dev".into(), dev);
    for (link, target) in [
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
        ("dev/ptmx", "pts/ptmx"),
    ] {
        add(&mut tree, Path::new(link), Entry::Link(target.into()));
    }
    let files = account_files(sandbox).into_iter();
    // A build step's accounts are the image's own, which it may add to.
    let is_build = sandbox.root_access == Access::ReadWrite;
    for (file, text) in files.filter(|(file, _)| !(is_build && ACCOUNTS.contains(file))) {
        add(&mut tree, Path::new(file), Entry::File(text));
    }
    add(&mut tree, Path::new("etc/resolv.conf"), Entry::File(resolver.to_owned()));
    if let RootSource::Host { links, shown, copied, python: _ } = &sandbox.root {
        for (link, target) in links {
            add(&mut tree, link, Entry::Link(target.clone()));
        }
        for path in shown {
            add(&mut tree, path, Entry::LikeHost);
        }
        for path in copied {
            add(&mut tree, path, Entry::Copy);
        }
    }
    // What a build step mounts beside the devices has its place in the image.
    let is_placed = |mount: &&Mount| {
        let is_of_step = matches!(mount.kind, MountKind::Caller { .. } | MountKind::Tmpfs { .. });
        is_build && is_of_step && !mount.target.starts_with("/dev")
    };
    for mount in sandbox.mounts.iter().filter(|mount| !is_placed(mount)) {
        let entry = match mount.kind {
            MountKind::Device | MountKind::Caller { directory: false, .. } => {
                Entry::File(String::new())
            }
            MountKind::Tmpfs { .. } => Entry::Shared,
            MountKind::Caller { directory: true, .. }
            | MountKind::Proc
            | MountKind::Devpts
            | MountKind::Mqueue => Entry::Directory,
        };
        add(&mut tree, &mount.target, entry);
    }
    // Whatever else the spec mounts from the machine shows what the machine has there.
    for mount in spec.mounts().iter().flatten() {
        let known = relative(mount.destination());
        if !tree.contains_key(&known) && mount.source().as_deref() == Some(mount.destination()) {
            add(&mut tree, &known, Entry::LikeHost);
        }
    }
    tree
}

/// The files of `/etc` that every sandbox has of its own, for an engine that mounts each of them.
pub(crate) fn etc(sandbox: &Sandbox, resolver: &str) -> Tree {
    let mut tree = Tree::new();
    for (file, text) in account_files(sandbox) {
        add(&mut tree, Path::new(file), Entry::File(text));
    }
    add(&mut tree, Path::new("etc/resolv.conf"), Entry::File(resolver.to_owned()));
    tree
}

fn relative(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// Adds `path` and the directories above it. What is there already stays, but for a directory that
/// something more special takes the place of.
fn add(tree: &mut Tree, path: &Path, entry: Entry) {
    let path = relative(path);
    for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
        tree.entry(parent.to_path_buf()).or_insert(Entry::Directory);
    }
    let old = tree.entry(path).or_insert_with(|| entry.clone());
    if *old == Entry::Directory {
        *old = entry;
    }
}

/// Those of [`account_files`] that say who there is.
const ACCOUNTS: [&str; 2] = ["etc/passwd", "etc/group"];

/// Generated files of `/etc`. Names come from the machine or the caller, so what would end a line
/// or a field is left out ([`Sandbox`] has been decided, but a file is not the place to trust
/// that).
fn account_files(sandbox: &Sandbox) -> [(&'static str, String); 4] {
    let ids = &sandbox.identities;
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name: String = ids.name.chars().filter(plain).take(64).collect();
    let name = if name.is_empty() || name == "root" { "user".to_owned() } else { name };
    let mut passwd = "root:x:0:0:root:/tmp/home:/bin/sh\n".to_owned();
    let mut group = "root:x:0:\n".to_owned();
    if ids.uid != 0 {
        passwd += &format!("{name}:x:{}:{}:{name}:/tmp/home:/bin/sh\n", ids.uid, ids.gid);
    }
    if ids.gid != 0 {
        group += &format!("{name}:x:{}:\n", ids.gid);
    }
    if ids.uid != 65534 {
        passwd += "nobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n";
    }
    if ids.gid != 65534 {
        group += "nogroup:x:65534:\n";
    }
    let hostname: String = sandbox.hostname.chars().filter(plain).collect();
    let hosts = format!("127.0.0.1 localhost {hostname}\n::1 localhost {hostname}\n");
    [
        ("etc/passwd", passwd),
        ("etc/group", group),
        ("etc/hosts", hosts),
        ("etc/hostname", hostname + "\n"),
    ]
}

/// What names a tree on disk: the digest of its paths and entries, and of `salt`, which must change
/// with whatever else the tree is made from.
pub(crate) fn digest(tree: &Tree, salt: &str) -> Digest {
    let mut bytes = Vec::with_capacity(64 * 1024);
    let mut put = |part: &[u8]| {
        bytes.extend_from_slice(&part.len().to_le_bytes());
        bytes.extend_from_slice(part);
    };
    put(salt.as_bytes());
    for (path, entry) in tree {
        put(path.as_os_str().as_bytes());
        let (kind, content): (&[u8], &[u8]) = match entry {
            Entry::Directory => (b"directory", b""),
            Entry::Opaque => (b"opaque", b""),
            Entry::Shared => (b"shared", b""),
            Entry::File(text) => (b"file", text.as_bytes()),
            Entry::Link(target) => (b"link", target.as_os_str().as_bytes()),
            Entry::LikeHost => (b"like host", b""),
            Entry::Copy => (b"copy", b""),
        };
        put(kind);
        put(content);
    }
    Digest::of(&bytes)
}

/// Writes a tree into an empty directory.
pub(crate) fn write(tree: &Tree, root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::fchmod(root, DIRECTORY)?;
    for (path, entry) in tree {
        let (parent, name) = open_parent(root, path)?;
        match entry {
            Entry::Directory => make_directory(&parent, name, DIRECTORY)?,
            Entry::Shared => make_directory(&parent, name, SHARED)?,
            Entry::Opaque => {
                make_directory(&parent, name, DIRECTORY)?;
                mark_opaque(&open_directory(parent.as_fd(), name)?)?;
            }
            Entry::File(text) => write_file(&parent, name, text.as_bytes())?,
            Entry::Copy => {
                write_file(&parent, name, &read_copied(&Path::new("/").join(path))?)?;
            }
            Entry::Link(target) => rustix::fs::symlinkat(target, &parent, name)?,
            Entry::LikeHost => {
                let host = rustix::fs::stat(Path::new("/").join(path))?;
                if FileType::from_raw_mode(host.st_mode) == FileType::Directory {
                    make_directory(&parent, name, DIRECTORY)?;
                } else {
                    write_file(&parent, name, b"")?;
                }
            }
        }
    }
    Ok(())
}

fn open_parent<'a>(root: BorrowedFd<'_>, path: &'a Path) -> io::Result<(OwnedFd, &'a Path)> {
    let name = path.file_name().map(Path::new).unwrap_or(path);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((open_directory(root, parent.unwrap_or(Path::new(".")))?, name))
}

fn open_directory(at: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

/// What a task may enter and read. Set after making, because the caller's umask takes from it.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
const SHARED: Mode = Mode::from_raw_mode(0o1777);
const FILE: Mode = Mode::from_raw_mode(0o644);

fn make_directory(parent: &OwnedFd, name: &Path, mode: Mode) -> io::Result<()> {
    rustix::fs::mkdirat(parent, name, mode)?;
    Ok(rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?)
}

/// Writes a new file that everybody may read.
pub(crate) fn write_file(parent: impl AsFd, name: &Path, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, FILE)?;
    rustix::fs::fchmod(&file, FILE)?;
    io::Write::write_all(&mut std::fs::File::from(file), bytes)
}

/// Overlayfs reads `user.overlay.opaque` with the mount option `userxattr`, which every root has.
fn mark_opaque(directory: &OwnedFd) -> io::Result<()> {
    let name = "user.overlay.opaque";
    match rustix::fs::fsetxattr(directory, name, b"y", XattrFlags::empty()) {
        Err(rustix::io::Errno::OPNOTSUPP) => Err(io::Error::other(
            "the store's filesystem has no user extended attributes, which overlayfs needs; \
             choose another place with `--store`",
        )),
        marked => Ok(marked?),
    }
}

/// The first path of the tree on whose way, or in whose place, the image has something that is not
/// a directory: mounting there would not be mounting where it seems.
///
/// The way is walked in each layer from the top; a link, a file or a device that shows is what
/// counts.
pub(crate) fn obstacle(tree: &Tree, layers: &[OwnedFd]) -> Option<(PathBuf, FileType)> {
    tree.iter()
        .filter(|(_, entry)| matches!(entry, Entry::Directory | Entry::Opaque | Entry::Shared))
        .find_map(|(path, _)| {
            Some((path.clone(), shown(path, layers)?)).filter(|(_, kind)| {
                // A whiteout is a character device: what is below is gone.
                !matches!(kind, FileType::Directory | FileType::CharacterDevice)
            })
        })
}

/// What the topmost of `layers` (lowest first) that has `path` has there.
fn shown(path: &Path, layers: &[OwnedFd]) -> Option<FileType> {
    layers.iter().rev().find_map(|layer| {
        let stat = rustix::fs::statat(layer, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(FileType::from_raw_mode(stat.st_mode))
    })
}

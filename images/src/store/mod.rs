//! The store: one directory that all sources of images go into and all engines read from.
//!
//! ```text
//! oci-layout               marks the directory as a store
//! format                   which of the programs' versions understand it
//! blobs/sha256/HEX         manifests, configurations and packed layers, as in an OCI layout
//! names/HEX                one file per reference, named by its digest: reference and manifest
//! layers/HEX/tree          an unpacked layer by diff ID, as overlayfs wants it
//! layers/HEX/record.json   what it was made from, and its fingerprint
//! generated/BOOT/KIND/HEX  small trees that can be made again, valid until the next boot
//! builds/HEX               which layer a build step made, by the digest of what it was made from
//! caches/WHOSE/files       what steps of builds keep: a cache of one user, by its name's digest
//! layers/HEX/lease         locked by whoever uses the layer
//! uses/UID/HEX             touched when a user uses a name, where several users are served
//! private/HEX              whose a blob or layer is that came with credentials
//! names.lock               locked by whoever writes a name or collects garbage
//! tmp/WHAT, tmp/WHAT.lock  work in progress, and the lock of who does it
//! tmp/partial-HEX          as much of a layer's blob as came; the next who wants it goes on
//! ```
//!
//! **Invariant:** what stands outside `tmp/` is whole. Work is done in `tmp/` under a lock, synced,
//! and renamed into place; so a reader needs no lock, and a writer may be killed, or the power
//! fail, at any moment. Leftovers go when somebody opens the store and gets their lock; partial
//! blobs when they are old and garbage is collected.
//!
//! A file per reference, in place of an `index.json`, lets many processes name images at once
//! without waiting for each other or losing an entry.

mod blobs;
mod builds;
mod caches;
mod check;
mod collect;
mod docker_archive;
mod error;
mod file_systems;
mod folder;
mod generated;
mod layers;
mod lease;
mod location;
mod names;
mod private;
mod room;
mod shares;
mod stored;
mod taken;
mod transfer;
mod work;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::Digest;
use crate::shown::shown;

pub use caches::CacheDirectory;
pub use check::Damage;
pub use collect::{Collect, Collected};
pub use docker_archive::DockerArchiveError;
pub(crate) use error::hint_if_full;
pub use error::{StoreError, Unsafe};
pub use folder::PrivateFolder;
pub use lease::Lease;
pub(crate) use lease::LeasedLayer;
pub use location::{default_root, is_local_filesystem};
pub use names::Untagged;
pub use room::BuildRoom;
pub use stored::{StoredError, StoredImage};
pub(crate) use transfer::Origin;

/// The directories of a store, parents first.
const DIRECTORIES: [&str; 6] = ["blobs", "blobs/sha256", "names", "layers", "generated", "tmp"];

/// Stands in every store (OCI image-spec v1.1, image-layout.md). Made last: a directory with it is
/// complete.
const MARKER: &str = "oci-layout";
const MARKER_CONTENT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Says how the store is laid out. A version of this program that lays it out so that others would
/// misread it, or would harm it, counts this up; a store without the file is of the first.
const FORMAT_FILE: &str = "format";
const FORMAT: u64 = 1;
const FORMAT_BYTES_MAX: u64 = 64;

/// Bytes of a small file of ours, so that damage to one cannot fill memory. A layer's record holds
/// the paths of directories that no entry names, two million at most.
const SMALL_FILE_BYTES_MAX: u64 = 256 << 20;

/// An open store. Cheap to open, safe to share between threads and processes.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Everything is reached from here, so that replacing a parent of the root changes nothing.
    directory: OwnedFd,
    /// Documents and files that must not go, as no name reaches them yet: locks on them, held until
    /// the store is closed. What is not small among them was verified by this program.
    documents: Mutex<HashMap<Digest, OwnedFd>>,
}

impl Store {
    /// Opens the store in the directory `root`, and makes it if it is not there.
    ///
    /// Idempotent and safe from several processes. Removes what dead writers left behind. A store
    /// that others may look into is closed to them, as layers may hold set-user-id programs.
    ///
    /// # Errors
    /// [`StoreError::Root`] if the directory is a link, belongs to or is writable by someone else,
    /// or holds other things.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let root = std::path::absolute(root).map_err(|source| StoreError::Disk {
            call: "getcwd(3)",
            path: root.to_owned(),
            source,
        })?;
        let directory = open_root(&root)?;
        let store = Store { root, directory, documents: Mutex::default() };
        if !store.has(MARKER)? {
            store.fill()?;
        }
        store.check_format()?;
        store.close_to_others()?;
        store.sweep()?;
        Ok(store)
    }

    /// The store's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a store of a new directory, or of one whose maker died or is at it right now.
    fn fill(&self) -> Result<(), StoreError> {
        let is_ours = |name: &String| DIRECTORIES.contains(&name.as_str()) || name == MARKER;
        if !self.names_in("")?.iter().all(is_ours) {
            let reason = Unsafe::NotEmpty;
            return Err(StoreError::Root { root: self.root.clone(), reason });
        }
        for name in DIRECTORIES {
            self.ensure_directory(name)?;
        }
        let work = self.work("marker")?;
        work.write_file(MARKER_CONTENT)?;
        work.publish("", MARKER)
    }

    /// Makes sure that this version understands the store, before anything in it is touched.
    fn check_format(&self) -> Result<(), StoreError> {
        let Some(bytes) = self.read_file(FORMAT_FILE, FORMAT_BYTES_MAX)? else {
            let work = self.work("format")?;
            work.write_file(format!("{FORMAT}\n").as_bytes())?;
            return work.publish("", FORMAT_FILE);
        };
        let found = String::from_utf8_lossy(&bytes);
        match found.trim_end().parse() {
            Ok(FORMAT) => Ok(()),
            Ok(found) => Err(StoreError::Format { root: self.root.clone(), found, known: FORMAT }),
            Err(_) => {
                let what = format!("`{}` is no number", shown(&found));
                Err(StoreError::Damaged { path: self.root.join(FORMAT_FILE), what })
            }
        }
    }

    /// Only now that it is known to be a store: nobody's home is closed because it was named here.
    fn close_to_others(&self) -> Result<(), StoreError> {
        let stat = rustix::fs::fstat(self).map_err(self.disk("fstat(2)", ""))?;
        if stat.st_mode & 0o7777 == 0o700 {
            return Ok(());
        }
        rustix::fs::fchmod(self, Mode::RWXU).map_err(self.disk("fchmod(2)", ""))
    }

    /// Whether something stands at `path`.
    fn has(&self, path: &str) -> Result<bool, StoreError> {
        match self.stat(path) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.disk("fstatat(2)", path)(errno)),
        }
    }

    fn stat(&self, path: &str) -> rustix::io::Result<Stat> {
        rustix::fs::statat(self, path, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn ensure_directory(&self, path: &str) -> Result<(), StoreError> {
        match rustix::fs::mkdirat(self, path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.disk("mkdirat(2)", path)(errno)),
        }
    }

    fn open_directory(&self, path: &str) -> Result<OwnedFd, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = if path.is_empty() { "." } else { path };
        rustix::fs::openat(self, path, flags, Mode::empty()).map_err(self.disk("openat(2)", path))
    }

    fn sync_directory(&self, path: &str) -> Result<(), StoreError> {
        let directory = self.open_directory(path)?;
        rustix::fs::fsync(&directory).map_err(self.disk("fsync(2)", path))
    }

    /// The names in a directory of the store, sorted.
    fn names_in(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let directory = self.open_directory(path)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(self.disk("readdir(3)", path))? {
            let entry = entry.map_err(self.disk("readdir(3)", path))?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads a small file; none if it is not there.
    fn read_file(&self, path: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(file) = self.open_file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let mut bounded = file.take(bytes_max.saturating_add(1));
        bounded.read_to_end(&mut bytes).map_err(self.failed("read(2)", path))?;
        if bytes.len() as u64 > bytes_max {
            return Err(StoreError::TooLarge { path: self.root.join(path), bytes_max });
        }
        Ok(Some(bytes))
    }

    /// Opens a file for reading; none if it is not there.
    fn open_file(&self, path: &str) -> Result<Option<File>, StoreError> {
        // Non-blocking, should something have put a fifo there.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(self, path, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            opened => opened.map(|file| Some(file.into())).map_err(self.disk("openat(2)", path)),
        }
    }

    /// Names the call and the path that failed.
    fn disk(&self, call: &'static str, path: &str) -> impl Fn(Errno) -> StoreError + use<> {
        let failed = self.failed(call, path);
        move |errno| failed(errno.into())
    }

    fn failed(&self, call: &'static str, path: &str) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = self.root.join(path);
        move |source| StoreError::Disk { call, path: path.clone(), source }
    }
}

impl AsFd for Store {
    /// The store's directory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Opens the root, after making it if need be, and makes sure that only we can change it.
fn open_root(root: &Path) -> Result<OwnedFd, StoreError> {
    let disk = |call| move |source| StoreError::Disk { call, path: root.to_owned(), source };
    let refuse = |reason| StoreError::Root { root: root.to_owned(), reason };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut opened = rustix::fs::open(root, flags, Mode::empty());
    if matches!(opened, Err(Errno::NOENT)) {
        // Parents too: the XDG base directory specification wants them 0700.
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(root).map_err(disk("mkdir(2)"))?;
        opened = rustix::fs::open(root, flags, Mode::empty());
    }
    let directory = match opened {
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(refuse(Unsafe::NotDirectory)),
        Err(errno) => return Err(disk("open(2)")(errno.into())),
        Ok(directory) => directory,
    };
    let stat = rustix::fs::fstat(&directory).map_err(|errno| disk("fstat(2)")(errno.into()))?;
    let uid = rustix::process::geteuid().as_raw();
    if stat.st_uid != uid {
        return Err(refuse(Unsafe::Owner { owner: stat.st_uid, uid }));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(refuse(Unsafe::Writable { mode: stat.st_mode & 0o7777 }));
    }
    Ok(directory)
}

//! What `host:` shows of this machine, at the same paths: programs, libraries, and the few files of
//! `/etc` that they need to run. No home, nothing that holds secrets, nothing about users.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

/// Names at `/` through which programs are found: links into `/usr`, or directories of their own.
const ROOT_NAMES: [&str; 6] = ["/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin"];

/// Files and directories of `/etc` that programs read and that say nothing about users, services
/// or keys. Where distributions differ, all their names. Not what only packages read when they are
/// installed, such as `ld.so.conf.d` and `ca-certificates`: each directory is a mount of its own.
const ETC_NAMES: [&str; 36] = [
    // Loader and links of packages.
    "alternatives",
    "ld.so.cache",
    "debian_version",
    "lsb-release",
    "os-release",
    "redhat-release",
    // Certificates of public authorities; the directories of private keys are beside them.
    "crypto-policies",
    "pki/ca-trust/extracted",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    // Names and numbers.
    "gai.conf",
    "host.conf",
    "nsswitch.conf",
    "networks",
    "protocols",
    "rpc",
    "services",
    // Time, language, terminals, types of files.
    "fonts",
    "inputrc",
    "locale.alias",
    "locale.conf",
    "localtime",
    "magic",
    "mime.types",
    "terminfo",
    "timezone",
    // Languages and libraries that keep configuration there.
    "OpenCL",
    "R",
    "ImageMagick-6",
    "openmpi",
    "perl",
    "vulkan",
];

/// Files that change whenever a package is installed or removed.
const PACKAGE_DATABASES: [&str; 5] = [
    "/var/lib/dpkg/status",
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/rpm/Packages",
    "/lib/apk/db/installed",
    "/var/lib/pacman/local",
];

/// Least minor version of Python 3 that the worker runs on.
const PYTHON_MINOR_MIN: u32 = 8;

/// Most directories below one of `host_paths` that are searched for a Python.
const DIRECTORIES_MAX: usize = 200;

/// The symbolic links at `/` that programs are found through.
pub(super) fn read_root_links() -> BTreeMap<PathBuf, PathBuf> {
    let link = |name: &str| Some((PathBuf::from(name), fs::read_link(name).ok()?));
    ROOT_NAMES.iter().filter_map(|name| link(name)).collect()
}

/// Largest file that is copied: the biggest of the usual ones, `/etc/mime.types`, is half of it.
const COPY_BYTES_MAX: u64 = 128 * 1024;

/// What is shown: `/usr`, names at `/` that are directories, and what there is of the list for
/// `/etc`; beside it, those of the list that are better copied.
pub(super) fn find_shown() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let real = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let of_root = ROOT_NAMES.iter().chain(&["/usr"]).map(PathBuf::from).filter(|path| real(path));
    let of_etc = ETC_NAMES.iter().map(|name| Path::new("/etc").join(name));
    let (mut copied, bound): (Vec<PathBuf>, Vec<PathBuf>) =
        of_etc.filter(|path| is_plain(path)).partition(|path| is_copied(path));
    let mut shown: Vec<PathBuf> = of_root.chain(bound).collect();
    shown.sort();
    copied.sort();
    (shown, copied)
}

/// A file or directory, also through a link that leads to one.
fn is_plain(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() || found.is_dir())
}

/// A small file that everybody may read: a copy of any other would be readable by more than it was.
fn is_copied(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| {
        let everybody = found.permissions().mode() & 0o004 != 0;
        found.is_file() && everybody && found.len() <= COPY_BYTES_MAX
    })
}

/// The bytes of a file that [`find_shown`] found to be copied.
///
/// # Errors
/// It has gone, or has become larger than what is copied.
pub(crate) fn read_copied(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(COPY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > COPY_BYTES_MAX {
        return Err(io::Error::other(format!("{} has grown", path.display())));
    }
    Ok(bytes)
}

/// SHA-256, as 64 hex digits, over names, inodes and times of what is shown and of the package
/// databases. It changes when a package does; not with a file that somebody edits deep in `/usr`.
pub(super) fn fingerprint(links: &BTreeMap<PathBuf, PathBuf>, shown: &[PathBuf]) -> String {
    let mut hash = Sha256::new();
    for (name, target) in links {
        hash_part(&mut hash, name);
        hash_part(&mut hash, target);
    }
    let databases = PACKAGE_DATABASES.iter().map(PathBuf::from);
    for path in shown.iter().cloned().chain(databases) {
        hash_part(&mut hash, &path);
        hash_part(&mut hash, Path::new(&stamp(&path)));
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Parts are ended by a zero byte, which no path contains, so that two lists never hash alike.
fn hash_part(hash: &mut Sha256, part: &Path) {
    hash.update(part.as_os_str().as_bytes());
    hash.update([0]);
}

/// Device, inode, size and times of what `path` leads to; empty if nothing.
pub(crate) fn stamp(path: &Path) -> String {
    let Ok(found) = fs::metadata(path) else { return String::new() };
    format!(
        "{}:{}:{}:{}.{}:{}.{}",
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec()
    )
}

/// Pythons that can be used in `host:`, best first: those of `/usr/bin`; only if there are none,
/// those of `host_paths`, in them or up to two directories below.
///
/// None is executed: a program in `host_paths` is not one to run outside a sandbox.
pub(super) fn find_pythons(host_paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut shown = vec![PathBuf::from("/usr")];
    let of_usr = pythons_in(Path::new("/usr/bin"), &shown);
    if !of_usr.is_empty() {
        return of_usr;
    }
    shown.extend(host_paths.iter().cloned());
    let prefixes = host_paths.iter().flat_map(|path| {
        let first = subdirectories(path);
        let second: Vec<PathBuf> = first.iter().flat_map(|path| subdirectories(path)).collect();
        std::iter::once(path.clone()).chain(first).chain(second).take(DIRECTORIES_MAX)
    });
    prefixes.flat_map(|prefix| pythons_in(&prefix.join("bin"), &shown)).collect()
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let entries = entries.take(DIRECTORIES_MAX).filter_map(Result::ok);
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut all: Vec<PathBuf> = directories.map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// Usable Pythons of one directory: the default one, then by version, newest first; each program
/// once, whatever its names.
fn pythons_in(directory: &Path, shown: &[PathBuf]) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut named: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some((minor_version(&entry.file_name())?, entry.path())))
        .collect();
    named.sort();
    named.push((u32::MAX, directory.join("python3")));
    let mut seen = Vec::new();
    named.reverse();
    named.retain(|(_, path)| match usable_python(path, shown) {
        Some(real) if !seen.contains(&real) => {
            seen.push(real);
            true
        }
        Some(_) | None => false,
    });
    named.into_iter().map(|(_, path)| path).collect()
}

/// The real path of a Python that can run where only `shown` is to be seen.
fn usable_python(path: &Path, shown: &[PathBuf]) -> Option<PathBuf> {
    let real = real_path(path)?;
    let found = fs::metadata(&real).ok()?;
    let executable = found.is_file() && found.permissions().mode() & 0o111 != 0;
    if !executable || !shown.iter().any(|tree| real.starts_with(tree)) {
        return None;
    }
    // A program whose name tells no version is taken at its word; the worker tells if it is old.
    let Some(minor) = minor_version(real.file_name()?) else { return Some(real) };
    let prefix = real.parent()?.parent()?;
    let library = |name: &str| prefix.join(name).join(format!("python3.{minor}/os.py")).is_file();
    (minor >= PYTHON_MINOR_MIN && (library("lib") || library("lib64"))).then_some(real)
}

/// 11 of `python3.11`.
fn minor_version(name: &OsStr) -> Option<u32> {
    name.to_str()?.strip_prefix("python3.")?.parse().ok()
}

/// The path of what `path` leads to, as the kernel tells it of a descriptor.
pub(crate) fn real_path(path: &Path) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A prefix with a program `bin/python3.MINOR` and its library.
    fn install(prefix: &Path, minor: u32) -> PathBuf {
        let program = prefix.join(format!("bin/python3.{minor}"));
        let library = prefix.join(format!("lib/python3.{minor}"));
        fs::create_dir_all(prefix.join("bin")).unwrap();
        fs::create_dir_all(&library).unwrap();
        fs::write(library.join("os.py"), "").unwrap();
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn default_python_comes_first_and_old_ones_never() {
        let prefix = tempfile::tempdir().unwrap();
        let prefix = prefix.path();
        let [old, middle, new] = [6, 9, 13].map(|minor| install(prefix, minor));
        let default = prefix.join("bin/python3");
        symlink("python3.9", &default).unwrap();
        let shown = [prefix.to_owned()];
        assert_eq!(pythons_in(&prefix.join("bin"), &shown), [default.clone(), new.clone()]);
        fs::remove_file(&default).unwrap();
        symlink("python3.6", &default).unwrap();
        assert_eq!(pythons_in(&prefix.join("bin"), &shown), [new, middle]);
        assert!(old.exists());
    }

    #[test]
    fn python_outside_what_is_shown_is_none() {
        let inside = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let program = install(outside.path(), 12);
        fs::create_dir(inside.path().join("bin")).unwrap();
        symlink(program, inside.path().join("bin/python3")).unwrap();
        let shown = [inside.path().to_owned()];
        assert_eq!(pythons_in(&inside.path().join("bin"), &shown), Vec::<PathBuf>::new());
        let both = [inside.path().to_owned(), outside.path().to_owned()];
        assert_eq!(pythons_in(&inside.path().join("bin"), &both).len(), 1);
    }

    #[test]
    fn python_without_library_or_permission_is_none() {
        let prefix = tempfile::tempdir().unwrap();
        let shown = [prefix.path().to_owned()];
        let program = install(prefix.path(), 12);
        assert_eq!(pythons_in(&prefix.path().join("bin"), &shown).len(), 1);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(pythons_in(&prefix.path().join("bin"), &shown).is_empty());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir_all(prefix.path().join("lib")).unwrap();
        assert!(pythons_in(&prefix.path().join("bin"), &shown).is_empty());
    }

    #[test]
    fn fingerprint_follows_what_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        fs::write(&file, "1").unwrap();
        let shown = [file.clone()];
        let first = fingerprint(&BTreeMap::new(), &shown);
        assert_eq!(first, fingerprint(&BTreeMap::new(), &shown));
        fs::write(&file, "12").unwrap();
        assert_ne!(first, fingerprint(&BTreeMap::new(), &shown));
        assert_eq!(first.len(), 64);
    }

    #[test]
    fn only_small_files_that_everybody_may_read_are_copied() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("services");
        fs::write(&file, "ssh 22/tcp").unwrap();
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(is_copied(&file));
        assert_eq!(read_copied(&file).unwrap(), b"ssh 22/tcp");
        mode(0o640);
        assert!(!is_copied(&file), "a copy would be readable by more than the file is");
        mode(0o644);
        fs::write(&file, vec![0; 1 + usize::try_from(COPY_BYTES_MAX).unwrap()]).unwrap();
        assert!(!is_copied(&file));
        assert!(read_copied(&file).is_err(), "what has grown since is not cut off");
        assert!(!is_copied(directory.path()));
    }

    #[test]
    fn nothing_of_etc_is_a_secret_by_its_name() {
        for name in ETC_NAMES {
            let secret = ["shadow", "private", "key", "passwd", "ssh", "krb5", "munge", "sudo"];
            assert!(!secret.iter().any(|word| name.contains(word)), "{name}");
        }
    }
}

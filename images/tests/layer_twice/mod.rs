//! Runs a test as root and, from there, once more as an ordinary user; and looks at trees from
//! outside.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

/// An empty directory: in memory where that can hold all that layers need, as a sync there is free.
pub fn scratch() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm").ok().filter(|directory| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(directory.path(), "user.test", b"", flags).is_ok()
    });
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// Runs this test binary once more, for the test `name` alone, in `directory`.
pub fn again(name: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).current_dir(directory);
    command
}

/// Who the second run is: nobody in particular, with no file of its own.
pub const ORDINARY_UID: u32 = 65_534;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs `body` in an empty directory; when we are root, also as [`ORDINARY_UID`], in a process of
/// its own: the test `name` of this binary. Both write what they saw, one line each, and must
/// agree.
///
/// Without root only the ordinary half runs; root's is then nobody's to test.
pub fn twice(name: &str, body: impl Fn(&Path) -> Vec<String>) {
    if !is_root() {
        let seen = body(Path::new("."));
        // Where root started us, it reads this.
        if Path::new("twice").exists() {
            fs::write("seen", seen.join("\n")).unwrap();
        }
        return;
    }
    let directory = scratch();
    let seen = body(directory.path());
    let theirs = scratch();
    let there = theirs.path();
    fs::write(there.join("twice"), "").unwrap();
    // A copy, as the build directory may be closed to others.
    fs::copy(std::env::current_exe().unwrap(), there.join("test")).unwrap();
    chown(there, Some(ORDINARY_UID), Some(ORDINARY_UID)).unwrap();
    let id = ORDINARY_UID.to_string();
    let output = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--", "./test"])
        .args(["--exact", name, "--nocapture"])
        .current_dir(there)
        .output()
        .expect("setpriv of util-linux is installed");
    assert!(
        output.status.success(),
        "as uid {id}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let theirs = fs::read_to_string(there.join("seen")).expect("the test ran under this name");
    assert_eq!(seen.join("\n"), theirs, "root and uid {id} must see the same");
}

/// What is below a directory, one line per name, without owners. Opened up where modes would hide
/// it.
pub fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inodes = BTreeMap::new();
    list(root, Path::new(""), &mut inodes, &mut lines);
    lines
}

fn list(root: &Path, path: &Path, inodes: &mut BTreeMap<u64, String>, lines: &mut Vec<String>) {
    let full = root.join(path);
    let meta = fs::symlink_metadata(&full).unwrap();
    let mode = meta.mode() & 0o7777;
    let shown = path.as_os_str().as_bytes().escape_ascii().to_string();
    let shown = if shown.is_empty() { ".".to_owned() } else { shown };
    let time = meta.mtime();
    let kind = meta.file_type();
    if kind.is_dir() {
        let marks = attributes(&full);
        lines.push(format!("{shown}/ {mode:o} @{time}{marks}"));
        fs::set_permissions(&full, fs::Permissions::from_mode(0o700)).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            list(root, &path.join(name), inodes, lines);
        }
        fs::set_permissions(&full, fs::Permissions::from_mode(mode)).unwrap();
    } else if kind.is_symlink() {
        let target = fs::read_link(&full).unwrap();
        lines.push(format!("{shown} -> {} @{time}", target.as_os_str().as_bytes().escape_ascii()));
    } else if kind.is_file() {
        let first = inodes.entry(meta.ino()).or_insert_with(|| shown.clone()).clone();
        if first == shown {
            fs::set_permissions(&full, fs::Permissions::from_mode(0o600)).unwrap();
            let content = fs::read(&full).unwrap();
            let marks = attributes(&full);
            fs::set_permissions(&full, fs::Permissions::from_mode(mode)).unwrap();
            let content = content.escape_ascii();
            lines.push(format!("{shown} {mode:o} @{time} \"{content}\"{marks}"));
        } else {
            lines.push(format!("{shown} = {first}"));
        }
    } else {
        let kind = if meta.rdev() == 0 && meta.mode() & 0o170_000 == 0o020_000 {
            "whiteout"
        } else if meta.mode() & 0o170_000 == 0o010_000 {
            "fifo"
        } else {
            "device"
        };
        let detail = if kind == "fifo" { format!(" {mode:o} @{time}") } else { String::new() };
        lines.push(format!("{shown} {kind}{detail}"));
    }
}

/// The `user.*` attributes of a file: all that anyone can see.
fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut shown = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let text = String::from_utf8_lossy(name).into_owned();
        // Whoever is not root notes owners; `layer_packed` looks at them.
        let differing = ["trusted.overlay.opaque", "user.run-in-container.owner"];
        if differing.contains(&text.as_str()) || text.starts_with("security.selinux") {
            continue;
        }
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        shown.push(format!(" {text}={}", value[..length].escape_ascii()));
    }
    shown.sort();
    shown.concat()
}

/// Something outside that no layer may touch: a directory with a file that only its owner reads.
pub struct Canary {
    pub path: std::path::PathBuf,
    before: Vec<String>,
}

impl Canary {
    pub fn new(parent: &Path) -> Canary {
        let path = parent.join("canary");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("secret"), "secret").unwrap();
        fs::set_permissions(path.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(path.join("directory")).unwrap();
        fs::write(path.join("directory/file"), "file").unwrap();
        let path = path.canonicalize().unwrap();
        let before = state(&path);
        Canary { path, before }
    }

    /// Panics if anything about it changed: names, contents, modes, owners, links, times.
    pub fn check(&self, case: &str) {
        assert_eq!(self.before, state(&self.path), "{case} touched what is outside");
    }
}

fn state(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut ahead = vec![path.to_owned()];
    while let Some(path) = ahead.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        lines.push(format!(
            "{} {:o} {}:{} {} {}.{} {:?}",
            path.display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime(),
            meta.ctime_nsec(),
            content
        ));
        if meta.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            ahead.extend(names);
        }
    }
    lines
}

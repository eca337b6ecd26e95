//! The directory that every sandbox finds at [`OWN_DIRECTORY`](crate::OWN_DIRECTORY): the worker,
//! and an empty directory for masks.
//!
//! For `host:`, the worker is there as bytecode too: compiling its text is what takes longest in a
//! cold call (4 of 8 ms before its first word, CPython 3.11). Only the machine's own interpreter
//! makes bytecode, from our text alone; what comes with an image or a sandbox never does.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ric_images::{Digest, Store};
use rustix::fs::{AtFlags, Mode};

use super::start::{StartError, prepare};
use crate::host::{real_path, stamp};
use crate::native::monitor::INIT;
use crate::native::top::{self, Entry, Tree};
use crate::{OWN_DIRECTORY, RootSource, Sandbox, WORKER, WORKER_RARE, WORKER_WARM};

/// The first process, for engines that start a file of the sandbox.
pub(super) const INIT_NAME: &str = "init";
/// Where the control socket is mounted, for the same (`CONTROL_PATH` of `protocol.rs`).
const CONTROL: &str = "control";
/// The worker as text.
const TEXT: &str = "worker.py";
/// The worker as bytecode.
const BYTECODE: &str = "worker.pyc";

/// The directory, on this machine.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) directory: PathBuf,
    /// The one interpreter that the bytecode is for.
    compiled_for: Option<PathBuf>,
}

impl Tools {
    /// Makes the directory that `sandbox` gets, or finds it.
    pub(super) fn ensure(sandbox: &Sandbox, store: &Store) -> Result<Tools, StartError> {
        let python = match &sandbox.root {
            RootSource::Host { python, .. } => python.as_deref(),
            RootSource::Layers => None,
        };
        let mut tree = Tree::from([
            (TEXT.into(), Entry::File(WORKER.into())),
            ("worker_rare.py".into(), Entry::File(WORKER_RARE.into())),
            ("worker_warm.py".into(), Entry::File(WORKER_WARM.into())),
            ("empty".into(), Entry::Directory),
        ]);
        // With another interpreter at the same path comes another directory.
        let mut salt =
            python.map_or(String::new(), |path| format!("{} {}", path.display(), stamp(path)));
        let brings_init = sandbox.daemon.is_some();
        if brings_init {
            tree.insert(CONTROL.into(), Entry::File(String::new()));
            salt += &Digest::of(INIT).hex();
        }
        let made = store.generated("tools", &top::digest(&tree, &salt), |root| {
            top::write(&tree, root)?;
            if brings_init {
                write_init(root)?;
            }
            python.map_or(Ok(()), |python| write_bytecode(python, root))
        });
        let directory = made.map_err(|source| prepare("the worker")(io::Error::other(source)))?;
        let compiled = directory.join(BYTECODE).exists();
        let compiled_for = python.filter(|_| compiled).map(Path::to_path_buf);
        Ok(Tools { directory, compiled_for })
    }

    /// The interpreters to try, in order, and the file that they run.
    pub(super) fn worker(&self, interpreters: &[String]) -> (Vec<String>, String) {
        let path = |name: &str| format!("{OWN_DIRECTORY}/{name}");
        match (&self.compiled_for, interpreters.first()) {
            (Some(python), Some(first)) if Path::new(first) == python => {
                (vec![first.clone()], path(BYTECODE))
            }
            _ => (interpreters.to_vec(), path(TEXT)),
        }
    }
}

/// Writes the program that a daemon starts as the first process. Nothing outside a sandbox runs it.
fn write_init(root: BorrowedFd<'_>) -> io::Result<()> {
    top::write_file(root, Path::new(INIT_NAME), INIT)?;
    let mode = Mode::from_raw_mode(0o755);
    Ok(rustix::fs::chmodat(root, INIT_NAME, mode, AtFlags::empty())?)
}

/// Writes the bytecode if it can be had. Without it, every start compiles the text.
fn write_bytecode(python: &Path, root: BorrowedFd<'_>) -> io::Result<()> {
    match compile(python) {
        Some(bytes) => top::write_file(root, Path::new(BYTECODE), &bytes),
        None => Ok(()),
    }
}

/// A `.pyc` without a time to compare, importlib's `_code_to_timestamp_pyc`: magic number, flags,
/// time, size, code.
const COMPILE: &str = "\
import sys, marshal
from importlib._bootstrap_external import MAGIC_NUMBER
code = compile(sys.stdin.buffer.read(), sys.argv[1], 'exec', dont_inherit=True)
sys.stdout.buffer.write(MAGIC_NUMBER + bytes(12) + marshal.dumps(code))
";

/// Bytecode of the worker for `python`; `None` if it is not the administrator's own or cannot.
#[expect(clippy::disallowed_methods, reason = "runs the machine's interpreter on our own text")]
fn compile(python: &Path) -> Option<Vec<u8>> {
    // By its real path: a link could lead elsewhere by the time it is followed again.
    let mut child = Command::new(find_administrators(python)?)
        // Isolated, and without the modules that an installation adds: nothing but ours is run.
        .args(["-I", "-S", "-c", COMPILE, &format!("{OWN_DIRECTORY}/{TEXT}")])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // It reads all before it writes, so neither side waits for the other.
    let written = child.stdin.take()?.write_all(WORKER.as_bytes());
    let output = child.wait_with_output().ok()?;
    (written.is_ok() && output.status.success() && !output.stdout.is_empty())
        .then_some(output.stdout)
}

/// The real path of a program below `/usr`, if nobody but root can have put it there.
fn find_administrators(program: &Path) -> Option<PathBuf> {
    let real = real_path(program)?;
    let of_root = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| found.uid() == 0 && found.mode() & 0o022 == 0)
    };
    (real.starts_with("/usr") && real.ancestors().all(of_root)).then_some(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytecode_is_for_the_one_interpreter_that_made_it() {
        let directory = PathBuf::from("/store/tools");
        let compiled_for = Some(PathBuf::from("/usr/bin/python3"));
        let tools = Tools { directory: directory.clone(), compiled_for };
        let host = ["/usr/bin/python3", "/usr/bin/python3.9"].map(str::to_owned);
        let bytecode = (vec![host[0].clone()], "/run-in-container/worker.pyc".to_owned());
        assert_eq!(tools.worker(&host), bytecode);
        let image = ["python3", "python"].map(str::to_owned);
        let text = (image.to_vec(), "/run-in-container/worker.py".to_owned());
        assert_eq!(tools.worker(&image), text);
        let without = Tools { directory, compiled_for: None };
        let text = (host.to_vec(), "/run-in-container/worker.py".to_owned());
        assert_eq!(without.worker(&host), text);
    }

    #[test]
    fn a_program_that_others_could_have_put_there_is_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let program = directory.path().join("python3");
        fs::write(&program, format!("#!/bin/sh\ntouch {}\n", told.display())).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(compile(&program), None);
        assert!(!told.exists(), "it was run");
        assert!(find_administrators(Path::new("/usr/bin/env")).is_some(), "the control");
    }
}

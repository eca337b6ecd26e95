//! Secrets of whoever builds: what `--secret` gives, and the file that a step sees one in.
//!
//! A secret is in no layer, no key and no message. On its way into a sandbox it is a file in
//! memory that this user alone can read, with a name only until the sandbox has it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ric_runtime::Actor;
use rustix::fs::{Mode, OFlags};

use crate::args::{BuildSecret, BuildSecretSource};
use crate::failure::Failure;
use crate::{places, task};

/// Bytes of a secret, as with BuildKit: a secret is a password or a key.
const SECRET_BYTES_MAX: u64 = 500 << 10;
/// Where memory looks like files.
const MEMORY: &str = "/dev/shm";
/// File systems that are nothing but memory (`TMPFS_MAGIC`, `RAMFS_MAGIC`; linux/magic.h).
const MEMORY_MAGICS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// What was given.
#[derive(Default)]
pub(super) struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    /// Reads what `--secret` names.
    pub(super) fn read(asked: &[BuildSecret]) -> Result<Secrets, Failure> {
        let mut secrets = Vec::new();
        for BuildSecret { id, source } in asked {
            let failed = || Failure::new(Actor::User, format!("cannot read the secret `{id}`"));
            let value = match source {
                BuildSecretSource::Variable(name) => {
                    let value = places::secret_variable(name)
                        .map(std::os::unix::ffi::OsStringExt::into_vec);
                    value
                        .ok_or_else(|| failed().cause(format!("the variable {name} is not set")))?
                }
                BuildSecretSource::File(path) => task::read_at_most(path, SECRET_BYTES_MAX + 1)
                    .map_err(|error| failed().cause(path.display().to_string()).because(&error))?,
            };
            if value.len() as u64 > SECRET_BYTES_MAX {
                let why = format!("it has more than {SECRET_BYTES_MAX} bytes");
                return Err(failed().cause(why));
            }
            secrets.retain(|(known, _)| known != id);
            secrets.push((id.clone(), value));
        }
        Ok(Secrets(secrets))
    }

    /// What is called `id`.
    pub(super) fn get(&self, id: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, value)| value.as_slice())
    }
}

/// A secret as a file in memory. Dropping it takes its name away.
#[derive(Debug)]
pub(super) struct SecretFile {
    pub(super) path: PathBuf,
}

impl SecretFile {
    /// Writes `value`; returns the file, and a descriptor of it.
    pub(super) fn write(name: &str, value: &[u8], mode: u32) -> io::Result<(SecretFile, OwnedFd)> {
        let memory = rustix::fs::statfs(MEMORY)?;
        if !MEMORY_MAGICS.contains(&memory.f_type.cast_unsigned()) {
            return Err(io::Error::other(format!("{MEMORY} is not in memory, but on a disk")));
        }
        let path = Path::new(MEMORY).join(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
        let secret = SecretFile { path };
        let mut file = File::from(file);
        file.write_all(value)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&secret.path, flags, Mode::empty())?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok((secret, opened))
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        // Nobody else could have put another in its place: the directory is sticky.
        let _ = std::fs::remove_file(&self.path);
    }
}

//! Who a user is to a registry, as `docker login` and `podman login` have written it down.
//!
//! The caller says which files and folders there are; nothing here reads the environment. They are
//! looked at only when a registry has asked who is there.
//!
//! **Invariant:** no secret gets into a message or into `Debug`: errors name files, hosts and
//! programs, never what these said.

mod base64;
mod file;
mod program;

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

pub(crate) use base64::encode;

use crate::RegistryName;
use file::{File, Found};

/// Largest file that is read: one with a thousand entries has 100 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// How long a helper may take by default: a user may have to unlock a keyring.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a user's credentials for registries are. By default nowhere: all is asked for anonymously.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFiles {
    /// Files in the format of containers-auth.json(5) or Docker's `config.json`, the first to be
    /// asked first. One that does not exist is passed over.
    pub files: Vec<PathBuf>,
    /// Where `docker-credential-NAME` programs are looked for, in this order. Relative ones are
    /// passed over.
    pub helper_folders: Vec<PathBuf>,
    /// For one helper to answer.
    pub helper_timeout: Duration,
}

impl Default for CredentialFiles {
    fn default() -> CredentialFiles {
        CredentialFiles {
            files: Vec::new(),
            helper_folders: Vec::new(),
            helper_timeout: HELPER_TIMEOUT,
        }
    }
}

/// Why a user's credentials could not be had. The user must mend the file or the helper.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file is there but cannot be read.
    #[error("cannot read the credentials in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not in the format that `docker login` and `podman login` write.
    #[error("{} is no file of credentials: line {line}, column {column}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, from 1; 0 if the file is larger than any real one.
        line: usize,
        /// Where in the line, from 1.
        column: usize,
    },
    /// The entry's `auth` is no base64 of `USER:PASSWORD`.
    #[error("the entry for {host} in {} cannot be decoded", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The registry.
        host: String,
    },
    /// The file names a helper that is not installed here.
    #[error("{} names the credential helper `docker-credential-{helper}`, which is not here",
        path.display())]
    NoHelper {
        /// The file.
        path: PathBuf,
        /// The helper, made fit to be shown.
        helper: String,
    },
    /// The helper does not run.
    #[error("cannot run {}", program.display())]
    HelperRun {
        /// The helper.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The helper ended with an error. What it printed is not repeated: it may hold secrets.
    #[error("{} failed with {status}", program.display())]
    HelperFailed {
        /// The helper.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// The helper did not end, and was ended.
    #[error("{} did not answer within {} s", program.display(), waited.as_secs_f32())]
    HelperSilent {
        /// The helper.
        program: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// The helper printed something else than credentials.
    #[error("{} gave no answer that can be read", program.display())]
    HelperAnswer {
        /// The helper.
        program: PathBuf,
    },
}

/// What is shown to a registry or its token service.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A name and a password, or a token in the place of one.
    Login { user: String, password: String },
    /// What a token service gives tokens for (Docker's `identitytoken`, OAuth 2.0's refresh token).
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Login { .. } => "Login(redacted)",
            Credential::IdentityToken(_) => "IdentityToken(redacted)",
        })
    }
}

impl CredentialFiles {
    /// What the first file that knows `name` has for it.
    pub(crate) fn find(&self, name: &RegistryName) -> Result<Option<Credential>, CredentialError> {
        for path in &self.files {
            let Some(file) = read_file(path)? else { continue };
            let found = match file.find(&name.host, &name.repository) {
                Found::Nothing => None,
                Found::Credential(credential) => Some(credential),
                Found::Helper(helper) => self.ask_helper(path, &helper, &name.host)?,
                Found::Unreadable => {
                    let host = name.host.clone();
                    return Err(CredentialError::Entry { path: path.clone(), host });
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn ask_helper(
        &self,
        path: &Path,
        helper: &str,
        host: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let found = program::find(helper, &self.helper_folders);
        let found = found.ok_or_else(|| CredentialError::NoHelper {
            path: path.to_owned(),
            helper: crate::shown::shown(helper),
        })?;
        program::ask(&found, file::server_of(host), self.helper_timeout)
    }
}

/// `None` if there is no such file.
fn read_file(path: &Path) -> Result<Option<File>, CredentialError> {
    let error = |source| CredentialError::Read { path: path.to_owned(), source };
    let reader = match std::fs::File::open(path) {
        Ok(reader) => reader,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(source) => return Err(error(source)),
    };
    let mut text = Vec::new();
    reader.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(error)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(CredentialError::Malformed { path: path.to_owned(), line: 0, column: 0 });
    }
    // podman makes an empty file before the first login.
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let malformed =
        |(line, column)| CredentialError::Malformed { path: path.to_owned(), line, column };
    File::parse(&text).map(Some).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> RegistryName {
        let reference: crate::Reference = "docker://h.example/a:1".parse().unwrap();
        let crate::Reference::Registry(name) = reference else { panic!() };
        name
    }

    /// `bWU6c2VjcmV0` is `me:secret`.
    #[test]
    fn asks_the_files_in_their_order_and_passes_over_what_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = folder.path().join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = vec![
            folder.path().join("none"),
            write("empty", "\n"),
            write("other", r#"{"auths": {"other.example": {"auth": "%"}}}"#),
            write("ours", r#"{"auths": {"h.example": {"auth": "bWU6c2VjcmV0"}}}"#),
            write("later", "no JSON"),
        ];
        let mut credentials = CredentialFiles { files, ..CredentialFiles::default() };
        let found = credentials.find(&name()).unwrap().unwrap();
        assert_eq!(found, Credential::Login { user: "me".into(), password: "secret".into() });
        assert!(!format!("{found:?}").contains("secret"));

        credentials.files.remove(3);
        let message = credentials.find(&name()).unwrap_err().to_string();
        assert!(message.contains("later is no file of credentials: line 1"), "{message}");
        credentials.files = vec![write("bad", r#"{"auths": {"h.example": {"auth": "%"}}}"#)];
        let message = credentials.find(&name()).unwrap_err().to_string();
        assert!(message.contains("the entry for h.example"), "{message}");
        credentials.files = vec![write("helper", r#"{"credsStore": "desktop"}"#)];
        let message = credentials.find(&name()).unwrap_err().to_string();
        assert!(message.contains("`docker-credential-desktop`, which is not here"), "{message}");
        credentials.files = vec![folder.path().to_owned()];
        assert!(matches!(credentials.find(&name()), Err(CredentialError::Read { .. })));
    }
}

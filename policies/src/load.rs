//! Finds the policy that holds: the site's file or the built-in default, narrowed by further files.

use std::io;
use std::path::{Path, PathBuf};

use crate::trust::{ReadError, Role, read};
use crate::{Distrust, Draft, Mistake, NarrowError, Note, Policy};

/// Where a site's policy is.
pub const SITE_FILE: &str = "/etc/run-in-container/policy.yaml";

/// What a file named on the command line may do to the site's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Take away.
    Narrow,
    /// Stand in its place. For root only.
    Replace,
}

/// The policy that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What narrowing files say without effect, for `policy check`.
    pub notes: Vec<Note>,
}

/// Why there is no policy. Nothing may run then.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not there or cannot be read.
    #[error("cannot read policy file {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Someone else could have written it.
    #[error("will not follow policy file {}", .path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Distrust,
    },
    /// It is not a policy.
    #[error("policy file is not valid")]
    Invalid {
        /// The first mistake in it.
        source: Box<Mistake>,
    },
    /// It cannot narrow the policy before it.
    #[error("cannot narrow the policy by {}", .path.display())]
    Narrow {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<NarrowError>,
    },
    /// Only root may do that.
    #[error("only root may replace the site's policy by {}", .path.display())]
    NotRoot {
        /// The file.
        path: PathBuf,
    },
}

impl LoadError {
    /// What the person who reads the error can do, if that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            LoadError::Read { .. } | LoadError::Invalid { .. } => None,
            LoadError::NotRoot { .. } => Some("let it narrow the site's policy".to_owned()),
            LoadError::Narrow { .. } => {
                Some("`run-in-container policy show` prints what the site allows".to_owned())
            }
            LoadError::Untrusted { source, .. } => match source {
                Distrust::Owner { name, wanted: "root", .. } => Some(format!("chown root {name}")),
                Distrust::Owner { .. } => Some("make a copy of your own".to_owned()),
                Distrust::Writable { name, .. } => Some(format!("chmod go-w {name}")),
                Distrust::Link { name } => Some(format!("put the file itself in place of {name}")),
                Distrust::Changed { .. } => {
                    Some("try again; replace a policy by renaming a whole file over it".to_owned())
                }
                Distrust::NotAFile { .. } | Distrust::TooLarge { .. } => None,
            },
        }
    }
}

impl Policy {
    /// The policy that holds: the file at `site` if there is one, else the built-in default,
    /// narrowed by each of `named` in turn.
    ///
    /// With [`Authority::Replace`] the first of `named` stands in place of the site's file, which
    /// is not read then.
    ///
    /// # Errors
    /// [`LoadError`] if any of the files cannot be read, trusted, understood or combined; a missing
    /// site file is none. Nothing may run then: half a policy protects nobody.
    pub fn load(site: &Path, named: &[PathBuf], authority: Authority) -> Result<Loaded, LoadError> {
        let (outermost, narrowing) = match (authority, named) {
            (Authority::Replace, [first, rest @ ..]) => (replacement(first)?, rest),
            (Authority::Replace, []) | (Authority::Narrow, _) => (read_site(site)?, named),
        };
        let policy = outermost.as_ref().map_or_else(Policy::built_in, Policy::of_site);
        let mut loaded = Loaded { policy, notes: Vec::new() };
        for path in narrowing {
            let draft = read_draft(path, Role::Narrowing)?;
            let narrowed = loaded.policy.narrow(&draft);
            let narrowed = narrowed.map_err(|source| LoadError::Narrow {
                path: path.clone(),
                source: Box::new(source),
            })?;
            loaded.policy = narrowed.policy;
            loaded.notes.extend(narrowed.notes);
        }
        Ok(loaded)
    }
}

fn replacement(path: &Path) -> Result<Option<Draft>, LoadError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LoadError::NotRoot { path: path.to_owned() });
    }
    read_draft(path, Role::Boundary).map(Some)
}

/// `None` if the site has no policy file. Every other failure is one: a file that cannot be read
/// does not mean that there are no rules.
fn read_site(path: &Path) -> Result<Option<Draft>, LoadError> {
    match read_draft(path, Role::Boundary) {
        Ok(draft) => Ok(Some(draft)),
        Err(LoadError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_draft(path: &Path, role: Role) -> Result<Draft, LoadError> {
    let bytes = read(path, role).map_err(|error| match error {
        ReadError::Io(source) => LoadError::Read { path: path.to_owned(), source },
        ReadError::Distrust(source) => LoadError::Untrusted { path: path.to_owned(), source },
    })?;
    // What is not UTF-8 shows as U+FFFD in the excerpt, at the place where it stands.
    let text = String::from_utf8_lossy(&bytes);
    if let Err(error) = std::str::from_utf8(&bytes) {
        let source = Mistake::not_utf8(path, &text, &bytes[..error.valid_up_to()]);
        return Err(LoadError::Invalid { source: Box::new(source) });
    }
    Draft::parse(path, &text).map_err(|source| LoadError::Invalid { source: Box::new(source) })
}

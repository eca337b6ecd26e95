//! One file as it stands: text in, [`Draft`] or [`Mistake`] out.

use std::path::{Path, PathBuf};

use ric_yaml::{Kind, Mistake, read};

use crate::check::check;
use crate::keys::Keys;

const POLICIES: Kind = Kind {
    files: "policy files",
    first_key: "version",
    begins: "a policy begins with `version: 1`",
};

/// What one file says: any of the keys, each with its place.
#[derive(Debug, Clone)]
pub struct Draft {
    pub(crate) path: PathBuf,
    pub(crate) keys: Keys,
}

impl Draft {
    /// Reads the text of a policy file; `path` is for messages and origins.
    ///
    /// # Errors
    /// [`Mistake`], the first one, if the text is not YAML, has an unknown or a repeated key, or
    /// a value that no policy can have.
    pub fn parse(path: &Path, text: &str) -> Result<Draft, Mistake> {
        let keys: Keys = read(path, text, POLICIES)?;
        check(&keys)
            .map_err(|((line, column), message)| Mistake::at(path, text, line, column, message))?;
        Ok(Draft { path: path.to_owned(), keys })
    }
}

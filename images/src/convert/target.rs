//! Where an image is written to, and as what: the grammar of targets.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A format and a place. Text form and value are the same thing, as for [`crate::Reference`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `squashfs:PATH`: a root filesystem in one file.
    Squashfs(PathBuf),
    /// `sif:PATH`: an image of Apptainer or Singularity.
    Sif(PathBuf),
}

/// Why a text is not a [`Target`]. The user who wrote it must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No format, or one that is not written.
    #[error("images are not written to `{word}`: expected {KNOWN}")]
    Format {
        /// What stands before the first colon.
        word: String,
    },
    /// Nothing after the colon, or nothing that can be a name.
    #[error("`{text}` names no file to write")]
    Path {
        /// The whole target.
        text: String,
    },
}

/// What targets there are.
const KNOWN: &str = "squashfs:PATH or sif:PATH";

impl Target {
    /// What is written.
    pub fn path(&self) -> &Path {
        match self {
            Target::Squashfs(path) | Target::Sif(path) => path,
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Target, TargetError> {
        let (word, path) = text.split_once(':').unwrap_or((text, ""));
        let made: fn(PathBuf) -> Target = match word {
            "squashfs" => Target::Squashfs,
            "sif" => Target::Sif,
            _ => return Err(TargetError::Format { word: crate::shown::shown(word) }),
        };
        let path = PathBuf::from(path);
        if path.file_name().is_none() || text.contains(char::is_control) {
            return Err(TargetError::Path { text: crate::shown::shown(text) });
        }
        Ok(made(path))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Target::Squashfs(_) => "squashfs",
            Target::Sif(_) => "sif",
        };
        write!(f, "{word}:{}", self.path().display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_print_as_they_are_written() {
        for text in ["squashfs:a", "squashfs:/a/b:c.squashfs", "sif:a.sif"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_names_no_file() {
        for text in ["squashfs:", "squashfs:/", "squashfs:a/..", "squashfs:a\nb"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(matches!(error, TargetError::Path { .. }), "{text}: {error}");
        }
        for text in ["", "a", "/a/b", "docker://a/b", "host:"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(matches!(error, TargetError::Format { .. }), "{text}: {error}");
        }
    }
}

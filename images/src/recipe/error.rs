//! What is wrong with a build file, and where.

use std::fmt;

use crate::shown::{shown, shown_within};

/// Characters of what is said about a place: it may repeat words of the file.
const MESSAGE_CHARACTERS_MAX: usize = 400;

/// A place in a build file. Prints `FILE:LINE`, and the instruction that begins there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As its user named it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// The line, or what of it is wrong.
    pub text: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: `{}`", shown(&self.file), self.line, shown(&self.text))
    }
}

impl Place {
    /// What stands here is not written as its format wants.
    pub(crate) fn wrong(&self, wrong: impl Into<String>) -> RecipeError {
        let wrong = shown_within(&wrong.into(), MESSAGE_CHARACTERS_MAX);
        RecipeError::Wrong { place: self.clone(), wrong }
    }

    /// What stands here is something that this program does not do.
    pub(crate) fn not_supported(&self, what: impl Into<String>, why: &'static str) -> RecipeError {
        let what = shown_within(&what.into(), MESSAGE_CHARACTERS_MAX);
        RecipeError::NotSupported { place: self.clone(), what, why }
    }
}

/// Why a build file cannot be followed. Whoever wrote it must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// It is not written as its format wants.
    #[error("{place}: {wrong}")]
    Wrong {
        /// Where.
        place: Place,
        /// What is wrong, and what was expected.
        wrong: String,
    },
    /// It means something that this program does not do.
    #[error("{place}: {what} is not supported: {why}")]
    NotSupported {
        /// Where.
        place: Place,
        /// An instruction, flag or section.
        what: String,
        /// The reason, or the way out.
        why: &'static str,
    },
    /// The stage that was asked for is not there.
    #[error("{} has no stage `{}`, only {}", shown(file), shown(stage), shown(stages))]
    NoStage {
        /// The file.
        file: String,
        /// What was asked for.
        stage: String,
        /// What is there.
        stages: String,
    },
    /// It has no instruction that makes an image.
    #[error("{} {wrong}", shown(file))]
    Empty {
        /// The file.
        file: String,
        /// What it lacks.
        wrong: &'static str,
    },
    /// It is no text.
    #[error("{} is not UTF-8 text at byte {offset}", shown(file))]
    NotText {
        /// The file.
        file: String,
        /// Of the first byte that is wrong.
        offset: usize,
    },
    /// It is longer than anybody writes.
    #[error("{} has {bytes} bytes, at most {RECIPE_BYTES_MAX} are read", shown(file))]
    TooLarge {
        /// The file.
        file: String,
        /// Its size.
        bytes: usize,
    },
}

/// A longer build file is no text that a person wrote.
const RECIPE_BYTES_MAX: usize = 1 << 20;

/// The text of the build file `file`, with its size and encoding checked.
pub(crate) fn read_text<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, RecipeError> {
    let file = || file.to_owned();
    if bytes.len() > RECIPE_BYTES_MAX {
        return Err(RecipeError::TooLarge { file: file(), bytes: bytes.len() });
    }
    // A byte order mark, as editors on Windows write it.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes)
        .map_err(|error| RecipeError::NotText { file: file(), offset: error.valid_up_to() })
}

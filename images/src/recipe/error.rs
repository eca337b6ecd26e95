//! What is wrong with a build file, and where.

use std::fmt;

use crate::shown::shown;

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
    #[error("{} has no stage `{}`, only {stages}", shown(file), shown(stage))]
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

//! Why files cannot be copied into an image.

use std::io;

use crate::LayerError;
use crate::shown::shown;

/// Why files cannot be copied into an image.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Nothing has this name, or all that has is left out.
    #[error("`{}` is not in {} (or `.dockerignore` leaves it out)", shown(path), shown(place))]
    Missing {
        /// The source.
        path: String,
        /// Where it was looked for.
        place: String,
    },
    /// A source leads out of where it has to be.
    #[error("`{}` leads out of {}", shown(path), shown(place))]
    Outside {
        /// The source.
        path: String,
        /// What it leads out of.
        place: String,
    },
    /// A pattern is not written as patterns are.
    #[error("{}: `{}` is no pattern", shown(place), shown(pattern))]
    Pattern {
        /// Where it stands.
        place: String,
        /// The pattern, or its line.
        pattern: String,
    },
    /// Several files go to one name.
    #[error("several files go to `{}`, which has to end with a slash", shown(target))]
    Several {
        /// The target.
        target: String,
    },
    /// The image has something else there.
    #[error("`/{}` is {there} in the image, and {wanted} among what is copied", shown(path))]
    InTheWay {
        /// In the image.
        path: String,
        /// What it is there.
        there: &'static str,
        /// What it would become.
        wanted: &'static str,
    },
    /// The image does not know an owner by this name.
    #[error(
        "the image's {file} has no `{}`: name a number, or make the account before",
        shown(name)
    )]
    Owner {
        /// The name.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
    /// It is asked for something that is not done.
    #[error("{} is not supported: {why}", shown(what))]
    NotSupported {
        /// What.
        what: String,
        /// The reason, or the way out.
        why: &'static str,
    },
    /// An archive cannot be unpacked.
    #[error("cannot unpack `{}`", shown(path))]
    Archive {
        /// The archive.
        path: String,
        /// Why not.
        source: Box<LayerError>,
    },
    /// It cannot be read or written.
    #[error("cannot copy `{}`", shown(path))]
    Io {
        /// What.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

/// Names what an error of the system is about.
pub(super) fn at(path: &[u8]) -> impl FnOnce(io::Error) -> CopyError + Copy {
    move |source| CopyError::Io { path: text(path), source }
}

pub(super) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

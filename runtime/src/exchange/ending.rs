//! How a call ends: with an answer, or with the reason why there is none.

use std::io;

use super::{Declined, Raised};
use crate::frame::{FrameError, Part, VERSION_HIGHEST, VERSION_LOWEST};

/// What a worker answered to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A result as JSON text; [`serde_json::Value`] can hold it.
    Json(String),
    /// A result as a pickle. Never decoded on this side.
    Pickle {
        /// The bytes.
        bytes: Vec<u8>,
        /// Python `major.minor` that made it.
        python: String,
        /// Where in the bytes its out-of-band buffers lie: offset and length of each.
        buffers: Vec<[u64; 2]>,
    },
    /// An exception left the function.
    Raised(Raised),
    /// The worker did not make the call, or could not hand over its result.
    Declined(Declined),
}

/// Who found out that bytes had changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The worker: what we sent.
    Worker,
    /// The owner: what the worker sent.
    Owner,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Bits changed on the way, and nothing was made of them. [`crate::Exchange::is_idle`] says
    /// whether the worker can take another call.
    #[error("the {what} changed on the way: digest {expected} was sent, {got} arrived")]
    Corrupt {
        /// What changed.
        what: Part,
        /// Hex digits of what was sent.
        expected: String,
        /// Hex digits of what arrived.
        got: String,
        /// Who found out.
        noticed_by: Side,
    },
    /// The worker speaks only other versions of the protocol.
    #[error(
        "the worker speaks versions {lowest} to {highest} of the protocol, and this program \
         {VERSION_LOWEST} to {VERSION_HIGHEST}"
    )]
    Version {
        /// Lowest that the worker speaks.
        lowest: u16,
        /// Highest that the worker speaks.
        highest: u16,
    },
    /// The worker did what no worker of ours does. Only ending its container is safe.
    #[error("the worker broke the protocol: it {broke}")]
    Protocol {
        /// What it did.
        broke: String,
    },
    /// More than may travel, either way.
    #[error("{what} of {bytes} bytes, where at most {bytes_max} may travel")]
    TooLarge {
        /// What is too large.
        what: Part,
        /// Its bytes.
        bytes: u64,
        /// How many it may have.
        bytes_max: u64,
    },
    /// The worker went away before it answered. How its process ended says why.
    #[error("the worker went away before it answered")]
    Closed,
    /// The kernel failed us.
    #[error("cannot {act}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl From<FrameError> for ExchangeError {
    fn from(error: FrameError) -> ExchangeError {
        match error {
            FrameError::Corrupt { what, expected, got } => {
                ExchangeError::Corrupt { what, expected, got, noticed_by: Side::Owner }
            }
            FrameError::TooLarge { what, bytes, bytes_max } => {
                ExchangeError::TooLarge { what, bytes, bytes_max }
            }
            FrameError::Unknown { field, got } => {
                broke(format!("sent a frame whose {field} is {got}"))
            }
        }
    }
}

/// Makes the error of a worker that broke the protocol. Some of the text may be the worker's: it
/// is kept short, and harmless to a terminal.
pub(super) fn broke(what: impl AsRef<str>) -> ExchangeError {
    const CHARACTERS_MAX: usize = 200;
    let broke = what.as_ref().chars().take(CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    ExchangeError::Protocol { broke }
}

pub(super) fn io_error(act: &'static str) -> impl Fn(io::Error) -> ExchangeError {
    move |source| ExchangeError::Io { act, source }
}

//! What a task gets new: a word of environments, which ask for it, and of policies, which demand a
//! least.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What each task gets new. More is greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Fresh {
    /// The call.
    Nothing,
    /// A process forked from the warm interpreter.
    Process,
    /// The container.
    Container,
}

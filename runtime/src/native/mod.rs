//! The embedded engine: an OCI runtime spec in, a running container out, with no other program.
//!
//! Two halves. [`translate`] turns the spec into a list of [`steps`], purely; [`monitor`] hands the
//! list to the static `init`, which carries it out. What the kernel then says of the first process
//! is compared with what was planned ([`readback`]): a sandbox that does not read back is an error.

pub(crate) mod blueprint;
pub(crate) mod devices;
pub(crate) mod monitor;
pub(crate) mod readback;
pub(crate) mod steps;
pub(crate) mod top;
pub(crate) mod translate;
pub(crate) mod trial;

/// Numbers shared with `init`.
#[path = "../../init/protocol.rs"]
#[allow(dead_code, unreachable_pub, reason = "one list serves two programs; each uses its part")]
pub(crate) mod protocol;

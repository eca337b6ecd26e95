//! Files that people write: strict YAML in, values and mistakes with their places out.
//!
//! Policies and environments are read here, so that both are equally strict, take amounts in the
//! same forms and say what is wrong in the same words. Knows nothing of what the files are about.

#![forbid(unsafe_code)]

mod read;

mod place;

mod mistake;

mod units;

mod fresh;

pub use fresh::Fresh;
pub use mistake::{Mistake, Printable, closest};
pub use place::{Placed, TextVisitor};
pub use read::{FILE_BYTES_MAX, Kind, read};
pub use units::{AmountError, Cpus, Memory, Pids, Time, Unit};

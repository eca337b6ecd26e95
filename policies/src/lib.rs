//! YAML in, [`Policy`] out: what a site allows its sandboxes.
//!
//! First input of a decision. Depends on nothing of ours; knows nothing of images or kernels.
//!
//! [`Policy::load`] reads the site's file or the built-in default and narrows it by further files.
//! A file becomes a `Draft`, with the place of every value; a draft is laid upon a policy. All
//! values of a policy are set, and each knows where it came from.
//!
//! Deliberately absent: the environment, the clock, any look at the directories that rules name,
//! and any way for a further file to allow more.

#![forbid(unsafe_code)]

// The value that all of this is about, and the one that holds without any file.
mod policy;

mod built_in;

// Which files there are, and whether to believe them.
mod load;

mod trust;

// From text to a draft. The keys are the heart: all else follows from them.
mod yaml;

mod keys;

mod said;

mod names;

mod units;

mod check;

mod mistake;

// One policy laid upon another.
mod layers;

mod meaning;

mod pattern;

// What a policy is asked.
mod verdict;

mod show;

mod schema;

#[cfg(test)]
mod properties;

pub use built_in::BUILT_IN_YAML;
pub use layers::{NarrowError, Narrowed, Note};
pub use load::{Authority, LoadError, Loaded, SITE_FILE};
pub use mistake::Mistake;
pub use policy::{
    Access, BUILT_IN, Bound, BuildRules, EngineName, ImageRules, LimitRules, MountRule, Network,
    Origin, Policy, Protection, Registries, Ruled, RunAs, ShortNames,
};
pub use schema::schema;
pub use trust::Distrust;
pub use units::{AmountError, Cpus, Memory, Pids, Time, Unit};
pub use verdict::ImageDenied;
pub use yaml::Draft;

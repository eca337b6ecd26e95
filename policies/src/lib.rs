//! YAML in, [`Policy`] out: what a site allows its sandboxes.
//!
//! First input of a decision. Depends on nothing of ours but the
//! reader of YAML; knows nothing of images or kernels.
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
mod draft;

mod keys;

mod said;

mod names;

mod check;

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
pub use draft::Draft;
pub use layers::{NarrowError, Narrowed, Note};
pub use load::{Authority, LoadError, Loaded, SITE_FILE};
pub use policy::{
    Access, BUILT_IN, Bound, BuildRules, EngineName, ImageRules, LimitRules, Mirror, MountRule,
    Network, Origin, Policy, Protection, Registries, ResultsRules, Ruled, RunAs, ShortNames,
    WarmRules,
};
pub use ric_yaml::{AmountError, Cpus, Fresh, Memory, Mistake, Pids, Time, Unit};
pub use schema::schema;
pub use trust::Distrust;
pub use verdict::ImageDenied;

//! YAML in, [`Policy`] out: what a site allows its sandboxes.
//!
//! First input of a decision. Depends on nothing of ours; knows nothing of images or kernels.

mod policy;

pub use policy::{
    Access, Bound, EngineName, ImageRules, LimitRules, MountRule, Network, Origin, Policy,
    Protection, Registries, Ruled, RunAs, ShortNames,
};

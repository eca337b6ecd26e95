//! Conversion as a caller of the crate sees it: an image in, the same image in another format out,
//! or a precise error and nothing.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "../layer_archive/mod.rs"]
mod layer_archive;
#[path = "../layer_twice/mod.rs"]
mod layer_twice;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod place;
#[cfg(test)]
mod shifter;
#[cfg(test)]
mod sif;
#[cfg(test)]
mod site;
#[cfg(test)]
mod squashfs;

//! A reference in, an [`Image`] out: sources, content-addressed store, unpacking.
//!
//! Depends on nothing of ours; knows nothing of policies, tasks or namespaces.

mod image;
mod manifest;
mod reference;

pub use image::{Form, Image};
pub use manifest::{Config, Identity, LayerDescriptor, Manifest, MediaType};
pub use reference::{Reference, RegistryName};

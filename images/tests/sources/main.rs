//! Sources as a caller of the crate sees them: references in, unpacked layers or a precise refusal
//! out.

#[cfg(test)]
#[path = "../layer_twice/mod.rs"]
mod layer_twice;
#[cfg(test)]
#[path = "../sif_file/mod.rs"]
mod sif_file;

#[cfg(test)]
mod archives;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod docker;
#[cfg(test)]
mod docker_out;
#[cfg(test)]
mod fault_registry;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod image_fixture;
#[cfg(test)]
mod keeping;
#[cfg(test)]
mod kept_blobs;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod oras;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod resumed;
#[cfg(test)]
mod shared;
#[cfg(test)]
mod site_rules;
#[cfg(test)]
mod stumbles;

//! Writes a `docker save` file (`docker-archive:`), which `docker load` reads.
//!
//! moby image-spec v1.2, "Combined Image JSON + Filesystem Changeset Format", as every Docker reads
//! it: the configuration as it came, so that the image keeps its ID, and layers unpacked, as
//! Docker before 25 names them by their diff IDs alone.

use std::collections::HashSet;

use serde_json::json;

use super::ConvertError;
use super::layered::Layered;
use super::sink::Sink;
use crate::Digest;

/// Writes the one image of an archive, which is called `names`, if anything.
pub(super) fn write(
    image: &Layered<'_>,
    names: &[String],
    sink: &mut dyn Sink,
) -> Result<(), ConvertError> {
    let config = format!("{}.json", Digest::of(&image.config).hex());
    let layer_name = |digest: Digest| format!("{}.tar", digest.hex());
    let layers: Vec<_> =
        image.layers.iter().map(|layer| layer_name(layer.descriptor.diff_id)).collect();
    let list = json!([{"Config": config, "RepoTags": names, "Layers": layers}]);
    image.put_document("manifest.json", list.to_string().as_bytes(), sink)?;
    image.put_document(&config, &image.config, sink)?;
    let mut known = HashSet::new();
    for layer in &image.layers {
        let diff_id = layer.descriptor.diff_id;
        if known.insert(diff_id) {
            image.put_tar(layer, &layer_name(diff_id), sink)?;
        }
    }
    Ok(())
}

//! What a Shifter image directory wants to know of an image, and what it cannot hold.

use super::ConvertError;
use crate::{Config, Digest, ShifterFormat, ShifterMeta};

/// What the image is called in the directory: 64 hex digits, as Shifter's gateway calls images.
pub(super) fn id(image: &Digest) -> String {
    image.hex()
}

/// The text of the meta file.
///
/// # Errors
/// [`ConvertError::Unholdable`] names what Shifter would read as something else.
pub(super) fn meta(config: &Config, target: &str) -> Result<String, ConvertError> {
    let meta = ShifterMeta {
        format: ShifterFormat::Squashfs,
        entrypoint: config.entrypoint.clone(),
        command: config.command.clone(),
        workdir: config.workdir.clone(),
        users: Vec::new(),
        groups: Vec::new(),
        variables: config.variables.clone(),
    };
    meta.to_text().map_err(|unwritable| {
        let (target, what) = (target.to_owned(), unwritable.to_string());
        ConvertError::Unholdable { target, what }
    })
}

/// What of the configuration is not in the meta file, or not for Shifter: it sets no variable to
/// nothing.
pub(super) fn left_out(config: &Config) -> Vec<String> {
    let is_kept = |name: &&str| matches!(*name, "Env" | "Entrypoint" | "Cmd" | "WorkingDir");
    let declared = config.declared().into_iter().filter(|name| !is_kept(name)).map(str::to_owned);
    let empty = config.variables.iter().filter(|(_, value)| value.is_empty());
    declared.chain(empty.map(|(name, _)| super::env(name))).collect()
}

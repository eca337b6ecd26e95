//! `images convert`: an image in another format.

use indicatif::HumanBytes;
use ric_images::{ConvertOptions, Converted, Existing, LeftOut, Manifest, Target};
use serde_json::{Value, json};

use crate::Answer;
use crate::args::ConvertArgs;
use crate::failure::Failure;
use crate::progress::Bars;
use crate::session::{self, Session};
use crate::task;

pub(super) fn convert(args: ConvertArgs) -> Result<Answer, Failure> {
    let policy = session::load_policy(&args.policy)?;
    let caller = task::read_caller()?;
    let session = Session::open(policy, &caller, args.store.as_deref())?;
    let manifest = session.look_up(&caller, &task::absolute(args.image)?, "convert")?;
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    let options = ConvertOptions { compression: args.compression, existing };
    let converted = session.convert(&manifest, &args.target, options, &Bars::default())?;
    if args.json {
        return Ok(Answer::json(&to_json(&manifest, &args.target, &converted), 0));
    }
    Ok(Answer::text(to_text(&args.target, &converted)))
}

pub(super) fn to_json(manifest: &Manifest, target: &Target, converted: &Converted) -> Value {
    let LeftOut { devices, xattrs, owners, times_changed, settings } = &converted.left_out;
    json!({
        "reference": manifest.reference,
        "identity": manifest.identity.to_string(),
        "target": target.to_string(),
        "name": converted.name,
        "size_bytes": converted.bytes,
        "left_out": {
            "devices": devices,
            "xattrs": xattrs,
            "owners": owners,
            "times_changed": times_changed,
            "settings": settings,
        },
    })
}

pub(super) fn to_text(target: &Target, converted: &Converted) -> String {
    let LeftOut { devices, xattrs, owners, times_changed, settings } = &converted.left_out;
    let mut text = format!("{target}  {}\n", HumanBytes(converted.bytes));
    if let Some(name) = &converted.name {
        text += &format!("as {name}\n");
    }
    for (count, what) in [
        (devices, "device nodes were left out"),
        (xattrs, "extended attributes were left out"),
        (owners, "files and directories are yours instead of their owners'"),
        (times_changed, "times of change were brought to what the format holds"),
    ] {
        if *count > 0 {
            text += &format!("{count} {what}\n");
        }
    }
    if !settings.is_empty() {
        text += &format!("left out of the configuration: {}\n", settings.join(", "));
    }
    text
}

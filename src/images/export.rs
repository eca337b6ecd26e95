//! `images export` and `images import`: images of the store in a file, and back.

use indicatif::HumanBytes;
use ric_images::{ConvertOptions, Existing, Manifest, Store, Target};
use ric_runtime::Actor;
use serde_json::{Value, json};

use super::convert;
use super::inspect::{find, names_of, not_kept, told};
use crate::Answer;
use crate::args::{ExportArgs, ImportArgs, Kept};
use crate::failure::{Failure, printable};
use crate::progress::Bars;
use crate::session::{self, Session};
use crate::{blame, places, task};

/// What an image without a name is called while it is written.
const UNNAMED: &str = "docker://localhost/unnamed";

pub(super) fn export(args: ExportArgs) -> Result<Answer, Failure> {
    let root = session::find_store(args.store.as_deref())?;
    let images = if places::is_store(&root) {
        let store = session::open_store(&root)?;
        args.images.iter().map(|image| read(&store, image)).collect::<Result<Vec<_>, _>>()?
    } else {
        return Err(missing(&args.images[0], &root));
    };
    let session = Session::open(
        session::load_policy(&args.policy)?,
        &task::read_caller()?,
        args.store.as_deref(),
    )?;
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    if let Target::OciArchive(path) = &args.target {
        let written = session.export(&images, &args.target, path, existing)?;
        return Ok(match args.json {
            true => Answer::json(&exported(&images, &args.target, written.bytes), 0),
            false => Answer::text(format!("{}  {}\n", args.target, HumanBytes(written.bytes))),
        });
    }
    let [(manifest, _)] = &images[..] else {
        let attempt = format!("cannot write {} images to {}", images.len(), args.target);
        return Err(Failure::new(Actor::User, attempt)
            .cause("only an OCI archive holds several images")
            .hint("export them one by one, or to a FILE"));
    };
    let options = ConvertOptions { compression: args.compression, existing };
    let converted = session.convert(manifest, &args.target, options, &Bars::default())?;
    Ok(match args.json {
        true => Answer::json(&convert::to_json(manifest, &args.target, &converted), 0),
        false => Answer::text(convert::to_text(&args.target, &converted)),
    })
}

fn exported(images: &[(Manifest, Vec<String>)], target: &Target, bytes: u64) -> Value {
    let images = images.iter().map(
        |(manifest, names)| json!({"identity": manifest.identity.to_string(), "names": names}),
    );
    let images: Vec<Value> = images.collect();
    json!({"target": target.to_string(), "size_bytes": bytes, "images": images})
}

/// An image of the store, and all its names.
fn read(store: &Store, image: &Kept) -> Result<(Manifest, Vec<String>), Failure> {
    let digest = find(store, image.clone())?.ok_or_else(|| missing(image, store.root()))?;
    let stored = store.image(&digest).map_err(|error| blame::stored(store.root(), &error))?;
    let stored = stored.ok_or_else(|| missing(image, store.root()))?;
    let names = names_of(store, &stored)?;
    let called = match image {
        Kept::Reference(reference) => task::absolute(reference.clone())?.to_string(),
        Kept::Digest(_) => names.first().cloned().unwrap_or_else(|| UNNAMED.to_owned()),
    };
    Ok((Manifest { reference: called, ..stored.manifest }, names))
}

fn missing(image: &Kept, root: &std::path::Path) -> Failure {
    not_kept(format!("cannot export the image `{}`", told(image)), image, root)
}

pub(super) fn import(args: &ImportArgs) -> Result<Answer, Failure> {
    let policy = session::load_policy(&args.policy)?;
    let caller = task::read_caller()?;
    let mut session = Session::open(policy, &caller, args.store.as_deref())?;
    session.make_store()?;
    let images = session.import(&args.file, args.name.as_ref(), &Bars::default())?;
    if args.json {
        let rows = images.iter();
        let rows = rows.map(|row| json!({"reference": row.reference, "digest": row.digest}));
        return Ok(Answer::json(&rows.collect::<Vec<_>>(), 0));
    }
    let lines = images.iter().map(|row| format!("{}  {}\n", row.digest, printable(&row.reference)));
    Ok(Answer::text(lines.collect::<String>()))
}

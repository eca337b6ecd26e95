//! The verbs of `images`: `pull` and `list` here, the others below.

pub(crate) mod build;
mod convert;
mod export;
mod inspect;
mod keep;

use ric_images::{Digest, Store};
use serde_json::{Value, json};

use crate::Answer;
use crate::args::{ImagesVerb, ListArgs, PullArgs};
use crate::failure::Failure;
use crate::progress::watched;
use crate::session::{self, Session};
use crate::{blame, places, task};

/// Most bytes of a manifest that is read for its sizes; what is larger was not stored by us.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

pub(crate) fn images(verb: ImagesVerb) -> Result<Answer, Failure> {
    match verb {
        ImagesVerb::Pull(args) => pull(args),
        ImagesVerb::List(args) => list(&args),
        ImagesVerb::Build(args) => build::build(args),
        ImagesVerb::Inspect(args) => inspect::inspect(args),
        ImagesVerb::Remove(args) => keep::remove(args),
        ImagesVerb::Gc(args) => keep::gc(&args),
        ImagesVerb::Verify(args) => keep::verify(&args),
        ImagesVerb::Convert(args) => convert::convert(args),
        ImagesVerb::Export(args) => export::export(args),
        ImagesVerb::Import(args) => export::import(&args),
    }
}

/// Every image is fetched before any is told, so that a failure is the only thing said.
fn pull(args: PullArgs) -> Result<Answer, Failure> {
    let policy = session::load_policy(&args.policy)?;
    let caller = task::read_caller()?;
    let mut session = Session::open(policy, &caller, args.store.as_deref())?;
    if args.json {
        session.tell_events();
    }
    let mut rows = Vec::new();
    for reference in args.images {
        let reference = task::absolute(reference)?;
        let mut manifest = session.look_up(&caller, &reference, "pull")?;
        if session.make_store()? {
            manifest = session.look_up(&caller, &reference, "pull")?;
        }
        session.ensure_layers(&manifest, watched(args.json).as_ref())?;
        rows.push(manifest);
    }
    if args.json {
        let rows: Vec<Value> = rows.iter().map(|image| {
            json!({"reference": image.reference, "identity": image.identity.to_string()})
        }).collect();
        return Ok(Answer::json(&rows, 0));
    }
    let lines = rows.iter().map(|image| format!("{}  {}\n", image.identity, image.reference));
    Ok(Answer::text(lines.collect::<String>()))
}

fn list(args: &ListArgs) -> Result<Answer, Failure> {
    let root = session::find_store(args.store.as_deref())?;
    let mut rows = Vec::new();
    if places::is_store(&root) {
        let store = session::open_store(&root)?;
        for (reference, digest) in store.tags().map_err(|error| blame::store(&root, &error))? {
            let bytes = stored_bytes(&store, &digest);
            rows.push((reference, digest, bytes));
        }
    }
    if args.json {
        let rows: Vec<Value> = rows.iter().map(|(reference, digest, bytes)| {
            json!({"reference": reference, "digest": digest, "size_bytes": bytes})
        }).collect();
        return Ok(Answer::json(&rows, 0));
    }
    let width = rows.iter().map(|(reference, ..)| reference.chars().count()).max().unwrap_or(0);
    let lines = rows.iter().map(|(reference, digest, bytes)| {
        let size = bytes.map_or("?".to_owned(), |bytes| indicatif::HumanBytes(bytes).to_string());
        format!("{reference:width$}  {digest}  {size:>12}\n")
    });
    Ok(Answer::text(lines.collect::<String>()))
}

/// Bytes of an image's layers as they travel, by its manifest; `None` if that cannot be read.
fn stored_bytes(store: &Store, digest: &Digest) -> Option<u64> {
    let manifest = store.read_blob(digest, MANIFEST_BYTES_MAX).ok()??;
    let manifest: Value = serde_json::from_slice(&manifest).ok()?;
    manifest["layers"].as_array()?.iter().map(|layer| layer["size"].as_u64()).sum()
}

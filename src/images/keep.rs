//! `images remove`, `gc` and `verify`: what goes out of the store, and what must.

use std::collections::BTreeSet;

use indicatif::HumanBytes;
use ric_images::{Collect, Collected, Damage, Digest, Limits, Store, StoreError};
use serde_json::{Value, json};

use super::inspect::{not_kept, told};
use crate::Answer;
use crate::args::{GcArgs, Kept, RemoveArgs, VerifyArgs};
use crate::failure::{Failure, printable};
use crate::{blame, places, session, task};

/// Exit code of `verify` when it finds damage.
const EXIT_DAMAGED: u8 = 1;

/// Every image is found before any is removed, so that a mistake removes nothing.
pub(super) fn remove(args: RemoveArgs) -> Result<Answer, Failure> {
    let root = session::find_store(args.store.as_deref())?;
    let attempt = |image: &Kept| format!("cannot remove the image `{}`", told(image));
    if !places::is_store(&root) {
        let image = args.images.first().expect("clap wants one");
        return Err(not_kept(attempt(image), image, &root));
    }
    let store = session::open_store(&root)?;
    let failed = |error: StoreError| blame::store(&root, &error);
    let tags = store.tags().map_err(failed)?;
    let mut names = BTreeSet::new();
    for image in args.images {
        let found = names_of(&tags, image.clone())?;
        if found.is_empty() {
            return Err(not_kept(attempt(&image), &image, &root));
        }
        names.extend(found);
    }
    let mut rows = Vec::new();
    for name in names {
        // Another may have removed it in the meantime.
        if let Some(untagged) = store.untag(&name).map_err(failed)? {
            rows.push((name, untagged));
        }
    }
    let dry = Collect { dry_run: true, ..Collect::default() };
    let freeable = store.collect(dry).map_err(failed)?.freed_bytes;
    if args.json {
        let removed = rows.iter().map(|(name, untagged)| {
            json!({
                "reference": name,
                "digest": untagged.manifest,
                "manifest_removed": untagged.manifest_removed,
            })
        });
        let removed: Vec<Value> = removed.collect();
        return Ok(Answer::json(&json!({"removed": removed, "freeable_bytes": freeable}), 0));
    }
    let mut text = String::new();
    for (name, untagged) in rows {
        let kept = if untagged.manifest_removed { "" } else { "  (in use, or has another name)" };
        text += &format!("removed {}  {}{kept}\n", printable(&name), untagged.manifest);
    }
    let bytes = HumanBytes(freeable);
    text += &format!("`run-in-container images gc` can free {bytes}\n");
    Ok(Answer::text(text))
}

/// The names in the store that `image` means.
fn names_of(tags: &[(String, Digest)], image: Kept) -> Result<Vec<String>, Failure> {
    let of = |is: &dyn Fn(&(String, Digest)) -> bool| {
        tags.iter().filter(|tag| is(tag)).map(|tag| tag.0.clone()).collect()
    };
    Ok(match image {
        Kept::Digest(digest) => of(&|tag| tag.1 == digest),
        Kept::Reference(reference) => {
            let name = task::absolute(reference)?.to_string();
            of(&|tag| tag.0 == name)
        }
    })
}

pub(super) fn gc(args: &GcArgs) -> Result<Answer, Failure> {
    let root = session::find_store(args.store.as_deref())?;
    let mut collected = Collected::default();
    if places::is_store(&root) {
        let wish = Collect { max_bytes: args.max_size, dry_run: args.dry_run };
        let store = session::open_store(&root)?;
        collected = store.collect(wish).map_err(|error| blame::store(&root, &error))?;
    }
    if args.json {
        let names = collected.names.iter();
        let names = names.map(|(name, digest)| json!({"reference": name, "digest": digest}));
        let answer = json!({
            "dry_run": args.dry_run,
            "removed": names.collect::<Vec<_>>(),
            "layers": collected.layers,
            "blobs": collected.blobs,
            "partials": collected.partials,
            "caches": collected.caches,
            "in_use": collected.in_use,
            "freed_bytes": collected.freed_bytes,
            "left_bytes": collected.left_bytes,
        });
        return Ok(Answer::json(&answer, 0));
    }
    let (removed, freed) = match args.dry_run {
        true => ("would remove", "would free"),
        false => ("removed", "freed"),
    };
    let mut text = String::new();
    for (name, digest) in &collected.names {
        text += &format!("{removed} {}  {digest}\n", printable(name));
    }
    for digest in &collected.in_use {
        text += &format!("{digest} has no name but is in use, and stays\n");
    }
    text += &format!(
        "{freed} {} ({} layers, {} blobs, {} caches of builds); {} are left\n",
        HumanBytes(collected.freed_bytes),
        collected.layers.len(),
        collected.blobs.len(),
        collected.caches,
        HumanBytes(collected.left_bytes),
    );
    if args.max_size.is_some_and(|max_bytes| collected.left_bytes > max_bytes) {
        text += "that is more than `--max-size`: what is left is in use\n";
    }
    Ok(Answer::text(text))
}

/// What became of something damaged.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mended {
    /// Nobody asked.
    No,
    /// It was removed.
    Removed,
    /// It was made again of what the store has.
    MadeAgain,
    /// A container or a pull uses it.
    InUse,
}

pub(super) fn verify(args: &VerifyArgs) -> Result<Answer, Failure> {
    let root = session::find_store(args.store.as_deref())?;
    let mut found = Vec::new();
    if places::is_store(&root) {
        let store = session::open_store(&root)?;
        let failed = |error: StoreError| blame::store(&root, &error);
        for damage in store.check().map_err(failed)? {
            let mended = if args.repair { mend(&store, &damage)? } else { Mended::No };
            found.push((damage, mended));
        }
    }
    let exit_code = if found.is_empty() { 0 } else { EXIT_DAMAGED };
    if args.json {
        let rows = found.iter().map(|(damage, mended)| {
            json!({
                "path": damage.path,
                "damage": damage.what,
                "removed": *mended == Mended::Removed,
                "made_again": *mended == Mended::MadeAgain,
                "in_use": *mended == Mended::InUse,
            })
        });
        return Ok(Answer::json(&rows.collect::<Vec<_>>(), exit_code));
    }
    let mut text = String::new();
    for (damage, mended) in &found {
        let path = damage.path.to_string_lossy();
        let end = match mended {
            Mended::No => "",
            Mended::Removed => " (removed)",
            Mended::MadeAgain => " (made again)",
            Mended::InUse => " (in use, so it stays)",
        };
        text += &format!("{}: {}{end}\n", printable(&path), printable(&damage.what));
    }
    let is_removed = found.iter().any(|(_, mended)| *mended == Mended::Removed);
    text += match (found.len(), args.repair) {
        (0, _) => "ok\n",
        (_, false) => {
            "`run-in-container images verify --repair` mends or removes what is damaged\n"
        }
        (_, true) if is_removed => "the next pull of an image fetches what was removed of it\n",
        (_, true) => "",
    };
    Ok(Answer { exit_code, ..Answer::text(text) })
}

fn mend(store: &Store, damage: &Damage) -> Result<Mended, Failure> {
    match store.repair(damage, &Limits::default()) {
        Ok(true) => Ok(Mended::MadeAgain),
        Ok(false) => Ok(Mended::Removed),
        Err(StoreError::InUse { .. }) => Ok(Mended::InUse),
        Err(error) => Err(blame::store(store.root(), &error)),
    }
}

//! `images inspect`: what the store has of an image, without asking anybody else.

use std::fmt::Write as _;
use std::path::Path;

use indicatif::HumanBytes;
use ric_images::{Digest, Store, StoredImage};
use ric_runtime::Actor;
use serde_json::{Value, json};

use crate::Answer;
use crate::args::{InspectArgs, Kept};
use crate::failure::{Failure, printable};
use crate::{blame, places, session, task};

pub(super) fn inspect(args: InspectArgs) -> Result<Answer, Failure> {
    let root = session::find_store(args.store.as_deref())?;
    let attempt = || format!("cannot inspect the image `{}`", told(&args.image));
    if !places::is_store(&root) {
        return Err(not_kept(attempt(), &args.image, &root));
    }
    let store = session::open_store(&root)?;
    let digest = find(&store, args.image.clone())?;
    let image = match digest {
        Some(digest) => store.image(&digest).map_err(|error| blame::stored(&root, &error))?,
        None => None,
    };
    let image = image.ok_or_else(|| not_kept(attempt(), &args.image, &root))?;
    let names = names_of(&store, &image)?;
    if args.json {
        return Ok(Answer::json(&to_json(&store, &image, &names), 0));
    }
    Ok(Answer::text(to_text(&store, &image, &names)))
}

/// What the user called it.
pub(super) fn told(image: &Kept) -> String {
    match image {
        Kept::Reference(reference) => reference.to_string(),
        Kept::Digest(digest) => digest.to_string(),
    }
}

/// The manifest that `image` means in the store; `None` if it knows no such name.
pub(super) fn find(store: &Store, image: Kept) -> Result<Option<Digest>, Failure> {
    match image {
        Kept::Digest(digest) => Ok(Some(digest)),
        Kept::Reference(reference) => {
            let name = task::absolute(reference)?.to_string();
            store.tagged(&name).map_err(|error| blame::store(store.root(), &error))
        }
    }
}

/// The failure of whoever names an image that is not in the store.
pub(super) fn not_kept(attempt: String, image: &Kept, root: &Path) -> Failure {
    let failure = Failure::new(Actor::User, attempt)
        .cause(format!("the store {} does not have it", root.display()));
    match image {
        Kept::Reference(reference) => failure.hint(format!(
            "`run-in-container images pull {reference}` fetches it; `images list` shows what is \
             there"
        )),
        Kept::Digest(_) => failure.hint("`run-in-container images list` shows what is there"),
    }
}

pub(super) fn names_of(store: &Store, image: &StoredImage) -> Result<Vec<String>, Failure> {
    let digest = image.manifest.identity.to_string();
    let tags = store.tags().map_err(|error| blame::store(store.root(), &error))?;
    Ok(tags.into_iter().filter(|tag| tag.1.to_string() == digest).map(|tag| tag.0).collect())
}

fn to_json(store: &Store, image: &StoredImage, names: &[String]) -> Value {
    let manifest = &image.manifest;
    let config = &manifest.config;
    let layers = manifest.layers.iter().map(|layer| {
        json!({
            "digest": layer.digest,
            "diff_id": layer.diff_id,
            "size_bytes": layer.blob_bytes,
            "unpacked": store.layer(&layer.diff_id).is_some(),
            "packed": store.has_blob(&layer.digest),
        })
    });
    json!({
        "digest": manifest.identity.to_string(),
        "references": names,
        "platform": platform(image),
        "entrypoint": config.entrypoint,
        "command": config.command,
        "variables": joined(&config.variables),
        "workdir": config.workdir,
        "user": config.user,
        "labels": config.labels,
        "layers": layers.collect::<Vec<_>>(),
    })
}

fn platform(image: &StoredImage) -> Option<String> {
    let config = &image.manifest.config;
    Some(format!("{}/{}", config.os.as_ref()?, config.architecture.as_ref()?))
}

fn joined(variables: &[(String, String)]) -> Vec<String> {
    variables.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// One fact a line. What the image's maker wrote steers no terminal.
fn to_text(store: &Store, image: &StoredImage, names: &[String]) -> String {
    let manifest = &image.manifest;
    let config = &manifest.config;
    let list = |words: &[String]| {
        (!words.is_empty()).then(|| serde_json::to_string(words).expect("text has a JSON form"))
    };
    let mut facts: Vec<(&str, String)> = vec![("digest", manifest.identity.to_string())];
    facts.extend(names.iter().map(|name| ("reference", name.clone())));
    facts.extend(platform(image).map(|platform| ("platform", platform)));
    facts.extend(list(&config.entrypoint).map(|words| ("entry point", words)));
    facts.extend(list(&config.command).map(|words| ("command", words)));
    facts.extend(config.workdir.clone().map(|workdir| ("workdir", workdir)));
    facts.extend(config.user.clone().map(|user| ("user", user)));
    facts.extend(joined(&config.variables).into_iter().map(|variable| ("variable", variable)));
    facts.extend(config.labels.iter().map(|(name, value)| ("label", format!("{name}={value}"))));
    facts.extend(manifest.layers.iter().map(|layer| {
        let missing = match (store.layer(&layer.diff_id), store.has_blob(&layer.digest)) {
            (Some(_), true) => "",
            (Some(_), false) => ", unpacked only",
            (None, true) => ", not unpacked",
            (None, false) => ", not here",
        };
        let size = HumanBytes(layer.blob_bytes);
        ("layer", format!("{}, diff ID {}, {size}{missing}", layer.digest, layer.diff_id))
    }));
    let mut text = String::new();
    for (what, fact) in facts {
        let fact = printable(&fact).replace('\n', "\\n");
        let _ = writeln!(text, "{what:12} {fact}");
    }
    text
}

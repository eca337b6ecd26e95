//! Who may use what is in a store that several users share (`docs/decisions/shared-store.md`).
//!
//! What a registry gave to one user who showed credentials, another gets after the registry has
//! given it to them too: a manifest by asking for it with their own credentials, a layer by a
//! manifest of the same repository, or else by fetching the same bytes from wherever they say.

use crate::store::StoreError;
use crate::{Digest, LayerDescriptor, Reference, Store};

/// The repository of an image in a registry: what registries grant access by.
pub(crate) fn origin(reference: &Reference) -> Option<String> {
    match reference {
        Reference::Registry(name) | Reference::Oras(name) => {
            Some(format!("{}/{}", name.host, name.repository))
        }
        Reference::Host
        | Reference::Dir(_)
        | Reference::DockerDaemon(_)
        | Reference::DockerArchive(_)
        | Reference::OciLayout { .. }
        | Reference::OciArchive(_)
        | Reference::Squashfs(_)
        | Reference::Sif(_)
        | Reference::Shifter(_)
        | Reference::ShortName { .. } => None,
    }
}

/// Whether `uid` may use a document of the store without asking anybody.
pub(crate) fn may_read(store: &Store, document: &Digest, uid: u32) -> Result<bool, StoreError> {
    Ok(store.private(document)?.is_none_or(|private| private.uids.contains(&uid)))
}

/// Notes that a registry gave documents to `uid`; `with_credentials`: not to everybody.
pub(crate) fn note_documents<'a>(
    store: &Store,
    documents: impl Iterator<Item = &'a Digest>,
    reference: &Reference,
    with_credentials: bool,
    uid: u32,
) -> Result<(), StoreError> {
    let origin = origin(reference).filter(|_| with_credentials);
    for digest in documents {
        // What everybody has had stays for everybody.
        let is_known = store.has_blob(digest);
        let is_private = store.private(digest)?.is_some();
        if is_private || origin.is_some() && !is_known {
            store.note_private(digest, origin.as_deref(), uid)?;
        }
    }
    Ok(())
}

/// Whether `uid`, to whom the repository of `reference` has given the manifest, may use a layer of
/// it that the store has. If not, they may after fetching it.
pub(crate) fn may_use(
    store: &Store,
    layer: &LayerDescriptor,
    reference: &Reference,
    uid: u32,
) -> Result<bool, StoreError> {
    let origin = origin(reference);
    for name in names(layer) {
        let Some(private) = store.private(&name)? else { continue };
        if private.uids.contains(&uid) {
            continue;
        }
        if !origin.as_ref().is_some_and(|origin| private.origins.contains(origin)) {
            return Ok(false);
        }
        store.note_private(&name, None, uid)?;
    }
    Ok(true)
}

/// Notes that `uid` is about to fetch a layer from the repository of `reference` with credentials.
/// What the store has already is whose it was.
pub(crate) fn note_fetched(
    store: &Store,
    layer: &LayerDescriptor,
    reference: &Reference,
    uid: u32,
) -> Result<(), StoreError> {
    if store.has_blob(&layer.digest) || store.layer(&layer.diff_id).is_some() {
        return Ok(());
    }
    let origin = origin(reference);
    names(layer).iter().try_for_each(|name| store.note_private(name, origin.as_deref(), uid))
}

/// Notes that `uid` has had all of a layer from somewhere.
pub(crate) fn note_had(store: &Store, layer: &LayerDescriptor, uid: u32) -> Result<(), StoreError> {
    names(layer).iter().try_for_each(|name| match store.private(name)? {
        Some(_) => store.note_private(name, None, uid),
        None => Ok(()),
    })
}

/// The blob and the tree: whoever names either is given what it is.
fn names(layer: &LayerDescriptor) -> [Digest; 2] {
    [layer.digest, layer.diff_id]
}

//! A SIF in a registry (`oras:`): one blob, without a configuration of its own.
//!
//! Apptainer and Singularity push a manifest with one layer, which is the file. What an image
//! declares stands in the file alone, so all of it has to be here before anything can be decided:
//! it is fetched into the store as the blob that it is, and documents are made that name it. The
//! registry's manifest is noted in them, so that what the store has is not fetched again.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use serde_json::json;

use super::root_file::{Documents, read_sif};
use super::{Network, Source, SourceError, Top, open_registry};
use crate::document::{Descriptor, MANIFEST_OF_SIF, ManifestError, SIF_LAYER, parse_sif_manifest};
use crate::fetched::Fetched;
use crate::layer::{copy_blob, sif};
use crate::private::{may_use, note_fetched, note_had};
use crate::store::Origin;
use crate::{Access, Digest, LayerDescriptor, LayerError, MediaType, Reference, RegistryName};

/// What a registry has under a name, if that is a SIF.
pub(crate) struct SifManifest {
    registry: Box<dyn Source>,
    /// Of the registry's manifest.
    pub(crate) digest: Digest,
    sif: LayerDescriptor,
    name: PathBuf,
}

/// Why there is no SIF.
pub(crate) enum NoSif {
    /// The registry does not give it, or it is none.
    Source(SourceError),
    /// What the registry has is something else.
    Manifest(ManifestError),
    /// It broke off, is another than it should be, or cannot be kept.
    Blob(LayerError),
}

impl SifManifest {
    /// Asks what `name` is now.
    pub(crate) fn ask(name: &RegistryName, network: Network<'_>) -> Result<SifManifest, NoSif> {
        let registry = open_registry(name, network).map_err(NoSif::Source)?;
        let Top { bytes, digest, media_type } = registry.top().map_err(NoSif::Source)?;
        let Descriptor { digest: blob, blob_bytes, .. } =
            parse_sif_manifest(&bytes, media_type.as_deref()).map_err(NoSif::Manifest)?;
        let media_type = MediaType::Sif;
        let sif =
            LayerDescriptor { digest: blob, diff_id: sif::diff_id(&blob), blob_bytes, media_type };
        Ok(SifManifest {
            registry,
            digest,
            sif,
            name: PathBuf::from(Reference::Oras(name.clone()).to_string()),
        })
    }

    /// Where it is.
    pub(crate) fn source(&self) -> &dyn Source {
        self.registry.as_ref()
    }

    /// Fetches the SIF, into the store if there is one, and reads what it declares.
    pub(crate) fn fetch(
        self,
        reference: &Reference,
        access: &Access<'_>,
    ) -> Result<Declared, NoSif> {
        let most = access.limits.unpacked_bytes_max;
        if self.sif.blob_bytes > most {
            let limit = "unpacked_bytes_max";
            return Err(NoSif::Blob(LayerError::Limit { limit, most }));
        }
        let uid = access.asker.uid;
        let kept = |source| NoSif::Blob(LayerError::Store { diff_id: self.sif.diff_id, source });
        let opened_from = Cell::new(None);
        let open = |from| {
            opened_from.set(Some(from));
            let blob = self.registry.layer_from(&self.sif, from).map_err(NoSif::Source)?;
            if let (Some(store), true) = (access.store, self.registry.knows_the_asker()) {
                note_fetched(store, &self.sif, reference, uid).map_err(kept)?;
            }
            Ok(blob)
        };
        let mut blob = Fetched::new(&self.sif, access.progress, &open, &|| false, &|| ());
        let file = match access.store {
            Some(store) => store.fetch_blob(&self.sif, &mut blob),
            None => spool(&self.sif, &mut blob, access.network()),
        };
        let file = match (file, blob.into_failure()) {
            (Ok(file), _) => file,
            (Err(_), Some(error)) => return Err(error),
            (Err(error), None) => return Err(NoSif::Blob(error)),
        };
        access.progress.finished(&self.sif.digest);
        if let Some(store) = access.store.filter(|_| opened_from.get() != Some(0))
            && !may_use(store, &self.sif, reference, uid).map_err(kept)?
        {
            let mut again = open(0)?;
            copy_blob(&self.sif, &mut again, &mut io::sink()).map_err(NoSif::Blob)?;
            note_had(store, &self.sif, uid).map_err(kept)?;
        }
        let documents = self.read(&file).map_err(NoSif::Source)?;
        let is_known = self.registry.knows_the_asker();
        Ok(Declared { documents, name: self.name, is_known })
    }

    fn read(&self, file: &File) -> Result<Documents, SourceError> {
        let (sif, defaults) = read_sif(&self.name, file, self.sif.blob_bytes)?;
        let layer = json!({
            "mediaType": SIF_LAYER,
            "digest": self.sif.digest,
            "size": self.sif.blob_bytes,
            "annotations": {MANIFEST_OF_SIF: self.digest},
        });
        Ok(Documents::new(&defaults, sif.architecture, &layer, self.sif.diff_id))
    }
}

/// Brings a blob into a file that is gone when it is closed.
fn spool(
    sif: &LayerDescriptor,
    blob: &mut dyn Origin,
    network: Network<'_>,
) -> Result<File, LayerError> {
    let file = network.spool_file().map_err(|source| LayerError::Disk {
        call: "openat(2)",
        path: network.spool_folder().display().to_string(),
        diff_id: sif.diff_id,
        source,
    });
    let mut file = file?;
    let digest = sif.digest;
    blob.start(0).map_err(|source| LayerError::Read { digest, offset: 0, source })?;
    copy_blob(sif, blob, &mut file)?;
    Ok(file)
}

/// What a SIF that was fetched declares, as documents.
pub(crate) struct Declared {
    documents: Documents,
    name: PathBuf,
    /// It was given to somebody who showed credentials.
    is_known: bool,
}

impl Declared {
    fn missing(&self, digest: Digest) -> SourceError {
        SourceError::Missing { path: self.name.clone(), entry: digest.to_string() }
    }
}

impl Source for Declared {
    fn knows_the_asker(&self) -> bool {
        self.is_known
    }

    fn top(&self) -> Result<Top, SourceError> {
        Ok(self.documents.top())
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        Err(self.missing(descriptor.digest))
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.documents.config(descriptor).ok_or_else(|| self.missing(descriptor.digest))
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        // It is in the store, or comes from the registry.
        Err(self.missing(layer.digest))
    }
}

//! An OCI layout, in a directory (`oci:`) or a tar (`oci-archive:`).
//!
//! OCI image-spec v1.1, "Image Layout". Only `sha256` blobs are looked for.

use std::io::Read;

use super::{Files, Source, SourceError, Top};
use crate::document::{Descriptor, Document, ManifestError, Platform, parse_json};
use crate::shown::shown;
use crate::{Digest, LayerDescriptor};

/// Lists the manifests of a layout.
pub(super) const INDEX: &str = "index.json";

/// Marks a layout and tells its version.
pub(super) const MARK: &str = "oci-layout";

/// The only version there is.
const VERSION: &str = "1.0.0";

/// A layout, and which of its images is meant.
pub(super) struct Layout<F> {
    files: F,
    wanted: Wanted,
}

/// Which image of a layout is meant.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wanted {
    /// The only one, or the only one for this machine.
    Only,
    /// The one with this tag.
    Tag(String),
    /// The one that the index describes so.
    This(Descriptor),
}

impl<F: Files> Layout<F> {
    pub(super) fn new(files: F, wanted: Wanted) -> Layout<F> {
        Layout { files, wanted }
    }

    /// What the index describes.
    pub(super) fn manifests(&self) -> Result<Vec<Descriptor>, SourceError> {
        self.check_version()?;
        let bytes = self.files.read_document(INDEX)?;
        let wrong = |source| self.files.document_error(INDEX, source);
        match Document::parse(&bytes, None).map_err(wrong)? {
            Document::Index(manifests) => Ok(manifests),
            Document::Image { .. } => Err(wrong(ManifestError::Shape { wrong: "is no index" })),
        }
    }

    fn check_version(&self) -> Result<(), SourceError> {
        #[derive(serde::Deserialize)]
        struct Mark {
            #[serde(rename = "imageLayoutVersion")]
            version: String,
        }
        let bytes = self.files.read_document(MARK)?;
        let mark: Mark = parse_json("layout's mark", &bytes)
            .map_err(|source| self.files.document_error(MARK, source))?;
        if mark.version == VERSION {
            return Ok(());
        }
        let source = ManifestError::Value {
            field: "imageLayoutVersion",
            value: shown(&mark.version),
            expected: VERSION,
        };
        Err(self.files.document_error(MARK, source))
    }

    /// The manifest that the reference means.
    fn choose(&self) -> Result<Descriptor, SourceError> {
        let manifests = self.manifests()?;
        if let Wanted::This(wanted) = &self.wanted
            && manifests.contains(wanted)
        {
            return Ok(wanted.clone());
        }
        let is_meant = |manifest: &&Descriptor| match &self.wanted {
            Wanted::Only => true,
            Wanted::Tag(tag) => manifest.tag.as_ref() == Some(tag),
            Wanted::This(_) => false,
        };
        let mut meant: Vec<_> = manifests.iter().filter(is_meant).collect();
        if meant.len() > 1 {
            let here = Some(Platform::here());
            meant.retain(|manifest| manifest.platform == here);
        }
        match meant[..] {
            [manifest] => Ok(manifest.clone()),
            _ => Err(self.choice_error(&manifests)),
        }
    }

    fn choice_error(&self, manifests: &[Descriptor]) -> SourceError {
        let tags = manifests.iter().map(|manifest| match &manifest.tag {
            Some(tag) => format!("`{}`", shown(tag)),
            None => manifest.digest.to_string(),
        });
        let tags = tags.take(TAGS_SHOWN_MAX).collect::<Vec<_>>().join(", ");
        let offered = match manifests.len() {
            0 => "no images".to_owned(),
            count => format!("{count} images ({tags})"),
        };
        let wanted = match &self.wanted {
            Wanted::Only => "and the reference does not say which is meant".to_owned(),
            Wanted::Tag(tag) => format!("not one `{tag}` for {}", Platform::here()),
            Wanted::This(manifest) => format!("not one {} any more", manifest.digest),
        };
        SourceError::Choice { path: self.files.path().to_owned(), offered, wanted }
    }
}

/// Tags that a message lists: enough to see a spelling mistake.
const TAGS_SHOWN_MAX: usize = 10;

impl<F: Files> Source for Layout<F> {
    fn top(&self) -> Result<Top, SourceError> {
        let manifest = self.choose()?;
        let bytes = self.document(&manifest)?;
        Ok(Top { bytes, digest: manifest.digest, media_type: Some(manifest.media_type) })
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.files.read_blob(&blob_name(descriptor.digest), descriptor)
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        self.document(descriptor)
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        Ok(self.files.open_file(&blob_name(layer.digest))?.0)
    }
}

/// Where a layout keeps a blob.
fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

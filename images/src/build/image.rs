//! The documents of an image that was built.

use crate::manifest::write_manifest;
use crate::{
    Config, Digest, History, Identity, LayerDescriptor, Manifest, Store, StoreError, write_config,
};

/// An image as far as it is built.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Draft {
    /// What it declares.
    pub config: Config,
    /// Its layers, lowest first.
    pub layers: Vec<LayerDescriptor>,
    /// How it came about, lowest first.
    pub history: Vec<History>,
}

impl Draft {
    /// Writes manifest and configuration into the store, and lets `reference` mean the image.
    ///
    /// # Errors
    /// [`StoreError`]; then `reference` means what it did.
    pub fn store(&self, store: &Store, reference: &str) -> Result<Manifest, StoreError> {
        let (manifest, config) = self.documents();
        let digest = Digest::of(&manifest);
        for bytes in [&config, &manifest] {
            store.keep_document(&Digest::of(bytes), bytes)?;
        }
        store.tag_used(reference, &digest, rustix::process::geteuid().as_raw())?;
        Ok(Manifest {
            identity: Identity::Digest(digest),
            reference: reference.to_owned(),
            config: self.config.clone(),
            layers: self.layers.clone(),
            of_root: false,
        })
    }

    /// What stands for the layers of this image: equal for equal layers.
    pub fn chain(&self) -> Digest {
        let diff_ids = self.layers.iter().map(|layer| layer.diff_id.to_string());
        Digest::of(diff_ids.collect::<Vec<_>>().join("\n").as_bytes())
    }

    fn documents(&self) -> (Vec<u8>, Vec<u8>) {
        let diff_ids: Vec<Digest> = self.layers.iter().map(|layer| layer.diff_id).collect();
        let config = write_config(&self.config, &diff_ids, &self.history);
        (write_manifest(&config, &self.layers), config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MediaType, read_documents};

    #[test]
    fn documents_read_back_as_the_image_that_was_built() {
        let layer = |text: &[u8]| LayerDescriptor {
            digest: Digest::of(text),
            diff_id: Digest::of(&[text, b"!"].concat()),
            blob_bytes: 7,
            media_type: MediaType::TarGzip,
        };
        let draft = Draft {
            config: Config {
                variables: vec![("A".into(), "b c".into())],
                command: vec!["sh".into()],
                os: Some("linux".into()),
                architecture: Some("amd64".into()),
                ..Config::default()
            },
            layers: vec![layer(b"1"), layer(b"2")],
            history: Vec::new(),
        };
        let (manifest, config) = draft.documents();
        let read = read_documents(&manifest, &config).unwrap();
        assert_eq!((read.config, read.layers), (draft.config.clone(), draft.layers.clone()));
        assert_ne!(Draft { layers: vec![layer(b"1")], ..draft.clone() }.chain(), draft.chain());
    }
}

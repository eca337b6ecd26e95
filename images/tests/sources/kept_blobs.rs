//! Layers as they were packed: kept beside their trees, read again, and used in place of a fetch.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use ric_images::{
    Collect, Digest, Image, LayerDescriptor, LayerError, Limits, Manifest, Store, StoreError,
};

use super::image_fixture::{Fixture, Layer};
use super::registry::{Site, chain, three_layers};

/// Three layers in a store, by way of the registry.
fn pulled() -> (Site, Fixture, Manifest, Image) {
    let (site, fixture) = (Site::new(), three_layers());
    site.registry.offer("a", "1", &fixture);
    let manifest = site.resolve("a:1").unwrap();
    let image = site.ensure(&manifest).unwrap();
    (site, fixture, manifest, image)
}

fn blob_file(site: &Site, blob: &Digest) -> PathBuf {
    site.directory.path().join("store/blobs/sha256").join(blob.hex())
}

fn read(mut from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map(|_| bytes)
}

fn tar(store: &Store, layer: &LayerDescriptor, limits: &Limits) -> Result<Vec<u8>, LayerError> {
    let tar = store.layer_tar(layer, limits)?;
    read(tar).map_err(|error| *error.into_inner().unwrap().downcast().unwrap())
}

#[test]
fn layers_are_kept_as_they_came() {
    let (site, fixture, manifest, _image) = pulled();
    for (layer, made) in manifest.layers.iter().zip(&fixture.layers) {
        let blob = site.store.open_blob(&layer.digest, layer.blob_bytes).unwrap().unwrap();
        assert_eq!(read(blob).unwrap(), made.blob);
        assert_eq!(tar(&site.store, layer, &Limits::default()).unwrap(), made.tar);
    }
    assert!(site.store.open_blob(&Digest::of(b"another"), 1).unwrap().is_none());
    assert_eq!(site.store.check().unwrap(), []);
}

/// Every byte of a blob is verified by whoever reads it, and the last ones are not handed out
/// before.
#[test]
fn a_blob_that_is_another_now_is_not_read() {
    let (site, fixture, manifest, _image) = pulled();
    for (layer, made) in manifest.layers.iter().zip(&fixture.layers) {
        let file = blob_file(&site, &layer.digest);
        for at in [0, made.blob.len() / 2, made.blob.len() - 1] {
            let mut bytes = made.blob.clone();
            bytes[at] ^= 1;
            fs::write(&file, &bytes).unwrap();
            let blob = site.store.open_blob(&layer.digest, layer.blob_bytes).unwrap().unwrap();
            read(blob).unwrap_err();
            let error = tar(&site.store, layer, &Limits::default()).unwrap_err();
            assert!(matches!(error, LayerError::Blob { .. }), "byte {at}: {error}");
        }
        fs::write(&file, [&made.blob[..], b"x"].concat()).unwrap();
        tar(&site.store, layer, &Limits::default()).unwrap_err();
    }
    let damage = site.store.check().unwrap();
    assert_eq!(damage.len(), 3, "{damage:?}");
}

#[test]
fn a_tar_is_that_of_its_diff_id_and_within_the_limits() {
    let (site, _, manifest, _image) = pulled();
    for layer in &manifest.layers {
        let diff_id = Digest::of(b"another");
        let other = LayerDescriptor { diff_id, ..layer.clone() };
        let mut stream = site.store.layer_tar(&other, &Limits::default()).unwrap();
        let mut seen = Vec::new();
        let error = stream.read_to_end(&mut seen).unwrap_err();
        assert!(error.to_string().contains("should unpack to"), "{error}");
        assert_eq!(seen, b"", "a tar of one chunk, which is withheld");
        stream.read_to_end(&mut seen).unwrap_err();

        let limits = Limits { unpacked_bytes_max: 512, ..Limits::default() };
        let error = tar(&site.store, layer, &limits).unwrap_err();
        assert!(matches!(error, LayerError::Limit { .. }), "{error}");
    }
}

/// Who stops reading a large tar early leaves no thread that waits for ever.
#[test]
fn a_tar_need_not_be_read_to_its_end() {
    let site = Site::new();
    let layer = Layer::gzip("large", &"0123456789abcdef".repeat(1 << 20));
    site.registry.offer("a", "1", &Fixture::new(vec![layer.clone()]));
    let manifest = site.resolve("a:1").unwrap();
    let _image = site.ensure(&manifest).unwrap();
    let mut tar = site.store.layer_tar(&manifest.layers[0], &Limits::default()).unwrap();
    let mut start = [0; 1000];
    tar.read_exact(&mut start).unwrap();
    assert_eq!(start, layer.tar[..1000]);
    drop(tar);
}

/// The tree runs without its blob; what needs the blob says what is missing.
#[test]
fn a_tree_does_without_its_blob() {
    let (site, _, manifest, image) = pulled();
    let layer = &manifest.layers[0];
    fs::remove_file(blob_file(&site, &layer.digest)).unwrap();
    let requests = site.registry.asked().len();
    assert_eq!(site.ensure(&manifest).unwrap().layers, image.layers);
    assert_eq!(site.registry.asked().len(), requests, "what runs is not fetched again");
    let error = site.store.layer_tar(layer, &Limits::default()).unwrap_err();
    assert!(matches!(error, LayerError::NotKept { .. }), "{error}");
    assert!(error.to_string().contains(&layer.digest.to_string()), "{error}");
}

/// A tree that is gone is unpacked from the blob; nobody is asked.
#[test]
fn a_blob_that_is_there_is_not_fetched() {
    let (site, _, manifest, image) = pulled();
    drop(image);
    for tree in fs::read_dir(site.directory.path().join("store/layers")).unwrap() {
        fs::remove_dir_all(tree.unwrap().path()).unwrap();
    }
    let requests = site.registry.asked().len();
    let image = site.ensure(&manifest).unwrap();
    assert_eq!(fs::read_to_string(image.layers[2].join("three")).unwrap(), "3");
    assert_eq!(site.registry.asked().len(), requests);
}

/// One that is damaged, or not all there, is fetched once and replaced.
#[test]
fn a_damaged_blob_is_fetched_anew() {
    for damage in [|blob: &mut Vec<u8>| blob[40] ^= 1, |blob: &mut Vec<u8>| blob.truncate(40)] {
        let (site, fixture, manifest, image) = pulled();
        drop(image);
        for (layer, made) in manifest.layers.iter().zip(&fixture.layers) {
            let tree = site.directory.path().join("store/layers").join(layer.diff_id.hex());
            fs::remove_dir_all(tree).unwrap();
            let mut bytes = made.blob.clone();
            damage(&mut bytes);
            fs::write(blob_file(&site, &layer.digest), bytes).unwrap();
        }
        let requests = site.registry.asked().len();
        site.ensure(&manifest).unwrap();
        assert_eq!(site.registry.asked().len(), requests + 3);
        assert_eq!(site.store.check().unwrap(), []);
    }
}

/// A blob stays as long as somebody uses the layer that it came from, and goes with it.
#[test]
fn a_blob_goes_with_its_layer() {
    let (site, _, manifest, image) = pulled();
    let is_there = |layer: &LayerDescriptor| blob_file(&site, &layer.digest).exists();
    site.store.untag(&manifest.reference).unwrap();
    site.store.collect(Collect::default()).unwrap();
    assert!(manifest.layers.iter().all(is_there));
    let error = site.store.remove_layer(&manifest.layers[0].diff_id).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{}", chain(&error));
    drop(image);
    site.store.remove_layer(&manifest.layers[0].diff_id).unwrap();
    assert!(!is_there(&manifest.layers[0]) && is_there(&manifest.layers[1]));
    let collected = site.store.collect(Collect::default()).unwrap();
    assert!(!manifest.layers.iter().any(is_there));
    assert!(manifest.layers[1..].iter().all(|layer| collected.blobs.contains(&layer.digest)));
}

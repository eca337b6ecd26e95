//! An image of the store as an archive for `docker load`.

use std::fs::File;
use std::io::Read as _;

use ric_images::{
    Access, Asker, CredentialFiles, DockerArchiveError, Form, Identity, LayerError, Limits,
    LocalDocker, Manifest, Reference, Registries, Silent, Store, StoredImage, Timeouts, ensure,
    resolve,
};

use super::image_fixture::{Fixture, Layer, index_of, write_layout};

fn access<T>(store: &Store, then: impl FnOnce(&Access<'_>) -> T) -> T {
    then(&Access {
        store: Some(store),
        asker: &Asker::default(),
        registries: &Registries::default(),
        shifter_folders: &[],
        below: &[],
        credentials: &CredentialFiles::default(),
        docker: &LocalDocker::default(),
        host_fingerprint: "host:1",
        limits: &Limits::default(),
        timeouts: Timeouts::default(),
        progress: &Silent,
    })
}

/// An image with a layer of each kind, in a new store.
fn stored(directory: &tempfile::TempDir) -> (Store, StoredImage) {
    let layers = vec![
        Layer::plain("plain", "one"),
        Layer::gzip("gzip", "two"),
        Layer::zstd("zstd", "three"),
    ];
    let fixture = Fixture::new(layers);
    let layout = directory.path().join("layout");
    write_layout(&layout, &index_of(vec![fixture.entry(None, None)]), &fixture.blobs());
    let store = Store::open(&directory.path().join("store")).unwrap();
    let manifest: Manifest = access(&store, |access| {
        let manifest = resolve(&Reference::OciLayout { path: layout, tag: None }, access).unwrap();
        ensure(&manifest, Form::Layers, access).unwrap();
        manifest
    });
    let Identity::Digest(digest) = manifest.identity else { panic!("{:?}", manifest.identity) };
    let stored = store.image(&digest).unwrap().expect("it was just put there");
    (store, stored)
}

/// Docker knows the image by the digest of its configuration, and unpacks gzip itself; whatever
/// else a layer is packed with, it gets the tar.
#[test]
fn archive_for_docker_is_the_same_image() {
    let directory = tempfile::tempdir().unwrap();
    let (store, stored) = stored(&directory);
    let name = "run-in-container:1";
    let mut archive = store.docker_archive(&stored, name, &Limits::default()).unwrap();
    let path = directory.path().join("image.tar");
    std::io::copy(&mut archive, &mut File::create(&path).unwrap()).unwrap();
    assert_eq!(std::fs::read_dir(directory.path().join("store/tmp")).unwrap().count(), 0);

    let again = Store::open(&directory.path().join("again")).unwrap();
    let manifest = access(&again, |access| {
        let manifest = resolve(&Reference::DockerArchive(path.clone()), access).unwrap();
        ensure(&manifest, Form::Layers, access).unwrap();
        manifest
    });
    let diff_ids =
        |manifest: &Manifest| manifest.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>();
    assert_eq!(diff_ids(&manifest), diff_ids(&stored.manifest));
    let Identity::Digest(digest) = manifest.identity else { panic!("{:?}", manifest.identity) };
    let read = again.image(&digest).unwrap().unwrap();
    assert_eq!(read.configuration, stored.configuration);

    let mut packed = tar::Archive::new(File::open(&path).unwrap());
    let starts = packed.entries().unwrap().map(|entry| {
        let mut start = [0; 2];
        let mut entry = entry.unwrap();
        entry.read_exact(&mut start).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), start)
    });
    let starts: Vec<(String, [u8; 2])> = starts.collect();
    assert_eq!(starts[0].0, "manifest.json");
    let gzip = starts.iter().filter(|(_, start)| *start == [0x1f, 0x8b]).count();
    let zstd = starts.iter().filter(|(_, start)| *start == [0x28, 0xb5]).count();
    assert_eq!((gzip, zstd), (1, 0), "{starts:?}");
}

#[test]
fn archive_for_docker_needs_every_layer() {
    let directory = tempfile::tempdir().unwrap();
    let (store, stored) = stored(&directory);
    let layer = &stored.manifest.layers[1];
    let blob = directory.path().join("store/blobs/sha256").join(layer.digest.hex());
    let kept = std::fs::read(&blob).unwrap();
    std::fs::remove_file(&blob).unwrap();
    match store.docker_archive(&stored, "name:1", &Limits::default()) {
        Err(DockerArchiveError::Layer { diff_id, source }) => {
            assert_eq!(diff_id, layer.diff_id);
            assert!(matches!(*source, LayerError::NotKept { .. }), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
    // And nothing else than that layer.
    let mut damaged = kept.clone();
    damaged[kept.len() / 2] ^= 1;
    std::fs::write(&blob, damaged).unwrap();
    let written = store.docker_archive(&stored, "name:1", &Limits::default());
    assert!(matches!(written, Err(DockerArchiveError::Write { .. })), "{written:?}");
}

//! A SIF in a registry: fetched once, whoever asks and whatever breaks off, and known again.

use std::collections::BTreeMap;
use std::sync::Mutex;

use ric_images::{
    Collect, Digest, Form, Image, Manifest, PullError, Reference, ResolveError, ensure, resolve,
};
use serde_json::{Value, json};

use super::fault_registry::{Answer, content};
use super::image_fixture::MANIFEST;
use super::registry::{Site, chain, three_layers};
use super::sif_file::{ELSEWHERE, HERE, config_object, root_object, sif};

const LAYER: &str = "application/vnd.sylabs.sif.layer.v1.sif";

/// As Apptainer 1.4 pushes it.
fn manifest_of(sif: &[u8], media_type: &str) -> Value {
    let empty = Digest::of(b"{}");
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.sylabs.sif.config.v1+json", "digest": empty, "size": 2
        },
        "layers": [{
            "mediaType": media_type,
            "digest": Digest::of(sif),
            "size": sif.len(),
            "annotations": {"org.opencontainers.image.title": "a.sif"},
        }],
    })
}

fn image() -> Vec<u8> {
    sif(HERE, &[config_object(r#"{"Entrypoint":["/bin/tool"],"Env":["A=b"]}"#), root_object(HERE)])
}

fn offer(site: &Site, tag: &str, manifest: &Value, sif: &[u8]) -> Digest {
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    for name in [tag.to_owned(), digest.to_string()] {
        let answer = Answer::Content(MANIFEST.to_owned(), bytes.clone());
        site.registry.answer(&format!("/v2/a/manifests/{name}"), vec![answer]);
    }
    site.registry.answer(&blob_path(sif), vec![content(sif)]);
    digest
}

fn blob_path(sif: &[u8]) -> String {
    format!("/v2/a/blobs/{}", Digest::of(sif))
}

fn named(site: &Site, name: &str) -> Reference {
    format!("oras://{}/{name}", site.registry.host()).parse().unwrap()
}

fn find(site: &Site, name: &str) -> Result<Manifest, ResolveError> {
    site.with_access(|access| resolve(&named(site, name), access))
}

fn pull(site: &Site, name: &str) -> (Manifest, Image) {
    let manifest = find(site, name).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let image = site.ensure(&manifest).unwrap_or_else(|error| panic!("{}", chain(&error)));
    (manifest, image)
}

#[test]
fn sif_in_a_registry_is_fetched_once_and_is_what_the_file_is() {
    let (site, file) = (Site::new(), image());
    let digest = offer(&site, "1", &manifest_of(&file, LAYER), &file);
    let (manifest, image) = pull(&site, "a:1");
    assert_eq!(manifest.config.entrypoint, ["/bin/tool"]);
    assert_eq!(manifest.config.variables, [("A".to_owned(), "b".to_owned())]);
    assert_eq!(std::fs::read(image.layers[0].join("bin/motd")).unwrap(), b"hello\n");
    assert_eq!(manifest.layers[0].digest, Digest::of(&file), "the file itself is the blob");
    assert_eq!(site.registry.asked_for(&blob_path(&file)), 1);

    let requests = site.registry.asked().len();
    assert_eq!(pull(&site, "a:1"), (manifest.clone(), image.clone()));
    assert_eq!(site.registry.asked().len(), requests + 1, "the tag alone is asked for anew");
    let pinned = pull(&site, &format!("a@{digest}"));
    assert_eq!((pinned.0.identity, pinned.1), (manifest.identity, image));
    assert_eq!(site.registry.asked().len(), requests + 1, "a pinned one is not");

    let collected = site.store.collect(Collect::default()).unwrap();
    assert_eq!((collected.layers, collected.blobs), (vec![], vec![]));
}

#[test]
fn sif_of_the_first_versions_is_read() {
    let (site, file) = (Site::new(), image());
    let old = manifest_of(&file, "appliciation/vnd.sylabs.sif.layer.tar");
    offer(&site, "1", &old, &file);
    pull(&site, "a:1");
}

#[test]
fn sif_that_breaks_off_is_gone_on_with() {
    let (site, file) = (Site::new(), image());
    offer(&site, "1", &manifest_of(&file, LAYER), &file);
    let path = blob_path(&file);
    // Gives up, and what came stays for the next who asks.
    site.registry.answer(&path, vec![Answer::Part(1000, file.clone()), Answer::Reset]);
    let error = find(&site, "a:1").unwrap_err();
    assert!(matches!(error, ResolveError::Blob { .. }), "{}", chain(&error));
    site.registry.answer(&path, vec![Answer::Part(usize::MAX, file.clone())]);
    pull(&site, "a:1");
    let last = site.registry.asked().into_iter().rfind(|asked| asked.path == path).unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=1000-"));
}

#[test]
fn other_bytes_than_the_manifest_names_are_refused_and_not_kept() {
    let (site, file) = (Site::new(), image());
    offer(&site, "1", &manifest_of(&file, LAYER), &file);
    let mut other = file.clone();
    *other.last_mut().unwrap() ^= 1;
    for wrong in [other, [&file[..], b"x"].concat(), file[..100].to_vec()] {
        site.registry.answer(&blob_path(&file), vec![content(&wrong)]);
        let message = chain(&find(&site, "a:1").unwrap_err());
        assert!(message.contains("is not what its manifest names"), "{message}");
        assert!(!site.store.has_blob(&Digest::of(&file)));
    }
    site.registry.answer(&blob_path(&file), vec![content(&file)]);
    pull(&site, "a:1");
}

#[test]
fn what_is_no_sif_is_refused_by_what_it_is() {
    let (site, file) = (Site::new(), image());
    let two = {
        let mut manifest = manifest_of(&file, LAYER);
        let layer = manifest["layers"][0].clone();
        manifest["layers"].as_array_mut().unwrap().push(layer);
        manifest
    };
    let tar = manifest_of(&file, "application/vnd.oci.image.layer.v1.tar");
    for (manifest, expected) in [(two, "has several layers"), (tar, "expected `application/vnd.sy")]
    {
        offer(&site, "1", &manifest, &file);
        let message = chain(&find(&site, "a:1").unwrap_err());
        assert!(message.contains(expected), "{message}");
    }
    site.registry.offer("a", "2", &three_layers());
    let error = find(&site, "a:2").unwrap_err();
    assert!(error.hint().unwrap().contains("docker://"), "{}", chain(&error));
    assert_eq!(site.registry.asked_for(&blob_path(&file)), 0, "nothing was fetched");

    let elsewhere = sif(ELSEWHERE, &[root_object(ELSEWHERE)]);
    for (bytes, expected) in [
        (&b"#!/bin/sh\n"[..], "oras://"),
        (&elsewhere, "this machine runs"),
        (&file[..600], "is not a usable SIF"),
    ] {
        offer(&site, "1", &manifest_of(bytes, LAYER), bytes);
        let message = chain(&find(&site, "a:1").unwrap_err());
        assert!(message.contains(expected), "{message}");
    }
    // The other way round, and what to write.
    offer(&site, "3", &manifest_of(&file, LAYER), &file);
    let error = site.resolve("a:3").unwrap_err();
    assert!(error.hint().unwrap().contains("oras://"), "{}", chain(&error));
}

#[test]
fn sif_larger_than_any_image_may_be_is_not_asked_for() {
    let (site, file) = (Site::new(), image());
    let mut manifest = manifest_of(&file, LAYER);
    manifest["layers"][0]["size"] = json!(u64::MAX);
    offer(&site, "1", &manifest, &file);
    let message = chain(&find(&site, "a:1").unwrap_err());
    assert!(message.contains("unpacked_bytes_max"), "{message}");
    assert_eq!(site.registry.asked_for(&blob_path(&file)), 0);
}

/// What it declares is known, so that the registry is asked for its layer like for any other.
#[test]
fn sif_that_is_gone_is_fetched_again() {
    let (site, file) = (Site::new(), image());
    offer(&site, "1", &manifest_of(&file, LAYER), &file);
    let pull = || {
        site.reopen_store(|store| {
            site.with_access_to(store, |access| {
                let manifest = resolve(&named(&site, "a:1"), access).unwrap();
                ensure(&manifest, Form::Layers, access).unwrap();
                manifest.layers[0].diff_id
            })
        })
    };
    let diff_id = pull();
    site.store.remove_layer(&diff_id).unwrap();
    assert!(!site.store.has_blob(&Digest::of(&file)));
    pull();
    assert_eq!(site.registry.asked_for(&blob_path(&file)), 2);
}

#[test]
fn many_that_ask_at_once_fetch_it_once() {
    let (site, file) = (Site::new(), image());
    offer(&site, "1", &manifest_of(&file, LAYER), &file);
    let found = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let image = site.reopen_store(|store| {
                    site.with_access_to(store, |access| -> Result<Image, PullError> {
                        let manifest = resolve(&named(&site, "a:1"), access).unwrap();
                        ensure(&manifest, Form::Layers, access)
                    })
                });
                let identity = image.unwrap().identity.to_string();
                *found.lock().unwrap().entry(identity).or_insert(0) += 1;
            });
        }
    });
    assert_eq!(found.into_inner().unwrap().into_values().collect::<Vec<_>>(), [10]);
    assert_eq!(site.registry.asked_for(&blob_path(&file)), 1);
}

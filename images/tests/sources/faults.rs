//! Registries at their worst: endless answers, absurd numbers, and nothing that can be relied on.

use std::time::{Duration, Instant};

use ric_images::Digest;
use serde_json::{Value, json};

use super::fault_registry::{Answer, content};
use super::image_fixture::{Fixture, Layer, MANIFEST};
use super::registry::{Site, blob_path, chain, three_layers};

/// Most requests for one thing.
const TRIES: usize = 5;

fn document(site: &Site, tag: &str, document: &Value) {
    let answer = Answer::Content(MANIFEST.to_owned(), document.to_string().into_bytes());
    site.registry.answer(&format!("/v2/a/manifests/{tag}"), vec![answer]);
}

fn manifest_of(layers: Vec<Value>) -> Value {
    let config = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": Digest::of(b"{}"),
        "size": 2,
    });
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
}

fn layer(digest: &str) -> Value {
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    json!({"mediaType": media_type, "digest": digest, "size": 3})
}

/// T107. What never ends is read as far as a document may go, and no further.
#[test]
fn documents_that_never_end_are_cut_off() {
    let site = Site::new();
    let fixture = three_layers();
    site.registry.offer("a", "1", &fixture);
    for path in ["/v2/a/manifests/1".to_owned(), blob_path(&fixture.config)] {
        site.registry.answer(&path, vec![Answer::Endless]);
        let message = site.refusal("a:1");
        assert!(message.contains("more than 4194304 bytes"), "{message}");
        site.registry.offer("a", "1", &fixture);
    }
    // The token of a service that talks without end is no token.
    site.registry.want_token("token");
    site.registry.answer("/token", vec![Answer::Endless]);
    let message = site.refusal("a:1");
    assert!(message.contains("gave no usable token"), "{message}");
    // Neither is its refusal read to the end.
    site.registry.answer("/token", vec![Answer::EndlessRefusal]);
    assert!(site.refusal("a:1").contains("only to those who log in"));
}

/// T107. A hundred thousand layers do not fit into a document, and those that do are too many.
#[test]
fn lists_of_layers_without_end_are_refused_by_their_length() {
    let site = Site::new();
    let digest = Digest::of(b"x").to_string();
    document(&site, "many", &manifest_of(vec![layer(&digest); 20_000]));
    let message = site.refusal("a:many");
    assert!(message.contains("has 20000 layers, at most 1000"), "{message}");
    document(&site, "more", &manifest_of(vec![layer(&digest); 100_000]));
    assert!(site.refusal("a:more").contains("more than 4194304 bytes"));
    assert_eq!(site.registry.asked().len(), 2);
}

/// T106. No path and no request is made of a digest that is none.
#[test]
fn digests_that_are_none_reach_neither_disk_nor_network() {
    let site = Site::new();
    let right = Digest::of(b"x").to_string();
    let long = format!("sha256:{}", "a".repeat(1 << 20));
    for wrong in [
        "sha256:../../../../etc/passwd",
        &right.to_uppercase(),
        &right[..right.len() - 1],
        "sha512:00",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha256:",
        "",
        "sha256:a?b#c",
        &long,
    ] {
        for number in [0, 1] {
            let mut manifest = manifest_of(vec![layer(&right)]);
            match number {
                0 => manifest["config"]["digest"] = json!(wrong),
                _ => manifest["layers"][0]["digest"] = json!(wrong),
            }
            document(&site, "1", &manifest);
            let before = site.registry.asked().len();
            let message = site.refusal("a:1");
            assert!(message.contains("digest") && message.len() < 1000, "{message}");
            assert_eq!(site.registry.asked().len(), before + 1, "the manifest alone");
        }
    }
    let blobs = std::fs::read_dir(site.store.root().join("blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 0);
}

/// T114. What no registry means is not waited for, and not taken for no wait at all.
#[test]
fn absurd_waits_are_not_waited_for() {
    for (header, tries) in [
        ("Retry-After: 1000000000", 1),
        ("Retry-After: 18446744073709551615", 1),
        // More than can be counted, or no number: as if it said nothing.
        ("Retry-After: 99999999999999999999999", TRIES),
        ("Retry-After: -1", TRIES),
        ("Retry-After: soon", TRIES),
    ] {
        let site = Site::new();
        let busy = Answer::Status(429, header.to_owned(), String::new());
        site.registry.answer("/v2/a/manifests/1", vec![busy]);
        let started = Instant::now();
        site.resolve("a:1").unwrap_err();
        assert_eq!(site.registry.asked_for("/v2/a/manifests/1"), tries, "{header}");
        assert!(started.elapsed() < Duration::from_secs(60), "{header}");
    }
}

/// T110. One pull waits for a registry that has fallen silent; another is done meanwhile.
#[test]
fn a_pull_that_stalls_holds_up_no_other() {
    let mut site = Site::new();
    let (slow, quick) = (Layer::gzip("slow", "1"), Layer::gzip("quick", "2"));
    let fixtures = [&slow, &quick].map(|layer| Fixture::new(vec![layer.clone()]));
    site.registry.offer("a", "slow", &fixtures[0]);
    site.registry.offer("a", "quick", &fixtures[1]);
    site.registry.answer(&blob_path(&slow.blob), vec![Answer::SilenceAfter(9, slow.blob.clone())]);
    // Far longer than the test may take.
    site.set_answer_timeout(Duration::from_secs(600));
    let site = &site;
    std::thread::scope(|scope| {
        let stalled = site.resolve("a:slow").unwrap();
        let waiting = scope.spawn(move || site.ensure(&stalled));
        while site.registry.asked_for(&blob_path(&slow.blob)) == 0 {
            std::thread::yield_now();
        }
        site.ensure(&site.resolve("a:quick").unwrap()).unwrap();
        assert!(!waiting.is_finished());
        // The registry comes back to itself by hanging up.
        site.registry.answer(&blob_path(&slow.blob), vec![content(&slow.blob)]);
        site.registry.hang_up();
        waiting.join().unwrap().unwrap();
    });
}

/// T115. Three requests in ten fail in one way or another.
#[test]
fn two_hundred_pulls_from_a_registry_that_stumbles_end_well_or_say_why() {
    let site = Site::new();
    let layer = Layer::plain("file", &"0123456789".repeat(500));
    let fixture = Fixture::new(vec![layer.clone()]);
    site.registry.offer("a", "1", &fixture);
    site.registry
        .answer(&blob_path(&layer.blob), vec![Answer::Part(usize::MAX, layer.blob.clone())]);
    site.registry.stumble(30);
    let (mut well, mut said) = (0, 0);
    for _ in 0..200 {
        let before = site.registry.asked().len();
        let pulled = match site.resolve("a:1") {
            Ok(manifest) => site.ensure(&manifest).map(drop).map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        };
        match pulled {
            Ok(()) => well += 1,
            Err(message) => {
                let names_it = message.contains(&site.registry.host());
                assert!(names_it || message.contains("blob"), "{message}");
                said += 1;
            }
        }
        let asked = site.registry.asked().len() - before;
        // Of a layer, both the answer and the rest of it are asked for so often.
        assert!(asked <= 4 * TRIES, "{asked} requests");
        // As little as there is: the next pull fetches it again.
        let _ = site.store.remove_layer(&Digest::of(&layer.tar));
    }
    assert!(well > 150 && well + said == 200, "{well} went well, {said} did not");
}

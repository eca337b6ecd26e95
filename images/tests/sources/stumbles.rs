//! Registries that stumble: busy, gone for a moment, or breaking off in the middle of a layer.

use ric_images::{Digest, PullError};

use super::fault_registry::{Answer, content};
use super::image_fixture::{Layer, MANIFEST};
use super::registry::{Site, blob_path, chain, three_layers};

/// Times that one request is sent.
const TRIES: usize = 5;

fn status(status: u16, header: &str) -> Answer {
    Answer::Status(status, header.to_owned(), String::new())
}

/// A layer whose blob has more than `bytes` bytes.
fn layer_of(bytes: usize) -> Layer {
    Layer::plain("file", &"0123456789abcdef".repeat(bytes / 16 + 1))
}

/// What was asked for of the layer, one after the other.
fn ranges(site: &Site, layer: &Layer) -> Vec<Option<String>> {
    let path = blob_path(&layer.blob);
    let asked = site.registry.asked().into_iter().filter(|asked| asked.path == path);
    asked.map(|asked| asked.range).collect()
}

#[test]
fn asks_again_while_the_registry_is_busy_but_not_for_ever() {
    for busy in [429, 502, 503, 504] {
        let site = Site::new();
        let fixture = three_layers();
        site.registry.offer("a", "1", &fixture);
        let manifest = Answer::Content(MANIFEST.to_owned(), fixture.manifest.clone());
        let busy = || status(busy, "Retry-After: 0");
        site.registry.answer("/v2/a/manifests/1", vec![busy(), busy(), manifest]);
        site.resolve("a:1").unwrap();
        site.registry.answer("/v2/a/manifests/2", vec![busy()]);
        assert!(site.refusal("a:2").contains("the registry answered"));
        assert_eq!(site.registry.asked_for("/v2/a/manifests/2"), TRIES);
    }
}

#[test]
fn asks_once_where_time_does_not_help() {
    for refusal in [400, 403, 404, 405, 418, 451, 500, 501] {
        let site = Site::new();
        site.registry.answer("/v2/a/manifests/1", vec![status(refusal, "Retry-After: 0")]);
        site.resolve("a:1").unwrap_err();
        assert_eq!(site.registry.asked_for("/v2/a/manifests/1"), 1, "{refusal}");
    }
}

/// An hour is longer than is waited for; a date that is over is not waited for.
#[test]
fn heeds_what_the_registry_says_about_time() {
    let site = Site::new();
    site.registry.answer("/v2/a/manifests/1", vec![status(429, "Retry-After: 3600")]);
    let error = site.resolve("a:1").unwrap_err();
    assert!(error.hint().unwrap().contains("wait for 3600 s"), "{:?}", error.hint());
    assert_eq!(site.registry.asked_for("/v2/a/manifests/1"), 1);

    for date in ["Fri, 31 Dec 9999 23:59:59 GMT", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        let site = Site::new();
        let header = format!("Retry-After: {date}");
        site.registry.answer("/v2/a/manifests/1", vec![status(503, &header)]);
        site.resolve("a:1").unwrap_err();
        let tries = if date.contains("9999") { 1 } else { TRIES };
        assert_eq!(site.registry.asked_for("/v2/a/manifests/1"), tries, "{date}");
    }
}

#[test]
fn asks_a_busy_token_service_again_and_names_it_in_the_end() {
    let site = Site::new();
    site.registry.offer("a", "1", &three_layers());
    site.registry.want_token("token");
    let token = content(br#"{"token": "token"}"#);
    site.registry.answer("/token", vec![status(503, "Retry-After: 0"), token]);
    site.resolve("a:1").unwrap();
    site.registry.answer("/token", vec![status(503, "Retry-After: 0")]);
    let message = site.refusal("a:1");
    assert!(message.contains("answered 503 to http://"), "{message}");
    assert!(message.contains("/token"), "{message}");
}

#[test]
fn asks_again_after_a_connection_that_was_reset() {
    let site = Site::new();
    let layer = layer_of(1000);
    site.pull_layer(&layer, vec![Answer::Reset, content(&layer.blob)]).unwrap();
    site.registry.answer("/v2/a/manifests/2", vec![Answer::Reset]);
    assert!(site.refusal("a:2").contains("the connection to"));
    assert_eq!(site.registry.asked_for("/v2/a/manifests/2"), TRIES);
}

#[test]
fn goes_on_where_a_transfer_broke_off() {
    let (site, layer) = (Site::new(), layer_of(3000));
    let part = |most| Answer::Part(most, layer.blob.clone());
    site.pull_layer(&layer, vec![part(1000), Answer::Reset, part(500), part(usize::MAX)]).unwrap();
    let expected = [None, Some("bytes=1000-"), Some("bytes=1000-"), Some("bytes=1500-")];
    assert_eq!(ranges(&site, &layer), expected.map(|range| range.map(str::to_owned)));
}

/// The registry sends the whole, another part, or says that there is none.
#[test]
fn starts_anew_where_parts_are_not_to_be_had() {
    let layer = layer_of(3000);
    let cut = || Answer::CutAfter(1000, layer.blob.clone());
    let whole = || content(&layer.blob);
    let part = Some("bytes=1000-".to_owned());
    for (answers, expected) in [
        (vec![cut(), whole()], vec![None, part.clone()]),
        (
            vec![cut(), Answer::WrongPart(layer.blob.clone()), whole()],
            vec![None, part.clone(), None],
        ),
        (vec![cut(), status(416, "Content-Range: bytes */1"), whole()], vec![None, part, None]),
        (
            vec![Answer::Unframed(layer.blob[..9].to_vec()), whole()],
            vec![None, Some("bytes=9-".to_owned())],
        ),
        (vec![Answer::CutAfter(0, layer.blob.clone()), whole()], vec![None, None]),
    ] {
        let site = Site::new();
        site.pull_layer(&layer, answers).unwrap();
        assert_eq!(ranges(&site, &layer), expected);
    }
}

/// The second half comes from another blob of the same size, as a part and as a whole.
#[test]
fn what_was_put_together_is_verified_as_one() {
    let layer = layer_of(3000);
    let mut other = layer.blob.clone();
    other[2000] ^= 1;
    for second in [Answer::Part(usize::MAX, other.clone()), content(&other)] {
        let site = Site::new();
        let first = Answer::CutAfter(1000, layer.blob.clone());
        let message = chain(&site.pull_layer(&layer, vec![first, second]).unwrap_err());
        assert!(message.contains(&Digest::of(&layer.blob).to_string()), "{message}");
        assert_eq!(ranges(&site, &layer).len(), 2, "it is not asked for again");
    }
}

/// Nine times 1 MiB and a little, and then the rest; a try that brings so much does not count.
#[test]
fn a_large_layer_over_a_bad_link_gets_on() {
    let (site, layer) = (Site::new(), layer_of(9 << 20));
    site.pull_layer(&layer, vec![Answer::Part((1 << 20) + 9, layer.blob.clone())]).unwrap();
    assert_eq!(ranges(&site, &layer).len(), 10);
}

#[test]
fn a_layer_that_comes_byte_by_byte_is_given_up() {
    let layer = layer_of(3000);
    for crumb in [Answer::Part(9, layer.blob.clone()), Answer::CutAfter(0, layer.blob.clone())] {
        let site = Site::new();
        let error = site.pull_layer(&layer, vec![crumb]).unwrap_err();
        assert!(matches!(error, PullError::Layer { .. }), "{}", chain(&error));
        assert_eq!(ranges(&site, &layer).len(), TRIES);
    }
}

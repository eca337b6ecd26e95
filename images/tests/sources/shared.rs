//! One store for several users: what came with credentials, and who gets it.

use ric_images::{
    Asker, Collect, Form, Image, Manifest, PullError, Reference, ResolveError, Store, ensure,
    resolve,
};

use super::fault_registry::{Answer, FaultRegistry, content};
use super::image_fixture::{Fixture, Layer};
use super::registry::{Site, blob_path, chain, three_layers};

/// `me:secret` and `you:secret` in base64.
const ME: &str = "bWU6c2VjcmV0";
const YOU: &str = "eW91OnNlY3JldA==";

/// Who asks, with what they have to show.
fn user(site: &mut Site, uid: u32, login: Option<&str>) {
    site.asker = Asker { uid, gids: vec![uid] };
    let path = site.directory.path().join(format!("auth-{uid}.json"));
    let auths = match login {
        Some(login) => serde_json::json!({"auths": {site.registry.host(): {"auth": login}}}),
        None => serde_json::json!({}),
    };
    std::fs::write(&path, auths.to_string()).unwrap();
    site.credentials.files = vec![path];
}

fn wants(site: &Site, login: &str) {
    site.registry.want_password(&format!("Basic {login}"));
}

/// As a process of its own: what another has open is not this one's.
fn pull(site: &Site, name: &str) -> Result<(Manifest, Image), String> {
    site.reopen_store(|store| pull_from(site, store, &site.registry, name))
}

fn pull_from(
    site: &Site,
    store: &Store,
    registry: &FaultRegistry,
    name: &str,
) -> Result<(Manifest, Image), String> {
    let reference: Reference = format!("docker://{}/{name}", registry.host()).parse().unwrap();
    site.with_access_to(store, |access| {
        let manifest = resolve(&reference, access).map_err(|e: ResolveError| chain(&e))?;
        let image = ensure(&manifest, Form::Layers, access);
        image.map(|image| (manifest, image)).map_err(|e: PullError| chain(&e))
    })
}

/// The site of a user who has pulled `a:1`, which wants credentials.
fn private() -> (Site, Fixture) {
    let (mut site, fixture) = (Site::new(), three_layers());
    site.registry.offer("a", "1", &fixture);
    wants(&site, ME);
    user(&mut site, 1, Some(ME));
    pull(&site, "a:1").unwrap();
    (site, fixture)
}

#[test]
fn what_came_with_credentials_is_for_those_who_show_theirs() {
    let (mut site, fixture) = private();
    let names = ["a:1".to_owned(), format!("a@{}", fixture.digest())];
    let requests = site.registry.asked().len();
    // The one who has had it needs to show nothing again for a digest.
    pull(&site, &names[1]).unwrap();
    assert_eq!(site.registry.asked().len(), requests);

    wants(&site, YOU);
    for (login, expected) in [(None, "only to those who log in"), (Some(ME), "does not give")] {
        user(&mut site, 2, login);
        for name in &names {
            let message = pull(&site, name).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
    user(&mut site, 2, Some(YOU));
    let blobs = || {
        let asked = site.registry.asked();
        asked
            .iter()
            .filter(|asked| fixture.layers.iter().any(|l| asked.path == blob_path(&l.blob)))
            .count()
    };
    let before = blobs();
    pull(&site, &names[1]).unwrap();
    assert_eq!(blobs(), before, "the manifest is proof enough for its layers");
    // And is remembered.
    let requests = site.registry.asked().len();
    pull(&site, &names[1]).unwrap();
    assert_eq!(site.registry.asked().len(), requests);
}

#[test]
fn what_came_with_credentials_is_for_nobody_else_offline() {
    let (mut site, fixture) = private();
    site.registries.offline = true;
    let names = ["a:1".to_owned(), format!("a@{}", fixture.digest())];
    names.iter().for_each(|name| drop(pull(&site, name).unwrap()));
    user(&mut site, 2, Some(ME));
    for name in &names {
        let message = pull(&site, name).unwrap_err();
        assert!(message.contains("registries: offline"), "{message}");
    }
}

/// Somebody knows the digests, and runs a registry that says it has them.
#[test]
fn a_layer_that_is_named_elsewhere_is_fetched_before_it_is_used() {
    let (mut site, fixture) = private();
    let elsewhere = FaultRegistry::start();
    site.registries.plain_hosts.push(elsewhere.host());
    elsewhere.offer("mine", "1", &fixture);
    let lie = |bytes: &[u8]| {
        for layer in &fixture.layers {
            let path = blob_path(&layer.blob).replace("/v2/a/", "/v2/mine/");
            elsewhere.answer(&path, vec![content(bytes)]);
        }
    };
    user(&mut site, 2, None);
    lie(b"what I have");
    let message = site.reopen_store(|store| pull_from(&site, store, &elsewhere, "mine:1"));
    let message = message.unwrap_err();
    assert!(message.contains("is not what its manifest names"), "{message}");
    // A manifest that names the trees alone, of layers that it has packed otherwise.
    let repacked: Vec<_> = fixture
        .layers
        .iter()
        .map(|layer| Layer {
            blob: layer.tar.clone(),
            tar: layer.tar.clone(),
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        })
        .collect();
    let repacked = Fixture::new(repacked);
    elsewhere.offer("mine", "2", &repacked);
    for layer in &repacked.layers {
        let path = blob_path(&layer.blob).replace("/v2/a/", "/v2/mine/");
        elsewhere.answer(&path, vec![content(b"nothing")]);
    }
    let got = site.reopen_store(|store| pull_from(&site, store, &elsewhere, "mine:2"));
    assert!(got.is_err());

    // Whoever has the bytes is given nothing new.
    elsewhere.offer("mine", "1", &fixture);
    site.reopen_store(|store| pull_from(&site, store, &elsewhere, "mine:1")).unwrap();
    // That says nothing about others.
    user(&mut site, 3, None);
    lie(b"what I have");
    site.reopen_store(|store| pull_from(&site, store, &elsewhere, "mine:1")).unwrap_err();
}

#[test]
fn what_is_for_everybody_is_fetched_once() {
    let (mut site, fixture) = (Site::new(), three_layers());
    site.registry.offer("a", "1", &fixture);
    user(&mut site, 1, Some(ME));
    pull(&site, "a:1").unwrap();
    user(&mut site, 2, None);
    pull(&site, "a:1").unwrap();
    for layer in &fixture.layers {
        assert_eq!(site.registry.asked_for(&blob_path(&layer.blob)), 1);
    }
    // A registry that wants credentials later does not take it away from the others.
    wants(&site, ME);
    user(&mut site, 1, Some(ME));
    pull(&site, "a:1").unwrap();
    user(&mut site, 3, None);
    pull(&site, &format!("a@{}", fixture.digest())).unwrap();
    assert!(!site.store.root().join("private").exists());
}

/// The first user's transfer broke off near its end; the second has the rest to show, and no more.
#[test]
fn a_part_that_another_fetched_proves_nothing() {
    let (mut site, layer) = (Site::new(), Layer::plain("file", &"secret ".repeat(1000)));
    let fixture = Fixture::new(vec![layer.clone()]);
    site.registry.offer("a", "1", &fixture);
    wants(&site, ME);
    let cut = layer.blob.len() - 9;
    let parts = vec![Answer::Part(cut, layer.blob.clone()), Answer::Reset];
    site.registry.answer(&blob_path(&layer.blob), parts);
    user(&mut site, 1, Some(ME));
    pull(&site, "a:1").unwrap_err();

    let elsewhere = FaultRegistry::start();
    site.registries.plain_hosts.push(elsewhere.host());
    elsewhere.offer("mine", "1", &fixture);
    let mut guess = vec![b'x'; layer.blob.len()];
    guess[cut..].copy_from_slice(&layer.blob[cut..]);
    let path = blob_path(&layer.blob).replace("/v2/a/", "/v2/mine/");
    elsewhere.answer(&path, vec![Answer::Part(usize::MAX, guess)]);
    user(&mut site, 2, None);
    let message = site.reopen_store(|store| pull_from(&site, store, &elsewhere, "mine:1"));
    assert!(message.unwrap_err().contains("is not what its manifest names"));
    let asked = elsewhere.asked();
    assert!(asked.iter().any(|asked| asked.range.is_some()), "it went on: {asked:?}");
}

#[test]
fn notes_go_with_what_they_are_about() {
    let (site, _) = private();
    let notes = || std::fs::read_dir(site.store.root().join("private")).unwrap().count();
    site.reopen_store(|store| store.collect(Collect::default()).unwrap());
    assert_eq!(notes(), 2 + 2 * 3 - 1, "manifest, configuration, three layers, one of them plain");
    let reference = format!("docker://{}/a:1", site.registry.host());
    site.reopen_store(|store| {
        store.untag(&reference).unwrap();
        store.collect(Collect::default()).unwrap()
    });
    assert_eq!(notes(), 0);
}

/// Sets when a name was used last.
fn set_used(site: &Site, name: &str, ago: std::time::Duration) {
    let reference = format!("docker://{}/{name}", site.registry.host());
    let file = ric_images::Digest::of(reference.as_bytes()).hex();
    let path = site.store.root().join("names").join(file);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::now() - ago).unwrap();
}

/// What would go if there were room for all but a little.
fn would_go(site: &Site, missing: u64) -> Vec<String> {
    site.reopen_store(|store| {
        let left = store.collect(Collect { max_bytes: None, dry_run: true }).unwrap().left_bytes;
        let max_bytes = Some(left - missing);
        let gone = store.collect(Collect { max_bytes, dry_run: true }).unwrap().names;
        let prefix = format!("docker://{}/", site.registry.host());
        gone.into_iter().map(|(name, _)| name.replace(&prefix, "")).collect()
    })
}

/// A user who fills the store loses images before others do.
#[test]
fn who_takes_more_than_a_share_makes_room_first() {
    let mut site = Site::new();
    let names = ["modest:1", "first:1", "second:1", "third:1"];
    for (age, name) in (0..).zip(names) {
        let layer = Layer::plain(name, &"x".repeat(100_000));
        let (repository, tag) = name.split_once(':').unwrap();
        site.registry.offer(repository, tag, &Fixture::new(vec![layer]));
        user(&mut site, if age == 0 { 8 } else { 7 }, None);
        drop(pull(&site, name).unwrap());
        set_used(&site, name, std::time::Duration::from_secs(3600 - age));
    }
    assert_eq!(would_go(&site, 1), ["first:1"], "the modest one was used longer ago");
    assert_eq!(would_go(&site, 300_000), ["first:1", "second:1"]);
    // What two have used is neither's own.
    user(&mut site, 8, None);
    drop(pull(&site, "first:1").unwrap());
    set_used(&site, "first:1", std::time::Duration::from_secs(7200));
    assert_eq!(would_go(&site, 1), ["second:1"]);
    // The twin: among users who are not told apart, what was used least recently goes.
    std::fs::remove_dir_all(site.store.root().join("uses")).unwrap();
    assert_eq!(would_go(&site, 1), ["first:1"]);
    set_used(&site, "modest:1", std::time::Duration::from_secs(9000));
    assert_eq!(would_go(&site, 1), ["modest:1"]);
}

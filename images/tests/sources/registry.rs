//! Images from a registry: an honest one, and one that does each thing wrong.

use std::net::TcpListener;
use std::sync::Mutex;
use std::time::Duration;

use super::fault_registry::{Answer, FaultRegistry, content, redirect};
use super::image_fixture::{Fixture, INDEX, Layer, MANIFEST, here, index_of};
use ric_images::{
    Access, Asker, Collect, CredentialFiles, Digest, Form, Identity, Image, Limits, LocalDocker,
    Manifest, Progress, PullError, Registries, ResolveError, Silent, Store, Timeouts, ensure,
    resolve,
};
use serde_json::json;

/// A registry, a store and what else a pull needs.
pub(super) struct Site {
    pub(super) registry: FaultRegistry,
    pub(super) directory: tempfile::TempDir,
    pub(super) store: Store,
    pub(super) registries: Registries,
    pub(super) asker: Asker,
    pub(super) credentials: CredentialFiles,
    docker: LocalDocker,
    limits: Limits,
    timeouts: Timeouts,
}

impl Site {
    pub(super) fn new() -> Site {
        let registry = FaultRegistry::start();
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let plain_hosts = vec![registry.host()];
        let registries = Registries { plain_hosts, ..Registries::default() };
        let limits = Limits::default();
        let timeouts = Timeouts { first_wait: Duration::from_millis(1), ..Timeouts::default() };
        let (credentials, docker) = (CredentialFiles::default(), LocalDocker::default());
        Site {
            registry,
            directory,
            store,
            registries,
            asker: Asker::default(),
            credentials,
            docker,
            limits,
            timeouts,
        }
    }

    fn access<'a>(&'a self, progress: &'a dyn Progress) -> Access<'a> {
        Access {
            store: Some(&self.store),
            registries: &self.registries,
            shifter_folders: &[],
            below: &[],
            asker: &self.asker,
            credentials: &self.credentials,
            docker: &self.docker,
            host_fingerprint: "",
            limits: &self.limits,
            timeouts: self.timeouts,
            progress,
        }
    }

    pub(super) fn with_access<T>(&self, then: impl FnOnce(&Access<'_>) -> T) -> T {
        then(&self.access(&Silent))
    }

    /// As another process has it, on the same directory.
    pub(super) fn with_access_to<T>(
        &self,
        store: &Store,
        then: impl FnOnce(&Access<'_>) -> T,
    ) -> T {
        then(&Access { store: Some(store), ..self.access(&Silent) })
    }

    pub(super) fn set_answer_timeout(&mut self, answer: Duration) {
        self.timeouts.answer = answer;
    }

    pub(super) fn reopen_store<T>(&self, then: impl FnOnce(&Store) -> T) -> T {
        then(&Store::open(self.store.root()).unwrap())
    }

    fn reference(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.registry.host())
    }

    pub(super) fn resolve(&self, name: &str) -> Result<Manifest, ResolveError> {
        resolve(&self.reference(name).parse().unwrap(), &self.access(&Silent))
    }

    pub(super) fn ensure(&self, manifest: &Manifest) -> Result<Image, PullError> {
        ensure(manifest, Form::Layers, &self.access(&Silent))
    }

    /// The message of a failed `resolve`, with its causes.
    pub(super) fn refusal(&self, name: &str) -> String {
        chain(&self.resolve(name).unwrap_err())
    }

    /// Resolves `a:1`, whose one layer is answered with `answers`, and pulls it.
    pub(super) fn pull_layer(
        &self,
        layer: &Layer,
        answers: Vec<Answer>,
    ) -> Result<Image, PullError> {
        let fixture = Fixture::new(vec![layer.clone()]);
        self.registry.offer("a", "1", &fixture);
        self.registry.answer(&blob_path(&layer.blob), answers);
        let manifest = self.resolve("a:1").unwrap();
        let result = self.ensure(&manifest);
        assert_eq!(self.store.layer(&manifest.layers[0].diff_id).is_some(), result.is_ok());
        result
    }
}

pub(super) fn blob_path(blob: &[u8]) -> String {
    format!("/v2/a/blobs/{}", Digest::of(blob))
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

pub(super) fn three_layers() -> Fixture {
    Fixture::new(vec![Layer::gzip("one", "1"), Layer::zstd("two", "2"), Layer::plain("three", "3")])
}

#[test]
fn pulls_layers_in_order_and_each_once() {
    let site = Site::new();
    let fixture = three_layers();
    site.registry.offer("group/name", "1.0", &fixture);
    let manifest = site.resolve("group/name:1.0").unwrap();
    assert_eq!(manifest.identity, Identity::Digest(fixture.digest()));
    assert_eq!(manifest.config.workdir.as_deref(), Some("/work"));

    let image = site.ensure(&manifest).unwrap();
    let content: Vec<_> = image
        .layers
        .iter()
        .zip(["one", "two", "three"])
        .map(|(layer, file)| std::fs::read_to_string(layer.join(file)).unwrap())
        .collect();
    assert_eq!(content, ["1", "2", "3"]);
    assert_eq!(site.store.tagged(&manifest.reference).unwrap(), Some(fixture.digest()));

    let requests = site.registry.asked().len();
    assert_eq!(requests, 5, "manifest, configuration, three layers");
    assert_eq!(site.ensure(&manifest).unwrap(), image);
    assert_eq!(site.registry.asked().len(), requests, "what is there is not fetched again");
}

#[test]
fn pinned_image_in_the_store_needs_no_network() {
    let site = Site::new();
    let fixture = three_layers();
    site.registry.offer("a", "1", &fixture);
    let pinned = format!("a@{}", fixture.digest());
    let manifest = site.resolve(&pinned).unwrap();
    let image = site.ensure(&manifest).unwrap();
    let requests = site.registry.asked().len();

    assert_eq!(site.resolve(&pinned).unwrap(), manifest);
    assert_eq!(site.ensure(&manifest).unwrap(), image);
    assert_eq!(site.registry.asked().len(), requests);

    site.resolve("a:1").unwrap();
    assert!(site.registry.asked().len() > requests, "a tag may have moved");
}

#[test]
fn tag_that_moves_changes_nothing_that_was_resolved() {
    let site = Site::new();
    let (before, after) = (three_layers(), Fixture::new(vec![Layer::gzip("other", "4")]));
    site.registry.offer("a", "1", &before);
    let manifest = site.resolve("a:1").unwrap();
    site.registry.offer("a", "1", &after);
    assert_eq!(site.ensure(&manifest).unwrap().layers.len(), 3);
    assert_eq!(site.resolve("a:1").unwrap().identity, Identity::Digest(after.digest()));
}

#[test]
fn picks_this_machines_image_from_an_index() {
    let mut site = Site::new();
    let ours = three_layers();
    let theirs = Fixture::for_platform(vec![Layer::plain("x", "")], "linux", "s390x");
    let unknown = theirs.entry(None, Some(("unknown", "unknown")));
    let foreign = theirs.entry(None, Some(("linux", "s390x")));
    site.registry.offer("a", "ours", &ours);
    site.registry.offer("a", "theirs", &theirs);
    let with_ours =
        index_of(vec![unknown.clone(), foreign.clone(), ours.entry(None, Some(("linux", here())))]);
    let answer = |bytes: &[u8]| vec![Answer::Content(INDEX.to_owned(), bytes.to_vec())];
    site.registry.answer("/v2/a/manifests/all", answer(&with_ours));
    let manifest = site.resolve("a:all").unwrap();
    assert_eq!(manifest.identity, Identity::Digest(ours.digest()));

    // The same index, asked for by its own digest, comes from the store the second time.
    let by_digest = Digest::of(&with_ours);
    let path = format!("/v2/a/manifests/{by_digest}");
    site.registry.answer(&path, answer(&with_ours));
    for _ in 0..2 {
        site.resolve(&format!("a@{by_digest}")).unwrap();
    }
    assert_eq!(site.registry.asked_for(&path), 0, "`all` had brought it already");
    site.ensure(&site.resolve(&format!("a@{by_digest}")).unwrap()).unwrap();
    // Another process: this one would keep what it has read.
    site.store = Store::open(&site.directory.path().join("store")).unwrap();
    site.store.collect(Collect::default()).unwrap();
    drop(site.resolve(&format!("a@{by_digest}")).unwrap());
    assert_eq!(site.registry.asked_for(&path), 0, "a collector keeps what a digest names");

    site.registry.answer("/v2/a/manifests/none", answer(&index_of(vec![unknown, foreign])));
    for tag in ["none", "theirs"] {
        let message = site.refusal(&format!("a:{tag}"));
        let expected = format!("is for linux/s390x, this machine runs linux/{}", here());
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn refuses_indexes_that_never_end() {
    let site = Site::new();
    let mut inner = three_layers().manifest;
    let mut media_type = MANIFEST;
    for _ in 0..4 {
        let answer = Answer::Content(media_type.to_owned(), inner.clone());
        site.registry.answer(&format!("/v2/a/manifests/{}", Digest::of(&inner)), vec![answer]);
        let (digest, size) = (Digest::of(&inner), inner.len());
        let entry = json!({"mediaType": media_type, "digest": digest, "size": size});
        (inner, media_type) = (index_of(vec![entry]), INDEX);
    }
    site.registry.answer("/v2/a/manifests/1", vec![Answer::Content(INDEX.to_owned(), inner)]);
    let message = site.refusal("a:1");
    assert!(message.contains("nested more than 2 deep"), "{message}");
}

#[test]
fn refuses_wrong_documents() {
    let site = Site::new();
    let fixture = three_layers();
    let other = Digest::of(b"other");
    let manifest = |media_type: &str, bytes: &[u8]| {
        vec![Answer::Content(media_type.to_owned(), bytes.to_vec())]
    };
    let path = |name: &str| format!("/v2/a/manifests/{name}");
    site.registry.answer(&path(&other.to_string()), manifest(MANIFEST, &fixture.manifest));
    let message = site.refusal(&format!("a@{other}"));
    let expected = format!("expected blob {other}, got {}", fixture.digest());
    assert!(message.contains(&expected), "{message}");

    site.registry.answer(&path("type"), manifest(INDEX, &fixture.manifest));
    assert!(site.refusal("a:type").contains("has the media type"));

    site.registry.answer(&path("huge"), manifest(MANIFEST, &vec![b' '; (4 << 20) + 1]));
    assert!(site.refusal("a:huge").contains("more than 4194304 bytes"));

    let schema_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    site.registry.answer(&path("old"), manifest(schema_1, br#"{"schemaVersion": 1}"#));
    assert!(site.refusal("a:old").contains("schema 1"));

    site.registry.offer("a", "config", &fixture);
    let mut config = fixture.config.clone();
    config[5] ^= 1;
    site.registry.answer(&blob_path(&fixture.config), vec![content(&config)]);
    assert!(site.refusal("a:config").contains("expected blob"));
}

#[test]
fn asks_for_a_token_and_shows_it_to_the_registry_alone() {
    let (site, elsewhere) = (Site::new(), FaultRegistry::start());
    let layer = Layer::gzip("one", "1");
    let fixture = Fixture::new(vec![layer.clone()]);
    site.registry.offer("a", "1", &fixture);
    site.registry.want_token("secret-1");
    site.registry.answer("/token", vec![content(br#"{"token": "secret-1"}"#)]);
    let far = format!("http://{}/far?signature=x", elsewhere.host());
    site.registry.answer(&blob_path(&layer.blob), vec![redirect(&far)]);
    elsewhere.answer("/far", vec![content(&layer.blob)]);

    let manifest = site.resolve("a:1").unwrap();
    let message = chain(&site.ensure(&manifest).unwrap_err());
    assert!(message.contains("is not listed as a host to speak plain HTTP with"), "{message}");
    assert_eq!(
        elsewhere.asked(),
        [],
        "a redirect does not open a way to a host that is not listed"
    );

    let mut site = site;
    site.registries.plain_hosts.push(elsewhere.host());
    site.ensure(&manifest).unwrap();
    assert_eq!(elsewhere.asked()[0].authorization, None);
    let asked = site.registry.asked();
    let token = asked.iter().find(|asked| asked.path.starts_with("/token")).unwrap();
    assert_eq!(token.path, "/token?scope=repository:a:pull&service=fixture");
    assert_eq!(token.authorization, None);
}

#[test]
fn gets_a_new_token_once_when_the_old_one_expires() {
    let site = Site::new();
    let fixture = three_layers();
    site.registry.offer("a", "1", &fixture);
    site.registry.want_token("second");
    let first = content(br#"{"token": "first"}"#);
    site.registry.answer("/token", vec![first, content(br#"{"access_token": "second"}"#)]);
    let message = site.refusal("a:1");
    assert!(message.contains("only to those who log in") && message.contains("who are you"));
    site.resolve("a:1").unwrap();
}

#[test]
fn refuses_token_services_that_make_no_sense() {
    let site = Site::new();
    site.registry.want_token("x");
    site.registry.answer("/token", vec![content(br#"{"token": "a\nb"}"#)]);
    assert!(site.refusal("a:1").contains("no usable token"));
    site.registry.answer("/token", vec![content(&vec![b' '; 1 << 20])]);
    assert!(site.refusal("a:1").contains("no usable token"));
    site.registry.answer("/token", vec![redirect("/token")]);
    assert!(site.refusal("a:1").contains("is not followed"));
}

#[test]
fn says_what_is_not_there() {
    let site = Site::new();
    let message = site.refusal("a:1");
    assert!(message.contains("the registry has no `1` in a"), "{message}");

    let layer = Layer::gzip("one", "1");
    let gone = Answer::Status(404, "X-None: 1".to_owned(), String::new());
    let message = chain(&site.pull_layer(&layer, vec![gone]).unwrap_err());
    assert!(message.contains(&format!("no layer {}", Digest::of(&layer.blob))), "{message}");
}

#[test]
fn says_who_refused() {
    let site = Site::new();
    let login = "WWW-Authenticate: Basic realm=\"x\"".to_owned();
    let body = r#"{"errors": [{"code": "DENIED", "message": "go\u001b[2J away"}]}"#.to_owned();
    site.registry.answer("/v2/a/manifests/1", vec![Answer::Status(401, login, body)]);
    let error = site.resolve("a:1").unwrap_err();
    let message = chain(&error);
    assert!(message.contains("go\\u{1b}[2J away"), "{message}");
    assert!(error.hint().is_some());

    let teapot = Answer::Status(418, "X-Tea: 1".to_owned(), String::new());
    site.registry.answer("/v2/a/manifests/1", vec![teapot]);
    assert!(site.refusal("a:1").contains("answered 418"));
    assert_eq!(site.registry.asked_for("/v2/a/manifests/1"), 2, "a refusal is not asked again");
}

#[test]
fn refuses_a_wrong_layer_and_does_not_ask_for_it_again() {
    let layer = Layer::gzip("one", "1");
    let mut flipped = layer.blob.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut longer = layer.blob.clone();
    longer.push(0);
    for wrong in [flipped, longer] {
        let site = Site::new();
        let error = site.pull_layer(&layer, vec![content(&wrong)]).unwrap_err();
        let message = chain(&error);
        assert!(message.contains(&Digest::of(&layer.blob).to_string()), "{message}");
        assert_eq!(site.registry.asked_for(&blob_path(&layer.blob)), 1);
    }
}

#[test]
fn refuses_a_layer_that_is_not_the_one_configured() {
    let site = Site::new();
    let (layer, other) = (Layer::gzip("one", "1"), Layer::gzip("one", "2"));
    let configured = Fixture::new(vec![other.clone()]).config;
    let fixture = Fixture::with_config(vec![layer], configured);
    site.registry.offer("a", "1", &fixture);
    let manifest = site.resolve("a:1").unwrap();
    let error = site.ensure(&manifest).unwrap_err();
    assert!(chain(&error).contains(&Digest::of(&other.tar).to_string()), "{}", chain(&error));
    assert_eq!(site.store.layer(&Digest::of(&other.tar)), None);
}

#[test]
fn gives_up_on_a_registry_that_falls_silent() {
    let layer = Layer::gzip("one", &"1".repeat(1000));
    let mut site = Site::new();
    site.timeouts.answer = Duration::from_millis(100);
    site.registry.answer("/v2/a/manifests/2", vec![Answer::Silence]);
    assert!(site.refusal("a:2").contains("sent nothing for 0.1 s"));
    let answer = Answer::SilenceAfter(10, layer.blob.clone());
    let message = chain(&site.pull_layer(&layer, vec![answer]).unwrap_err());
    assert!(message.contains("sent nothing for 0.1 s"), "{message}");
}

#[test]
fn gives_up_on_a_registry_that_is_too_slow() {
    let layer = Layer::gzip("one", "1");
    let mut site = Site::new();
    let fixture = Fixture::new(vec![layer.clone()]);
    site.registry.offer("a", "1", &fixture);
    let manifest = site.resolve("a:1").unwrap();
    // Every piece ends a window now, and brings less than a second's worth.
    site.timeouts.rate_window = Duration::ZERO;
    let message = chain(&site.ensure(&manifest).unwrap_err());
    assert!(message.contains("too slow"), "{message}");
    assert_eq!(site.registry.asked_for(&blob_path(&layer.blob)), 1);
}

#[test]
fn follows_few_redirects_and_no_strange_ones() {
    let layer = Layer::gzip("one", "1");
    let site = Site::new();
    site.registry.answer("/elsewhere", vec![content(&layer.blob)]);
    site.pull_layer(&layer, vec![redirect("/elsewhere?a=b")]).unwrap();
    for location in ["ftp://127.0.0.1/", "elsewhere", "//127.0.0.1/", &blob_path(&layer.blob), ""] {
        let site = Site::new();
        let error = site.pull_layer(&layer, vec![redirect(location)]).unwrap_err();
        assert!(chain(&error).contains("which is not followed"), "{location}: {}", chain(&error));
        assert!(site.registry.asked().len() < 10);
    }
}

#[test]
fn speaks_plain_http_with_listed_hosts_only() {
    let site = Site::new();
    let site = Site { registries: Registries::default(), ..site };
    let error = site.resolve("a:1").unwrap_err();
    let message = chain(&error);
    let has_roots = !message.contains("certificate authorities");
    assert!(!has_roots || message.contains("does not speak HTTPS"), "{message}");
    assert!(!has_roots || error.hint().unwrap().contains("insecure"));
    assert_eq!(site.registry.asked(), []);
}

#[test]
fn says_that_a_host_cannot_be_reached() {
    let site = Site::new();
    // A port that nobody listens on any more.
    let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let plain_hosts = vec![host.clone()];
    let site = Site { registries: Registries { plain_hosts, ..Registries::default() }, ..site };
    let reference = format!("docker://{host}/a").parse().unwrap();
    let message = chain(&resolve(&reference, &site.access(&Silent)).unwrap_err());
    assert!(message.contains(&format!("cannot connect to {host}")), "{message}");
}

#[test]
fn one_wrong_layer_among_many_fails_the_pull_and_is_named() {
    let site = Site::new();
    let layers: Vec<_> = (0..8).map(|n| Layer::gzip("file", &n.to_string())).collect();
    let fixture = Fixture::new(layers.clone());
    site.registry.offer("a", "1", &fixture);
    site.registry.answer(&blob_path(&layers[5].blob), vec![content(b"nonsense")]);
    let manifest = site.resolve("a:1").unwrap();
    let error = site.ensure(&manifest).unwrap_err();
    let PullError::Layer { digest, .. } = &error else { panic!("{}", chain(&error)) };
    assert_eq!(*digest, Digest::of(&layers[5].blob));
    assert_eq!(site.store.tagged(&manifest.reference).unwrap(), None, "nothing to list");
    site.registry.offer("a", "1", &fixture);
    assert_eq!(site.ensure(&manifest).unwrap().layers.len(), 8);
}

#[test]
fn tells_its_progress() {
    #[derive(Default)]
    struct Told(Mutex<Vec<(String, Digest, u64)>>);
    impl Progress for Told {
        fn started(&self, digest: &Digest, blob_bytes: u64) {
            self.0.lock().unwrap().push(("started".to_owned(), *digest, blob_bytes));
        }
        fn advanced(&self, digest: &Digest, bytes: u64) {
            self.0.lock().unwrap().push(("advanced".to_owned(), *digest, bytes));
        }
        fn finished(&self, digest: &Digest) {
            self.0.lock().unwrap().push(("finished".to_owned(), *digest, 0));
        }
    }
    let site = Site::new();
    let fixture = three_layers();
    site.registry.offer("a", "1", &fixture);
    let manifest = site.resolve("a:1").unwrap();
    let told = Told::default();
    ensure(&manifest, Form::Layers, &site.access(&told)).unwrap();
    let told = told.0.into_inner().unwrap();
    for layer in &manifest.layers {
        let of_layer = told.iter().filter(|(_, digest, _)| *digest == layer.digest);
        let events: Vec<_> = of_layer.collect();
        assert_eq!((events[0].0.as_str(), events[0].2), ("started", layer.blob_bytes));
        let advanced = events.iter().filter(|(what, ..)| what == "advanced");
        assert_eq!(advanced.map(|(.., bytes)| bytes).sum::<u64>(), layer.blob_bytes);
        assert_eq!(events.last().unwrap().0, "finished");
    }
}

#[test]
fn leaves_nothing_but_the_store_behind() {
    let site = Site::new();
    let layer = Layer::gzip("one", "1");
    site.pull_layer(&layer, vec![content(b"nonsense")]).unwrap_err();
    let names: Vec<_> = std::fs::read_dir(site.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["store"]);
    assert_eq!(site.store.check().unwrap(), []);
}

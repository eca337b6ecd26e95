//! What a site says of registries: mirrors before them, proxies between, authorities of its own,
//! and that nobody is asked at all.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ric_images::{
    Form, HttpError, Mirror, Proxies, Reference, Registries, RegistryError, ResolveError,
    SourceError, ensure, resolve,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::fault_registry::{Answer, FaultRegistry, content};
use super::image_fixture::{Fixture, Layer, MANIFEST};
use super::registry::{Site, blob_path, chain, three_layers};

fn tls_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sources/tls").join(name)
}

/// A site with a mirror, which has what the registry calls `a` below `hub/`.
fn mirrored() -> (Site, FaultRegistry) {
    let (mut site, mirror) = (Site::new(), FaultRegistry::start());
    site.registries.plain_hosts.push(mirror.host());
    let at = format!("{}/hub", mirror.host());
    site.registries.mirrors = vec![Mirror { registry: site.registry.host(), at }];
    (site, mirror)
}

#[test]
fn what_a_mirror_has_is_not_asked_of_the_registry() {
    let (site, mirror) = mirrored();
    let fixture = three_layers();
    mirror.offer("hub/a", "1", &fixture);
    let manifest = site.resolve("a:1").unwrap();
    assert!(manifest.reference.contains(&site.registry.host()), "it keeps its name");
    assert_eq!(site.ensure(&manifest).unwrap().layers.len(), 3);
    assert_eq!(site.registry.asked(), []);
    assert_eq!(mirror.asked().len(), 5);
}

#[test]
fn what_a_mirror_does_not_give_is_asked_of_the_registry() {
    for answer in [
        Answer::Status(404, "X-None: 1".to_owned(), String::new()),
        Answer::Status(503, "X-None: 1".to_owned(), String::new()),
        Answer::Status(429, "Retry-After: 60".to_owned(), String::new()),
        Answer::Status(401, "WWW-Authenticate: Basic realm=\"x\"".to_owned(), String::new()),
        Answer::Reset,
        // Other bytes than the digest names, below.
        Answer::Content(MANIFEST.to_owned(), b"{}".to_vec()),
    ] {
        let (site, mirror) = mirrored();
        let fixture = three_layers();
        site.registry.offer("a", "1", &fixture);
        let name = format!("a@{}", fixture.digest());
        let path = format!("/v2/hub/a/manifests/{}", fixture.digest());
        mirror.answer(&path, vec![answer]);
        let manifest = site.resolve(&name).unwrap_or_else(|error| panic!("{}", chain(&error)));
        site.ensure(&manifest).unwrap();
        assert_eq!(mirror.asked_for(&path), 1, "a mirror is asked once");
    }
}

/// The mirror has the documents and one layer whole; one is cut, one is not there.
#[test]
fn layers_come_from_whoever_has_them() {
    let (site, mirror) = mirrored();
    let layers: Vec<_> =
        (0..3).map(|n: u8| Layer::plain("file", &n.to_string().repeat(3000))).collect();
    let fixture = Fixture::new(layers.clone());
    site.registry.offer("a", "1", &fixture);
    mirror.offer("hub/a", "1", &fixture);
    let in_mirror = |layer: &Layer| blob_path(&layer.blob).replace("/v2/a/", "/v2/hub/a/");
    mirror.answer(&in_mirror(&layers[1]), vec![Answer::CutAfter(1000, layers[1].blob.clone())]);
    let none = Answer::Status(404, "X-None: 1".to_owned(), String::new());
    mirror.answer(&in_mirror(&layers[2]), vec![none]);
    site.registry
        .answer(&blob_path(&layers[1].blob), vec![Answer::Part(9999, layers[1].blob.clone())]);
    site.ensure(&site.resolve("a:1").unwrap()).unwrap();
    let asked: Vec<_> =
        site.registry.asked().into_iter().map(|asked| (asked.path, asked.range)).collect();
    let rest = (blob_path(&layers[1].blob), Some("bytes=1000-".to_owned()));
    let whole = (blob_path(&layers[2].blob), None);
    assert!(asked.contains(&rest) && asked.contains(&whole) && asked.len() == 2, "{asked:?}");
}

#[test]
fn every_place_that_was_asked_is_named_in_the_end() {
    let (site, mirror) = mirrored();
    let error = site.resolve("a:1").unwrap_err();
    let message = chain(&error);
    let expected = format!("cannot fetch from the registry {} after its mirrors", mirror.host());
    assert!(
        message.contains(&expected.replace(&mirror.host(), &site.registry.host())),
        "{message}"
    );
    assert!(
        message.contains(&format!("registry {}: the registry has no", mirror.host())),
        "{message}"
    );
}

#[test]
fn a_mirror_is_shown_no_credentials_of_the_registry() {
    let (mut site, mirror) = mirrored();
    let path = site.directory.path().join("auth.json");
    let auths = serde_json::json!({"auths": {site.registry.host(): {"auth": "dTpw"}}});
    std::fs::write(&path, auths.to_string()).unwrap();
    site.credentials.files = vec![path];
    mirror.want_password("Basic nobody-has-it");
    site.registry.offer("a", "1", &three_layers());
    site.registry.want_password("Basic dTpw");
    site.resolve("a:1").unwrap();
    assert_ne!(mirror.asked(), []);
    assert!(mirror.asked().iter().all(|asked| asked.authorization.is_none()));
}

#[test]
fn offline_asks_nobody_and_uses_what_is_there() {
    let mut site = Site::new();
    let fixture = three_layers();
    site.registry.offer("a", "1", &fixture);
    let manifest = site.resolve("a:1").unwrap();
    let image = site.ensure(&manifest).unwrap();
    let requests = site.registry.asked().len();

    site.registries.offline = true;
    assert_eq!(site.resolve("a:1").unwrap(), manifest);
    assert_eq!(site.ensure(&manifest).unwrap(), image);
    let pinned = site.resolve(&format!("a@{}", fixture.digest())).unwrap();
    assert_eq!(site.ensure(&pinned).unwrap(), image);
    for name in ["a:2", "b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
    {
        let error = site.resolve(name).unwrap_err();
        assert!(is_offline(&error), "{}", chain(&error));
        assert!(error.hint().unwrap().contains("images list"));
    }
    assert_eq!(site.registry.asked().len(), requests);
}

fn is_offline(error: &ResolveError) -> bool {
    let ResolveError::Source { source, .. } = error else { return false };
    let SourceError::Registry { source, .. } = &**source else { return false };
    matches!(**source, RegistryError::Offline)
}

/// A proxy is asked by the whole URL for what is plain, and resolves the name.
#[test]
fn plain_registries_are_asked_through_a_proxy() {
    let mut site = Site::new();
    let fixture = three_layers();
    let proxy = FaultRegistry::start();
    let there = |path: &str| format!("http://registry.example{path}");
    let manifest = Answer::Content(MANIFEST.to_owned(), fixture.manifest.clone());
    proxy.answer(&there("/v2/a/manifests/1"), vec![manifest]);
    for blob in fixture.blobs() {
        proxy.answer(&there(&blob_path(blob)), vec![content(blob)]);
    }
    site.registries.plain_hosts = vec!["registry.example".to_owned()];
    site.registries.proxies.http = Some(format!("http://me:pass@{}", proxy.host()));
    let reference: Reference = "docker://registry.example:80/a:1".parse().unwrap();
    site.with_access(|access| {
        let manifest = resolve(&reference, access).unwrap_or_else(|e| panic!("{}", chain(&e)));
        ensure(&manifest, Form::Layers, access).unwrap();
    });
    assert_eq!(proxy.asked().len(), 5);
    assert!(proxy.asked().iter().all(|asked| asked.authorization.is_none()));

    // A registry that is an exception is asked directly: there is no such host.
    site.registries.proxies.except = "example".to_owned();
    let error = site.with_access(|access| resolve(&reference, access)).unwrap_err();
    assert!(chain(&error).contains("cannot connect to registry.example"), "{}", chain(&error));
    assert_eq!(proxy.asked().len(), 5);
}

/// Speaks TLS in front of a plain registry, one request a connection.
fn serve_tls(upstream: String) -> SocketAddr {
    let certificate = CertificateDer::from_pem_file(tls_file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(tls_file("server-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate], key);
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (config, upstream) = (Arc::clone(&config), upstream.clone());
            std::thread::spawn(move || {
                // A client that does not trust the certificate hangs up.
                let _ = forward_one(stream.unwrap(), config, &upstream);
            });
        }
    });
    address
}

fn forward_one(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    upstream: &str,
) -> std::io::Result<()> {
    let mut tls = ServerConnection::new(config).unwrap();
    let mut stream = rustls::Stream::new(&mut tls, &mut stream);
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let mut upstream = TcpStream::connect(upstream)?;
    upstream.write_all(&request)?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    stream.write_all(&answer)?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Connects whoever asks with `target`; remembers the heads of the requests.
fn serve_tunnels(target: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, remembered) = (listener.local_addr().unwrap(), Arc::clone(&heads));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let remembered = Arc::clone(&remembered);
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let is_known = head.contains("Proxy-Authorization: Basic bWU6cGFzcw==\r\n");
                remembered.lock().unwrap().push(head);
                if !is_known {
                    let refusal = b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n";
                    return stream.write_all(refusal).unwrap();
                }
                stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
                let there = TcpStream::connect(target).unwrap();
                let (mut from, mut to) = (stream.try_clone().unwrap(), there.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                let _ = std::io::copy(&mut &there, &mut stream);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
    (address, heads)
}

#[test]
fn authorities_of_a_site_vouch_for_its_registries() {
    let mut site = Site::new();
    let fixture = three_layers();
    site.registry.offer("a", "1", &fixture);
    let tls = serve_tls(site.registry.host());
    let reference: Reference = format!("docker://{tls}/a:1").parse().unwrap();
    let find = |site: &Site| site.with_access(|access| resolve(&reference, access));

    site.registries = Registries::default();
    let error = find(&site).unwrap_err();
    let is_refusal = chain(&error).contains("cannot set up TLS")
        || chain(&error).contains("certificate authorities");
    assert!(is_refusal, "{}", chain(&error));
    assert_eq!(site.registry.asked(), []);

    site.registries.authorities = vec![tls_file("authority.pem")];
    let manifest = find(&site).unwrap_or_else(|error| panic!("{}", chain(&error)));
    site.ensure(&manifest).unwrap();
}

#[test]
fn registries_in_tls_are_asked_through_a_tunnel() {
    let mut site = Site::new();
    site.registry.offer("a", "1", &three_layers());
    let (proxy, heads) = serve_tunnels(serve_tls(site.registry.host()));
    site.registries = Registries {
        authorities: vec![tls_file("authority.pem")],
        proxies: Proxies { https: Some(format!("http://me:pass@{proxy}")), ..Proxies::default() },
        ..Registries::default()
    };
    let reference: Reference = "docker://registry.example/a:1".parse().unwrap();
    let find = |site: &Site| site.with_access(|access| resolve(&reference, access));
    let manifest = find(&site).unwrap_or_else(|error| panic!("{}", chain(&error)));
    site.ensure(&manifest).unwrap();
    let seen = heads.lock().unwrap().clone();
    assert_eq!(seen.len(), 5);
    assert!(seen[0].starts_with("CONNECT registry.example:443 HTTP/1.1\r\n"), "{}", seen[0]);
    assert!(seen.iter().all(|head| !head.contains("/v2/")), "the proxy sees names of hosts alone");

    // A certificate for another name than was asked for is no better through a tunnel.
    let other: Reference = "docker://other.example/a:1".parse().unwrap();
    let error = site.with_access(|access| resolve(&other, access)).unwrap_err();
    assert!(chain(&error).contains("cannot set up TLS with other.example"), "{}", chain(&error));

    site.registries.proxies.https = Some(format!("http://me:wrong@{proxy}"));
    let message = chain(&find(&site).unwrap_err());
    assert!(
        message.contains(&format!("through the proxy {proxy}: it wants to know who asks")),
        "{message}"
    );
    assert!(!message.contains("wrong"), "{message}");
}

#[test]
fn proxy_that_is_none_is_named_by_its_variable() {
    let mut site = Site::new();
    site.registries.proxies.https = Some("socks5://proxy.example".to_owned());
    let reference: Reference = "docker://registry.example/a:1".parse().unwrap();
    let error = site.with_access(|access| resolve(&reference, access)).unwrap_err();
    assert!(error.hint().unwrap().contains("HTTPS_PROXY as http://"), "{}", chain(&error));
    let ResolveError::Source { source, .. } = error else { panic!() };
    let SourceError::Registry { source, .. } = *source else { panic!() };
    let RegistryError::Http { source, .. } = *source else { panic!() };
    assert!(matches!(source, HttpError::NoProxy { .. }));
}

//! A Docker daemon that misbehaves, on a Unix socket of the test's own. The real one is in the
//! kernel tests.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ric_images::{
    Access, CredentialFiles, Digest, DockerError, Form, Limits, LocalDocker, Manifest,
    ResolveError, Silent, SourceError, Store, Timeouts, ensure, resolve,
};
use serde_json::json;

use super::image_fixture::{Fixture, Layer, here, old_docker_archive};

/// What the daemon says to a question for the image's files.
enum Export {
    /// All of it.
    Whole(Vec<u8>),
    /// So much of it, then the end of the connection.
    Cut(Vec<u8>),
    /// The head of an answer, then nothing.
    Silence,
    /// Bytes without end.
    Endless,
}

/// A daemon with one image.
struct Daemon {
    directory: tempfile::TempDir,
    /// Paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// Every image is `id`, for this `architecture`.
    fn start(id: &str, architecture: &str, export: Export) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let image = json!({"Id": id, "Os": "linux", "Architecture": architecture}).to_string();
        let paths = Arc::clone(&asked);
        // Ends with the test's process: a listener has no end that a test could wait for.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                answer(connection.unwrap(), &image, &export, &paths);
            }
        });
        Daemon { directory, asked }
    }

    fn with_archive(fixture: &Fixture, export: impl Fn(Vec<u8>) -> Export) -> Daemon {
        let archive = old_docker_archive(fixture, false);
        Daemon::start(&Digest::of(&fixture.config).to_string(), here(), export(archive))
    }

    fn exports(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|path| path.ends_with("/get")).count()
    }
}

/// Answers one request; one that went away is none.
fn answer(stream: UnixStream, image: &str, export: &Export, paths: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|count| count > 2) {}
    let Some(path) = head.split(' ').nth(1) else { return };
    paths.lock().unwrap().push(path.to_owned());
    let mut stream = stream;
    let whole = |body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    if path.ends_with("/version") {
        let _ = stream.write_all(&whole(br#"{"ApiVersion":"1.41"}"#));
    } else if path.ends_with("/json") {
        let _ = stream.write_all(&whole(image.as_bytes()));
    } else {
        match export {
            Export::Whole(body) => {
                let _ = stream.write_all(&whole(body));
            }
            Export::Cut(body) => {
                let answer = whole(body);
                let _ = stream.write_all(&answer[..answer.len() - 2000]);
            }
            Export::Silence => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1");
                // Until the client goes.
                let _ = reader.read(&mut [0]);
            }
            Export::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                while stream.write_all(&[0; 65536]).is_ok() {}
            }
        }
    }
}

struct Site {
    directory: tempfile::TempDir,
    store: Store,
    docker: LocalDocker,
    limits: Limits,
}

impl Site {
    fn new(daemon: &Daemon) -> Site {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let socket = daemon.directory.path().join("socket");
        let docker = LocalDocker::new(None, vec!["/none".into(), socket], "/none".into());
        let limits = Limits { unpacked_bytes_max: 1 << 20, ..Limits::default() };
        Site { directory, store, docker, limits }
    }

    fn with<T>(&self, then: impl FnOnce(&Access<'_>) -> T) -> T {
        then(&Access {
            store: Some(&self.store),
            registries: &ric_images::Registries::default(),
            shifter_folders: &[],
            below: &[],
            asker: &ric_images::Asker::default(),
            credentials: &CredentialFiles::default(),
            docker: &self.docker,
            host_fingerprint: "",
            limits: &self.limits,
            timeouts: Timeouts { answer: Duration::from_millis(200), ..Timeouts::default() },
            progress: &Silent,
        })
    }

    fn resolve(&self, image: &str) -> Result<Manifest, ResolveError> {
        self.with(|access| resolve(&image.parse().unwrap(), access))
    }

    fn fault(&self, image: &str) -> DockerError {
        let error = self.resolve(image).unwrap_err();
        assert!(self.left().is_empty(), "{:?}", self.left());
        let ResolveError::Source { source, .. } = error else { panic!("{error:?}") };
        let SourceError::Docker { source, .. } = *source else { panic!("{source:?}") };
        *source
    }

    /// What is in the store besides its own directories.
    fn left(&self) -> Vec<PathBuf> {
        let list = |path: PathBuf| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        let store = self.directory.path().join("store");
        let inside = ["blobs/sha256", "names", "layers", "tmp"];
        let hidden = list(store.clone())
            .filter(|entry| entry.file_name().to_string_lossy().starts_with('.'));
        inside
            .iter()
            .flat_map(|name| list(store.join(name)))
            .chain(hidden)
            .map(|entry| entry.path())
            .collect()
    }
}

fn two_layers() -> Fixture {
    Fixture::new(vec![Layer::plain("one", "1"), Layer::plain("two", "2")])
}

#[test]
fn docker_writes_an_image_out_once() {
    let fixture = two_layers();
    let daemon = Daemon::with_archive(&fixture, Export::Whole);
    let site = Site::new(&daemon);
    for image in ["docker-daemon:a:1", "docker-daemon:a:1", "docker-daemon:other:2"] {
        let manifest = site.resolve(image).unwrap();
        let image = site.with(|access| ensure(&manifest, Form::Layers, access)).unwrap();
        assert_eq!(std::fs::read_to_string(image.layers[1].join("two")).unwrap(), "2");
    }
    assert_eq!(daemon.exports(), 1);
    // Nobody keeps the archive once its layers were read.
    let archives = std::fs::read_dir("/proc/self/fd").unwrap();
    let spooled = archives
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .filter(|path| path.starts_with(site.directory.path()))
        .filter(|path| path.to_string_lossy().contains(".spool"));
    assert_eq!(spooled.count(), 0);
}

#[test]
fn refuses_what_a_docker_daemon_sends_wrong_and_keeps_nothing() {
    let other = Digest::of(b"other").to_string();
    let wrong_id =
        Daemon::start(&other, here(), Export::Whole(old_docker_archive(&two_layers(), false)));
    let fault = Site::new(&wrong_id).fault("docker-daemon:a:1");
    assert!(matches!(fault, DockerError::Another { .. }), "{fault}");
    let pinned = format!("docker-daemon:{}", Digest::of(b"asked"));
    let fault = Site::new(&wrong_id).fault(&pinned);
    assert!(matches!(fault, DockerError::Another { .. }), "{fault}");

    let endless = Daemon::with_archive(&two_layers(), |_| Export::Endless);
    let fault = Site::new(&endless).fault("docker-daemon:a:1");
    assert!(matches!(fault, DockerError::TooLarge { bytes_max: 1048576 }), "{fault}");

    let cut = Daemon::with_archive(&two_layers(), Export::Cut);
    let fault = Site::new(&cut).fault("docker-daemon:a:1");
    assert!(matches!(fault, DockerError::Answer { .. }), "{fault}");

    let silent = Daemon::with_archive(&two_layers(), |_| Export::Silence);
    let fault = Site::new(&silent).fault("docker-daemon:a:1");
    assert!(matches!(fault, DockerError::Silent { .. }), "{fault}");

    let foreign = Daemon::start(&other, "s390x", Export::Silence);
    let fault = Site::new(&foreign).fault("docker-daemon:a:1");
    assert!(matches!(fault, DockerError::Platform { .. }), "{fault}");
    assert_eq!(foreign.exports(), 0);

    let nameless = Daemon::start("../x\u{1b}[2J", here(), Export::Silence);
    let fault = Site::new(&nameless).fault("docker-daemon:a:1");
    assert!(fault.to_string().contains("`../x\\u{1b}[2J`, which is no SHA-256"), "{fault}");
}

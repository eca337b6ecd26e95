//! Pulls that were cut short by more than the network: what came is gone on with, by whoever is
//! next.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ric_images::{
    Access, Collect, CredentialFiles, Digest, Form, Limits, LocalDocker, Progress, Registries,
    Store, Timeouts, ensure, resolve,
};

use super::fault_registry::{Answer, content};
use super::image_fixture::{Fixture, Layer};
use super::layer_twice::again;
use super::registry::{Site, blob_path, chain, three_layers};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// In the working directory of a worker: the registry's host.
pub(super) const WORKER: &str = "worker";

/// A layer of some 600 KB that comes in many pieces.
fn large() -> Layer {
    let digits = (0..10_000).map(|n: u32| Digest::of(&n.to_be_bytes()).hex());
    Layer::plain("file", &digits.collect::<String>())
}

fn partial(site: &Site, layer: &Layer) -> PathBuf {
    let name = format!("store/tmp/partial-{}", Digest::of(&layer.blob).hex());
    site.directory.path().join(name)
}

fn ranges(site: &Site, layer: &Layer) -> Vec<Option<String>> {
    let path = blob_path(&layer.blob);
    let asked = site.registry.asked().into_iter().filter(|asked| asked.path == path);
    asked.map(|asked| asked.range).collect()
}

/// Whole, with nothing left over.
fn check(site: &Site) {
    assert_eq!(site.store.check().unwrap(), []);
    let left = fs::read_dir(site.directory.path().join("store/tmp")).unwrap();
    assert_eq!(left.count(), 0);
}

/// Tells on standard output how many bytes came.
#[derive(Default)]
struct Telling(AtomicU64);

impl Progress for Telling {
    fn started(&self, _: &Digest, _: u64) {}
    fn advanced(&self, _: &Digest, bytes: u64) {
        let total = self.0.fetch_add(bytes, Ordering::Relaxed) + bytes;
        writeln!(std::io::stdout(), "\ncame {total}").unwrap();
    }
    fn finished(&self, _: &Digest) {}
}

/// Other tests here run this one as a process of its own, which pulls `a:1` from their registry.
#[test]
fn pulls_as_a_process() {
    let Ok(host) = fs::read_to_string(WORKER) else { return };
    let store = Store::open(Path::new("store")).unwrap();
    let access = Access {
        store: Some(&store),
        shifter_folders: &[],
        below: &[],
        asker: &ric_images::Asker::default(),
        registries: &Registries { plain_hosts: vec![host.clone()], ..Registries::default() },
        credentials: &CredentialFiles::default(),
        docker: &LocalDocker::default(),
        host_fingerprint: "",
        limits: &Limits::default(),
        timeouts: Timeouts::default(),
        progress: &Telling::default(),
    };
    let reference = format!("docker://{host}/a:1").parse().unwrap();
    ensure(&resolve(&reference, &access).unwrap(), Form::Layers, &access).unwrap();
}

#[allow(clippy::disallowed_methods, reason = "a worker must run while this test goes on")]
fn worker(site: &Site) -> Child {
    let told = site.directory.path().join(WORKER);
    // Once: another worker may be reading it.
    if !told.exists() {
        fs::write(told, site.registry.host()).unwrap();
    }
    let mut command = again("resumed::pulls_as_a_process", site.directory.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// T118, T120: killed wherever it was, a pull leaves what came; the next asks for the rest alone.
#[test]
fn a_killed_pull_is_gone_on_with() {
    let layer = large();
    for sent in [1, 4096, 100_000, 300_000, layer.blob.len() - 1] {
        let site = Site::new();
        site.registry.offer("a", "1", &Fixture::new(vec![layer.clone()]));
        let silence = Answer::SilenceAfter(sent, layer.blob.clone());
        let part = Answer::Part(usize::MAX, layer.blob.clone());
        site.registry.answer(&blob_path(&layer.blob), vec![silence, part]);
        let mut child = worker(&site);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let all = format!("came {sent}");
        assert!(lines.any(|line| line.unwrap() == all), "it ended before");
        child.kill().unwrap();
        child.wait().unwrap();

        let came = fs::metadata(partial(&site, &layer)).unwrap().len();
        assert!(
            sent < 200_000 || came > 0,
            "all but the last piece was written before it was told"
        );
        drop(Store::open(&site.directory.path().join("store")).unwrap());
        let image = site.ensure(&site.resolve("a:1").unwrap()).unwrap();
        assert!(image.layers[0].join("file").exists());
        let rest = (came > 0).then(|| format!("bytes={came}-"));
        assert_eq!(ranges(&site, &layer), [None, rest], "{sent}");
        check(&site);
    }
}

/// What the network broke off is kept in the same way.
#[test]
fn a_pull_that_failed_is_gone_on_with() {
    let (site, layer) = (Site::new(), large());
    let cut = [Answer::Part(1000, layer.blob.clone()), Answer::Reset];
    site.pull_layer(&layer, cut.to_vec()).unwrap_err();
    let before = ranges(&site, &layer).len();
    site.pull_layer(&layer, vec![Answer::Part(usize::MAX, layer.blob.clone())]).unwrap();
    assert_eq!(ranges(&site, &layer)[before..], [Some("bytes=1000-".to_owned())]);
    check(&site);
}

/// Wrong bytes, or too many, cost one fetch from the beginning.
#[test]
fn a_wrong_part_costs_one_clean_fetch() {
    let layer = large();
    let mut wrong = layer.blob[..1000].to_vec();
    wrong[600] ^= 1;
    let long = [&layer.blob[..], b"x"].concat();
    let from_part = Some("bytes=1000-".to_owned());
    for (left, asked) in [(wrong, vec![from_part, None]), (long, vec![None])] {
        let site = Site::new();
        fs::write(partial(&site, &layer), left).unwrap();
        let parts = Answer::Part(usize::MAX, layer.blob.clone());
        site.pull_layer(&layer, vec![parts]).unwrap();
        assert_eq!(ranges(&site, &layer), asked);
        check(&site);
    }
}

/// A registry that gives the wrong bytes each time is asked no more for it.
#[test]
fn wrong_bytes_end_in_an_error_and_leave_nothing() {
    let (site, layer) = (Site::new(), large());
    let mut other = layer.blob.clone();
    other[5000] ^= 1;
    fs::write(partial(&site, &layer), &other[..1000]).unwrap();
    let error = site.pull_layer(&layer, vec![Answer::Part(usize::MAX, other)]).unwrap_err();
    assert!(chain(&error).contains("is not what its manifest names"), "{}", chain(&error));
    assert_eq!(ranges(&site, &layer).len(), 2);
    check(&site);
}

/// Killed between the last byte and the end: nothing is left to be asked for.
#[test]
fn what_came_whole_is_not_asked_for() {
    let (site, layer) = (Site::new(), large());
    fs::write(partial(&site, &layer), &layer.blob).unwrap();
    site.pull_layer(&layer, vec![content(&layer.blob)]).unwrap();
    assert_eq!(ranges(&site, &layer), [None; 0]);
    check(&site);
}

/// What nobody went on with for a day goes; what is younger stays.
#[test]
fn old_parts_are_collected() {
    let (site, layer) = (Site::new(), large());
    let path = partial(&site, &layer);
    fs::write(&path, &layer.blob[..9000]).unwrap();
    let collect = |dry_run| site.store.collect(Collect { max_bytes: None, dry_run }).unwrap();
    let young = collect(false);
    assert_eq!((young.partials, young.left_bytes > 0), (0, true));
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - 2 * DAY).unwrap();
    let would = collect(true);
    assert_eq!((would.partials, would.freed_bytes), (1, young.left_bytes));
    assert!(path.exists());
    assert_eq!(collect(false), would);
    check(&site);
}

/// T118: fifty processes want one image at once; each of its blobs is asked for once.
#[test]
fn a_crowd_fetches_each_blob_once() {
    let (site, fixture) = (Site::new(), three_layers());
    site.registry.offer("a", "1", &fixture);
    let crowd: Vec<Child> = (0..50).map(|_| worker(&site)).collect();
    for mut child in crowd {
        assert!(child.wait().unwrap().success());
    }
    for layer in &fixture.layers {
        assert_eq!(ranges(&site, layer), [None]);
    }
    check(&site);
}

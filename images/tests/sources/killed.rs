//! Pulls that are killed anywhere, some two hundred times: whatever is in the store is whole.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use ric_images::{Digest, Form, Store, ensure, resolve};

use super::image_fixture::{Fixture, Layer};
use super::layer_twice::{again, scratch};
use super::registry::Site;
use super::resumed::WORKER;

const KILLS: usize = 200;

/// On a machine that is busy with other things, the rest is left for another day.
const TIME_MAX: Duration = Duration::from_secs(60);

/// A plain, a gzip and a Zstandard layer, together a few hundred KB in many pieces.
fn image() -> Fixture {
    let text = |from: u32, to| (from..to).map(|n| Digest::of(&n.to_be_bytes()).hex());
    let text = |from, to| text(from, to).collect::<String>();
    Fixture::new(vec![
        Layer::plain("plain", &text(0, 3000)),
        Layer::gzip("gzip", &text(3000, 6000)),
        Layer::zstd("zstd", &text(6000, 7000)),
    ])
}

/// A pull of `a:1` into `store` of the directory, in a process of its own.
#[allow(clippy::disallowed_methods, reason = "a worker must run while this test goes on")]
fn worker(directory: &Path) -> Child {
    let mut command = again("resumed::pulls_as_a_process", directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// T120. The next pull needs no cleaning up, whatever the last one had done.
#[test]
fn a_pull_survives_two_hundred_kills() {
    let site = Site::new();
    site.registry.offer("a", "1", &image());
    let place = scratch();
    fs::write(place.path().join(WORKER), site.registry.host()).unwrap();
    let root = place.path().join("store");
    let start = Instant::now();
    assert!(worker(place.path()).wait().unwrap().success());
    let whole = start.elapsed();
    let reference = format!("docker://{}/a:1", site.registry.host()).parse().unwrap();
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[120; 32]);
    let (start, mut kills, mut killed) = (Instant::now(), 0, 0);
    while kills < KILLS && start.elapsed() < TIME_MAX {
        // From nothing, from what was removed, or from where the last one was killed.
        match kills % 4 {
            0 => fs::remove_dir_all(&root).unwrap(),
            1 => fs::remove_dir_all(root.join("layers"))
                .and_then(|()| fs::create_dir(root.join("layers")))
                .unwrap(),
            _ => {}
        }
        let mut child = worker(place.path());
        let micros = u64::try_from(whole.as_micros()).unwrap();
        std::thread::sleep(Duration::from_micros(random.next_u64() % micros));
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().code().is_none());
        kills += 1;

        let store = Store::open(&root).unwrap();
        let left = names_in(&root.join("tmp"));
        assert!(left.iter().all(|name| name.starts_with("partial-")), "{left:?}");
        assert_eq!(store.check().unwrap(), [], "kill {kills}");
        if kills % 4 == 3 {
            continue;
        }
        site.with_access_to(&store, |access| {
            let manifest = resolve(&reference, access).unwrap();
            ensure(&manifest, Form::Layers, access).unwrap();
        });
        assert_eq!(store.check().unwrap(), [], "after kill {kills}");
        assert_eq!(names_in(&root.join("tmp")), [""; 0], "after kill {kills}");
    }
    assert!(killed * 3 > kills, "{killed} of {kills} were killed before their end");
}

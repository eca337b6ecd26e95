//! What a store keeps and what it lets go, while others pull, use and collect.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use ric_images::{
    Access, Collect, Collected, CredentialFiles, Digest, Form, Identity, Image, LayerDescriptor,
    Limits, LocalDocker, Manifest, MediaType, Reference, Silent, Store, StoreError, StoredError,
    Timeouts, ensure, resolve,
};

use super::image_fixture::{Fixture, Layer, index_of, write_layout};

/// A store, opened by as many as need be, and layouts to pull from.
struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        Site { directory: tempfile::tempdir().unwrap() }
    }

    /// The store as another process opens it.
    fn store(&self) -> Store {
        Store::open(&self.directory.path().join("store")).unwrap()
    }

    fn layout(&self, name: &str, layers: Vec<Layer>) -> Reference {
        let fixture = Fixture::new(layers);
        let path = self.directory.path().join(name);
        write_layout(&path, &index_of(vec![fixture.entry(None, None)]), &fixture.blobs());
        Reference::OciLayout { path, tag: None }
    }

    fn pull(&self, name: &str, layers: Vec<Layer>) -> (Manifest, Image) {
        let (reference, store) = (self.layout(name, layers), self.store());
        let manifest = look_up(&store, &reference);
        let image = fetch(&store, &manifest);
        (manifest, image)
    }

    /// How many layers and blobs there are.
    fn counts(&self) -> (usize, usize) {
        let count = |name: &str| {
            std::fs::read_dir(self.directory.path().join("store").join(name)).unwrap().count()
        };
        (count("layers"), count("blobs/sha256"))
    }
}

fn with_access<T>(store: &Store, then: impl FnOnce(&Access<'_>) -> T) -> T {
    then(&Access {
        store: Some(store),
        registries: &ric_images::Registries::default(),
        shifter_folders: &[],
        below: &[],
        asker: &ric_images::Asker::default(),
        docker: &LocalDocker::default(),
        host_fingerprint: "host:1",
        limits: &Limits::default(),
        timeouts: Timeouts::default(),
        credentials: &CredentialFiles::default(),
        progress: &Silent,
    })
}

fn look_up(store: &Store, reference: &Reference) -> Manifest {
    with_access(store, |access| resolve(reference, access)).unwrap()
}

fn fetch(store: &Store, manifest: &Manifest) -> Image {
    with_access(store, |access| ensure(manifest, Form::Layers, access)).unwrap()
}

/// Everything that no name reaches.
const ALL: Collect = Collect { max_bytes: None, dry_run: false };

#[test]
fn image_is_read_from_the_store_alone() {
    let site = Site::new();
    let (manifest, _) = site.pull("a", vec![Layer::gzip("one", "1"), Layer::zstd("two", "2")]);
    let Identity::Digest(digest) = manifest.identity else { panic!("{manifest:?}") };
    let store = site.store();
    let stored = store.image(&digest).unwrap().unwrap();
    assert_eq!(
        (stored.manifest.config, stored.manifest.layers),
        (manifest.config, manifest.layers)
    );
    assert_eq!(store.image(&Digest::of(b"another")).unwrap(), None);

    let index = index_of(vec![]);
    store.put_blob(&Digest::of(&index), &index).unwrap();
    for not_one in [stored.configuration, Digest::of(&index)] {
        let error = store.image(&not_one).unwrap_err();
        assert!(matches!(error, StoredError::Manifest { .. }), "{error}");
    }
    let blobs = site.directory.path().join("store/blobs/sha256");
    std::fs::remove_file(blobs.join(stored.configuration.hex())).unwrap();
    let error = store.image(&digest).unwrap_err();
    assert!(matches!(error, StoredError::Incomplete { .. }), "{error}");
    std::fs::write(blobs.join(digest.hex()), "other").unwrap();
    let error = store.image(&digest).unwrap_err();
    assert!(matches!(error, StoredError::Store { .. }), "{error}");
}

/// A layer that two images share stays for the one that has a name.
#[test]
fn collecting_takes_what_no_name_reaches() {
    let site = Site::new();
    let shared = Layer::plain("shared", "0");
    let (first, image) = site.pull("a", vec![shared.clone(), Layer::plain("one", "1")]);
    drop(image);
    let (second, image) = site.pull("b", vec![shared, Layer::plain("two", "2")]);
    drop(image);
    let store = site.store();
    assert_eq!(store.collect(ALL).unwrap().freed_bytes, 0);
    assert_eq!(site.counts(), (3, 4 + 3));

    let untagged = store.untag(&first.reference).unwrap().unwrap();
    assert!(untagged.manifest_removed);
    assert_eq!(store.untag(&first.reference).unwrap(), None);
    let collected = store.collect(ALL).unwrap();
    assert_eq!(collected.layers, [first.layers[1].diff_id]);
    assert_eq!(site.counts(), (2, 2 + 2));
    assert_eq!(store.check().unwrap(), []);
    assert_eq!(fetch(&store, &second).layers.len(), 2, "its layout is there, but not asked");
}

/// The manifest of an image with two names stays with the second.
#[test]
fn a_manifest_stays_as_long_as_it_has_a_name() {
    let site = Site::new();
    let (manifest, image) = site.pull("a", vec![Layer::plain("one", "1")]);
    let Identity::Digest(digest) = manifest.identity else { panic!("{manifest:?}") };
    drop(image);
    let store = site.store();
    store.tag("other", &digest).unwrap();
    assert!(!store.untag(&manifest.reference).unwrap().unwrap().manifest_removed);
    assert_eq!(store.collect(ALL).unwrap().freed_bytes, 0);
    assert!(store.image(&digest).unwrap().is_some());
    assert!(store.untag("other").unwrap().unwrap().manifest_removed);
}

/// As long as an image is in use, neither a collector nor a repair takes its layers; the twin is
/// the same after it.
#[test]
fn an_image_in_use_keeps_its_layers() {
    let site = Site::new();
    let (manifest, image) = site.pull("a", vec![Layer::plain("one", "1")]);
    let diff_id = manifest.layers[0].diff_id;
    let store = site.store();
    store.untag(&manifest.reference).unwrap();
    let copy = image.clone();
    drop(image);
    for max_bytes in [None, Some(1)] {
        let collected = store.collect(Collect { max_bytes, dry_run: false }).unwrap();
        assert_eq!((collected.layers, collected.in_use), (vec![], vec![diff_id]));
    }
    let error = store.remove_layer(&diff_id).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    std::fs::write(copy.layers[0].join("one"), "2").unwrap();
    let damage = store.check().unwrap();
    assert!(matches!(store.discard(&damage[0]), Err(StoreError::InUse { .. })));
    assert!(copy.layers[0].join("one").exists());

    drop(copy);
    assert_eq!(store.collect(ALL).unwrap().layers, [diff_id]);
    assert_eq!(site.counts().0, 0);
}

/// Names of what is in use stay too, where a size is wanted that cannot be had.
#[test]
fn a_size_takes_no_name_of_what_is_in_use() {
    let site = Site::new();
    let (used, image) = site.pull("a", vec![Layer::plain("one", "1")]);
    let (other, unused) = site.pull("b", vec![Layer::plain("two", "2")]);
    drop(unused);
    let store = site.store();
    let wish = Collect { max_bytes: Some(1), dry_run: true };
    let would = store.collect(wish).unwrap();
    assert_eq!(store.tags().unwrap().len(), 2, "a dry run forgets nothing");
    let collected = store.collect(Collect { dry_run: false, ..wish }).unwrap();
    assert_eq!(would, collected);
    assert_eq!(collected.layers, [other.layers[0].diff_id]);
    let names: Vec<_> = store.tags().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [used.reference]);
    assert!(collected.left_bytes > 1 && image.layers[0].exists());
}

/// Between looking an image up and having its layers, no name reaches its documents.
#[test]
fn a_pull_in_progress_keeps_its_documents() {
    let site = Site::new();
    let reference = site.layout("a", vec![Layer::plain("one", "1")]);
    let puller = site.store();
    let manifest = look_up(&puller, &reference);
    let Identity::Digest(digest) = manifest.identity else { panic!("{manifest:?}") };
    let collected = site.store().collect(ALL).unwrap();
    assert_eq!((collected.blobs.len(), collected.in_use.len()), (0, 2));
    drop(fetch(&puller, &manifest));
    assert!(puller.image(&digest).unwrap().is_some());

    // The twin: whoever looked it up has gone.
    let other = site.layout("b", vec![Layer::plain("two", "2")]);
    look_up(&site.store(), &other);
    assert_eq!(site.store().collect(ALL).unwrap().blobs.len(), 2);
}

/// Collecting neither waits for a layer that is being unpacked nor takes it.
#[test]
fn a_layer_in_the_making_is_left_alone() {
    /// Gives some of a blob, says so, and waits before it gives the rest.
    struct Halting<'a>(&'a [u8], Option<(Sender<()>, Receiver<()>)>);
    impl Read for Halting<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.len() < 700
                && let Some((halted, go_on)) = self.1.take()
            {
                halted.send(()).unwrap();
                go_on.recv().unwrap();
            }
            let count = buffer.len().min(self.0.len()).min(512);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }
    let site = Site::new();
    let tar = Layer::plain("one", &"1".repeat(2000)).tar;
    let (digest, blob_bytes) = (Digest::of(&tar), tar.len() as u64);
    let layer = LayerDescriptor { digest, diff_id: digest, blob_bytes, media_type: MediaType::Tar };
    let (store, collector) = (site.store(), site.store());
    let (halted, is_halted) = channel();
    let (go_on, goes_on) = channel();
    let mut blob = Halting(&tar, Some((halted, goes_on)));
    std::thread::scope(|scope| {
        let add = || store.add_layer(&layer, &mut blob, &Limits::default()).unwrap();
        let adding = scope.spawn(add);
        is_halted.recv().unwrap();
        let collected = collector.collect(ALL).unwrap();
        assert_eq!(
            collected,
            Collected { left_bytes: collected.left_bytes, ..Collected::default() }
        );
        go_on.send(()).unwrap();
        assert!(adding.join().unwrap().join("one").exists());
    });
    assert_eq!(collector.collect(ALL).unwrap().layers, [digest], "the twin: nobody has it now");
}

/// Pulls, uses and removals of images that share a layer, while collectors run: whoever has an
/// image has all of it, and what is left in the end is whole.
#[test]
fn collectors_and_pullers_do_not_meet() {
    const ROUNDS: usize = 30;
    let site = Site::new();
    let shared = Layer::plain("shared", "0");
    let images = ["a", "b", "c"]
        .map(|name| site.layout(name, vec![shared.clone(), Layer::plain(name, name)]));
    let pulling = AtomicUsize::new(images.len());
    std::thread::scope(|scope| {
        for reference in &images {
            let (site, pulling) = (&site, &pulling);
            scope.spawn(move || {
                let _done = Done(pulling);
                for round in 0..ROUNDS {
                    let store = site.store();
                    let manifest = look_up(&store, reference);
                    let image = fetch(&store, &manifest);
                    let file = manifest.reference.rsplit('/').next().unwrap();
                    assert!(image.layers[0].join("shared").exists(), "round {round}");
                    assert!(image.layers[1].join(file).exists(), "round {round}");
                    store.untag(&manifest.reference).unwrap();
                    assert!(image.layers[0].join("shared").exists(), "round {round}");
                    // From here on only its name keeps it.
                    drop(fetch(&store, &manifest));
                    drop(store);
                    assert!(image.layers[1].join(file).exists(), "round {round}");
                    let layers = image.layers.clone();
                    drop(image);
                    let is_whole = layers.iter().all(|layer| layer.exists());
                    assert!(is_whole, "a collector took what had got its name, round {round}");
                    site.store().untag(&manifest.reference).unwrap();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while pulling.load(Ordering::Relaxed) > 0 {
                    site.store().collect(ALL).unwrap();
                }
            });
        }
    });
    let store = site.store();
    assert_eq!(store.check().unwrap(), []);
    store.collect(ALL).unwrap();
    assert_eq!(site.counts(), (0, 0));
}

/// What a collector takes for unreachable gets no name meanwhile: whoever writes one waits.
#[test]
fn a_name_waits_for_a_collector() {
    let site = Site::new();
    let store = site.store();
    store.tag("first", &Digest::of(b"1")).unwrap();
    let path = site.directory.path().join("store/names.lock");
    let lock = std::fs::File::open(path).unwrap();
    lock.lock().unwrap();
    let has_ended = AtomicBool::new(false);
    let (begins, begun) = channel();
    std::thread::scope(|scope| {
        let naming = scope.spawn(|| {
            begins.send(()).unwrap();
            store.tag("second", &Digest::of(b"2")).unwrap();
            has_ended.load(Ordering::SeqCst)
        });
        begun.recv().unwrap();
        // What a collector does meanwhile.
        for _ in 0..100 {
            site.store().tags().unwrap();
        }
        assert_eq!(site.store().tagged("second").unwrap(), None);
        has_ended.store(true, Ordering::SeqCst);
        lock.unlock().unwrap();
        assert!(naming.join().unwrap(), "it did not wait");
    });
    assert!(store.tagged("second").unwrap().is_some());
}

/// One puller less, however it ended.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A collector that died on its way has moved things aside: they go when the store is opened.
#[test]
fn what_a_dead_collector_left_goes() {
    let site = Site::new();
    let (manifest, image) = site.pull("a", vec![Layer::plain("one", "1")]);
    drop(image);
    let root = site.directory.path().join("store");
    let bin = root.join("tmp/garbage");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(root.join("tmp/garbage.lock"), "").unwrap();
    let layer = manifest.layers[0].diff_id.hex();
    std::fs::rename(root.join("layers").join(&layer), bin.join(&layer)).unwrap();
    let store = site.store();
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    assert_eq!(store.check().unwrap(), []);
    assert_eq!(fetch(&store, &manifest).layers.len(), 1, "what it took is fetched again");
}

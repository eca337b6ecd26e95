//! Images from files: `docker save` archives, OCI layouts and archives, bare directories.

use std::path::{Path, PathBuf};

use oci_spec::image::{
    Arch, ConfigBuilder, ImageConfigurationBuilder, ImageManifest, RootFsBuilder,
};
use ric_images::{
    Access, Config, CredentialFiles, Digest, Form, Identity, Image, LayerDescriptor, Limits,
    LocalDocker, Manifest, PullError, Reference, ResolveError, Silent, SourceError, Store,
    Timeouts, ensure, resolve,
};
use serde_json::{Value, json};

use super::image_fixture::{
    Fixture, Layer, here, index_of, layout_archive, new_docker_archive, old_docker_archive, tar_of,
    write_layout,
};

/// A directory with a store and files in it.
struct Site {
    directory: tempfile::TempDir,
    store: Store,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        Site { directory, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn resolve(&self, reference: &Reference) -> Result<Manifest, ResolveError> {
        with_access(&self.store, |access| resolve(reference, access))
    }

    fn ensure(&self, manifest: &Manifest) -> Result<Image, PullError> {
        with_access(&self.store, |access| ensure(manifest, Form::Layers, access))
    }

    fn docker_archive(&self, bytes: &[u8]) -> Reference {
        Reference::DockerArchive(self.write("docker.tar", bytes))
    }

    fn oci_archive(&self, bytes: &[u8]) -> Reference {
        Reference::OciArchive(self.write("oci.tar", bytes))
    }

    fn layout(&self, index: &[u8], blobs: &[&[u8]]) -> PathBuf {
        write_layout(&self.path("layout"), index, blobs);
        self.path("layout")
    }

    /// Why `reference` cannot be resolved, from where it is.
    fn fault(&self, reference: &Reference) -> SourceError {
        match self.resolve(reference) {
            Err(ResolveError::Source { source, .. }) => *source,
            other => panic!("{other:?}"),
        }
    }

    /// The contents of `names`, one in each layer.
    fn contents(&self, reference: &Reference, names: &[&str]) -> (Manifest, Vec<String>) {
        let manifest = self.resolve(reference).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let image = self.ensure(&manifest).unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(image.layers.len(), names.len());
        let read = |(layer, name): (&PathBuf, &&str)| std::fs::read_to_string(layer.join(name));
        let contents = image.layers.iter().zip(names).map(read).collect::<Result<_, _>>().unwrap();
        (manifest, contents)
    }
}

fn with_access<T>(store: &Store, then: impl FnOnce(&Access<'_>) -> T) -> T {
    then(&Access {
        store: Some(store),
        registries: &ric_images::Registries::default(),
        shifter_folders: &[],
        below: &[],
        asker: &ric_images::Asker::default(),
        credentials: &CredentialFiles::default(),
        docker: &LocalDocker::default(),
        host_fingerprint: "host:1",
        limits: &Limits::default(),
        timeouts: Timeouts::default(),
        progress: &Silent,
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn two_layers() -> Fixture {
    Fixture::new(vec![Layer::plain("one", "1"), Layer::gzip("two", "2")])
}

#[test]
fn docker_archives_of_all_ages_are_the_same_image() {
    let mut digests = Vec::new();
    let fixture = two_layers();
    for bytes in [
        old_docker_archive(&fixture, false),
        old_docker_archive(&fixture, true),
        new_docker_archive(&fixture),
    ] {
        let site = Site::new();
        let reference = site.docker_archive(&bytes);
        let (manifest, contents) = site.contents(&reference, &["one", "two"]);
        assert_eq!(contents, ["1", "2"]);
        assert_eq!(manifest.config.command, ["sh"]);
        let Identity::Digest(digest) = manifest.identity else { panic!() };
        digests.push(digest);

        // What is kept is a manifest that another reader understands too.
        let kept = site.store.read_blob(&digest, 1 << 20).unwrap().unwrap();
        let kept = ImageManifest::from_reader(&kept[..]).unwrap();
        assert_eq!(kept.config().digest().to_string(), Digest::of(&fixture.config).to_string());
        assert_eq!(kept.layers().len(), 2);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn reads_a_configuration_that_another_writer_made() {
    let layer = Layer::plain("one", "1");
    let rootfs = RootFsBuilder::default().diff_ids([Digest::of(&layer.tar).to_string()]);
    let config = ImageConfigurationBuilder::default()
        .architecture(if here() == "amd64" { Arch::Amd64 } else { Arch::ARM64 })
        .config(ConfigBuilder::default().env(["A=b".to_owned()]).build().unwrap())
        .rootfs(rootfs.build().unwrap());
    let config = config.build().unwrap().to_string().unwrap().into_bytes();
    let site = Site::new();
    let fixture = Fixture::with_config(vec![layer], config);
    let reference = site.docker_archive(&old_docker_archive(&fixture, false));
    let (manifest, contents) = site.contents(&reference, &["one"]);
    assert_eq!(contents, ["1"]);
    assert_eq!(manifest.config.variables, [("A".to_owned(), "b".to_owned())]);
}

#[test]
fn layouts_and_their_archives_give_the_manifest_as_it_is() {
    let site = Site::new();
    let fixture = two_layers();
    let index = index_of(vec![fixture.entry(Some("v1"), None)]);
    let path = site.layout(&index, &fixture.blobs());
    let archive = site.oci_archive(&layout_archive(&index, &fixture.blobs()));
    for reference in [
        Reference::OciLayout { path: path.clone(), tag: None },
        Reference::OciLayout { path, tag: Some("v1".to_owned()) },
        archive,
    ] {
        let (manifest, contents) = site.contents(&reference, &["one", "two"]);
        assert_eq!(contents, ["1", "2"]);
        assert_eq!(manifest.identity, Identity::Digest(fixture.digest()));
    }
}

#[test]
fn layout_of_several_images_wants_a_tag() {
    let site = Site::new();
    let (one, two) = (two_layers(), Fixture::new(vec![Layer::plain("three", "3")]));
    let foreign = Fixture::for_platform(vec![], "linux", "s390x");
    let index = index_of(vec![
        one.entry(Some("one"), None),
        two.entry(Some("two"), Some(("linux", here()))),
        foreign.entry(Some("two"), Some(("linux", "s390x"))),
    ]);
    let blobs: Vec<_> = [&one, &two, &foreign].iter().flat_map(|image| image.blobs()).collect();
    let path = site.layout(&index, &blobs);
    let tagged = |tag: &str| Reference::OciLayout { path: path.clone(), tag: Some(tag.to_owned()) };
    assert_eq!(site.contents(&tagged("two"), &["three"]).1, ["3"]);
    let fault = site.fault(&tagged("three"));
    let expected = "has 3 images (`one`, `two`, `two`), not one `three`";
    assert!(fault.to_string().contains(expected), "{fault}");

    // Without a tag the platform decides, if it can.
    let fault = |index: Vec<Value>| {
        std::fs::write(path.join("index.json"), index_of(index)).unwrap();
        site.fault(&Reference::OciLayout { path: path.clone(), tag: None }).to_string()
    };
    let message = fault(vec![one.entry(Some("one"), None), foreign.entry(Some("x"), None)]);
    assert!(message.contains("does not say which"), "{message}");
    assert!(fault(vec![]).contains("no images"));
}

#[test]
fn docker_archive_of_several_images_is_refused_with_their_names() {
    let site = Site::new();
    let list = br#"[{"Config": "a", "RepoTags": ["a:1"]}, {"Config": "b", "RepoTags": ["b:2"]}]"#;
    let fault = site.fault(&site.docker_archive(&tar_of(&[("manifest.json", list)])));
    assert!(fault.to_string().contains("2 images (a:1, b:2)"), "{fault}");
}

#[test]
fn every_flipped_blob_is_refused_and_nothing_is_unpacked() {
    let fixture = two_layers();
    let index = index_of(vec![fixture.entry(None, None)]);
    for blob in fixture.blobs() {
        let site = Site::new();
        let path = site.layout(&index, &fixture.blobs());
        let mut flipped = blob.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let file = path.join("blobs/sha256").join(Digest::of(blob).hex());
        std::fs::write(file, flipped).unwrap();
        let reference = Reference::OciLayout { path, tag: None };
        let message = match site.resolve(&reference) {
            Err(error) => chain(&error),
            Ok(manifest) => chain(&site.ensure(&manifest).unwrap_err()),
        };
        assert!(message.contains(&Digest::of(blob).to_string()), "{message}");
        let diff_id = |layer: &Layer| Digest::of(&layer.tar);
        let of_flipped = fixture.layers.iter().filter(|layer| layer.blob == blob);
        for layer in of_flipped.map(diff_id) {
            assert_eq!(site.store.layer(&layer), None);
        }
    }
}

#[test]
fn missing_blobs_are_named_with_their_archive() {
    let fixture = two_layers();
    let index = index_of(vec![fixture.entry(None, None)]);
    for blob in fixture.blobs() {
        let site = Site::new();
        let others: Vec<_> = fixture.blobs().into_iter().filter(|other| *other != blob).collect();
        let reference = site.oci_archive(&layout_archive(&index, &others));
        let message = match site.resolve(&reference) {
            Err(error) => chain(&error),
            Ok(manifest) => chain(&site.ensure(&manifest).unwrap_err()),
        };
        let expected = format!("oci.tar has no `blobs/sha256/{}`", Digest::of(blob).hex());
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn archives_cut_anywhere_are_refused() {
    let site = Site::new();
    let fixture = two_layers();
    let whole = old_docker_archive(&fixture, false);
    // What follows the content of the last entry is only padding, and not missed.
    let needed = whole.len() - 1024 - 512 + fixture.layers[1].blob.len();
    for length in (0..needed).rev().step_by(50) {
        let reference = site.docker_archive(&whole[..length]);
        let fault = site.fault(&reference);
        assert!(
            matches!(
                fault,
                SourceError::Truncated { .. }
                    | SourceError::Tar { .. }
                    | SourceError::Missing { .. }
            ),
            "{length}: {fault:?}"
        );
    }
}

#[test]
fn what_is_missing_or_no_archive_is_said_plainly() {
    let site = Site::new();
    let missing = site.path("missing");
    for reference in [
        Reference::DockerArchive(missing.clone()),
        Reference::OciArchive(missing.clone()),
        Reference::OciLayout { path: missing.clone(), tag: None },
    ] {
        let message = chain(&site.fault(&reference));
        let expected = format!("cannot open {}: No such file", missing.display());
        assert!(message.contains(&expected), "{message}");
    }
    let message = chain(&site.fault(&Reference::DockerArchive(site.path("store"))));
    assert!(message.contains("no regular file"), "{message}");
    let fault = site.fault(&site.docker_archive(b""));
    assert!(fault.to_string().contains("end of the file in a header"), "{fault}");
    let fault = site.fault(&site.docker_archive(&[b'x'; 2000]));
    assert!(fault.to_string().contains("no header with a valid checksum at byte 0"), "{fault}");
    let packed = [&b"\x1f\x8b\x08\x00"[..], &[b'x'; 2000]].concat();
    let fault = site.fault(&site.docker_archive(&packed));
    assert!(fault.to_string().contains("packed with gzip") && fault.hint().is_some(), "{fault}");
}

#[test]
fn the_other_kind_of_archive_is_recognised() {
    let site = Site::new();
    let fixture = two_layers();
    let index = index_of(vec![fixture.entry(None, None)]);
    let fault = site.fault(&site.docker_archive(&layout_archive(&index, &fixture.blobs())));
    assert!(fault.hint().unwrap().contains("oci-archive:"), "{fault}");
    let fault = site.fault(&site.oci_archive(&old_docker_archive(&fixture, false)));
    assert!(fault.hint().unwrap().contains("docker-archive:"), "{fault}");
}

#[test]
fn a_fifo_or_a_link_out_of_a_layout_is_refused_without_waiting() {
    let fixture = two_layers();
    let index = index_of(vec![fixture.entry(None, None)]);
    let site = Site::new();
    let path = site.layout(&index, &fixture.blobs());
    let reference = Reference::OciLayout { path: path.clone(), tag: None };
    let blob = path.join("blobs/sha256").join(fixture.digest().hex());

    std::fs::rename(&blob, path.join("inside")).unwrap();
    std::os::unix::fs::symlink("../../inside", &blob).unwrap();
    site.resolve(&reference).unwrap();

    std::fs::rename(path.join("inside"), site.path("outside")).unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(site.path("outside"), &blob).unwrap();
    assert!(site.fault(&reference).to_string().contains("leads out"));

    std::fs::remove_file(&blob).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &blob, rustix::fs::Mode::RUSR).unwrap();
    assert!(site.fault(&reference).to_string().contains("no regular file"));
}

#[test]
fn a_fifo_in_place_of_an_archive_is_refused_without_waiting() {
    let site = Site::new();
    let path = site.path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    let message = chain(&site.fault(&Reference::OciArchive(path)));
    assert!(message.contains("no regular file"), "{message}");
}

#[test]
fn other_layouts_versions_are_refused() {
    let site = Site::new();
    let path = site.layout(&index_of(vec![]), &[]);
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion": "2.0.0"}"#).unwrap();
    let message = chain(&site.fault(&Reference::OciLayout { path, tag: None }));
    assert!(message.contains("`2.0.0`: expected 1.0.0"), "{message}");
}

#[test]
fn a_configuration_named_by_another_digest_is_refused() {
    let site = Site::new();
    let fixture = two_layers();
    let name = format!("{}.json", Digest::of(b"other").hex());
    let list = json!([{"Config": name, "Layers": []}]).to_string();
    let bytes = tar_of(&[("manifest.json", list.as_bytes()), (&name, &fixture.config)]);
    let message = chain(&site.fault(&site.docker_archive(&bytes)));
    assert!(message.contains("expected blob"), "{message}");
}

#[test]
fn a_layer_packed_in_an_unknown_way_is_refused() {
    let site = Site::new();
    let mut fixture = Fixture::new(vec![Layer::plain("one", "1")]);
    fixture.layers[0].blob = b"\xfd7zXZ\0 and so on".to_vec();
    let fault = site.fault(&site.docker_archive(&old_docker_archive(&fixture, false)));
    assert!(fault.to_string().contains("packed with xz"), "{fault}");
}

#[test]
fn an_image_of_another_machine_is_refused_with_both_names() {
    let site = Site::new();
    let fixture = Fixture::for_platform(vec![], "linux", "s390x");
    let reference = site.docker_archive(&old_docker_archive(&fixture, false));
    let message = chain(&site.resolve(&reference).unwrap_err());
    let expected = format!("is for linux/s390x, this machine runs linux/{}", here());
    assert!(message.contains(&expected), "{message}");
}

#[test]
fn an_image_without_layers_is_an_image() {
    let site = Site::new();
    let reference = site.docker_archive(&old_docker_archive(&Fixture::new(vec![]), false));
    let manifest = site.resolve(&reference).unwrap();
    assert_eq!(site.ensure(&manifest).unwrap().layers, Vec::<PathBuf>::new());
}

#[test]
fn a_layer_used_twice_is_stacked_twice() {
    let site = Site::new();
    let layer = Layer::gzip("one", "1");
    let fixture = Fixture::new(vec![layer.clone(), layer]);
    let reference = site.docker_archive(&new_docker_archive_of_repeated(&fixture));
    assert_eq!(site.contents(&reference, &["one", "one"]).1, ["1", "1"]);
}

/// `new_docker_archive` with each blob once.
fn new_docker_archive_of_repeated(fixture: &Fixture) -> Vec<u8> {
    let once = Fixture { layers: vec![fixture.layers[0].clone()], ..fixture.clone() };
    let name = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let layer = name(&fixture.layers[0].blob);
    let list = json!([{"Config": name(&fixture.config), "Layers": [layer, layer]}]).to_string();
    let names: Vec<_> = once.blobs().iter().map(|blob| name(blob)).collect();
    let mut files = vec![("manifest.json", list.as_bytes())];
    files.extend(names.iter().map(String::as_str).zip(once.blobs()));
    tar_of(&files)
}

#[test]
fn a_directory_is_its_own_image_until_it_is_replaced() {
    let site = Site::new();
    let root = site.path("root");
    std::fs::create_dir(&root).unwrap();
    let reference = Reference::Dir(root.clone());
    let manifest = site.resolve(&reference).unwrap();
    assert_eq!(site.resolve(&reference).unwrap(), manifest);
    let Identity::Fingerprint(_) = manifest.identity else { panic!() };
    assert_eq!(site.ensure(&manifest).unwrap().layers, std::slice::from_ref(&root));

    // The old one lives on: its inode cannot be given to the new one.
    std::fs::rename(&root, site.path("old")).unwrap();
    std::fs::create_dir(&root).unwrap();
    assert!(matches!(site.ensure(&manifest), Err(PullError::Changed { .. })));
    std::fs::remove_dir(&root).unwrap();
    assert!(matches!(site.ensure(&manifest), Err(PullError::Directory { .. })));
    assert!(matches!(site.resolve(&reference), Err(ResolveError::Directory { .. })));
    let file = Reference::Dir(site.write("file", b""));
    assert!(chain(&site.resolve(&file).unwrap_err()).contains("not a directory"));
}

#[test]
fn host_and_directories_need_no_store() {
    let access = Access {
        store: None,
        registries: &ric_images::Registries::default(),
        shifter_folders: &[],
        below: &[],
        asker: &ric_images::Asker::default(),
        credentials: &CredentialFiles::default(),
        docker: &LocalDocker::default(),
        host_fingerprint: "host:1",
        limits: &Limits::default(),
        timeouts: Timeouts::default(),
        progress: &Silent,
    };
    let manifest = resolve(&Reference::Host, &access).unwrap();
    assert_eq!(manifest.identity, Identity::Fingerprint("host:1".to_owned()));
    assert_eq!(manifest.config, Config::default());
    assert_eq!(ensure(&manifest, Form::Layers, &access).unwrap().layers, Vec::<PathBuf>::new());
    let manifest = resolve(&Reference::Dir(PathBuf::from("/")), &access).unwrap();
    assert_eq!(ensure(&manifest, Form::Layers, &access).unwrap().layers, [Path::new("/")]);

    // An archive can be looked at, but not unpacked.
    let site = Site::new();
    let reference = site.docker_archive(&old_docker_archive(&two_layers(), false));
    let manifest = resolve(&reference, &access).unwrap();
    let refused = ensure(&manifest, Form::Layers, &access);
    assert!(matches!(refused, Err(PullError::NoStore { .. })));
}

#[test]
fn a_short_name_never_reaches_the_network() {
    let site = Site::new();
    let error = site.resolve(&"python:3.12".parse().unwrap()).unwrap_err();
    assert!(matches!(&error, ResolveError::ShortName { name } if name == "python:3.12"));
    assert!(error.hint().is_some());
}

#[test]
fn an_archive_replaced_after_it_was_resolved_is_noticed() {
    let site = Site::new();
    let reference = site.docker_archive(&old_docker_archive(&two_layers(), false));
    let manifest = site.resolve(&reference).unwrap();
    let other = Fixture::new(vec![Layer::plain("three", "3")]);
    site.docker_archive(&old_docker_archive(&other, false));
    let message = chain(&site.ensure(&manifest).unwrap_err());
    let names = |layer: &LayerDescriptor| message.contains(&layer.digest.to_string());
    assert!(manifest.layers.iter().any(names), "{message}");
}

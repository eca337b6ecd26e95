//! Keeping images, as a user does it: what is told, what goes, what stays, and the exit codes.

// The whole file is a test; the lints look for `mod tests`.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A directory with a store and layouts to pull from.
struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        Site { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn images(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_run-in-container"))
            .arg("images")
            .args(arguments)
            .arg("--store")
            .arg(self.path("store"))
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The same with `--json`, which must end with this exit code.
    fn json(&self, arguments: &[&str], exit_code: i32) -> Value {
        let output = self.images(&[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(exit_code), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Writes a layout of one image with these layers, and its reference.
    fn layout(&self, name: &str, layers: &[Vec<u8>]) -> String {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "os": "linux",
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
            "config": {
                "Entrypoint": ["/bin/tool"], "Cmd": ["--help"], "Env": ["PATH=/bin", "A=b=c"],
                "WorkingDir": "/work", "User": "1000",
                "Labels": {"org.example.name": name, "odd": "\u{1b}[2J", "number": 1},
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": described("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|layer| described(tar, layer)).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        let index = json!({"schemaVersion": 2, "manifests": [described(MANIFEST, &manifest)]});
        let root = self.path(name);
        fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        fs::write(root.join("index.json"), index.to_string()).unwrap();
        for blob in layers.iter().chain([&manifest, &config]) {
            fs::write(root.join("blobs/sha256").join(&digest(blob)[7..]), blob).unwrap();
        }
        format!("oci:{}", root.display())
    }

    /// Writes a layout, pulls it, and takes the layout away: reference and manifest.
    fn pulled(&self, name: &str, layers: &[Vec<u8>]) -> (String, String) {
        let reference = self.layout(name, layers);
        let rows = self.json(&["pull", &reference], 0);
        fs::rename(self.path(name), self.path(&format!("{name}-away"))).unwrap();
        (reference, rows[0]["identity"].as_str().unwrap().to_owned())
    }
}

fn described(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A layer of one file.
fn layer(name: &str, bytes: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.try_into().unwrap());
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    builder.append_data(&mut header, name, &*vec![b'x'; bytes]).unwrap();
    builder.into_inner().unwrap()
}

/// Exit code 125, and all of this on standard error.
fn fails(output: &Output, said: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    for words in said {
        assert!(stderr.contains(words), "it does not say `{words}`: {stderr}");
    }
}

/// By name or digest, after the place it came from is gone.
#[test]
fn inspect_shows_what_the_store_has() {
    let site = Site::new();
    let (one, two) = (layer("one", 10), layer("two", 20));
    let (reference, manifest) = site.pulled("tool", &[one.clone(), two.clone()]);
    let row = |tar: &Vec<u8>| {
        json!({"digest": digest(tar), "diff_id": digest(tar), "size_bytes": tar.len(),
               "unpacked": true, "packed": true})
    };
    let expected = json!({
        "digest": manifest,
        "references": [reference],
        "platform": if cfg!(target_arch = "x86_64") { "linux/amd64" } else { "linux/arm64" },
        "entrypoint": ["/bin/tool"],
        "command": ["--help"],
        "variables": ["PATH=/bin", "A=b=c"],
        "workdir": "/work",
        "user": "1000",
        "labels": {"odd": "\u{1b}[2J", "org.example.name": "tool"},
        "layers": [row(&one), row(&two)],
    });
    assert_eq!(site.json(&["inspect", &reference], 0), expected);
    assert_eq!(site.json(&["inspect", &manifest], 0), expected);
    let output = site.images(&["inspect", &reference]);
    let text = String::from_utf8(output.stdout).unwrap();
    for line in
        ["entry point  [\"/bin/tool\"]", "workdir      /work", "label        odd=\\u{1b}[2J"]
    {
        assert!(text.lines().any(|it| it == line), "no line `{line}`:\n{text}");
    }
}

#[test]
fn pull_tells_what_it_fetches_one_object_a_line() {
    let site = Site::new();
    let tar = layer("a", 100);
    let reference = site.layout("one", std::slice::from_ref(&tar));
    let pull = || {
        let output = site.images(&["pull", &reference, "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        let events = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.map(|event| event["event"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(pull(), ["started", "finished"]);
    assert_eq!(pull(), [""; 0], "what is there is not fetched");
}

#[test]
fn inspect_of_what_is_not_there_says_how_to_get_it() {
    let site = Site::new();
    let reference = "docker://registry.example.org/tool:1";
    let hint = format!("hint: `run-in-container images pull {reference}`");
    fails(&site.images(&["inspect", reference]), &["does not have it", &hint]);
    assert!(!site.path("store").exists(), "looking makes no store");
    site.pulled("tool", &[layer("one", 10)]);
    fails(&site.images(&["inspect", reference]), &["does not have it", &hint]);
    let unknown = digest(b"no such image");
    fails(&site.images(&["inspect", &unknown]), &["does not have it", "images list"]);
    fails(&site.images(&["inspect", "sha256:12"]), &["it has another length"]);
}

/// Two images that share a layer: one goes, and with it only what the other does not need.
#[test]
fn remove_and_gc_take_what_no_other_image_needs() {
    let site = Site::new();
    let (shared, one, two) = (layer("shared", 9000), layer("one", 9000), layer("two", 9000));
    let (first, first_manifest) = site.pulled("first", &[shared.clone(), one.clone()]);
    let (second, _) = site.pulled("second", &[shared.clone(), two.clone()]);
    assert_eq!(site.json(&["gc"], 0)["freed_bytes"], 0);

    let removed = site.json(&["remove", &first], 0);
    let row = json!({"reference": first, "digest": first_manifest, "manifest_removed": true});
    assert_eq!(removed["removed"], json!([row]));
    fails(&site.images(&["inspect", &first]), &["does not have it"]);
    let expected = site.json(&["gc", "--dry-run"], 0);
    assert_eq!(expected["layers"], json!([digest(&one)]));
    assert_eq!(expected["freed_bytes"], removed["freeable_bytes"]);
    assert!(expected["freed_bytes"].as_u64().unwrap() > 9000, "{expected}");
    assert_eq!(layers(&site), names(&[&shared, &one, &two]), "a dry run removes nothing");

    let collected = site.json(&["gc"], 0);
    assert_eq!(collected["freed_bytes"], expected["freed_bytes"]);
    assert_eq!((&collected["layers"], &collected["in_use"]), (&expected["layers"], &json!([])));
    assert_eq!(layers(&site), names(&[&shared, &two]));
    assert_eq!(fs::read_dir(site.path("store/tmp")).unwrap().count(), 0);
    assert_eq!(site.json(&["verify"], 0), json!([]));
    let whole = site.json(&["inspect", &second], 0);
    assert!(whole["layers"].as_array().unwrap().iter().all(|layer| layer["unpacked"] == true));
}

/// One name that is not there, and nothing goes.
#[test]
fn remove_removes_all_or_nothing() {
    let site = Site::new();
    let (reference, manifest) = site.pulled("tool", &[layer("one", 10)]);
    let unknown = "docker://registry.example.org/tool:1";
    fails(&site.images(&["remove", &reference, unknown]), &[unknown, "does not have it"]);
    assert_eq!(site.json(&["list"], 0).as_array().unwrap().len(), 1);
    let output = site.images(&["remove", &manifest]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("removed {reference}  {manifest}\n")), "{text}");
    assert_eq!(site.json(&["list"], 0), json!([]));
}

/// Which was used last is told by use, not by when it was pulled.
#[test]
fn gc_with_a_size_takes_the_least_recently_used() {
    let site = Site::new();
    let tars = [layer("one", 300_000), layer("two", 300_000), layer("three", 300_000)];
    let pull = |n: usize| site.pulled(&format!("image-{n}"), &tars[n..=n]).0;
    let references = [pull(0), pull(1), pull(2)];
    // Used again: the oldest is the latest now.
    fs::rename(site.path("image-0-away"), site.path("image-0")).unwrap();
    site.json(&["pull", &references[0]], 0);
    let collected = site.json(&["gc", "--max-size", "1400KiB"], 0);
    assert_eq!(collected["removed"][0]["reference"], references[1]);
    assert_eq!(collected["removed"].as_array().unwrap().len(), 1);
    assert_eq!(layers(&site), names(&[&tars[0], &tars[2]]));
    assert!(collected["left_bytes"].as_u64().unwrap() <= 1400 << 10, "{collected}");
}

/// Exit code 1, the path and what is wrong; a repair leaves just that to be fetched.
#[test]
fn verify_finds_damage_and_repairs_it() {
    let site = Site::new();
    let (whole, broken) = (layer("whole", 10), layer("broken", 20));
    let (reference, _) = site.pulled("tool", &[whole.clone(), broken.clone()]);
    assert_eq!(site.json(&["verify"], 0), json!([]));
    let holder = site.path("store/layers").join(&digest(&broken)[7..]);
    fs::write(holder.join("tree/broken"), "other").unwrap();

    let damage = site.json(&["verify"], 1);
    assert_eq!(damage[0]["path"].as_str().unwrap(), holder.to_str().unwrap());
    assert_eq!((&damage[0]["removed"], damage.as_array().unwrap().len()), (&json!(false), 1));
    assert_eq!(site.images(&["verify"]).status.code(), Some(1));
    assert!(holder.exists(), "without `--repair` nothing goes");
    assert_eq!(site.json(&["verify", "--repair"], 1)[0]["made_again"], true);
    assert_eq!(fs::read(holder.join("tree/broken")).unwrap(), [b'x'; 20], "from the kept blob");
    assert_eq!(site.json(&["verify"], 0), json!([]));

    fs::write(holder.join("tree/broken"), "other").unwrap();
    fs::remove_file(site.path("store/blobs/sha256").join(&digest(&broken)[7..])).unwrap();
    assert_eq!(site.json(&["verify", "--repair"], 1)[0]["removed"], true);
    assert_eq!(layers(&site), names(&[&whole]));
    assert_eq!(site.json(&["verify"], 0), json!([]));

    // The whole layer's blob is gone from where it was: only the other is asked for.
    fs::rename(site.path("tool-away"), site.path("tool")).unwrap();
    fs::remove_file(site.path("tool/blobs/sha256").join(&digest(&whole)[7..])).unwrap();
    site.json(&["pull", &reference], 0);
    assert_eq!(layers(&site), names(&[&whole, &broken]));
}

/// The unpacked layers, by name.
fn layers(site: &Site) -> Vec<String> {
    let entries = fs::read_dir(site.path("store/layers")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn names(tars: &[&Vec<u8>]) -> Vec<String> {
    let mut names: Vec<_> = tars.iter().map(|tar| digest(tar)[7..].to_owned()).collect();
    names.sort();
    names
}

/// The names of a store and what they mean.
fn listed(site: &Site) -> Vec<(String, String)> {
    let rows = site.json(&["list"], 0);
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (text(row, "reference"), text(row, "digest"))).collect()
}

#[test]
fn images_go_out_in_a_file_and_come_back_by_all_their_names() {
    let (site, other) = (Site::new(), Site::new());
    let shared = layer("shared", 5000);
    let (first, digest) = site.pulled("first", &[shared.clone(), layer("own", 10)]);
    let (second, _) = site.pulled("second", &[shared]);
    let file = site.path("all.tar");
    let file = file.to_str().unwrap();
    let exported = site.json(&["export", &first, &second, file], 0);
    assert_eq!(exported["images"][0], json!({"identity": digest, "names": [first]}));
    let imported = other.json(&["import", file], 0);
    assert_eq!(imported[0], json!({"reference": first, "digest": digest}));
    assert_eq!(listed(&other), listed(&site));
    assert_eq!(other.json(&["verify"], 0), json!([]));
    // What came back goes out as the same bytes, by digest too.
    let again = other.path("again.tar");
    let [(_, a), (_, b)] = &listed(&other)[..] else { panic!() };
    other.json(&["export", a, b, again.to_str().unwrap()], 0);
    assert!(fs::read(&again).unwrap() == fs::read(file).unwrap(), "another archive");
    // One image may get another name.
    let one = site.path("one.tar");
    site.json(&["export", &first, one.to_str().unwrap()], 0);
    other.json(&["import", one.to_str().unwrap(), "--name", "tools:1"], 0);
    assert!(listed(&other).contains(&("docker://localhost/tools:1".to_owned(), digest)));
    fails(&other.images(&["import", file, "--name", "tools"]), &["has 2 images"]);
}

#[test]
fn a_damaged_archive_gives_no_image_a_name() {
    let site = Site::new();
    let (first, _) = site.pulled("first", &[layer("a", 5000), layer("b", 5000)]);
    let file = site.path("one.tar");
    site.json(&["export", &first, file.to_str().unwrap()], 0);
    let whole = fs::read(&file).unwrap();
    let places = (0..whole.len()).step_by(whole.len() / 40).filter(|at| whole[*at] == b'x');
    for place in places.chain([1024, whole.len() - 1]) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        // A cut in place of a flip where nothing is written.
        bytes.truncate(if whole[place] == 0 { place / 2 } else { bytes.len() });
        let (other, damaged) = (Site::new(), site.path("damaged.tar"));
        fs::write(&damaged, bytes).unwrap();
        fails(&other.images(&["import", damaged.to_str().unwrap()]), &[]);
        assert_eq!(listed(&other), [], "byte {place}");
        assert_eq!(other.json(&["verify"], 0), json!([]));
    }
}

#[test]
fn export_says_what_cannot_be() {
    let site = Site::new();
    fails(&site.images(&["export", "tools", "a.tar"]), &["cannot export the image", "pull"]);
    let (first, _) = site.pulled("first", &[layer("a", 10)]);
    let (second, _) = site.pulled("second", &[layer("b", 10)]);
    let target = format!("sif:{}", site.path("a.sif").display());
    fails(&site.images(&["export", &first, &second, &target]), &["only an OCI archive holds"]);
    // The twin.
    site.json(&["export", &first, &target], 0);
    let layout = site.path("plain.tar");
    let plain = format!("oci-archive:{}", layout.display());
    let image = site.path("a.sif").display().to_string();
    site.json(&["convert", &format!("sif:{image}"), &plain], 0);
    fails(&site.images(&["import", layout.to_str().unwrap()]), &["does not say", "--name"]);
}

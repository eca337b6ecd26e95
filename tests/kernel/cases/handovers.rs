//! Images that are handed over to others: each target of `images convert` is opened and run by the
//! program that it is made for, and the tree that comes back is the tree that went in.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use rustix::fs::XattrFlags;
use serde_json::{Value, json};

use super::conversions::{AWKWARD, convert, telling};
use crate::case::Case;
use crate::commands::Command;
use crate::images::{Entry, Image, fill_root};
use crate::launch::{Stage, claim};
use crate::needs::Need;
use crate::peers;
use crate::person::Person;
use crate::trees::{Detail, Tree};

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let docker: &[Need] = &[Need::Dockerd];
    let all = [
        ("docker_loads_and_runs_an_archive", docker_loads as fn(&Stage) -> _, docker),
        ("docker_runs_what_was_written_into_it", docker_has, docker),
        ("skopeo_reads_layouts_and_archives", skopeo_reads, &[Need::Dockerd, Need::Skopeo]),
        ("umoci_unpacks_the_tree_that_went_in", umoci_unpacks, &[Need::Umoci]),
        ("runc_runs_what_umoci_unpacked", runc_runs, &[Need::Umoci, Need::Runc]),
        ("unsquashfs_unpacks_the_tree_that_went_in", unsquashfs_unpacks, &[Need::Mksquashfs]),
        (
            "apptainer_has_the_tree_that_went_in",
            apptainer_has,
            &[Need::Apptainer, Need::Mksquashfs],
        ),
        ("every_target_gives_back_the_tree_that_went_in", all_come_back, &[Need::Mksquashfs]),
    ];
    let made = all.into_iter().map(|(name, case, needs)| {
        // Trees with owners, attributes and devices are made and looked at by root.
        Case::new(name, case).needs(&[Need::Root, Need::Busybox]).needs(needs)
    });
    made.collect()
}

/// All that a layer can hold, made below `root`. The last line is for the layer above.
const TREE: &str = r#"
set -e; cd "$1"
mkdir data data/closed data/empty opaque
echo small >data/small; ln data/small data/again; ln -s small data/link; ln -s /none data/dangling
echo blank >"data/a name with	blanks and ümlauts"
head -c 300000 /dev/urandom >data/large; truncate -s 2000000 data/hole; echo end >>data/hole
echo private >data/closed/file; echo program >data/setuid; mkfifo data/fifo
mknod data/null c 1 3; mknod data/disk b 7 9
chown -h 1234:4321 data/small data/link; chown 70000:3000000 data/large; chown -R 77:88 data/closed
chmod 4711 data/setuid; chmod 1777 data/empty; chmod 700 data/closed; chmod 0 data/hole
touch -h -d @1000000000.123456789 data/link data/large; touch -d @0 data/small
echo gone >data/gone; echo old >opaque/old
"#;

/// What stands in the layer above in the place of what it removes and adds, and what the tree is
/// then.
const ABOVE: &str = r#"
set -e; cd "$1"
mkdir "$2" "$2/data" "$2/opaque"
rm data/gone opaque/old; echo new >opaque/new
touch "$2/data/.wh.gone" "$2/opaque/.wh..wh..opq"; cp -p opaque/new "$2/opaque/new"
touch -d @1700000000.5 data opaque .
for folder in . data opaque; do touch -r $folder "$2/$folder"; done
"#;

/// An image, and the tree that it is.
struct Made {
    /// In the grammar of the command line.
    image: String,
    root: PathBuf,
}

impl Made {
    /// Its tree, as far as a target holds it.
    fn tree(&self, detail: Detail) -> Result<Tree, Failed> {
        Tree::read(&self.root, detail)
    }
}

fn make(stage: &Stage) -> Result<Made, Failed> {
    let root = stage.home.join("went-in");
    let above = stage.home.join("above");
    fill_root(&root)?;
    let script = |script: &str| {
        let (root, above) = (root.to_string_lossy(), above.to_string_lossy());
        ran(&["sh", "-c", script, "sh", &root, &above]).map(drop)
    };
    script(TREE)?;
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), attribute, value, XattrFlags::empty())
    };
    set("data/setuid", "security.capability", capability)?;
    set("data/closed", "user.note", b"of a directory")?;
    set("data/large", "user.binary", b"\0\xff=\n")?;
    let pack = |folder: &Path| -> Result<Vec<u8>, Failed> {
        let (from, to) = (folder.to_string_lossy(), folder.with_extension("tar"));
        let words = ["tar", "-C", &from, "--format=pax", "--xattrs", "--xattrs-include=*"];
        ran(&[&words[..], &["--numeric-owner", "-cf", &to.to_string_lossy(), "."]].concat())?;
        Ok(fs::read(to)?)
    };
    let below = pack(&root)?;
    script(ABOVE)?;
    let above = pack(&above)?;
    let Image { config, .. } = telling()?;
    let names = ["below", "above"].map(|name| vec![Entry::file(name, 0o644, "")]);
    let image = Image { layers: names.to_vec(), config };
    let image = image.docker_archive_with(|tar| {
        *tar = if tar.starts_with(b"below") { below.clone() } else { above.clone() };
    })?;
    let image = format!("docker-archive:{}", stage.file("image.tar", image)?);
    Ok(Made { image, root })
}

/// Runs a program of this machine, which has to succeed, and returns what it printed.
fn ran(words: &[&str]) -> Result<String, Failed> {
    let answer = Command::new(words).output()?;
    claim!(answer.code == Some(0), "{}: {}", words[0], answer.told());
    Ok(answer.stdout)
}

/// A place for a target, and the target.
fn place(stage: &Stage, kind: &str, name: &str) -> (String, String) {
    let path = stage.home.join(name).to_string_lossy().into_owned();
    (path.clone(), format!("{kind}:{path}"))
}

/// What Docker puts into the root of every container.
const DOCKERS: [&str; 10] = [
    ".dockerenv",
    "dev",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
    "proc",
    "sys",
    // Whose times Docker changes by it.
    ".",
    "etc",
];

/// The image `name` of the Docker of this run is what [`make`] has made, and runs.
fn docker_runs(stage: &Stage, name: &str, made: &Made) -> Result<(), Failed> {
    let docker = stage.world.docker()?;
    let run = ["run", "--rm", "--network", "none"];
    let said = docker.docker(&[&run[..], &[name]].concat())?;
    claim!(said == "it's|a  b|$HOME|\"|", "{said:?}");
    let words = ["--entrypoint", "/bin/sh", name, "-c", "pwd; exec env -0"];
    let said = docker.docker(&[&run[..], &words].concat())?;
    claim!(said.starts_with("/tmp\n"), "{said:?}");
    for variable in AWKWARD {
        claim!(said.split(['\0']).any(|seen| seen.ends_with(variable)), "{variable:?}: {said:?}");
    }
    let label = docker.docker(&["inspect", "--format", "{{json .Config.Labels}}", name])?;
    claim!(label == "{\"org.example\":\"\\\"a\\\"\"}\n", "{label}");
    let container = docker.docker(&["create", "--network", "none", name])?;
    let (tar, tree) = (stage.home.join("exported.tar"), stage.home.join("exported"));
    fs::create_dir(&tree)?;
    let (tar, folder) = (tar.to_string_lossy(), tree.to_string_lossy());
    docker.docker(&["export", "--output", &tar, container.trim()])?;
    docker.docker(&["rm", container.trim()])?;
    docker.docker(&["rmi", name])?;
    let words = ["tar", "-C", &folder, "--numeric-owner", "-p", "--xattrs", "--xattrs-include=*"];
    ran(&[&words[..], &["-xf", &tar]].concat())?;
    // `docker export` tells whole seconds, and no attributes but capabilities.
    let detail = Detail::SystemAttributes;
    let exported = Tree::read(&tree, detail)?.without(&DOCKERS);
    made.tree(detail)?.without(&DOCKERS).expect_same(&exported, "what Docker has")
}

fn docker_loads(stage: &Stage) -> Result<(), Failed> {
    let made = make(stage)?;
    let (file, target) = place(stage, "docker-archive", "converted.tar");
    convert(stage, &made.image, &target, &[])?;
    let said = stage.world.docker()?.docker(&["load", "--input", &file])?;
    let id = said.trim().strip_prefix("Loaded image ID: ").ok_or_else(|| said.clone())?;
    docker_runs(stage, id, &made)
}

fn docker_has(stage: &Stage) -> Result<(), Failed> {
    let made = make(stage)?;
    let docker = stage.world.docker()?;
    let name = format!("written-{}:1", stage.person.name());
    let store = stage.store().to_string_lossy().into_owned();
    let target = format!("docker-daemon:{name}");
    let words = ["images", "convert", "--store", &store, &made.image, &target];
    let told = stage.cli(&words).variable("DOCKER_HOST", &docker.host()).output()?;
    let told = told.expect_code(0)?.answer;
    let id = docker.docker(&["images", "--quiet", "--no-trunc", &name])?;
    claim!(told.stdout.contains(id.trim()), "Docker has {id}, told was {}", told.told());
    docker_runs(stage, &name, &made)
}

fn skopeo_reads(stage: &Stage) -> Result<(), Failed> {
    let made = make(stage)?;
    let docker = stage.world.docker()?;
    let (_, layout) = place(stage, "oci", "layout");
    let (_, archive) = place(stage, "oci-archive", "layout.tar");
    let Image { config, .. } = telling()?;
    for source in [format!("{layout}:v1"), archive] {
        convert(stage, &made.image, &source, &[])?;
        let seen: Value = serde_json::from_str(&ran(&["skopeo", "inspect", "--config", &source])?)?;
        for key in ["Env", "WorkingDir", "Labels", "Entrypoint", "Cmd"] {
            claim!(seen["config"][key] == config[key], "{source}, {key}: {seen}");
        }
        // It verifies each blob that it copies.
        let (copy, target) = place(stage, "dir", "copied");
        ran(&["skopeo", "copy", "--quiet", &source, &target])?;
        fs::remove_dir_all(copy)?;
        let name = format!("skopeo-{}:1", stage.person.name());
        let (host, target) = (docker.host(), format!("docker-daemon:{name}"));
        let words = ["skopeo", "copy", "--quiet", "--dest-daemon-host", &host, &source, &target];
        ran(&words)?;
        docker_runs(stage, &name, &made)?;
        fs::remove_dir_all(stage.home.join("exported"))?;
    }
    Ok(())
}

/// Has umoci unpack the image, and returns the bundle.
fn unpacked_by_umoci(stage: &Stage, made: &Made) -> Result<PathBuf, Failed> {
    let (path, target) = place(stage, "oci", "layout");
    convert(stage, &made.image, &format!("{target}:v1"), &[])?;
    let bundle = stage.home.join("bundle");
    ran(&["umoci", "unpack", "--image", &format!("{path}:v1"), &bundle.to_string_lossy()])?;
    Ok(bundle)
}

fn umoci_unpacks(stage: &Stage) -> Result<(), Failed> {
    let made = make(stage)?;
    let bundle = unpacked_by_umoci(stage, &made)?;
    let unpacked = Tree::read(&bundle.join("rootfs"), Detail::All)?;
    made.tree(Detail::All)?.expect_same(&unpacked, "what umoci unpacked")
}

fn runc_runs(stage: &Stage) -> Result<(), Failed> {
    let bundle = unpacked_by_umoci(stage, &make(stage)?)?;
    let mut spec: Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
    spec["process"]["terminal"] = json!(false);
    // Not all roots may raise limits, which umoci does for all.
    spec["process"]["rlimits"] = json!([]);
    let answer = crate::judge::run_bundle(&bundle, &spec)?;
    claim!(answer.code == Some(0), "{}", answer.told());
    claim!(answer.stdout == "it's|a  b|$HOME|\"|", "{}", answer.told());
    Ok(())
}

fn unsquashfs_unpacks(stage: &Stage) -> Result<(), Failed> {
    let made = make(stage)?;
    let (file, target) = place(stage, "squashfs", "converted.squashfs");
    convert(stage, &made.image, &target, &[])?;
    let detail = Detail::WholeSeconds;
    let unpacked = unsquashed(stage, &file, "unpacked", detail)?;
    made.tree(detail)?.expect_same(&unpacked, "what unsquashfs unpacked")
}

/// What Apptainer wants to find in a root, and an image has not.
const APPTAINERS: [&str; 13] = [
    ".singularity.d",
    ".exec",
    ".run",
    ".shell",
    ".test",
    "environment",
    "singularity",
    "home",
    "root",
    "var",
    "etc/hosts",
    "etc/resolv.conf",
    "srv",
];

fn apptainer_has(stage: &Stage) -> Result<(), Failed> {
    let made = make(stage)?;
    let (file, target) = place(stage, "sif", "image.sif");
    convert(stage, &made.image, &target, &[])?;
    let folder = peers::folder(&stage.home)?;
    let there = folder.join("image.sif");
    fs::copy(file, &there)?;
    rustix::fs::chmod(&there, 0o755.into())?;
    let told = peers::apptainer(&folder, &["run", "image.sif"]).output()?;
    claim!(told.stdout == "it's|a  b|$HOME|\"|", "{}", told.told());
    let script = "apptainer sif dump 4 image.sif >root.squashfs";
    let dumped = peers::with_apptainer(&folder, &["sh", "-c", script]).output()?;
    claim!(dumped.code == Some(0), "apptainer sif dump: {}", dumped.told());
    let (file, detail) = (folder.join("root.squashfs"), Detail::WholeSeconds);
    let unpacked = unsquashed(stage, &file.to_string_lossy(), "unpacked", detail)?;
    let (tree, unpacked) = (made.tree(detail)?.without(&APPTAINERS), unpacked.without(&APPTAINERS));
    tree.expect_same(&unpacked, "what Apptainer has")
}

/// Through each format, and from there into a file system, by this program; what it has is told by
/// unsquashfs, as root, so that an ordinary user's conversions are judged by the same tree.
fn all_come_back(stage: &Stage) -> Result<(), Failed> {
    let made = make(stage)?;
    let detail = Detail::WholeSeconds;
    for kind in ["docker-archive", "oci-archive", "oci", "squashfs", "sif", "dir"] {
        // What an ordinary user unpacks is that user's.
        if kind == "dir" && stage.person != Person::Root {
            continue;
        }
        let (_, target) = place(stage, kind, &format!("as-{kind}"));
        convert(stage, &made.image, &target, &[])?;
        let (file, back) = place(stage, "squashfs", &format!("{kind}-back.squashfs"));
        convert(stage, &target, &back, &[])?;
        let unpacked = unsquashed(stage, &file, &format!("{kind}-back"), detail)?;
        let added = if kind == "sif" { &APPTAINERS[..] } else { &[] };
        let tree = made.tree(detail)?.without(added);
        tree.expect_same(&unpacked.without(added), &format!("what came back from {kind}"))?;
    }
    let gateway = stage.directory("gateway")?;
    let shifter = format!("shifter:{gateway}");
    // The command of the image has a word that Shifter cannot hold; a squashfs has no command.
    let refused = stage.cli(&["images", "convert", &made.image, &shifter]).output()?;
    let said = refused.expect_code(125)?.answer.stderr;
    claim!(said.contains("has a single quote: Shifter knows no escapes"), "{said}");
    let (_, tree_alone) = place(stage, "squashfs", "as-squashfs");
    convert(stage, &tree_alone, &shifter, &[])?;
    let files = fs::read_dir(gateway)?.map(|entry| Ok(entry?.path()));
    let files = files.collect::<Result<Vec<_>, Failed>>()?;
    let is_root = |path: &&PathBuf| path.extension().is_some_and(|end| end == "squashfs");
    let file = files.iter().find(is_root).ok_or("Shifter got no squashfs")?;
    let unpacked = unsquashed(stage, &file.to_string_lossy(), "shifter-back", detail)?;
    made.tree(detail)?.expect_same(&unpacked, "what Shifter has")
}

/// The tree that unsquashfs makes of a file.
fn unsquashed(stage: &Stage, file: &str, name: &str, detail: Detail) -> Result<Tree, Failed> {
    let folder = stage.home.join(name);
    ran(&["unsquashfs", "-q", "-n", "-d", &folder.to_string_lossy(), file])?;
    Tree::read(&folder, detail)
}

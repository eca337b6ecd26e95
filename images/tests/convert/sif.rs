//! An image as a SIF: the tree and the configuration that come back are those that went in.

use std::fs;
use std::process::Command;

use ric_images::{Config, LeftOut, Target, convert};
use ric_images::{ConvertOptions, Reference};
use serde_json::{Value, json};

use super::layer_archive::{Archive, Header};
use super::layer_twice::{scratch, twice};
use super::site::Site;

/// Everything that an image can declare, with every character that a shell, JSON or a template
/// could take for its own.
fn defaults() -> Value {
    json!({
        "Env": [
            "PATH=/opt/bin:/bin", "A=first", "QUOTES=b\"a$r'c`d\\e!", "LINES=a\nb\n\n",
            "RETURNS=a\r\nb\r", "EMPTY=", "BLANKS= a  b\t", "A=b=c", "GLOB=* ? [a] ~",
            "UNICODE=ä→𝄞", "EXPANSION=${HOME} $(id) $((1))", "not.a.name=x",
        ],
        "Entrypoint": ["/bin/echo", "it's", "a b"], "Cmd": ["$HOME", "\n", ""],
        "WorkingDir": "/srv", "User": "1000:100", "Labels": {"a": "\"b\""},
        "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGINT",
    })
}

fn layer() -> Vec<u8> {
    Archive::new()
        .directory("etc")
        .file("etc/hosts", "mine")
        .symlink("var", "elsewhere")
        .directory("elsewhere")
        .sized(Header::new(b'0', "bin/set-id").mode(0o4755).uid(7).gid(8), b"s")
        .header(Header::new(b'1', "bin/linked").link("bin/set-id"))
        .pax(b'x', &[("SCHILY.xattr.user.a", b"b")])
        .file("bin/with", "")
        .end()
}

/// Without what Apptainer wants to be there.
fn own(tree: Vec<String>) -> Vec<String> {
    let added = |line: &String| {
        let is_apptainers = [".singularity.d", "singularity", "environment"].iter();
        let is_mounted = ["dev", "proc", "root", "tmp", "sys", "home", "etc/resolv.conf"].iter();
        let links = [".run", ".exec", ".test", ".shell"].iter();
        let mut names = is_apptainers.chain(is_mounted).chain(links);
        names.any(|name| is_below(line, name))
    };
    tree.into_iter().filter(|line| !added(line)).collect()
}

/// Whether a line of a listing is about `name` or what is in it.
fn is_below(line: &str, name: &str) -> bool {
    let path = line.split(' ').next().unwrap_or_default().trim_start_matches('/');
    path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
}

#[test]
fn sif_of_an_image_is_its_tree_and_its_configuration_for_everyone() {
    twice("sif::sif_of_an_image_is_its_tree_and_its_configuration_for_everyone", |directory| {
        let site = Site::new(directory);
        let image = site.layout("image", &[layer()], &defaults());
        let (target, sif) = (Target::Sif(site.path("a.sif")), Reference::Sif(site.path("a.sif")));
        let converted = site.convert(&image, &target);
        let settings = vec!["Env not.a.name".to_owned()];
        assert_eq!(converted.left_out, LeftOut { settings, ..LeftOut::default() });
        let bytes = fs::read(target.path().unwrap()).unwrap();
        assert_eq!(converted.bytes, bytes.len() as u64);
        let (was, is) = (site.resolve(&image).config, site.resolve(&sif).config);
        assert_eq!(is, was);
        let mut tree = site.tree(&sif);
        assert!(tree.iter().any(|line| is_below(line, ".singularity.d/runscript")), "{tree:?}");
        assert_eq!(own(tree.clone()), own(site.tree(&image)));
        // Root and an ordinary user must agree on this too.
        tree.push(ric_images::Digest::of(&bytes).to_string());
        tree
    });
}

/// What a shell makes of the variables, and of the words that are run, is what the image says.
#[test]
fn shells_read_back_every_character() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let image = site.layout("image", &[layer()], &defaults());
    let (target, sif) = (Target::Sif(site.path("a.sif")), Reference::Sif(site.path("a.sif")));
    site.convert(&image, &target);
    let root = site.root(&sif);
    let folder = root.join(".singularity.d");
    let script = folder.join("env/10-docker2singularity.sh");
    let line = format!(". '{}'; exec env -0", script.display());
    let told = Command::new("sh").env_clear().args(["-c", &line]).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let seen: Vec<&str> = told.split_terminator('\0').collect();
    let Config { variables, .. } = site.resolve(&image).config;
    for (name, value) in variables.iter().filter(|(name, _)| !name.contains('.')) {
        let last = variables.iter().rfind(|(other, _)| other == name).unwrap();
        let expected = format!("{name}={}", last.1);
        assert!(seen.contains(&&*expected), "{name}={value:?} of {seen:?}");
    }
    assert!(!told.contains("not.a.name"));
    // What is set stays.
    let told = Command::new("sh").env("A", "mine").args(["-c", &line]).output().unwrap();
    assert!(String::from_utf8(told.stdout).unwrap().contains("\0A=mine\0"));

    let run = |arguments: &[&str]| {
        let script = fs::read_to_string(folder.join("runscript")).unwrap();
        let script = script.replace("exec \"$@\"", "printf '%s|' \"$@\"");
        let told = Command::new("sh").args(["-c", &script, "runscript"]).args(arguments).output();
        String::from_utf8(told.unwrap().stdout).unwrap()
    };
    assert_eq!(run(&[]), "/bin/echo|it's|a b|$HOME|\n||");
    assert_eq!(run(&["$x", "y z"]), "/bin/echo|it's|a b|$x|y z|");
}

/// What another tool has put there says more about the image than its configuration.
#[test]
fn scripts_of_the_image_stay() {
    let directory = scratch();
    let site = Site::new(directory.path());
    let tar = Archive::new()
        .file(".singularity.d/runscript", "#!/bin/sh\nmine\n")
        .file(".singularity.d/env/90-environment.sh", "export B=c\n")
        .file(".singularity.d/env/10-docker2singularity.sh", "export A=\"wrong\"\n")
        .end();
    let image = site.layout("image", &[tar], &json!({"Env": ["A=right"], "Cmd": ["x"]}));
    let (target, sif) = (Target::Sif(site.path("a.sif")), Reference::Sif(site.path("a.sif")));
    site.convert(&image, &target);
    let root = site.root(&sif).join(".singularity.d");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(read("runscript"), "#!/bin/sh\nmine\n");
    assert_eq!(read("env/90-environment.sh"), "export B=c\n");
    assert!(read("env/10-docker2singularity.sh").contains("export A='right'"));
    // And so does what a SIF was made of: it is the same file again.
    let again = Target::Sif(site.path("b.sif"));
    let manifest = site.resolve(&sif);
    site.access(|access| convert(&manifest, &again, ConvertOptions::default(), access)).unwrap();
    let tree = |path| site.tree(&Reference::Sif(path));
    assert_eq!(tree(site.path("a.sif")), tree(site.path("b.sif")));
}

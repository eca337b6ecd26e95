//! What is copied where, and that nothing else is read.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use std::io::Read;
use std::path::Path;

use super::*;
use crate::{InlineFile, Origin};

fn copy(sources: &[&str], target: &str) -> CopyFiles {
    CopyFiles {
        from: Origin::Context,
        sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        inline: Vec::new(),
        target: target.to_owned(),
        owner: None,
        mode: None,
        left_out: Vec::new(),
        keeps_parents: false,
        is_link: false,
        unpacks: false,
        rules: Rules::Docker,
    }
}

/// A directory to build from, and a layer below with a link that leads out of it.
fn places() -> (tempfile::TempDir, tempfile::TempDir) {
    let (context, layer) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let put = |path: &str, text: &str, mode| {
        let path = context.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    put("a.txt", "A", 0o640);
    put("b.txt", "B", 0o600);
    put("dir/sub/x", "X", 0o755);
    put("dir/kept", "K", 0o644);
    put("Dockerfile", "FROM scratch", 0o644);
    for directory in ["dir", "dir/sub"] {
        let directory = context.path().join(directory);
        fs::set_permissions(directory, PermissionsExt::from_mode(0o750)).unwrap();
    }
    symlink("a.txt", context.path().join("within")).unwrap();
    symlink("/etc/passwd", context.path().join("out")).unwrap();
    symlink("../../../../etc", context.path().join("up")).unwrap();
    symlink("/etc/passwd", context.path().join("dir/link")).unwrap();
    fs::create_dir(layer.path().join("opt")).unwrap();
    fs::set_permissions(layer.path().join("opt"), PermissionsExt::from_mode(0o700)).unwrap();
    symlink("/opt", layer.path().join("there")).unwrap();
    symlink("/../../../nowhere", layer.path().join("away")).unwrap();
    (context, layer)
}

fn source(context: &Path) -> Result<CopySource, CopyError> {
    CopySource::context(context, &context.join("Dockerfile"))
}

/// One line an entry: path, mode, owner, target and content.
fn copied(copy: &CopyFiles, context: &Path, layer: &Path) -> Result<Vec<String>, CopyError> {
    let mut bytes = Vec::new();
    let (room, limits) = (tempfile::tempdir().unwrap(), Limits::default());
    let scratch = Scratch { directory: room.path(), limits: &limits };
    let (from, layers) = (source(context)?, [layer.to_owned()]);
    let written = write_copies(copy, &from, &layers, scratch, &mut bytes)?;
    assert_eq!(written, digest_copies(copy, &from, &layers)?);
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut lines = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let (mode, kind) = (entry.header().mode().unwrap(), entry.header().entry_type());
        let (uid, gid) = (entry.header().uid().unwrap(), entry.header().gid().unwrap());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let mut content = String::from_utf8_lossy(&content).into_owned();
        if let Some(target) = entry.link_name().unwrap() {
            content = format!("->{}", target.display());
        }
        let kind = if kind == EntryType::Directory { "/" } else { "" };
        lines.push(format!("{path}{kind} {mode:o} {uid}:{gid} {content}"));
    }
    Ok(lines)
}

#[test]
fn copies_go_where_docker_puts_them() {
    let (context, layer) = places();
    let cases: [(&[&str], &str, &[&str]); 8] = [
        (&["a.txt"], "/new", &["new 640 0:0 A"]),
        (&["/./dir/../a.txt"], "/new/", &["new/ 755 0:0 ", "new/a.txt 640 0:0 A"]),
        (&["a.txt"], "/there", &["opt/ 700 0:0 ", "opt/a.txt 640 0:0 A"]),
        (&["?.txt"], "/m/", &["m/ 755 0:0 ", "m/a.txt 640 0:0 A", "m/b.txt 600 0:0 B"]),
        (&["[b-z].t*"], "/one", &["one 600 0:0 B"]),
        (&["within"], "/w", &["w 640 0:0 A"]),
        (&["d*/sub"], "/s", &["s/ 755 0:0 ", "s/x 755 0:0 X"]),
        (
            &["dir"],
            "/there/d",
            &[
                "opt/ 700 0:0 ",
                "opt/d/ 755 0:0 ",
                "opt/d/kept 644 0:0 K",
                "opt/d/link 777 0:0 ->/etc/passwd",
                "opt/d/sub/ 750 0:0 ",
                "opt/d/sub/x 755 0:0 X",
            ],
        ),
    ];
    for (sources, target, expected) in cases {
        let lines = copied(&copy(sources, target), context.path(), layer.path()).unwrap();
        assert_eq!(lines, expected, "{sources:?} to {target}");
    }
}

#[test]
fn owner_mode_and_texts_of_the_recipe_are_taken() {
    let (context, layer) = places();
    let mut asked = copy(&["a.txt"], "/d/");
    asked.owner = Some("5:7".into());
    asked.mode = Some(CopyMode::Bits(0o555));
    asked.inline.push(InlineFile { name: "text".into(), content: "T".into() });
    let lines = copied(&asked, context.path(), layer.path()).unwrap();
    assert_eq!(lines, ["d/ 755 5:7 ", "d/a.txt 555 5:7 A", "d/text 555 5:7 T"]);
}

#[test]
fn nothing_outside_is_read_or_written() {
    let (context, layer) = places();
    let refused = |sources: &[&str], target: &str| {
        copied(&copy(sources, target), context.path(), layer.path()).unwrap_err().to_string()
    };
    for source in ["../x", "dir/../../x", "/.."] {
        assert!(refused(&[source], "/x").contains("leads out of"), "{source}");
    }
    for source in ["out", "up/passwd", "dir/link", "none", "*.none", "a.txt/b"] {
        assert!(refused(&[source], "/x").contains("is not in"), "{source}");
    }
    // A link of the image that leads up ends at the image's root.
    let lines = copied(&copy(&["a.txt"], "/away/"), context.path(), layer.path()).unwrap();
    assert_eq!(lines, ["nowhere/ 755 0:0 ", "nowhere/a.txt 640 0:0 A"]);
    assert!(refused(&["a.txt", "b.txt"], "/x").contains("has to end with a slash"));
    fs::create_dir(layer.path().join("a.txt")).unwrap();
    assert!(refused(&["a.txt"], "/").contains("a directory in the image"));
    fs::write(context.path().join("dir/.wh.x"), "").unwrap();
    assert!(refused(&["dir"], "/").contains("a file was removed"));
}

#[test]
fn ignored_files_are_not_there() {
    let (context, layer) = places();
    fs::write(context.path().join(".dockerignore"), "*\n!dir/sub\n").unwrap();
    let lines = copied(&copy(&["."], "/x"), context.path(), layer.path()).unwrap();
    let expected =
        ["x/ 755 0:0 ", "x/dir/ 750 0:0 ", "x/dir/sub/ 750 0:0 ", "x/dir/sub/x 755 0:0 X"];
    assert_eq!(lines, expected);
    let error = copied(&copy(&["within"], "/x"), context.path(), layer.path()).unwrap_err();
    assert!(error.to_string().contains("`.dockerignore` leaves it out"), "{error}");
    fs::write(context.path().join("Dockerfile.dockerignore"), "[").unwrap();
    let error = source(context.path()).unwrap_err().to_string();
    assert!(error.contains("Dockerfile.dockerignore:1: `[` is no pattern"), "{error}");
}

#[test]
fn digest_is_of_all_but_times() {
    let (context, layer) = places();
    let digest = || {
        let from = source(context.path()).unwrap();
        digest_copies(&copy(&["."], "/x"), &from, &[layer.path().to_owned()]).unwrap()
    };
    let first = digest();
    let file = fs::File::options().write(true).open(context.path().join("a.txt")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(digest(), first);
    fs::set_permissions(context.path().join("a.txt"), PermissionsExt::from_mode(0o600)).unwrap();
    let moded = digest();
    assert_ne!(moded, first);
    fs::write(context.path().join("a.txt"), "C").unwrap();
    assert_ne!(digest(), moded);
}

#[test]
fn files_of_an_image_come_from_what_its_layers_show() {
    let (lower, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (layer, file) in [(&lower, "old"), (&lower, "both"), (&upper, "both"), (&upper, "new")] {
        fs::create_dir_all(layer.path().join("d")).unwrap();
        fs::write(layer.path().join("d").join(file), file).unwrap();
    }
    let layers = [lower.path().to_owned(), upper.path().to_owned()];
    let from = CopySource::image("stage 0", &layers).unwrap();
    let names = from.tree.names(b"d").unwrap();
    assert_eq!(names, [b"both".to_vec(), b"new".to_vec(), b"old".to_vec()]);
    let mut bytes = Vec::new();
    let (room, limits) = (tempfile::tempdir().unwrap(), Limits::default());
    let scratch = Scratch { directory: room.path(), limits: &limits };
    write_copies(&copy(&["/d"], "/e"), &from, &[], scratch, &mut bytes).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    assert_eq!(archive.entries().unwrap().count(), 4);
}

#[test]
fn parents_and_exceptions_are_those_of_the_flags() {
    let (context, layer) = places();
    let mut asked = copy(&["dir/sub/x", "dir/./kept"], "/p");
    asked.keeps_parents = true;
    let lines = copied(&asked, context.path(), layer.path()).unwrap();
    let expected = ["p/ 755 0:0 ", "p/dir/ 755 0:0 ", "p/dir/sub/ 755 0:0 "];
    assert_eq!(lines[..3], expected);
    assert_eq!(lines[3..], ["p/dir/sub/x 755 0:0 X", "p/kept 644 0:0 K"]);
    let mut asked = copy(&["dir", "a.txt"], "/e/");
    asked.left_out = vec!["sub".to_owned(), "li*".to_owned(), "a.*".to_owned()];
    let lines = copied(&asked, context.path(), layer.path()).unwrap();
    assert_eq!(lines, ["e/ 755 0:0 ", "e/kept 644 0:0 K"]);
    asked.left_out = vec!["[".to_owned()];
    let wrong = copied(&asked, context.path(), layer.path()).unwrap_err();
    assert!(wrong.to_string().contains("`--exclude`: `[` is no pattern"), "{wrong}");
}

#[test]
fn definition_files_copy_as_cp_does() {
    let (context, layer) = places();
    let cp = |sources: &[&str], target: &str| CopyFiles {
        rules: Rules::Cp,
        owner: Some("0:0".to_owned()),
        ..copy(sources, target)
    };
    fs::remove_file(context.path().join("dir/link")).unwrap();
    symlink("../b.txt", context.path().join("dir/link")).unwrap();
    fs::create_dir(layer.path().join("opt/sub")).unwrap();
    fs::set_permissions(layer.path().join("opt/sub"), PermissionsExt::from_mode(0o711)).unwrap();
    let cases: [(&[&str], &str, &[&str]); 5] = [
        // To a new name, into what is there, and into what is there already by that name.
        (&["dir/sub"], "/new", &["new/ 750 0:0 ", "new/x 755 0:0 X"]),
        (&["dir/sub"], "/there", &["opt/ 700 0:0 ", "opt/sub/ 711 0:0 ", "opt/sub/x 755 0:0 X"]),
        (&["dir/sub/."], "/n/", &["n/ 755 0:0 ", "n/x 755 0:0 X"]),
        (&["a.txt"], "/d/e", &["d/ 755 0:0 ", "d/e 640 0:0 A"]),
        // Links in directories are followed.
        (
            &["dir"],
            "/l",
            &[
                "l/ 750 0:0 ",
                "l/kept 644 0:0 K",
                "l/link 600 0:0 B",
                "l/sub/ 750 0:0 ",
                "l/sub/x 755 0:0 X",
            ],
        ),
    ];
    for (sources, target, expected) in cases {
        let lines = copied(&cp(sources, target), context.path(), layer.path()).unwrap();
        assert_eq!(lines, expected, "{sources:?} to {target}");
    }
    // What a link cannot lead to, and what leads to itself.
    fs::remove_file(context.path().join("dir/link")).unwrap();
    symlink("/etc/passwd", context.path().join("dir/link")).unwrap();
    assert!(copied(&cp(&["dir"], "/l"), context.path(), layer.path()).is_err());
    fs::remove_file(context.path().join("dir/link")).unwrap();
    symlink("..", context.path().join("dir/link")).unwrap();
    assert!(copied(&cp(&["dir"], "/l"), context.path(), layer.path()).is_err());
}

/// A tar with a file and a directory, of an owner of their own.
fn archive(names: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in names {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o640);
        header.set_uid(3);
        header.set_gid(4);
        header.set_size(1);
        builder.append_data(&mut header, name, &b"x"[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn archives_are_unpacked_where_add_puts_them() {
    let (context, layer) = places();
    let plain = archive(&["a", "b/c"]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut text = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    text.write_all(b"just a text").unwrap();
    let removal = archive(&["d/.wh.passwd"]);
    let files = [
        ("plain.tar", plain.clone()),
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(plain.as_slice(), 1).unwrap()),
        ("text.gz", text.finish().unwrap()),
        ("removal.tar", removal),
        ("up.tar", {
            let mut bytes = archive(&["aa/x"]);
            bytes[..4].copy_from_slice(b"../x");
            let sum: u32 = bytes[..512]
                .iter()
                .enumerate()
                .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
                .sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            bytes
        }),
        ("xz", b"\xfd7zXZ\0more".to_vec()),
    ];
    for (name, bytes) in files {
        fs::write(context.path().join(name), bytes).unwrap();
    }
    let add = |source: &str| {
        let asked = CopyFiles { unpacks: true, ..copy(&[source], "/there/u") };
        copied(&asked, context.path(), layer.path())
    };
    let owner = if rustix::process::geteuid().is_root() { "3:4" } else { "0:0" };
    for source in ["plain.tar", "gzip", "zstd"] {
        let lines = add(source).unwrap();
        assert_eq!(lines[..2], ["opt/ 700 0:0 ", "opt/u/ 755 0:0 "], "{source}");
        assert!(lines.contains(&format!("opt/u/a 640 {owner} x")), "{source}: {lines:?}");
        assert!(lines.contains(&format!("opt/u/b/c 640 {owner} x")), "{source}: {lines:?}");
    }
    // Docker asks what a file holds, not what it is called.
    assert!(add("text.gz").unwrap()[1].starts_with("opt/u 644 0:0 "));
    let wrong = |source: &str| add(source).unwrap_err().to_string();
    assert!(wrong("removal.tar").contains("begins with `.wh.`"), "{}", wrong("removal.tar"));
    assert!(wrong("up.tar").contains("cannot unpack"), "{}", wrong("up.tar"));
    assert!(wrong("xz").contains("COPY it, and unpack it with RUN"));
    // The twin: COPY takes it as it is.
    assert_eq!(copied(&copy(&["plain.tar"], "/t"), context.path(), layer.path()).unwrap().len(), 1);
}

/// A file that changes after it was digested is told by the digest of what was written.
#[test]
fn what_was_written_is_what_is_named() {
    let (context, layer) = places();
    let (asked, layers) = (copy(&["a.txt"], "/a"), [layer.path().to_owned()]);
    let (room, limits) = (tempfile::tempdir().unwrap(), Limits::default());
    let scratch = Scratch { directory: room.path(), limits: &limits };
    let from = source(context.path()).unwrap();
    let before = digest_copies(&asked, &from, &layers).unwrap();
    fs::write(context.path().join("a.txt"), "changed").unwrap();
    let written = write_copies(&asked, &from, &layers, scratch, &mut io::sink()).unwrap();
    assert_ne!(written, before);
    assert_eq!(written, digest_copies(&asked, &from, &layers).unwrap());
}

//! Images in other formats: what other programs read of them, and that they run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::root_files::{SEEN, look, pack};
use crate::case::Case;
use crate::commands::Command;
use crate::images::Image;
use crate::launch::{Stage, claim};
use crate::needs::Need;
use crate::peers;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = vec![
        Case::new("conversion_is_what_unsquashfs_reads", unsquashfs_reads),
        Case::new("conversion_runs", conversion_runs),
    ];
    all = all.into_iter().map(|case| case.needs(&[Need::Busybox, Need::Mksquashfs])).collect();
    for (name, case) in [
        ("conversion_runs_in_apptainer", runs_in_apptainer as fn(&Stage) -> _),
        ("sif_is_an_image_to_apptainer", sif_is_an_image_to_apptainer),
    ] {
        all.push(Case::new(name, case).needs(&[Need::Root, Need::Busybox, Need::Apptainer]));
    }
    all.push(Case::new("sif_runs_as_its_image_does", sif_runs).needs(&[Need::Busybox]));
    all
}

/// The real Apptainer opens a file system of every compression and runs a program in it.
fn runs_in_apptainer(stage: &Stage) -> Result<(), Failed> {
    let folder = peers::folder(&stage.home)?;
    let image = Image::busybox(json!({}))?.docker_archive()?;
    let image = format!("docker-archive:{}", stage.file("image.tar", image)?);
    for compression in ["zstd", "gzip"] {
        let file = stage.home.join(format!("{compression}.squashfs"));
        let target = format!("squashfs:{}", file.display());
        convert(stage, &image, &target, &["--compression", compression])?;
        let there = folder.join("image.squashfs");
        fs::copy(&file, &there)?;
        fs::set_permissions(&there, fs::Permissions::from_mode(0o644))?;
        let words = ["exec", "image.squashfs", "/bin/echo", "from apptainer"];
        let ran = peers::apptainer(&folder, &words).output()?;
        claim!(ran.code == Some(0), "{compression}: {}", ran.told());
        claim!(ran.stdout == "from apptainer\n", "{compression}: {}", ran.told());
    }
    Ok(())
}

/// Variables with every character that a shell could take for its own; Apptainer 1.4 itself loses
/// the second.
pub(super) const AWKWARD: [&str; 7] = [
    "PLAIN=a",
    "QUOTES=b\"a$r'c`d\\e!",
    "LINES=a\nb\n\nc",
    "RETURNS=a\r\nb\r",
    "BLANKS= a  b\t",
    "GLOB=* ? [a] ~ {b,c}",
    "EXPANSION=${HOME} $(id) $((1))",
];

/// An image that prints the words that it runs with.
pub(super) fn telling() -> Result<Image, Failed> {
    Image::busybox(json!({
        "Env": AWKWARD, "WorkingDir": "/tmp", "Labels": {"org.example": "\"a\""},
        "Entrypoint": ["/bin/busybox", "printf", "%s|"], "Cmd": ["it's", "a  b", "$HOME", "\""],
    }))
}

/// Makes a SIF in a directory that Apptainer may write, and returns the directory.
fn sif(stage: &Stage, image: &Image) -> Result<PathBuf, Failed> {
    let folder = peers::folder(&stage.home)?;
    let image = format!("docker-archive:{}", stage.file("image.tar", image.docker_archive()?)?);
    let file = stage.home.join("image.sif");
    convert(stage, &image, &format!("sif:{}", file.display()), &[])?;
    let there = folder.join("image.sif");
    fs::copy(&file, &there)?;
    fs::set_permissions(&there, fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// The real Apptainer runs what the image runs, with its variables, and shows what it is.
fn sif_is_an_image_to_apptainer(stage: &Stage) -> Result<(), Failed> {
    let folder = sif(stage, &telling()?)?;
    let told = |words: &[&str]| -> Result<String, Failed> {
        let ran = peers::apptainer(&folder, words).output()?;
        claim!(ran.code == Some(0), "{words:?}: {}", ran.told());
        Ok(ran.stdout)
    };
    let ran = told(&["run", "image.sif"])?;
    claim!(ran == "it's|a  b|$HOME|\"|", "{ran:?}");
    let ran = told(&["run", "image.sif", "other", "$x y"])?;
    claim!(ran == "other|$x y|", "{ran:?}");
    let seen = told(&["exec", "--env", "PLAIN=other", "image.sif", "/bin/env", "-0"])?;
    let seen: Vec<&str> = seen.split('\0').collect();
    claim!(seen.contains(&"PLAIN=other"), "what the user asks for wins: {seen:?}");
    for variable in &AWKWARD[1..] {
        claim!(seen.contains(variable), "{variable:?} is not in {seen:?}");
    }
    let shown: Value = serde_json::from_str(&told(&["inspect", "--all", "image.sif"])?)?;
    let attributes = &shown["data"]["attributes"];
    claim!(attributes["labels"]["org.example"] == "\"a\"", "{attributes}");
    let runscript = attributes["runscript"].as_str().unwrap_or_default();
    claim!(runscript.contains("'printf' '%s|'"), "{attributes}");
    let definition = attributes["deffile"].as_str().unwrap_or_default();
    claim!(definition.contains("from: sha256:"), "{attributes}");
    Ok(())
}

/// What comes back is the same image to this program, too.
fn sif_runs(stage: &Stage) -> Result<(), Failed> {
    let image = stage.file("image.tar", telling()?.docker_archive()?)?;
    let file = stage.home.join("image.sif");
    let (image, target) = (format!("docker-archive:{image}"), format!("sif:{}", file.display()));
    convert(stage, &image, &target, &[])?;
    let look = |image: &str| -> Result<String, Failed> {
        let words = ["run", "--image", image, "--", "/bin/sh", "-c", "pwd; exec env -0"];
        Ok(stage.cli(&words).output()?.expect_code(0)?.answer.stdout)
    };
    let (was, is) = (look(&image)?, look(&target)?);
    claim!(was == is, "{was:?} became {is:?}");
    for variable in AWKWARD {
        claim!(is.split('\0').any(|seen| seen.ends_with(variable)), "{variable:?}: {is:?}");
    }
    Ok(())
}

/// Converts `image` to `target`, both in the grammar of the command line.
pub(super) fn convert(
    stage: &Stage,
    image: &str,
    target: &str,
    flags: &[&str],
) -> Result<(), Failed> {
    let store = stage.store().to_string_lossy().into_owned();
    let words = [&["images", "convert", "--store", &store, image, target], flags].concat();
    stage.cli(&words).output()?.expect_code(0).map(|_| ())
}

/// What `unsquashfs` lists: kind, mode, owner, size, time and name of everything. The size of a
/// directory is that of its table, and each packer's own.
fn listed(path: &str) -> Result<Vec<String>, Failed> {
    let answer = Command::new(&["unsquashfs", "-lln", path]).output()?;
    claim!(answer.code == Some(0), "unsquashfs: {}", answer.told());
    let plain = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with('d') {
            words.remove(2);
        }
        words.join(" ")
    };
    let lines = answer.stdout.lines().filter(|line| line.contains("squashfs-root"));
    Ok(lines.map(plain).collect())
}

/// The judge is the format's own tool, which packed what went in.
fn unsquashfs_reads(stage: &Stage) -> Result<(), Failed> {
    let packed = pack(stage, "gzip")?;
    let expected = listed(&packed)?;
    claim!(expected.len() > 10, "{expected:?}");
    for compression in ["zstd", "gzip"] {
        let target = stage.home.join(format!("converted-{compression}"));
        let target = target.to_string_lossy();
        let flags = ["--compression", compression];
        convert(stage, &format!("squashfs:{packed}"), &format!("squashfs:{target}"), &flags)?;
        let found = listed(&target)?;
        claim!(found == expected, "{compression}: {found:#?} is not {expected:#?}");
        let unpacked = stage.home.join(format!("unpacked-{compression}"));
        let unpacked = unpacked.to_string_lossy();
        let words = ["unsquashfs", "-q", "-n", "-d", &unpacked, &target, "data/large", "data/hole"];
        let answer = Command::new(&words).output()?;
        claim!(answer.code == Some(0), "unsquashfs: {}", answer.told());
        for name in ["large", "hole"] {
            let content = fs::read(format!("{unpacked}/data/{name}"))?;
            let root = stage.home.join("root-gzip/data").join(name);
            claim!(content == fs::read(root)?, "{compression}: {name} is another");
        }
    }
    Ok(())
}

fn conversion_runs(stage: &Stage) -> Result<(), Failed> {
    let packed = pack(stage, "gzip")?;
    let target = format!("squashfs:{}", stage.home.join("converted").display());
    convert(stage, &format!("squashfs:{packed}"), &target, &[])?;
    let ran = look(stage, &target)?.expect_code(0)?;
    claim!(ran.answer.stdout == SEEN, "{}", ran.answer.told());
    Ok(())
}

//! Images that are one file: what `mksquashfs` makes runs, alone and in a SIF.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use libtest_mimic::Failed;
use serde_json::json;

use crate::case::Case;
use crate::commands::Command;
use crate::images::{Image, fill_root};
use crate::launch::{Ran, Stage, claim};
use crate::needs::Need;
use crate::peers;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = vec![
        Case::new("squashfs_of_every_packing_runs", squashfs_runs),
        Case::new("sif_runs_with_its_oci_configuration", sif_runs),
        Case::new("cut_root_file_is_refused_before_anything_starts", cut_file_is_refused),
    ];
    all = all.into_iter().map(|case| case.needs(&[Need::Busybox, Need::Mksquashfs])).collect();
    let built = Case::new("sif_that_apptainer_built_runs", built_sif_runs);
    all.push(built.needs(&[Need::Root, Need::Busybox, Need::Apptainer]));
    let shifter = Case::new("shifter_image_runs_for_those_it_is_for", shifter_image_runs);
    all.push(shifter.needs(&[Need::Root, Need::Busybox, Need::Mksquashfs]));
    all
}

/// Shows what a root that was packed and unpacked has lost, if anything.
const LOOK: &str = "cd /data; cat small link; wc -c <large; wc -c <hole; head -c 3 hole | wc -c; \
     [ small -ef again ] && echo linked; stat -c %a closed; readlink link; ls | wc -l";
pub(super) const SEEN: &str = "small\nsmall\n300000\n2000003\n3\nlinked\n700\nsmall\n6\n";

/// A root of busybox, with what packers treat in different ways, as a squashfs.
pub(super) fn pack(stage: &Stage, packing: &str) -> Result<String, Failed> {
    let root = stage.home.join(format!("root-{packing}"));
    fill_root(&root)?;
    let data = root.join("data");
    fs::create_dir_all(data.join("closed"))?;
    fs::set_permissions(data.join("closed"), fs::Permissions::from_mode(0o700))?;
    fs::write(data.join("small"), "small\n")?;
    fs::hard_link(data.join("small"), data.join("again"))?;
    symlink("small", data.join("link"))?;
    let large: String = (0..30_000).map(|n| format!("{n:09}\n")).collect();
    fs::write(data.join("large"), large)?;
    let hole = fs::File::create(data.join("hole"))?;
    std::os::unix::fs::FileExt::write_all_at(&hole, b"end", 2_000_000)?;
    let made = stage.home.join(format!("{packing}.squashfs"));
    let (from, to) = (root.to_string_lossy(), made.to_string_lossy());
    let words = ["mksquashfs", &from, &to, "-comp", packing, "-noappend", "-no-progress"];
    let packed = Command::new(&words).output()?;
    claim!(packed.code == Some(0), "mksquashfs: {}", packed.told());
    stage.world.give(&made, stage.person)?;
    Ok(to.into_owned())
}

pub(super) fn look(stage: &Stage, image: &str) -> Result<Ran, Failed> {
    stage.cli(&["run", "--image", image, "--", "/bin/busybox", "sh", "-c", LOOK]).output()
}

fn squashfs_runs(stage: &Stage) -> Result<(), Failed> {
    for packing in ["gzip", "zstd", "xz", "lz4"] {
        let image = format!("squashfs:{}", pack(stage, packing)?);
        let ran = look(stage, &image)?.expect_code(0)?;
        claim!(ran.answer.stdout == SEEN, "{packing}: {}", ran.answer.told());
        // A second time from what was unpacked.
        let ran = look(stage, &image)?.expect_code(0)?;
        claim!(ran.answer.stdout == SEEN, "{packing}: {}", ran.answer.told());
    }
    Ok(())
}

fn sif_runs(stage: &Stage) -> Result<(), Failed> {
    let config = r#"{"Env":["PATH=/bin","COLOR=\"b$lue\""],"Cmd":["/bin/sh"]}"#;
    let root = fs::read(pack(stage, "gzip")?)?;
    let file = stage.file("tools.sif", sif(&root, config))?;
    let image = format!("sif:{file}");
    let ran = look(stage, &image)?.expect_code(0)?;
    claim!(ran.answer.stdout == SEEN, "{}", ran.answer.told());
    let ran = stage.cli(&["run", "--image", &image, "--", "env"]).output()?.expect_code(0)?;
    claim!(ran.answer.stdout.contains("COLOR=\"b$lue\"\n"), "{}", ran.answer.told());
    Ok(())
}

/// The real one's file: its header, its objects, its squashfs, its configuration.
fn built_sif_runs(stage: &Stage) -> Result<(), Failed> {
    let folder = peers::folder(&stage.home)?;
    let config = json!({"Env": ["PATH=/bin", "COLOR=b\"l$ue"], "WorkingDir": "/bin"});
    fs::write(folder.join("image.tar"), Image::busybox(config)?.docker_archive()?)?;
    let built = peers::apptainer(&folder, &["build", "image.sif", "docker-archive:image.tar"]);
    let built = built.output()?;
    claim!(built.code == Some(0), "apptainer build: {}", built.told());
    let file = stage.home.join("image.sif");
    fs::copy(folder.join("image.sif"), &file)?;
    stage.world.give(&file, stage.person)?;
    let image = format!("sif:{}", file.display());
    let words = ["run", "--image", &image, "--", "/bin/sh", "-c", "echo $COLOR; pwd; ls -a /"];
    let ran = stage.cli(&words).output()?.expect_code(0)?;
    claim!(ran.answer.stdout.starts_with("b\"l$ue\n/bin\n"), "{}", ran.answer.told());
    claim!(ran.answer.stdout.contains(".singularity.d"), "{}", ran.answer.told());
    Ok(())
}

/// As an image gateway leaves it, readable to everybody.
fn shifter_image_runs(stage: &Stage) -> Result<(), Failed> {
    const ID: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let folder = stage.home.join("gateway");
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    let write = |end: &str, bytes: &[u8]| {
        let path = folder.join(format!("{ID}.{end}"));
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
    };
    write("squashfs", &fs::read(pack(stage, "gzip")?)?)?;
    let policy = format!("version: 1\nimages: {{shifter: ['{}']}}\n", folder.display());
    let image = format!("shifter:id:{ID}");
    let run = || {
        let words = ["run", "--image", &image, "--", "/bin/busybox", "sh", "-c"];
        let script = "echo $COLOR; cat /data/small";
        stage.cli(&[&words[..], &[script]].concat()).site_policy(&policy)?.output()
    };
    let meta = "FORMAT: squashfs\nENV: PATH=/bin\nENV: COLOR=a \"blue\n";
    write("meta", meta.as_bytes())?;
    let ran = run()?.expect_code(0)?;
    claim!(ran.answer.stdout == "a \"blue\nsmall\n", "{}", ran.answer.told());
    // For somebody else alone; that it is in the store changes nothing.
    write("meta", format!("{meta}USERACL: 4242\n").as_bytes())?;
    let ran = run()?.expect_code(125)?;
    claim!(ran.answer.stderr.contains("for users and groups that"), "{}", ran.answer.told());
    Ok(())
}

fn cut_file_is_refused(stage: &Stage) -> Result<(), Failed> {
    let whole = fs::read(pack(stage, "zstd")?)?;
    let in_sif = sif(&whole, "{}");
    for (kind, bytes) in [("squashfs", &whole), ("sif", &in_sif)] {
        for part in [0, 50, 1000, bytes.len() / 2, bytes.len() - 5000] {
            let file = stage.file("cut", &bytes[..part])?;
            let ran = look(stage, &format!("{kind}:{file}"))?;
            let answer = &ran.answer;
            claim!(answer.code == Some(125), "{kind} of {part} bytes: {}", answer.told());
            claim!(!answer.stderr.contains("panicked"), "{}", answer.told());
            claim!(answer.stderr.contains("is not a usable"), "{}", answer.told());
        }
    }
    let store = stage.store().join("layers");
    let layers = if Path::new(&store).exists() { fs::read_dir(&store)?.count() } else { 0 };
    claim!(layers == 0, "{layers} layers were unpacked");
    Ok(())
}

/// A SIF of an OCI configuration and a root, laid out as apptainer/sif does: header, descriptors,
/// objects.
fn sif(root: &[u8], config: &str) -> Vec<u8> {
    const DESCRIPTORS_AT: usize = 4096;
    const DESCRIPTOR: usize = 585;
    const ROOT_AT: usize = 12_288;
    let architecture = if cfg!(target_arch = "x86_64") { b"02\0" } else { b"04\0" };
    let mut file = vec![0; ROOT_AT];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"#!/usr/bin/env run-singularity\n");
    put(0x20, b"SIF_MAGIC\x0001\0");
    put(0x2d, architecture);
    put(0x58, &2_u64.to_le_bytes());
    put(0x60, &(DESCRIPTORS_AT as u64).to_le_bytes());
    put(0x68, &(2 * DESCRIPTOR as u64).to_le_bytes());
    let config_at = DESCRIPTORS_AT + 2 * DESCRIPTOR;
    let objects = [
        (0x4006_u32, "oci-config.json", config_at, config.len()),
        (0x4004, "root", ROOT_AT, root.len()),
    ];
    for (number, (kind, name, offset, bytes)) in (0_u8..).zip(objects) {
        let at = DESCRIPTORS_AT + usize::from(number) * DESCRIPTOR;
        put(at, &kind.to_le_bytes());
        put(at + 4, &[1, number + 1]);
        put(at + 17, &(offset as u64).to_le_bytes());
        put(at + 25, &(bytes as u64).to_le_bytes());
        put(at + 73, name.as_bytes());
    }
    // squashfs, primary system partition.
    put(DESCRIPTORS_AT + DESCRIPTOR + 201, &[1, 0, 0, 0, 2, 0, 0, 0]);
    put(DESCRIPTORS_AT + DESCRIPTOR + 209, architecture);
    put(config_at, config.as_bytes());
    file.extend_from_slice(root);
    file
}

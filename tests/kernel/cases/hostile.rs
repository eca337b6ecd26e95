//! Images made to deceive whoever starts them. The canary is always outside the image.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Failed;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};
use serde_json::json;

use crate::case::Case;
use crate::commands::Command;
use crate::images::{Entry, Image, busybox_root, fill_root};
use crate::launch::{Ran, Stage, claim};
use crate::leftovers::files;
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let all = vec![
        Case::new("working_directory_cannot_leave_the_root", workdir_stays_inside),
        Case::new("masks_do_not_come_from_the_image", masks_do_not_come_from_the_image),
        Case::new("proc_of_the_image_is_not_trusted", proc_of_the_image_is_not_trusted),
        Case::new("mount_target_cannot_leave_the_root", mount_target_stays_inside)
            .people(&[Person::Root]),
        Case::new("setuid_file_gives_nothing", setuid_file_gives_nothing).people(&[Person::Root]),
        Case::new("device_node_of_the_image_is_inert", device_node_is_inert)
            .people(&[Person::Root]),
        Case::new("engine_cannot_be_overwritten", engine_cannot_be_overwritten),
        Case::new("environment_of_the_image_steers_no_helper", environment_steers_no_helper),
        Case::new("volumes_of_the_image_are_not_made", volumes_are_not_made),
        Case::new("layers_cannot_be_written", layers_cannot_be_written),
        Case::new("docker_archive_oci_archive_and_layout_run", every_form_runs),
    ];
    all.into_iter().map(|case| case.needs(&[Need::Busybox])).collect()
}

/// A root of busybox that a test may change.
fn own_root(stage: &Stage, name: &str) -> Result<(std::path::PathBuf, String), Failed> {
    let root = stage.home.join(name);
    fill_root(&root)?;
    let image = format!("dir:{}", root.display());
    Ok((root, image))
}

fn run(stage: &Stage, image: &str, words: &[&str]) -> Result<Ran, Failed> {
    let mut line = vec!["run", "--image", image, "--"];
    line.extend(words);
    stage.cli(&line).output()
}

/// A refusal, or our failure to start; a panic or a signal is neither.
fn is_orderly_refusal(ran: &Ran) -> bool {
    matches!(ran.answer.code, Some(122 | 125 | 126 | 127))
        && !ran.answer.stderr.contains("panicked")
}

/// T03: CVE-2024-21626 and its like.
fn workdir_stays_inside(stage: &Stage) -> Result<(), Failed> {
    let control = "cd \"/proc/self/fd/$1\" 2>/dev/null && ls; true";
    let outside =
        Command::new(&["sh", "-c", &format!("exec 5</; {control}"), "sh", "5"]).output()?;
    claim!(outside.stdout.contains("usr\n"), "no control: {}", outside.told());
    let (root, image) = own_root(stage, "image")?;
    symlink("/", root.join("out"))?;
    symlink("/proc/self/fd/5", root.join("descriptor"))?;
    let mut places: Vec<String> = (3..16).map(|n| format!("/proc/self/fd/{n}")).collect();
    places.extend(
        ["/proc/1/cwd", "/proc/self/root", "/out", "/descriptor", "/../.."].map(str::to_owned),
    );
    for place in places {
        let script = "pwd -P; /bin/readlink /proc/self/cwd; /bin/ls -a; test -e /bin/busybox";
        let words = ["run", "--image", &image, "--workdir", &place, "--", "/bin/sh", "-c", script];
        let ran = stage.cli(&words).output()?;
        let said = ran.answer.told();
        if ran.answer.code == Some(0) {
            claim!(!said.contains("unreachable"), "{place} leads outside: {said}");
            claim!(!ran.answer.stdout.contains("ric-kernel"), "{place} leads outside: {said}");
            claim!(!ran.answer.stdout.contains("\nroot\n"), "{place} leads outside: {said}");
        } else {
            claim!(is_orderly_refusal(&ran), "{place}: {said}");
        }
    }
    Ok(())
}

/// T04: `/dev/null` of an image is not what masks are made of.
fn masks_do_not_come_from_the_image(stage: &Stage) -> Result<(), Failed> {
    let canary = stage.file("canary", "canary")?;
    for target in [canary.as_str(), "/proc/sys/kernel/core_pattern", ""] {
        let (root, image) = own_root(stage, &format!("image{}", target.len()))?;
        if target.is_empty() {
            fs::write(root.join("dev/null"), "canary")?;
        } else {
            symlink(target, root.join("dev/null"))?;
        }
        let script = "/bin/cat /proc/keys /proc/interrupts; echo x >/dev/null; \
             /bin/stat -c '%F %t:%T' /dev/null";
        let ran = run(stage, &image, &["/bin/sh", "-c", script])?;
        if ran.answer.code == Some(0) {
            let said = ran.answer.stdout.trim();
            claim!(said == "character special file 1:3", "{target}: {}", ran.answer.told());
        } else {
            claim!(is_orderly_refusal(&ran), "{target}: {}", ran.answer.told());
        }
        claim!(fs::read_to_string(&canary)? == "canary", "the canary was written");
    }
    Ok(())
}

/// T06, T08: a `/proc` or `/sys` that is a link or has content is not taken for the real one.
fn proc_of_the_image_is_not_trusted(stage: &Stage) -> Result<(), Failed> {
    for (number, kind) in ["link", "full", "file"].iter().enumerate() {
        let (root, image) = own_root(stage, &format!("image{number}"))?;
        fs::remove_dir(root.join("proc"))?;
        fs::create_dir(root.join("elsewhere"))?;
        match *kind {
            "link" => symlink("/elsewhere", root.join("proc"))?,
            "full" => fs::create_dir_all(root.join("proc/self/attr"))?,
            _ => fs::write(root.join("proc"), "canary")?,
        }
        let before = files(&root)?;
        let script = "/bin/stat -f -c %T /proc/self; /bin/readlink /proc/self";
        let ran = run(stage, &image, &["/bin/sh", "-c", script])?;
        if ran.answer.code == Some(0) {
            let pid = ran.answer.stdout.lines().last().unwrap_or("");
            claim!(pid.parse::<u32>().is_ok(), "{kind}: not a procfs: {}", ran.answer.told());
        } else {
            claim!(is_orderly_refusal(&ran), "{kind}: {}", ran.answer.told());
        }
        claim!(files(&root)? == before, "{kind}: the image was changed");
    }
    Ok(())
}

/// T09: CVE-2021-30465. While sandboxes start, a directory of the image turns into a link out of it
/// and back.
fn mount_target_stays_inside(stage: &Stage) -> Result<(), Failed> {
    const STARTS: u64 = 60;
    let (root, image) = own_root(stage, "image")?;
    let canary = stage.directory("canary")?;
    fs::create_dir(Path::new(&canary).join("b"))?;
    fs::create_dir_all(root.join("a/b"))?;
    symlink(&canary, root.join("swap"))?;
    let data = stage.directory("data")?;
    // The task of a root caller runs as nobody.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777))?;
    let before = files(Path::new(&canary))?;
    let running = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&running);
    let (first, second) = (root.join("a"), root.join("swap"));
    let swapper = std::thread::spawn(move || {
        let mut swaps = 0_u64;
        while flag.load(Ordering::Relaxed) {
            let swap = renameat_with(CWD, &first, CWD, &second, RenameFlags::EXCHANGE);
            swaps += u64::from(swap.is_ok());
        }
        swaps
    });
    let policy = format!(
        "version: 1\nname: test\nmounts:\n  - {{source: {}, access: read-write}}\n",
        stage.home.display()
    );
    let mount = format!("{data}:/a/b:rw");
    let words = ["run", "--image", &image, "--mount", &mount, "--", "/bin/touch", "/a/b/made"];
    let mut wrong = None;
    for _ in 0..stage.world.effort(STARTS) {
        let ran = stage.cli(&words).site_policy(&policy)?.output()?;
        if ran.answer.code != Some(0) && !is_orderly_refusal(&ran) {
            wrong = Some(ran.answer.told());
        }
    }
    running.store(false, Ordering::Relaxed);
    let swaps = swapper.join().map_err(|_| "the swapper panicked")?;
    claim!(wrong.is_none(), "a start ended in disorder: {wrong:?}");
    claim!(swaps > 100, "no control: only {swaps} swaps happened");
    claim!(files(Path::new(&canary))? == before, "the canary was changed");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    claim!(!mounts.contains(&*canary), "something is mounted on the canary");
    Ok(())
}

/// T15: a setuid program of the image runs with the task's ids.
fn setuid_file_gives_nothing(stage: &Stage) -> Result<(), Failed> {
    let (root, image) = own_root(stage, "image")?;
    // busybox gives up a setuid bit by itself, so a small script's interpreter will not do.
    let program = stage.home.join("setuid.c");
    fs::write(
        &program,
        "#include <unistd.h>\n#include <stdio.h>\n\
         int main(void) { printf(\"%d\\n\", geteuid()); }\n",
    )?;
    let target = root.join("bin/who");
    let (target_name, program_name) = (target.to_string_lossy(), program.to_string_lossy());
    let built = Command::new(&["cc", "-static", "-o", &*target_name, &*program_name]).output()?;
    claim!(built.code == Some(0), "cannot compile the setuid program: {}", built.told());
    fs::set_permissions(&target, fs::Permissions::from_mode(0o4755))?;
    let control = stage.world.as_person(Person::Rootless, &[&*target_name]).output()?;
    claim!(control.stdout.trim() == "0", "no control: {}", control.told());
    let inside = run(stage, &image, &["/bin/who"])?.expect_code(0)?;
    claim!(inside.answer.stdout.trim() == "65534", "not the task's: {}", inside.answer.told());
    Ok(())
}

/// T27: a node for a device, brought by an image, opens nothing.
fn device_node_is_inert(stage: &Stage) -> Result<(), Failed> {
    let (root, image) = own_root(stage, "image")?;
    let everyone = Mode::from_raw_mode(0o666);
    for (name, kind, major, minor) in [
        ("zero", FileType::CharacterDevice, 1, 5),
        ("kmsg", FileType::CharacterDevice, 1, 11),
        ("loop", FileType::BlockDevice, 7, 0),
    ] {
        let path = root.join(name);
        mknodat(CWD, &path, kind, everyone, makedev(major, minor))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    let outside = root.join("zero");
    let control = Command::new(&["head", "-c", "4", &*outside.to_string_lossy()]).output()?;
    claim!(control.stdout == "\0\0\0\0", "no control: {}", control.told());
    for name in ["/zero", "/kmsg", "/loop"] {
        let ran = run(stage, &image, &["/bin/head", "-c", "4", name])?;
        claim!(ran.answer.code != Some(0), "{name} was read: {}", ran.answer.told());
        let denied = ["Permission denied", "Operation not permitted"];
        let is_denied = denied.iter().any(|text| ran.answer.stderr.contains(text));
        claim!(is_denied, "{name} was not there to be denied: {}", ran.answer.told());
    }
    Ok(())
}

/// T02: CVE-2019-5736. The command is a script whose interpreter is whatever runs it.
fn engine_cannot_be_overwritten(stage: &Stage) -> Result<(), Failed> {
    let (root, image) = own_root(stage, "image")?;
    fs::write(root.join("bin/again"), "#!/proc/self/exe\n")?;
    fs::set_permissions(root.join("bin/again"), fs::Permissions::from_mode(0o755))?;
    let before = crate::images::hex(&fs::read(&stage.world.binary)?);
    let script = "for n in 1 2 3 4 5 6 7 8; do for f in /proc/[0-9]*/exe; do \
         ( echo canary >$f ) 2>/dev/null && echo written; done; /bin/again 2>/dev/null; done; true";
    for words in [&["/bin/again"][..], &["/bin/sh", "-c", script][..]] {
        for _ in 0..stage.world.effort(5) {
            let ran = run(stage, &image, words)?;
            claim!(!ran.answer.stdout.contains("written"), "{}", ran.answer.told());
        }
    }
    let after = crate::images::hex(&fs::read(&stage.world.binary)?);
    claim!(before == after, "the program was changed");
    Ok(())
}

/// T32, the image's half: CVE-2025-23266. Loader variables of the image reach the task alone; a
/// helper that saw them would say that it cannot preload the library.
fn environment_steers_no_helper(stage: &Stage) -> Result<(), Failed> {
    let preload = "/nonexistent/canary.so";
    let control =
        Command::new(&["env", &format!("LD_PRELOAD={preload}"), "/usr/bin/env"]).output()?;
    claim!(control.stderr.contains(preload), "no control: the loader ignores LD_PRELOAD");
    let variables = [format!("LD_PRELOAD={preload}"), "FROM_IMAGE=yes".to_owned()];
    let image = Image::busybox(json!({"Env": variables, "Cmd": ["/bin/env"]}))?;
    let file = stage.file("image.tar", image.docker_archive()?)?;
    let ran = run(stage, &format!("docker-archive:{file}"), &["/bin/env"])?.expect_code(0)?;
    claim!(ran.answer.stdout.contains("FROM_IMAGE=yes"), "the image's Env: {}", ran.answer.told());
    claim!(!ran.answer.stderr.contains("canary"), "a helper saw it: {}", ran.answer.stderr);
    Ok(())
}

/// T34: what an image declares as volumes is made nowhere.
fn volumes_are_not_made(stage: &Stage) -> Result<(), Failed> {
    let volumes = json!({"/../../volume-canary": {}, "/etc": {}, "": {}, "/made-by-volume": {}});
    let image = Image::busybox(json!({"Volumes": volumes}))?;
    let file = stage.file("image.tar", image.docker_archive()?)?;
    let words = ["/bin/sh", "-c", "/bin/ls -d /made-by-volume /volume-canary 2>/dev/null; true"];
    let ran = run(stage, &format!("docker-archive:{file}"), &words)?;
    claim!(ran.answer.code == Some(0) || is_orderly_refusal(&ran), "{}", ran.answer.told());
    claim!(ran.answer.stdout.is_empty(), "a volume was made: {}", ran.answer.told());
    claim!(!Path::new("/volume-canary").exists(), "a volume was made outside");
    Ok(())
}

/// T35: after a task that tried everything, the unpacked layers are what they were.
fn layers_cannot_be_written(stage: &Stage) -> Result<(), Failed> {
    // Paths that the machine does not have: should the sandbox fail, nothing else is written.
    let entries = vec![
        Entry::directory("ric-data"),
        Entry::file("ric-data/file", 0o666, "canary"),
        Entry::file("ric-data/program", 0o777, "canary"),
    ];
    let mut image = Image::busybox(json!({}))?;
    image.layers.push(entries);
    let file = stage.file("image.tar", image.oci_archive()?)?;
    let reference = format!("oci-archive:{file}");
    run(stage, &reference, &["/bin/true"])?.expect_code(0)?;
    let before = files(&stage.store())?;
    let script = "cd /ric-data || exit; for f in file program; do ( echo x >$f ) 2>&1; \
         /bin/touch $f; done; /bin/mkdir new; /bin/touch /ric-new; /bin/cat file";
    let ran = run(stage, &reference, &["/bin/sh", "-c", script])?;
    claim!(ran.answer.stdout.ends_with("canary"), "{}", ran.answer.told());
    claim!(files(&stage.store())? == before, "the store changed");
    Ok(())
}

/// Each form in which an image can come from disk gives the same root.
fn every_form_runs(stage: &Stage) -> Result<(), Failed> {
    let image = Image::busybox(json!({"Env": ["PATH=/bin"], "WorkingDir": "/tmp"}))?;
    let layout = stage.home.join("layout");
    image.write_oci_layout(&layout)?;
    let references = [
        format!("docker-archive:{}", stage.file("docker.tar", image.docker_archive()?)?),
        format!("oci-archive:{}", stage.file("oci.tar", image.oci_archive()?)?),
        format!("oci:{}:latest", layout.display()),
        format!("dir:{}", busybox_root(&stage.world)?.display()),
    ];
    for reference in references {
        let ran = run(stage, &reference, &["/bin/sh", "-c", "/bin/busybox | /bin/head -n 1"])?;
        let said = ran.answer.told();
        claim!(ran.answer.stdout.starts_with("BusyBox v"), "{reference}: {said}");
    }
    Ok(())
}

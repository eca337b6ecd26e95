//! Images that are a file system of root's own: mounted as they are, once, and let go of.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use rustix::process::Signal;

use super::root_files::{SEEN, look, pack};
use crate::case::Case;
use crate::commands::{Command, Input, Running};
use crate::images::fill_root;
use crate::launch::{Stage, claim};
use crate::leftovers::nothing_left;
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let root = &[Person::Root];
    let all = vec![
        Case::new("file_system_of_root_is_mounted_and_others_are_unpacked", is_mounted_if_roots),
        Case::new("file_system_is_mounted_once_and_gone_with_its_last_container", is_shared)
            .people(root),
        Case::new("file_system_with_device_nodes_is_unpacked", with_devices_is_unpacked),
        Case::new("damaged_copy_of_a_file_system_is_not_mounted", damage_is_found).people(root),
    ];
    let needs = [Need::Root, Need::Busybox, Need::Mksquashfs];
    all.into_iter().map(|case| case.needs(&needs)).collect()
}

/// How long the kernel may take to clear a device.
const PATIENCE: Duration = Duration::from_secs(30);

/// Loop devices that read something below `folder`.
fn devices_of(folder: &Path) -> Result<usize, Failed> {
    let mut found = 0;
    for device in fs::read_dir("/sys/block")? {
        let backing = fs::read_to_string(device?.path().join("loop/backing_file"));
        found += usize::from(backing.is_ok_and(|path| Path::new(&path).starts_with(folder)));
    }
    Ok(found)
}

fn unpacked(stage: &Stage) -> Result<usize, Failed> {
    Ok(fs::read_dir(stage.store().join("layers"))?.count())
}

fn runs(stage: &Stage, image: &str) -> Result<(), Failed> {
    let ran = look(stage, image)?.expect_code(0)?;
    claim!(ran.answer.stdout == SEEN, "{}", ran.answer.told());
    Ok(())
}

fn is_mounted_if_roots(stage: &Stage) -> Result<(), Failed> {
    let file = pack(stage, "gzip")?;
    let image = format!("squashfs:{file}");
    let by_root = stage.person == Person::Root;
    runs(stage, &image)?;
    runs(stage, &image)?;
    let expected = usize::from(!by_root);
    claim!(unpacked(stage)? == expected, "{} layers were unpacked", unpacked(stage)?);
    // The twins: the same bytes, once others may write them, and once they are another's.
    let ways: [fn(&str) -> std::io::Result<()>; 2] = [
        |file| fs::set_permissions(file, fs::Permissions::from_mode(0o666)),
        |file| chown(file, Some(4242), None),
    ];
    for change in ways {
        fs::remove_dir_all(stage.store())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        change(&file)?;
        runs(stage, &image)?;
        claim!(unpacked(stage)? == 1, "{} layers were unpacked", unpacked(stage)?);
    }
    nothing_left(stage)
}

/// A container that waits, seen to have started.
fn waiting(stage: &Stage, image: &str) -> Result<Running, Failed> {
    let script = "echo ready; read line; cat /data/small";
    let words = ["run", "--image", image, "--", "/bin/busybox", "sh", "-c", script];
    let mut running = stage.cli(&words).input(Input::Held).start()?;
    running.wait_for_output("ready")?;
    Ok(running)
}

fn is_shared(stage: &Stage) -> Result<(), Failed> {
    let image = format!("squashfs:{}", pack(stage, "zstd")?);
    let store = stage.store();
    let mut running = Vec::new();
    for _ in 0..12 {
        running.push(waiting(stage, &image)?);
    }
    claim!(devices_of(&store)? == 1, "{} devices for one file", devices_of(&store)?);
    // Half are killed, and the others do not notice.
    let others = running.split_off(6);
    running.iter().for_each(|owner| owner.signal(Signal::KILL));
    for mut other in others {
        other.write(b"go on\n")?;
        let answer = other.wait()?;
        claim!(answer.stdout == "ready\nsmall\n", "{}", answer.told());
    }
    nothing_left(stage)?;
    // The kernel clears a device some time after the last mount of it has gone.
    let start = Instant::now();
    while devices_of(&store)? > 0 {
        claim!(start.elapsed() < PATIENCE, "a device is left");
        std::thread::yield_now();
    }
    Ok(())
}

fn with_devices_is_unpacked(stage: &Stage) -> Result<(), Failed> {
    for (count, kind) in (1..).zip(["c", "b"]) {
        let root = stage.home.join(format!("root-{kind}"));
        fill_root(&root)?;
        let node = root.join("node");
        let made = Command::new(&["mknod", &node.to_string_lossy(), kind, "1", "3"]).output()?;
        claim!(made.code == Some(0), "{}", made.told());
        let image = stage.home.join(format!("{kind}.squashfs"));
        let (from, to) = (root.to_string_lossy(), image.to_string_lossy());
        let words = ["mksquashfs", &from, &to, "-noappend", "-no-progress"];
        let packed = Command::new(&words).output()?;
        claim!(packed.code == Some(0), "{}", packed.told());
        let image = format!("squashfs:{to}");
        let words = ["run", "--image", &image, "--", "/bin/busybox", "ls", "/node"];
        let ran = stage.cli(&words).output()?.expect_code(1)?;
        claim!(ran.answer.stderr.contains("No such file"), "{}", ran.answer.told());
        claim!(unpacked(stage)? == count, "it was not unpacked");
    }
    Ok(())
}

/// As after a boot, when nothing is known of the copy any more.
fn damage_is_found(stage: &Stage) -> Result<(), Failed> {
    let image = format!("squashfs:{}", pack(stage, "zstd")?);
    runs(stage, &image)?;
    let mut largest = (0, Default::default());
    for blob in fs::read_dir(stage.store().join("blobs/sha256"))? {
        let blob = blob?;
        largest = largest.max((blob.metadata()?.len(), blob.path()));
    }
    let (bytes, copy) = largest;
    let file = fs::File::options().write(true).open(&copy)?;
    std::os::unix::fs::FileExt::write_all_at(&file, b"damaged", bytes / 2)?;
    for boot in fs::read_dir(stage.store().join("generated"))? {
        fs::remove_dir_all(boot?.path())?;
    }
    let ran = look(stage, &image)?.expect_code(125)?;
    claim!(ran.answer.stderr.contains("is damaged"), "{}", ran.answer.told());
    let store = stage.store();
    let words = ["images", "verify", "--repair", "--store", &store.to_string_lossy()];
    stage.cli(&words).output()?.expect_code(1)?;
    runs(stage, &image)
}

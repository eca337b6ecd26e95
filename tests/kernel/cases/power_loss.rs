//! The power goes: a guest is killed while it writes, and another one looks at what its disk has.
//!
//! What the guest's kernel had not written is lost with it, as with a machine; what it was told is
//! on the disk has to be there. What the disk itself may lose, and order that it does not keep, no
//! guest shows.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::case::Case;
use crate::commands::{Answer, Command};
use crate::images::{Entry, Image};
use crate::launch::{Stage, claim};
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let all = vec![Case::new("power_loss_takes_nothing_that_was_kept", takes_nothing)];
    let needs = &[Need::Guest, Need::Root, Need::Python3, Need::Busybox];
    all.into_iter().map(|case| case.people(&[Person::Root]).needs(needs)).collect()
}

/// Moments of the third pull at which the power goes, in milliseconds: as it begins, and while it
/// writes.
const MOMENTS_MS: [u64; 2] = [50, 900];

/// Bytes of each image that are not zeros, so that they take room wherever they are.
const CONTENT_BYTES: usize = 8 << 20;

/// Makes a file system, and then everything that is to be there afterwards. What is said to be
/// there stands behind `kept` or `task` on the console before the power goes.
const WRITES: &str = r#"
mount /dev/vda /mnt || exit 9
"$program" serve --socket /run/daemon/daemon.sock --store /mnt/store --state /mnt/tasks &
until "$program" ps --socket /run/daemon/daemon.sock >/dev/null 2>&1; do sleep 0.2; done
for number in 1 2; do
    "$program" images pull --store /mnt/store "docker-archive:$files/$number.tar" || exit 9
    echo "kept $number"
done
call="$files/functions.py:double"
for number in 1 2 3; do
    id=$("$program" submit --socket /run/daemon/daemon.sock "$call" --arg "$number") || exit 9
    echo "task $id $number"
done
"$program" images pull --store /mnt/store "docker-archive:$files/3.tar" &
sleep "$moment"
echo power-cut
sleep 60
"#;

/// Looks at all of it.
const LOOKS: &str = r#"
mount /dev/vda /mnt || exit 9
echo "verified $("$program" images verify --store /mnt/store --json)"
echo "listed $("$program" images list --store /mnt/store --json | tr -d '\n')"
"$program" serve --socket /run/daemon/daemon.sock --store /mnt/store --state /mnt/tasks &
daemon=$!
until "$program" ps --socket /run/daemon/daemon.sock >/dev/null 2>&1; do sleep 0.2; done
for id in $tasks; do
    answer=$("$program" result --json --socket /run/daemon/daemon.sock "$id" | tr -d '\n')
    echo "result $id $answer"
done
"$program" images pull --store /mnt/store "docker-archive:$files/3.tar" || exit 9
"$program" run --store /mnt/store --image "docker-archive:$files/3.tar" -- /bin/cat /name
kill "$daemon"
wait "$daemon"
"#;

/// Files that the guest sees too, which has a `/tmp` of its own; gone when dropped.
struct Files(PathBuf);

impl Files {
    fn make(stage: &Stage) -> Result<Files, Failed> {
        let name = stage.home.file_name().unwrap_or_default();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder)?;
        let files = Files(folder);
        let functions = "def double(number):\n    return 2 * number\n";
        fs::write(files.0.join("functions.py"), functions)?;
        for number in 1..=3_u8 {
            let mut image = Image::busybox(json!({"Env": ["PATH=/bin"]}))?;
            let content = noise(number);
            image.layers.push(vec![
                Entry::file("name", 0o644, format!("image {number}\n")),
                Entry::file("content", 0o644, content),
            ]);
            fs::write(files.0.join(format!("{number}.tar")), image.docker_archive()?)?;
        }
        Ok(files)
    }

    /// A disk with nothing on it but a file system.
    fn disk(&self) -> Result<String, Failed> {
        let path = self.0.join("disk");
        drop(fs::remove_file(&path));
        File::create(&path)?.set_len(512 << 20)?;
        let path = path.to_string_lossy().into_owned();
        let made = Command::new(&["/sbin/mke2fs", "-q", "-t", "ext4", &path]).output()?;
        claim!(made.code == Some(0), "{}", made.told());
        Ok(path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Bytes that nothing packs (xorshift64).
fn noise(seed: u8) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ u64::from(seed);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..CONTENT_BYTES / 8).flat_map(|_| next()).collect()
}

/// Runs a script in a guest with this disk.
fn in_guest(files: &Files, disk: &str, script: &str, more: &str) -> Result<Answer, Failed> {
    let boot = crate::guest::parts()?.to_string_lossy().into_owned();
    let program = env!("CARGO_BIN_EXE_run-in-container");
    let script = format!("program={program} files={}\n{more}\n{script}", files.0.display());
    let file = files.0.join("script");
    fs::write(&file, script)?;
    let words = [&boot, "--disk", disk, "/bin/sh", &file.to_string_lossy()];
    Command::new(&words).start()?.wait_long()
}

/// What stands behind a word at the beginning of a line.
fn said<'a>(answer: &'a Answer, word: &str) -> Vec<&'a str> {
    let begin = format!("guest| {word} ");
    answer.stdout.lines().filter_map(|line| line.strip_prefix(&begin)).collect()
}

fn takes_nothing(stage: &Stage) -> Result<(), Failed> {
    let files = Files::make(stage)?;
    for moment in MOMENTS_MS {
        loses_power(&files, moment).map_err(|failed| {
            let why = failed.message().unwrap_or_default();
            Failed::from(format!("the power went after {moment} ms: {why}"))
        })?;
    }
    Ok(())
}

fn loses_power(files: &Files, moment_ms: u64) -> Result<(), Failed> {
    let disk = files.disk()?;
    let moment = format!("moment={}.{:03}", moment_ms / 1000, moment_ms % 1000);
    let before = in_guest(files, &disk, WRITES, &moment)?;
    claim!(said(&before, "kept") == ["1", "2"], "{}", before.told());
    let tasks: Vec<(&str, &str)> =
        said(&before, "task").iter().filter_map(|line| line.split_once(' ')).collect();
    claim!(tasks.len() == 3, "{}", before.told());
    let ids: Vec<&str> = tasks.iter().map(|(id, _)| *id).collect();
    let after = in_guest(files, &disk, LOOKS, &format!("tasks='{}'", ids.join(" ")))?;
    claim!(after.code == Some(0), "{}", after.told());
    // Nothing is damaged, and what was kept is there.
    claim!(said(&after, "verified") == ["[]"], "{}", after.told());
    let listed = said(&after, "listed").concat();
    for number in 1..=2 {
        claim!(listed.contains(&format!("{number}.tar")), "{number} is gone: {}", after.told());
    }
    for (id, number) in tasks {
        let answers = said(&after, "result");
        let answer = answers.iter().find_map(|line| line.strip_prefix(id)).unwrap_or_default();
        let outcome: Value = serde_json::from_str(answer.trim()).unwrap_or_default();
        let doubled = number.parse::<u64>().map(|number| 2 * number)?;
        // It may have run before, and nobody knows how it ended: then that is said.
        let is_known = match outcome["status"].as_str() {
            Some("ok") => outcome["result"] == doubled,
            Some("lost") => true,
            _ => false,
        };
        claim!(is_known, "task {number}: {}", after.told());
    }
    claim!(after.stdout.contains("guest| image 3"), "{}", after.told());
    Ok(())
}

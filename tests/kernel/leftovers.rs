//! "Nothing is left": what a command line leaves mounted, running, in cgroups and on disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::launch::Stage;

/// How long clean-up may go on after the program under test is gone. After a kill it is done by
/// whoever is left in the sandbox, so there is no process to wait for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often what has no event (directories of cgroups) is looked at.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// First 14 bytes of the name of every process of ours, as `/proc/PID/comm` cuts it.
const PROCESS_NAME: &str = "run-in-contain";

/// Fails if something is mounted, running or in cgroups that this test's command lines made.
pub(crate) fn nothing_left(stage: &Stage) -> Result<(), Failed> {
    let start = Instant::now();
    loop {
        let left = everything_left(stage)?;
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("left behind:\n  {}", left.join("\n  ")).into());
        }
        wait_for_change(stage)?;
    }
}

/// Waits for the end of a process that is left; without one, for the next look.
fn wait_for_change(stage: &Stage) -> Result<(), Failed> {
    let processes = stage.cgroup.as_ref().map(|cgroup| cgroup.contents().processes);
    let first = processes.unwrap_or_default().first().copied().and_then(Pid::from_raw);
    let pidfd = first.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut waited: Vec<PollFd<'_>> =
        pidfd.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    poll(&mut waited, Some(&LOOK))?;
    Ok(())
}

fn everything_left(stage: &Stage) -> Result<Vec<String>, Failed> {
    let mut left = Vec::new();
    if let Some(cgroup) = &stage.cgroup {
        let contents = cgroup.contents();
        left.extend(contents.cgroups.iter().map(|path| format!("cgroup {}", path.display())));
        left.extend(contents.processes.iter().map(|pid| format!("process {}", process_line(*pid))));
    } else {
        left.extend(orphans()?);
    }
    let home = stage.home.to_string_lossy();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    left.extend(mounts.lines().filter(|l| l.contains(&*home)).map(|l| format!("mount {l}")));
    left.extend(files(&stage.home.join("tmp"))?.iter().map(|path| format!("file {path}")));
    Ok(left)
}

/// Processes of ours whose starter is gone; how leftovers are found where no cgroup can be made.
/// Those of tests that run at the same time still have theirs.
fn orphans() -> Result<Vec<String>, Failed> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<i32>() else { continue };
        let (comm, parent) = identity_of(pid);
        let is_mine = fs::metadata(entry.path()).is_ok_and(|m| {
            std::os::unix::fs::MetadataExt::uid(&m) == rustix::process::geteuid().as_raw()
        });
        if is_mine && comm.starts_with(PROCESS_NAME) && parent == 1 {
            found.push(format!("process {}", process_line(pid)));
        }
    }
    Ok(found)
}

/// Name and parent of a process.
fn identity_of(pid: i32) -> (String, i32) {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let name = line.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    let Some((name, rest)) = name else { return (String::new(), 0) };
    let parent = rest.split_whitespace().nth(1).and_then(|field| field.parse().ok());
    (name.to_owned(), parent.unwrap_or(0))
}

fn process_line(pid: i32) -> String {
    let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {} {}", identity_of(pid).0, words.replace('\0', " "))
}

/// Every path below a directory, with its size; what a store holds before and after.
pub(crate) fn files(folder: &Path) -> Result<BTreeSet<String>, Failed> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let facts = entry.metadata()?;
            if facts.is_dir() {
                folders.push(entry.path());
            }
            let size = if facts.is_file() { facts.len() } else { 0 };
            found.insert(format!("{} {size}", entry.path().display()));
        }
    }
    Ok(found)
}

//! Many sandboxes in a row: whether the last take longer than the first, and what they leave.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::contenders::{Site, ours};
use crate::series::percentile_ms;

/// What there is of things that a leak would add to.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    mounts: usize,
    cgroups: usize,
    processes: usize,
    descriptors: usize,
    files: usize,
}

/// Starts `sandboxes` sandboxes and prints first and last tenth, and what is more than before.
pub(crate) fn run(site: &Site, sandboxes: u32) -> Result<(), Box<dyn Error>> {
    let words = ours(site, "run", &["--", "/bin/true"]);
    let before = count(site)?;
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..sandboxes {
        let start = Instant::now();
        let status = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).status()?;
        took.push(start.elapsed());
        if !status.success() {
            return Err(format!("sandbox {} ended with {status}", took.len()).into());
        }
    }
    let after = count(site)?;
    let tenth = (took.len() / 10).max(1);
    let first = percentile_ms(&took[..tenth], 50);
    let last = percentile_ms(&took[took.len() - tenth..], 50);
    println!("\n{sandboxes} sandboxes in a row");
    println!(
        "  p50 of the first tenth {first:.2} ms, of the last {last:.2} ms: x{:.3}",
        last / first
    );
    if before == after {
        println!("  nothing is left: {after:?}");
    } else {
        println!("  LEFT: {before:?} before, {after:?} after");
    }
    Ok(())
}

fn count(site: &Site) -> Result<Count, Box<dyn Error>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?.lines().count();
    let is_ours = |name: &str| name.starts_with("run-in-contain");
    let processes = fs::read_dir("/proc")?
        .flatten()
        .filter(|entry| fs::read_to_string(entry.path().join("comm")).is_ok_and(|c| is_ours(&c)))
        .count();
    Ok(Count {
        mounts,
        cgroups: walk(Path::new("/sys/fs/cgroup"), &|name, _| is_ours(name)),
        processes,
        descriptors: fs::read_dir("/proc/self/fd")?.count(),
        files: walk(&site.base, &|_, _| true),
    })
}

/// How many entries below a folder a question is true of. What goes while it is looked at is not.
fn walk(folder: &Path, counts: &dyn Fn(&str, bool) -> bool) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        found += usize::from(counts(&entry.file_name().to_string_lossy(), is_folder));
        if is_folder {
            found += walk(&entry.path(), counts);
        }
    }
    found
}

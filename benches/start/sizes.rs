//! The size of the program, and the memory of the init of a running sandbox.

use std::error::Error;
use std::fs;
use std::process::{Command, Stdio};

use crate::contenders::{OURS, Site, ours};
use crate::series::goal;

/// Prints both with their goals.
pub(crate) fn print(site: &Site) -> Result<(), Box<dyn Error>> {
    println!("\nsizes");
    let megabytes = f64::from(u32::try_from(fs::metadata(OURS)?.len())?) / 1e6;
    goal("program, MB", "under 15", Some(megabytes), 15.0);
    match init_resident_kib(site) {
        Ok(kib) => goal("init, resident KiB", "under 100", Some(f64::from(kib)), 100.0),
        Err(why) => println!("  init: not measured: {why}"),
    }
    Ok(())
}

/// Resident memory of the first process of a sandbox, while its task waits.
fn init_resident_kib(site: &Site) -> Result<u32, Box<dyn Error>> {
    let words = ours(site, "run", &["--", "/bin/sh", "-c", "echo ready; read x"]);
    #[expect(clippy::disallowed_methods, reason = "a sandbox that is looked at while it runs")]
    let mut running = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = running.stdout.take().ok_or("no standard output")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    let found = descendants(running.id()).into_iter().find_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let is_first =
            field("NSpid")?.split_whitespace().collect::<Vec<_>>()[1..].last() == Some(&"1");
        let resident = field("VmRSS")?.split_whitespace().next()?.parse().ok()?;
        is_first.then_some(resident)
    });
    drop(running.stdin.take());
    running.wait()?;
    found.ok_or_else(|| "no first process of a pid namespace was found".into())
}

/// Processes below one, by the kernel's own lists.
fn descendants(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let mut found = Vec::new();
    for child in children.unwrap_or_default().split_whitespace().filter_map(|c| c.parse().ok()) {
        found.push(child);
        found.extend(descendants(child));
    }
    found
}

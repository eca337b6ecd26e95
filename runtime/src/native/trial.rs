//! Tries what a sandbox needs, in a child of its own, by the steps a sandbox is made of.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::devices;
use super::steps::{self, Step};
use super::translate::flags;
use super::{monitor, protocol};
use crate::{Caller, TrialKind};

/// A filter of one instruction: `BPF_RET | BPF_K` with `SECCOMP_RET_ALLOW` (linux/seccomp.h).
const ALLOW_ALL: [u8; 8] = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];

/// Tries `kinds` in order in one new child process: the [`Trial`](crate::Trial) that
/// [`probe_host`](crate::probe_host) wants. An overlay is tried with two directories in `/tmp`.
///
/// # Errors
/// Which one failed and what the kernel said. Nothing is left behind.
pub fn trial(caller: &Caller, kinds: &[TrialKind]) -> Result<(), String> {
    let said = |error: io::Error| format!("cannot make directories to try it with: {error}");
    if !kinds.contains(&TrialKind::Overlay) {
        return run(&plan(caller, Path::new("/"), kinds));
    }
    let scratch = scratch().map_err(said)?;
    let made = ["lower", "upper"].iter().try_for_each(|name| fs::create_dir(scratch.join(name)));
    let tried = made.map_err(said).and_then(|()| run(&plan(caller, &scratch, kinds)));
    // The kernel has let go of it with the child; a leftover in /tmp would be all that is lost.
    let _ = fs::remove_dir_all(&scratch);
    tried
}

/// A new directory that nobody else can have prepared.
fn scratch() -> io::Result<PathBuf> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name = format!("/tmp/run-in-container-trial-{:016x}", u64::from_le_bytes(random));
    rustix::fs::mkdir(&name, rustix::fs::Mode::RWXU)?;
    Ok(name.into())
}

fn plan(caller: &Caller, scratch: &Path, kinds: &[TrialKind]) -> Vec<Step> {
    let all = flags::NEWNS
        | flags::NEWCGROUP
        | flags::NEWUTS
        | flags::NEWIPC
        | flags::NEWPID
        | flags::NEWNET;
    let namespaces: u64 = kinds
        .iter()
        .map(|kind| match kind {
            TrialKind::Namespaces => all,
            TrialKind::UserNamespace => all | flags::NEWUSER,
            TrialKind::Overlay | TrialKind::Seccomp | TrialKind::DeviceProgram { .. } => 0,
        })
        .fold(0, |a, b| a | b);
    let mut steps = Vec::new();
    let mut cgroup = None;
    if let Some(TrialKind::DeviceProgram { parent }) = kinds.first() {
        // Not named as containers are: whoever looks for those must not find a trial.
        let own = parent.join(format!("trial-of-run-in-container-{}", std::process::id()));
        steps.push(Step::cgroup_make(&own));
        steps.push(Step::cgroup_devices(&own, &devices::program(&[])));
        cgroup = Some(own);
    }
    steps.push(Step::clone(namespaces, cgroup.as_deref(), false));
    for kind in kinds {
        match kind {
            TrialKind::DeviceProgram { .. } => {}
            TrialKind::Namespaces => steps.push(Step::private()),
            TrialKind::UserNamespace => {
                let (uid, gid) = (caller.uid, caller.gid);
                steps.push(Step::write("/proc/self/setgroups", "deny"));
                steps.push(Step::write("/proc/self/uid_map", &format!("{uid} {uid} 1\n")));
                steps.push(Step::write("/proc/self/gid_map", &format!("{gid} {gid} 1\n")));
                steps.push(Step::private());
            }
            TrialKind::Overlay => {
                let options = b"userxattr,lowerdir=upper:lower";
                steps.push(Step::root_overlay(&scratch.join("upper"), options, scratch));
            }
            TrialKind::Seccomp => {
                steps.push(Step::drop_privileges());
                steps.push(Step::seccomp(&ALLOW_ALL));
            }
        }
    }
    steps.push(Step::ready());
    steps
}

fn run(steps: &[Step]) -> Result<(), String> {
    let said = |error: io::Error| format!("cannot start a child to try it in: {error}");
    let (mut child, channel) = monitor::spawn().map_err(said)?;
    let (control, theirs) = monitor::socket_pair().map_err(said)?;
    let bytes = steps::encode(steps);
    let sent = monitor::send_start(&channel, &bytes, &theirs, &[]).map_err(said);
    drop(theirs);
    let tried = sent.and_then(|()| answer(&channel, steps)).and_then(|()| answer(&control, steps));
    drop((control, channel));
    let _ = child.wait();
    tried
}

fn answer(socket: &OwnedFd, steps: &[Step]) -> Result<(), String> {
    let message = monitor::receive(socket).map_err(|error| error.to_string())?;
    let message = message.ok_or("the child ended without a word")?;
    if message.kind != protocol::FAILED {
        return Ok(());
    }
    let step = usize::try_from(message.numbers[0]).ok().and_then(|at| steps.get(at));
    let step = step.map_or("a step", |step| step.label.as_str());
    let errno = i32::try_from(message.numbers[1]).unwrap_or(0);
    Err(format!("{step}: {}", io::Error::from_raw_os_error(errno)))
}

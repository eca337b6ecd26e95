//! Tries what a sandbox needs, in a child of its own, by the steps a sandbox is made of.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::devices;
use super::monitor::{self, Monitor};
use super::protocol;
use super::steps::{self, Check, Mounter, Parent, Step};
use super::translate::flags;
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
    let scratch = scratch().map_err(said)?;
    let steps = plan(caller, &scratch, kinds);
    if !kinds.contains(&TrialKind::Overlay) {
        return run(&steps);
    }
    let all = ["", "lower", "upper"].map(|name| scratch.join(name));
    let made = all.iter().try_for_each(|path| rustix::fs::mkdir(path, rustix::fs::Mode::RWXU));
    let tried = made.map_err(|errno| said(errno.into())).and_then(|()| run(&steps));
    // The kernel has let go of it with the child; a leftover in /tmp would be all that is lost.
    let _ = fs::remove_dir_all(&scratch);
    tried
}

/// A directory that is not there, of a name that nobody can foresee. Not named as containers are:
/// whoever looks for those must not find a trial.
fn scratch() -> io::Result<PathBuf> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let random = u64::from_le_bytes(random);
    Ok(format!("/tmp/trial-of-run-in-container-{random:016x}").into())
}

/// `scratch` holds an overlay's directories; a cgroup gets its name.
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
            TrialKind::Cgroup { .. }
            | TrialKind::DeviceProgram { .. }
            | TrialKind::Overlay
            | TrialKind::Seccomp => 0,
        })
        .fold(0, |a, b| a | b);
    let mut steps = Vec::new();
    let mut cgroup = None;
    let name = scratch.file_name().unwrap_or_default();
    match kinds.first() {
        Some(TrialKind::Cgroup { place, control, value }) => {
            let own = place.parent.join(name);
            steps.push(Step::cgroup_make(&own));
            steps.push(Step::cgroup_set(&own.join(control), value, Check::No));
            if place.unified {
                cgroup = Some(own);
            } else {
                steps.push(Step::cgroup_join(&own));
            }
        }
        Some(TrialKind::DeviceProgram { parent }) => {
            let own = parent.join(name);
            steps.push(Step::cgroup_make(&own));
            steps.push(Step::cgroup_devices(&own, &devices::program(&[])));
            cgroup = Some(own);
        }
        Some(
            TrialKind::Namespaces
            | TrialKind::UserNamespace
            | TrialKind::Overlay
            | TrialKind::Seccomp,
        )
        | None => {}
    }
    steps.push(Step::clone(namespaces, cgroup.as_deref(), false));
    for kind in kinds {
        match kind {
            TrialKind::Cgroup { .. } | TrialKind::DeviceProgram { .. } => {}
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
                let upper = scratch.join("upper");
                steps.push(Step::root_overlay(&upper, options, scratch, 1, Mounter::Owner));
            }
            TrialKind::Seccomp => {
                steps.push(Step::drop_privileges(0, Parent::Monitor));
                steps.push(Step::seccomp(&ALLOW_ALL));
            }
        }
    }
    steps.push(Step::ready());
    steps
}

fn run(steps: &[Step]) -> Result<(), String> {
    let said = |error: io::Error| format!("cannot start a child to try it in: {error}");
    let monitor = Monitor::spawn().map_err(said)?;
    let (control, theirs) = monitor::socket_pair().map_err(said)?;
    monitor.start(&steps::encode(steps), theirs, &[]).map_err(said)?;
    answer(monitor.channel(), steps)?;
    answer(&control, steps)
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

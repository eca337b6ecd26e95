//! Whose a daemon's container is, so that those of the dead are found and removed.
//!
//! A container ends with its owner, because its control socket does; but a daemon keeps what has
//! ended. The label says who the owner is: boot, pid namespace, pid and the time of its start,
//! which no two processes share, and the user. Only containers of the same user are looked at:
//! whether someone else's process lives may be hidden.

use std::fs;
use std::io;

use crate::docker::api::Api;

/// A process, such that no other is ever called the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    boot: String,
    namespace: String,
    pid: u32,
    started: String,
    uid: u32,
}

/// The label of this process's containers.
pub(super) fn label() -> io::Result<String> {
    Ok(this_process()?.to_text())
}

/// Removes what this user's dead processes have left with a daemon. What cannot be removed is left:
/// it has ended, and somebody comes again.
pub(super) fn remove_those_of_the_dead(api: &Api) {
    let Ok(here) = this_process() else { return };
    for (id, label) in api.labelled().unwrap_or_default() {
        let owner = Owner::parse(&label);
        if owner.is_some_and(|owner| owner.is_dead(&here, |pid| start_of(&pid.to_string()).ok())) {
            let _ = api.remove(&id);
        }
    }
}

fn this_process() -> io::Result<Owner> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let namespace = fs::read_link("/proc/self/ns/pid")?.to_string_lossy().into_owned();
    let uid = rustix::process::geteuid().as_raw();
    Ok(Owner { boot, namespace, pid: std::process::id(), started: start_of("self")?, uid })
}

/// When a process was started, in clock ticks since the boot (proc_pid_stat(5), field 22).
fn start_of(pid: &str) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name, and may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let started = rest.split_ascii_whitespace().nth(19);
    started.map(str::to_owned).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

impl Owner {
    fn to_text(&self) -> String {
        let Owner { boot, namespace, pid, started, uid } = self;
        format!("{boot} {namespace} {pid} {started} {uid}")
    }

    fn parse(text: &str) -> Option<Owner> {
        let mut words = text.split(' ');
        let mut word = || words.next().map(str::to_owned);
        let (boot, namespace, pid, started, uid) = (word()?, word()?, word()?, word()?, word()?);
        Some(Owner { boot, namespace, pid: pid.parse().ok()?, started, uid: uid.parse().ok()? })
    }

    /// Whether this owner is surely gone, seen from process `here`; `start_of` says when a process
    /// that lives was started.
    fn is_dead(&self, here: &Owner, start_of: impl Fn(u32) -> Option<String>) -> bool {
        if self.uid != here.uid {
            return false;
        }
        if self.boot != here.boot {
            return true;
        }
        self.namespace == here.namespace && start_of(self.pid).as_ref() != Some(&self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_who_it_is() {
        let here = this_process().unwrap();
        assert_eq!(Owner::parse(&label().unwrap()), Some(here.clone()));
        assert!(!here.is_dead(&here, |pid| start_of(&pid.to_string()).ok()), "this process lives");
        for odd in ["", "x", "boot ns seven 1 0", "boot ns 7 1"] {
            assert_eq!(Owner::parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn only_a_process_that_is_surely_gone_is_dead() {
        let here = Owner::parse("boot pid:[1] 10 500 1000").unwrap();
        let lives = |pid| (pid == 7).then(|| "100".to_owned());
        for (label, dead) in [
            ("boot pid:[1] 7 100 1000", false),
            ("boot pid:[1] 7 99 1000", true),
            ("boot pid:[1] 8 100 1000", true),
            ("earlier pid:[1] 7 100 1000", true),
            // Someone else's, or in a namespace that is not seen.
            ("boot pid:[1] 8 100 1001", false),
            ("boot pid:[2] 8 100 1000", false),
        ] {
            assert_eq!(Owner::parse(label).unwrap().is_dead(&here, lives), dead, "{label}");
        }
    }
}

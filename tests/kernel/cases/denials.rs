//! What the restricted profile denies, one row per act, each with its twin: the same act in
//! namespaces without the profile, where it gets another answer.
//!
//! Longer than a screen because it is a table.

use std::sync::Arc;

use libtest_mimic::Failed;

use crate::case::{Case, EVERYONE};
use crate::launch::{Stage, claim};
use crate::needs::Need;
use crate::person::Person;
use crate::posture::{Place, general};

/// An act that is denied.
#[derive(Debug, Clone, Copy)]
struct Denial {
    /// Name of the act in `probe.py`.
    act: &'static str,
    /// Answers that are a denial.
    denied: &'static [&'static str],
    /// Answers of the control: the kernel was reached, and did it or found nothing to do it with.
    control: &'static [&'static str],
    /// Whose control: an ordinary user's namespaces give no power over the machine itself.
    power: Power,
}

/// What an act needs besides the absence of the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    /// What anyone has in a user namespace.
    Anyone,
    /// The capabilities of the machine's root.
    Root,
}

const fn denial(
    act: &'static str,
    denied: &'static [&'static str],
    control: &'static [&'static str],
    power: Power,
) -> Denial {
    Denial { act, denied, control, power }
}

/// By the filter or for want of a capability.
const EPERM: &[&str] = &["EPERM"];
/// A new system call may look absent, so that libraries fall back.
const EITHER: &[&str] = &["EPERM", "ENOSYS"];
/// It worked.
const OK: &[&str] = &["ok"];

use Power::{Anyone, Root};

const DENIALS: &[Denial] = &[
    denial("unshare_user", EPERM, OK, Anyone),
    denial("unshare_mnt", EPERM, OK, Anyone),
    denial("unshare_pid", EPERM, OK, Anyone),
    denial("unshare_net", EPERM, OK, Anyone),
    denial("unshare_ipc", EPERM, OK, Anyone),
    denial("unshare_uts", EPERM, OK, Anyone),
    denial("unshare_cgroup", EPERM, OK, Anyone),
    denial("unshare_time", EPERM, OK, Anyone),
    denial("clone_newuser", EPERM, OK, Anyone),
    // Its flags are in memory, where a filter cannot look; libraries fall back to clone(2).
    denial("clone3", &["ENOSYS"], &["EINVAL"], Anyone),
    denial("setns", EPERM, OK, Anyone),
    denial("chroot", EPERM, OK, Anyone),
    denial("mknod_char", EPERM, OK, Root),
    denial("mknod_block", EPERM, OK, Root),
    denial("mknod_whiteout", EPERM, OK, Anyone),
    denial("mount_tmpfs", EPERM, OK, Anyone),
    denial("mount_bind", EPERM, OK, Anyone),
    denial("mount_remount_rw", EPERM, OK, Anyone),
    denial("mount_proc", EPERM, OK, Anyone),
    denial("mount_cgroup_v1", EPERM, &["ok", "EBUSY", "EINVAL"], Anyone),
    denial("mount_cgroup_v2", EPERM, OK, Anyone),
    denial("umount", EPERM, OK, Anyone),
    denial("pivot_root", EPERM, &["EINVAL", "EBUSY"], Anyone),
    denial("fsopen", EITHER, OK, Anyone),
    denial("fspick", EITHER, OK, Anyone),
    denial("open_tree", EITHER, OK, Anyone),
    denial("move_mount", EITHER, &["ENOENT", "EBADF"], Anyone),
    denial("mount_setattr", EITHER, OK, Anyone),
    denial("swapon", EPERM, &["ENOENT"], Root),
    denial("swapoff", EPERM, &["ENOENT"], Root),
    // ENOSYS where a kernel is built without them: what differs is who answers.
    denial("kexec_load", EPERM, &["EINVAL", "ENOSYS"], Root),
    denial("init_module", EPERM, &["ENOEXEC", "ENOSYS"], Root),
    denial("delete_module", EPERM, &["ENOENT", "ENOSYS"], Root),
    denial("iopl", EPERM, &["ok", "ENOSYS"], Root),
    denial("ioperm", EPERM, &["ok", "ENOSYS"], Root),
    denial("reboot", EPERM, &["EINVAL"], Root),
    denial("acct", EPERM, &["ENOENT"], Root),
    denial("syslog", EPERM, OK, Root),
    denial("clock_settime", EPERM, &["EINVAL"], Anyone),
    denial("adjtimex", EPERM, OK, Anyone),
    denial("clock_adjtime", EPERM, OK, Anyone),
    denial("sethostname", EPERM, OK, Anyone),
    denial("setdomainname", EPERM, OK, Anyone),
    denial("keyctl", EITHER, OK, Anyone),
    denial("keyctl_search", EITHER, &["ENOKEY"], Anyone),
    denial("add_key", EITHER, OK, Anyone),
    denial("request_key", EITHER, &["ENOKEY"], Anyone),
    denial("bpf", EITHER, OK, Root),
    denial("perf_event_open", EITHER, OK, Root),
    denial("io_uring_setup", EITHER, OK, Anyone),
    denial("userfaultfd", EITHER, OK, Root),
    denial("ptrace", EPERM, OK, Anyone),
    denial("process_vm_readv", EPERM, OK, Anyone),
    denial("process_vm_writev", EPERM, OK, Anyone),
    denial("personality", EPERM, OK, Anyone),
    denial("name_to_handle_at", EPERM, OK, Anyone),
    denial("open_by_handle_at", EPERM, &["ESTALE"], Root),
    denial("fanotify_init", EPERM, OK, Anyone),
    denial("move_pages", EPERM, OK, Anyone),
    denial("set_mempolicy", EPERM, OK, Anyone),
    denial("mbind", EPERM, OK, Anyone),
    denial("kcmp", EPERM, OK, Anyone),
    denial("sched_setscheduler", EPERM, OK, Anyone),
    denial("sched_setattr", EPERM, OK, Anyone),
    denial("vmsplice", EPERM, OK, Anyone),
    // Absent from older kernels, where the control's ENOSYS is the kernel's own.
    denial("memfd_secret", EITHER, &["ok", "ENOSYS"], Anyone),
    denial("statmount", EITHER, &["EFAULT", "ENOSYS"], Anyone),
    denial("listmount", EITHER, &["EFAULT", "ENOSYS"], Anyone),
    denial("modify_ldt", EPERM, OK, Anyone),
    denial("process_mrelease", EITHER, &["EBADF"], Anyone),
    denial("quotactl", EPERM, &["ENODEV", "ENOSYS"], Anyone),
    denial("setuid_0", &["EPERM", "EINVAL"], OK, Anyone),
    denial("setgid_0", &["EPERM", "EINVAL"], OK, Anyone),
    denial("setgroups", EPERM, OK, Root),
    denial("add_capability", EPERM, OK, Anyone),
    denial("unlock_securebits", EPERM, OK, Anyone),
    denial("chown_root", &["EPERM", "EINVAL"], OK, Anyone),
];

/// One claim per row, and once more for runc.
pub(crate) fn cases() -> Vec<Case> {
    let needs = &[Need::Python3];
    let ours = DENIALS.iter().map(|row| {
        Case::new(format!("refuses_{}", row.act), |stage| check(*row, stage, Place::Sandbox))
            .people(EVERYONE)
            .needs(needs)
    });
    let judged = DENIALS.iter().map(|row| {
        Case::new(format!("runc_refuses_{}", row.act), |stage| check(*row, stage, Place::Runc))
            .people(&[Person::Root])
            .needs(needs)
            .needs(&[Need::Runc])
    });
    let root_only = |case: Case, row: &Denial| {
        if row.power == Root { case.needs(&[Need::Root]) } else { case }
    };
    let all = ours.zip(DENIALS).chain(judged.zip(DENIALS));
    all.map(|(case, row)| root_only(case, row)).collect()
}

fn check(row: Denial, stage: &Stage, place: Place) -> Result<(), Failed> {
    let controller = if row.power == Root { Person::Root } else { stage.person };
    let control = general(&Arc::clone(&stage.world), controller, Place::Namespaces)?;
    let control = control["acts"][row.act].as_str().unwrap_or("nothing").to_owned();
    claim!(
        row.control.contains(&control.as_str()),
        "the control is no control: without the profile {} gave {control}, not {:?}",
        row.act,
        row.control
    );
    let inside = general(&stage.world, stage.person, place)?;
    let answer = inside["acts"][row.act].as_str().unwrap_or("nothing");
    claim!(
        row.denied.contains(&answer),
        "{} gave {answer}, not {:?} (without the profile: {control})",
        row.act,
        row.denied
    );
    Ok(())
}

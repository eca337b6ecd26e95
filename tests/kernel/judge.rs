//! The second implementation that judges the tests: the same claims about a sandbox that runc made.
//!
//! A claim that only our own engine fulfils says something about the claim. [`spec`] is the one
//! place that says what runc is given.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::commands::{Answer, Command};
use crate::launch::{PATH, Stage};
use crate::world::World;

/// Whether runc can start anything here.
pub(crate) fn works(world: &World) -> Result<(), Failed> {
    let folder = world.base.join(world.fresh_name());
    let answer = run_in(&folder, &["/usr/bin/true".to_owned()])?;
    if answer.code == Some(0) { Ok(()) } else { Err(answer.told().into()) }
}

/// Runs a command in a container that runc makes.
pub(crate) fn run(stage: &Stage, words: &[String]) -> Result<Answer, Failed> {
    run_in(&stage.home.join("bundle"), words)
}

fn run_in(folder: &Path, words: &[String]) -> Result<Answer, Failed> {
    let root = folder.join("rootfs");
    fs::create_dir_all(&root)?;
    for link in ["bin", "sbin", "lib", "lib64"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(link)) {
            symlink(target, root.join(link))?;
        }
    }
    fs::write(folder.join("config.json"), spec(words).to_string())?;
    let state = folder.join("state").to_string_lossy().into_owned();
    let bundle = folder.to_string_lossy().into_owned();
    let name = format!("judge-{}", crate::images::hex(bundle.as_bytes()).split_at(12).0);
    Command::new(&["runc", "--root", &state, "run", "--bundle", &bundle, &name]).output()
}

/// The OCI runtime spec of the restricted sandbox for a command.
fn spec(words: &[String]) -> Value {
    let tmpfs = |target: &str, options: &str| {
        let options: Vec<&str> = options.split(',').collect();
        json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options})
    };
    let bind = |path: &str| {
        let options = ["rbind", "ro", "nosuid", "nodev", "private"];
        json!({"destination": path, "type": "bind", "source": path, "options": options})
    };
    let namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "cwd": "/", "args": words, "noNewPrivileges": true,
            "user": {"uid": 65534, "gid": 65534, "umask": 18},
            "env": [format!("PATH={PATH}")],
            "capabilities": {"bounding": [], "effective": [], "permitted": []},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ],
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "sandbox",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            tmpfs("/dev", "nosuid,strictatime,mode=755,size=64k"),
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            tmpfs("/dev/shm", "nosuid,noexec,nodev,mode=1777,size=16m"),
            tmpfs("/tmp", "nosuid,nodev,mode=1777,size=64m"),
            bind("/usr"), bind("/etc/ld.so.cache"),
        ],
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": MASKED, "readonlyPaths": READ_ONLY, "seccomp": seccomp(),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    })
}

/// Files that tell about the machine; security defaults of Docker and more.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/kallsyms",
    "/proc/kmsg",
    "/proc/config.gz",
    "/proc/modules",
];
/// Kernel knobs.
const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A filter that denies what the claims say is denied, written independently of ours: everything
/// else is allowed. No foreign architecture is listed, so libseccomp ends their callers.
fn seccomp() -> Value {
    let deny = "SCMP_ACT_ERRNO";
    let rule =
        |names: &[&str], code: u32| json!({"names": names, "action": deny, "errnoRet": code});
    let argument = |name: &str, index: u32, value: u64, mask: Option<u64>, operator: &str| {
        let test = match mask {
            Some(mask) => json!({"index": index, "value": mask, "valueTwo": value, "op": operator}),
            None => json!({"index": index, "value": value, "op": operator}),
        };
        json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [test]})
    };
    let mut rules = vec![rule(DENIED, 1), rule(&["clone3"], 38)];
    rules.push(argument("clone", 0, 0x1000_0000, Some(0x1000_0000), "SCMP_CMP_MASKED_EQ"));
    for family in (0..46).filter(|family| ![1, 2, 10, 16].contains(family)) {
        rules.push(argument("socket", 0, family, None, "SCMP_CMP_EQ"));
    }
    for protocol in 1..23_u64 {
        rules.push(
            json!({"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [
                {"index": 0, "value": 16, "op": "SCMP_CMP_EQ"},
                {"index": 2, "value": protocol, "op": "SCMP_CMP_EQ"},
            ]}),
        );
    }
    for request in [0x5412, 0x541C] {
        rules.push(argument("ioctl", 1, request, Some(0xFFFF_FFFF), "SCMP_CMP_MASKED_EQ"));
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    })
}

/// System calls that the restricted profile does not have.
const DENIED: &[&str] = &[
    "acct",
    "add_key",
    "adjtimex",
    "bpf",
    "chroot",
    "clock_adjtime",
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_load",
    "keyctl",
    "listmount",
    "mbind",
    "memfd_secret",
    "mknod",
    "mknodat",
    "modify_ldt",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "name_to_handle_at",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pivot_root",
    "process_mrelease",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "reboot",
    "request_key",
    "sched_setattr",
    "sched_setscheduler",
    "set_mempolicy",
    "setdomainname",
    "sethostname",
    "setns",
    "statmount",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
    "vmsplice",
];

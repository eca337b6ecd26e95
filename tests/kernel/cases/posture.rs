//! What a process in a sandbox is and sees, as one run of the probe tells it.

use std::collections::BTreeSet;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::case::{BOTH, Case, EVERYONE};
use crate::launch::{Stage, claim};
use crate::needs::Need;
use crate::person::Person;
use crate::posture::{Place, general};

/// A claim about what the probe told inside, given what it told outside.
type Check = fn(Person, &Value) -> Result<(), Failed>;

/// Claims that hold for whoever made the sandbox: ours and runc's.
const JUDGED: &[(&str, Check)] = &[
    ("has_no_capabilities", has_no_capabilities),
    ("has_a_filter_and_no_new_privileges", has_a_filter),
    ("has_standard_descriptors_only", has_standard_descriptors_only),
    ("sees_no_other_processes", sees_no_other_processes),
    ("sees_minimal_devices", sees_minimal_devices),
    ("reads_nothing_of_the_machine", reads_nothing_of_the_machine),
    ("has_a_read_only_root", has_a_read_only_root),
    ("has_private_mounts", has_private_mounts),
    ("opens_no_dangerous_socket", opens_no_dangerous_socket),
    ("opens_the_sockets_that_programs_need", opens_needed_sockets),
    ("dies_of_foreign_system_calls", dies_of_foreign_system_calls),
    ("cannot_type_into_a_terminal", cannot_type_into_a_terminal),
    ("writes_no_kernel_knob", writes_no_kernel_knob),
    ("writes_no_cgroup_file", writes_no_cgroup_file),
    ("writes_no_running_program", writes_no_running_program),
    ("dumps_no_core", dumps_no_core),
];

/// Claims about ours alone: runc leaves setuid to no_new_privs, securebits as they are, and so on.
const OURS: &[(&str, Check)] = &[
    ("has_no_setuid_mount", has_no_setuid_mount),
    ("runs_as_the_caller_or_as_nobody", runs_as_the_caller_or_as_nobody),
    ("has_locked_securebits", has_locked_securebits),
    ("starts_in_task_with_an_ordinary_umask", starts_in_task),
    ("has_a_clean_signal_state", has_a_clean_signal_state),
    ("has_an_environment_of_its_own", has_an_environment_of_its_own),
];

/// All of them, and the twins that compare two places.
pub(crate) fn cases() -> Vec<Case> {
    let ours = JUDGED.iter().chain(OURS).map(|(name, check)| {
        Case::new(*name, |stage| check(stage.person, &seen(stage, Place::Sandbox)?))
            .people(EVERYONE)
            .needs(&[Need::Python3])
    });
    let judged = JUDGED.iter().map(|(name, check)| {
        Case::new(format!("runc_{name}"), |stage| check(stage.person, &seen(stage, Place::Runc)?))
            .people(&[Person::Root])
            .needs(&[Need::Python3, Need::Runc])
    });
    let docker = JUDGED.iter().map(|(name, check)| {
        Case::new(format!("docker_{name}"), |stage| {
            check(stage.person, &seen(stage, Place::Docker)?)
        })
        .needs(&[Need::Python3, Need::Busybox, Need::Dockerd])
    });
    let twins = [
        Case::new("has_namespaces_of_its_own", has_namespaces_of_its_own).people(EVERYONE),
        Case::new("the_same_probe_sees_the_machine_outside", sees_the_machine_outside),
        Case::new("call_gets_the_same_sandbox_as_run", call_is_like_run).people(BOTH),
    ];
    let twins = twins.into_iter().map(|case| case.needs(&[Need::Python3]));
    ours.chain(judged).chain(docker).chain(twins).collect()
}

fn seen(stage: &Stage, place: Place) -> Result<Value, Failed> {
    general(&stage.world, stage.person, place)
}

fn text<'a>(value: &'a Value, keys: &[&str]) -> &'a str {
    keys.iter().fold(value, |value, key| &value[*key]).as_str().unwrap_or("")
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn has_word(list: &Value, word: &str) -> bool {
    items(list).any(|item| item == word)
}

fn has_no_capabilities(_: Person, inside: &Value) -> Result<(), Failed> {
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let set = text(inside, &["identity", "status", name]);
        claim!(set == "0000000000000000", "{name} is {set:?}");
    }
    Ok(())
}

fn has_a_filter(_: Person, inside: &Value) -> Result<(), Failed> {
    let status = &inside["identity"]["status"];
    claim!(status["NoNewPrivs"] == "1", "NoNewPrivs is {}", status["NoNewPrivs"]);
    claim!(status["Seccomp"] == "2", "Seccomp is {}, not 2 (filter)", status["Seccomp"]);
    Ok(())
}

fn has_standard_descriptors_only(_: Person, inside: &Value) -> Result<(), Failed> {
    let more: Vec<_> = entries(&inside["descriptors"])
        .filter(|(n, _)| !matches!(n.as_str(), "0" | "1" | "2"))
        .collect();
    claim!(more.is_empty(), "more than standard descriptors are open: {more:?}");
    Ok(())
}

fn sees_no_other_processes(_: Person, inside: &Value) -> Result<(), Failed> {
    let visible = items(&inside["processes"]["visible"]).count();
    claim!((1..=3).contains(&visible), "{visible} processes are visible");
    Ok(())
}

fn sees_minimal_devices(_: Person, inside: &Value) -> Result<(), Failed> {
    const DEVICES: &[&str] =
        &["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"];
    const OTHERS: &[&str] =
        &["pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr", "core", "log"];
    for (name, kind) in entries(&inside["devices"]["names"]) {
        let known = DEVICES.contains(&name.as_str()) || OTHERS.contains(&name.as_str());
        claim!(known, "/dev has {name}");
        let device = kind == "chr" || kind == "blk";
        claim!(!device || DEVICES.contains(&name.as_str()), "/dev/{name} is a device");
    }
    for name in ["null", "zero", "full", "random", "urandom"] {
        let kind = &inside["devices"]["names"][name];
        claim!(kind == "chr", "/dev/{name} is {kind}, not a character device");
    }
    Ok(())
}

fn reads_nothing_of_the_machine(_: Person, inside: &Value) -> Result<(), Failed> {
    for (path, answer) in entries(&inside["masked"]) {
        let nothing = *answer == 0
            || ["ENOENT", "EACCES", "EPERM", "ENOTDIR"].contains(&answer.as_str().unwrap_or(""));
        claim!(nothing, "{path} tells {answer}");
    }
    Ok(())
}

fn has_a_read_only_root(_: Person, inside: &Value) -> Result<(), Failed> {
    let root = items(&inside["mounts"]).filter(|mount| mount["target"] == "/").last();
    let root = root.ok_or("no mount at /")?;
    claim!(has_word(&root["options"], "ro"), "/ is mounted {}", root["options"]);
    for mount in items(&inside["mounts"]) {
        let target = text(mount, &["target"]);
        let below = ["/usr", "/etc", "/lib", "/bin", "/opt", "/proc/sys"];
        if below.iter().any(|path| target == *path || target.starts_with(&format!("{path}/"))) {
            claim!(has_word(&mount["options"], "ro"), "{target} is mounted {}", mount["options"]);
        }
    }
    Ok(())
}

/// No file gives privileges, and no device node works but those of `/dev` itself.
fn has_no_setuid_mount(_: Person, inside: &Value) -> Result<(), Failed> {
    for mount in items(&inside["mounts"]) {
        let target = text(mount, &["target"]);
        claim!(has_word(&mount["options"], "nosuid"), "{target}: {}", mount["options"]);
        // A masked file is the machine's /dev/null, which nodev would make unreadable.
        let is_mask = text(mount, &["root"]).ends_with("/null");
        let is_device = is_mask || target == "/dev" || target.starts_with("/dev/");
        claim!(
            is_device || has_word(&mount["options"], "nodev"),
            "{target} is not nodev: {}",
            mount["options"]
        );
    }
    Ok(())
}

fn has_private_mounts(_: Person, inside: &Value) -> Result<(), Failed> {
    for mount in items(&inside["mounts"]) {
        let shared = items(&mount["propagation"])
            .any(|tag| tag.as_str().is_some_and(|tag| tag.starts_with("shared:")));
        claim!(!shared, "{} is shared: {}", mount["target"], mount["propagation"]);
    }
    Ok(())
}

fn opens_no_dangerous_socket(_: Person, inside: &Value) -> Result<(), Failed> {
    let answers = &inside["families"];
    for family in (0..46_u32).filter(|family| ![1, 2, 10, 16].contains(family)) {
        let answer = text(answers, &[&family.to_string()]);
        claim!(answer != "ok", "a socket of family {family} can be made");
    }
    // By the filter, not by a kernel that happens to lack the family: KEY, PACKET, ALG, VSOCK, XDP.
    for family in ["15", "17", "38", "40", "44"] {
        claim!(answers[family] == "EPERM", "family {family} gave {}", answers[family]);
    }
    for name in ["netlink_audit", "netlink_kobject_uevent", "netlink_netfilter", "inet_raw"] {
        claim!(answers[name] == "EPERM", "{name} gave {}", answers[name]);
    }
    Ok(())
}

fn opens_needed_sockets(_: Person, inside: &Value) -> Result<(), Failed> {
    for name in ["1", "2", "10", "netlink_route", "inet_stream"] {
        claim!(inside["families"][name] == "ok", "{name} gave {}", inside["families"][name]);
    }
    Ok(())
}

fn dies_of_foreign_system_calls(_: Person, inside: &Value) -> Result<(), Failed> {
    let answers = &inside["abis"];
    claim!(answers["native"] == "ok", "the control failed: native gave {}", answers["native"]);
    for abi in ["i386", "x32"] {
        claim!(answers[abi] == "SIGSYS", "{abi} gave {}", answers[abi]);
    }
    Ok(())
}

fn cannot_type_into_a_terminal(_: Person, inside: &Value) -> Result<(), Failed> {
    for name in ["tiocsti", "tiocsti_high", "tioclinux", "tioclinux_high"] {
        claim!(inside["terminal"][name] == "EPERM", "{name} gave {}", inside["terminal"][name]);
    }
    Ok(())
}

fn writes_no_kernel_knob(_: Person, inside: &Value) -> Result<(), Failed> {
    let knobs: Vec<&Value> = items(&inside["knobs"]["writable"])
        .filter(|path| *path != "/proc/1/oom_score_adj")
        .collect();
    claim!(knobs.is_empty(), "can be opened for writing: {knobs:?}");
    claim!(
        inside["knobs"]["tried"].as_u64() > Some(100),
        "only {} tried",
        inside["knobs"]["tried"]
    );
    Ok(())
}

fn writes_no_cgroup_file(_: Person, inside: &Value) -> Result<(), Failed> {
    let writable = &inside["cgroup"]["writable"];
    claim!(items(writable).next().is_none(), "can be opened for writing: {writable}");
    Ok(())
}

fn writes_no_running_program(_: Person, inside: &Value) -> Result<(), Failed> {
    for (path, answer) in entries(&inside["executable"]) {
        claim!(answer["write"] != "ok", "{path} ({}) can be written", answer["target"]);
    }
    Ok(())
}

fn dumps_no_core(_: Person, inside: &Value) -> Result<(), Failed> {
    claim!(inside["limits"]["core"][1] == 0, "core is {}", inside["limits"]["core"]);
    let soft = inside["limits"]["nofile"][0].as_u64();
    claim!(soft.is_some_and(|soft| soft <= 1024), "nofile is {}", inside["limits"]["nofile"]);
    Ok(())
}

fn runs_as_the_caller_or_as_nobody(person: Person, inside: &Value) -> Result<(), Failed> {
    let ids = person.ids();
    let uid = if person == Person::Root { 65534 } else { ids.uid };
    let all_same = items(&inside["identity"]["uids"]).all(|item| *item == uid);
    claim!(all_same, "uids are {}, not {uid}", inside["identity"]["uids"]);
    if person != Person::Root {
        let same = items(&inside["identity"]["gids"]).all(|item| *item == ids.gid);
        claim!(same, "gids are {}, not {}", inside["identity"]["gids"], ids.gid);
    }
    let root_group =
        has_zero(&inside["identity"]["groups"]) || has_zero(&inside["identity"]["gids"]);
    claim!(!root_group, "group 0 was kept: {}", inside["identity"]["groups"]);
    Ok(())
}

fn has_zero(list: &Value) -> bool {
    items(list).any(|item| *item == 0)
}

fn has_locked_securebits(_: Person, inside: &Value) -> Result<(), Failed> {
    /// SECBIT_NOROOT, and the locks of NOROOT, NO_SETUID_FIXUP, KEEP_CAPS and
    /// NO_CAP_AMBIENT_RAISE (linux/securebits.h).
    const WANTED: u64 = 0x01 | 0x02 | 0x08 | 0x20 | 0x80;
    let bits = inside["identity"]["securebits"].as_u64().unwrap_or(0);
    claim!(bits & WANTED == WANTED, "securebits are {bits:#x}");
    Ok(())
}

fn starts_in_task(_: Person, inside: &Value) -> Result<(), Failed> {
    let identity = &inside["identity"];
    claim!(identity["cwd"] == "/task", "the working directory is {}", identity["cwd"]);
    claim!(identity["umask"] == "0o22", "the umask is {}", identity["umask"]);
    Ok(())
}

fn has_a_clean_signal_state(_: Person, inside: &Value) -> Result<(), Failed> {
    for name in ["signals_blocked", "signals_ignored"] {
        let list = &inside["identity"][name];
        claim!(items(list).next().is_none(), "{name}: {list}");
    }
    Ok(())
}

fn has_an_environment_of_its_own(_: Person, inside: &Value) -> Result<(), Failed> {
    let environment = &inside["environment"];
    claim!(environment["HOME"] == "/tmp/home", "HOME is {}", environment["HOME"]);
    for name in ["XDG_RUNTIME_DIR", "LD_PRELOAD", "PYTHONPATH", "SUDO_USER"] {
        claim!(environment[name].is_null(), "{name} is {}", environment[name]);
    }
    let told = environment.to_string();
    claim!(!told.contains("/tmp/ric-kernel-"), "the machine shows through: {told}");
    Ok(())
}

fn has_namespaces_of_its_own(stage: &Stage) -> Result<(), Failed> {
    let (inside, outside) = (seen(stage, Place::Sandbox)?, seen(stage, Place::Bare)?);
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let (ours, theirs) = (&inside["namespaces"][name], &outside["namespaces"][name]);
        claim!(ours.is_string() && ours != theirs, "{name}: {ours} inside, {theirs} outside");
    }
    Ok(())
}

/// The control of the claims above: with no sandbox, the probe finds what they say is absent.
fn sees_the_machine_outside(stage: &Stage) -> Result<(), Failed> {
    let outside = seen(stage, Place::Namespaces)?;
    let checks: &[(&str, Check)] = &[
        ("has_no_capabilities", has_no_capabilities),
        ("has_a_filter", has_a_filter),
        ("sees_minimal_devices", sees_minimal_devices),
        ("reads_nothing_of_the_machine", reads_nothing_of_the_machine),
        ("has_a_read_only_root", has_a_read_only_root),
        ("has_no_setuid_mount", has_no_setuid_mount),
        ("opens_no_dangerous_socket", opens_no_dangerous_socket),
        ("dies_of_foreign_system_calls", dies_of_foreign_system_calls),
        ("cannot_type_into_a_terminal", cannot_type_into_a_terminal),
        ("writes_no_kernel_knob", writes_no_kernel_knob),
        ("has_locked_securebits", has_locked_securebits),
    ];
    let held: Vec<&str> = checks
        .iter()
        .filter(|(_, check)| check(stage.person, &outside).is_ok())
        .map(|(name, _)| *name)
        .collect();
    claim!(held.is_empty(), "hold without any sandbox, so they show nothing: {held:?}");
    Ok(())
}

/// T38: what a worker gets is what a command gets.
fn call_is_like_run(stage: &Stage) -> Result<(), Failed> {
    let (run, call) = (seen(stage, Place::Sandbox)?, seen(stage, Place::Call)?);
    for section in ["families", "abis", "masked", "limits", "acts"] {
        claim!(
            run[section] == call[section],
            "{section} differ: {} {}",
            run[section],
            call[section]
        );
    }
    for key in ["uids", "gids", "groups", "status", "securebits", "umask", "cwd"] {
        let (run, call) = (&run["identity"][key], &call["identity"][key]);
        claim!(run == call, "{key}: {run} in run, {call} in call");
    }
    let targets = |value: &Value| -> BTreeSet<(String, String)> {
        let pair = |m: &Value| (m["target"].to_string(), m["options"].to_string());
        items(&value["mounts"]).map(pair).collect()
    };
    let (run, call) = (targets(&run), targets(&call));
    let extra: Vec<_> = run.symmetric_difference(&call).collect();
    claim!(extra.is_empty(), "mounts differ: {extra:?}");
    Ok(())
}

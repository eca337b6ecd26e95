//! What can be tested with plain directories in the place of cgroups.

use super::*;
use crate::Caller;

fn me() -> Caller {
    let uid = rustix::process::geteuid().as_raw();
    Caller { uid, gid: rustix::process::getegid().as_raw(), groups: Vec::new(), name: None }
}

/// A hierarchy of plain files: levels `a` and `a/b`, the second the own one.
fn hierarchy(files: &[(&str, &str)]) -> (tempfile::TempDir, Own) {
    let top = tempfile::tempdir().unwrap();
    let directory = top.path().join("a/b");
    fs::create_dir_all(&directory).unwrap();
    for (name, text) in files {
        fs::write(top.path().join(name), text).unwrap();
    }
    let own = Own { directory, top: top.path().to_owned() };
    (top, own)
}

fn ambient(v1: bool, own: Own) -> BTreeMap<Controller, u64> {
    let all = [Controller::Memory, Controller::Cpu, Controller::Pids];
    read_ambient(&Hierarchies {
        version: if v1 { CgroupVersion::V1 } else { CgroupVersion::V2 },
        mounts: Vec::new(),
        own_v1: all.iter().filter(|_| v1).map(|c| (*c, Ok(own.clone()))).collect(),
        own_v2: (!v1).then_some(Ok(own)),
    })
}

#[test]
fn ambient_is_the_least_limit_up_to_the_top() {
    let (_top, own) = hierarchy(&[
        ("a/memory.max", "2147483648\n"),
        ("a/b/memory.max", "4294967296\n"),
        ("a/b/pids.max", "max\n"),
        ("a/pids.max", "max\n"),
        ("a/b/cpu.max", "150000 100000\n"),
        ("a/cpu.max", "max 100000\n"),
    ]);
    let found = ambient(false, own);
    assert_eq!(found.get(&Controller::Memory), Some(&2_147_483_648));
    assert_eq!(found.get(&Controller::Cpu), Some(&1500));
    assert_eq!(found.get(&Controller::Pids), None);
}

#[test]
fn ambient_of_version_1_knows_its_own_word_for_unlimited() {
    let (_top, own) = hierarchy(&[
        ("a/b/memory.limit_in_bytes", "9223372036854771712\n"),
        ("a/memory.limit_in_bytes", "1073741824\n"),
        ("a/b/cpu.cfs_quota_us", "-1\n"),
        ("a/b/cpu.cfs_period_us", "100000\n"),
        ("a/cpu.cfs_quota_us", "50000\n"),
        ("a/cpu.cfs_period_us", "100000\n"),
        ("a/b/pids.max", "77\n"),
    ]);
    let found = ambient(true, own);
    assert_eq!(found.get(&Controller::Memory), Some(&1_073_741_824));
    assert_eq!(found.get(&Controller::Cpu), Some(&500));
    assert_eq!(found.get(&Controller::Pids), Some(&77));
}

#[test]
fn unlimited_is_no_limit() {
    let (_top, own) = hierarchy(&[
        ("a/b/memory.limit_in_bytes", "9223372036854771712\n"),
        ("a/b/pids.max", "max\n"),
    ]);
    assert_eq!(ambient(true, own), BTreeMap::new());
}

#[test]
fn ambient_does_not_look_above_the_top() {
    let (top, mut own) = hierarchy(&[("memory.max", "1\n"), ("a/b/memory.max", "5\n")]);
    own.top = top.path().join("a");
    assert_eq!(ambient(false, own).get(&Controller::Memory), Some(&5));
}

#[test]
fn plain_directory_is_not_taken_for_a_cgroup() {
    let (_top, own) = hierarchy(&[]);
    let why = parent_v2(&own).unwrap_err();
    assert!(why.ends_with("is not a cgroup file system"), "{why}");
}

#[test]
fn what_a_trial_says_is_why_a_controller_is_unusable() {
    let (top, own) = hierarchy(&[]);
    let place = ControllerPlace { unified: false, parent: own.directory };
    let control = control_v1(Controller::Memory);
    let why = try_child(place, control, &|kinds| crate::trial(&me(), kinds)).unwrap_err();
    assert!(why.contains("write(2) of 0 to ") && why.contains("/tasks: No such file"), "{why}");
    let left = fs::read_dir(top.path().join("a/b")).unwrap().count();
    assert_eq!(left, 0, "a failed trial leaves nothing");
}

#[test]
fn hierarchy_that_is_not_there_is_unusable_with_a_reason() {
    let mountinfo = "1 0 0:1 / /nowhere rw - cgroup cgroup rw,memory\n";
    let found = probe(mountinfo, "4:memory:/\n", &|_| unreachable!("there is nothing to try"));
    assert_eq!(found.version, CgroupVersion::V1);
    assert!(found.controllers.is_empty());
    assert!(found.unusable[&Controller::Memory].starts_with("statfs(2) /nowhere: "));
    assert!(found.unusable[&Controller::Pids].contains("no version 1 hierarchy"));
}

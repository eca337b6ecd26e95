//! Recorded texts of real machines, and what they say.

use super::*;

/// Debian 12 with every version 1 controller mounted by hand; version 2 holds hugetlb only.
const HYBRID: (&str, &str) = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
     32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
     35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
     36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices\n\
     39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
     40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
     41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
    "9:name=systemd:/\n8:pids:/\n5:devices:/\n4:memory:/work/7\n1:cpu:/\n0::/\n",
);

/// CentOS 7 in a Slurm job: co-mounted controllers, mount options, optional tags.
const SLURM_V1: (&str, &str) = (
    "25 18 0:21 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755\n\
     26 25 0:22 / /sys/fs/cgroup/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,name=systemd\n\
     28 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpuacct,cpu\n\
     30 25 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:12 - cgroup cgroup rw,memory\n\
     34 25 0:30 / /sys/fs/cgroup/devices rw,nosuid shared:16 - cgroup cgroup rw,devices\n\
     36 25 0:32 / /sys/fs/cgroup/pids rw,nosuid shared:18 - cgroup cgroup rw,pids\n",
    "10:pids:/system.slice/slurmd.service\n8:devices:/slurm/uid_1000/job_5/step_0\n\
     4:memory:/slurm/uid_1000/job_5/step_0\n\
     3:cpuacct,cpu:/slurm/uid_1000/job_5/step_0/task_0\n\
     1:name=systemd:/system.slice/slurmd.service\n",
);

/// Fedora with systemd, in a user's scope.
const V2: (&str, &str) = (
    "24 22 0:22 / /sys/fs/cgroup rw,nosuid,nodev,noexec shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope\n",
);

fn parse((mountinfo, own): (&str, &str)) -> Hierarchies {
    parse_hierarchies(mountinfo, own)
}

fn own(directory: &str, top: &str) -> Result<Own, String> {
    Ok(Own { directory: PathBuf::from(directory), top: PathBuf::from(top) })
}

#[test]
fn hybrid_has_its_controllers_in_version_1() {
    let found = parse(HYBRID);
    assert_eq!(found.version, CgroupVersion::Hybrid);
    let memory = "/sys/fs/cgroup/memory";
    assert_eq!(found.own_v1[&Controller::Memory], own("/sys/fs/cgroup/memory/work/7", memory));
    let pids = "/sys/fs/cgroup/pids";
    assert_eq!(found.own_v1[&Controller::Pids], own(pids, pids));
    assert_eq!(found.own_v1.len(), 4);
    assert!(found.mounts.contains(&PathBuf::from("/sys/fs/cgroup/unified")));
    assert!(!found.mounts.contains(&PathBuf::from("/sys/fs/cgroup")), "that is a tmpfs");
}

#[test]
fn slurm_job_has_a_path_of_its_own_in_each_hierarchy() {
    let found = parse(SLURM_V1);
    assert_eq!(found.version, CgroupVersion::V1);
    let cpu = "/sys/fs/cgroup/cpu,cpuacct";
    let task = "/sys/fs/cgroup/cpu,cpuacct/slurm/uid_1000/job_5/step_0/task_0";
    assert_eq!(found.own_v1[&Controller::Cpu], own(task, cpu));
    let pids = "/sys/fs/cgroup/pids/system.slice/slurmd.service";
    assert_eq!(found.own_v1[&Controller::Pids], own(pids, "/sys/fs/cgroup/pids"));
}

#[test]
fn unified_has_one_path() {
    let found = parse(V2);
    assert_eq!(found.version, CgroupVersion::V2);
    assert!(found.own_v1.is_empty());
    let scope =
        "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope";
    assert_eq!(found.own_v2, Some(own(scope, "/sys/fs/cgroup")));
}

#[test]
fn named_version_1_hierarchy_alone_does_not_make_a_hybrid() {
    let mountinfo = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 none rw\n\
                     2 0 0:2 / /run/systemd/cgroup rw - cgroup none rw,name=systemd\n";
    let found = parse((mountinfo, "1:name=systemd:/a\n0::/b\n"));
    assert_eq!(found.version, CgroupVersion::V2);
    assert_eq!(found.mounts.len(), 2);
}

#[test]
fn container_sees_its_part_through_a_bind_mount() {
    let mountinfo =
        "9 8 0:26 /docker/ab /sys/fs/cgroup/memory ro master:12 - cgroup cgroup rw,memory\n";
    let found = parse((mountinfo, "4:memory:/docker/ab/inner\n"));
    let memory = "/sys/fs/cgroup/memory";
    assert_eq!(found.own_v1[&Controller::Memory], own("/sys/fs/cgroup/memory/inner", memory));
}

#[test]
fn container_with_a_cgroup_namespace_is_at_its_root() {
    let mountinfo = "9 8 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    let found = parse((mountinfo, "0::/\n"));
    assert_eq!(found.own_v2, Some(own("/sys/fs/cgroup", "/sys/fs/cgroup")));
}

#[test]
fn cgroup_that_cannot_be_seen_is_said_to_be() {
    let mountinfo = "9 8 0:26 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    for path in ["/docker/abc", "/", "/../../job"] {
        let found = parse((mountinfo, &format!("4:memory:{path}\n")));
        let why = found.own_v1[&Controller::Memory].clone().unwrap_err();
        assert!(why.contains(path) && why.contains("cannot be seen"), "{why}");
    }
}

#[test]
fn path_above_the_cgroup_namespace_is_not_resolved() {
    let mountinfo = "9 8 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
    assert!(parse((mountinfo, "0::/../other\n")).own_v2.unwrap().is_err());
}

#[test]
fn second_mount_helps_where_the_first_does_not() {
    let mountinfo = "1 0 0:1 /other /first rw - cgroup cgroup rw,memory\n\
                     2 0 0:1 / /second rw - cgroup cgroup rw,memory\n";
    let found = parse((mountinfo, "4:memory:/job\n"));
    assert_eq!(found.own_v1[&Controller::Memory], own("/second/job", "/second"));
}

#[test]
fn odd_characters_of_paths_are_decoded() {
    let mountinfo = "1 0 0:1 / /my\\040cgroups\\134x rw - cgroup2 cgroup rw\n";
    let found = parse((mountinfo, "0::/a:b c\n"));
    assert_eq!(found.own_v2, Some(own("/my cgroups\\x/a:b c", "/my cgroups\\x")));
}

#[test]
fn nothing_mounted_is_none_and_nonsense_is_ignored() {
    for text in ["", "\n\n", "1 2 3", " - ", " - cgroup", "1 2 3 / /x rw - ext4 a rw\n"] {
        let found = parse((text, "::\n0::\nx"));
        assert_eq!(found.version, CgroupVersion::None, "{text:?}");
    }
}

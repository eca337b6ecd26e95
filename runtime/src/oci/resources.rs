//! The limits of a sandbox in the words of the runtime spec, and where its cgroups are.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids, LinuxResources,
};

use super::SpecError;
use crate::{CgroupPlacement, Controller, Sandbox};

/// Microseconds over which processor time is counted: the kernel's default (sched-bwc.rst).
const CPU_PERIOD_US: u64 = 100_000;
/// Quota of one thousandth of a processor.
const CPU_QUOTA_US_PER_MILLI: u64 = CPU_PERIOD_US / 1000;

/// Where version 2 is mounted when no other is (cgroup-v2.rst).
const UNIFIED_ROOT: &str = "/sys/fs/cgroup";

/// Character devices that may be opened, by major and minor number
/// (Documentation/admin-guide/devices.txt): null, zero, full, random, urandom, tty, ptmx, and every
/// pseudo terminal.
const DEVICES: [(i64, Option<i64>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// Where the sandbox's cgroup is: absolute from the root of the hierarchy, or relative to the
/// cgroup of whoever starts the runtime. `None`: there is none.
///
/// With version 1 it is relative, and the runtime has to be started in the caller's own cgroups: a
/// spec has one path for all hierarchies, and the caller may be at another place in each.
pub(super) fn to_cgroups_path(
    placement: Option<&CgroupPlacement>,
    name: &str,
) -> Result<Option<PathBuf>, SpecError> {
    match placement {
        None | Some(CgroupPlacement::Daemon { .. }) => Ok(None),
        Some(CgroupPlacement::V1(_)) => Ok(Some(PathBuf::from(name))),
        Some(CgroupPlacement::V2 { parent, controllers: _ }) => {
            let below = parent.strip_prefix(UNIFIED_ROOT);
            let below = below.map_err(|_| SpecError::Cgroup { parent: parent.clone() })?;
            Ok(Some(Path::new("/").join(below).join(name)))
        }
    }
}

/// What the cgroup limits.
pub(super) fn to_resources(sandbox: &Sandbox) -> Result<LinuxResources, SpecError> {
    let limits = &sandbox.limits;
    let has = |controller| has_controller(sandbox.cgroup.as_ref(), controller);
    let limit = |controller, value: Option<u64>| match value {
        Some(_) if !has(controller) => Err(SpecError::Controller { controller }),
        Some(value) => {
            let value = i64::try_from(value);
            value.map(Some).map_err(|_| SpecError::Limit { controller })
        }
        None => Ok(None),
    };
    let memory = limit(Controller::Memory, limits.memory_bytes)?;
    let pids = limit(Controller::Pids, limits.pids)?;
    let quota = limits.cpus_milli.map(|milli| milli.saturating_mul(CPU_QUOTA_US_PER_MILLI));
    let quota = limit(Controller::Cpu, quota)?;

    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(if has(Controller::Devices) { to_devices() } else { Vec::new() }))
        .set_memory(memory.map(to_memory))
        .set_cpu(quota.map(to_cpu))
        .set_pids(pids.map(to_pids))
        .set_block_io(None)
        .set_hugepage_limits(None)
        .set_network(None)
        .set_rdma(None)
        .set_unified(None);
    Ok(resources)
}

fn has_controller(placement: Option<&CgroupPlacement>, controller: Controller) -> bool {
    match placement {
        None => false,
        Some(CgroupPlacement::V1(parents)) => parents.contains_key(&controller),
        Some(
            CgroupPlacement::V2 { controllers, .. } | CgroupPlacement::Daemon { controllers, .. },
        ) => controllers.contains(&controller),
    }
}

/// Nothing, then what every sandbox has. Rules apply in order.
///
/// runc adds rules of its own: any node may be made, which needs a capability that no sandbox has.
fn to_devices() -> Vec<LinuxDeviceCgroup> {
    let rule = |allow, typ, major, minor, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow)
            .set_typ(Some(typ))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        rule
    };
    let nothing = rule(false, LinuxDeviceType::A, None, None, "rwm");
    let allowed =
        DEVICES.map(|(major, minor)| rule(true, LinuxDeviceType::C, Some(major), minor, "rw"));
    [nothing].into_iter().chain(allowed).collect()
}

fn to_memory(bytes: i64) -> LinuxMemory {
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(Some(bytes))
        .set_reservation(None)
        // Memory and swap together, in version 1's way: none of it may be swap.
        .set_swap(Some(bytes))
        .set_kernel_tcp(None)
        .set_swappiness(None)
        .set_disable_oom_killer(Some(false))
        .set_use_hierarchy(None)
        .set_check_before_update(None);
    memory
}

fn to_cpu(quota_us: i64) -> LinuxCpu {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(None)
        .set_quota(Some(quota_us))
        .set_idle(None)
        .set_burst(None)
        .set_period(Some(CPU_PERIOD_US))
        .set_realtime_runtime(None)
        .set_realtime_period(None)
        .set_cpus(None)
        .set_mems(None);
    cpu
}

fn to_pids(limit: i64) -> LinuxPids {
    let mut pids = LinuxPids::default();
    pids.set_limit(limit);
    pids
}

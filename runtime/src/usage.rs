//! What a container has used, read from its cgroups while they are there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{CgroupPlacement, Controller};

/// The files to read.
#[derive(Debug, Clone, Default)]
pub(crate) struct UsageFiles {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    pids: Option<PathBuf>,
    unified: bool,
}

/// What a container takes now, by its cgroups. `None`: it has none that tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupLoad {
    /// Bytes of memory, page cache and files in memory included.
    pub memory_bytes: Option<u64>,
    /// Microseconds of processor time since it began.
    pub cpu_us: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

/// What a container has used and run into, by its cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupUsage {
    /// Most bytes of memory at once. `None`: no memory cgroup, or a kernel that does not keep it
    /// (version 2 before Linux 5.19).
    pub memory_peak_bytes: Option<u64>,
    /// How many processes the kernel has ended for want of memory.
    pub oom_kills: u64,
    /// How often a process or thread was refused for the limit.
    pub pids_refused: u64,
}

impl UsageFiles {
    /// The files of the container called `id`. Of one that a daemon places, [`of`](Self::of) has
    /// them.
    pub(crate) fn new(placement: Option<&CgroupPlacement>, id: &str) -> UsageFiles {
        match placement {
            None | Some(CgroupPlacement::Daemon { .. }) => UsageFiles::default(),
            Some(CgroupPlacement::V1(parents)) => {
                let of = |controller| parents.get(&controller).map(|at| at.join(id));
                UsageFiles {
                    memory: of(Controller::Memory),
                    cpu: of(Controller::Cpu),
                    pids: of(Controller::Pids),
                    unified: false,
                }
            }
            Some(CgroupPlacement::V2 { parent, .. }) => {
                let own = Some(parent.join(id));
                UsageFiles { memory: own.clone(), cpu: own.clone(), pids: own, unified: true }
            }
        }
    }

    /// The files of the container whose cgroups are `directories`.
    pub(crate) fn of(directories: &BTreeMap<Controller, PathBuf>, unified: bool) -> UsageFiles {
        let of = |controller| directories.get(&controller).cloned();
        UsageFiles {
            memory: of(Controller::Memory),
            cpu: of(Controller::Cpu),
            pids: of(Controller::Pids),
            unified,
        }
    }

    /// Reads what it takes now. On version 1 processor time is told where `cpuacct` is mounted
    /// together with `cpu`, as most distributions do.
    pub(crate) fn read_load(&self) -> CgroupLoad {
        let number = |at: &Option<PathBuf>, file: &str| -> Option<u64> {
            read(at.as_deref()?, file)?.trim().parse().ok()
        };
        let current = if self.unified { "memory.current" } else { "memory.usage_in_bytes" };
        let cpu_us = match self.unified {
            true => self.cpu.as_deref().and_then(|at| counter(at, "cpu.stat", "usage_usec")),
            false => number(&self.cpu, "cpuacct.usage").map(|nanoseconds| nanoseconds / 1000),
        };
        CgroupLoad {
            memory_bytes: number(&self.memory, current),
            cpu_us,
            processes: number(&self.pids, "pids.current"),
        }
    }

    /// Reads them now.
    pub(crate) fn read(&self) -> CgroupUsage {
        let (peak, events) = match self.unified {
            true => ("memory.peak", "memory.events"),
            false => ("memory.max_usage_in_bytes", "memory.oom_control"),
        };
        let memory = self.memory.as_deref();
        CgroupUsage {
            memory_peak_bytes: memory.and_then(|at| read(at, peak)?.trim().parse().ok()),
            oom_kills: memory.and_then(|at| counter(at, events, "oom_kill")).unwrap_or(0),
            pids_refused: self
                .pids
                .as_deref()
                .and_then(|at| counter(at, "pids.events", "max"))
                .unwrap_or(0),
        }
    }
}

fn read(directory: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(file)).ok()
}

/// The number behind `key` in a file of lines of keys and numbers.
fn counter(directory: &Path, file: &str, key: &str) -> Option<u64> {
    let text = read(directory, file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

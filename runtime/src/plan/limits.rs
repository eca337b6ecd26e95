//! How much a task may use: what it asks for, within the policy, as far as this host can hold it.
//!
//! A value that the task asks for or that stands in a policy file is enforced or the task is
//! refused. A value that only ships with the program is dropped where the host has no means, and
//! said to be.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use ric_policies::{Bound, Cpus, Memory, Pids, Policy, Protection, Time, Unit};

use super::{cgroup, required_by};
use crate::doctor::remedy;
use crate::{Actor, Controller, Demand, Host, Limits, Refusal, Rule, Task};

/// What was decided about limits.
pub(super) struct Decided {
    /// The limits that a cgroup will hold.
    pub(super) limits: Limits,
    /// Wall-clock time of the task; we end it ourselves, so every host can enforce it.
    pub(super) deadline: Option<Duration>,
    /// What is enforced, and by what.
    pub(super) enforced: BTreeMap<Protection, String>,
    /// What is not, and why.
    pub(super) dropped: BTreeMap<Protection, String>,
    /// Bytes of memory that the task can have at most, limit or not: the basis of sizes.
    pub(super) memory_basis_bytes: u64,
}

/// One kind of limit: its words, and the values that make sense.
struct Kind<T> {
    /// The policy's word.
    key: &'static str,
    /// What a message calls it.
    what: &'static str,
    /// The flag that asks for it.
    flag: &'static str,
    least: T,
    /// Why less makes no sense.
    why_least: &'static str,
    most: T,
    /// How a value is shown.
    show: fn(T) -> String,
}

const MEMORY: Kind<u64> = Kind {
    key: "memory",
    what: "memory limit",
    flag: "--memory",
    least: 4 << 20,
    why_least: "a process with its kernel memory does not start in less than 4 MiB",
    // The kernel counts bytes in a signed 64-bit number (page_counter.h, PAGE_COUNTER_MAX).
    most: 1 << 62,
    show: Memory::show,
};

const CPUS: Kind<u64> = Kind {
    key: "cpus",
    what: "processor limit",
    flag: "--cpus",
    // A quota of 1 ms in a period of 100 ms (sched/core.c, min_cfs_quota_period).
    least: 10,
    why_least: "the kernel gives no less than 0.01 processors",
    // Far above every machine, far below an overflow in microseconds.
    most: 1_000_000_000,
    show: Cpus::show,
};

const PIDS: Kind<u64> = Kind {
    key: "pids",
    what: "limit of processes",
    flag: "--pids",
    least: 3,
    why_least: "init, the task and one child are 3 processes",
    // PID_MAX_LIMIT (threads.h): `pids.max` takes no more.
    most: 4_194_304,
    show: Pids::show,
};

const TIME: Kind<Duration> = Kind {
    key: "time",
    what: "time limit",
    flag: "--timeout",
    least: Duration::from_millis(1),
    why_least: "a task needs some time",
    // A century: clocks can be added to it without an overflow.
    most: Duration::from_secs(100 * 365 * 24 * 3600),
    show: show_time,
};

/// A limit that a task shall have.
struct Wish<T> {
    value: T,
    /// Who insists on it; `None`: a default that ships with the program.
    demand: Option<Demand>,
}

/// Decides all limits of a task.
pub(super) fn limits(task: &Task, policy: &Policy, host: &Host) -> Result<Decided, Refusal> {
    let asked = &task.limits;
    let rules = &policy.limits;
    let mut memory = wish(&MEMORY, asked.memory_bytes, &rules.memory_bytes, policy)?;
    if let Some(memory) = &mut memory {
        memory.value -= memory.value % host.page_bytes.max(1);
    }
    let cpus = wish(&CPUS, asked.cpus_milli, &rules.cpus_milli, policy)?;
    let pids = wish(&PIDS, asked.pids, &rules.pids, policy)?;
    let time = wish(&TIME, asked.time, &rules.time, policy)?;

    let around_job = host.cgroup.ambient.get(&Controller::Memory).copied();
    let known = [memory.as_ref().map(|m| m.value), around_job, Some(host.memory_bytes)];
    let mut decided = Decided {
        limits: Limits { memory_bytes: None, cpus_milli: None, pids: None },
        deadline: time.map(|time| time.value),
        enforced: BTreeMap::new(),
        dropped: BTreeMap::new(),
        memory_basis_bytes: known.into_iter().flatten().min().unwrap_or(0),
    };
    let mut enforce =
        |kind, wish, controller| decided.enforce(kind, wish, controller, policy, host);
    let memory_bytes = enforce(&MEMORY, memory, Controller::Memory)?;
    let cpus_milli = enforce(&CPUS, cpus, Controller::Cpu)?;
    let pids = enforce(&PIDS, pids, Controller::Pids)?;
    decided.limits = Limits { memory_bytes, cpus_milli, pids };
    decided.enforce_devices(policy, host)?;
    Ok(decided)
}

/// What a task shall have: what it asks for, else the default, and never more than the most.
///
/// Where a policy has a most and no default, a task that asks for nothing gets the most: otherwise
/// not to ask would be the way round the bound.
fn wish<T: Copy + Ord>(
    kind: &Kind<T>,
    asked: Option<T>,
    bound: &Bound<T>,
    policy: &Policy,
) -> Result<Option<Wish<T>>, Refusal> {
    let most = bound.most.as_ref();
    let wish = if let Some(value) = asked {
        if let Some(most) = most.filter(|most| value > most.value) {
            return Err(Refusal::Limit {
                limit: kind.key,
                asked: (kind.show)(value),
                most: (kind.show)(most.value),
                rule: Rule::at(policy, "limits", &most.origin),
            });
        }
        Wish { value, demand: Some(Demand::Task(kind.flag)) }
    } else {
        let rules = [bound.default.as_ref(), most].into_iter().flatten();
        let Some(value) = rules.map(|rule| rule.value).min() else { return Ok(None) };
        let demanded_by = bound.demanded_by();
        let demand = demanded_by.map(|origin| Demand::Policy(Rule::at(policy, "limits", origin)));
        Wish { value, demand }
    };
    let malformed =
        |why| Refusal::Malformed { what: kind.what, value: (kind.show)(wish.value), why };
    if wish.value < kind.least {
        return Err(malformed(kind.why_least.to_owned()));
    }
    if wish.value > kind.most {
        return Err(malformed(format!("{} is the most there is", (kind.show)(kind.most))));
    }
    Ok(Some(wish))
}

impl Decided {
    /// Finds the means for one limit, and returns what its cgroup shall hold.
    fn enforce(
        &mut self,
        kind: &Kind<u64>,
        wish: Option<Wish<u64>>,
        controller: Controller,
        policy: &Policy,
        host: &Host,
    ) -> Result<Option<u64>, Refusal> {
        let protection = cgroup::protection(controller);
        let required = required_by(policy, protection).map(Demand::Policy);
        let around_job = host.cgroup.ambient.get(&controller).copied();
        let means = cgroup::means(controller, host);
        let Some(wish) = wish else {
            let Some(demand) = required else { return Ok(None) };
            let Some(around_job) = around_job else {
                return Err(no_value(kind, protection, demand));
            };
            self.enforced.insert(protection, around(kind, around_job));
            return Ok(None);
        };
        match means {
            Ok(how) => {
                self.enforced.insert(protection, how);
                Ok(Some(wish.value))
            }
            // A scheduler's limit around the whole job holds each of its tasks as well.
            Err(_) if around_job.is_some_and(|job| job <= wish.value) => {
                self.enforced.insert(protection, around(kind, around_job.unwrap_or(wish.value)));
                Ok(None)
            }
            Err(mut why) => match wish.demand.or(required) {
                Some(demand) => {
                    if let Some(job) = around_job {
                        let job = (kind.show)(job);
                        let _ = write!(why, "; the limit around this job is {job}");
                    }
                    Err(cannot(protection, demand, why, host))
                }
                None => {
                    self.dropped.insert(protection, why);
                    Ok(None)
                }
            },
        }
    }

    /// Whether a cgroup holds the list of devices, besides their absence from the file systems.
    fn enforce_devices(&mut self, policy: &Policy, host: &Host) -> Result<(), Refusal> {
        let devices = Protection::Devices;
        match cgroup::means(Controller::Devices, host) {
            Ok(how) => drop(self.enforced.insert(devices, how)),
            Err(why) => match required_by(policy, devices) {
                Some(rule) => return Err(cannot(devices, Demand::Policy(rule), why, host)),
                None => drop(self.dropped.insert(devices, why)),
            },
        }
        Ok(())
    }
}

fn around(kind: &Kind<u64>, value: u64) -> String {
    format!("around the job: {}", (kind.show)(value))
}

fn cannot(required: Protection, demand: Demand, why: String, host: &Host) -> Refusal {
    Refusal::Protection {
        required,
        demand,
        why,
        remedy: remedy(required, host),
        actor: Actor::Host,
    }
}

/// A limit is demanded that nobody has given a value.
fn no_value(kind: &Kind<u64>, required: Protection, demand: Demand) -> Refusal {
    Refusal::Protection {
        required,
        demand,
        why: "the policy sets no default for it, and the task asks for none".to_owned(),
        remedy: format!(
            "ask for one with `{}`, or ask your site to set `limits: {}: default:`",
            kind.flag, kind.key
        ),
        actor: Actor::User,
    }
}

/// Policies count whole seconds; a program may ask for less.
fn show_time(time: Duration) -> String {
    if time.subsec_nanos() == 0 && !time.is_zero() { Time::show(time) } else { format!("{time:?}") }
}

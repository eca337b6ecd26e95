//! What holds for all tasks of a daemon until its policy changes: policy, store, machine.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ric_policies::Policy;
use ric_runtime::{Actor, Caller, Host};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::open::Asker;
use crate::blame;
use crate::failure::Failure;
use crate::session::Session;

/// What holds until the policy changes; then there is another.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) policy: Policy,
    /// Who the daemon runs as.
    own: Caller,
    store: Option<PathBuf>,
    /// Made when it is first needed, which asks the machine what it can do.
    session: Mutex<Option<Arc<Session>>>,
    /// The machine for callers, by what `/proc/PID/cgroup` says of them.
    hosts: Mutex<HashMap<String, Arc<Host>>>,
}

/// Cgroups of callers that are remembered. A job has one for each of its steps.
const HOSTS_MAX: usize = 256;

/// `/proc/PID/cgroup` of a process of `uid` that is there; the pid of one that has ended may be
/// another's by now.
fn cgroups_of(pid: i32, uid: u32) -> Option<String> {
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let of_uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let is_there = poll(&mut ended, Some(&now)).is_ok_and(|count| count == 0);
    (is_there && (of_uid == uid || of_uid == 0)).then_some(cgroups)
}

impl Site {
    pub(super) fn new(policy: Policy, own: Caller, store: Option<PathBuf>) -> Site {
        Site { policy, own, store, session: Mutex::new(None), hosts: Mutex::new(HashMap::new()) }
    }

    /// The same place under another policy.
    pub(super) fn under(&self, policy: Policy) -> Site {
        Site::new(policy, self.own.clone(), self.store.clone())
    }

    /// Whether tasks of this user are taken: root's daemon takes everyone's.
    pub(super) fn serves(&self, uid: u32) -> bool {
        self.own.uid == 0 || self.own.uid == uid
    }

    /// Whether the daemon as a whole is this user's business.
    pub(super) fn is_own(&self, uid: u32) -> bool {
        uid == 0 || self.own.uid == uid
    }

    /// Whoever asks, with the machine as it is for them: their containers live where their own
    /// cgroup is, so that the limits of a scheduler's job hold for them and they end with it.
    pub(super) fn asker(
        &self,
        session: &Session,
        caller: Caller,
        pid: i32,
    ) -> Result<Asker, Failure> {
        let theirs = cgroups_of(pid, caller.uid).ok_or_else(|| {
            Failure::new(Actor::User, "cannot find the cgroup of the client")
                .cause(format!("process {pid}, which connected, is gone"))
                .hint("the process that connects has to live until its OPEN is answered")
        })?;
        self.asker_in(session, caller, theirs)
    }

    /// The same, for who asked from these cgroups.
    pub(super) fn asker_in(
        &self,
        session: &Session,
        caller: Caller,
        cgroups: String,
    ) -> Result<Asker, Failure> {
        let own = self.own.uid == caller.uid;
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(&cgroups) {
            return Ok(Asker { caller, own, host: Arc::clone(host), cgroups });
        }
        let mut host = session.host().clone();
        let ours = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if cgroups != ours {
            let trial = |kinds: &[ric_runtime::TrialKind]| ric_runtime::trial(&self.own, kinds);
            host.cgroup = ric_runtime::probe_cgroups(&cgroups, host.privileged.works, &trial)
                .map_err(|error| blame::probe(&error))?;
        }
        let host = Arc::new(host);
        if hosts.len() >= HOSTS_MAX {
            hosts.clear();
        }
        hosts.insert(cgroups.clone(), Arc::clone(&host));
        Ok(Asker { caller, own, host, cgroups })
    }

    /// What tasks are decided and started with.
    pub(super) fn session(&self) -> Result<Arc<Session>, Failure> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &*session {
            return Ok(Arc::clone(session));
        }
        let mut made = Session::open(self.policy.clone(), &self.own, self.store.as_deref())?;
        made.make_store()?;
        if self.own.uid == 0 {
            made.forget_credentials();
        }
        let made = Arc::new(made);
        *session = Some(Arc::clone(&made));
        Ok(made)
    }
}

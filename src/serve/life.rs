//! How a daemon begins, changes its policy, and ends.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ric_runtime::Status;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::answer::Ending;
use super::audit::Audit;
use super::daemon::Daemon;
use super::events::{Due, Events, Source, Timers};
use super::hands::Hands;
use super::journal::Journal;
use super::kept::{Keeping, Purpose};
use super::metrics::Counted;
use super::rules::Rules;
use super::site::Site;
use super::watch::Watch;
use crate::signals::{Queue, Wakeup};
use crate::{progress, session};

/// Where a daemon hears of signals, and what it reads its policy from.
#[derive(Debug)]
pub(super) struct Orders {
    wakeup: Wakeup,
    queue: Queue,
    policies: Vec<PathBuf>,
    /// `None`: the kernel grants no more of them, and only SIGHUP changes the policy.
    watch: Option<Watch>,
    /// Whether a timer will look at the files.
    looks: bool,
}

impl Orders {
    fn new((wakeup, queue): (Wakeup, Queue), policies: Vec<PathBuf>) -> Orders {
        let mut files = vec![PathBuf::from(ric_policies::SITE_FILE)];
        files.extend(policies.iter().cloned());
        let watch = Watch::new(files).inspect_err(|error| {
            let text = "policy files cannot be watched, SIGHUP has them read again";
            progress::tell(&format!("{text}: {error}"));
        });
        Orders { wakeup, queue, policies, watch: watch.ok(), looks: false }
    }
}

/// How long a policy file is left alone after it has changed, for who writes it in several steps.
const SETTLES: Duration = Duration::from_millis(200);

impl Daemon {
    pub(super) fn new(
        listener: UnixListener,
        site: Site,
        rules: Rules,
        audit: Audit,
        signals: (Wakeup, Queue),
        policies: Vec<PathBuf>,
        journal: Journal<Purpose>,
    ) -> io::Result<Daemon> {
        let (events, hands) = (Events::new()?, Hands::new()?);
        events.add(&listener, Source::Listener)?;
        events.add(hands.fd(), Source::Done)?;
        let orders = Orders::new(signals, policies);
        events.add(&orders.wakeup, Source::Signals)?;
        if let Some(watch) = &orders.watch {
            events.add(watch, Source::Files)?;
        }
        Ok(Daemon {
            events,
            timers: Timers::default(),
            hands,
            listener: Some(listener),
            orders,
            site: Arc::new(site),
            rules,
            audit,
            clients: HashMap::new(),
            pools: HashMap::new(),
            keys: HashMap::new(),
            members: HashMap::new(),
            leaving: HashMap::new(),
            tasks: HashMap::new(),
            users: HashMap::new(),
            keeping: Keeping::new(journal),
            containers: 0,
            memory_bytes: 0,
            hungry: VecDeque::new(),
            count: 0,
            clients_to_flush: HashSet::new(),
            members_to_flush: HashSet::new(),
            draining: None,
            printed: Vec::new(),
            counted: Counted::default(),
            logs: super::logs::Logs::default(),
        })
    }

    /// Does what signals say: SIGHUP reads the policy again, SIGTERM and SIGINT end in good order,
    /// a second one at once.
    pub(super) fn hear_signals(&mut self) {
        self.orders.wakeup.drain();
        while let Some(signal) = self.orders.queue.take() {
            match signal {
                SIGHUP => self.reload(),
                SIGTERM | SIGINT => self.drain(),
                _ => {}
            }
        }
    }

    /// Something happened where policy files are.
    pub(super) fn hear_files(&mut self) {
        let changed = self.orders.watch.as_ref().is_some_and(Watch::take);
        if changed && !std::mem::replace(&mut self.orders.looks, true) {
            self.timers.add(Instant::now() + SETTLES, Due::Files);
        }
    }

    /// Policy files have changed: they are read again, unless one of those that hold is gone. It
    /// may be about to come back, and its rules hold until SIGHUP says that it will not.
    pub(super) fn look_at_files(&mut self) {
        self.orders.looks = false;
        let gone = self
            .site
            .policy
            .files
            .iter()
            .find(|file| file.as_path() != Path::new(ric_policies::BUILT_IN) && !file.exists());
        if let Some(gone) = gone {
            let text = "is gone; what it said still holds, until SIGHUP has the policy read again";
            return progress::tell(&format!("{} {text}", gone.display()));
        }
        self.reload();
    }

    /// Reads the policy again. A broken one changes nothing.
    pub(super) fn reload(&mut self) {
        let policy = match session::load_policy(&self.orders.policies) {
            Ok(policy) => policy,
            Err(failure) => {
                progress::tell("the policy cannot be read again; the old one still holds");
                return progress::tell(&failure.to_string());
            }
        };
        if policy.digest == self.site.policy.digest {
            return;
        }
        self.rules = Rules::of(&policy);
        self.site = Arc::new(self.site.under(policy));
        progress::tell("a new policy holds");
        // What was decided under the old one is not used any more: containers that work end with
        // their task, and clients open anew.
        self.keys.clear();
        let pools: Vec<_> = self.pools.keys().copied().collect();
        for id in pools {
            let Some(pool) = self.pools.get_mut(&id) else { continue };
            pool.draining = true;
            let idle = std::mem::take(&mut pool.idle);
            idle.into_iter().for_each(|member| self.retire(member));
        }
        self.renew_handles();
    }

    /// Takes nothing new, and ends when what there is has ended.
    fn drain(&mut self) {
        if self.draining.is_some() {
            return self.end_tasks();
        }
        progress::tell("ending when all tasks have");
        let now = Instant::now();
        self.draining = Some(now);
        self.listener = None;
        self.timers.add(now + self.rules.drain, Due::Drain);
        let idle: Vec<_> =
            self.pools.values_mut().flat_map(|pool| std::mem::take(&mut pool.idle)).collect();
        idle.into_iter().for_each(|member| self.retire(member));
        self.release(|task| !task.may_have_run());
    }

    /// Ends the tasks that are left. Submitted ones that may be run again are, in the next life.
    pub(super) fn end_tasks(&mut self) {
        self.release(|task| !task.may_have_run() || task.kept().is_some_and(|kept| kept.rerun));
        let tasks: Vec<u64> = self.tasks.keys().copied().collect();
        for task in tasks {
            self.stop_task(task, &Ending::new(Status::Lost, "the daemon ended"));
        }
        let members: Vec<u64> = self.members.keys().copied().collect();
        members.into_iter().for_each(|member| self.retire(member));
    }

    /// Whether all that it should still do is done.
    pub(super) fn is_over(&self) -> bool {
        let Some(since) = self.draining else { return false };
        // A disk that is full is not waited for beyond the time that tasks have.
        let is_written = self.keeping.journal.is_idle() || since.elapsed() > self.rules.drain;
        self.tasks.is_empty() && self.writes_nothing() && is_written
    }

    fn writes_nothing(&self) -> bool {
        self.clients.values().all(|client| client.writer.is_empty())
    }

    /// Ends what is warm, and waits until nothing of it is left.
    pub(super) fn end(&mut self) {
        /// How long the last containers may take.
        const WAIT_MAX: Duration = Duration::from_secs(30);
        self.end_tasks();
        let since = Instant::now();
        let busy = |daemon: &Daemon| {
            daemon.hands.busy() + daemon.leaving.len() > 0 || !daemon.keeping.journal.is_settled()
        };
        while busy(self) && since.elapsed() < WAIT_MAX {
            self.timers.add(Instant::now() + WAIT_MAX, Due::Drain);
            if self.turn().is_err() {
                return;
            }
            let members: Vec<u64> = self.members.keys().copied().collect();
            members.into_iter().for_each(|member| self.retire(member));
        }
    }
}

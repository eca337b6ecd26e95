//! ASK: what there is, for `ps` and its like. Of others' objects nothing is said to a caller.

use std::path::Path;
use std::time::Instant;

use ric_runtime::{CgroupPlacement, Kind, Sandbox, Status};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Ending;
use super::client::ClientId;
use super::daemon::Daemon;
use super::member::{Member, State};
use ric_runtime::wire::Frame;

#[derive(Debug, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Question {
    /// What there is.
    Ps,
    /// Ends containers: these, all, or those of a scheduler's job.
    Stop {
        #[serde(default)]
        containers: Vec<String>,
        #[serde(default)]
        all: bool,
        #[serde(default)]
        job: Option<String>,
    },
}

impl Daemon {
    pub(super) fn ask(&mut self, id: ClientId, frame: &Frame) {
        let Some(client) = self.clients.get(&id) else { return };
        let uid = client.caller.uid;
        let answer = match serde_json::from_slice(&frame.metadata) {
            Ok(Question::Ps) => Ok(self.ps(uid)),
            Ok(Question::Stop { containers, all, job }) => {
                Ok(self.stop(uid, &containers, all, job.as_deref()))
            }
            Err(error) => {
                let text = format!("cannot read what an ASK asks: {error}");
                Err(Ending::new(Status::Error, text))
            }
        };
        let Some(client) = self.clients.get_mut(&id) else { return };
        match answer {
            Ok(answer) => {
                let payload = answer.to_string();
                client.writer.push(Kind::Answer, frame.header.task, b"", payload.as_bytes());
            }
            Err(ending) => ending.tell(&mut client.writer, frame.header.task, None),
        }
    }

    /// Ends those containers of `uid` that are meant, and what works in them: their names.
    fn stop(&mut self, uid: u32, named: &[String], all: bool, job: Option<&str>) -> Value {
        let meant = |member: &Member| {
            let pool = self.pools.get(&member.pool)?;
            let own = uid == 0 || pool.uid == uid;
            let id = &member.container.facts().id;
            let of_job = job.is_some_and(|job| is_of_job(&pool.opened.decision.plan.sandbox, job));
            (own && (all || of_job || named.contains(id))).then(|| (member.id, id.clone()))
        };
        let meant: Vec<(u64, String)> = self.members.values().filter_map(meant).collect();
        for (member, _) in &meant {
            let task = self.members.get(member).and_then(|member| member.task);
            match task {
                Some(task) => {
                    let text = "its container was ended by `stop`";
                    self.stop_task(task, &Ending::new(Status::Cancelled, text));
                }
                None => self.retire(*member),
            }
        }
        let ended: Vec<&String> = meant.iter().map(|(_, id)| id).collect();
        json!({"ended": ended})
    }

    /// Containers and queues: a user's own; for root everyone's.
    fn ps(&self, uid: u32) -> Value {
        let seen = |owner: u32| uid == 0 || owner == uid;
        let now = Instant::now();
        let containers: Vec<Value> = self
            .members
            .values()
            .filter_map(|member| {
                let pool = self.pools.get(&member.pool)?;
                seen(pool.uid).then(|| {
                    json!({
                        "id": member.container.facts().id,
                        "uid": pool.uid,
                        "pool": pool.id,
                        "image": pool.opened.decision.manifest.reference,
                        "engine": member.container.facts().engine,
                        "fresh": pool.fresh(),
                        "state": word(member.state),
                        "tasks": member.tasks_run,
                        "idle_s": (member.state == State::Idle)
                            .then(|| now.duration_since(member.idle_since).as_secs_f64()),
                    })
                })
            })
            .collect();
        let pools: Vec<Value> = self
            .pools
            .values()
            .filter(|pool| seen(pool.uid))
            .map(|pool| {
                json!({
                    "pool": pool.id,
                    "uid": pool.uid,
                    "image": pool.opened.decision.manifest.reference,
                    "containers": pool.members,
                    "starting": pool.starting,
                    "waiting": pool.queue.len(),
                    "draining": pool.draining,
                })
            })
            .collect();
        json!({"containers": containers, "pools": pools})
    }
}

/// Whether a sandbox lives below the cgroup of a scheduler's job: one of which a component is the
/// job's name, or ends in `_` and its number (Slurm's `job_17`, `slurmstepd.scope/job_17`).
fn is_of_job(sandbox: &Sandbox, job: &str) -> bool {
    let of_job = |path: &Path| {
        path.components().any(|component| {
            let name = component.as_os_str().to_string_lossy();
            name == job || name.strip_suffix(job).is_some_and(|rest| rest.ends_with('_'))
        })
    };
    match &sandbox.cgroup {
        None => false,
        Some(CgroupPlacement::V1(parents)) => parents.values().any(|parent| of_job(parent)),
        Some(CgroupPlacement::V2 { parent, .. }) => of_job(parent),
        Some(CgroupPlacement::Daemon { parent, .. }) => {
            parent.as_ref().is_some_and(|parent| of_job(Path::new(parent)))
        }
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Waking => "starting",
        State::Idle => "idle",
        State::Working => "working",
        State::Answered | State::Cleaning => "cleaning",
    }
}

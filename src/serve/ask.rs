//! ASK: what there is, for `ps` and its like. Of others' objects nothing is said to a caller.

use std::path::Path;

use ric_runtime::{CgroupPlacement, Kind, Sandbox, Status};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Ending;
use super::client::ClientId;
use super::daemon::Daemon;
use super::member::Member;
use ric_runtime::wire::Frame;

#[derive(Debug, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Question {
    /// What there is; with `load`, what containers take.
    Ps {
        #[serde(default)]
        load: bool,
    },
    /// Why tasks got the containers that they got.
    Explain,
    /// What a container printed, from byte `from` on.
    Logs {
        container: String,
        #[serde(default)]
        from: u64,
    },
    /// Numbers of the daemon as a whole, which are not for everyone.
    Metrics,
    /// Ends containers: these, all, or those of a scheduler's job.
    Stop {
        #[serde(default)]
        containers: Vec<String>,
        #[serde(default)]
        all: bool,
        #[serde(default)]
        job: Option<String>,
    },
    /// How far submitted tasks are: these, or all.
    Status {
        #[serde(default)]
        ids: Vec<String>,
    },
    /// Ends a submitted task.
    Cancel { id: String },
    /// Lets go of its answer.
    Forget { id: String },
}

impl Daemon {
    pub(super) fn ask(&mut self, id: ClientId, frame: &Frame) {
        let Some(client) = self.clients.get(&id) else { return };
        let uid = client.caller.uid;
        let answer = match serde_json::from_slice(&frame.metadata) {
            Ok(Question::Ps { load }) => Ok(self.ps(uid, load)),
            Ok(Question::Explain) => Ok(self.explain(uid)),
            Ok(Question::Logs { container, from }) => self.logs(uid, &container, from),
            Ok(Question::Metrics) if self.site.is_own(uid) => Ok(self.metrics().into()),
            Ok(Question::Metrics) => {
                let text = "metrics tell of all users of a daemon";
                Err(Ending::new(Status::Refused, text).hint("they are for root and its owner"))
            }
            Ok(Question::Stop { containers, all, job }) => {
                Ok(self.stop(uid, &containers, all, job.as_deref()))
            }
            Ok(Question::Status { ids }) => Ok(self.status(uid, &ids)),
            Ok(Question::Cancel { id: task }) => {
                return self.cancel_submitted(id, frame.header.task, &task);
            }
            Ok(Question::Forget { id: task }) => {
                return self.forget_submitted(id, frame.header.task, &task);
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

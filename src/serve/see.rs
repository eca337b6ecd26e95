//! What a user may see of a daemon: containers, pools, why tasks got the containers that they got,
//! what those printed. Of others' objects nothing is said; root sees everyone's.

use std::time::Instant;

use ric_runtime::Status;
use serde_json::{Map, Value, json};

use super::answer::Ending;
use super::daemon::Daemon;
use super::member::State;
use super::pool::{Lease, Pool};

impl Daemon {
    /// Containers and queues; with `load` also what the containers take, which is read for it.
    pub(super) fn ps(&self, uid: u32, load: bool) -> Value {
        let now = Instant::now();
        let containers: Vec<Value> = self
            .members
            .values()
            .filter_map(|member| {
                let pool = self.pools.get(&member.pool).filter(|pool| is_seen(pool, uid))?;
                let mut container = json!({
                    "id": member.container.facts().id,
                    "uid": pool.uid,
                    "pool": pool.id,
                    "image": pool.opened.decision.manifest.reference,
                    "engine": member.container.facts().engine,
                    "fresh": pool.fresh(),
                    "state": member.state.word(),
                    "tasks": member.tasks_run,
                    "idle_s": (member.state == State::Idle)
                        .then(|| now.duration_since(member.idle_since).as_secs_f64()),
                });
                if load {
                    let load = member.container.load();
                    container["memory_bytes"] = json!(load.memory_bytes);
                    container["cpu_us"] = json!(load.cpu_us);
                    container["processes"] = json!(load.processes);
                }
                Some(container)
            })
            .collect();
        let pools: Vec<Value> = self.pools_of(uid).map(pool_json).collect();
        let kept = self.keeping.journal.tasks().iter();
        let kept = kept.filter(|(_, kept)| kept.end().is_none());
        let kept = kept.filter(|(_, kept)| uid == 0 || kept.about.uid == uid);
        let submitted: Vec<Value> = kept.map(|(id, kept)| self.status_of(id, kept)).collect();
        json!({"containers": containers, "pools": pools, "submitted": submitted})
    }

    fn pools_of(&self, uid: u32) -> impl Iterator<Item = &Pool> {
        let mut pools: Vec<&Pool> = self.pools.values().filter(|pool| is_seen(pool, uid)).collect();
        pools.sort_unstable_by_key(|pool| pool.id);
        pools.into_iter()
    }

    /// For each pool what its tasks found, and what keeps it apart from the one most like it.
    pub(super) fn explain(&self, uid: u32) -> Value {
        let pools: Vec<Value> = self
            .pools_of(uid)
            .map(|pool| {
                let mut told = pool_json(pool);
                let found: Map<String, Value> = pool
                    .leases
                    .iter()
                    .map(|(lease, count)| (lease.text().to_owned(), json!(count)))
                    .collect();
                told["fresh"] = json!(pool.fresh());
                told["found"] = Value::Object(found);
                told["unlike"] = self.nearest(pool).unwrap_or(Value::Null);
                told
            })
            .collect();
        json!({"pools": pools})
    }

    /// The other pool of the same user that differs in the least, and in what.
    fn nearest(&self, pool: &Pool) -> Option<Value> {
        let own = flat(&json!(*pool.key));
        let others =
            self.pools_of(pool.uid).filter(|other| other.id != pool.id && other.uid == pool.uid);
        let unlike = others.map(|other| (other.id, differences(&own, &flat(&json!(*other.key)))));
        let (id, differences) = unlike.min_by_key(|(_, differences)| differences.len())?;
        Some(json!({"pool": id, "in": differences}))
    }

    /// What a container printed from byte `from` on.
    pub(super) fn logs(&self, uid: u32, container: &str, from: u64) -> Result<Value, Ending> {
        if let Some(log) = self.logs.find(container, uid) {
            return Ok(json!({
                "container": container,
                "from": from.clamp(log.gone_bytes, log.end()),
                "to": log.end(),
                "text": String::from_utf8_lossy(&log.since(from)),
                "ended": log.ended,
            }));
        }
        let is_there = self.members.values().any(|member| {
            let pool = self.pools.get(&member.pool);
            member.container.facts().id == container && pool.is_some_and(|pool| is_seen(pool, uid))
        });
        match is_there {
            true => Ok(json!({
                "container": container, "from": 0, "to": 0, "text": "", "ended": false,
            })),
            false => Err(Ending::new(
                Status::Error,
                format!("there is no container {container:?}"),
            )
            .hint(
                "`run-in-container ps` shows those that there are; of those that have ended, \
                       the last ones that printed something are remembered",
            )),
        }
    }
}

fn is_seen(pool: &Pool, uid: u32) -> bool {
    uid == 0 || pool.uid == uid
}

fn pool_json(pool: &Pool) -> Value {
    json!({
        "pool": pool.id,
        "uid": pool.uid,
        "image": pool.opened.decision.manifest.reference,
        "containers": pool.members,
        "starting": pool.starting,
        "waiting": pool.queue.len(),
        "draining": pool.draining,
        "tasks": pool.leases.values().sum::<u64>(),
    })
}

impl Lease {
    /// In words, after "tasks".
    fn text(self) -> &'static str {
        match self {
            Lease::Warm => "found a container that earlier tasks had left warm",
            Lease::Stock => "found a container that had been started ahead",
            Lease::Starting => "waited for a container that was being started",
            Lease::Busy => "waited because all containers of the pool were busy",
            Lease::NoRoom => "waited because policy has no room for one more container (`warm:`)",
        }
    }
}

/// The leaves of a value with the way to each, as `limits.memory_bytes`.
fn flat(value: &Value) -> Vec<(String, Value)> {
    fn walk(way: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (name, member) in members {
                    let way = if way.is_empty() { name.clone() } else { format!("{way}.{name}") };
                    walk(&way, member, leaves);
                }
            }
            Value::Object(_)
            | Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => leaves.push((way.to_owned(), value.clone())),
        }
    }
    let mut leaves = Vec::new();
    walk("", value, &mut leaves);
    leaves
}

/// The ways to leaves that are not the same in both.
fn differences(one: &[(String, Value)], other: &[(String, Value)]) -> Vec<String> {
    let lacks = |leaf: &&(String, Value), leaves: &[(String, Value)]| !leaves.contains(leaf);
    let mut ways: Vec<String> = one
        .iter()
        .filter(|leaf| lacks(leaf, other))
        .chain(other.iter().filter(|leaf| lacks(leaf, one)))
        .map(|(way, _)| way.clone())
        .collect();
    ways.sort_unstable();
    ways.dedup();
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_by_the_way_to_them() {
        let one = flat(&json!({"limits": {"memory": 1, "pids": 2}, "image": "a", "groups": []}));
        let other = flat(&json!({"limits": {"memory": 3, "pids": 2}, "image": "a", "user": 1}));
        assert_eq!(differences(&one, &other), ["groups", "limits.memory", "user"]);
        assert!(differences(&one, &one).is_empty());
    }
}

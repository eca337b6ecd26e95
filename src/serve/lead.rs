//! From an OPEN to the pool that its calls go to, and again when the policy changes.

use std::sync::Arc;

use ric_runtime::{Kind, Sha256Digest, TaskId};

use super::answer::Ending;
use super::client::{ClientId, Handle, HandleId, Leads, Modules};
use super::daemon::{Daemon, Done};
use super::open::Opened;
use super::pool::{self, Pool, PoolId, PoolKey};
use crate::failure::Failure;

impl Daemon {
    /// What an OPEN asked for was decided: its client is told, and its pool gets ready.
    pub(super) fn opened(
        &mut self,
        id: ClientId,
        request: TaskId,
        modules: Modules,
        result: Result<Opened, Failure>,
    ) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        self.clients_to_flush.insert(id);
        let opened = match result {
            Ok(opened) => Arc::new(opened),
            Err(failure) => {
                self.audit.refused(&client.caller, &failure);
                return Ending::of(&failure).tell(&mut client.writer, request, None);
            }
        };
        client.handles_opened += 1;
        let number = client.handles_opened;
        let metadata = pool::opened_json(number, &opened).to_string();
        client.writer.push(Kind::Opened, request, metadata.as_bytes(), &[]);
        self.lead(id, number, opened, modules);
    }

    /// What a client had opened was decided again: its calls go on, or are refused.
    pub(super) fn renewed(
        &mut self,
        id: ClientId,
        number: HandleId,
        result: Result<Opened, Failure>,
    ) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some(handle) = client.handles.remove(&number) else { return };
        let Handle { modules, leads, opened: old, .. } = handle;
        let Leads::Nowhere { waiting } = leads else { return };
        match result {
            Ok(opened) => self.lead(id, number, Arc::new(opened), modules),
            Err(failure) => {
                self.audit.refused(&client.caller, &failure);
                let leads = Leads::Refused(Ending::of(&failure));
                client.handles.insert(number, Handle { opened: old, modules, leads });
            }
        }
        waiting.into_iter().for_each(|frame| self.call(id, frame));
        self.clients_to_flush.insert(id);
    }

    /// Leads the calls of a handle to the pool of its decision, and has that get ready for them.
    fn lead(&mut self, id: ClientId, number: HandleId, opened: Arc<Opened>, modules: Modules) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        self.audit.opened(&client.caller, &opened);
        let uid = client.caller.uid;
        let pool_id = self.find_pool(uid, &opened, modules.as_ref());
        let handle = Handle { opened, modules, leads: Leads::To(pool_id) };
        if let Some(client) = self.clients.get_mut(&id) {
            client.handles.insert(number, handle);
        }
        if let Some(pool) = self.pools.get_mut(&pool_id) {
            pool.handles += 1;
        }
        self.grow(pool_id);
    }

    /// Decides again what clients had opened, under the policy that holds now.
    pub(super) fn renew_handles(&mut self) {
        let mut left = Vec::new();
        for client in self.clients.values_mut() {
            for (number, handle) in &mut client.handles {
                let leads =
                    std::mem::replace(&mut handle.leads, Leads::Nowhere { waiting: vec![] });
                match leads {
                    Leads::To(pool) => left.push(pool),
                    // It is being decided under a policy that does not hold any more, and will be
                    // once more when that has come back.
                    Leads::Nowhere { waiting } => handle.leads = Leads::Nowhere { waiting },
                    Leads::Refused(_) => {}
                }
                let (site, opened) = (Arc::clone(&self.site), Arc::clone(&handle.opened));
                let (client, handle, uid) = (client.id, *number, client.caller.uid);
                let job = move || {
                    let result =
                        site.session().and_then(|session| super::open::again(&session, &opened));
                    Done::Renewed { client, handle, result }
                };
                self.hands.begin(uid, Box::new(job));
            }
        }
        left.into_iter().for_each(|pool| self.let_go(pool));
    }

    /// The pool of a decision, which is made if there is none.
    pub(super) fn find_pool(
        &mut self,
        uid: u32,
        opened: &Arc<Opened>,
        modules: Option<&(Arc<Vec<u8>>, Sha256Digest)>,
    ) -> PoolId {
        let key = PoolKey::new(opened, modules.map(|(_, digest)| *digest));
        if let Some(id) = self.keys.get(&key) {
            return *id;
        }
        let id = self.next_id();
        let key = Arc::new(key);
        self.keys.insert(Arc::clone(&key), id);
        let pool = Pool {
            id,
            key,
            uid,
            opened: Arc::clone(opened),
            modules: modules.map(|(modules, _)| Arc::clone(modules)),
            queue: std::collections::VecDeque::new(),
            idle: Vec::new(),
            members: 0,
            starting: 0,
            busy: 0,
            handles: 0,
            draining: false,
            leases: std::collections::BTreeMap::new(),
        };
        self.pools.insert(id, pool);
        id
    }

    /// A handle that led to `pool` is gone.
    pub(super) fn let_go(&mut self, pool: PoolId) {
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.handles -= 1;
        }
        self.forget(pool);
    }

    pub(super) fn forget(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get(&id) else { return };
        if pool.handles == 0 && pool.members == 0 && pool.queue.is_empty() {
            self.keys.remove(&pool.key);
            self.pools.remove(&id);
        }
    }
}

//! The next life: what becomes of submitted tasks that the journal has and no answer of.
//!
//! One that may have run ends as `lost`. Those that have not, and those that may be run again, are
//! opened anew, under the policy that holds now and in the cgroup that they came from, and queued.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use ric_runtime::wire::{Frame, Payload};
use ric_runtime::{Sha256Digest, Status};

use super::answer::Ending;
use super::call::CallBounds;
use super::client::{CallAsk, Function, Modules};
use super::daemon::{Daemon, Done};
use super::journal::{KeptId, Phase, Reading};
use super::kept::letters;
use super::open::Opened;
use super::reopen::Reopening;
use super::site::Site;
use super::task::{Announced, Kept, Origin};
use crate::failure::Failure;

/// Tasks that need the same, of one user.
#[derive(Debug)]
struct Group {
    uid: u32,
    tasks: Vec<(KeptId, Reading)>,
}

/// What was opened again, and the tasks that need it.
#[derive(Debug)]
pub(super) struct Resumed {
    group: Group,
    /// Under which it was opened.
    site: Arc<Site>,
    result: Result<(Opened, Modules), Failure>,
    letters: Vec<Option<(Function, Frame)>>,
}

impl Daemon {
    /// Takes up what an earlier life has left.
    pub(super) fn resume(&mut self) {
        let tasks = self.keeping.journal.tasks();
        let lost = tasks.iter().filter(|(_, kept)| kept.phase == Phase::Begun && !kept.about.rerun);
        let lost: Vec<(KeptId, u32)> = lost.map(|(id, kept)| (*id, kept.about.uid)).collect();
        for (id, uid) in lost {
            let text =
                "the daemon ended when the task had begun, and it is not known how far it came";
            let ending = Ending::new(Status::Lost, text)
                .hint("`submit --rerun` has a task run again where that does no harm");
            self.audit.kept("ended", uid, &id, || serde_json::json!({"status": Status::Lost}));
            self.end_kept(id, uid, &ending);
        }
        for (uid, tasks) in self.keeping.journal.unfinished() {
            self.begin_resume(Group { uid, tasks });
        }
        self.look_for_expired();
        self.commit();
    }

    fn begin_resume(&mut self, group: Group) {
        let (site, uid) = (Arc::clone(&self.site), group.uid);
        let job = move || {
            let result = open(&site, &group.tasks);
            let letters = match &result {
                Ok(_) => group.tasks.iter().map(|(_, reading)| letters(reading.read().ok()?)),
                Err(_) => {
                    return Done::Resumed(Box::new(Resumed {
                        group,
                        site,
                        result,
                        letters: vec![],
                    }));
                }
            };
            let letters = letters.collect();
            Done::Resumed(Box::new(Resumed { group, site, result, letters }))
        };
        self.hands.begin(uid, Box::new(job));
    }

    pub(super) fn resumed(&mut self, resumed: Resumed) {
        let Resumed { group, site, result, letters } = resumed;
        if self.draining.is_some() {
            return;
        }
        // Another policy holds by now.
        if !Arc::ptr_eq(&site, &self.site) {
            return self.begin_resume(group);
        }
        let uid = group.uid;
        let (opened, modules) = match result {
            Ok((opened, modules)) => (Arc::new(opened), modules),
            Err(failure) => {
                for (id, _) in group.tasks {
                    self.end_unopened(id, uid, &Ending::of(&failure));
                }
                return;
            }
        };
        let pool = self.find_pool(uid, &opened, modules.as_ref());
        let mut functions = HashMap::<Sha256Digest, Rc<Function>>::new();
        for ((id, _), letters) in group.tasks.into_iter().zip(letters) {
            let Some((function, call)) = letters else {
                let text = "cannot read the task again: the journal is damaged";
                self.end_unopened(id, uid, &Ending::new(Status::Error, text));
                continue;
            };
            let digest = function.header.payload_sha256;
            let function = Rc::clone(functions.entry(digest).or_insert_with(|| Rc::new(function)));
            self.enter_resumed(id, uid, pool, &opened, function, call);
        }
        self.forget(pool);
    }

    fn enter_resumed(
        &mut self,
        id: KeptId,
        uid: u32,
        pool: super::pool::PoolId,
        opened: &Opened,
        function: Rc<Function>,
        call: Frame,
    ) {
        let tasks = self.keeping.journal.tasks();
        // It may have been cancelled meanwhile.
        let Some(kept) = tasks.get(&id).filter(|kept| kept.end().is_none()) else { return };
        let rerun = kept.about.rerun;
        let unreadable = |_| Ending::new(Status::Error, "cannot read what its CALL asked for");
        let bounds = serde_json::from_slice::<CallAsk<'_>>(&call.metadata)
            .map_err(unreadable)
            .and_then(|ask| CallBounds::new(&ask, opened));
        let bounds = match bounds {
            Ok(bounds) => bounds,
            Err(ending) => return self.end_unopened(id, uid, &ending),
        };
        let (announced, printed) = (Announced::No, [Vec::new(), Vec::new()]);
        let origin = Origin::Kept(Box::new(Kept { id, rerun, announced, printed }));
        let task = self.make_task(origin, uid, pool, call, function, bounds);
        self.enter_kept(id, task);
    }

    fn end_unopened(&mut self, id: KeptId, uid: u32, ending: &Ending) {
        let status = ending.status;
        self.audit.kept("ended", uid, &id, || serde_json::json!({"status": status}));
        self.end_kept(id, uid, ending);
    }
}

/// Opens what all of these tasks need, as the first of them says it.
fn open(site: &Arc<Site>, tasks: &[(KeptId, Reading)]) -> Result<(Opened, Modules), Failure> {
    let attempt = || Failure::new(ric_runtime::Actor::Host, "cannot read the journal again");
    let (_, first) = tasks.first().ok_or_else(attempt)?;
    let mut parts = first.read().map_err(|error| attempt().because(&error))?.into_iter();
    let mut next = || match parts.next() {
        Some((part, Payload::Bytes(bytes))) => Ok((part, bytes)),
        Some((part, Payload::Memory(memory))) => {
            let mut bytes = Vec::new();
            let mut take = |piece: &[u8]| {
                bytes.extend_from_slice(piece);
                Ok(())
            };
            match ric_runtime::copy_sealed(memory, part.bytes, 1 << 20, &mut take) {
                Ok(Ok(())) => Ok((part, bytes)),
                Ok(Err(why)) => Err(attempt().cause(why)),
                Err(error) => Err(attempt().because(&error)),
            }
        }
        None => Err(attempt().cause("a part is missing")),
    };
    let ((_, text), (part, modules)) = (next()?, next()?);
    let session = site.session()?;
    let opened = Reopening::open(site, &session, &text)?;
    Ok((opened, (!modules.is_empty()).then(|| (Arc::new(modules), part.sha256))))
}

//! The journal of submitted tasks: what it says is on disk before anybody is told.
//!
//! One file of records ([`log`]), large payloads beside it ([`folder`]), and what the records add
//! up to in memory ([`state`]). Whoever owns a journal pushes entries and hands commits to another
//! thread, one at a time; all entries that have come meanwhile share the next one's sync. What an
//! entry was for is done when its commit has come back. `docs/decisions/journal.md` tells why.

mod folder;
mod log;
mod record;
mod state;

mod commit;
#[cfg(test)]
mod properties;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ric_runtime::Sha256Digest;
use ric_runtime::wire::Payload;

pub(super) use commit::{Commit, Committed};
pub(super) use folder::Content;
use folder::{Folder, FolderError, open_file};
use log::{Log, LogError, Span};
use record::Written;
pub(super) use record::{About, End, KeptId, Part, Record};
use state::Tasks;
pub(super) use state::{Kept, Phase};

/// How long a journal rests after it could not be written.
const REST: Duration = Duration::from_secs(1);
/// From this size on a journal is written anew if less than half of it is needed.
const COMPACT_BYTES: u64 = 4 << 20;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("cannot use its directory")]
    Folder(#[source] FolderError),
    #[error("cannot use the journal in it")]
    Log(#[source] LogError),
}

/// Why an entry was not made.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// The disk would not take it.
    Disk(String),
    /// A payload is not what its frame says.
    Payload(String),
}

/// Something to be written.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) parts: Vec<(Part, Content)>,
}

/// What one user has in a journal, entries that wait included.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) tasks: usize,
    pub(super) bytes: u64,
}

/// A journal; `T` is what an entry is for.
#[derive(Debug)]
pub(super) struct Journal<T> {
    folder: Arc<Folder>,
    tasks: Tasks,
    /// With whoever commits, if it is not here.
    log: Option<Log>,
    /// What [`Reading`]s read.
    file: Arc<File>,
    waiting: Vec<(Entry, T)>,
    under_way: Vec<T>,
    /// How many tasks need each payload that is a file.
    needed: HashMap<Sha256Digest, usize>,
    /// Those that none may need any more.
    unused: Vec<Sha256Digest>,
    usage: HashMap<u32, Usage>,
    /// Bytes of records that are needed.
    needed_bytes: u64,
    /// How far each task is, what waits to be written included, and whose it is.
    stages: HashMap<KeptId, (Stage, u32)>,
    rests_until: Option<Instant>,
}

/// How far a task is, what waits to be written included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Begun,
    Ended,
}

impl<T> Journal<T> {
    /// Opens the journal in the directory at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// [`JournalError`]; a torn tail is none, and is cut off.
    pub(super) fn open(path: &Path) -> Result<Journal<T>, JournalError> {
        let unreadable = |error| JournalError::Log(LogError::Read(error));
        let folder = Folder::take(path).map_err(JournalError::Folder)?;
        let file = open_file(&folder.journal()).map_err(unreadable)?;
        let mut tasks = Tasks::new();
        let bytes = log::read_all(&file, |span, body| {
            state::apply(&mut tasks, span, &record::decode(body)?)
        });
        let log = Log::new(file, bytes.map_err(JournalError::Log)?).map_err(unreadable)?;
        let file = Arc::clone(&log.file);
        let mut journal = Journal {
            folder: Arc::new(folder),
            tasks: Tasks::new(),
            log: Some(log),
            file,
            waiting: Vec::new(),
            under_way: Vec::new(),
            needed: HashMap::new(),
            unused: Vec::new(),
            usage: HashMap::new(),
            needed_bytes: 0,
            stages: HashMap::new(),
            rests_until: None,
        };
        for (id, kept) in &mut tasks {
            journal.need(kept.parts());
            journal.use_more(kept.about.uid, 1, kept.bytes());
            journal.needed_bytes += kept.spans().map(|span| span.bytes).sum::<u64>();
            let stage = match kept.phase {
                Phase::Waiting => Stage::Waiting,
                Phase::Begun => Stage::Begun,
                Phase::Ended(_) => Stage::Ended,
            };
            journal.stages.insert(*id, (stage, kept.about.uid));
        }
        journal.tasks = tasks;
        let names: std::collections::HashSet<String> =
            journal.needed.keys().map(|digest| ric_runtime::hex(digest)).collect();
        journal.folder.remove_others(|name| names.contains(name)).map_err(unreadable)?;
        Ok(journal)
    }

    /// The tasks that are on disk.
    pub(super) fn tasks(&self) -> &HashMap<KeptId, Kept> {
        &self.tasks
    }

    pub(super) fn usage(&self, uid: u32) -> Usage {
        self.usage.get(&uid).copied().unwrap_or_default()
    }

    /// Whether nothing waits to be written or is being written.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.log.is_some()
    }

    /// The same, or nothing can be written for now.
    pub(super) fn is_settled(&self) -> bool {
        self.is_idle() || self.rests_until().is_some()
    }

    /// When it should be asked for a commit again, after it could not be written.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rests_until.filter(|_| !self.waiting.is_empty())
    }

    /// Has `entry` written with the next commit. What it is for is handed back then. `false`: it
    /// cannot follow what was said of the task before, as a second end cannot.
    pub(super) fn push(&mut self, entry: Entry, purpose: T) -> bool {
        let id = entry.record.id();
        let before = self.stages.get(&id).copied();
        let (stage, uid) = match (&entry.record, before) {
            (Record::Submitted { about, .. }, None) => (Some(Stage::Waiting), about.uid),
            (Record::Begun { .. }, Some((Stage::Waiting, uid))) => (Some(Stage::Begun), uid),
            (Record::Ended { .. }, Some((Stage::Waiting | Stage::Begun, uid))) => {
                (Some(Stage::Ended), uid)
            }
            (Record::Forgotten { .. }, Some((Stage::Ended, uid))) => (None, uid),
            _ => return false,
        };
        match stage {
            Some(stage) => self.stages.insert(id, (stage, uid)),
            None => self.stages.remove(&id),
        };
        let parts: Vec<Part> = entry.parts.iter().map(|(part, _)| *part).collect();
        self.need(&parts);
        self.use_more(uid, usize::from(before.is_none()), bytes_of(&entry));
        self.waiting.push((entry, purpose));
        true
    }

    /// The next commit, to be run on another thread. `None`: nothing waits, or one is under way.
    pub(super) fn next_commit(&mut self, now: Instant) -> Option<Commit> {
        let nothing = self.waiting.is_empty() && self.unused.is_empty();
        if nothing || self.rests_until.is_some_and(|until| until > now) {
            return None;
        }
        let log = self.log.take()?;
        self.rests_until = None;
        let mostly_dead = log.bytes > COMPACT_BYTES && self.needed_bytes < log.bytes / 2;
        let compact = mostly_dead && !log.broken;
        let mut keep = Vec::new();
        if compact {
            keep = self.tasks.values_mut().flat_map(Kept::spans).map(|span| *span).collect();
        }
        let unused = std::mem::take(&mut self.unused);
        let unused =
            unused.into_iter().filter(|digest| !self.needed.contains_key(digest)).collect();
        let (entries, purposes) = std::mem::take(&mut self.waiting).into_iter().unzip();
        self.under_way = purposes;
        Some(Commit { folder: Arc::clone(&self.folder), log, unused, compact, keep, entries })
    }

    /// Takes a commit back: what its entries were for, and whether they are on disk.
    ///
    /// Only what was not acknowledged fails if the disk is full. All else is tried again.
    pub(super) fn committed(&mut self, done: Committed) -> Vec<(T, Result<(), Fault>)> {
        let Committed { log, moved, entries, result } = done;
        if let Some(moved) = moved {
            self.tasks
                .values_mut()
                .flat_map(Kept::spans)
                .for_each(|span| span.at = moved[&span.at]);
        }
        self.file = Arc::clone(&log.file);
        self.log = Some(log);
        let purposes = std::mem::take(&mut self.under_way);
        let all = entries.into_iter().zip(purposes);
        match result {
            Ok(results) => {
                let all = all.zip(results).map(|((entry, purpose), result)| match result {
                    Ok((span, written)) => {
                        self.take_in(span, &written);
                        (purpose, Ok(()))
                    }
                    Err(why) => {
                        self.take_back(&entry);
                        (purpose, Err(Fault::Payload(why)))
                    }
                });
                all.collect()
            }
            Err(error) => {
                self.rests_until = Some(Instant::now() + REST);
                let is_new =
                    |(entry, _): &(Entry, T)| matches!(entry.record, Record::Submitted { .. });
                let (new, others): (Vec<_>, Vec<_>) = all.partition(is_new);
                self.waiting.splice(..0, others);
                let fault = Fault::Disk(error.to_string());
                new.iter().for_each(|(entry, _)| self.take_back(entry));
                new.into_iter().map(|(_, purpose)| (purpose, Err(fault.clone()))).collect()
            }
        }
    }

    /// What was written of a task: its call, or if it has ended its answer.
    pub(super) fn reading(&self, id: &KeptId) -> Option<Reading> {
        let kept = self.tasks.get(id)?;
        let place = kept.ended.as_ref().unwrap_or(&kept.submitted).clone();
        Some(Reading { folder: Arc::clone(&self.folder), file: Arc::clone(&self.file), place })
    }

    /// Tasks that have to run, oldest first, those of a user together that need the same: what was
    /// opened, and MODULES.
    pub(super) fn unfinished(&self) -> Vec<(u32, Vec<(KeptId, Reading)>)> {
        let runs = |kept: &&Kept| kept.phase == Phase::Waiting;
        let tasks = self.tasks.iter().filter(|(_, kept)| runs(kept));
        let mut groups = HashMap::<_, Vec<_>>::new();
        for (id, kept) in tasks {
            let needs: Vec<Sha256Digest> =
                kept.submitted.parts.iter().take(2).map(|part| part.sha256).collect();
            let group = groups.entry((kept.about.uid, needs)).or_default();
            group.push((kept.submitted.span.at, *id));
        }
        let mut groups: Vec<_> = groups.into_iter().map(|((uid, _), tasks)| (uid, tasks)).collect();
        for (_, tasks) in &mut groups {
            tasks.sort_unstable();
        }
        groups.sort_by_key(|(_, tasks)| tasks.first().copied());
        let read = |(_, id)| self.reading(&id).map(|reading| (id, reading));
        let readings = |tasks: Vec<_>| tasks.into_iter().filter_map(read).collect();
        groups.into_iter().map(|(uid, tasks)| (uid, readings(tasks))).collect()
    }

    fn take_in(&mut self, span: Span, written: &Written) {
        let id = written.record.id();
        let before = self.tasks.get(&id).cloned();
        state::apply(&mut self.tasks, span, written).expect("`push` takes nothing out of order");
        self.needed_bytes += span.bytes;
        // Its call is needed no more when there is an answer, and neither when it is forgotten.
        if let Some(mut before) = before
            && !matches!(written.record, Record::Begun { .. })
        {
            self.need_no_more(before.parts());
            let tasks = usize::from(!self.tasks.contains_key(&id));
            self.use_less(before.about.uid, tasks, before.bytes());
            if tasks > 0 {
                let spans = before.spans().map(|span| span.bytes).sum::<u64>();
                self.needed_bytes -= spans + span.bytes;
            }
        }
    }

    /// An entry that was pushed is not made.
    fn take_back(&mut self, entry: &Entry) {
        let parts: Vec<Part> = entry.parts.iter().map(|(part, _)| *part).collect();
        self.need_no_more(&parts);
        let id = entry.record.id();
        let Some((_, uid)) = self.stages.get(&id).copied() else { return };
        let is_new = matches!(entry.record, Record::Submitted { .. });
        self.use_less(uid, usize::from(is_new), bytes_of(entry));
        match is_new {
            true => self.stages.remove(&id),
            // The answer of a task could not be taken: it may have another.
            false => self.stages.insert(id, (Stage::Begun, uid)),
        };
    }

    fn need(&mut self, parts: &[Part]) {
        for part in parts.iter().filter(|part| part.is_file()) {
            *self.needed.entry(part.sha256).or_default() += 1;
        }
    }

    fn need_no_more(&mut self, parts: &[Part]) {
        for part in parts.iter().filter(|part| part.is_file()) {
            if let Some(count) = self.needed.get_mut(&part.sha256) {
                *count -= 1;
                if *count == 0 {
                    self.needed.remove(&part.sha256);
                    self.unused.push(part.sha256);
                }
            }
        }
    }

    fn use_more(&mut self, uid: u32, tasks: usize, bytes: u64) {
        let usage = self.usage.entry(uid).or_default();
        usage.tasks += tasks;
        usage.bytes += bytes;
    }

    fn use_less(&mut self, uid: u32, tasks: usize, bytes: u64) {
        let Some(usage) = self.usage.get_mut(&uid) else { return };
        usage.tasks -= tasks;
        usage.bytes -= bytes;
        if *usage == Usage::default() {
            self.usage.remove(&uid);
        }
    }
}

fn bytes_of(entry: &Entry) -> u64 {
    entry.parts.iter().map(|(part, _)| part.bytes).sum()
}

/// Reads what was written of one task. To be done on another thread.
#[derive(Debug)]
pub(super) struct Reading {
    folder: Arc<Folder>,
    file: Arc<File>,
    place: state::Place,
}

impl Reading {
    /// Each part, verified.
    pub(super) fn read(&self) -> io::Result<Vec<(Part, Payload)>> {
        let body = log::read_at(&self.file, self.place.span)?;
        let mut inline = body.get(self.place.inline_at..).unwrap_or_default();
        let mut read = |part: &Part| {
            if part.is_file() {
                return self.folder.read(part);
            }
            let bytes = usize::try_from(part.bytes).unwrap_or(usize::MAX);
            let missing = || io::Error::new(io::ErrorKind::InvalidData, "a record is cut off");
            let (own, rest) = inline.split_at_checked(bytes).ok_or_else(missing)?;
            inline = rest;
            Ok(Payload::Bytes(own.to_vec()))
        };
        self.place.parts.iter().map(|part| Ok((*part, read(part)?))).collect()
    }
}

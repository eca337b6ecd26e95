//! One commit: what has come together is written and synced at once, away from the daemon's thread.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use ric_runtime::Sha256Digest;

use super::Entry;
use super::folder::{Folder, open_file};
use super::log::{self, Log, Span, frame};
use super::record::{self, Part, Record, Written};

/// Bytes that are kept free behind what a submission wrote, for what has to be said of it later.
const SPARE_BYTES: u64 = 64 << 10;

/// Entries to be written.
#[derive(Debug)]
pub(in crate::serve) struct Commit {
    pub(super) folder: Arc<Folder>,
    pub(super) log: Log,
    /// Payloads that nothing needs any more.
    pub(super) unused: Vec<Sha256Digest>,
    /// Whether to write the journal anew, with only what is in `keep`.
    pub(super) compact: bool,
    pub(super) keep: Vec<Span>,
    pub(super) entries: Vec<Entry>,
}

/// Entries that were written, or not.
#[derive(Debug)]
pub(in crate::serve) struct Committed {
    pub(super) log: Log,
    /// Where records are now that were elsewhere.
    pub(super) moved: Option<HashMap<u64, u64>>,
    pub(super) entries: Vec<Entry>,
    /// Of each entry where it is, or why its payloads cannot be taken.
    pub(super) result: io::Result<Vec<Result<(Span, Written), String>>>,
}

impl Commit {
    /// Writes. All of it is on disk when this returns, or none.
    pub(in crate::serve) fn run(mut self) -> Committed {
        self.unused.iter().for_each(|digest| self.folder.remove(*digest));
        // A journal that cannot be written anew is longer than it need be, and nothing worse.
        let moved = if self.compact { self.compact().ok() } else { None };
        let result = self.write();
        Committed { log: self.log, moved, entries: self.entries, result }
    }

    fn write(&mut self) -> io::Result<Vec<Result<(Span, Written), String>>> {
        let bodies = self.entries.iter().map(|entry| body(&self.folder, entry));
        let bodies = bodies.collect::<io::Result<Vec<Result<Vec<u8>, String>>>>()?;
        let records: Vec<Vec<u8>> = bodies.iter().flatten().map(|body| frame(body)).collect();
        let takes_on = |entry: &Entry| matches!(entry.record, Record::Submitted { .. });
        let spare_bytes = if self.entries.iter().any(takes_on) { SPARE_BYTES } else { 0 };
        let mut spans = match records.is_empty() {
            true => Vec::new(),
            false => self.log.append(&records, spare_bytes)?,
        }
        .into_iter();
        let place = |body: Result<Vec<u8>, String>| {
            let written = record::decode(&body?).expect("it was encoded a moment ago");
            Ok((spans.next().expect("each body has become a record"), written))
        };
        Ok(bodies.into_iter().map(place).collect())
    }

    /// Writes a journal in which only what is kept is, in the order in which it was written.
    fn compact(&mut self) -> io::Result<HashMap<u64, u64>> {
        self.keep.sort_unstable_by_key(|span| span.at);
        let file = open_file(&self.folder.next_journal())?;
        file.set_len(0)?;
        let mut next = Log::new(file, 0)?;
        let mut moved = HashMap::new();
        for some in self.keep.chunks(256) {
            let read = |span: &Span| Ok(frame(&log::read_at(&self.log.file, *span)?));
            let records = some.iter().map(read).collect::<io::Result<Vec<_>>>()?;
            let spans = next.append(&records, 0)?;
            moved.extend(some.iter().zip(spans).map(|(old, new)| (old.at, new.at)));
        }
        next.broken = !self.folder.replace_journal()?;
        self.log = next;
        Ok(moved)
    }
}

/// The body of an entry, whose large payloads have become files; `Ok(Err(_))`: why one of its
/// payloads cannot be taken.
fn body(folder: &Folder, entry: &Entry) -> io::Result<Result<Vec<u8>, String>> {
    let mut inline = Vec::new();
    for (part, content) in &entry.parts {
        let fault = if part.is_file() {
            folder.keep(part, content)?
        } else {
            let mut bytes = Vec::new();
            let fault = content.copy_to(part, &mut bytes)?;
            inline.push(bytes);
            fault
        };
        if let Some(why) = fault {
            return Ok(Err(why));
        }
    }
    let parts: Vec<Part> = entry.parts.iter().map(|(part, _)| *part).collect();
    Ok(Ok(record::encode(&entry.record, &parts, &inline)))
}

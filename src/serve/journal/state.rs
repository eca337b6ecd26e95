//! What the records of a journal add up to: each task, and how far it is. Pure.

use std::collections::HashMap;

use super::log::Span;
use super::record::{About, End, KeptId, Part, Record, Written};

/// A submitted task, as far as it is on disk.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::serve) struct Kept {
    pub(in crate::serve) about: About,
    pub(in crate::serve) phase: Phase,
    pub(super) submitted: Place,
    pub(super) begun: Option<Span>,
    pub(super) ended: Option<Place>,
}

/// How far a submitted task is.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::serve) enum Phase {
    /// It has not begun; or if it may be run again, has not ended.
    Waiting,
    /// It may have run.
    Begun,
    /// It has ended, and its answer is kept.
    Ended(End),
}

/// Where a record with parts is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    pub(super) span: Span,
    /// Where in its body inline parts begin.
    pub(super) inline_at: usize,
    pub(super) parts: Vec<Part>,
}

impl Place {
    fn new(span: Span, written: &Written) -> Place {
        Place { span, inline_at: written.inline_at, parts: written.parts.clone() }
    }
}

impl Kept {
    /// Whether its answer is there.
    pub(in crate::serve) fn end(&self) -> Option<&End> {
        match &self.phase {
            Phase::Ended(end) => Some(end),
            Phase::Waiting | Phase::Begun => None,
        }
    }

    /// The parts that are needed: of the answer if there is one, else of the task.
    pub(super) fn parts(&self) -> &[Part] {
        &self.ended.as_ref().unwrap_or(&self.submitted).parts
    }

    /// Bytes of what is needed of it.
    pub(in crate::serve) fn bytes(&self) -> u64 {
        self.parts().iter().map(|part| part.bytes).sum()
    }

    /// Its records, in the order in which they were written.
    pub(super) fn spans(&mut self) -> impl Iterator<Item = &mut Span> {
        let ended = self.ended.as_mut().map(|place| &mut place.span);
        std::iter::once(&mut self.submitted.span).chain(self.begun.as_mut()).chain(ended)
    }
}

/// All submitted tasks that are known.
pub(super) type Tasks = HashMap<KeptId, Kept>;

/// Takes in what one more record says. `Err`: it cannot follow what was said before.
pub(super) fn apply(tasks: &mut Tasks, span: Span, written: &Written) -> Result<(), String> {
    let id = written.record.id();
    if let Record::Submitted { about, .. } = &written.record {
        let submitted = Place::new(span, written);
        let (phase, begun, ended) = (Phase::Waiting, None, None);
        let kept = Kept { about: about.clone(), phase, submitted, begun, ended };
        return match tasks.insert(id, kept) {
            None => Ok(()),
            Some(_) => Err(format!("task {id} was submitted before")),
        };
    }
    let kept = tasks.get_mut(&id).ok_or_else(|| format!("task {id} was not submitted before"))?;
    match &written.record {
        Record::Begun { .. } if kept.phase == Phase::Waiting => {
            kept.phase = Phase::Begun;
            kept.begun = Some(span);
        }
        Record::Ended { end, .. } if kept.end().is_none() => {
            kept.phase = Phase::Ended(end.clone());
            kept.ended = Some(Place::new(span, written));
        }
        Record::Forgotten { .. } => drop(tasks.remove(&id)),
        Record::Submitted { .. } | Record::Begun { .. } | Record::Ended { .. } => {
            return Err(format!("task {id} was further before"));
        }
    }
    Ok(())
}

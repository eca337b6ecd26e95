//! What containers printed, the end of it, for `logs`: also of containers that have ended.
//!
//! A task's own client gets all of it. This is for whoever asks later why a container is gone.

use std::collections::{HashMap, VecDeque};

use super::member::MemberId;

/// Bytes that are kept of one container: the last ones.
const BYTES_MAX: usize = 16 << 10;
/// Containers that have ended and are still known.
const ENDED_MAX: usize = 256;

/// What was printed.
#[derive(Debug, Default)]
pub(super) struct Logs {
    kept: HashMap<MemberId, Log>,
    /// Those whose container has ended, the first of them first.
    ended: VecDeque<MemberId>,
}

/// What one container printed, to standard output and standard error, as it came.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) container: String,
    pub(super) uid: u32,
    /// Bytes before those that are kept.
    pub(super) gone_bytes: u64,
    kept: VecDeque<u8>,
    pub(super) ended: bool,
}

impl Log {
    /// What is kept, from byte `from` of all that was printed on.
    pub(super) fn since(&self, from: u64) -> Vec<u8> {
        let skipped = usize::try_from(from.saturating_sub(self.gone_bytes)).unwrap_or(usize::MAX);
        self.kept.iter().skip(skipped).copied().collect()
    }

    /// Bytes that were printed in all.
    pub(super) fn end(&self) -> u64 {
        self.gone_bytes + self.kept.len() as u64
    }
}

impl Logs {
    /// A container printed something; `whose` tells its name and user the first time.
    pub(super) fn add(
        &mut self,
        member: MemberId,
        bytes: &[u8],
        whose: impl FnOnce() -> (String, u32),
    ) {
        let log = self.kept.entry(member).or_insert_with(|| {
            let (container, uid) = whose();
            Log { container, uid, gone_bytes: 0, kept: VecDeque::new(), ended: false }
        });
        let last = &bytes[bytes.len().saturating_sub(BYTES_MAX)..];
        log.kept.extend(last);
        let over = log.kept.len().saturating_sub(BYTES_MAX);
        log.kept.drain(..over);
        log.gone_bytes += (bytes.len() - last.len() + over) as u64;
    }

    /// A container has ended.
    pub(super) fn end(&mut self, member: MemberId) {
        let Some(log) = self.kept.get_mut(&member) else { return };
        log.ended = true;
        log.kept.shrink_to_fit();
        self.ended.push_back(member);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.kept.remove(&oldest);
        }
    }

    /// What the container of this name printed, if it is the user's; root's are all.
    pub(super) fn find(&self, container: &str, uid: u32) -> Option<&Log> {
        let seen = |log: &&Log| log.container == container && (uid == 0 || log.uid == uid);
        self.kept.values().find(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose() -> (String, u32) {
        ("c".to_owned(), 1000)
    }

    #[test]
    fn the_end_is_kept_and_what_is_gone_is_counted() {
        let mut logs = Logs::default();
        logs.add(1, b"first ", whose);
        logs.add(1, &[b'x'; BYTES_MAX], whose);
        logs.add(1, b"last", whose);
        let log = logs.find("c", 1000).unwrap();
        assert_eq!(log.since(0).len(), BYTES_MAX);
        assert_eq!((log.gone_bytes, log.end()), (10, 10 + BYTES_MAX as u64));
        assert_eq!(log.since(log.end() - 4), b"last");
        assert_eq!(log.since(log.end() + 1), b"");
    }

    #[test]
    fn those_that_ended_first_are_forgotten_first() {
        let mut logs = Logs::default();
        for member in 0..=ENDED_MAX as u64 {
            logs.add(member, b"x", || (member.to_string(), 1000));
            logs.end(member);
        }
        assert!(logs.find("0", 1000).is_none());
        assert!(logs.find("1", 1000).is_some_and(|log| log.ended));
    }

    #[test]
    fn others_do_not_find_it() {
        let mut logs = Logs::default();
        logs.add(1, b"x", whose);
        assert!(logs.find("c", 1001).is_none());
        assert!(logs.find("c", 0).is_some());
    }
}

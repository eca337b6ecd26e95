//! An append-only file of records, each with a mark, its length and a checksum.
//!
//! Whatever prefix of it a crash has left is read up to its last whole record. Bytes behind that
//! are a torn tail, which nobody was told of, and are cut off. But where whole records follow them,
//! something was damaged that had been acknowledged: then nothing is cut, and nothing is run.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What a file begins with. Another version is another file.
pub(super) const BEGINNING: [u8; 16] = *b"RIC journal 1\n\0\0";
/// What every record begins with.
const MARK: [u8; 4] = *b"\x89RIJ";
/// Bytes before a record's body: mark, length of the body, CRC-32 of length and body.
const FRAME_BYTES: usize = 12;
/// Most bytes of a body: its facts, and parts that are inline.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Where in a file a record is, its frame included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) at: u64,
    pub(super) bytes: u64,
}

/// A record as it stands in a file.
pub(super) fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("bodies are below a mebibyte").to_be_bytes();
    [&MARK[..], &length, &checksum(length, body).to_be_bytes(), body].concat()
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

/// The first whole record of `bytes`; `None`: there is none at its beginning.
fn first_record(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&MARK)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let bytes = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let body = rest.get(..bytes).filter(|_| bytes <= BODY_BYTES_MAX)?;
    (checksum(*length, body) == u32::from_be_bytes(*crc)).then_some(body)
}

/// Why a file is no journal.
#[derive(Debug, thiserror::Error)]
pub(in crate::serve) enum LogError {
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error("it does not begin as a journal of this version does")]
    Beginning,
    /// Whole records follow.
    #[error("it is damaged at byte {at}, and records that were acknowledged follow")]
    Damaged { at: u64 },
    #[error("the record at byte {at} means nothing: {why}")]
    Meaning { at: u64, why: String },
}

/// Shows each whole record of `file` to `visit`; returns where they end.
///
/// # Errors
/// [`LogError`]; a torn tail is none.
pub(super) fn read_all(
    file: impl Read,
    mut visit: impl FnMut(Span, &[u8]) -> Result<(), String>,
) -> Result<u64, LogError> {
    const WINDOW_BYTES: usize = 2 * (FRAME_BYTES + BODY_BYTES_MAX);
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut beginning = Vec::new();
    (&mut file).take(16).read_to_end(&mut beginning).map_err(LogError::Read)?;
    if !BEGINNING.starts_with(&beginning) {
        return Err(LogError::Beginning);
    }
    if beginning.len() < BEGINNING.len() {
        return Ok(0);
    }
    let (mut at, mut window, mut used) = (BEGINNING.len() as u64, Vec::new(), 0);
    loop {
        if window.len() - used < WINDOW_BYTES / 2 {
            window.drain(..used);
            used = 0;
            let missing = (WINDOW_BYTES - window.len()) as u64;
            (&mut file).take(missing).read_to_end(&mut window).map_err(LogError::Read)?;
        }
        let Some(body) = first_record(&window[used..]) else { break };
        let span = Span { at, bytes: (FRAME_BYTES + body.len()) as u64 };
        visit(span, body).map_err(|why| LogError::Meaning { at, why })?;
        at += span.bytes;
        used += FRAME_BYTES + body.len();
    }
    window.drain(..used);
    file.read_to_end(&mut window).map_err(LogError::Read)?;
    let marks = window.windows(MARK.len()).enumerate().filter(|(_, four)| **four == MARK);
    match marks
        .skip_while(|(at, _)| *at == 0)
        .find(|(at, _)| first_record(&window[*at..]).is_some())
    {
        Some(_) => Err(LogError::Damaged { at }),
        None => Ok(at),
    }
}

/// A file that records are appended to, by one thread at a time.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) file: Arc<File>,
    /// Bytes of whole records, and what it begins with.
    pub(super) bytes: u64,
    /// Nothing is known any more of what is on disk.
    pub(super) broken: bool,
}

impl Log {
    /// The log in `file`, of which `bytes` are whole. What follows is cut off.
    pub(super) fn new(file: File, bytes: u64) -> io::Result<Log> {
        let mut log = Log { file: Arc::new(file), bytes, broken: false };
        log.file.set_len(bytes)?;
        if bytes == 0 {
            log.file.write_all_at(&BEGINNING, 0)?;
            log.bytes = BEGINNING.len() as u64;
        }
        log.file.sync_data()?;
        Ok(log)
    }

    /// Appends records, with `spare_bytes` kept free behind them where the file system can. They
    /// are on disk when this returns, or as good as never written.
    pub(super) fn append(
        &mut self,
        records: &[Vec<u8>],
        spare_bytes: u64,
    ) -> io::Result<Vec<Span>> {
        if self.broken {
            return Err(io::Error::other("it could not be written before"));
        }
        let all = records.concat();
        let room = self.make_room(all.len() as u64 + spare_bytes);
        if let Err(error) = room.and_then(|()| self.file.write_all_at(&all, self.bytes)) {
            self.broken = self.file.set_len(self.bytes).is_err();
            return Err(error);
        }
        // After a sync that failed the kernel counts as clean what it could not write, fsync(2).
        if let Err(error) = self.file.sync_data() {
            self.broken = true;
            return Err(error);
        }
        let place = |record: &Vec<u8>| {
            let span = Span { at: self.bytes, bytes: record.len() as u64 };
            self.bytes += span.bytes;
            span
        };
        Ok(records.iter().map(place).collect())
    }

    /// Takes room on disk behind what there is, which makes the file no longer.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        use rustix::io::Errno;
        match rustix::fs::fallocate(&*self.file, FallocateFlags::KEEP_SIZE, self.bytes, bytes) {
            // Not every file system can.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            taken => Ok(taken?),
        }
    }
}

/// The body of the record at `span`.
pub(super) fn read_at(file: &File, span: Span) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(span.bytes).unwrap_or(0)];
    file.read_exact_at(&mut bytes, span.at)?;
    let body = first_record(&bytes).map(<[u8]>::len);
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a record of it is damaged");
    let body = body.ok_or_else(damaged)?;
    bytes.drain(..FRAME_BYTES);
    bytes.truncate(body);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bodies: &[&[u8]]) -> Vec<u8> {
        let records = bodies.iter().map(|body| frame(body));
        std::iter::once(BEGINNING.to_vec()).chain(records).flatten().collect()
    }

    fn bodies_in(file: &[u8]) -> Result<(Vec<Vec<u8>>, u64), LogError> {
        let mut bodies = Vec::new();
        let end = read_all(file, |_, body| {
            bodies.push(body.to_vec());
            Ok(())
        })?;
        Ok((bodies, end))
    }

    #[test]
    fn a_torn_tail_is_not_there() {
        let file = file_of(&[b"first", b"", b"third"]);
        let whole = bodies_in(&file).unwrap();
        assert_eq!(whole.0, [&b"first"[..], b"", b"third"]);
        assert_eq!(whole.1, file.len() as u64);
        let third = file.len() - frame(b"third").len();
        for length in third..file.len() {
            let (bodies, end) = bodies_in(&file[..length]).unwrap();
            assert_eq!((bodies.len(), end), (2, third as u64), "{length} bytes");
        }
        for length in 0..BEGINNING.len() {
            assert_eq!(bodies_in(&file[..length]).unwrap(), (Vec::new(), 0));
        }
    }

    #[test]
    fn damage_before_the_end_is_not_taken_for_a_torn_tail() {
        let file = file_of(&[b"first", b"second", b"third"]);
        let last = file.len() - frame(b"third").len();
        for at in 0..last {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            let error = bodies_in(&damaged).unwrap_err();
            let expected = if at < BEGINNING.len() { "begin as" } else { "is damaged at byte" };
            assert!(error.to_string().contains(expected), "byte {at}: {error}");
        }
        // The control: in the last record nothing can follow, as after a crash.
        let mut torn = file.clone();
        torn[last + 1] ^= 1;
        assert_eq!(bodies_in(&torn).unwrap().0.len(), 2);
    }

    #[test]
    fn records_pass_the_window_in_which_they_are_read() {
        let large = vec![7; BODY_BYTES_MAX];
        let bodies: Vec<&[u8]> = vec![&large, b"small", &large, &large, b"last"];
        let file = file_of(&bodies);
        assert_eq!(bodies_in(&file).unwrap().0, bodies);
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let file = tempfile::tempfile().unwrap();
        let mut log = Log::new(file.try_clone().unwrap(), 0).unwrap();
        let spans = log.append(&[frame(b"one"), frame(b"two")], 100).unwrap();
        assert_eq!(read_at(&file, spans[1]).unwrap(), b"two");
        file.write_all_at(b"x", spans[1].at + FRAME_BYTES as u64).unwrap();
        assert!(read_at(&file, spans[1]).is_err());
        // Cut where the first record ends, as after a crash.
        let mut log = Log::new(file.try_clone().unwrap(), spans[1].at).unwrap();
        log.append(&[frame(b"three")], 0).unwrap();
        let mut copy = Vec::new();
        io::Seek::rewind(&mut &file).unwrap();
        (&file).read_to_end(&mut copy).unwrap();
        assert_eq!(bodies_in(&copy).unwrap().0, [&b"one"[..], b"three"]);
    }
}

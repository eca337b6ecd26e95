//! Makes a container as if no task had been in it: ends what runs, empties what can be written to.
//!
//! Whoever asked is told whether that worked; a container in which anything stays is thrown away,
//! so nothing here tries for long. Mounts that the caller was granted stay as they are, and so do
//! the directories that lead to them.

use core::ffi::CStr;

use crate::protocol::*;
use crate::sandbox::QUEUES;
use crate::sys;

/// What a task can write to, beside its mounts and message queues.
const DIRECTORIES: [&CStr; 3] = [c"/task", c"/tmp", c"/dev/shm"];
/// Made when the sandbox was, and again after it was emptied.
const HOME: &CStr = c"/tmp/home";

/// How often processes are looked for, with a millisecond between.
const PASSES_MAX: u32 = 1000;
/// How deep directories may lie in each other.
const DEPTH_MAX: u32 = 100;
/// How many files and directories are removed, and how often one is come across again.
const ENTRIES_MAX: u32 = 1_000_000;

/// What the directories were before the first task: the mode of each, 0 for one that is not there.
#[derive(Clone, Copy)]
pub struct Before {
    modes: [u32; DIRECTORIES.len()],
    home: bool,
}

impl Before {
    pub fn look() -> Before {
        let mode = |path| {
            let fd = sys::open(path, sys::O_PATH | sys::O_DIRECTORY).ok()?;
            let mode = sys::fstat(fd).map_or(0, |stat| stat.mode & 0o7777);
            sys::close(fd);
            Some(mode)
        };
        Before { modes: DIRECTORIES.map(|path| mode(path).unwrap_or(0)), home: sys::exists(HOME) }
    }

    /// Empties everything: whether nothing stays.
    pub fn restore(&self) -> bool {
        let mut left = ENTRIES_MAX;
        for (path, mode) in DIRECTORIES.iter().zip(self.modes) {
            if mode != 0 && empty_root(path, mode, &mut left).is_none() {
                return false;
            }
        }
        empty_queues(&mut left).is_some() && (!self.home || sys::mkdir(HOME, 0o700).is_ok())
    }
}

/// `None`: something stays. The mode first, because without it nothing could be seen or removed.
fn empty_root(path: &CStr, mode: u32, left: &mut u32) -> Option<()> {
    let now = sys::open(path, sys::O_PATH | sys::O_DIRECTORY).ok()?;
    let changed = sys::fstat(now).ok()?.mode & 0o7777 != mode;
    sys::close(now);
    if changed {
        sys::chmod_at(sys::AT_FDCWD, path, mode).ok()?;
    }
    let directory = sys::open(path, sys::O_DIRECTORY | sys::O_NOFOLLOW).ok()?;
    let emptied = empty(directory, 0, left).filter(|_| !sys::has_user_attributes(directory));
    sys::close(directory);
    emptied.map(drop)
}

/// `None`: something stays.
fn empty_queues(left: &mut u32) -> Option<()> {
    let directory = match sys::open_at(QUEUES, c".", sys::O_DIRECTORY, 0, 0) {
        Err(sys::EBADF) => return Some(()),
        opened => opened.ok()?,
    };
    let emptied = empty(directory, 0, left);
    sys::close(directory);
    emptied.map(drop)
}

/// What was found in a directory that was emptied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Nothing,
    /// A mount, which is not a task's.
    Mount,
}

/// Removes all that is in a directory. `None`: something stays.
///
/// No process runs meanwhile but this one and the template, so that nothing is moved or replaced
/// between two looks at it.
fn empty(directory: i32, depth: u32, left: &mut u32) -> Option<Kept> {
    let mut buffer = [0_u8; 1024];
    loop {
        let (mut kept, mut removed) = (Kept::Nothing, false);
        sys::rewind(directory).ok()?;
        loop {
            let bytes = sys::list(directory, &mut buffer).ok()?;
            if bytes == 0 {
                break;
            }
            for name in names(&buffer[..bytes]) {
                *left = left.checked_sub(1)?;
                match remove(directory, name, depth, left)? {
                    Kept::Nothing => removed = true,
                    Kept::Mount => kept = Kept::Mount,
                }
            }
        }
        // What was removed may have hidden entries from the listing.
        if !removed {
            return Some(kept);
        }
    }
}

fn remove(directory: i32, name: &CStr, depth: u32, left: &mut u32) -> Option<Kept> {
    match sys::unlink_at(directory, name, 0) {
        Ok(_) | Err(sys::ENOENT) => return Some(Kept::Nothing),
        Err(sys::EBUSY) => return Some(Kept::Mount),
        Err(sys::EISDIR) => {}
        Err(_) => return None,
    }
    match sys::unlink_at(directory, name, sys::AT_REMOVEDIR) {
        Ok(_) => return Some(Kept::Nothing),
        // Before its mode is touched: behind it is a directory of the caller's.
        Err(sys::EBUSY) => return Some(Kept::Mount),
        Err(_) => {}
    }
    if depth >= DEPTH_MAX {
        return None;
    }
    sys::chmod_at(directory, name, 0o755).ok()?;
    let flags = sys::O_DIRECTORY | sys::O_NOFOLLOW;
    let resolve = sys::RESOLVE_BENEATH | sys::RESOLVE_NO_SYMLINKS | sys::RESOLVE_NO_XDEV;
    let below = sys::open_at(directory, name, flags, 0, resolve).ok()?;
    let kept = empty(below, depth + 1, left);
    sys::close(below);
    if kept? == Kept::Mount {
        return Some(Kept::Mount);
    }
    sys::unlink_at(directory, name, sys::AT_REMOVEDIR).ok()?;
    Some(Kept::Nothing)
}

/// The names in a listing as `getdents64(2)` writes it, but for the directory and its parent.
fn names(listing: &[u8]) -> impl Iterator<Item = &CStr> {
    const NAME_AT: usize = 19;
    let mut rest = listing;
    core::iter::from_fn(move || {
        let length = u16::from_le_bytes([*rest.get(16)?, *rest.get(17)?]) as usize;
        let (entry, behind) = rest.split_at_checked(length)?;
        rest = behind;
        CStr::from_bytes_until_nul(entry.get(NAME_AT..)?).ok()
    })
    .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
}

/// Whether something of System V is left, which no directory shows: `/proc/sysvipc`, one line for
/// each behind a line of headings.
pub fn has_system_v_objects() -> bool {
    let has = |path| {
        let Ok(fd) = sys::open(path, 0) else { return false };
        let mut text = [0_u8; 1024];
        let bytes = sys::read(fd, &mut text).unwrap_or(text.len());
        sys::close(fd);
        text[..bytes].iter().filter(|byte| **byte == b'\n').count() != 1
    };
    has(c"/proc/sysvipc/shm") || has(c"/proc/sysvipc/sem") || has(c"/proc/sysvipc/msg")
}

/// Ends all processes but this one and the template (0: there is none). What has ended is handed to
/// `reap`. Whether nothing stays.
///
/// All are stopped first, at once: `kill(2)` signals every process there is under one lock, so that
/// none can fork away from it. Then each is ended by its number; with only stopped ones around,
/// numbers are not used again.
pub fn end_processes(template: i32, mut reap: impl FnMut()) -> bool {
    let Ok(proc) = sys::open(c"/proc", sys::O_DIRECTORY) else { return false };
    let mut clean = false;
    for pass in 0..PASSES_MAX {
        reap();
        if !others(proc, template, |_| {}) {
            clean = true;
            break;
        }
        let _ = sys::kill(-1, sys::SIGSTOP);
        others(proc, template, |pid| {
            let _ = sys::kill(pid, sys::SIGKILL);
        });
        if pass > 0 {
            sys::sleep_ms(1);
        }
    }
    sys::close(proc);
    if template != 0 {
        // Whoever stopped it.
        let _ = sys::kill(template, sys::SIGCONT);
    }
    clean
}

/// Calls `each` for all processes but this one and the template: whether there are some, or it
/// cannot be known.
fn others(proc: i32, template: i32, mut each: impl FnMut(i32)) -> bool {
    let mut found = false;
    let mut buffer = [0_u8; 4096];
    if sys::rewind(proc).is_err() {
        return true;
    }
    loop {
        let bytes = match sys::list(proc, &mut buffer) {
            Ok(0) => return found,
            Ok(bytes) => bytes,
            Err(_) => return true,
        };
        for name in names(&buffer[..bytes]) {
            let Some(pid) = number(name.to_bytes()) else { continue };
            if pid != 1 && pid != template && !has_ended(proc, name) {
                each(pid);
                found = true;
            }
        }
    }
}

fn number(digits: &[u8]) -> Option<i32> {
    digits.iter().try_fold(0_i32, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| i32::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether a process only waits for its parent (the template) to look at it: state `Z` in its
/// `stat`, proc(5), with one thread. One whose first thread alone has ended has more.
fn has_ended(proc: i32, pid: &CStr) -> bool {
    const THREADS_AFTER_STATE: usize = 17;
    let flags = sys::O_PATH | sys::O_DIRECTORY;
    let Ok(directory) = sys::open_at(proc, pid, flags, 0, 0) else { return true };
    let stat = sys::open_at(directory, c"stat", 0, 0, 0);
    sys::close(directory);
    let Ok(stat) = stat else { return true };
    let mut text = [0_u8; 1024];
    let bytes = sys::read(stat, &mut text);
    sys::close(stat);
    // ESRCH: it was still there when it was opened.
    let Ok(bytes) = bytes else { return true };
    let text = &text[..bytes];
    // The name before it is the task's to choose, and may hold anything.
    let Some(end) = text.iter().rposition(|byte| *byte == b')') else { return false };
    let mut fields = text[end + 1..].split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let state = fields.next();
    let threads = fields.nth(THREADS_AFTER_STATE - 1);
    matches!(state, Some(b"Z" | b"X")) && matches!(threads, Some(b"0" | b"1"))
}

/// Ends and removes all that tasks have left: which of `LEFT_…` stays.
pub fn reset(template: i32, before: &Before, reap: impl FnMut()) -> u64 {
    if !end_processes(template, reap) {
        LEFT_PROCESSES
    } else if !before.restore() {
        LEFT_FILES
    } else if has_system_v_objects() {
        LEFT_SYSTEM_V
    } else {
        LEFT_NOTHING
    }
}

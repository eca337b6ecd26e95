//! Starts the task's program: inputs, terminal, descriptors, directory, `execve(2)`.

use core::ffi::CStr;

use crate::message::{Message, send, send_with};
use crate::protocol::*;
use crate::sys;

/// A run as the owner wrote it: numbers, then strings, then room for arrays of pointers to them.
struct Run {
    memory: &'static mut [u8],
    flags: u32,
    programs: u32,
    arguments: u32,
    variables: u32,
    inputs: u32,
    secrets: u32,
    rows: u32,
    columns: u32,
    pointers_at: usize,
}

/// Reads a terminated string at `at`, and says where the next one begins.
fn string_at(memory: &[u8], at: usize) -> (&CStr, usize) {
    let text = CStr::from_bytes_until_nul(memory.get(at..).unwrap_or(&[])).unwrap_or(c"");
    (text, at + text.to_bytes_with_nul().len())
}

impl Run {
    fn read(message: &Message) -> sys::Result<Run> {
        let memory = sys::map(message.fds[0], message.numbers[0] as usize)?;
        let mut words = [0_u32; RUN_HEAD_WORDS];
        for (word, four) in words.iter_mut().zip(memory.chunks_exact(4)) {
            *word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        }
        let [flags, programs, arguments, variables, inputs, secrets, rows, columns, pointers_at] =
            words;
        let pointers_at = pointers_at as usize;
        Ok(Run {
            memory,
            flags,
            programs,
            arguments,
            variables,
            inputs,
            secrets,
            rows,
            columns,
            pointers_at,
        })
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// Where each kind of string begins.
struct Places {
    programs: usize,
    arguments: usize,
    variables: usize,
    inputs: usize,
}

fn places(run: &Run) -> Places {
    let skip = |mut at, count| {
        for _ in 0..count {
            at = string_at(run.memory, at).1;
        }
        at
    };
    let programs = skip(RUN_HEAD_WORDS * 4, 1);
    let arguments = skip(programs, run.programs);
    let variables = skip(arguments, run.arguments);
    Places { programs, arguments, variables, inputs: skip(variables, run.variables) }
}

/// What the process that becomes the program needs to know.
struct Start<'a> {
    control: i32,
    message: &'a Message,
    run: Run,
}

/// Bytes of the stack on which a process becomes the program: it holds two paths.
const STACK_BYTES: usize = 64 * 1024;

/// Starts what `message` describes, as the leader of a session of its own: its pid.
pub fn start(control: i32, message: &Message) -> Option<i32> {
    let pid = start_borrowing(control, message);
    for fd in &message.fds[..message.fd_count] {
        sys::close(*fd);
    }
    if let Err(errno) = pid {
        send(control, NOT_STARTED, [STAGE_FORK, errno as u64, 0]);
    }
    pid.ok()
}

/// The new process borrows this one's memory until it executes: nothing is copied to be thrown
/// away. Inputs are copied meanwhile; the owner that feeds them is who would be waited for.
fn start_borrowing(control: i32, message: &Message) -> sys::Result<i32> {
    let run = Run::read(message)?;
    let stack = sys::map(-1, STACK_BYTES)?;
    let mut start = Start { control, message, run };
    let pid = sys::borrow_memory(stack, enter, &raw mut start as usize);
    sys::unmap(stack);
    sys::unmap(start.run.memory);
    pid
}

extern "C" fn enter(argument: usize) -> ! {
    // SAFETY: `argument` is the `Start` of the waiting parent, whose memory this process borrows.
    let start = unsafe { &mut *(argument as *mut Start) };
    become_program(start)
}

fn fail(control: i32, stage: u64, errno: i32, more: u64) -> ! {
    send(control, NOT_STARTED, [stage, errno as u64, more]);
    sys::exit(127)
}

fn become_program(start: &mut Start) -> ! {
    let Start { control, message, run } = start;
    let control = *control;
    let places = places(run);
    let worker = run.has(RUN_WORKER) as usize;
    let mut at = places.inputs;
    let mut fds = message.fds[4 + worker..].iter();
    for (count, directory, mode, stage) in [
        (run.inputs, c"/task", 0o444, STAGE_INPUT),
        (run.secrets, c"/run/secrets", 0o400, STAGE_SECRET),
    ] {
        for which in 0..count {
            let (name, next) = string_at(run.memory, at);
            let from = *fds.next().unwrap_or(&-1);
            if let Err(errno) = copy_in(from, directory, name, mode) {
                fail(control, stage, errno, which.into());
            }
            at = next;
        }
    }
    sys::setsid();
    let mut streams = [message.fds[1], message.fds[2], message.fds[3]];
    if run.has(RUN_TERMINAL) {
        streams =
            terminal(control, run).unwrap_or_else(|errno| fail(control, STAGE_TERMINAL, errno, 0));
    }
    // `fail` speaks on the control socket, which the streams are about to take the place of.
    let Ok(told) = sys::dup_above(control, 4) else { sys::exit(127) };
    for (fd, stream) in streams.iter().enumerate() {
        let _ = sys::dup_to(*stream, fd as i32, 0);
    }
    if worker == 1 {
        let _ = sys::dup_to(message.fds[4], 3, 0);
    }
    enter_workdir(string_at(run.memory, RUN_HEAD_WORDS * 4).0)
        .unwrap_or_else(|errno| fail(told, STAGE_WORKDIR, errno, 0));
    let _ = sys::close_range(3 + worker as i32, told - 1);
    let _ = sys::close_range(told + 1, i32::MAX);
    sys::default_signals();
    sys::block_signals(false);
    let (errno, exists) = exec(run, &places);
    fail(told, STAGE_EXEC, errno, exists as u64)
}

/// A working directory that `getcwd(2)` does not find below the root is outside the sandbox.
fn enter_workdir(path: &CStr) -> sys::Result<()> {
    sys::chdir(path)?;
    let mut now = [0_u8; 4096];
    sys::getcwd(&mut now)?;
    if now[0] == b'/' { Ok(()) } else { Err(sys::EACCES) }
}

/// Copies all that `from` gives into a new file of a directory of the sandbox's own.
fn copy_in(from: i32, directory: &CStr, name: &CStr, mode: u32) -> sys::Result<()> {
    let place = sys::open(directory, sys::O_PATH | sys::O_DIRECTORY)?;
    let flags = sys::O_WRONLY | sys::O_CREAT | sys::O_EXCL | sys::O_NOFOLLOW;
    let file = sys::open_at(place, name, flags, mode, sys::RESOLVE_BENEATH)?;
    sys::close(place);
    let buffer = sys::map(-1, 64 * 1024)?;
    loop {
        let bytes = match sys::read(from, buffer) {
            Err(sys::EINTR) => continue,
            read => read?,
        };
        if bytes == 0 {
            break;
        }
        let mut written = 0;
        while written < bytes {
            written += sys::write(file, &buffer[written..bytes])?;
        }
    }
    sys::unmap(buffer);
    sys::close(file);
    sys::close(from);
    Ok(())
}

/// A terminal of the sandbox's own `devpts`; its controlling side goes to the owner.
fn terminal(control: i32, run: &Run) -> sys::Result<[i32; 3]> {
    const TIOCSPTLCK: usize = 0x4004_5431;
    const TIOCGPTPEER: usize = 0x5441;
    const TIOCSWINSZ: usize = 0x5414;
    const TIOCSCTTY: usize = 0x540e;
    let main = sys::open(c"/dev/ptmx", sys::O_RDWR | sys::O_NOCTTY)?;
    sys::ioctl_with(main, TIOCSPTLCK, &mut 0_i32)?;
    let mut size = [run.rows as u16, run.columns as u16, 0, 0];
    sys::ioctl_with(main, TIOCSWINSZ, &mut size)?;
    let flags = sys::O_RDWR | sys::O_NOCTTY | sys::O_CLOEXEC;
    let task = sys::ioctl(main, TIOCGPTPEER, flags as usize)? as i32;
    sys::ioctl(task, TIOCSCTTY, 0)?;
    send_with(control, TERMINAL, [0; 3], &[], Some(main));
    sys::close(main);
    Ok([task; 3])
}

/// The arrays that `execve(2)` takes, in memory that the owner left room in.
struct Pointers<'a>(&'a mut [u8]);

impl Pointers<'_> {
    fn put(&mut self, slot: usize, value: usize) {
        if let Some(eight) = self.0.get_mut(slot * 8..slot * 8 + 8) {
            eight.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Puts `count` strings from `at` on, and a null, into the slots from `first` on. Returns where
    /// the strings end.
    fn put_strings(&mut self, first: usize, count: usize, strings: &[u8], mut at: usize) -> usize {
        for slot in first..first + count {
            self.put(slot, strings.as_ptr() as usize + at);
            at = string_at(strings, at).1;
        }
        self.put(first + count, 0);
        at
    }
}

/// Tries each program in turn, as `execvp(3)` would. Returns why none could be started, and whether
/// a file of that name was there.
fn exec(run: &mut Run, places: &Places) -> (i32, bool) {
    let (strings, pointers) = run.memory.split_at_mut(run.pointers_at);
    let mut pointers = Pointers(pointers);
    // The first argument is the program's own name, put in below.
    let (arguments, variables) = (run.arguments as usize, run.variables as usize);
    pointers.put_strings(1, arguments, strings, places.arguments);
    pointers.put_strings(arguments + 2, variables, strings, places.variables);
    let search = search_path(strings, places.variables, variables);
    let mut worst = (sys::ENOENT, false);
    let mut at = places.programs;
    for _ in 0..run.programs {
        let (program, next) = string_at(strings, at);
        pointers.put(0, strings.as_ptr() as usize + at);
        let start = pointers.0.as_ptr() as usize;
        let failed = exec_one(program, search, [start, start + (arguments + 2) * 8]);
        if failed.0 != sys::ENOENT || failed.1 {
            worst = failed;
        }
        at = next;
    }
    worst
}

/// The value of `PATH` among `count` variables from `at` on.
fn search_path(strings: &[u8], mut at: usize, count: usize) -> &[u8] {
    for _ in 0..count {
        let (variable, next) = string_at(strings, at);
        if let Some(value) = variable.to_bytes().strip_prefix(b"PATH=") {
            return value;
        }
        at = next;
    }
    b""
}

fn exec_one(program: &CStr, search: &[u8], arrays: [usize; 2]) -> (i32, bool) {
    if program.to_bytes().contains(&b'/') {
        return exec_path(program, arrays);
    }
    let mut worst = (sys::ENOENT, false);
    for directory in search.split(|byte| *byte == b':') {
        let mut path = [0_u8; 4096];
        let name = program.to_bytes();
        let length = directory.len() + 1 + name.len();
        if length >= path.len() || name.is_empty() {
            continue;
        }
        path[..directory.len()].copy_from_slice(directory);
        path[directory.len()] = b'/';
        path[directory.len() + 1..length].copy_from_slice(name);
        let failed = exec_path(CStr::from_bytes_until_nul(&path).unwrap_or(c""), arrays);
        if failed.0 != sys::ENOENT && failed.0 != sys::ENOTDIR || failed.1 {
            worst = failed;
        }
    }
    worst
}

fn exec_path(path: &CStr, arrays: [usize; 2]) -> (i32, bool) {
    // SAFETY: `exec` has just filled both arrays with pointers into memory that stays, each array
    // ended by a null pointer.
    let errno = unsafe { sys::execve(path, arrays[0], arrays[1]) };
    (errno, sys::exists(path))
}

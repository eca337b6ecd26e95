//! The monitor: makes the cgroups, starts init in them, waits for it, clears up.
//!
//! It stays outside the sandbox's cgroup and namespaces, in a session of its own, and outlives an
//! owner that is killed: then it ends the container and removes its cgroups, so nothing is left.

use core::ffi::CStr;

use crate::message::{Message, send, send_with};
use crate::protocol::*;
use crate::steps::{Step, Steps};
use crate::{sandbox, sys};

/// The socket to the owner.
const OWNER: i32 = 0;
/// How long an emptied cgroup may take to become removable, in steps of one millisecond.
const REMOVE_TRIES: u32 = 2000;

/// Everything init starts from.
pub struct Start {
    pub steps: &'static [u8],
    /// The control socket, then what steps name by number.
    pub fds: [i32; DESCRIPTORS_MAX],
    /// Readable when the owner has written the maps of the user namespace.
    pub mapped: [i32; 2],
}

pub fn run() -> ! {
    // A Ctrl-C at the owner's terminal must reach the owner alone; only SIGKILL ends this process.
    sys::setsid();
    sys::block_signals(true);
    sys::close(1);
    sys::close(2);
    let Some(mut start) = receive_start() else { sys::exit(1) };
    let child = make(&mut start);
    if start.mapped[0] < 0 {
        close_fds(&mut start);
    }
    if let Some(child) = child {
        watch(child, &mut start);
    }
    remove_cgroups(start.steps);
    sys::exit(0)
}

/// Lets go of what is init's alone.
fn close_fds(start: &mut Start) {
    for fd in start.fds.iter_mut().filter(|fd| **fd >= 0) {
        sys::close(*fd);
        *fd = -1;
    }
}

fn receive_start() -> Option<Start> {
    let message = Message::receive(OWNER)?;
    if message.kind != START || message.fd_count < 2 {
        return None;
    }
    let steps = sys::map(message.fds[0], message.numbers[0] as usize).ok()?;
    sys::close(message.fds[0]);
    let mut fds = [-1; DESCRIPTORS_MAX];
    fds[..message.fd_count - 1].copy_from_slice(&message.fds[1..message.fd_count]);
    Some(Start { steps, fds, mapped: [-1; 2] })
}

/// Carries out the monitor's steps: init's pid, if all went well.
///
/// Limits are set once init exists, while it builds its sandbox on another processor. Nothing of
/// the task's runs before the owner has been told that they hold.
fn make(start: &mut Start) -> Option<i32> {
    let child = start_init(start)?;
    for step in before_clone(start.steps) {
        let done = match step.operation {
            STEP_CGROUP_SET => set_cgroup(&step),
            STEP_CGROUP_DEVICES => limit_devices(&step),
            _ => Ok(()),
        };
        if let Err(errno) = done {
            report(&step, errno);
            end(child);
            return None;
        }
    }
    send(OWNER, CLONED, [child as u64, 0, 0]);
    Some(child)
}

/// Makes the cgroups and starts init in them.
fn start_init(start: &mut Start) -> Option<i32> {
    let steps = start.steps;
    for step in before_clone(steps) {
        let done = match step.operation {
            STEP_CGROUP_MAKE => sys::mkdir(step.string(0), 0o755).map(drop),
            STEP_TREE => clone_tree(&step, &mut start.fds),
            _ => Ok(()),
        };
        if let Err(errno) = done {
            report(&step, errno);
            return None;
        }
    }
    let step = Steps::new(steps).find(|step| step.operation == STEP_CLONE)?;
    clone(&step, start).inspect_err(|(step, errno)| report(step, *errno)).ok()
}

/// The monitor's own steps.
fn before_clone(steps: &'static [u8]) -> impl Iterator<Item = Step<'static>> {
    Steps::new(steps).take_while(|step| step.operation != STEP_CLONE)
}

fn report(step: &Step, errno: i32) {
    if errno != TOLD {
        send(OWNER, FAILED, [step.index, errno as u64, 0]);
    }
}

/// Stands for a failure that the owner has been told of already.
const TOLD: i32 = 0;

/// Writes a limit and reads it back: a limit that does not read back is not enforced.
fn set_cgroup(step: &Step) -> sys::Result<()> {
    let value = step.bytes(1);
    let optional = step.numbers[1] == 1;
    let fd = match sys::open(step.string(0), sys::O_WRONLY) {
        Err(sys::ENOENT | sys::EACCES) if optional => return Ok(()),
        opened => opened?,
    };
    let written = sys::write(fd, value);
    sys::close(fd);
    if optional && step.numbers[0] == 0 {
        return Ok(());
    }
    written?;
    if step.numbers[0] == 0 {
        return Ok(());
    }
    let mut now = [0_u8; 64];
    let fd = sys::open(step.string(0), 0)?;
    let length = sys::read(fd, &mut now)?;
    sys::close(fd);
    let now = now[..length].trim_ascii_end();
    if now != value {
        send_with(OWNER, FAILED, [step.index, sys::EIO as u64, 0], now, None);
        return Err(TOLD);
    }
    Ok(())
}

/// Lets the processes of a version 2 cgroup open no other devices than a BPF program allows.
fn limit_devices(step: &Step) -> sys::Result<()> {
    let cgroup = sys::open(step.string(0), sys::O_DIRECTORY)?;
    let program = sys::load_device_program(step.bytes(1))?;
    sys::attach_device_program(cgroup, program)?;
    sys::close(program);
    sys::close(cgroup);
    Ok(())
}

/// A clone of the mount below a descriptor, made while it is still in this process's namespace.
fn clone_tree(step: &Step, fds: &mut [i32]) -> sys::Result<()> {
    let at = fds.get_mut(step.numbers[0] as usize).ok_or(sys::EINVAL)?;
    let flags = sys::OPEN_TREE_CLONE | sys::AT_EMPTY_PATH | sys::AT_RECURSIVE;
    let tree = sys::open_tree(*at, c"", flags)?;
    // Before it is anywhere: a clone of a shared mount is a peer of it, and this one is not reached
    // by what makes the mounts of the new namespace private.
    sys::make_tree_private(tree)?;
    sys::close(*at);
    *at = tree;
    Ok(())
}

/// A step that failed, and the errno.
type Failure = (Step<'static>, i32);

/// What the short-lived process between monitor and init needs to know.
struct Between<'a> {
    step: Step<'static>,
    start: &'a Start,
    child: Result<i32, Failure>,
}

fn clone(step: &Step<'static>, start: &mut Start) -> Result<i32, Failure> {
    let failed = |errno| (*step, errno);
    if step.numbers[1] == 1 {
        start.mapped = sys::pipe().map_err(failed)?;
    }
    if before_clone(start.steps).any(|step| step.operation == STEP_CGROUP_JOIN) {
        join_and_clone(step, start)
    } else {
        clone_into(step, start).map_err(failed)
    }
}

/// On cgroup version 1, a process of one thread that moves itself by `tasks` skips the wait for a
/// grace period that a move by `cgroup.procs` costs on an idle machine. The process between is that
/// one: init is then born in the cgroup, and the monitor stays outside.
fn join_and_clone(step: &Step<'static>, start: &Start) -> Result<i32, Failure> {
    let failed = |errno| (*step, errno);
    let mut between = Between { step: *step, start, child: Err(failed(sys::EIO)) };
    let stack = sys::map(-1, 64 * 1024).map_err(failed)?;
    let pid = sys::borrow_memory(stack, enter, &raw mut between as usize).map_err(failed)?;
    sys::unmap(stack);
    reap(pid);
    between.child
}

extern "C" fn enter(argument: usize) -> ! {
    // SAFETY: `argument` is the `Between` of the waiting parent, whose memory this process borrows.
    let between = unsafe { &mut *(argument as *mut Between) };
    between.child = enter_all(between);
    sys::exit(0)
}

fn enter_all(between: &Between) -> Result<i32, Failure> {
    let joins = before_clone(between.start.steps);
    for join in joins.filter(|step| step.operation == STEP_CGROUP_JOIN) {
        sandbox::write_file(join.string(0), b"0").map_err(|errno| (join, errno))?;
    }
    let mut step = between.step;
    step.numbers[0] |= sys::CLONE_PARENT;
    clone_into(&step, between.start).map_err(|errno| (step, errno))
}

fn clone_into(step: &Step, start: &Start) -> sys::Result<i32> {
    let path: &CStr = step.string(0);
    let cgroup =
        if path.is_empty() { None } else { Some(sys::open(path, sys::O_PATH | sys::O_DIRECTORY)?) };
    let pid = sys::clone(step.numbers[0], cgroup)?;
    if pid == 0 {
        sandbox::build(start, step.index + 1);
    }
    if let Some(fd) = cgroup {
        sys::close(fd);
    }
    Ok(pid)
}

/// Waits until init has ended and the owner has seen it. Ends init if the owner asks or is gone.
fn watch(child: i32, start: &mut Start) {
    let Ok(pidfd) = sys::pidfd_open(child) else { return };
    sys::close(start.mapped[0]);
    let mut running = true;
    loop {
        let mut fds = [
            sys::Poll { fd: OWNER, events: sys::POLLIN, happened: 0 },
            sys::Poll { fd: if running { pidfd } else { -1 }, events: sys::POLLIN, happened: 0 },
        ];
        let _ = sys::poll(&mut fds, -1);
        if fds[1].happened != 0 {
            running = false;
            let status = reap(child);
            send(OWNER, ENDED, [status as u32 as u64, 0, 0]);
        }
        if fds[0].happened == 0 {
            continue;
        }
        match Message::receive(OWNER) {
            Some(Message { kind: MAPPED, .. }) => {
                let errno = map_trees(child, start).err().unwrap_or(0);
                close_fds(start);
                let _ = sys::write(start.mapped[1], &[errno as u8]);
            }
            Some(Message { kind: KILL, .. }) => {
                let _ = sys::kill(child, sys::SIGKILL);
            }
            _ => break,
        }
    }
    if running {
        end(child);
    }
}

/// Has the trees that steps name show the machine's ids as those of init's user namespace. Errnos
/// fit in a byte (`asm-generic/errno.h`).
fn map_trees(child: i32, start: &Start) -> sys::Result<()> {
    let mut userns = -1;
    for step in before_clone(start.steps).filter(|step| step.operation == STEP_IDMAP) {
        if userns < 0 {
            let mut path = [0; 32];
            userns = sys::open(userns_path(child, &mut path), 0)?;
        }
        let tree = *start.fds.get(step.numbers[0] as usize).ok_or(sys::EINVAL)?;
        sys::mount_idmap(tree, userns)?;
    }
    sys::close(userns);
    Ok(())
}

/// `/proc/CHILD/ns/user`, written into `path`.
fn userns_path(child: i32, path: &mut [u8; 32]) -> &CStr {
    let mut digits = [0; 10];
    let (mut rest, mut first) = (child, digits.len());
    while rest > 0 {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let mut at = 0;
    for part in [b"/proc/".as_slice(), &digits[first..], b"/ns/user"] {
        path[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    CStr::from_bytes_until_nul(path).unwrap_or(c"")
}

/// Ends init, and with it everything in its namespaces.
fn end(child: i32) {
    let _ = sys::kill(child, sys::SIGKILL);
    reap(child);
}

/// Waits for a child: its wait status.
fn reap(child: i32) -> i32 {
    loop {
        match sys::wait(child, true) {
            Ok(Some((_, status))) => return status,
            Err(sys::EINTR) | Ok(None) => {}
            Err(_) => return 0,
        }
    }
}

/// Removes what [`make`] made. A cgroup may stay busy for a moment after its last process has
/// ended.
fn remove_cgroups(steps: &[u8]) {
    for step in Steps::new(steps).filter(|step| step.operation == STEP_CGROUP_MAKE) {
        for _ in 0..REMOVE_TRIES {
            match sys::rmdir(step.string(0)) {
                Err(sys::EBUSY) => sys::sleep_ms(1),
                _ => break,
            }
        }
    }
}

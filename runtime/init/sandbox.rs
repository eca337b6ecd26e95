//! Builds the sandbox from inside its new namespaces, step by step, then becomes its PID 1.

use core::ffi::CStr;

use crate::message::{send, send_with};
use crate::monitor::Start;
use crate::protocol::*;
use crate::steps::{Step, Steps};
use crate::{supervise, sys};

/// What steps hand on to later steps.
struct Box {
    /// The control socket.
    control: i32,
    /// The new root, attached.
    root: i32,
    /// Who lets go of the old root; 0: nobody.
    detacher: i32,
    /// The message queues; -1: the kernel has none.
    queues: i32,
    /// `/dev/null` of the machine, once something is hidden behind it; else -1.
    null: i32,
}

/// Carries out all steps from number `first` on, in the order in which they were planned.
pub fn build(start: &Start, first: u64) -> ! {
    let mut state = Box { control: start.fds[0], root: -1, detacher: 0, queues: -1, null: -1 };
    wait_for_maps(&state, start);
    for step in Steps::new(start.steps).skip(first as usize) {
        if let Err(errno) = carry_out(&mut state, &step, start) {
            send(state.control, FAILED, [step.index, errno as u64, 0]);
            sys::exit(1);
        }
    }
    supervise::run(keep_only(&state))
}

/// Waits until this process has its ids, and the trees have theirs: what is read is the errno.
fn wait_for_maps(state: &Box, start: &Start) {
    if start.mapped[0] < 0 {
        return;
    }
    sys::close(start.mapped[1]);
    let mut errno = [0_u8];
    // Nothing to read: the monitor is gone, and the steps that follow fail for want of ids.
    let _ = sys::read(start.mapped[0], &mut errno);
    let mut idmaps = Steps::new(start.steps).filter(|step| step.operation == STEP_IDMAP);
    if errno[0] != 0
        && let Some(step) = idmaps.next()
    {
        send(state.control, FAILED, [step.index, errno[0] as u64, 0]);
        sys::exit(1);
    }
}

/// Moves the control socket to descriptors 0 to 3, so that none that is received later is one of
/// those a task's own go to, the queues to [`QUEUES`], and closes all others.
fn keep_only(state: &Box) -> i32 {
    for fd in 0..4 {
        if fd != state.control {
            let _ = sys::dup_to(state.control, fd, sys::O_CLOEXEC);
        }
    }
    let kept = sys::dup_to(state.queues, QUEUES, sys::O_CLOEXEC).is_ok();
    let _ = sys::close_range(QUEUES + i32::from(kept), i32::MAX);
    0
}

/// Where the message queues are for [`crate::reset`], if there are some.
pub const QUEUES: i32 = 4;

/// Queues are files of a file system that needs no place to be used: `mq_open(3)` finds them by the
/// IPC namespace. Mounted nowhere, so that tasks see what they always do.
fn hold_queues(state: &mut Box, step: &Step) -> sys::Result<()> {
    if !step.bytes(0).is_empty() {
        let mounted = sys::open(step.string(0), sys::O_PATH | sys::O_DIRECTORY)?;
        state.queues = sys::dup_above(mounted, QUEUES + 1)?;
        sys::close(mounted);
        return Ok(());
    }
    let fs = match sys::fsopen(c"mqueue") {
        Err(sys::ENODEV) => return Ok(()),
        opened => opened?,
    };
    sys::fsconfig_create(fs)?;
    let mounted = sys::fsmount(fs, 0)?;
    sys::close(fs);
    // Above what [`keep_only`] puts others on.
    state.queues = sys::dup_above(mounted, QUEUES + 1)?;
    sys::close(mounted);
    Ok(())
}

fn carry_out(state: &mut Box, step: &Step, start: &Start) -> sys::Result<()> {
    let numbers = step.numbers;
    match step.operation {
        STEP_WRITE => write_file(step.string(0), step.bytes(1)),
        STEP_PRIVATE => sys::make_private().map(drop),
        STEP_ROOT_BIND => root_bind(state, step),
        STEP_ROOT_OVERLAY => root_overlay(state, step),
        STEP_BIND => bind(state, step),
        STEP_ATTACH => attach(state, step, start),
        STEP_MOUNT => mount(state, step),
        STEP_MASK => mask(state, step),
        STEP_READONLY => readonly(state, step),
        STEP_ROOT_ATTRIBUTES => sys::mount_setattr(state.root, 0, numbers[0]).map(drop),
        STEP_PIVOT => pivot(state),
        STEP_HOSTNAME => sys::sethostname(step.string(0)).map(drop),
        STEP_LOOPBACK => loopback_up(),
        STEP_RLIMIT => set_limit(numbers),
        STEP_QUEUES => hold_queues(state, step),
        STEP_BOUND => bound(numbers[0]),
        STEP_IDS => become_ids(step),
        STEP_DROP => drop_privileges(numbers),
        STEP_MKDIR => sys::mkdir(step.string(0), numbers[0] as u32).map(drop),
        STEP_SECCOMP => sys::install_filter(step.bytes(0)).map(drop),
        STEP_DETACHED => detached(state),
        STEP_COVER => cover(step, start),
        STEP_EXPECT => expect(step),
        STEP_READY => ready(state),
        _ => Err(sys::EINVAL),
    }
}

pub fn write_file(path: &CStr, value: &[u8]) -> sys::Result<()> {
    let fd = sys::open(path, sys::O_WRONLY)?;
    let written = sys::write(fd, value);
    sys::close(fd);
    written.map(drop)
}

/// The root becomes a clone of a directory, attached on that directory itself: `pivot_root(2)`
/// wants a mount point, and this one is known to exist.
fn root_bind(state: &mut Box, step: &Step) -> sys::Result<()> {
    let at = sys::open(step.string(0), sys::O_PATH | sys::O_DIRECTORY)?;
    state.root = sys::open_tree(at, c"", sys::OPEN_TREE_CLONE | sys::AT_EMPTY_PATH)?;
    sys::move_mount(state.root, at)?;
    sys::close(at);
    Ok(())
}

/// `mount(2)` and not the newer calls: its page of options holds the paths of some sixty layers,
/// where `fsconfig(2)` takes 256 bytes per option, and `lowerdir+` needs Linux 6.8.
fn root_overlay(state: &mut Box, step: &Step) -> sys::Result<()> {
    sys::chdir(step.string(2))?;
    if step.numbers[1] == 1 {
        mount_as_root(step)?;
    } else {
        mount_overlay(step)?;
    }
    state.root = sys::open(step.string(0), sys::O_PATH | sys::O_DIRECTORY)?;
    Ok(())
}

fn mount_overlay(step: &Step) -> sys::Result<()> {
    sys::mount(c"overlay", step.string(0), step.numbers[0], step.string(1)).map(drop)
}

/// What an overlay does in its layers it does with the ids of who mounted it, and those of root
/// outside are none that idmapped layers know. Done by a process between, because this one still
/// has to open what only root may.
fn mount_as_root(step: &Step) -> sys::Result<()> {
    let stack = sys::map(-1, 64 * 1024)?;
    let child = sys::borrow_memory(stack, enter_as_root, &raw const *step as usize)?;
    sys::unmap(stack);
    reaped(child)
}

extern "C" fn enter_as_root(argument: usize) -> ! {
    // SAFETY: `argument` is the step of the waiting parent, whose memory this process borrows.
    let step = unsafe { &*(argument as *const Step) };
    let mounted = sys::setresgid(0).and_then(|_| sys::setresuid(0)).map(drop);
    sys::exit(mounted.and_then(|()| mount_overlay(step)).err().unwrap_or(0))
}

/// Attaches a tree of the monitor's where the layers of an overlay are looked for.
fn cover(step: &Step, start: &Start) -> sys::Result<()> {
    let tree = *start.fds.get(step.numbers[0] as usize).ok_or(sys::EINVAL)?;
    let at = sys::open(step.string(0), sys::O_PATH | sys::O_DIRECTORY)?;
    sys::move_mount(tree, at)?;
    sys::close(at);
    sys::close(tree);
    Ok(())
}

/// A path in the new root, which no link on the way may turn elsewhere.
fn target(state: &Box, path: &CStr) -> sys::Result<i32> {
    let resolve = sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_SYMLINKS | sys::RESOLVE_NO_MAGICLINKS;
    sys::open_at(state.root, path, sys::O_PATH, 0, resolve)
}

fn attach_at(state: &Box, tree: i32, attributes: u64, path: &CStr) -> sys::Result<()> {
    sys::mount_setattr(tree, sys::AT_RECURSIVE, attributes)?;
    let at = target(state, path)?;
    sys::move_mount(tree, at)?;
    sys::close(at);
    sys::close(tree);
    Ok(())
}

fn bind(state: &Box, step: &Step) -> sys::Result<()> {
    let [attributes, flags, first, second] = step.numbers;
    let flag = |which| flags & which != 0;
    let clone = sys::OPEN_TREE_CLONE | sys::AT_RECURSIVE;
    let tree = sys::open_tree(sys::AT_FDCWD, step.string(0), clone)?;
    // Looked at on the clone: it is what will be seen, whatever the path leads to by now.
    if flags != 0 {
        let stat = sys::fstat(tree)?;
        let device = stat.mode & sys::S_IFMT == sys::S_IFCHR && stat.own_device == first;
        if flag(BIND_DEVICE) && !device {
            return Err(sys::ENODEV);
        }
        if flag(BIND_INODE) && (stat.device != first || stat.inode != second) {
            return Err(sys::ESTALE);
        }
    }
    attach_at(state, tree, attributes, step.string(1))
}

fn attach(state: &Box, step: &Step, start: &Start) -> sys::Result<()> {
    let tree = *start.fds.get(step.numbers[1] as usize).ok_or(sys::EINVAL)?;
    attach_at(state, tree, step.numbers[0], step.string(1))
}

fn mount(state: &Box, step: &Step) -> sys::Result<()> {
    let fs = sys::fsopen(step.string(0))?;
    let mut options = [0_u8; 256];
    let text = step.bytes(2);
    options.get_mut(..text.len()).ok_or(sys::EINVAL)?.copy_from_slice(text);
    for option in options[..text.len() + 1].split_mut(|byte| *byte == b',' || *byte == 0) {
        set_option(fs, option)?;
    }
    sys::fsconfig_create(fs)?;
    let tree = sys::fsmount(fs, step.numbers[0])?;
    sys::close(fs);
    let at = target(state, step.string(1))?;
    sys::move_mount(tree, at)?;
    sys::close(at);
    sys::close(tree);
    Ok(())
}

fn set_option(fs: i32, option: &mut [u8]) -> sys::Result<()> {
    let mut name = [0_u8; 64];
    let mut value = [0_u8; 256];
    let (left, right) = match option.iter().position(|byte| *byte == b'=') {
        _ if option.is_empty() => return Ok(()),
        Some(at) => (&option[..at], Some(&option[at + 1..])),
        None => (&option[..], None),
    };
    name.get_mut(..left.len()).ok_or(sys::EINVAL)?.copy_from_slice(left);
    if let Some(right) = right {
        value.get_mut(..right.len()).ok_or(sys::EINVAL)?.copy_from_slice(right);
    }
    let string = |bytes| CStr::from_bytes_until_nul(bytes).map_err(|_| sys::EINVAL);
    let value = if right.is_some() { Some(string(&value)?) } else { None };
    sys::fsconfig_set(fs, string(&name)?, value).map(drop)
}

/// Read-only, nosuid, nodev, noexec: what hides something does nothing else.
const MASK_ATTRIBUTES: u64 = 0x1 | 0x2 | 0x4 | 0x8;

fn mask(state: &mut Box, step: &Step) -> sys::Result<()> {
    let at = match target(state, step.string(0)) {
        Err(sys::ENOENT | sys::ENOTDIR) => return Ok(()),
        opened => opened?,
    };
    let directory = sys::fstat(at)?.mode & sys::S_IFMT == sys::S_IFDIR;
    let (tree, attributes) = if directory {
        (sys::open_tree(sys::AT_FDCWD, step.string(1), sys::OPEN_TREE_CLONE)?, MASK_ATTRIBUTES)
    } else {
        let clone = sys::OPEN_TREE_CLONE | sys::AT_EMPTY_PATH;
        // A device node must stay usable, or opening it is refused where it should read as empty.
        (sys::open_tree(null(state)?, c"", clone)?, MASK_ATTRIBUTES & !0x4)
    };
    sys::mount_setattr(tree, 0, attributes)?;
    sys::move_mount(tree, at)?;
    sys::close(at);
    sys::close(tree);
    Ok(())
}

/// `/dev/null`, opened and looked at once.
fn null(state: &mut Box) -> sys::Result<i32> {
    const NULL: u64 = 1 << 8 | 3;
    if state.null < 0 {
        let opened = sys::open(c"/dev/null", sys::O_PATH)?;
        if sys::fstat(opened)?.own_device != NULL {
            return Err(sys::ENODEV);
        }
        state.null = opened;
    }
    Ok(state.null)
}

fn readonly(state: &Box, step: &Step) -> sys::Result<()> {
    let at = match target(state, step.string(0)) {
        Err(sys::ENOENT | sys::ENOTDIR) => return Ok(()),
        opened => opened?,
    };
    let tree =
        sys::open_tree(at, c"", sys::OPEN_TREE_CLONE | sys::AT_EMPTY_PATH | sys::AT_RECURSIVE)?;
    sys::mount_setattr(tree, sys::AT_RECURSIVE, MASK_ATTRIBUTES)?;
    sys::move_mount(tree, at)?;
    sys::close(at);
    sys::close(tree);
    Ok(())
}

/// The old root is let go of by a process beside this one: the kernel waits for a grace period
/// before it does (0.7 ms), and no step before [`STEP_DETACHED`] depends on it.
fn pivot(state: &mut Box) -> sys::Result<()> {
    sys::fchdir(state.root)?;
    sys::pivot_here()?;
    state.detacher = sys::run_beside(sys::map(-1, 4096)?, detach)?;
    sys::chdir(c"/")?;
    sys::close(state.root);
    Ok(())
}

extern "C" fn detach(_: usize) -> ! {
    sys::exit(sys::detach_here().err().unwrap_or(0))
}

/// Nothing of the machine's is to be found from here on.
fn detached(state: &Box) -> sys::Result<()> {
    reaped(state.detacher)
}

/// Waits for a process whose exit code is an errno.
fn reaped(child: i32) -> sys::Result<()> {
    let status = loop {
        match sys::wait(child, true) {
            Err(sys::EINTR) | Ok(None) => {}
            Ok(Some((_, status))) => break status,
            Err(errno) => return Err(errno),
        }
    };
    match status {
        0 => Ok(()),
        exited if exited & 0x7f == 0 => Err(exited >> 8),
        _ => Err(sys::EIO),
    }
}

/// SIOCSIFFLAGS with IFF_UP for `lo`; the kernel gives it its addresses, netdevice(7).
fn loopback_up() -> sys::Result<()> {
    const SIOCSIFFLAGS: usize = 0x8914;
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    let mut request = Request { name: [0; 16], flags: 1, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    let socket = sys::socket_inet()?;
    let done = sys::ioctl_with(socket, SIOCSIFFLAGS, &mut request);
    sys::close(socket);
    done.map(drop)
}

fn set_limit(numbers: [u64; 4]) -> sys::Result<()> {
    let [resource, soft, hard, _] = numbers;
    if sys::set_limit(resource, soft, hard)? != [soft, hard] {
        return Err(sys::EIO);
    }
    Ok(())
}

const PR_SET_DUMPABLE: i32 = 4;
const PR_SET_PDEATHSIG: i32 = 1;
const PR_CAPBSET_DROP: i32 = 24;
const PR_SET_SECUREBITS: i32 = 28;
const PR_SET_NO_NEW_PRIVS: i32 = 38;
const PR_CAP_AMBIENT: i32 = 47;
/// All bits but keep-capabilities, and every lock, capabilities(7) "The securebits flags".
const SECURE_BITS: usize = 0b1110_1111;

/// Without ambient capabilities, and every lock: uid 0 keeps those that are left, and loses them
/// with its uid.
const SECURE_BITS_OF_ROOT: usize = 0b1100_1010;

/// While there still is CAP_SETPCAP: nothing may ever come back through uid 0 or a program file but
/// what is `kept`.
fn bound(kept: u64) -> sys::Result<()> {
    let bits = if kept == 0 { SECURE_BITS } else { SECURE_BITS_OF_ROOT };
    sys::prctl(PR_SET_SECUREBITS, bits, 0)?;
    for capability in 0.. {
        if capability < 64 && kept & 1 << capability != 0 {
            continue;
        }
        match sys::prctl(PR_CAPBSET_DROP, capability, 0) {
            Err(sys::EINVAL) => break,
            dropped => dropped?,
        };
    }
    const CLEAR_ALL: usize = 4;
    sys::prctl(PR_CAP_AMBIENT, CLEAR_ALL, 0).map(drop)
}

fn become_ids(step: &Step) -> sys::Result<()> {
    let [uid, gid, with_groups, _] = step.numbers;
    if with_groups == 1 {
        sys::setgroups(step.bytes(0))?;
    }
    sys::setresgid(gid as u32)?;
    sys::setresuid(uid as u32)?;
    Ok(())
}

fn drop_privileges(numbers: [u64; 4]) -> sys::Result<()> {
    let [kept, has_no_monitor, ..] = numbers;
    sys::drop_capabilities(kept)?;
    sys::prctl(PR_SET_NO_NEW_PRIVS, 1, 0)?;
    // A task of the same uid must not look into this process through /proc.
    sys::prctl(PR_SET_DUMPABLE, 0, 0)?;
    // After the ids, whose change forgets it: no container outlives its monitor. Another engine's
    // process may end in one of its threads only, which counts as an end here (prctl(2)).
    if has_no_monitor == 0 {
        sys::prctl(PR_SET_PDEATHSIG, sys::SIGKILL as usize, 0)?;
    }
    sys::umask(0o022);
    Ok(())
}

/// Whether what an engine mounted by its name is what the caller had opened.
fn expect(step: &Step) -> sys::Result<()> {
    let at = sys::open(step.string(0), sys::O_PATH | sys::O_NOFOLLOW)?;
    let stat = sys::fstat(at)?;
    sys::close(at);
    let [device, inode, ..] = step.numbers;
    if stat.device == device && stat.inode == inode { Ok(()) } else { Err(sys::ESTALE) }
}

/// Tells the owner what the kernel says of this process, to be compared with what was planned.
fn ready(state: &Box) -> sys::Result<()> {
    let memory = sys::map(-1, TEXT_BYTES_MAX)?;
    let mut length = 0;
    for path in [c"/proc/self/status", c"/proc/self/limits", c"/proc/self/mountinfo"] {
        let fd = sys::open(path, 0)?;
        loop {
            match sys::read(fd, &mut memory[length..]) {
                Err(errno) => return Err(errno),
                Ok(0) => break,
                Ok(bytes) => length += bytes,
            }
        }
        sys::close(fd);
    }
    send_with(state.control, READY, [0; 3], &memory[..length], None);
    sys::unmap(memory);
    Ok(())
}

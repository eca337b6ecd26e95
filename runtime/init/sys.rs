//! System calls of x86_64 Linux, one function each: references in, `Result` with the errno out.
//! Longer than the wall, as it is a table of calls, and the one place here that is not safe code.
//!
//! `init` has no libc: that is what keeps it at a few pages of memory and its start at the cost of
//! one `execve`. Numbers are those of `arch/x86/entry/syscalls/syscall_64.tbl`.

use core::arch::{asm, naked_asm};
use core::ffi::CStr;
use core::ptr::null;

/// What a call gives, or the errno as a positive number.
pub type Result<T> = core::result::Result<T, i32>;

pub const ENOENT: i32 = 2;
pub const EINTR: i32 = 4;
pub const EIO: i32 = 5;
pub const EBADF: i32 = 9;
pub const ECHILD: i32 = 10;
pub const EACCES: i32 = 13;
pub const EBUSY: i32 = 16;
pub const EISDIR: i32 = 21;
pub const ENODEV: i32 = 19;
pub const ENOTDIR: i32 = 20;
pub const EINVAL: i32 = 22;
pub const EOPNOTSUPP: i32 = 95;
pub const ESTALE: i32 = 116;

pub const O_WRONLY: u64 = 0o1;
pub const O_RDWR: u64 = 0o2;
pub const O_CREAT: u64 = 0o100;
pub const O_EXCL: u64 = 0o200;
pub const O_NOCTTY: u64 = 0o400;
pub const O_NONBLOCK: u64 = 0o4000;
pub const O_DIRECTORY: u64 = 0o200000;
pub const O_NOFOLLOW: u64 = 0o400000;
pub const O_CLOEXEC: u64 = 0o2000000;
pub const O_PATH: u64 = 0o10000000;

pub const AT_FDCWD: i32 = -100;
pub const AT_EMPTY_PATH: u64 = 0x1000;
pub const AT_REMOVEDIR: u64 = 0x200;
pub const AT_RECURSIVE: u64 = 0x8000;
pub const OPEN_TREE_CLONE: u64 = 1;
pub const MOVE_MOUNT_F_EMPTY_PATH: u64 = 0x4;
pub const MOVE_MOUNT_T_EMPTY_PATH: u64 = 0x40;
pub const RESOLVE_NO_XDEV: u64 = 0x01;
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub const RESOLVE_BENEATH: u64 = 0x08;
pub const RESOLVE_IN_ROOT: u64 = 0x10;

pub const CLONE_VM: u64 = 0x100;
pub const CLONE_VFORK: u64 = 0x4000;
pub const CLONE_PARENT: u64 = 0x8000;
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub const SIGKILL: i32 = 9;
pub const SIGCHLD: i32 = 17;
pub const SIGCONT: i32 = 18;
pub const SIGSTOP: i32 = 19;
pub const POLLIN: i16 = 1;

pub const S_IFMT: u32 = 0o170000;
pub const S_IFCHR: u32 = 0o020000;
pub const S_IFDIR: u32 = 0o040000;

/// The system call itself.
///
/// # Safety
/// Every argument that call `number` takes as a pointer must be valid for what the kernel does with
/// it.
unsafe fn raw(number: usize, a: [usize; 6]) -> Result<usize> {
    let value: isize;
    // SAFETY: the registers are those of the x86_64 convention (syscall(2)); the caller vouches for
    // the pointers; rcx and r11 are declared lost.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => value,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if value < 0 { Err(-value as i32) } else { Ok(value as usize) }
}

/// A call all of whose arguments are numbers or descriptors, so the kernel follows no pointer.
fn plain(number: usize, a: [usize; 5]) -> Result<usize> {
    // SAFETY: only called with calls that take no pointer, or a null one; see each caller.
    unsafe { raw(number, [a[0], a[1], a[2], a[3], a[4], 0]) }
}

/// A call whose only pointer is a path, in argument `at`.
fn with_path(number: usize, at: usize, path: &CStr, mut a: [usize; 5]) -> Result<usize> {
    a[at] = path.as_ptr() as usize;
    // SAFETY: `path` is a terminated string that outlives the call, and the only pointer.
    unsafe { raw(number, [a[0], a[1], a[2], a[3], a[4], 0]) }
}

pub fn read(fd: i32, into: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`.
    unsafe { raw(0, [fd as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0]) }
}

pub fn write(fd: i32, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads `bytes.len()` bytes of `bytes`.
    unsafe { raw(1, [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) }
}

pub fn close(fd: i32) {
    let _ = plain(3, [fd as usize, 0, 0, 0, 0]);
}

/// Closes every descriptor from `first` to `last`, `close_range(2)`, Linux 5.9.
pub fn close_range(first: i32, last: i32) -> Result<usize> {
    plain(436, [first as usize, last as usize, 0, 0, 0])
}

pub fn dup_to(fd: i32, target: i32, flags: u64) -> Result<usize> {
    plain(292, [fd as usize, target as usize, flags as usize, 0, 0])
}

/// A copy of `fd` with the lowest free number from `least` on, close-on-exec.
pub fn dup_above(fd: i32, least: i32) -> Result<i32> {
    const F_DUPFD_CLOEXEC: usize = 1030;
    Ok(plain(72, [fd as usize, F_DUPFD_CLOEXEC, least as usize, 0, 0])? as i32)
}

pub fn getpid() -> i32 {
    plain(39, [0; 5]).map_or(0, |pid| pid as i32)
}

pub fn setsid() {
    let _ = plain(112, [0; 5]);
}

pub fn umask(mask: u32) {
    let _ = plain(95, [mask as usize, 0, 0, 0, 0]);
}

pub fn kill(pid: i32, signal: i32) -> Result<usize> {
    plain(62, [pid as isize as usize, signal as usize, 0, 0, 0])
}

pub fn prctl(option: i32, a: usize, b: usize) -> Result<usize> {
    plain(157, [option as usize, a, b, 0, 0])
}

pub fn exit(code: i32) -> ! {
    let _ = plain(231, [code as usize, 0, 0, 0, 0]);
    loop {}
}

pub fn fchdir(fd: i32) -> Result<usize> {
    plain(81, [fd as usize, 0, 0, 0, 0])
}

pub fn chdir(path: &CStr) -> Result<usize> {
    with_path(80, 0, path, [0; 5])
}

/// Length of the path of the working directory with its zero, written to `into`.
pub fn getcwd(into: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`.
    unsafe { raw(79, [into.as_mut_ptr() as usize, into.len(), 0, 0, 0, 0]) }
}

pub fn mkdir(path: &CStr, mode: u32) -> Result<usize> {
    with_path(83, 0, path, [0, mode as usize, 0, 0, 0])
}

pub fn rmdir(path: &CStr) -> Result<usize> {
    with_path(84, 0, path, [0; 5])
}

/// Removes a file, or a directory with `AT_REMOVEDIR`.
pub fn unlink_at(directory: i32, name: &CStr, flags: u64) -> Result<usize> {
    with_path(263, 1, name, [directory as isize as usize, 0, flags as usize, 0, 0])
}

/// `fchmodat(2)`: follows links.
pub fn chmod_at(directory: i32, name: &CStr, mode: u32) -> Result<usize> {
    with_path(268, 1, name, [directory as isize as usize, 0, mode as usize, 0, 0])
}

/// Entries of a directory, `getdents64(2)`, written to `into`: their bytes, 0 at the end.
pub fn list(directory: i32, into: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`.
    unsafe { raw(217, [directory as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0]) }
}

/// Goes back to the beginning of a directory.
pub fn rewind(directory: i32) -> Result<usize> {
    plain(8, [directory as usize, 0, 0, 0, 0])
}

/// Whether a file has extended attributes that its owner can set, or more than can be looked at:
/// `user.` and access control lists, xattr(7).
pub fn has_user_attributes(fd: i32) -> bool {
    let mut names = [0_u8; 1024];
    // SAFETY: the kernel writes at most `names.len()` bytes to `names`.
    let listed =
        unsafe { raw(196, [fd as usize, names.as_mut_ptr() as usize, names.len(), 0, 0, 0]) };
    let owners = |name: &[u8]| name.starts_with(b"user.") || name.starts_with(b"system.posix_acl");
    match listed {
        Ok(bytes) => names[..bytes].split(|byte| *byte == 0).any(owners),
        Err(EOPNOTSUPP) => false,
        Err(_) => true,
    }
}

pub fn sethostname(name: &CStr) -> Result<usize> {
    with_path(170, 0, name, [0, name.to_bytes().len(), 0, 0, 0])
}

pub fn open(path: &CStr, flags: u64) -> Result<i32> {
    open_at(AT_FDCWD, path, flags, 0, 0)
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `openat2(2)`, Linux 5.6; always close-on-exec.
pub fn open_at(dir: i32, path: &CStr, flags: u64, mode: u32, resolve: u64) -> Result<i32> {
    let how = OpenHow { flags: flags | O_CLOEXEC, mode: mode as u64, resolve };
    let size = size_of::<OpenHow>();
    // SAFETY: `path` is terminated, `how` is an `open_how` of the size given, both outlive the
    // call.
    let fd = unsafe {
        raw(437, [dir as usize, path.as_ptr() as usize, &raw const how as usize, size, 0, 0])
    }?;
    Ok(fd as i32)
}

/// The part of `struct stat` that is looked at.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stat {
    pub device: u64,
    pub inode: u64,
    links: u64,
    pub mode: u32,
    ids: [u32; 3],
    pub own_device: u64,
    rest: [u64; 13],
}

pub fn fstat(fd: i32) -> Result<Stat> {
    let mut stat =
        Stat { device: 0, inode: 0, links: 0, mode: 0, ids: [0; 3], own_device: 0, rest: [0; 13] };
    // SAFETY: `Stat` has the 144 bytes of x86_64's `struct stat`, which the kernel fills.
    unsafe { raw(5, [fd as usize, &raw mut stat as usize, 0, 0, 0, 0]) }?;
    Ok(stat)
}

/// Private, writable copy of `bytes` bytes of `fd`, or fresh memory if `fd` is -1.
pub fn map(fd: i32, bytes: usize) -> Result<&'static mut [u8]> {
    let flags = if fd < 0 { 0x22 } else { 0x2 };
    // SAFETY: a null hint lets the kernel choose where; nothing else is a pointer.
    let start = unsafe { raw(9, [0, bytes, 3, flags, fd as isize as usize, 0]) }?;
    // SAFETY: the kernel just made `bytes` readable and writable bytes there, used by nobody else,
    // which stay until `unmap` takes the slice.
    Ok(unsafe { core::slice::from_raw_parts_mut(start as *mut u8, bytes) })
}

pub fn unmap(memory: &'static mut [u8]) {
    // SAFETY: the slice came from `map` and is given up here.
    let _ = unsafe { raw(11, [memory.as_mut_ptr() as usize, memory.len(), 0, 0, 0, 0]) };
}

pub fn open_tree(dir: i32, path: &CStr, flags: u64) -> Result<i32> {
    let fd = with_path(428, 1, path, [dir as usize, 0, (flags | O_CLOEXEC) as usize, 0, 0])?;
    Ok(fd as i32)
}

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Sets attributes of a mount, and of those below it if `flags` says so; `mount_setattr(2)`, 5.12.
pub fn mount_setattr(fd: i32, flags: u64, set: u64) -> Result<usize> {
    change_mount(fd, flags, MountAttributes { set, clear: 0, propagation: 0, userns: 0 })
}

/// Has a detached mount show the ids of the machine as those of the same number in a user
/// namespace, Linux 5.12.
pub fn mount_idmap(fd: i32, userns: i32) -> Result<usize> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let userns = userns as u64;
    let attributes = MountAttributes { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns };
    change_mount(fd, 0, attributes)
}

/// Takes a mount and all below it out of every peer group, so that nothing that is mounted later
/// appears in it or leaves it.
pub fn make_tree_private(fd: i32) -> Result<usize> {
    const MS_PRIVATE: u64 = 1 << 18;
    let propagation = MS_PRIVATE;
    change_mount(fd, AT_RECURSIVE, MountAttributes { set: 0, clear: 0, propagation, userns: 0 })
}

fn change_mount(fd: i32, flags: u64, attributes: MountAttributes) -> Result<usize> {
    let path = c"".as_ptr() as usize;
    let at = &raw const attributes as usize;
    let size = size_of::<MountAttributes>();
    let flags = (flags | AT_EMPTY_PATH) as usize;
    // SAFETY: the path is empty and terminated, `attributes` has the size given; both outlive the
    // call.
    unsafe { raw(442, [fd as usize, path, flags, at, size, 0]) }
}

/// Attaches the detached mount `tree` on `target`, both by descriptor; `move_mount(2)`, 5.2.
pub fn move_mount(tree: i32, target: i32) -> Result<usize> {
    let empty = c"".as_ptr() as usize;
    let flags = (MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) as usize;
    // SAFETY: both paths are empty and terminated.
    unsafe { raw(429, [tree as usize, empty, target as usize, empty, flags, 0]) }
}

pub fn fsopen(kind: &CStr) -> Result<i32> {
    Ok(with_path(430, 0, kind, [0, 1, 0, 0, 0])? as i32)
}

/// `fsconfig(2)`: sets `name` to `value`, or the flag `name` if there is no value.
pub fn fsconfig_set(fs: i32, name: &CStr, value: Option<&CStr>) -> Result<usize> {
    let (command, at) = match value {
        Some(value) => (1, value.as_ptr()),
        None => (0, null()),
    };
    // SAFETY: `name` is terminated, `value` is terminated or null as the command wants it.
    unsafe { raw(431, [fs as usize, command, name.as_ptr() as usize, at as usize, 0, 0]) }
}

pub fn fsconfig_create(fs: i32) -> Result<usize> {
    plain(431, [fs as usize, 6, 0, 0, 0])
}

pub fn fsmount(fs: i32, attributes: u64) -> Result<i32> {
    Ok(plain(432, [fs as usize, 1, attributes as usize, 0, 0])? as i32)
}

/// `mount(2)` of a new `kind` on the directory `target` with a page of options.
pub fn mount(kind: &CStr, target: &CStr, flags: u64, options: &CStr) -> Result<usize> {
    let kind = kind.as_ptr() as usize;
    let options = options.as_ptr() as usize;
    // SAFETY: all three are terminated strings; the kernel copies a page from `options` at most and
    // stops at the end of readable memory (mount(2), "data").
    unsafe { raw(165, [kind, target.as_ptr() as usize, kind, flags as usize, options, 0]) }
}

/// Makes every mount of this namespace private, `mount(2)` with `MS_REC|MS_PRIVATE`.
pub fn make_private() -> Result<usize> {
    with_path(165, 1, c"/", [0, 0, 0, 0x44000, 0])
}

/// `pivot_root(".", ".")`: afterwards the old root lies on top of the new one.
pub fn pivot_here() -> Result<usize> {
    let here = c".".as_ptr() as usize;
    // SAFETY: both paths are terminated.
    unsafe { raw(155, [here, here, 0, 0, 0, 0]) }
}

/// Lets go of what is mounted on the working directory, and of all below it, `umount2(2)` with
/// `MNT_DETACH`.
pub fn detach_here() -> Result<usize> {
    with_path(166, 0, c".", [0, 2, 0, 0, 0])
}

pub fn setresuid(uid: u32) -> Result<usize> {
    plain(117, [uid as usize, uid as usize, uid as usize, 0, 0])
}

pub fn setresgid(gid: u32) -> Result<usize> {
    plain(119, [gid as usize, gid as usize, gid as usize, 0, 0])
}

/// `setgroups(2)`; `groups` are u32s, one behind the other.
pub fn setgroups(groups: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads as many u32s as there are; x86_64 asks for no alignment.
    unsafe { raw(116, [groups.len() / 4, groups.as_ptr() as usize, 0, 0, 0, 0]) }
}

/// Leaves the effective and the permitted set with the capabilities whose bits are set in `kept`,
/// and the inheritable one with none, `capset(2)` version 3.
pub fn drop_capabilities(kept: u64) -> Result<usize> {
    let header = [0x2008_0522_u32, 0];
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: a header of two words and six words of sets are what version 3 reads.
    unsafe { raw(126, [&raw const header as usize, &raw const sets as usize, 0, 0, 0, 0]) }
}

/// Sets and reads back a resource limit, `prlimit64(2)`.
pub fn set_limit(resource: u64, soft: u64, hard: u64) -> Result<[u64; 2]> {
    let new = [soft, hard];
    let mut now = [0_u64; 2];
    let at = &raw const new as usize;
    // SAFETY: `new` is a `rlimit64` that outlives the call; a null old limit is allowed.
    unsafe { raw(302, [0, resource as usize, at, 0, 0, 0]) }?;
    // SAFETY: a null new limit is allowed; `now` is a `rlimit64` for the kernel to fill.
    unsafe { raw(302, [0, resource as usize, 0, &raw mut now as usize, 0, 0]) }?;
    Ok(now)
}

/// Installs the filter whose `sock_filter`s are `program`, `seccomp(2)`.
pub fn install_filter(program: &[u8]) -> Result<usize> {
    #[repr(C)]
    struct Program {
        count: u16,
        start: *const u8,
    }
    let program = Program { count: (program.len() / 8) as u16, start: program.as_ptr() };
    // SAFETY: `program` is a `sock_fprog` whose filters outlive the call.
    unsafe { raw(317, [1, 0, &raw const program as usize, 0, 0, 0]) }
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program, `bpf(2)`.
pub fn load_device_program(code: &[u8]) -> Result<i32> {
    const BPF_PROG_LOAD: usize = 5;
    const CGROUP_DEVICE: u64 = 15;
    let license = c"Apache-2.0";
    // union bpf_attr: type and count, instructions, license; the rest is not used.
    let kind_and_count = CGROUP_DEVICE | (code.len() as u64 / 8) << 32;
    let attributes = [kind_and_count, code.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0];
    let size = size_of_val(&attributes);
    // SAFETY: `attributes` names `code` with its length and a terminated license; all outlive the
    // call.
    let fd = unsafe { raw(321, [BPF_PROG_LOAD, attributes.as_ptr() as usize, size, 0, 0, 0]) }?;
    Ok(fd as i32)
}

/// Attaches such a program to a cgroup beside those that are there, `bpf(2)`.
pub fn attach_device_program(cgroup: i32, program: i32) -> Result<usize> {
    const BPF_PROG_ATTACH: usize = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attributes = [cgroup as u32, program as u32, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI];
    let size = size_of_val(&attributes);
    // SAFETY: `attributes` is the part of `bpf_attr` that this command reads.
    unsafe { raw(321, [BPF_PROG_ATTACH, attributes.as_ptr() as usize, size, 0, 0, 0]) }
}

#[repr(C)]
pub struct Poll {
    pub fd: i32,
    pub events: i16,
    pub happened: i16,
}

/// Waits until one of `fds` is ready, `ppoll(2)`; for at most `ms` milliseconds if it is not
/// negative.
pub fn poll(fds: &mut [Poll], ms: i64) -> Result<usize> {
    let time = [ms / 1000, ms % 1000 * 1_000_000];
    let at = if ms < 0 { 0 } else { &raw const time as usize };
    // SAFETY: `fds` are `pollfd`s; the time is a `timespec` or null; the signal mask is null.
    unsafe { raw(271, [fds.as_mut_ptr() as usize, fds.len(), at, 0, 8, 0]) }
}

/// Blocks (or, with `block` false, unblocks) every signal.
pub fn block_signals(block: bool) {
    let all = if block { u64::MAX } else { 0 };
    // SAFETY: the new mask is 8 bytes that outlive the call; the old one is not wanted.
    let _ = unsafe { raw(14, [2, &raw const all as usize, 0, 8, 0, 0]) };
}

/// Gives every signal its default action, as a program expects to be started: what the owner
/// ignores would stay ignored through `execve(2)`. Those that cannot be changed stay.
pub fn default_signals() {
    let action = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: `action` is a kernel `sigaction` (handler, flags, restorer, mask) of zeros, which
        // is SIG_DFL, and outlives the call; the old one is not wanted.
        let _ = unsafe { raw(13, [signal, &raw const action as usize, 0, 8, 0, 0]) };
    }
}

/// A descriptor that is readable when a child has ended, `signalfd4(2)`.
pub fn child_signals() -> Result<i32> {
    let mask = 1_u64 << (SIGCHLD - 1);
    let flags = (O_CLOEXEC | O_NONBLOCK) as usize;
    // SAFETY: the mask is 8 bytes that outlive the call.
    let fd = unsafe { raw(289, [usize::MAX, &raw const mask as usize, 8, flags, 0, 0]) }?;
    Ok(fd as i32)
}

/// Child `pid`, or any with -1, that has ended: pid, wait status. `None`: none has, if not to
/// `hang`.
pub fn wait(pid: i32, hang: bool) -> Result<Option<(i32, i32)>> {
    let mut status = 0_i32;
    let options = if hang { 0x4000_0000 } else { 0x4000_0001 };
    // SAFETY: `status` is for the kernel to fill; resource use is not wanted here.
    let pid =
        unsafe { raw(61, [pid as isize as usize, &raw mut status as usize, options, 0, 0, 0]) }?;
    Ok(if pid == 0 { None } else { Some((pid as i32, status)) })
}

/// Processor time in µs and size in KiB of the largest of all children that were waited for.
pub fn children_usage() -> (u64, u64) {
    let mut usage = [0_u64; 18];
    // SAFETY: a `rusage` is 144 bytes for the kernel to fill; RUSAGE_CHILDREN is -1.
    let _ = unsafe { raw(98, [usize::MAX, &raw mut usage as usize, 0, 0, 0, 0]) };
    ((usage[0] + usage[2]) * 1_000_000 + usage[1] + usage[3], usage[4])
}

#[repr(C)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A child process in new namespaces, `clone3(2)`: its pid, or 0 in it. With `CLONE_PARENT` its
/// parent is this process's parent, and the kernel wants no exit signal.
pub fn clone(flags: u64, cgroup: Option<i32>) -> Result<i32> {
    let exit_signal = if flags & CLONE_PARENT == 0 { SIGCHLD as u64 } else { 0 };
    let (flags, cgroup) = match cgroup {
        Some(fd) => (flags | CLONE_INTO_CGROUP, fd as u64),
        None => (flags, 0),
    };
    let arguments = CloneArguments {
        flags,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    let at = &raw const arguments as usize;
    // SAFETY: `arguments` has the size given; without CLONE_VM the child has memory of its own.
    Ok(unsafe { raw(435, [at, size_of::<CloneArguments>(), 0, 0, 0, 0]) }? as i32)
}

/// Runs `entry` with `argument` in a child that borrows this process's memory until it ends, so
/// that no page table is copied; this process waits meanwhile (`CLONE_VM|CLONE_VFORK`).
pub fn borrow_memory(
    stack: &mut [u8],
    entry: extern "C" fn(usize) -> !,
    argument: usize,
) -> Result<i32> {
    share_memory(CLONE_VFORK, stack, entry, argument)
}

/// Runs `entry`, which takes nothing from this process's memory, in a child beside it.
pub fn run_beside(stack: &'static mut [u8], entry: extern "C" fn(usize) -> !) -> Result<i32> {
    share_memory(0, stack, entry, 0)
}

fn share_memory(
    flags: u64,
    stack: &mut [u8],
    entry: extern "C" fn(usize) -> !,
    argument: usize,
) -> Result<i32> {
    let top = (stack.as_mut_ptr() as usize + stack.len()) & !15;
    let flags = (CLONE_VM | flags) as usize | SIGCHLD as usize;
    let pid = clone_on(flags, top, entry, argument);
    if pid < 0 { Err(-pid as i32) } else { Ok(pid as i32) }
}

/// `clone(2)` on a stack of its own; the child calls `entry(argument)` and never returns.
#[unsafe(naked)]
extern "C" fn clone_on(
    flags: usize,
    stack: usize,
    entry: extern "C" fn(usize) -> !,
    argument: usize,
) -> isize {
    naked_asm!(
        "mov r8, rdx",
        "mov r9, rcx",
        "xor edx, edx",
        "xor r10d, r10d",
        "mov eax, 56",
        "syscall",
        "test rax, rax",
        "jnz 2f",
        "xor ebp, ebp",
        "mov rdi, r9",
        "call r8",
        "2: ret",
    )
}

pub fn pidfd_open(pid: i32) -> Result<i32> {
    Ok(plain(434, [pid as usize, 0, 0, 0, 0])? as i32)
}

/// `execve(2)`; returns only the errno.
///
/// # Safety
/// `arguments` and `variables` must be null-terminated arrays of pointers to terminated strings.
pub unsafe fn execve(path: &CStr, arguments: usize, variables: usize) -> i32 {
    // SAFETY: the caller vouches for both arrays; `path` is terminated.
    match unsafe { raw(59, [path.as_ptr() as usize, arguments, variables, 0, 0, 0]) } {
        Err(errno) => errno,
        Ok(_) => EIO,
    }
}

/// Whether `path` exists, `access(2)` with `F_OK`.
pub fn exists(path: &CStr) -> bool {
    with_path(21, 0, path, [0; 5]).is_ok()
}

pub fn sleep_ms(ms: u64) {
    let time = [ms / 1000, ms % 1000 * 1_000_000];
    // SAFETY: a `timespec` that outlives the call; the rest is not wanted.
    let _ = unsafe { raw(35, [&raw const time as usize, 0, 0, 0, 0, 0]) };
}

pub fn pipe() -> Result<[i32; 2]> {
    let mut ends = [0_i32; 2];
    // SAFETY: room for two descriptors.
    unsafe { raw(293, [&raw mut ends as usize, O_CLOEXEC as usize, 0, 0, 0, 0]) }?;
    Ok(ends)
}

pub fn socket_inet() -> Result<i32> {
    Ok(plain(41, [2, 2 | O_CLOEXEC as usize, 0, 0, 0])? as i32)
}

/// A socket that keeps messages apart, connected to the one at `path`, connect(2).
pub fn connect(path: &CStr) -> Result<i32> {
    #[repr(C)]
    struct Address {
        family: u16,
        path: [u8; 108],
    }
    const UNIX: usize = 1;
    const SEQPACKET: usize = 5;
    let mut address = Address { family: UNIX as u16, path: [0; 108] };
    let text = path.to_bytes_with_nul();
    address.path.get_mut(..text.len()).ok_or(EINVAL)?.copy_from_slice(text);
    let socket = plain(41, [UNIX, SEQPACKET | O_CLOEXEC as usize, 0, 0, 0])?;
    let at = &raw const address as usize;
    // SAFETY: `address` is a `sockaddr_un` of the size given and outlives the call.
    unsafe { raw(42, [socket, at, size_of::<Address>(), 0, 0, 0]) }?;
    Ok(socket as i32)
}

/// `ioctl(2)` whose argument is a number.
pub fn ioctl(fd: i32, operation: usize, argument: usize) -> Result<usize> {
    plain(16, [fd as usize, operation, argument, 0, 0])
}

/// `ioctl(2)` whose argument is a structure, which must be the one that `operation` takes.
pub fn ioctl_with<T>(fd: i32, operation: usize, argument: &mut T) -> Result<usize> {
    // SAFETY: callers pair each operation with its structure; it outlives the call.
    unsafe { raw(16, [fd as usize, operation, argument as *mut T as usize, 0, 0, 0]) }
}

#[repr(C)]
struct Vector {
    start: usize,
    bytes: usize,
}

#[repr(C)]
struct Header {
    name: usize,
    name_bytes: u32,
    vectors: usize,
    vector_count: usize,
    control: usize,
    control_bytes: usize,
    flags: i32,
}

/// Sends `parts` as one message with a descriptor beside it if there is one, `sendmsg(2)`.
pub fn send(socket: i32, parts: [&[u8]; 2], fd: Option<i32>) -> Result<usize> {
    let vectors = parts.map(|part| Vector { start: part.as_ptr() as usize, bytes: part.len() });
    // cmsghdr: length 20, SOL_SOCKET, SCM_RIGHTS, the descriptor.
    let control = [20_u64, 1 | 1 << 32, fd.unwrap_or(0) as u64];
    let header = Header {
        name: 0,
        name_bytes: 0,
        vectors: vectors.as_ptr() as usize,
        vector_count: 2,
        control: if fd.is_some() { &raw const control as usize } else { 0 },
        control_bytes: if fd.is_some() { size_of_val(&control) } else { 0 },
        flags: 0,
    };
    // SAFETY: `header` points to parts that outlive the call; MSG_NOSIGNAL is 0x4000.
    unsafe { raw(46, [socket as usize, &raw const header as usize, 0x4000, 0, 0, 0]) }
}

/// Receives one message and the descriptors beside it: bytes and count. No bytes: the other side
/// is gone.
pub fn receive(socket: i32, into: &mut [u8], fds: &mut [i32]) -> Result<(usize, usize)> {
    const CONTROL_WORDS: usize = 2 + crate::protocol::DESCRIPTORS_MAX / 2;
    let mut control = [0_u64; CONTROL_WORDS];
    let vector = Vector { start: into.as_mut_ptr() as usize, bytes: into.len() };
    let mut header = Header {
        name: 0,
        name_bytes: 0,
        vectors: &raw const vector as usize,
        vector_count: 1,
        control: control.as_mut_ptr() as usize,
        control_bytes: size_of_val(&control),
        flags: 0,
    };
    // SAFETY: all that `header` points to outlives the call; MSG_CMSG_CLOEXEC is 0x40000000.
    let bytes =
        unsafe { raw(47, [socket as usize, &raw mut header as usize, 0x4000_0000, 0, 0, 0]) }?;
    let count =
        if header.control_bytes < 16 { 0 } else { (control[0] as usize).saturating_sub(16) / 4 };
    for (at, fd) in fds.iter_mut().take(count).enumerate() {
        *fd = (control[2 + at / 2] >> (at % 2 * 32)) as i32;
    }
    Ok((bytes, count.min(fds.len())))
}

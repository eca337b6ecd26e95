"""Tells what a process can see and do here, as one JSON object on standard output.

Runs inside a sandbox, and by itself as the control: the same acts without the protection. Needs only
the standard library of Python >= 3.8 on x86_64. Called as ``python3 -c SCRIPT '{"sections": [...]}'``;
each section is a function below, and further keys of the object are its parameters.

Every act that could change or end this process happens in a forked child, so that acts do not
influence each other. An act answers ``ok``, the name of its errno, or the name of the signal that
ended the child.
"""
import ctypes
import errno
import glob
import json
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
SECTIONS = {}


def section(function):
    """Makes a function callable by its name."""
    SECTIONS[function.__name__] = function
    return function


def attempt(act):
    """Runs ``act`` in a child and tells how it went."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            answer = act()
            answer = answer if isinstance(answer, str) else "ok"
        except OSError as error:
            answer = errno.errorcode.get(error.errno, str(error.errno))
        except BaseException as error:  # the child must not return into the parent's code
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read().decode()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return answer or "no answer"


def call(number, *arguments):
    """One raw system call; raises OSError as Python's own calls do."""
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = LIBC.syscall(ctypes.c_long(number), *longs)
    if result == -1:
        raise OSError(ctypes.get_errno(), "system call %d" % number)
    return result


def read(path):
    """The text of a file, or the name of the errno."""
    try:
        with open(path, errors="replace") as stream:
            return stream.read()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


def open_as(path, flags):
    """Whether a path can be opened; nothing is read or written."""
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))
        return "ok"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


@section
def identity(_):
    """Ids, capabilities, and what `/proc/self/status` says of protections."""
    wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    lines = dict(line.split(":\t", 1) for line in read("/proc/self/status").splitlines() if ":\t" in line)
    return {
        "uids": list(os.getresuid()),
        "gids": list(os.getresgid()),
        "groups": sorted(os.getgroups()),
        "status": {name: lines.get(name, "").strip() for name in wanted},
        "securebits": LIBC.prctl(27, 0, 0, 0, 0),
        "dumpable": LIBC.prctl(3, 0, 0, 0, 0),
        "umask": attempt(lambda: oct(os.umask(0))),
        "cwd": os.getcwd(),
        "session_leader_is_self_or_init": os.getsid(0),
        "signals_blocked": sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "signals_ignored": [
            name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")
            if int(read("/proc/self/status").split("SigIgn:\t")[1].split()[0], 16)
            >> (getattr(signal, name) - 1) & 1
        ],
        "oom_score_adj": read("/proc/self/oom_score_adj").strip(),
        "uid_map": read("/proc/self/uid_map").split(),
    }


@section
def namespaces(_):
    """Identity of each namespace, to be compared with the outside view."""
    names = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time")
    answer = {}
    for name in names:
        try:
            answer[name] = os.readlink("/proc/self/ns/" + name)
        except OSError as error:
            answer[name] = errno.errorcode.get(error.errno, "?")
    return answer


@section
def processes(parameters):
    """Which processes are visible, and what can be done to one of the host."""
    target = parameters.get("process", 0)
    answer = {
        "visible": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "init_environ": read("/proc/1/environ") if os.getpid() != 1 else "",
        "init_root_same": os.path.exists("/proc/1/root")
        and open_as("/proc/1/root", os.O_RDONLY) == "ok"
        and os.path.samefile("/proc/1/root", "/"),
    }
    if target:
        answer["signal"] = attempt(lambda: os.kill(target, 0))
        answer["trace"] = attempt(lambda: call(101, 16, target, 0, 0))
        for name in ("environ", "mem", "root/etc/passwd", "cwd"):
            answer["proc_" + name.split("/")[0]] = open_as(f"/proc/{target}/{name}", os.O_RDONLY)
    return answer


@section
def descriptors(_):
    """What is open, as (number, target). The listing's own descriptor is left out."""
    listing = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    found = {}
    for name in os.listdir(listing):
        if int(name) != listing:
            try:
                found[name] = os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue  # the descriptor that listdir itself made
    os.close(listing)
    return found


@section
def devices(parameters):
    """Names and kinds in `/dev`, and what can be opened of it or of nodes that an image brought."""
    answer = {}
    for name in sorted(os.listdir("/dev")):
        mode = os.lstat("/dev/" + name).st_mode
        kind = [k for k in ("CHR", "BLK", "DIR", "LNK", "REG", "SOCK", "FIFO") if getattr(stat, f"S_IS{k}")(mode)]
        answer[name] = kind[0].lower()
    opened = {path: open_as(path, os.O_RDWR) for path in parameters.get("open_devices", [])}
    return {"names": answer, "opened": opened}


@section
def mounts(_):
    """Each mount: target, filesystem, per-mount options, superblock options, propagation."""
    table = []
    for line in read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        kind, source, options = (right.split() + ["", "", ""])[:3]
        table.append({
            "target": fields[4], "root": fields[3], "options": fields[5].split(","), "propagation": fields[6:],
            "kind": kind, "source": source, "superblock": options.split(","),
        })
    return table


@section
def masked(_):
    """What the files and directories that tell about the machine read as, in bytes or entries."""
    paths = (
        "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug "
        "/proc/scsi /proc/timer_list /proc/timer_stats /proc/kallsyms /proc/kmsg /proc/config.gz /proc/modules "
        "/sys/firmware /sys/kernel /sys/fs/cgroup /sys/fs/bpf /sys/devices/virtual/powercap"
    ).split()
    answer = {}
    for path in paths:
        try:
            if os.path.isdir(path):
                answer[path] = len(os.listdir(path))
            else:
                with open(path, "rb", opener=lambda p, f: os.open(p, f | os.O_NONBLOCK)) as stream:
                    answer[path] = len(stream.read(4096))
        except OSError as error:
            answer[path] = errno.errorcode.get(error.errno, str(error.errno))
    return answer


def iovec(buffer):
    """A `struct iovec` for a ctypes buffer."""
    return ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(buffer), len(buffer)))


def alone(act):
    """Runs ``act`` in mount and UTS namespaces of its own, so that it cannot disturb other acts.

    Where those cannot be made, neither can the act succeed, or it is what keeps them from being made.
    """
    def run():
        try:
            call(272, NEW["mnt"] | NEW["uts"])
            call(165, b"none", b"/", b"", 0x44000, 0)  # MS_REC | MS_PRIVATE
        except OSError:
            pass
        return act()

    return run


def clone_new_user():
    """`clone(2)` with a new user namespace; the child ends at once."""
    pid = call(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def set_namespace():
    """`setns(2)` to the UTS namespace that this process is already in."""
    descriptor = os.open("/proc/self/ns/uts", os.O_RDONLY)
    call(308, descriptor, 0x04000000)


def make_node(kind, major, minor):
    """`mknod(2)` in `/tmp`, removed at once."""
    path = "/tmp/node-%d" % os.getpid()
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    os.unlink(path)


def splice_memory():
    """`vmsplice(2)` of one page into a pipe."""
    _, writer = os.pipe()
    buffer = ctypes.create_string_buffer(64)
    call(278, writer, iovec(buffer), 1, 0)


def file_handle():
    """`name_to_handle_at(2)` of `/tmp`."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 120, 0) + bytes(120))
    mount_id = ctypes.c_int(0)
    call(303, -100, b"/tmp", handle, ctypes.byref(mount_id), 0)


def open_handle():
    """`open_by_handle_at(2)` with a handle of no filesystem."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 8, 1) + bytes(8))
    call(304, os.open("/tmp", os.O_RDONLY), handle, 0)


def trace_me():
    """`PTRACE_TRACEME`."""
    call(101, 0, 0, 0, 0)


def read_own_memory(number):
    """`process_vm_readv(2)` or `process_vm_writev(2)` on this process itself."""
    source, target = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    call(number, os.getpid(), iovec(source), 1, iovec(target), 1, 0)


def bpf_array():
    """`bpf(2)`, BPF_MAP_CREATE of an array."""
    call(321, 0, ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1) + bytes(112)), 128)


def perf_clock():
    """`perf_event_open(2)` of this task's own clock, user side only."""
    attributes = struct.pack("IIQQQQ", 1, 112, 0, 0, 0, 0) + struct.pack("Q", 1 << 5 | 1 << 6) + bytes(64)
    call(298, ctypes.create_string_buffer(attributes), 0, -1, -1, 0)


ZEROS = ctypes.create_string_buffer(256)
NEW = {
    "mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000,
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "time": 0x00000080,
}
# Numbers are those of arch/x86/entry/syscalls/syscall_64.tbl.
ACTS = {
    "clone_newuser": clone_new_user,
    "clone3": lambda: call(435, 0, 0),
    "setns": set_namespace,
    "mknod_char": lambda: make_node(stat.S_IFCHR, 1, 3),
    "mknod_block": lambda: make_node(stat.S_IFBLK, 7, 0),
    "mknod_whiteout": lambda: make_node(stat.S_IFCHR, 0, 0),
    "chroot": lambda: os.chroot("/tmp"),
    "mount_tmpfs": lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, 0),
    "mount_bind": lambda: call(165, b"/tmp", b"/tmp", b"", 4096, 0),
    "mount_remount_rw": lambda: call(165, b"none", b"/", b"", 32 | 4096, 0),
    "mount_proc": lambda: call(165, b"proc", b"/tmp", b"proc", 0, 0),
    "mount_cgroup_v1": lambda: call(165, b"cgroup", b"/tmp", b"cgroup", 0, b"freezer"),
    "mount_cgroup_v2": lambda: call(165, b"cgroup2", b"/tmp", b"cgroup2", 0, 0),
    "umount": lambda: call(166, b"/proc", 2),
    "pivot_root": lambda: call(155, b".", b"."),
    "fsopen": lambda: call(430, b"tmpfs", 0),
    "open_tree": lambda: call(428, -100, b"/tmp", 1),
    "move_mount": lambda: call(429, -1, b"", -1, b"", 0),
    "mount_setattr": lambda: call(442, -100, b"/tmp", 0, ZEROS, 32),
    "fspick": lambda: call(433, -100, b"/proc", 0),
    "swapon": lambda: call(167, b"/nonexistent", 0),
    "swapoff": lambda: call(168, b"/nonexistent"),
    "kexec_load": lambda: call(246, 0, 999, 0, 0),
    "reboot": lambda: call(169, 0, 0, 0, 0),
    "init_module": lambda: call(175, ZEROS, 16, b""),
    "delete_module": lambda: call(176, b"nonexistent", 0x800),
    "iopl": lambda: call(172, 0),
    "ioperm": lambda: call(173, 0x80, 1, 1),
    "acct": lambda: call(163, b"/nonexistent"),
    "syslog": lambda: call(103, 10, 0, 0),
    "clock_settime": lambda: call(227, 99, ZEROS),
    "adjtimex": lambda: call(159, ZEROS),
    "clock_adjtime": lambda: call(305, 0, ZEROS),
    "sethostname": lambda: call(170, b"other", 5),
    "setdomainname": lambda: call(171, b"other", 5),
    "keyctl": lambda: call(250, 0, -3, 0),
    "keyctl_search": lambda: call(250, 10, -4, b"user", b"canary", 0),
    "add_key": lambda: call(248, b"user", b"probe", b"x", 1, -1),
    "request_key": lambda: call(249, b"user", b"canary", 0, 0),
    "bpf": bpf_array,
    "perf_event_open": perf_clock,
    "io_uring_setup": lambda: call(425, 1, ctypes.create_string_buffer(120)),
    "userfaultfd": lambda: call(323, 1),
    "ptrace": trace_me,
    "process_vm_readv": lambda: read_own_memory(310),
    "process_vm_writev": lambda: read_own_memory(311),
    "personality": lambda: call(135, 0x0040000),
    "name_to_handle_at": file_handle,
    "open_by_handle_at": open_handle,
    "fanotify_init": lambda: call(300, 0x200, 0),
    "move_pages": lambda: call(279, 0, 0, 0, 0, 0, 0),
    "set_mempolicy": lambda: call(238, 0, 0, 0),
    "mbind": lambda: call(237, 0, 0, 0, 0, 0, 0),
    "kcmp": lambda: call(312, os.getpid(), os.getpid(), 0, 0, 0),
    "sched_setscheduler": lambda: call(144, 0, 0, ZEROS),
    "sched_setattr": lambda: call(314, 0, ctypes.create_string_buffer(struct.pack("I", 48) + bytes(44)), 0),
    "vmsplice": splice_memory,
    "memfd_secret": lambda: call(447, 0),
    "statmount": lambda: call(457, 0, 0, 0, 0),
    "listmount": lambda: call(458, 0, 0, 0, 0),
    "modify_ldt": lambda: call(154, 0, ZEROS, 16),
    "process_mrelease": lambda: call(448, -1, 0),
    "quotactl": lambda: call(179, 0x800003 << 8, 0, 0, 0),
    "setuid_0": lambda: os.setuid(0),
    "setgid_0": lambda: os.setgid(0),
    "setgroups": lambda: os.setgroups([0]),
    "add_capability": lambda: call(126, struct.pack("Ii", 0x20080522, 0), struct.pack("IIIIII", 1, 1, 0, 0, 0, 0)),
    "unlock_securebits": lambda: None if LIBC.prctl(28, 0, 0, 0, 0) == 0 else errno.errorcode[ctypes.get_errno()],
    "chown_root": lambda: os.chown(make_file(), 0, 0),
    **{"unshare_" + name: (lambda flag=flag: call(272, flag)) for name, flag in NEW.items()},
}


for changing in (
    "chroot mount_tmpfs mount_bind mount_remount_rw mount_proc mount_cgroup_v1 mount_cgroup_v2 umount pivot_root "
    "mount_setattr sethostname setdomainname"
).split():
    ACTS[changing] = alone(ACTS[changing])


def make_file():
    """An empty file of this process in `/tmp`."""
    path = "/tmp/file-%d" % os.getpid()
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    return path


def write_text(path, text):
    """Writes to an existing file; OSError as the kernel says."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


@section
def acts(parameters):
    """The answer to each act of `ACTS`, or to the named ones."""
    names = parameters.get("acts") or ACTS
    return {name: attempt(ACTS[name]) for name in names}


@section
def families(_):
    """The answer to `socket(2)` for each address family, and for netlink by protocol."""
    def make(family, kind, protocol):
        return attempt(lambda: socket.socket(family, kind, protocol).close())

    answer = {str(family): make(family, socket.SOCK_DGRAM, 0) for family in range(46) if family != 16}
    for name, protocol in (("route", 0), ("audit", 9), ("kobject_uevent", 15), ("netfilter", 12)):
        answer["netlink_" + name] = make(16, socket.SOCK_RAW, protocol)
    answer["inet_raw"] = make(socket.AF_INET, socket.SOCK_RAW, 1)
    answer["inet_stream"] = make(socket.AF_INET, socket.SOCK_STREAM, 0)
    return answer


def machine_code(code):
    """Runs x86_64 machine code that returns a number in eax."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    result = function()
    return errno.errorcode.get(-result, str(result)) if result < 0 else None


@section
def abis(_):
    """`getpid` by the native ABI, by i386's `int 0x80` and by x32's number."""
    return {
        "native": attempt(lambda: machine_code(b"\xb8\x27\x00\x00\x00\x0f\x05\xc3")),
        "i386": attempt(lambda: machine_code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")),
        "x32": attempt(lambda: machine_code(b"\xb8\x27\x00\x00\x40\x0f\x05\xc3")),
    }


@section
def terminal(_):
    """Whether bytes can be pushed into a terminal's input, also with bits above the 32 that count."""
    def push(descriptor, request):
        call(16, descriptor, request, ctypes.create_string_buffer(b"x"))

    answer = {"controlling": open_as("/dev/tty", os.O_RDWR), "stdin_is_terminal": os.isatty(0)}
    for name, request in (
        ("tiocsti", 0x5412), ("tiocsti_high", 0x100005412), ("tioclinux", 0x541C), ("tioclinux_high", 0x10000541C),
    ):
        answer[name] = attempt(lambda request=request: push(0, request))
    return answer


@section
def knobs(_):
    """Every file below `/proc/sys` and other kernel knobs that can be opened for writing."""
    writable, errors = [], {}
    singles = ["/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper",
               "/sys/kernel/mm/ksm/run", "/sys/power/state", "/proc/1/oom_score_adj"]
    paths = singles + [os.path.join(folder, name) for folder, _, names in os.walk("/proc/sys") for name in names]
    for path in paths:
        answer = open_as(path, os.O_WRONLY)
        if answer == "ok":
            writable.append(path)
        errors[answer] = errors.get(answer, 0) + 1
    return {"tried": len(paths), "writable": writable, "answers": errors}


@section
def cgroup(_):
    """What can be seen of cgroups, and whether anything of them can be written."""
    found = [m["target"] for m in mounts(None) if m["kind"] in ("cgroup", "cgroup2")]
    places = set(found) | {"/sys/fs/cgroup"}
    names = ("cgroup.procs", "tasks", "release_agent", "notify_on_release", "memory.limit_in_bytes",
             "memory.max", "pids.max", "devices.allow", "cgroup.subtree_control")
    answers = {}
    for place in places:
        for name in names:
            for path in glob.glob(f"{place}/**/{name}", recursive=True)[:50]:
                answers[path] = open_as(path, os.O_WRONLY)
    return {
        "mounted": found,
        "membership": read("/proc/self/cgroup").splitlines(),
        "writable": sorted(path for path, answer in answers.items() if answer == "ok"),
    }


def connect(address, family=socket.AF_INET):
    """Connects and closes."""
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        stream.settimeout(3)
        stream.connect(address)


def add_address():
    """Asks netlink for 192.0.2.1/24 on interface 1 (RTM_NEWADDR)."""
    body = struct.pack("BBBBI", socket.AF_INET, 24, 0, 0, 1)
    for kind in (1, 2):
        body += struct.pack("HH4s", 8, kind, socket.inet_aton("192.0.2.1"))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as stream:
        stream.sendto(struct.pack("IHHII", 16 + len(body), 20, 0x605, 1, 0) + body, (0, 0))
        code = struct.unpack_from("i", stream.recv(4096), 16)[0]
    if code:
        raise OSError(-code, "RTM_NEWADDR")


def loop_back():
    """A connection from this process to itself on 127.0.0.1."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        connect(server.getsockname())


@section
def network(parameters):
    """Interfaces, and what can be reached of the host."""
    answer = {
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "loopback": attempt(loop_back),
        "add_address": attempt(add_address),
        "abstract_sockets": len(read("/proc/net/unix").splitlines()) - 1,
    }
    if "port" in parameters:
        answer["host_port"] = attempt(lambda: connect(("127.0.0.1", parameters["port"])))
    if "abstract" in parameters:
        answer["abstract"] = attempt(lambda: connect("\0" + parameters["abstract"], socket.AF_UNIX))
    return answer


@section
def ipc(parameters):
    """System V segments, host name, and whether the host's key can be found."""
    key = parameters.get("segment_key", 0x52494301)
    return {
        "hostname": os.uname().nodename,
        "segment": attempt(lambda: call(29, key, 0, 0)),
        "own_segment": attempt(lambda: call(29, 0, 4096, 0o1600)),
        "keys": read("/proc/keys"),
    }


@section
def environment(_):
    """The whole environment."""
    return dict(os.environ)


@section
def limits(_):
    """Each resource limit, soft and hard."""
    names = [name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"]
    return {name[7:].lower(): list(resource.getrlimit(getattr(resource, name))) for name in names}


@section
def files(parameters):
    """Whether each path can be read, written, or a file made in it if it is a directory."""
    answer = {}
    for path in parameters.get("paths", []):
        if os.path.isdir(path):
            write = attempt(lambda: os.close(os.open(path + "/probe-made-this", os.O_CREAT | os.O_WRONLY)))
        else:
            write = open_as(path, os.O_WRONLY)
        answer[path] = {"read": open_as(path, os.O_RDONLY), "write": write}
    return answer


@section
def memory_filesystems(parameters):
    """For each writable directory: whether it takes more than a number of bytes."""
    def fill(path):
        block = bytes(1 << 20)
        written = 0
        with open(path + "/fill", "wb", buffering=0) as stream:
            try:
                while written < parameters["fill_bytes_most"]:
                    written += stream.write(block)
            finally:
                os.unlink(path + "/fill")

    return {path: attempt(lambda path=path: fill(path)) for path in parameters.get("fill", [])}


@section
def executable(_):
    """The image of each visible process: where it points, and whether it can be opened for writing."""
    answer = {}
    for path in glob.glob("/proc/[0-9]*/exe"):
        try:
            target = os.readlink(path)
        except OSError as error:
            target = errno.errorcode.get(error.errno, "?")
        answer[path] = {"target": target, "write": open_as(path, os.O_WRONLY)}
    return answer


def python_threads():
    import threading
    threads = [threading.Thread(target=lambda: None) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def python_pool():
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]


def python_shared_memory():
    from multiprocessing import shared_memory
    segment = shared_memory.SharedMemory(create=True, size=4096)
    segment.close()
    segment.unlink()


def python_asyncio():
    import asyncio
    asyncio.run(asyncio.sleep(0))


def python_sqlite():
    import sqlite3
    sqlite3.connect("/tmp/probe.sqlite").execute("create table t (x)").connection.close()
    os.unlink("/tmp/probe.sqlite")


def python_subprocess():
    import subprocess
    assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True).stdout == b"1\n"


@section
def python(_):
    """What ordinary Python programs need, each by its standard library."""
    return {name[7:]: attempt(function) for name, function in globals().items() if name.startswith("python_")}


def main(parameters):
    """Runs the sections that `parameters` names; all of them if it names none."""
    names = parameters.get("sections") or list(SECTIONS)
    return {name: SECTIONS[name](parameters) for name in names}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {})))

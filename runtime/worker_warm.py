"""What `worker.py` needs that serves many calls: reading ahead, and a new process for each call.

Executed by `worker.py` when its owner's HELLO asks for READY or for forks, with that file as
`core`. Imports take their time here: a warm worker starts before anybody waits for it.
"""

import _socket
import gc
import os
import select
import sys

try:
    from _hashlib import openssl_sha256
except ImportError:
    openssl_sha256 = core.sha256
try:
    from _struct import Struct
except ImportError:
    from struct import Struct

crc32 = core.crc32
small_sha256 = core.sha256
HEADER = Struct(">6sBB16sIQ32sII")
HEADER_BYTES = core.HEADER_BYTES
unpack, pack = HEADER.unpack_from, HEADER.pack
pack_two = Struct(">II").pack
pack_start = Struct(">6sBB16sIQ32s").pack

READ_BYTES = 64 << 10
OPENSSL_BYTES_MIN = 512  # OpenSSL hashes faster, and takes longer to begin
KNOWN_BYTES_MAX, KNOWN_MAX = 1024, 64  # metadata that is parsed once
ONE_DESCRIPTOR = _socket.CMSG_LEN(4)
CLOEXEC = _socket.MSG_CMSG_CLOEXEC

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4


class Buffered(core.Connection):
    """A connection that is read ahead, so that a usual frame costs one system call.

    Descriptors are not lost by that: `recvmsg(2)` never reads past bytes that one came with
    (unix_stream_read_generic of Linux), so the n-th that has come belongs to the n-th carrier.
    """

    def begin(self):
        self.socket = _socket.socket(fileno=self.fd)
        self.socket.settimeout(None)
        # Who sleeps in recvmsg(2) is woken for nothing each time that the owner reads an answer,
        # because there is room to write then (unix_write_space of Linux); in poll(2) not.
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        self.wait = poll.poll
        self.data, self.at = b"", 0
        self.descriptors, self.known = [], {}

    def close(self):
        if not self.handed_on:
            try:
                self.socket.close()
            except OSError:
                pass

    def fill(self, size):
        """Reads until `size` bytes of the present frame are here."""
        data, receive = self.data[self.at :], self.socket.recvmsg
        while len(data) < size:
            self.wait()
            more, ancillary, _, _ = receive(READ_BYTES, ONE_DESCRIPTOR, CLOEXEC)
            if not more:
                core.leave(0)
            if ancillary:
                for _, _, rights in ancillary:
                    self.descriptors.append(int.from_bytes(rights[:4], sys.byteorder))
            if data:
                data = bytearray(data) if type(data) is bytes else data
                data += more
            else:
                data = more
        self.data, self.at = data, 0
        return data

    def forget(self):
        """Drops what was read ahead: a child had it too."""
        self.data, self.at = b"", 0
        while self.descriptors:
            os.close(self.descriptors.pop())

    def receive(self):
        """As the one it stands for."""
        data, at = self.data, self.at
        if len(data) - at < HEADER_BYTES:
            data, at = self.fill(HEADER_BYTES), 0
        begin, kind, flags, task, metadata_bytes, payload_bytes, expected, header_crc, frame_crc = (
            unpack(data, at)
        )
        crc = crc32(data[at : at + 68])
        if crc != header_crc:
            core.rare.broken_stream(bytes(data[at : at + HEADER_BYTES]))
        if flags > core.DESCRIPTOR_FLAG or metadata_bytes > core.METADATA_BYTES_MAX \
                or payload_bytes > core.PAYLOAD_BYTES_MAX:
            core.leave(core.EXIT_PROTOCOL)
        middle = HEADER_BYTES + metadata_bytes
        end = middle + (1 if flags else payload_bytes)
        if len(data) - at < end:
            data, at = self.fill(end), 0
        metadata = bytes(data[at + HEADER_BYTES : at + middle])
        payload = bytes(data[at + middle : at + end])
        crc = crc32(metadata, crc32(data[at + 68 : at + 72], crc))
        header = None
        if crc != frame_crc or begin != core.MAGIC_AND_VERSION:
            header = bytes(data[at : at + HEADER_BYTES])
        if at + end == len(data):
            self.data, self.at = b"", 0
        else:
            self.at = at + end
        if flags:
            if not self.descriptors:
                core.leave(core.EXIT_PROTOCOL)
            payload = core.rare.map_sealed(self.descriptors.pop(0), payload_bytes)
        if header is not None:
            if crc != frame_crc:
                core.rare.corrupt_metadata(header, metadata)
            core.rare.other_version(header)
        self.digest = got = digest(payload)
        if got != expected:
            whole = pack(begin, kind, flags, task, metadata_bytes, payload_bytes, expected,
                         header_crc, frame_crc)
            core.rare.corrupt_payload(whole, got)
        known = self.known.get(metadata)
        if known is None:
            known = self.parse(metadata)
        return kind, task, known, payload

    def parse(self, metadata):
        """Calls of one function have the same metadata, which nobody changes."""
        known = core.from_json(metadata) if metadata else {}
        if len(metadata) <= KNOWN_BYTES_MAX:
            if len(self.known) >= KNOWN_MAX:
                self.known.clear()
            self.known[metadata] = known
        return known

    def send(self, kind, task, metadata, payload=b""):
        """As the one it stands for. A descriptor that is no socket any more is noticed by it."""
        sealed, size = None, len(payload)
        if type(payload) is not bytes or size >= core.DESCRIPTOR_BYTES_MIN:
            sealed, payload, size, payload_digest = core.rare.pack(payload)
        else:
            payload_digest = digest(payload)
        start = pack_start(core.MAGIC_AND_VERSION, kind, sealed is not None, task, len(metadata),
                           size, payload_digest)
        header_crc = crc32(start)
        crc = crc32(header_crc.to_bytes(4, "big"), header_crc)
        sums = pack_two(header_crc, crc32(metadata, crc))
        try:
            self.socket.sendall(start + sums + metadata + payload)
            if sealed is not None:
                core.rare.send_sealed(self.fd, sealed)
        except OSError:  # the owner went away, or the function closed what it does not own
            core.leave(core.EXIT_PROTOCOL)


def digest(payload):
    if len(payload) < OPENSSL_BYTES_MIN:
        return small_sha256(payload).digest()
    return openssl_sha256(payload).digest()


def begin(worker, hello):
    """Makes a worker warm, once the modules to preload are imported."""
    connection = worker.connection
    if type(connection) is Buffered:  # greeted twice
        return
    connection.__class__ = Buffered
    connection.begin()
    core.rare.load_pickler()
    if hello.get("fork"):
        Template(worker)
    else:
        connection.send(core.READY, core.NO_TASK, b"{}")


# A process for each call


class Template:
    """Stands in for a worker: takes AGAIN, and forks the process of the next call.

    Between two tasks nothing of a task's is left but the descriptors that all of them inherit, and
    what a process may do to another one of its own uid. So it is not dumpable, which denies
    ptrace(2), `/proc/PID/mem` and all that is like them, and it ends itself if its limits,
    priority or processors were changed: its owner then starts another one.
    """

    def __init__(self, worker):
        self.worker, self.connection = worker, worker.connection
        self.ready = False  # whether it has looked at itself
        self.declines = False
        worker.serve_other = self.take
        worker.serve_call = self.take_call

    def take(self, kind, task, metadata, payload):
        if kind == core.AGAIN:
            self.again()
        elif kind == core.MODULES:
            core.rare.take_modules(payload)
        # FUNCTION: of a child that ended before it could read it

    def take_call(self, task, metadata, payload):
        if self.declines:
            type(self.worker).serve_call(self.worker, task, metadata, payload)

    def again(self):
        obstacle = None if self.declines else self.obstacle()
        if obstacle is not None:
            self.declines = True
            self.worker.not_preloaded = self.worker.not_preloaded or obstacle
            self.worker.functions = AllTheSame()
        if self.declines:
            return self.connection.send(core.READY, core.NO_TASK, b"{}")
        if self.state != state_of_process():
            core.leave(core.EXIT_PROTOCOL)
        self.connection.handed_on = True
        child = os.fork()
        if child == 0:
            return self.become_child()
        self.connection.handed_on = False
        _, status, usage = os.wait4(child, 0)
        self.connection.forget()
        cpu_us = int((usage.ru_utime + usage.ru_stime) * 1000000)
        self.connection.send(core.CHILD, core.NO_TASK, core.to_json({
            "wait_status": status, "cpu_us": cpu_us, "largest_kib": usage.ru_maxrss,
        }))

    def obstacle(self):
        """Returns the Reply to every call if forking is not safe. Makes ready for it, once."""
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            message = "`fresh: process` forks a warm interpreter, and this one has %d threads"
            hint = "set OMP_NUM_THREADS and OPENBLAS_NUM_THREADS to 1 among the `variables:` of " \
                "the environment, or ask for `fresh: container`"
            return core.rare.declined("not_forkable", message % threads, hint)
        if self.ready:
            return None
        self.ready = True
        mapped = shared_memory()
        if mapped:
            message = "`fresh: process` forks a warm interpreter, and this one shares %s with " \
                "all that it forks" % mapped
            hint = "take what makes it out of `preload:`, or ask for `fresh: container`"
            return core.rare.declined("not_forkable", message, hint)
        self.prctl = find_prctl()
        if self.prctl is None or self.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) \
                or self.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0):
            message = "`fresh: process` needs the module ctypes, to hide the warm interpreter " \
                "from what it forks, and this Python has none that works"
            hint = "use an image whose Python has ctypes, or ask for `fresh: container`"
            return core.rare.declined("not_forkable", message, hint)
        import mmap, traceback  # which children would have to import again and again

        # What is there now is not looked at by the collectors of children, and so not copied.
        gc.collect()
        gc.freeze()
        self.state = state_of_process()
        return None

    def become_child(self):
        worker = self.worker
        os.setsid()  # a task that signals its process group does not reach the template
        self.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        for fd in (0, 1, 2, self.connection.fd):  # flags that all who inherited it share
            try:
                os.set_blocking(fd, True)
            except OSError:
                pass
        reseed()
        del worker.serve_other, worker.serve_call
        worker.pid = os.getpid()
        worker.answer = self.answer_last
        self.connection.handed_on = False
        self.connection.send(core.READY, core.NO_TASK, b"{}")

    def answer_last(self, *answer):
        self.connection.send(*answer)
        core.leave(0)


class AllTheSame(dict):
    """Stands where functions are kept, for a worker that declines every call."""

    def get(self, key):
        return self


def state_of_process():
    """What another process of the same uid may change: prlimit(2), nice(2), sched(7)."""
    with open("/proc/self/limits", "rb") as file:
        limits = file.read()
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    return limits, priority, os.sched_getscheduler(0), os.sched_getaffinity(0)


def shared_memory():
    """Returns the name of memory that what is forked could write for others to read, if any."""
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            fields = line.split(None, 5)
            name = fields[5].decode("utf-8", "replace").strip() if len(fields) > 5 else "memory"
            if name.startswith("/dev/nvidia"):
                return "a CUDA context"
            if fields[1][1:2] == b"w" and fields[1][3:4] == b"s":
                return name
    return None


def find_prctl():
    try:
        import ctypes

        return ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None


def reseed():
    """New random numbers in each child. The module `random` sees to itself when it forks."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1)

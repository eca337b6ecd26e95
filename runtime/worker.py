"""Runs Python functions inside a sandbox: reads calls from descriptor 3, answers each one once.

The other side of `runtime/src/exchange.rs`; docs/protocol.md is the contract between the two. Here
is what a usual call needs. Tracebacks, refusals, large payloads, pickles, coroutines are in
`worker_rare.py` beside this file, what a worker needs that serves for days is in `worker_warm.py`.
Both are read when they are first needed: Python compiles this text on every start, about 5
microseconds a line.

Only the standard library, and of it only what the interpreter has loaded anyway: `import json`
alone takes longer than everything below. Nothing newer than Python 3.8, and no syntax that older
ones cannot parse, so that they can say that they are too old.
"""

import sys

EXIT_PROTOCOL = 70  # EX_SOFTWARE of sysexits.h: the connection cannot be used any more
EXIT_PYTHON_TOO_OLD = 78  # EX_CONFIG

if sys.version_info < (3, 8):
    sys.stderr.write(
        "run-in-container: functions need Python 3.8 or newer, and %s is %s\n"
        % (sys.executable, sys.version.split()[0])
    )
    sys.exit(EXIT_PYTHON_TOO_OLD)

import os
from binascii import crc32

try:
    # Not hashlib: it loads OpenSSL, which takes longer than hashing what a usual call carries.
    if sys.version_info < (3, 12):
        from _sha256 import sha256
    else:
        from _sha2 import sha256
except ImportError:
    from hashlib import sha256

VERSION = 1
MAGIC_AND_VERSION = b"\x89RIC\0\1"
HELLO, FUNCTION, CALL, RESULT, ERROR, DECLINED, CORRUPT, NEED = range(1, 9)
MODULES, READY, AGAIN, CHILD = range(9, 13)
DESCRIPTOR_FLAG = 1
HEADER_BYTES = 76
METADATA_BYTES_MAX = 64 << 10
PAYLOAD_BYTES_MAX = 1 << 30
DESCRIPTOR_BYTES_MIN = 1 << 20
JSON_DEPTH_MAX = 100
FUNCTIONS_MAX = 256
ANSWERED_MAX = 4096

NO_TASK = bytes(16)
READ_BYTES = 1 << 20  # os.read() allocates what it is asked for
JSON_REPLY = b'{"encoding":"json"}'
PYTHON_MINOR = "%d.%d" % sys.version_info[:2]
INTEGER_LEAST, INTEGER_MOST = -(1 << 63), (1 << 64) - 1  # what JSON readers keep exactly
THIS = sys.modules[__name__]
WORKER_FILE = sys._getframe().f_code.co_filename


class Reply(Exception):
    """An answer other than a result, raised where it is found out."""

    def __init__(self, kind, **fields):
        Exception.__init__(self, kind)
        self.kind, self.fields = kind, fields
        self.task = None  # that of the frame in hand
        self.last = False  # whether the connection ends with it


class Beside:
    """The functions of a file beside this one. They see this file as `core`."""

    def __init__(self, name):
        self.__name__ = name

    def __getattr__(self, name):
        path = os.path.join(os.path.dirname(WORKER_FILE), self.__name__ + ".py")
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        vars(self).update(core=THIS, THIS_FILE=path)
        exec(code, vars(self))
        return vars(self)[name]


rare, warm = Beside("worker_rare"), Beside("worker_warm")


def refuse(value):
    raise ValueError("%s is not JSON" % value)


try:
    # The C functions under `json`. The package around them imports `re`, and that `enum`.
    from _json import encode_basestring, make_encoder, make_scanner

    class Scanning:
        strict = True
        object_hook = object_pairs_hook = None
        parse_float, parse_int, parse_constant = float, int, refuse

    scan_json = make_scanner(Scanning)
    chunks_of = make_encoder(None, refuse, encode_basestring, None, ":", ",", False, False, False)
except (ImportError, TypeError):  # not CPython, or one newer than this file
    scan_json, chunks_of = rare.slow_json()


def from_json(data):
    """Parses one JSON value. Anything else raises ValueError or StopIteration."""
    text = str(data, "utf-8").strip(" \t\r\n")
    value, end = scan_json(text, 0)
    return value if end == len(text) else refuse(text[end:])


def to_json(value, errors="strict"):
    return "".join(chunks_of(value, 0)).encode("utf-8", errors)


# Scalars, which most functions return, as JSON: without looking for what is in them.
BIG = 1 << 63
SCALARS = {
    type(None): lambda value: b"null",
    bool: lambda value: b"true" if value else b"false",
    int: b"%d".__mod__,
    str: to_json,
}


def keep_high(fd, place):
    """Moves a descriptor high up, where no function that counts from 3 on meets it."""
    try:
        kept = os.dup2(fd, place, inheritable=False)
    except OSError:  # above RLIMIT_NOFILE
        kept = os.dup(fd)
    os.close(fd)
    return kept


class Connection:
    """The socket to the owner. Nobody else may hold it: not a function, nor what it forks."""

    def __init__(self, inherited):
        self.fd = keep_high(inherited, 1000)
        os.set_blocking(self.fd, True)
        self.inode = os.fstat(self.fd).st_ino
        self.digest = b""  # of the payload received last
        self.handed_on = False  # to the next child
        os.register_at_fork(after_in_child=self.close)

    def close(self):
        if self.handed_on:
            return
        try:
            os.close(self.fd)
        except OSError:
            pass

    def read(self, size):
        """Reads exactly `size` bytes. The end of the connection is the end of this process."""
        data = os.read(self.fd, min(size, READ_BYTES))
        while len(data) < size:
            piece = os.read(self.fd, min(size - len(data), READ_BYTES))
            if not piece:
                leave(0)
            data = bytearray(data) if type(data) is bytes else data
            data += piece
        return bytes(data)

    def receive(self):
        """Returns kind, task, metadata and payload of the next frame, all of them verified."""
        header = self.read(HEADER_BYTES)
        number = int.from_bytes
        if number(header[68:72], "big") != crc32(header[:68]):
            rare.broken_stream(header)
        kind, flags, task = header[6], header[7], header[8:24]
        metadata_bytes, payload_bytes = number(header[24:28], "big"), number(header[28:36], "big")
        if flags & ~DESCRIPTOR_FLAG or metadata_bytes > METADATA_BYTES_MAX \
                or payload_bytes > PAYLOAD_BYTES_MAX:
            leave(EXIT_PROTOCOL)
        metadata = self.read(metadata_bytes)
        if flags:
            # No read(2) before: it would drop the descriptor that comes with the next byte.
            payload = rare.map_sealed(rare.receive_descriptor(self.fd), payload_bytes)
        else:
            payload = self.read(payload_bytes)
        if number(header[72:76], "big") != crc32(metadata, crc32(header[:72])):
            rare.corrupt_metadata(header, metadata)
        if header[:6] != MAGIC_AND_VERSION:
            rare.other_version(header)
        self.digest = digest(payload)
        if header[36:68] != self.digest:
            rare.corrupt_payload(header, self.digest)
        return kind, task, from_json(metadata) if metadata else {}, payload

    def send(self, kind, task, metadata, payload=b""):
        """Writes one frame, whole. `metadata` is JSON in bytes; the payload may be in pieces."""
        try:
            # The function may have closed every descriptor and opened files of its own.
            if os.fstat(self.fd).st_ino != self.inode:
                leave(EXIT_PROTOCOL)
            sealed, size = None, len(payload)
            if type(payload) is not bytes or size >= DESCRIPTOR_BYTES_MIN:
                sealed, payload, size, payload_digest = rare.pack(payload)
            else:
                payload_digest = digest(payload)
            header = b"".join((
                MAGIC_AND_VERSION, bytes((kind, sealed is not None)), task,
                len(metadata).to_bytes(4, "big"), size.to_bytes(8, "big"), payload_digest,
            ))
            header += crc32(header).to_bytes(4, "big")
            header += crc32(metadata, crc32(header)).to_bytes(4, "big")
            rest = header + metadata + (payload if sealed is None else b"")
            while rest:
                rest = memoryview(rest)[os.write(self.fd, rest):]
            if sealed is not None:
                rare.send_sealed(self.fd, sealed)
        except OSError:  # the owner went away, or the function closed what it does not own
            leave(EXIT_PROTOCOL)


def digest(payload):
    if len(payload) >= DESCRIPTOR_BYTES_MIN:
        return rare.digest_large(payload)
    return sha256(payload).digest()


class Function:
    """A source file. It runs when a function in it is first called, and once per digest."""

    def __init__(self, file_name, source):
        self.file_name, self.source, self.module = file_name, source, None

    def find(self, call):
        """Returns the function of the file that a CALL names."""
        called = getattr(self.load(), call["function"], None)
        if not callable(called):
            rare.no_function(self, call["function"])
        return called

    def load(self):
        """Runs the file and returns the module.

        Registered under the file's stem, so that pickles find its classes by name; except where
        that would hide a module of Python itself, as a file called `random.py` would.
        """
        if self.module is None:
            name = os.path.splitext(os.path.basename(self.file_name))[0]
            taken = getattr(sys, "stdlib_module_names", sys.builtin_module_names)
            if not name.isidentifier() or name in taken or name == "__main__":
                name = "__run_in_container__"
            module = type(sys)(name)
            module.__file__ = self.file_name
            module.__loader__ = self
            code = compile(self.source, self.file_name, "exec", dont_inherit=True)
            sys.modules[name] = module
            exec(code, vars(module))
            self.module = module
        sys.modules[self.module.__name__] = self.module
        return self.module

    def get_source(self, name=None):
        """Asked by `linecache`, for tracebacks that the function itself prints."""
        return rare.decode_source(self.source)


def json_obstacle(value, exact):
    """Says what in `value` JSON would not bring back, or returns None.

    `exact`: the caller takes pickles too, so JSON is used only where it gives back an equal value
    of the same types. Otherwise tuples become lists, and subclasses of what JSON knows become
    that. Infinite numbers and NaN are left to the encoder, which looks at each number anyway.
    """
    level, depth, seen = [(value,)], 0, set()
    while level:
        depth += 1
        if depth > JSON_DEPTH_MAX + 1:
            return "nesting deeper than %d levels" % JSON_DEPTH_MAX
        below = {}
        for members in level:
            for kind in set(map(type, members)):
                if kind in (str, float, bool, type(None)):
                    continue
                these = [member for member in members if type(member) is kind]
                if kind is int or not exact and issubclass(kind, int):
                    if min(these) < INTEGER_LEAST or max(these) > INTEGER_MOST:
                        return "an integer beyond 64 bits"
                elif kind in (list, dict) or not exact and issubclass(kind, (list, tuple, dict)):
                    for container in these:
                        if exact and id(container) in seen:
                            return "an object that occurs in it twice"
                        seen.add(id(container))
                        if issubclass(kind, dict):
                            for key in set(map(type, container)) - {str}:
                                if exact or not issubclass(key, str):
                                    return "a dict with keys that are not strings"
                            below[id(container)] = list(container.values())
                        else:
                            below[id(container)] = container
                elif exact or not issubclass(kind, (str, float)):
                    return "a value of type %s" % kind.__qualname__
        level = below.values()
    return None


def encode_result(value, metadata):
    """Returns metadata and payload of the RESULT: JSON if it is faithful, else a pickle."""
    accepts = metadata["accepts"]
    exact = "pickle" in accepts
    try:
        if "json" not in accepts:
            obstacle = "anything"
        elif type(value) in SCALARS and (type(value) is not int or -BIG < value < BIG):
            obstacle, payload = None, SCALARS[type(value)](value)
        else:
            obstacle = json_obstacle(value, exact)
            if obstacle is None:
                payload = to_json(value)
    except Exception as error:
        obstacle = error
    if obstacle is not None:
        return rare.encode_otherwise(value, obstacle, metadata)
    if len(payload) > metadata["result_bytes_max"]:
        rare.result_too_large(len(payload), metadata["result_bytes_max"])
    return JSON_REPLY, payload


class Worker:
    """Serves one connection until its end."""

    def __init__(self, connection):
        self.connection = connection
        self.pid = os.getpid()
        self.functions, self.answered = {}, {}
        self.not_preloaded = None  # the Reply to every call, if there is one
        self.streams = sys.stdin, sys.stdout, sys.stderr
        self.recursion_limit = sys.getrecursionlimit()
        self.directory_path = os.getcwd()
        self.directory = keep_high(os.open(".", os.O_PATH), 1001)

    def serve(self):
        self.connection.send(HELLO, NO_TASK, to_json({
            "version_lowest": VERSION,
            "version_highest": VERSION,
            "python": "%d.%d.%d" % sys.version_info[:3],
            "executable": sys.executable,
            "pid": self.pid,
        }, "replace"))
        while True:
            task = NO_TASK
            try:
                kind, task, metadata, payload = self.connection.receive()
                if kind == CALL:
                    self.serve_call(task, metadata, payload)
                else:
                    self.serve_other(kind, task, metadata, payload)
            except Reply as reply:
                # What is answered is over: the CALL behind a corrupt FUNCTION is dropped.
                task = reply.task or task
                self.mark_answered(task)
                self.answer(reply.kind, task, to_json(reply.fields, "replace"))
                if reply.last:
                    leave(EXIT_PROTOCOL)

    def serve_other(self, kind, task, metadata, payload):
        """Takes a frame that is no CALL."""
        if kind == FUNCTION:
            self.keep(self.connection.digest.hex(), metadata, payload)
        elif kind != HELLO:
            rare.take_modules(payload) if kind == MODULES else rare.unknown_kind(kind)
        elif not metadata["version_lowest"] <= VERSION <= metadata["version_highest"]:
            rare.no_common_version(metadata)
        else:
            if "preload" in metadata:
                self.not_preloaded = rare.preload(metadata["preload"])
                self.restore()
            if metadata.get("ready") or metadata.get("fork"):
                warm.begin(self, metadata)

    def answer(self, kind, task, metadata, payload=b""):
        """Sends the one answer to a task."""
        self.connection.send(kind, task, metadata, payload)

    def keep(self, key, metadata, payload):
        """Keeps a file for later calls, and forgets one if there are many: NEED brings it back."""
        if key not in self.functions:
            if len(self.functions) >= FUNCTIONS_MAX:
                del self.functions[next(iter(self.functions))]
            pickled = metadata.get("encoding") == "pickle"
            function = rare.Pickled(metadata, payload) if pickled else \
                Function(metadata["file_name"], bytes(payload))
            self.functions[key] = function

    def mark_answered(self, task):
        """A task runs once, however often its CALL arrives."""
        if len(self.answered) >= ANSWERED_MAX:
            del self.answered[next(iter(self.answered))]
        self.answered[task] = None

    def serve_call(self, task, metadata, payload):
        if task in self.answered:
            return
        function = self.functions.get(metadata["function_sha256"])
        if function is None:
            need = {"function_sha256": metadata["function_sha256"]}
            return self.connection.send(NEED, task, to_json(need))
        self.mark_answered(task)
        if self.not_preloaded is not None:
            raise self.not_preloaded.with_traceback(None)
        try:
            result = self.run(function, metadata, payload)
            reply, body = encode_result(result, metadata)
        except Reply:
            self.restore()
            raise
        except BaseException as error:
            self.restore()
            self.answer(ERROR, task, b"{}", explain(error, function, metadata))
        else:
            self.restore()
            self.answer(RESULT, task, reply, body)

    def run(self, function, metadata, payload):
        """Calls the function. A child that it forked and that comes back here ends here."""
        try:
            sys.argv = [function.file_name]
            called = function.find(metadata)
            if metadata["encoding"] == "json":
                arguments = from_json(payload)
                positional, named = arguments["positional"], arguments["named"]
            else:
                positional, named = rare.unpickle(payload, metadata)
            result = called(*positional, **named)
            if type(result).__name__ == "coroutine":
                result = rare.run_coroutine(result)
        except BaseException as error:
            if os.getpid() == self.pid:
                raise
            rare.leave_child(error, function)
        if os.getpid() != self.pid:
            leave(0)
        return result

    def restore(self):
        """Undoes what would send this call's answer or the next call's output astray."""
        sys.setrecursionlimit(self.recursion_limit)
        streams = sys.stdin, sys.stdout, sys.stderr
        if streams != self.streams:
            flush(*streams[1:])
            sys.stdin, sys.stdout, sys.stderr = self.streams
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            flush(*self.streams[1:])
        try:
            os.fchdir(self.directory)  # half of what chdir(2) takes
        except OSError:
            self.enter_directory()

    def enter_directory(self):
        """Goes back by name, when the function has closed what it did not open."""
        try:
            os.chdir(self.directory_path)
            self.directory = keep_high(os.open(".", os.O_PATH), 1001)
        except OSError:
            pass


def explain(error, function, metadata):
    """Returns the payload of an ERROR frame, whatever state the interpreter is in."""
    try:
        fields = rare.explain(error, function, "pickle" in metadata["accepts"])
    except BaseException as trouble:  # no memory, no descriptors, a hostile exception
        why = "(no traceback: making it raised %s)" % type(trouble).__name__
        fields = {"type": type(error).__name__, "message": why, "traceback": why}
    return to_json(fields, "replace")


def flush(*streams):
    for stream in streams:
        try:
            stream.flush()
        except BaseException:  # closed, full, or replaced by something that cannot
            pass


def leave(code):
    """Ends the process at once: tearing an interpreter down takes 2 ms and nobody waits for it."""
    flush(sys.stdout, sys.stderr)
    os._exit(code)


def main():
    connection = Connection(3)
    # The image's modules first, then the working directory, where a task's inputs are.
    if sys.path[:1] == [os.path.dirname(WORKER_FILE)]:
        del sys.path[0]
    sys.path.append("")
    # Whole lines leave at once: a task that is killed has said what it said.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(line_buffering=True)
    # `import __main__` and multiprocessing's spawned children shall not find this file.
    sys.modules["__main__"] = type(sys)("__main__")
    try:
        Worker(connection).serve()
    except KeyboardInterrupt:
        leave(128 + 2)


if __name__ == "__main__":
    main()

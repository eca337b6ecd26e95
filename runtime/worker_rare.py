"""What `worker.py` needs rarely: explaining failures, large payloads, pickles, coroutines.

Executed by `worker.py` on the first use of anything here, with that file as `core`. Each function
that refuses raises `core.Reply`, which becomes the one answer to its task.
"""

import marshal
import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER
from binascii import a2b_base64

PIECE_BYTES = 1 << 20  # hashed and then written while the processor still has it at hand
BUFFER_BYTES_MIN = 4 << 10  # what is smaller is copied into the pickle
BUFFERS_MAX = 1024
BUFFER_ALIGNMENT = 64
ERROR_BYTES_MAX = 1 << 20
EXCEPTION_BYTES_MAX = 256 << 10
MESSAGE_CHARACTERS_MAX = 4 << 10
TRACEBACK_CHARACTERS_MAX = 128 << 10  # with JSON's escapes still below ERROR_BYTES_MAX
TRACEBACK_FRAMES_MAX = 1000

F_ADD_SEALS, F_GET_SEALS = 1033, 1034  # fcntl(2); named in the fcntl module since Python 3.8
SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
SEALS_NEEDED = 0x2 | 0x4 | 0x8

SURROGATE = "a string with a lone surrogate"
NOT_FINITE = "a number that is not finite"
JSON_HINTS = {
    SURROGATE: "encode it with errors='replace', or return a list of integers",
    NOT_FINITE: "return None or a string in its place",
    "an integer beyond 64 bits": "return it as a string",
    "a dict with keys that are not strings": "make its keys strings, or return a list of pairs",
}


def slow_json():
    """Stands in where the C functions under `json` are missing or have changed."""
    import json

    encoder = json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=core.refuse
    )
    decoder = json.JSONDecoder(parse_constant=core.refuse)
    return decoder.scan_once, lambda value, _: (encoder.encode(value),)


def shorten(text, most):
    """Cuts the middle out of a text that is too long."""
    if len(text) <= most:
        return text
    left_out = "\n... %d characters left out ...\n" % (len(text) - most)
    return text[: most // 2] + left_out + text[-(most - most // 2) :]


def declined(reason, message, hint=""):
    """Returns the answer of a worker that will not or cannot, though nothing is broken."""
    message = shorten(message, MESSAGE_CHARACTERS_MAX)
    hint = shorten(hint, MESSAGE_CHARACTERS_MAX)
    return core.Reply(core.DECLINED, reason=reason, message=message, hint=hint)


def text_of(error):
    """Returns `str(error)`, even of an exception that cannot say what it is."""
    try:
        return str(error)
    except BaseException:
        return "(its __str__ raised an exception)"


def brief(error):
    text = text_of(error)
    return "%s: %s" % (type(error).__name__, text) if text else type(error).__name__


# Frames that are not as they should be


def corrupt(header, what, expected, got):
    reply = core.Reply(core.CORRUPT, what=what, expected=expected.hex(), got=got.hex())
    reply.task = header[8:24]
    return reply


def broken_stream(header):
    """Nobody knows where the next frame begins, nor whose this one was: the last answer."""
    got = core.crc32(header[:68]).to_bytes(4, "big")
    reply = corrupt(header, "header", header[68:72], got)
    reply.task, reply.last = core.NO_TASK, True
    raise reply


def corrupt_metadata(header, metadata):
    got = core.crc32(metadata, core.crc32(header[:72])).to_bytes(4, "big")
    raise corrupt(header, "metadata", header[72:76], got)


def corrupt_payload(header, got):
    what = {core.FUNCTION: "function", core.CALL: "arguments"}.get(header[6], "payload")
    raise corrupt(header, what, header[36:68], got)


def other_version(header):
    if header[:4] != core.MAGIC_AND_VERSION[:4]:
        core.leave(core.EXIT_PROTOCOL)
    reply = version_mismatch("%d" % int.from_bytes(header[4:6], "big"))
    reply.task = header[8:24]
    raise reply


def no_common_version(hello):
    theirs = "%d to %d" % (hello["version_lowest"], hello["version_highest"])
    reply = version_mismatch(theirs)
    reply.last = True
    raise reply


def preload(wanted):
    """Imports modules; returns the Reply to all calls if one cannot be imported."""
    for module in wanted["modules"]:
        try:
            __import__(module)
        except BaseException as error:
            who = "environment `%s` preloads `%s`" % (wanted["environment"], module)
            hint = ""
            if isinstance(error, ImportError):
                hint = "add what has it under `python:`, or take it out of `preload:`"
            message = "%s, which cannot be imported: %s" % (who, brief(error))
            return declined("preload", message, hint)
    return None


def unknown_kind(kind):
    raise declined("unknown_kind", "frames of kind %d are not known here" % kind)


def version_mismatch(theirs):
    ours = "this worker speaks version %d of the protocol" % core.VERSION
    return declined("version", "%s, and was spoken to in %s" % (ours, theirs))


PICKLE_REPLY = core.to_json({"encoding": "pickle", "python": core.PYTHON_MINOR})


# Large payloads: sealed memory beside the frame


def large_sha256():
    try:
        from hashlib import sha256  # OpenSSL's is several times faster, and loads in 3 ms
    except (ImportError, OSError):
        return core.sha256()
    return sha256()


def digest_large(payload):
    hashed = large_sha256()
    hashed.update(payload)
    return hashed.digest()


def receive_descriptor(fd):
    """Takes the descriptor that comes with the carrier byte."""
    import _socket

    connection = _socket.socket(fileno=fd)
    try:
        space = _socket.CMSG_SPACE(4)
        data, ancillary, _, _ = connection.recvmsg(1, space, _socket.MSG_CMSG_CLOEXEC)
    finally:
        connection.detach()
    if not data or not ancillary or len(ancillary[0][2]) < 4:
        core.leave(core.EXIT_PROTOCOL)
    return int.from_bytes(ancillary[0][2][:4], sys.byteorder)


def map_sealed(sealed, size):
    """Returns what a sealed memfd holds, mapped and not copied, and closes it.

    Nobody can change it any more, so what was verified is what is used.
    """
    import fcntl
    import mmap

    try:
        seals = fcntl.fcntl(sealed, F_GET_SEALS)
        if seals & SEALS_NEEDED != SEALS_NEEDED or os.fstat(sealed).st_size != size:
            core.leave(core.EXIT_PROTOCOL)
        if not size:
            return b""
        # Private, because Linux before 6.7 refuses shared mappings of what is sealed against
        # writing; populated, because every page is about to be hashed.
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_POPULATE", 0x8000)
        return memoryview(mmap.mmap(sealed, size, flags, mmap.PROT_READ))
    finally:
        os.close(sealed)


def pack(payload):
    """Returns a descriptor or None, the payload if it travels inline, its size and its digest."""
    pieces = payload if type(payload) is list else [payload]
    size = sum(map(len, pieces))
    hashed = large_sha256()
    sealed = make_memory() if size >= core.DESCRIPTOR_BYTES_MIN else None
    if sealed is None:
        payload = b"".join(pieces)
        hashed.update(payload)
        return None, payload, size, hashed.digest()
    try:
        for piece in pieces:
            for at in range(0, len(piece), PIECE_BYTES):
                part = memoryview(piece)[at : at + PIECE_BYTES]
                hashed.update(part)
                while part:
                    part = part[os.write(sealed, part) :]
        seal(sealed)
    except OSError:  # no memory left for it
        os.close(sealed)
        core.leave(core.EXIT_PROTOCOL)
    return sealed, b"", size, hashed.digest()


def make_memory():
    """Returns a memfd, or None where none can be had."""
    try:
        import fcntl  # without it nothing can be sealed

        return os.memfd_create("result", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (ImportError, AttributeError, OSError):
        return None


def seal(memory):
    import fcntl

    fcntl.fcntl(memory, F_ADD_SEALS, SEALS)


def send_sealed(fd, sealed):
    import _socket

    connection = _socket.socket(fileno=fd)
    try:
        rights = sealed.to_bytes(4, sys.byteorder)
        connection.sendmsg([b"\0"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    finally:
        connection.detach()
        os.close(sealed)


# Calls


def no_function(function, name):
    """Refuses a name that the file does not define as something that can be called."""
    import difflib

    members = vars(function.module)
    if name in members:
        message = "`%s` in %s is not a function but a value of type %s"
        message %= (name, function.file_name, type(members[name]).__name__)
        raise declined("not_callable", message)
    own = [
        key for key, value in members.items()
        if callable(value) and getattr(value, "__module__", None) == function.module.__name__
    ]
    hint = "it defines " + ", ".join(own) if own else "it defines no function at all"
    near = difflib.get_close_matches(name, own, 1)
    if near:
        hint = "did you mean `%s`? %s" % (near[0], hint)
    raise declined("no_function", "%s has no function `%s`" % (function.file_name, name), hint)


loads = dumps = None


def load_pickler():
    """The C functions under `pickle`: the package around them imports `re`."""
    global loads, dumps
    try:
        from _pickle import dumps, loads
    except ImportError:
        from pickle import dumps, loads
    return loads


def check_python(python, what):
    """Refuses pickles of another Python: code in them would crash this one."""
    if python != core.PYTHON_MINOR:
        message = "%s pickled by Python %s and this is Python %s"
        hint = "use an environment with Python %s, or pass arguments that are JSON" % python
        message %= (what, python, core.PYTHON_MINOR)
        raise declined("python_mismatch", message, hint)


def unpickle(payload, metadata):
    """Returns the arguments; the payload has been verified."""
    check_python(metadata["python"], "the arguments were")
    try:
        if "buffers" in metadata:
            payload, buffers = split_buffers(payload, metadata["buffers"])
            positional, named = (loads or load_pickler())(payload, buffers=buffers)
        else:
            positional, named = (loads or load_pickler())(payload)
        return positional, named
    except BaseException as error:
        message = "unpickling the arguments raised " + brief(error)
        raise declined("arguments_undecodable", message)


def split_buffers(payload, places):
    """Returns the pickle and its out-of-band buffers, read-only and not copied."""
    payload = memoryview(payload)
    buffers, end = [], None
    for offset, size in places:
        if offset % BUFFER_ALIGNMENT or offset < (end or 0) or offset + size > len(payload):
            raise ValueError("a buffer is at %d, of %d bytes" % (offset, size))
        buffers.append(payload[offset : offset + size])
        end = offset + size
    return payload[: places[0][0]] if places else payload, buffers


def pickle(value):
    """Returns pieces of a payload, and where its out-of-band buffers lie.

    By cloudpickle, if it is here, what the standard library cannot pickle: what was defined in a
    function that was itself sent as a pickle.
    """
    if dumps is None:
        load_pickler()
    buffers = []
    try:
        head = dumps(value, 5, buffer_callback=buffers.append)
        if not buffers:
            return head, buffers
        dump = dumps
    except Exception:
        cloudpickle = sys.modules.get("cloudpickle")
        if cloudpickle is None:
            raise
        dump = cloudpickle.dumps
    del buffers[:]

    def keep_apart(buffer):
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if len(raw) < BUFFER_BYTES_MIN or len(buffers) >= BUFFERS_MAX:
            return True
        buffers.append(raw)
        return False

    head = dump(value, 5, buffer_callback=keep_apart)
    pieces, places, end = [head], [], len(head)
    for raw in buffers:
        gap = -end % BUFFER_ALIGNMENT
        pieces += (bytes(gap), raw)
        places.append([end + gap, len(raw)])
        end += gap + len(raw)
    return (head if not buffers else pieces), places


class Pickled:
    """A function that came as a pickle. It is undone when it is first called."""

    source = None

    def __init__(self, metadata, payload):
        self.python, self.payload = metadata["python"], payload
        self.file_name = metadata.get("file_name", "")
        self.called = None

    def find(self, call):
        if self.called is None:
            # The same bytes may have come from clients of several Pythons: this call's counts.
            check_python(call.get("python", self.python), "the function was")
            try:
                self.called = (loads or load_pickler())(self.payload)
            except BaseException as error:
                hint = ""
                if isinstance(error, ImportError):
                    hint = "the image lacks a module that the function needs"
                message = "unpickling the function raised " + brief(error)
                raise declined("function_undecodable", message, hint)
        if not callable(self.called):
            message = "what was sent as a function is a value of type %s"
            raise declined("not_callable", message % type(self.called))
        return self.called


# Modules that the owner brings


class Modules:
    """Finds and loads the modules that the owner has sent, before any of the image's."""

    def __init__(self, sources):
        self.sources = sources

    def find_spec(self, name, path=None, target=None):
        base = name.replace(".", "/")
        for file, is_package in ((base + "/__init__.py", True), (base + ".py", False)):
            if file in self.sources:
                spec = type(sys.__spec__)(name, self, origin=file, is_package=is_package)
                spec.has_location = True
                return spec
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        file = module.__spec__.origin
        code = self.compiled(file)
        if code is None:
            code = compile(self.sources[file], file, "exec", dont_inherit=True)
        exec(code, vars(module))

    def compiled(self, file):
        """Its code, if the owner has sent it for the very bytecode of this Python."""
        name = "%s.%s.pyc" % (file[:-3], sys.implementation.cache_tag)
        try:
            data = a2b_base64(self.sources[name])
            if data[:4] == MAGIC_NUMBER:
                return marshal.loads(data[16:])
        except (KeyError, TypeError, ValueError, EOFError):
            pass
        return None

    def get_source(self, name):
        """Asked by `linecache`, for tracebacks."""
        spec = self.find_spec(name)
        return spec and self.sources[spec.origin]


def take_modules(payload):
    """Puts the owner's modules in the place of those that this image may have."""
    finder = Modules(core.from_json(bytes(payload)))
    sys.meta_path[:] = [finder] + [it for it in sys.meta_path if type(it) is not Modules]
    tops = {file.partition("/")[0].partition(".")[0] for file in finder.sources}
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]
    for name in sorted(tops):
        try:
            __import__(name)
        except BaseException:  # what needs it will say so
            pass


def run_coroutine(coroutine):
    import asyncio

    return asyncio.run(coroutine)


def encode_otherwise(value, obstacle, asked):
    """Pickles a result that JSON would not bring back, if the caller takes that."""
    message = "the result, of type %s, cannot be serialised: " % type(value).__qualname__
    if type(value).__name__ in ("generator", "async_generator"):
        hint = "return list(...) of it"
        raise declined("result_not_serialisable", message + "a generator has no value", hint)
    if "pickle" in asked["accepts"]:
        metadata = {"encoding": "pickle", "python": core.PYTHON_MINOR}
        try:
            payload, places = pickle(value)
        except BaseException as error:
            raise declined("result_not_serialisable", message + "pickling raised " + brief(error))
        size = len(payload)
        if places:
            metadata["buffers"], size = places, sum(places[-1])
        if size > asked["result_bytes_max"]:
            result_too_large(size, asked["result_bytes_max"])
        return core.to_json(metadata) if places else PICKLE_REPLY, payload
    if isinstance(obstacle, UnicodeEncodeError):
        obstacle = SURROGATE
    elif isinstance(obstacle, ValueError):
        obstacle = NOT_FINITE
    elif isinstance(obstacle, Exception):
        obstacle = "what raised " + brief(obstacle)
    message += "this caller takes JSON, which has no place for %s" % obstacle
    hint = JSON_HINTS.get(obstacle, "return None, bool, int, float, str, list or dict")
    if type(value).__module__.partition(".")[0] == "numpy":
        hint = "numpy has .tolist() and .item() for that"
    raise declined("result_not_serialisable", message, hint)


def result_too_large(size, most):
    message = "the result takes %d bytes, and at most %d may come back" % (size, most)
    hint = "write it to a file in the working directory and name that as an output"
    raise declined("result_too_large", message, hint)


# Exceptions of the function


def decode_source(source):
    from importlib.util import decode_source

    try:
        return decode_source(source)
    except (SyntaxError, UnicodeDecodeError):
        return source.decode("latin-1")


def own_traceback(error):
    """Returns the traceback of `error` from the first frame that is not the worker's own."""
    asyncio = sys.modules.get("asyncio")
    asyncio = os.path.dirname(asyncio.__file__) if asyncio else None
    frames = error.__traceback__
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file not in (core.WORKER_FILE, THIS_FILE) and os.path.dirname(file) != asyncio:
            return frames
        frames = frames.tb_next
    return None


def format_traceback(error, function):
    """Returns the text that Python would print had the function's file run alone."""
    import linecache
    import traceback

    if function.source is not None:
        lines, size = decode_source(function.source).splitlines(True), len(function.source)
        # A time of None keeps linecache from looking for the file on disk.
        linecache.cache[function.file_name] = (size, None, lines, function.file_name)
    frames = own_traceback(error)
    depth, deepest = 0, frames
    while deepest is not None:
        depth, deepest = depth + 1, deepest.tb_next
    limit = -TRACEBACK_FRAMES_MAX if depth > TRACEBACK_FRAMES_MAX else None
    try:
        text = traceback.TracebackException(type(error), error, frames, limit=limit)
        text = "".join(text.format())
    except BaseException:  # a chain too long for this Python, an exception that misbehaves
        text = "".join(traceback.format_tb(frames, limit))
        text += "%s: %s\n" % (type(error).__name__, text_of(error))
    return shorten(text, TRACEBACK_CHARACTERS_MAX)


def exit_code_of(error):
    """Returns the exit code that Python would end with for this SystemExit."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def explain(error, function, pickles):
    """Returns what the owner is told of an exception that left the function."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = "%s.%s" % (kind.__module__, name)
    fields = {
        "type": shorten(name, MESSAGE_CHARACTERS_MAX),
        "message": shorten(text_of(error), MESSAGE_CHARACTERS_MAX),
        "traceback": format_traceback(error, function),
    }
    if isinstance(error, SystemExit):
        fields["exit_code"] = exit_code_of(error)
    if isinstance(error, ModuleNotFoundError) and isinstance(error.name, str):
        fields["missing_module"] = shorten(error.name, MESSAGE_CHARACTERS_MAX)
    if pickles:
        add_pickled(fields, error)
    return fields


def add_pickled(fields, error):
    """Adds the exception itself, if it can be pickled and there is room for it."""
    from binascii import b2a_base64

    try:
        pieces, places = pickle(error)
    except BaseException:  # what it holds cannot be sent; its text can
        return
    if places or len(pieces) > EXCEPTION_BYTES_MAX:
        return
    digits = b2a_base64(pieces, newline=False).decode()
    whole = dict(fields, pickle=digits, python=core.PYTHON_MINOR)
    if len(core.to_json(whole, "replace")) <= ERROR_BYTES_MAX:
        fields.update(whole)


def leave_child(error, function):
    """Ends a forked child as Python would have: it must not answer in its parent's place."""
    if isinstance(error, SystemExit):
        core.leave(exit_code_of(error))
    sys.stderr.write(format_traceback(error, function))
    core.leave(1)

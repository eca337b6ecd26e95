"""A daemon's end of a socket, played by a test: says what it is told to, honest or not."""

import array
import fcntl
import hashlib
import json
import os
import pathlib
import socket
import struct
import tempfile
import threading
import zlib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HEADER = struct.Struct(">4sHBB16sIQ32s")
HELLO, FUNCTION, CALL, RESULT, ERROR, DECLINED, CORRUPT, NEED, MODULES = range(1, 10)
OPEN, OPENED, OUTPUT, CANCEL, ENDED, SUBMITTED, FETCH, ASK, ANSWER = range(16, 25)
DECISION = {"pool": 7, "fresh": "nothing", "engine": "native", "image": "x", "enforced": {}}


def encode(kind, task, fields, payload=b"", flags=0, version=1, digest=None, size=None):
    """Writes a frame; shares no line with the package."""
    metadata = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    header = HEADER.pack(
        b"\x89RIC", version, kind, flags, task, len(metadata),
        len(payload) if size is None else size, digest or hashlib.sha256(payload).digest(),
    )
    header += struct.pack(">I", zlib.crc32(header))
    header += struct.pack(">I", zlib.crc32(header + metadata))
    return header + metadata + (b"" if flags else payload)


def sealed(data, seals=0xF):
    """Returns a descriptor of memory with these seals (F_ADD_SEALS of fcntl(2))."""
    memory = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(memory, data)
    fcntl.fcntl(memory, 1033, seals)
    return memory


class Frame:
    """A frame that the client sent."""

    def __init__(self, kind, task, fields, payload, descriptor):
        self.kind, self.task, self.fields = kind, task, fields
        self.payload, self.descriptor = payload, descriptor


class Peer:
    """One connection, seen from the daemon's side."""

    def __init__(self, stream):
        self.stream = stream
        stream.settimeout(30)  # a guard: no test waits for it

    def send(self, *frames):
        """Sends frames in one write."""
        self.stream.sendall(b"".join(frames))

    def send_descriptor(self, frame, descriptor):
        """Sends a frame whose payload is in ``descriptor``, and closes that."""
        self.stream.sendall(frame)
        rights = array.array("i", [descriptor])
        self.stream.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.close(descriptor)

    def read(self):
        """Reads the client's next frame, or returns None at the end."""
        header = self._exactly(76)
        if header is None:
            return None
        _, _, kind, flags, task, metadata_bytes, payload_bytes, digest = HEADER.unpack(header[:68])
        assert zlib.crc32(header[:68]) == int.from_bytes(header[68:72], "big")
        metadata = self._exactly(metadata_bytes)
        assert zlib.crc32(header[:72] + metadata) == int.from_bytes(header[72:], "big")
        descriptor, payload = None, b""
        if flags:
            _, ancillary, _, _ = self.stream.recvmsg(1, socket.CMSG_SPACE(4))
            descriptor = array.array("i", ancillary[0][2])[0]
            assert fcntl.fcntl(descriptor, 1034) & 0xE == 0xE
            payload = os.pread(descriptor, payload_bytes, 0)
            os.close(descriptor)
        elif payload_bytes:
            payload = self._exactly(payload_bytes)
        assert hashlib.sha256(payload).digest() == digest
        return Frame(kind, task, json.loads(metadata or b"{}"), payload, descriptor)

    def expect(self, kind):
        """Reads the client's next frame, which has to be of this kind."""
        frame = self.read()
        assert frame is not None and frame.kind == kind, (kind, frame and frame.kind)
        return frame

    def greet(self, **fields):
        """Exchanges HELLOs."""
        self.expect(HELLO)
        hello = {"version_lowest": 1, "version_highest": 1, "daemon": "test", "pid": 1, **fields}
        self.send(encode(HELLO, bytes(16), hello))

    def open(self):
        """Exchanges HELLOs and grants one pool."""
        self.greet()
        opening = self.expect(OPEN)
        self.send(encode(OPENED, opening.task, DECISION))
        return opening

    def expect_call(self):
        """Reads the next CALL, and its FUNCTION if one comes first."""
        frame = self.read()
        if frame is not None and frame.kind == FUNCTION:
            frame = self.read()
        assert frame is not None and frame.kind == CALL, frame and frame.kind
        return frame

    def answer(self, task, value):
        """Sends a RESULT."""
        payload = json.dumps(value).encode()
        self.send(encode(RESULT, task, {"encoding": "json"}, payload))

    def is_closed(self):
        """Waits for the client's end of the stream; False if it says something instead."""
        try:
            return self.stream.recv(1) == b""
        except ConnectionError:
            return True

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            piece = self.stream.recv(size - len(data))
            if not piece:
                return None
            data += piece
        return data


class Daemon:
    """Listens in a directory of its own and plays ``script`` to each client that connects."""

    def __init__(self, script):
        self._folder = tempfile.TemporaryDirectory(prefix="ric-python-")
        self.socket = os.path.join(self._folder.name, "daemon.sock")
        self.failure = None
        self._script = script
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket)
        self._listener.listen()
        self._threads = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        for thread in self._threads:
            thread.join(30)
        self._listener.close()
        self._folder.cleanup()
        if kind is None and self.failure is not None:
            raise self.failure

    def _accept(self):
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._play, args=(stream,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, stream):
        with stream:
            try:
                self._script(Peer(stream))
            except BaseException as failure:
                self.failure = failure

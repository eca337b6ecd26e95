"""Frames: what travels between a client and a daemon, as docs/protocol.md of the project says.

``encode`` writes one, ``Reader`` reads a stream of them and verifies every byte. Nothing here knows
what a frame is for, and nothing here decodes a payload.
"""

from __future__ import annotations

import os
import socket
import struct
from array import array
from typing import List, Optional, Tuple, Union
from zlib import crc32

from . import memory
from .digests import digest as sha256_of

VERSION = 1
MAGIC = b"\x89RIC"

HELLO, FUNCTION, CALL, RESULT, ERROR, DECLINED, CORRUPT, NEED, MODULES = range(1, 10)
OPEN, OPENED, OUTPUT, CANCEL, ENDED, SUBMITTED, FETCH, ASK, ANSWER = range(16, 25)
KINDS = frozenset(range(1, 13)) | frozenset(range(16, 25))

DESCRIPTOR_FLAG = 1
HEADER_BYTES = 76
METADATA_BYTES_MAX = 64 << 10
PAYLOAD_BYTES_MAX = 1 << 30
#: From this many bytes on a payload travels in sealed memory instead of the stream.
DESCRIPTOR_BYTES_MIN = 1 << 20

NO_TASK = bytes(16)
EMPTY_DIGEST = sha256_of(b"")

_CHECKED = struct.Struct(">4sHBB16sIQ32s")  # bytes 0 to 67
_HEADER = struct.Struct(">4sHBB16sIQ32sII")
_CHECKSUM = struct.Struct(">I")
#: One read takes what has arrived, up to this much. Below malloc's threshold for mmap(2), so that
#: no read pays for fresh pages.
_READ_BYTES = 64 << 10
#: A frame that is read has at most one descriptor; what comes beyond these is closed by the kernel.
_DESCRIPTORS_READ_MAX = 4
_RIGHTS_BYTES = socket.CMSG_SPACE(4 * _DESCRIPTORS_READ_MAX)

Buffer = Union[bytes, memoryview]


class Fault(Exception):
    """The stream cannot be used any more: a broken header, or a sender that breaks the protocol.

    ``what`` is ``header`` where bytes were damaged on their way, else ``protocol``.
    """

    def __init__(self, what: str, message: str) -> None:
        super().__init__(message)
        self.what = what


class Frame:
    """One frame that was read.

    ``damage`` is None, or says which check failed: ``metadata`` or ``payload``, and the two hex
    digests. A damaged frame is there to be reported; what it carries must not be used.
    """

    __slots__ = ("kind", "task", "metadata", "payload", "damage")

    def __init__(self, kind: int, task: bytes, metadata: bytes, payload: Buffer) -> None:
        self.kind = kind
        self.task = task
        self.metadata = metadata
        self.payload = payload
        self.damage: Optional[Tuple[str, str, str]] = None


def encode(
    kind: int,
    task: bytes,
    metadata: bytes,
    payload_bytes: int = 0,
    digest: bytes = EMPTY_DIGEST,
    descriptor: bool = False,
) -> bytes:
    """Returns header and metadata of a frame. The payload, or its carrier byte, comes behind it.

    ``digest`` is the payload's SHA-256. Raises ``ValueError`` if ``metadata`` (JSON, in bytes) or
    the payload is longer than a frame may carry.
    """
    if len(metadata) > METADATA_BYTES_MAX:
        raise ValueError(
            f"metadata of {len(metadata)} bytes is more than a frame's {METADATA_BYTES_MAX}"
        )
    if payload_bytes > PAYLOAD_BYTES_MAX:
        raise ValueError(
            f"a payload of {payload_bytes} bytes is more than a frame's {PAYLOAD_BYTES_MAX}: "
            "hand large data over in files, with mounts"
        )
    header = _CHECKED.pack(
        MAGIC, VERSION, kind, descriptor, task, len(metadata), payload_bytes, digest
    )
    header += _CHECKSUM.pack(crc32(header))
    return b"".join((header, _CHECKSUM.pack(crc32(metadata, crc32(header))), metadata))


class Reader:
    """Reads frames from a connected stream socket, as many at once as have arrived.

    Memory is taken as bytes arrive, never on the word of a length. Descriptors that no frame asks
    for are closed.
    """

    def __init__(self, stream: socket.socket, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        self._stream = stream
        self._payload_bytes_max = payload_bytes_max
        self._pieces: List[bytes] = []
        self._have = 0
        self._need = HEADER_BYTES
        self._descriptors: List[int] = []

    def receive(self) -> List[Frame]:
        """Waits for bytes and returns the frames that they complete, in order; maybe none.

        Raises ``EOFError`` at the end of the stream, ``Fault`` if it cannot be used any more, and
        ``OSError`` as ``recvmsg(2)``.
        """
        data, ancillary, flags, _ = self._stream.recvmsg(
            _READ_BYTES, _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        if ancillary:
            self._take_descriptors(ancillary)
        if not data:
            if self._have:
                raise EOFError(f"the stream ended {self._have} bytes into a frame")
            raise EOFError("the stream ended")
        self._have += len(data)
        if self._pieces:
            self._pieces.append(data)
            if self._have < self._need:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
        frames: List[Frame] = []
        start = 0
        try:
            while True:
                end = self._read_one(data, start, frames)
                if end < 0:
                    break
                start = end
        finally:
            if start == len(data):
                self._close_descriptors()
        self._have = len(data) - start
        if self._have:
            self._pieces.append(data[start:] if start else data)
        return frames

    def close(self) -> None:
        """Closes descriptors that have arrived and that no frame has taken."""
        self._close_descriptors()

    def _read_one(self, data: bytes, start: int, frames: List[Frame]) -> int:
        """Reads the frame at ``start`` and returns where it ends, or -1 if it is not all there."""
        have = len(data) - start
        if have < HEADER_BYTES:
            self._need = HEADER_BYTES
            return -1
        fields = _HEADER.unpack_from(data, start)
        magic, version, kind, flags, task, metadata_bytes, payload_bytes, digest = fields[:8]
        header_checksum, frame_checksum = fields[8:]
        if crc32(data[start : start + 68]) != header_checksum:
            raise Fault("header", "a frame's header does not match its checksum")
        if magic != MAGIC:
            raise Fault("protocol", f"a frame begins with {magic.hex()} and not with {MAGIC.hex()}")
        if version != VERSION:
            raise Fault(
                "protocol", f"a frame of version {version} came, and this client speaks {VERSION}"
            )
        if flags > DESCRIPTOR_FLAG or kind not in KINDS:
            raise Fault("protocol", f"a frame of kind {kind} with flags {flags} is not known here")
        if metadata_bytes > METADATA_BYTES_MAX or payload_bytes > self._payload_bytes_max:
            raise Fault(
                "protocol",
                f"a frame of {metadata_bytes} + {payload_bytes} bytes is longer than allowed",
            )
        body = start + HEADER_BYTES + metadata_bytes
        end: int = body + (1 if flags else payload_bytes)
        if end > len(data):
            self._need = end - start
            return -1
        metadata = data[start + HEADER_BYTES : body]
        payload = self._open_descriptor(payload_bytes) if flags else data[body:end]
        frame = Frame(kind, task, metadata, payload)
        checksum = crc32(metadata, crc32(data[start : start + 72]))
        if checksum != frame_checksum:
            frame.damage = ("metadata", f"{frame_checksum:08x}", f"{checksum:08x}")
        elif digest != (found := sha256_of(payload)):
            frame.damage = ("payload", digest.hex(), found.hex())
        frames.append(frame)
        return end

    def _take_descriptors(self, ancillary: List[Tuple[int, int, bytes]]) -> None:
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._descriptors.extend(array("i", rights[: len(rights) & ~3]))
        if len(self._descriptors) > _DESCRIPTORS_READ_MAX:
            self._close_descriptors()
            raise Fault("protocol", "descriptors came that no frame asked for")

    def _open_descriptor(self, size: int) -> memoryview:
        if not self._descriptors:
            raise Fault("protocol", "a payload's descriptor did not come with its carrier")
        descriptor = self._descriptors.pop(0)
        try:
            return memory.open_sealed(descriptor, size)
        except ValueError as error:
            raise Fault("protocol", str(error)) from error
        finally:
            os.close(descriptor)

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

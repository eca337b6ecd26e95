"""Bytes on their way to the daemon: pickles with their large buffers beside them, hashed once.

The layout is that of docs/protocol.md: the pickle first, then each out-of-band buffer (PEP 574) at
a multiple of 64 bytes. Small payloads are bytes, large ones sealed memory.
"""

from __future__ import annotations

import os
import pickle
import weakref
from hashlib import sha256
from typing import Any, List, Optional, Sequence, Tuple

from . import memory
from .digests import digest as sha256_of
from .frame import DESCRIPTOR_BYTES_MIN, Buffer

#: From this many bytes on a buffer lies beside the pickle instead of in it.
BUFFER_BYTES_MIN = 16 << 10
BUFFERS_MAX = 1024
_ALIGNMENT = 64


class Payload:
    """What a frame carries. It is kept until its call has been answered, for it may be sent again.

    ``pieces`` are the bytes, unless ``descriptor`` is sealed memory that holds them.
    """

    __slots__ = ("pieces", "descriptor", "size", "digest", "buffers", "_finalizer", "__weakref__")

    def __init__(self, pieces: Sequence[Buffer], buffers: Sequence[Tuple[int, int]] = ()) -> None:
        self.buffers = buffers
        self.descriptor: Optional[int] = None
        self.size = sum(map(len, pieces))
        if self.size < DESCRIPTOR_BYTES_MIN and len(pieces) > 1:
            # Also a snapshot: the buffers are the caller's, who may write to them after the call.
            pieces = (b"".join(pieces),)
        if len(pieces) == 1:
            self.digest = sha256_of(pieces[0])
        else:
            hashed = sha256()
            for piece in pieces:
                hashed.update(piece)
            self.digest = hashed.digest()
        if self.size >= DESCRIPTOR_BYTES_MIN:
            self.descriptor = memory.seal(pieces)
            if self.descriptor is not None:
                self._finalizer = weakref.finalize(self, os.close, self.descriptor)
                pieces = ()
            else:
                pieces = (b"".join(pieces),)
        self.pieces = pieces

    def close(self) -> None:
        """Gives the memory back. Idempotent."""
        self.pieces = ()
        if self.descriptor is not None:
            self.descriptor = None
            self._finalizer()


def with_buffers(pickled: bytes, buffers: List[pickle.PickleBuffer]) -> Payload:
    """Lays out a pickle and the buffers that its pickler left out of it."""
    if not buffers:
        return Payload((pickled,))
    pieces: List[Buffer] = [pickled]
    places = []
    at = len(pickled)
    for buffer in buffers:
        view = buffer.raw()
        gap = -at % _ALIGNMENT
        if gap:
            pieces.append(bytes(gap))
        pieces.append(view)
        places.append((at + gap, view.nbytes))
        at += gap + view.nbytes
    return Payload(pieces, places)


class Sieve:
    """A pickler's ``buffer_callback``: keeps large contiguous buffers out of the pickle."""

    def __init__(self) -> None:
        self.kept: List[pickle.PickleBuffer] = []

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """True means in the pickle, as the pickle module has it."""
        try:
            size = buffer.raw().nbytes
        except BufferError:  # not contiguous
            return True
        if size < BUFFER_BYTES_MIN or len(self.kept) >= BUFFERS_MAX:
            return True
        self.kept.append(buffer)
        return False


def unpickle(payload: Buffer, places: Any) -> Any:
    """Undoes a pickle whose buffers lie at ``places``, handing them out read-only, not copied.

    ``places`` comes from outside: raises ``ValueError`` if it is not what the protocol allows, and
    whatever unpickling raises.
    """
    if places is None:
        return pickle.loads(payload)
    view = memoryview(payload).toreadonly()
    if not isinstance(places, list) or len(places) > BUFFERS_MAX:
        raise ValueError("`buffers` is not a list of at most 1024 places")
    buffers, free = [], 0
    first = len(view)
    for place in places:
        if not (isinstance(place, list) and len(place) == 2 and {*map(type, place)} == {int}):
            raise ValueError(f"`buffers` has {place!r} where a pair of numbers belongs")
        offset, size = place
        if offset < free or offset % _ALIGNMENT or size < 0 or offset + size > len(view):
            raise ValueError(f"`buffers` has {place!r}, which is no place in the payload")
        first = min(first, offset)
        free = offset + size
        buffers.append(view[offset : offset + size])
    return pickle.loads(view[:first], buffers=buffers)

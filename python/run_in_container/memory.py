"""Large payloads: memory that is written once, sealed, and handed over as a descriptor.

A seal is the kernel's word that nobody can change or shorten the memory any more (``memfd_create``
and ``F_ADD_SEALS`` of fcntl(2), since Linux 3.17), so that what was verified stays what it was.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from typing import List, Optional, Sequence, Union

# <linux/fcntl.h>; Python has names for them only where its C library had.
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_SEAL, _SHRINK, _GROW, _WRITE = 0x1, 0x2, 0x4, 0x8
_NEEDED = _SHRINK | _GROW | _WRITE
#: writev(2) takes at most IOV_MAX of them at once.
_PIECES_MAX = 1024


def seal(pieces: Sequence[Union[bytes, memoryview]]) -> Optional[int]:
    """Returns the descriptor of sealed memory that holds ``pieces`` one after another.

    The caller closes it. None where no such memory can be had: too many open files, no room, or a
    system without it; the payload then travels in the stream.
    """
    try:
        descriptor = os.memfd_create("run-in-container", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):
        return None
    try:
        rest: List[memoryview] = [memoryview(piece) for piece in pieces if len(piece)]
        while rest:
            written = os.writev(descriptor, rest[:_PIECES_MAX])
            while rest and written >= rest[0].nbytes:
                written -= rest.pop(0).nbytes
            if written:
                rest[0] = rest[0][written:]
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEAL | _NEEDED)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def open_sealed(descriptor: int, size: int) -> memoryview:
    """Returns the ``size`` bytes behind ``descriptor``, read-only and without copying them.

    They stay mapped while anything refers to the view. Raises ``ValueError`` if the memory is not
    sealed against every change or has another size. The caller closes ``descriptor``; before
    Python 3.13 the mapping keeps a descriptor of its own.
    """
    try:
        seals = fcntl.fcntl(descriptor, _F_GET_SEALS)
    except OSError as error:
        raise ValueError(f"a payload's descriptor is not memory: {error.strerror}") from error
    if seals & _NEEDED != _NEEDED:
        raise ValueError(f"a payload's memory is not sealed: its seals are {seals:#x}")
    if os.fstat(descriptor).st_size != size:
        raise ValueError(f"a payload's memory does not hold the {size} bytes that were announced")
    if size == 0:
        return memoryview(b"")
    # Not MAP_SHARED, which kernels before 6.7 refuse for memory that is sealed against writing; and
    # one walk over the pages (MAP_POPULATE) instead of a fault for each while they are hashed.
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_POPULATE", 0)
    if sys.version_info >= (3, 13):
        mapped = mmap.mmap(descriptor, size, flags, mmap.PROT_READ, trackfd=False)
    else:
        mapped = mmap.mmap(descriptor, size, flags, mmap.PROT_READ)
    return memoryview(mapped)

"""SHA-256, by whichever implementation is faster for the size in hand.

OpenSSL hashes several times faster than Python's own code and takes a microsecond longer to begin,
which is more than hashing what a usual call carries takes.
"""

from __future__ import annotations

from hashlib import sha256 as large
from typing import Union

try:
    from _sha2 import sha256 as small  # type: ignore[import-not-found]  # since Python 3.12
except ImportError:
    try:
        from _sha256 import sha256 as small  # type: ignore[import-not-found]
    except ImportError:  # not CPython
        small = large

_SMALL_BYTES_MAX = 512


def digest(data: Union[bytes, memoryview]) -> bytes:
    """Returns the SHA-256 of ``data``, bytes or a memoryview of bytes."""
    hashed: bytes = (small if len(data) <= _SMALL_BYTES_MAX else large)(data).digest()
    return hashed

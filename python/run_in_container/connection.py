"""One stream to a daemon: written by any thread, read by a thread of its own.

A write goes out at once from the thread that makes it, as long as the daemon keeps up. When it does
not, frames gather and one thread writes them in large pieces until there are none left.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref
from array import array
from typing import Callable, List, Optional, Sequence, Tuple

from .errors import Corrupt, Failure, Lost, NoDaemon, again
from .frame import PAYLOAD_BYTES_MAX, Fault, Frame, Reader

#: Bytes, and the descriptor that travels with the last of them.
Piece = Tuple[bytes, Optional[int]]

#: Most bytes that wait to be written before ``wait_for_room`` waits.
BACKLOG_BYTES_MAX = 16 << 20
CONNECT_TIMEOUT_S = 10.0
_WRITE_BYTES = 256 << 10

FORKED_HINT = "make a new Client or Executor in the child, or fork before the first one is made"


class Connection:
    """A connected socket, its reading thread, and what waits to be written.

    ``receive`` is called from the reading thread with each batch of frames; ``ended`` once, from
    there too, with the reason.
    """

    def __init__(self, path: str, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        """Raises ``NoDaemon`` if nobody answers at ``path``, within ten seconds."""
        self.path = path
        self.forked = False
        self._stream = _connect(path)
        self._reader = Reader(self._stream, payload_bytes_max)
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._backlog: List[Piece] = []
        self._backlog_bytes = 0
        self._writing = False
        self._reading = True
        self._over: Optional[Failure] = None
        self._thread: Optional[threading.Thread] = None
        _living.add(self)

    def start(
        self, receive: Callable[[List[Frame]], None], ended: Callable[[Failure], None]
    ) -> None:
        """Begins to read."""
        self._thread = threading.Thread(
            target=self._read, args=(receive, ended), name="run-in-container reader", daemon=True
        )
        self._thread.start()

    def send(self, data: bytes) -> None:
        """Writes ``data``, or keeps it to be written as soon as the daemon reads on.

        Raises ``Lost`` if the connection is over, and in a forked child.
        """
        if self.forked:
            raise forked(self.path)
        with self._lock:
            if self._over is not None:
                raise self._lost()
            if not self._writing:
                sent = self._send_now(data)
                if sent == len(data):
                    return
                data = data[sent:]
            self._keep([(data, None)])

    def _send_now(self, data: bytes) -> int:
        try:
            return self._stream.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Lost(f"the daemon is gone: {error.strerror}", tried=self._tried()) from error

    def send_pieces(self, pieces: Sequence[Piece]) -> None:
        """Writes pieces in order, some with descriptors, which stay the caller's.

        Raises as ``send``.
        """
        if self.forked:
            raise forked(self.path)
        owned = [(data, None if fd is None else os.dup(fd)) for data, fd in pieces]
        with self._lock:
            if self._over is not None:
                for _, descriptor in owned:
                    if descriptor is not None:
                        os.close(descriptor)
                raise self._lost()
            self._keep(owned)

    def wait_for_room(self) -> None:
        """Waits while too much waits to be written. Never in the reading thread, for the daemon
        may itself wait for what that has to read."""
        if self._backlog_bytes <= BACKLOG_BYTES_MAX or self.is_reading_thread():
            return
        with self._lock:
            while self._backlog_bytes > BACKLOG_BYTES_MAX and self._over is None:
                self._room.wait()

    def is_over(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.forked or self._over is not None

    def is_reading_thread(self) -> bool:
        """Whether this is the thread that must not wait for an answer."""
        return threading.current_thread() is self._thread

    def close(self, reason: Optional[Failure] = None) -> None:
        """Ends the stream, which is how the daemon learns of it. Idempotent."""
        if self.forked:
            return
        with self._lock:
            if self._over is None:
                self._over = reason or Lost("the connection was closed", tried=self._tried())
            self._room.notify_all()
        try:
            self._stream.shutdown(socket.SHUT_RDWR)
        except OSError:  # the daemon was faster
            pass

    def join(self) -> None:
        """Waits until the reading thread has told the end, unless called from it."""
        thread = self._thread
        if thread is not None and not self.is_reading_thread() and not self.forked:
            thread.join()
            self._thread = None

    def leave_in_child(self) -> None:
        """After fork(2): the stream is the parent's, and its end must not wait for this process."""
        self.forked = True
        try:
            self._stream.close()
        except OSError:
            pass

    def _tried(self) -> str:
        return f"cannot speak to the daemon at {self.path}"

    def _lost(self) -> Failure:
        assert self._over is not None
        return again(self._over)

    def _keep(self, pieces: List[Piece]) -> None:
        """Adds to what waits to be written, and has somebody write it. Under the lock."""
        self._backlog.extend(pieces)
        self._backlog_bytes += sum(len(data) for data, _ in pieces)
        if not self._writing:
            self._writing = True
            threading.Thread(
                target=self._write, name="run-in-container writer", daemon=True
            ).start()

    def _write(self) -> None:
        """Writes until nothing waits."""
        batch: List[Piece] = []
        try:
            while True:
                with self._lock:
                    batch, self._backlog = self._backlog, []
                    self._backlog_bytes = 0
                    self._room.notify_all()
                    if not batch or self._over is not None:
                        self._writing = False
                        self._close_if_unused()
                        break
                self._write_batch(batch)
        except OSError:
            # Whoever reads learns the end and its reason; nothing more is written.
            with self._lock:
                if self._over is None:
                    self._over = Lost("the daemon is gone", tried=self._tried())
                self._writing = False
                self._room.notify_all()
                self._close_if_unused()
        _close_descriptors(batch)

    def _write_batch(self, batch: List[Piece]) -> None:
        plain: List[bytes] = []
        size = 0
        while batch:
            data, descriptor = batch[0]
            if descriptor is None:
                plain.append(data)
                size += len(data)
            if plain and (descriptor is not None or size >= _WRITE_BYTES):
                self._stream.sendall(b"".join(plain))
                plain, size = [], 0
            if descriptor is not None:
                rights = array("i", [descriptor])
                self._stream.sendmsg(
                    [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                )
                os.close(descriptor)
            batch.pop(0)
        if plain:
            self._stream.sendall(b"".join(plain))

    def _read(
        self, receive: Callable[[List[Frame]], None], ended: Callable[[Failure], None]
    ) -> None:
        try:
            while True:
                frames = self._reader.receive()
                if frames:
                    receive(frames)
        except EOFError as error:
            reason: Failure = Lost(str(error), tried=self._tried())
        except Fault as error:
            reason = self._fault(error)
        except OSError as error:
            reason = Lost(f"recvmsg(2): {error.strerror}", tried=self._tried())
        except Failure as error:
            reason = error
        self.close(reason)
        self._reader.close()
        with self._lock:
            self._reading = False
            over = self._over
            batch, self._backlog = self._backlog, []
            self._close_if_unused()
        _close_descriptors(batch)
        assert over is not None
        ended(over)

    def _close_if_unused(self) -> None:
        """Under the lock. Not earlier: a closed descriptor's number is soon somebody else's."""
        if not (self._reading or self._writing):
            self._stream.close()

    def _fault(self, error: Fault) -> Failure:
        if error.what != "header":
            return Lost(
                str(error), tried=self._tried(), must_act="runtime",
                hint="the daemon breaks the protocol; is it another version?",
            )
        corrupt = Corrupt(str(error), tried=self._tried())
        corrupt.what = "header"
        return corrupt


def forked(path: str) -> Lost:
    """What a child of fork(2) is told that uses its parent's connection."""
    return Lost(
        "it was made before this process was forked, and belongs to the parent",
        tried=f"cannot use the connection to {path}",
        hint=FORKED_HINT,
        must_act="caller",
    )


def _connect(path: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(CONNECT_TIMEOUT_S)
        stream.connect(path)
        stream.settimeout(None)
    except OSError as error:
        stream.close()
        reason = error.strerror or str(error)
        hint = "start one with `run-in-container serve`, or name its socket with `socket=`"
        if isinstance(error, PermissionError):
            hint = "its socket belongs to somebody else; name yours with `socket=`"
        raise NoDaemon(
            f"connect(2): {reason}", tried=f"no daemon answers at {path}", hint=hint
        ) from error
    return stream


def _close_descriptors(pieces: List[Piece]) -> None:
    for _, descriptor in pieces:
        if descriptor is not None:
            os.close(descriptor)
    pieces.clear()


_living: weakref.WeakSet[Connection] = weakref.WeakSet()


def _leave_all_in_child() -> None:
    for connection in list(_living):
        connection.leave_in_child()


os.register_at_fork(after_in_child=_leave_all_in_child)

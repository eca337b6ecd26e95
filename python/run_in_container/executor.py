"""``concurrent.futures`` on warm sandboxes."""

from __future__ import annotations

import atexit
import concurrent.futures
import itertools
import os
import random
import sys
import threading
import time
import weakref
from collections import deque
from typing import (
    Any, Callable, Deque, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar,
    Union,
)

from .client import Client
from .errors import Busy, Failure, Lost, again
from .future import Call, Future, Output, collect
from .opening import Environment, Mount

T = TypeVar("T")

#: Calls that are with the daemon beyond one for each worker: enough that no worker waits for the
#: next one, few enough that those behind them can still be cancelled without a word to anybody.
PREFETCHED = 20
#: From so many free places on, more calls are handed over. Less than the above, so that those that
#: are with the daemon outlast the way there.
REFILL_FROM = 10
_BUSY_WAIT_S_MAX = 5.0


class Executor(concurrent.futures.Executor):
    """Runs functions in sandboxes that this node's daemon keeps warm.

    ::

        with Executor(image="host:", limits={"memory": "2GiB"}) as executor:
            print(executor.submit(pow, 2, 10).result())

    - ``environment``: the name of an environment, the path (``pathlib.Path``) of an environment
      file, a dict with what such a file says, or a list of these, the first winning.
    - ``image``: an image's reference; without either it is the machine's own ``host:``.
    - ``socket``: path of the daemon's socket; see ``Client``.
    - ``fresh``: what each call gets new: ``nothing``, ``process`` or ``container``.
    - ``limits``: ``memory`` (``"2GiB"`` or bytes), ``cpus``, ``pids``, ``time`` (``"10m"`` or
      seconds).
    - ``mounts``: ``"SOURCE:TARGET[:ro|rw]"`` or ``Mount``; sources are opened here, by this user.
    - ``variables``: environment variables in the sandbox. Nothing else of this program's
      environment is seen there.
    - ``max_workers``: how many containers may work for this executor at once; without it as many as
      there are processors.
    - ``results``: ``"json"`` takes only JSON back, so that nothing that came out of a sandbox is
      unpickled here.
    - ``output``: what becomes of what functions print: ``"print"`` shows it on ``sys.stdout`` and
      ``sys.stderr`` as it comes, ``"collect"`` keeps it for ``future.outcome``, a callable is
      called from the reading thread with future, ``"stdout"`` or ``"stderr"``, and text.
    - ``busy``: while the daemon's queue is full, ``"wait"`` keeps calls here and hands them over
      when there is room; ``"raise"`` ends their futures with ``Busy``.

    ``submit`` never waits: what the daemon does not have yet is kept in this process. Further
    keywords (``engine``, ``network``, ``user``, ``workdir``, ``interpreter``, ``tenant``) are the
    command line's flags; ``secrets``, a dict of names and text or bytes, appear as files in
    ``/run/secrets``; ``stock`` is how many containers are kept ready ahead of calls, where that is
    not left to demand. Raises ``NoDaemon`` and ``Refused`` before anything is submitted.
    """

    def __init__(
        self,
        max_workers: Optional[int] = None,
        *,
        environment: Union[None, Environment, Sequence[Environment]] = None,
        image: Optional[str] = None,
        socket: Union[None, str, "os.PathLike[str]"] = None,
        fresh: Optional[str] = None,
        limits: Optional[Mapping[str, Any]] = None,
        mounts: Sequence[Union[str, Mount]] = (),
        variables: Optional[Mapping[str, str]] = None,
        results: str = "pickle",
        output: Union[str, Output] = "print",
        busy: str = "wait",
        **further: Any,
    ) -> None:
        if busy not in ("wait", "raise"):
            raise ValueError(f"busy={busy!r} is neither 'wait' nor 'raise'")
        self._output = _output(output)
        client = Client(None if socket is None else os.fspath(socket), results=results)
        try:
            self._pool = client.open(
                max_workers=max_workers, environment=environment, image=image, fresh=fresh,
                limits=limits, mounts=mounts, variables=variables, **further,
            )
        except BaseException:
            client.close()
            raise
        self._client = client
        most = self._pool.containers_most + PREFETCHED
        self._queue = _Queue(client, most, busy == "wait")
        _living.add(self._queue)
        # An executor that is forgotten without shutdown() ends when its calls have.
        self._forgotten = weakref.finalize(self, self._queue.shut_later)
        self._forgotten.atexit = False

    @property
    def decision(self) -> Mapping[str, Any]:
        """What was granted: ``engine``, ``image``, ``fresh``, ``enforced``, ``bounds``."""
        return self._pool.decision

    def submit(
        self, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> Future[T]:
        """Calls ``fn`` in a sandbox and returns its future at once.

        Function and arguments travel as they are now. What cannot be pickled ends the future.
        Raises ``RuntimeError`` after ``shutdown``, ``Lost`` if the daemon has gone.
        """
        return self.submit_call(fn, args, kwargs)

    def submit_call(
        self,
        function: Callable[..., T],
        args: Sequence[Any] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
        *,
        deadline_s: Union[None, float, str] = None,
        output: Union[None, str, Output] = None,
    ) -> Future[T]:
        """As ``submit``, with what concerns this call alone.

        ``deadline_s`` is wall-clock seconds from the moment a worker takes it (or ``"10m"``), at
        most what the limits grant; the call is ended and the future raises ``TimedOut``.
        """
        taker = self._output if output is None else _output(output)
        self._queue.check()
        try:
            future = self._client.prepare(
                self._pool, function, tuple(args), dict(kwargs or {}), deadline_s, taker
            )
        except Exception as error:
            return _failed(error)
        self._queue.put(future)
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: Optional[float] = None,
        chunksize: int = 1,
    ) -> Iterator[Any]:
        """As the built-in ``map``, in sandboxes.

        ``chunksize`` arguments travel in one call, which pays for functions that take less than a
        millisecond. ``timeout`` is in seconds, from now.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        rows = zip(*iterables)
        chunks = iter(lambda: tuple(itertools.islice(rows, chunksize)), ())
        over, deadline = _over(fn), None if timeout is None else time.monotonic() + timeout
        futures = [self.submit(over, *chunk) for chunk in chunks]
        return _flattened(futures, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls. ``wait``: until those that were submitted have ended.
        ``cancel_futures``: those that are not with the daemon yet are not made."""
        self._forgotten.detach()
        self._queue.shut(cancel_futures)
        if wait:
            self._queue.join()


class _Queue:
    """Calls that wait for the daemon, and how many are with it. The owner of its futures."""

    def __init__(self, client: Client, most: int, waits_when_busy: bool) -> None:
        self._client = client
        self._most = most
        self._waits_when_busy = waits_when_busy
        # Reentrant: cancelling a future comes back here.
        self._lock = threading.RLock()
        self._done = threading.Event()
        self._waiting: Deque[Future[Any]] = deque()
        #: Calls that are with the daemon: those that were handed over, counted under the lock, less
        #: those that were answered, counted by the reading thread alone, without it.
        self._handed_over = 0
        self._answered = 0
        self._shut = False
        self._pause: Optional[threading.Timer] = None
        self._refused_in_a_row = 0
        client.after_batch = self._after_batch

    def check(self) -> None:
        """Raises if nothing more can be submitted."""
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._client.check()

    def put(self, future: Future[Any]) -> None:
        """Hands a call over, or keeps it until there is room."""
        future.call.owner = self
        with self._lock:
            self.check()
            if self._waiting or self._pause is not None or self._are_with_daemon() >= self._most:
                self._waiting.append(future)
            else:
                self._hand_over([future])

    def cancelled(self, future: Future[Any]) -> None:
        """Called by a future that was cancelled before it was answered."""
        with self._lock:
            if future.call.task is not None:
                self._client.cancelled(future)
            elif future.call.payload is not None:
                future.call.release()
                future.set_running_or_notify_cancel()
                self._end_if_done()

    def answered(self, future: Future[Any], error: Optional[BaseException]) -> bool:
        """Called by a future when its answer has come. True if the call is taken back."""
        self._answered += 1
        if not isinstance(error, Busy):
            self._refused_in_a_row = 0
            return False
        with self._lock:
            if not self._waits_when_busy or future.cancelled():
                return False
            future.call.task = None
            self._waiting.appendleft(future)
            self._wait_for_room(error.retry_after_s)
            return True

    def shut(self, cancel: bool) -> None:
        """Takes no more calls, and ends the connection when the last one has ended."""
        if self._client.is_forked():
            return
        with self._lock:
            self._shut = True
            for future in list(self._waiting) if cancel else ():
                future.cancel()
            self._end_if_done()

    def shut_later(self) -> None:
        """As ``shut``, from where no lock may be waited for: the garbage collector."""
        try:
            threading.Thread(target=self.shut, args=(False,), daemon=True).start()
        except RuntimeError:  # the interpreter ends, and the connection with it
            pass

    def join(self) -> None:
        """Waits until every call has ended; not in a callback, where that would be never."""
        if not self._client.is_forked() and not self._client.is_reading_thread():
            self._done.wait()
            self._client.close()

    def _are_with_daemon(self) -> int:
        return self._handed_over - self._answered

    def _hand_over(self, futures: List[Future[Any]]) -> None:
        """Under the lock."""
        self._handed_over += len(futures)
        try:
            self._client.hand_over(futures)
        except BaseException:
            self._handed_over -= len(futures)
            raise

    def _after_batch(self, over: Optional[Failure]) -> None:
        """Fills the room that answers have made. Called from the reading thread."""
        if over is not None:
            self._lose(over)
            return
        if not self._waiting and not self._shut:
            return
        with self._lock:
            if self._pause is None:
                try:
                    self._fill()
                except Lost:  # the reading thread is about to learn it, and tells why
                    return
            self._end_if_done()

    def _fill(self) -> None:
        """In batches: a write costs the daemon a wake-up too."""
        room = self._most - self._are_with_daemon()
        if room < REFILL_FROM:
            return
        batch: List[Future[Any]] = []
        while self._waiting and len(batch) < room:
            future = self._waiting.popleft()
            if not future.cancelled():
                batch.append(future)
        if batch:
            self._hand_over(batch)

    def _wait_for_room(self, retry_after_s: float) -> None:
        """Hands nothing over for as long as the daemon asks, and longer each time in a row; at
        random, so that many clients do not come back at once."""
        if self._pause is not None:
            return
        wait_s = retry_after_s * 2**self._refused_in_a_row
        wait_s = min(wait_s, max(_BUSY_WAIT_S_MAX, retry_after_s)) * random.uniform(0.8, 1.2)
        self._refused_in_a_row = min(self._refused_in_a_row + 1, 8)
        self._pause = threading.Timer(wait_s, self._go_on)
        self._pause.daemon = True
        self._pause.start()

    def _go_on(self) -> None:
        with self._lock:
            self._pause = None
            if not self._client.is_over():
                self._after_batch(None)

    def _lose(self, reason: Failure) -> None:
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        for future in waiting:
            if not future.cancelled():
                future.call.owner = None
                future.fail(again(reason))
        self._done.set()

    def _end_if_done(self) -> None:
        if not self._shut or self._are_with_daemon():
            return
        if all(future.cancelled() for future in self._waiting):
            self._client.close_soon()


def _output(output: Union[str, Output]) -> Output:
    if output == "print":
        return _print
    if output == "collect":
        return collect
    if not callable(output):
        raise ValueError(f"output={output!r} is neither 'print' nor 'collect' nor callable")
    return output


def _print(_: Future[Any], stream: str, text: str) -> None:
    file = sys.stdout if stream == "stdout" else sys.stderr
    if file is not None:  # as under pythonw
        file.write(text)
        file.flush()


def _failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future(Call(None, None, None, False))
    future.set_exception(error)
    return future


def _over(function: Callable[..., Any]) -> Callable[..., List[Any]]:
    """``function``, called with each of its arguments in turn, in one go."""

    def over(*chunk: Tuple[Any, ...]) -> List[Any]:
        return [function(*args) for args in chunk]

    return over


def _flattened(futures: List[Future[Any]], deadline: Optional[float]) -> Iterator[Any]:
    """The members of the results, in order. What is not waited for any more is cancelled."""
    futures.reverse()
    try:
        while futures:
            left = None if deadline is None else deadline - time.monotonic()
            chunk = futures[-1].result(left)
            futures.pop()
            chunk.reverse()
            while chunk:  # what has been handed out is not held
                yield chunk.pop()
    finally:
        for future in futures:
            future.cancel()


_living: weakref.WeakSet[_Queue] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """A program that ends waits for what it has submitted, as with the executors of Python."""
    for queue in list(_living):
        queue.shut(False)
    for queue in list(_living):
        queue.join()

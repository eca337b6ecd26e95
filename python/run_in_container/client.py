"""A client of the daemon: opens pools, makes calls, hands tasks in and fetches their results later.

``Executor`` stands on it and is what most programs want. A ``Client`` may be used from any thread.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from concurrent.futures import Future as PlainFuture
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, TypeVar, Union

from . import answers, frame
from .connection import Connection, forked
from .errors import Failure, Lost, NoDaemon, again
from .frame import Frame, encode
from .functions import PYTHON_MINOR, Functions, Pickled, modules_payload, pickle_arguments
from .future import Call, Future, Output
from .opening import Opening, milliseconds
from .payload import Payload
from .places import default_socket
from .version import VERSION

T = TypeVar("T")

HELLO_TIMEOUT_S = 10.0
#: Most bytes of one result, if the daemon does not grant less.
RESULT_BYTES_MAX = frame.PAYLOAD_BYTES_MAX
_TEMPLATES_MAX = 256
_ANSWERS = {
    frame.OPENED: "OPENED", frame.ANSWER: "ANSWER", frame.SUBMITTED: "SUBMITTED",
}


class Pool:
    """What an OPEN decided: calls that name it run in sandboxes like this one."""

    def __init__(self, decision: Dict[str, Any], about: str) -> None:
        number = decision.get("pool")
        if not isinstance(number, int):
            raise answers.Breach("OPENED names no pool")
        self.number = number
        #: What was decided: ``engine``, ``image``, ``fresh``, ``enforced``, ``bounds``.
        self.decision = decision
        self.about = about
        bounds = decision.get("bounds")
        granted = bounds.get("result_bytes_max") if isinstance(bounds, dict) else None
        #: Most bytes of one result.
        self.result_bytes_max = min(_count(granted) or RESULT_BYTES_MAX, RESULT_BYTES_MAX)
        #: How many calls run at once, at most.
        self.containers_most = _count(decision.get("containers_most")) or os.cpu_count() or 1
        self._templates: Dict[Tuple[str, bool], bytes] = {}

    def __repr__(self) -> str:
        return f"<Pool {self.number} of {self.about}>"

    def metadata_of(self, call: Call) -> bytes:
        """The metadata of a CALL. What is the same for every call of a function is made once."""
        pickled = call.pickled
        assert pickled is not None and call.payload is not None
        key = (pickled.sha256, call.takes_pickles)
        template = self._templates.get(key)
        if template is None:
            template = self._template(pickled, call.takes_pickles)
            if len(self._templates) >= _TEMPLATES_MAX:
                self._templates.pop(next(iter(self._templates)), None)
            self._templates[key] = template
        if not (call.payload.buffers or call.deadline_ms or call.extra):
            return template
        fields = dict(call.extra or {})
        if call.payload.buffers:
            fields["buffers"] = call.payload.buffers
        if call.deadline_ms:
            fields["deadline_ms"] = call.deadline_ms
        return template[:-1] + b"," + json.dumps(fields, separators=(",", ":")).encode()[1:]

    def _template(self, pickled: Pickled, takes_pickles: bool) -> bytes:
        return json.dumps({
            "pool": self.number,
            "function": "",
            "function_sha256": pickled.sha256,
            "encoding": "pickle",
            "python": PYTHON_MINOR,
            "accepts": ["json", "pickle"] if takes_pickles else ["json"],
            "result_bytes_max": self.result_bytes_max,
        }, separators=(",", ":")).encode()


class Client:
    """A connection to the daemon of this node.

    ``socket`` is its path; without it ``$RUN_IN_CONTAINER_SOCKET``, the user's own daemon, then the
    node's. ``results="json"`` takes nothing but JSON back, so that nothing that came out of a
    sandbox is ever unpickled. Raises ``NoDaemon`` if nobody answers there.
    """

    def __init__(self, socket: Optional[str] = None, *, results: str = "pickle") -> None:
        if results not in ("pickle", "json"):
            raise ValueError(f"results={results!r} is neither 'pickle' nor 'json'")
        self.socket = os.fspath(socket) if socket is not None else default_socket()
        self.takes_pickles = results == "pickle"
        #: What the daemon said of itself: ``daemon`` (its version), ``pid``.
        self.daemon: Dict[str, Any] = {}
        self._functions = Functions()
        self._tasks: Dict[bytes, Any] = {}
        self._sent: Dict[bytes, None] = {}
        self._prefix = os.urandom(8)
        self._counter = itertools.count(1)
        self._over: Optional[Failure] = None
        self._said_hello = threading.Event()
        #: Called from the reading thread after each batch of answers, and once at the end.
        self.after_batch: Callable[[Optional[Failure]], None] = lambda _: None
        self._connection = Connection(self.socket)
        self._connection.start(self._receive, self._ended)
        self._greet()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._connection.is_over() else "connected"
        return f"<Client of {self.socket}, {state}>"

    def close(self) -> None:
        """Ends the connection. Calls that have not ended are lost, submitted ones go on."""
        self._connection.close()
        self._connection.join()

    def open(self, **wishes: Any) -> Pool:
        """Asks for a sandbox that calls can run in; takes the keywords of ``Executor``.

        Waits for the decision; the image is fetched when the first call needs it. Raises
        ``Refused`` if policy or machine do not allow it, ``ValueError`` and ``OSError`` as
        ``Opening``.
        """
        opening = Opening(**wishes)
        try:
            tried = f"cannot have a sandbox for {opening.about}"
            modules = modules_payload()
            pieces = [(b"\0", descriptor) for descriptor in opening.descriptors]
            pieces += [(piece, None) for piece in modules.pieces]  # type: ignore[misc]
            waiting = self._ask(
                frame.OPEN, opening.metadata, tried, frame.OPENED, modules, pieces
            )
        finally:
            opening.close()
        decision = waiting.result()
        try:
            return Pool(decision, opening.about)
        except answers.Breach as error:
            raise answers.breach(error, tried) from error

    def call(
        self,
        pool: Pool,
        function: Callable[..., T],
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Dict[str, Any]] = None,
        *,
        deadline_s: Union[None, float, str] = None,
        output: Optional[Output] = None,
    ) -> Future[T]:
        """Calls ``function`` in a sandbox of ``pool`` and returns its future at once.

        ``deadline_s`` is wall-clock seconds from the moment a worker takes it. Raises ``Lost`` if
        the connection is over, and what pickling raises.
        """
        self.check()
        future = self.prepare(pool, function, args, kwargs or {}, deadline_s, output)
        future.call.owner = self
        self._connection.wait_for_room()
        try:
            self.hand_over([future])
        except BaseException:
            future.call.release()
            raise
        return future

    def prepare(
        self,
        pool: Pool,
        function: Callable[..., T],
        args: Tuple[Any, ...],
        kwargs: Dict[str, Any],
        deadline_s: Union[None, float, str] = None,
        output: Optional[Output] = None,
    ) -> Future[T]:
        """Makes the future of a call, with function and arguments as they are now."""
        pickled = self._functions.find(function)
        payload = pickle_arguments(args, kwargs)
        deadline_ms = None if deadline_s is None else milliseconds(deadline_s)
        return Future(Call(pool, pickled, payload, self.takes_pickles, output, deadline_ms))

    def hand_over(self, futures: List[Future[Any]]) -> None:
        """Sends calls to the daemon, in one write if they are small. Raises ``Lost`` if it is
        gone; then none of them is answered."""
        self._send_calls(futures)

    def cancelled(self, future: Future[Any]) -> None:
        """Tells the daemon to stop the call of a future that was cancelled."""
        task = future.call.task
        if task is not None and task in self._tasks:
            try:
                self._connection.send(encode(frame.CANCEL, task, b""))
            except Lost:  # then it ends by itself
                pass

    def answered(self, future: Future[Any], error: Optional[BaseException]) -> bool:
        """A call of this client alone is not made again."""
        return False

    def check(self) -> None:
        """Raises ``Lost`` if nothing can be sent any more."""
        if self._connection.forked:
            raise forked(self.socket)
        if self._over is not None:
            raise again(self._over)

    def is_over(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._over is not None or self._connection.is_over()

    def is_forked(self) -> bool:
        """Whether this process is a child of the one that has connected."""
        return self._connection.forked

    def is_reading_thread(self) -> bool:
        """Whether this thread runs callbacks, and must not wait for what it has to read itself."""
        return self._connection.is_reading_thread()

    def close_soon(self) -> None:
        """As ``close``, without waiting for the reading thread."""
        self._connection.close()

    def submit(
        self,
        pool: Pool,
        function: Callable[..., Any],
        *args: Any,
        rerun: bool = False,
        **kwargs: Any,
    ) -> str:
        """Hands a call in, to be fetched later, and returns its id once it is on disk.

        It outlives this program and the daemon. ``rerun=True`` lets it be run again after a crash
        under which it may have run already. Raises ``Busy`` if the daemon's queue is full.
        """
        pickled = self._functions.find(function)
        payload = pickle_arguments(args, kwargs)
        extra = {"keep": True, "rerun": rerun}
        call = Call(pool, pickled, payload, self.takes_pickles, extra=extra)
        submission = _Submission(call)
        self.check()
        self._send_calls([submission])
        fields = submission.result()
        identity = fields.get("id")
        if not isinstance(identity, str):
            raise answers.breach(answers.Breach("SUBMITTED has no id"), call.what())
        return identity

    def fetch(self, identity: str, *, output: Optional[Output] = None) -> Future[Any]:
        """Returns the future of a submitted call, by the id that ``submit`` gave.

        What it gives is kept by the daemon until ``forget``. An id that is not known ends the
        future with a ``Failure``.
        """
        self.check()
        tried = f"cannot fetch {identity}"
        call = Call(None, None, None, self.takes_pickles, output, tried=tried)
        call.owner = self
        future: Future[Any] = Future(call)
        task = self._new_task()
        self._tasks[task] = future
        metadata = json.dumps({"id": identity}).encode()
        try:
            self._connection.send(encode(frame.FETCH, task, metadata))
        except BaseException:
            self._tasks.pop(task, None)
            raise
        return future

    def forget(self, identity: str) -> None:
        """Lets the daemon remove a submitted call and its result."""
        self.ask("forget", id=identity)

    def status(self, *identities: str) -> List[Dict[str, Any]]:
        """Tells how far submitted calls are: these, or all of yours.

        Each has ``id``, ``state`` (``waiting``, ``running``, ``ended``), ``status`` once it has
        ended, ``submitted_s`` and ``ended_s`` (seconds since 1970). Those that are not known are
        left out.
        """
        return list(self.ask("status", ids=identities)["tasks"])

    def cancel(self, identity: str) -> None:
        """Ends a submitted call, whether it waits or runs."""
        self.ask("cancel", id=identity)

    def ask(self, question: str, **details: Any) -> Any:
        """Asks the daemon about itself: ``ps``, ``explain``, ``stop``, ``logs``, ``status``,
        ``cancel``, ``forget`` or ``metrics``. Returns what it answers, decoded from JSON."""
        tried = f"cannot ask the daemon for `{question}`"
        metadata = json.dumps({"ask": question, **details}).encode()
        return self._ask(frame.ASK, metadata, tried, frame.ANSWER).result()

    def _greet(self) -> None:
        hello = {
            "version_lowest": frame.VERSION,
            "version_highest": frame.VERSION,
            "client": f"python/{VERSION} ({PYTHON_MINOR}, pid {os.getpid()})",
        }
        self._connection.send(encode(frame.HELLO, frame.NO_TASK, json.dumps(hello).encode()))
        if not self._said_hello.wait(HELLO_TIMEOUT_S):
            self.close()
            raise NoDaemon(
                f"it did not say HELLO within {HELLO_TIMEOUT_S:.0f} s",
                tried=f"no daemon answers at {self.socket}",
                hint="does something else listen there?",
            )
        self.check()

    def _new_task(self) -> bytes:
        return self._prefix + next(self._counter).to_bytes(8, "big")

    def _ask(
        self,
        kind: int,
        metadata: bytes,
        tried: str,
        answer: int,
        payload: Optional[Payload] = None,
        pieces: Any = (),
    ) -> _Question:
        self.check()
        if self.is_reading_thread():
            raise RuntimeError(
                "this waits for the daemon, and was called from the thread that reads its "
                "answers: do it outside of callbacks"
            )
        question = _Question(tried, answer)
        task = self._new_task()
        self._tasks[task] = question
        if payload is None:
            self._connection.send(encode(kind, task, metadata))
        else:
            head = encode(kind, task, metadata, payload.size, payload.digest)
            self._connection.send_pieces([(head, None), *pieces])
        return question

    def _send_calls(self, waiting: Sequence[Any], again: bool = False) -> None:
        """Sends the CALL of each, and enters it as a task."""
        frames: List[bytes] = []
        tasks = []
        try:
            for one in waiting:
                if not again:
                    one.call.task = self._new_task()
                task = one.call.task
                tasks.append(task)
                self._tasks[task] = one
                self._add_call(frames, one.call, again)
            if frames:
                self._connection.send(b"".join(frames))
        except BaseException:
            for task in tasks:
                self._tasks.pop(task, None)
            raise

    def _add_call(self, frames: List[bytes], call: Call, again: bool) -> None:
        """Adds a CALL to ``frames``, with its FUNCTION before it if the daemon has not seen it."""
        pool, pickled, payload, task = call.pool, call.pickled, call.payload, call.task
        assert pool is not None and pickled is not None
        assert payload is not None and task is not None
        digest = pickled.payload.digest
        if again or digest not in self._sent:
            metadata = json.dumps({"encoding": "pickle", "python": PYTHON_MINOR}).encode()
            self._add(frames, frame.FUNCTION, task, metadata, pickled.payload)
            self._sent[digest] = None
        self._add(frames, frame.CALL, task, pool.metadata_of(call), payload)

    def _add(
        self, frames: List[bytes], kind: int, task: bytes, metadata: bytes, payload: Payload
    ) -> None:
        descriptor = payload.descriptor
        sealed = descriptor is not None
        frames.append(encode(kind, task, metadata, payload.size, payload.digest, sealed))
        if sealed:
            self._connection.send_pieces([(b"".join(frames), None), (b"\0", descriptor)])
            frames.clear()
        else:
            frames.extend(payload.pieces)  # type: ignore[arg-type]

    def _receive(self, frames: List[Frame]) -> None:
        """Takes what has come. Runs in the reading thread, and raises what ends the connection."""
        tasks = self._tasks
        for arrived in frames:
            waiting = tasks.get(arrived.task)
            if waiting is None:
                self._receive_other(arrived)
            elif arrived.kind == frame.NEED:
                self._send_again(waiting, arrived.task)
            elif waiting.take(arrived):
                tasks.pop(arrived.task, None)
        self.after_batch(None)

    def _receive_other(self, arrived: Frame) -> None:
        tried = f"cannot speak to the daemon at {self.socket}"
        if arrived.task == frame.NO_TASK and arrived.kind in (frame.ENDED, frame.CORRUPT):
            self._end_as_told(arrived, tried)
        if arrived.kind != frame.HELLO or self._said_hello.is_set():
            error = answers.Breach(f"kind {arrived.kind} for a task that nobody asked for")
            raise answers.breach(error, tried)
        try:
            fields = answers.fields_of(arrived)
            lowest, highest = fields.get("version_lowest"), fields.get("version_highest")
            if not isinstance(lowest, int) or not isinstance(highest, int) or arrived.damage:
                raise answers.Breach("HELLO names no versions")
        except answers.Breach as error:
            raise answers.breach(error, tried) from error
        if not lowest <= frame.VERSION <= highest:
            raise NoDaemon(
                f"it speaks versions {lowest} to {highest} of the protocol, and this package "
                f"{frame.VERSION}",
                tried=tried,
                hint="install the package that came with the daemon",
            )
        self.daemon = fields
        self._said_hello.set()

    def _end_as_told(self, arrived: Frame, tried: str) -> None:
        """The daemon says why it cannot go on with this connection."""
        try:
            fields = {} if arrived.damage else answers.fields_of(arrived)
        except answers.Breach:
            fields = {}
        raise Lost(
            str(fields.get("error") or "the daemon ended the connection"),
            tried=tried,
            hint=str(fields.get("hint") or ""),
        )

    def _send_again(self, waiting: Any, task: bytes) -> None:
        """The daemon or worker has forgotten a function: it is sent again, once for a call."""
        call = getattr(waiting, "call", None)
        if call is None or call.pool is None or call.payload is None or call.asked_again:
            self._tasks.pop(task, None)
            error = answers.Breach("NEED for what it has been sent")
            waiting.fail(answers.breach(error, "cannot make a call"))
            return
        call.asked_again = True
        self._send_calls([waiting], again=True)

    def _ended(self, reason: Failure) -> None:
        """Runs in the reading thread, last of all."""
        self._over = reason
        self._said_hello.set()
        while self._tasks:
            _, waiting = self._tasks.popitem()
            waiting.fail(again(reason))
        self.after_batch(reason)


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


class _Question(PlainFuture[Any]):
    """Something else than a call that the daemon answers."""

    def __init__(self, tried: str, answer: int) -> None:
        super().__init__()
        self._tried = tried
        self._answer = answer

    def take(self, arrived: Frame) -> bool:
        """Takes the answer; anything else is a breach."""
        try:
            self._settle(arrived)
        except answers.Breach as error:
            self.set_exception(answers.breach(error, self._tried))
        return True

    def fail(self, error: BaseException) -> None:
        """Ends it with ``error``."""
        self.set_exception(error)

    def _settle(self, arrived: Frame) -> None:
        if arrived.damage is not None:
            self.set_exception(answers.damaged(arrived, self._tried))
        elif arrived.kind in answers.LAST and arrived.kind != frame.RESULT:
            fields = answers.fields_of(arrived)
            self.set_exception(answers.failure_of(arrived, fields, self._tried, False))
        elif arrived.kind != self._answer:
            raise answers.Breach(f"kind {arrived.kind} instead of {_ANSWERS[self._answer]}")
        elif arrived.kind == frame.ANSWER:
            self.set_result(answers.parse_json(arrived.payload, "payload's bytes"))
        else:
            self.set_result(answers.fields_of(arrived))


class _Submission(_Question):
    """A call that is handed in: acknowledged first, and answered to whoever fetches it."""

    def __init__(self, call: Call) -> None:
        super().__init__(call.what(), frame.SUBMITTED)
        self.call = call

    def _settle(self, arrived: Frame) -> None:
        self.call.release()
        super()._settle(arrived)

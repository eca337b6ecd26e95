"""The result of a call that may not have been made yet."""

from __future__ import annotations

import codecs
import concurrent.futures
import logging
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Protocol, Tuple, TypeVar

from . import answers
from .errors import Failure
from .frame import OUTPUT, RESULT, Frame
from .functions import Pickled
from .outcome import Outcome, outcome_of
from .payload import Payload

if TYPE_CHECKING:
    from .client import Pool

T = TypeVar("T")
_LOG = logging.getLogger("run_in_container")

#: Takes what a call prints: the call's future, ``stdout`` or ``stderr``, and the text.
Output = Callable[["Future[Any]", str, str], None]


class Owner(Protocol):
    """Who has handed a call over, and wants to know what becomes of it."""

    def cancelled(self, future: Future[Any]) -> None:
        """The future was cancelled before it was answered. May be told more than once."""

    def answered(self, future: Future[Any], error: Optional[BaseException]) -> bool:
        """The answer has come. True if the owner takes the call back, to make it again."""


class Call:
    """What a future stands for: the request, kept until it is answered, and what came of it."""

    __slots__ = (
        "pool", "pickled", "payload", "deadline_ms", "output", "takes_pickles", "extra",
        "tried", "owner", "task", "asked_again", "decoders", "printed",
    )

    def __init__(
        self,
        pool: Optional[Pool],
        pickled: Optional[Pickled],
        payload: Optional[Payload],
        takes_pickles: bool,
        output: Optional[Output] = None,
        deadline_ms: Optional[int] = None,
        extra: Optional[Dict[str, Any]] = None,
        tried: str = "",
    ) -> None:
        self.pool = pool
        self.pickled = pickled
        self.payload = payload
        self.takes_pickles = takes_pickles
        self.extra = extra
        self.output = output
        self.deadline_ms = deadline_ms
        self.tried = tried
        self.owner: Optional[Owner] = None
        #: Set while the call is with the daemon.
        self.task: Optional[bytes] = None
        self.asked_again = False
        #: Per stream: a character may be cut in two between frames.
        self.decoders: Optional[Dict[str, Any]] = None
        self.printed: Optional[Dict[str, List[str]]] = None

    def what(self) -> str:
        """What was tried, for messages."""
        if self.tried or self.pickled is None:
            return self.tried
        return f"cannot call {self.pickled.name}"

    def release(self) -> None:
        """Gives the request's memory back: it will not be sent again."""
        if self.payload is not None:
            self.payload.close()
            self.payload = None


class Future(concurrent.futures.Future[T]):
    """A ``concurrent.futures.Future`` whose call runs in a sandbox.

    ``cancel`` also ends calls that run: the daemon stops the call, and the future is cancelled at
    once. ``result`` raises what the function raised, or a ``Failure``.
    """

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self._ran: Any = None
        self._status = ""
        self._exit_code: Optional[int] = None

    def cancel(self) -> bool:
        """Cancels the call, whether it waits or runs. False if it has ended already."""
        if not super().cancel():
            return False
        if self.call.owner is not None:
            self.call.owner.cancelled(self)
        return True

    def running(self) -> bool:
        """Whether the call is with the daemon and has not ended. It may wait there for a worker."""
        return super().running() or self.call.task is not None and not self.done()

    @property
    def outcome(self) -> Optional[Outcome]:
        """How the call ended and what it used; None until then, and if it never ran."""
        if not self._status:
            return None
        printed = self.call.printed or {}
        return outcome_of(
            self._status,
            self._ran,
            self.call.pool.decision if self.call.pool is not None else {},
            self._exit_code,
            stdout="".join(printed.get("stdout", ())),
            stderr="".join(printed.get("stderr", ())),
        )

    def take(self, frame: Frame) -> bool:
        """Takes a frame of this call's task. True if it was the last."""
        if frame.kind == OUTPUT:
            self._take_output(frame)
            return False
        if frame.kind not in answers.LAST:
            self.fail(answers.breach(answers.Breach(f"kind {frame.kind}"), self.call.what()))
            return True
        value: Any = None
        error: Optional[BaseException] = None
        if frame.damage is not None:
            error = answers.damaged(frame, self.call.what())
        else:
            try:
                value, error = self._read(frame)
            except answers.Breach as reason:
                error = answers.breach(reason, self.call.what())
        self._settle(value, error)
        return True

    def fail(self, error: BaseException) -> None:
        """Ends the call with ``error``, unless it has ended."""
        self._settle(None, error)

    def _read(self, frame: Frame) -> Tuple[Any, Optional[BaseException]]:
        call = self.call
        fields = answers.fields_of(frame)
        self._ran = fields.get("ran")
        if frame.kind != RESULT:
            return None, answers.failure_of(frame, fields, call.what(), call.takes_pickles)
        try:
            return answers.value_of(frame, fields, call.takes_pickles), None
        except Failure as error:
            error.tried = call.what()
            return None, error

    def _settle(self, value: Any, error: Optional[BaseException]) -> None:
        owner = self.call.owner
        if owner is not None and owner.answered(self, error):
            return
        self.call.release()
        if error is None:
            self._status, self._exit_code = "ok", 0
        else:
            self._status, self._exit_code = answers.status_of(error)
        # False if it was cancelled meanwhile; then those who wait for it are told so.
        if not self.set_running_or_notify_cancel():
            return
        if error is None:
            self.set_result(value)
            return
        if isinstance(error, Failure):
            error.outcome = self.outcome
        self.set_exception(error)

    def _take_output(self, frame: Frame) -> None:
        call = self.call
        if frame.damage is not None or call.output is None:
            return
        try:
            stream = answers.fields_of(frame).get("stream")
        except answers.Breach:
            return
        if stream not in ("stdout", "stderr"):
            return
        if call.decoders is None:
            new = codecs.getincrementaldecoder("utf-8")
            call.decoders = {name: new("replace") for name in ("stdout", "stderr")}
        text = call.decoders[stream].decode(bytes(frame.payload))
        if text:
            try:
                call.output(self, stream, text)
            except Exception:  # what is printed goes wrong; the call does not
                _LOG.exception("taking a call's output failed")


def collect(future: Future[Any], stream: str, text: str) -> None:
    """An ``Output`` that keeps the text for ``future.outcome``."""
    call = future.call
    if call.printed is None:
        call.printed = {}
    call.printed.setdefault(stream, []).append(text)

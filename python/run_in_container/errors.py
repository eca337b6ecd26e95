"""What can go wrong, each with what was tried, who must act, and a way out where one is known.

Every exception of this package is a ``Failure``. A function's own exception is raised as itself,
with the remote traceback as its cause, as ``concurrent.futures.ProcessPoolExecutor`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Dict, Optional, Tuple, Type

if TYPE_CHECKING:
    from .outcome import Outcome


class Failure(Exception):
    """A task did not give its result, or the daemon could not be asked.

    ``message`` says what went wrong, ``tried`` what was attempted with which values, ``hint`` is a
    way out or empty, ``must_act`` says who can change it: ``caller``, ``site``, ``host``, ``task``
    or ``runtime``. ``status`` is that of the command line's ``--json``. ``outcome`` is there if
    something ran.
    """

    status: ClassVar[str] = "error"
    _must_act: ClassVar[str] = "runtime"

    def __init__(
        self,
        message: str,
        *,
        tried: str = "",
        hint: str = "",
        must_act: str = "",
        exit_code: Optional[int] = None,
        outcome: Optional[Outcome] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.tried = tried
        self.hint = hint
        self.must_act = must_act or self._must_act
        self.exit_code = exit_code
        self.outcome = outcome

    def __str__(self) -> str:
        text = f"{self.tried}: {self.message}" if self.tried else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text

    def __reduce__(self) -> Tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


class Refused(Failure):
    """The site's policy or this machine does not allow what was asked. Nothing was started, and
    asking again does not help."""

    status = "refused"
    _must_act = "site"


class Declined(Failure):
    """The worker did not make the call, or could not hand its result over.

    ``reason`` is one of the protocol's: ``python_mismatch``, ``function_undecodable``,
    ``arguments_undecodable``, ``result_not_serialisable``, ``result_too_large``, ``preload``, …
    """

    status = "failed"
    _must_act = "caller"
    reason: str = ""


class TaskFailed(Failure):
    """The function raised an exception that cannot be raised here as itself, or its process ended.

    ``type`` is the exception's name (``hello.MyError``) or empty, ``traceback`` what Python would
    have printed. ``exit_code`` is there if the process ended or called ``sys.exit``.
    """

    status = "failed"
    _must_act = "task"
    type: str = ""
    traceback: str = ""

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n\n{self.traceback}" if self.traceback else text


class TimedOut(Failure):
    """The task passed its wall-clock limit and was ended. Not a ``TimeoutError``, which says that
    *waiting* for a result took too long."""

    status = "timeout"
    _must_act = "caller"


class OutOfMemory(Failure):
    """The task passed its memory limit and was ended."""

    status = "out_of_memory"
    _must_act = "caller"


class Killed(Failure):
    """The task's process was ended by a signal."""

    status = "killed"
    _must_act = "task"


class Cancelled(Failure):
    """The task was cancelled, though not through its own future: by an administrator, or by
    another program of the same user."""

    status = "cancelled"
    _must_act = "caller"


class Corrupt(Failure):
    """Bytes did not match their checksum or digest, and were not used.

    ``what`` is ``header``, ``metadata``, ``function``, ``arguments`` or ``payload``; ``expected``
    and ``got`` are hex digits.
    """

    status = "corrupt"
    _must_act = "host"
    what: str = ""
    expected: str = ""
    got: str = ""


class Lost(Failure):
    """The daemon, the machine or the connection went away; whether the task ran is not known."""

    status = "lost"
    _must_act = "caller"


class NoDaemon(Lost):
    """No daemon answers at the socket. Nothing was started."""

    _must_act = "host"


class Busy(Failure):
    """The daemon's queue is full. Nothing was queued; come back in ``retry_after_s`` seconds."""

    status = "busy"
    _must_act = "caller"
    retry_after_s: float = 0.0


def again(failure: Failure) -> Failure:
    """The same failure for somebody else: an exception that is raised twice mixes tracebacks."""
    return _restored(type(failure), failure.args, failure.__dict__)


def _restored(
    kind: Type[Failure], arguments: Tuple[Any, ...], state: Dict[str, Any]
) -> Failure:
    failure = kind(*arguments)
    failure.__dict__.update(state)
    return failure


class RemoteTraceback(Exception):
    """The cause of an exception that a function raised: its traceback in the sandbox, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


#: How a task ended without an answer, by ENDED's ``status``.
BY_STATUS = {
    kind.status: kind
    for kind in (Refused, TaskFailed, TimedOut, OutOfMemory, Killed, Cancelled, Lost, Busy)
}

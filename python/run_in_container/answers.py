"""What a daemon's answers mean: a value, or the exception that says why there is none.

Everything here comes from outside. What is not as the protocol says becomes ``Lost`` with the
reason; a pickle is undone only if the caller asked for pickles.
"""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any, Dict, Optional, Tuple

from .errors import BY_STATUS, Busy, Corrupt, Declined, Failure, Lost, RemoteTraceback, TaskFailed
from .frame import CORRUPT, DECLINED, ENDED, ERROR, RESULT, Frame
from .functions import PYTHON_MINOR
from .payload import unpickle

_SCAN = json.JSONDecoder().raw_decode

#: Kinds that end a task.
LAST = frozenset((RESULT, ERROR, DECLINED, CORRUPT, ENDED))


class Breach(Exception):
    """The daemon said what the protocol does not allow. The task is answered with it."""


def fields_of(frame: Frame) -> Dict[str, Any]:
    """Parses the metadata. Raises ``Breach`` if it is not a JSON object."""
    if not frame.metadata:
        return {}
    return parse_object(frame.metadata, "metadata")


def parse_json(data: Any, what: str) -> Any:
    """Parses a JSON value. Raises ``Breach`` if ``data`` is anything else."""
    try:
        text = str(data, "utf-8")
        value, end = _SCAN(text)  # json.loads first looks for encodings and spaces
        return value if end == len(text) else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Breach(f"its {what} are not JSON: {error}") from error


def parse_object(data: Any, what: str) -> Dict[str, Any]:
    """Parses a JSON object. Raises ``Breach`` if ``data`` is anything else."""
    fields = parse_json(data, what)
    if not isinstance(fields, dict):
        raise Breach(f"its {what} are not a JSON object")
    return fields


def value_of(frame: Frame, fields: Dict[str, Any], takes_pickles: bool) -> Any:
    """Decodes the value of a RESULT.

    Raises ``Breach``, or ``Declined`` if the value cannot be made here.
    """
    encoding = fields.get("encoding")
    if encoding == "json":
        return parse_json(frame.payload, "payload's bytes")
    if encoding != "pickle":
        raise Breach(f"its result has the encoding {encoding!r}")
    if not takes_pickles:
        raise Breach("its result is a pickle, and only JSON was asked for")
    if fields.get("python") != PYTHON_MINOR:
        raise _undecodable(
            f"the result was pickled by Python {fields.get('python')} and this is {PYTHON_MINOR}",
            f"use an environment with Python {PYTHON_MINOR}, or results=\"json\"",
        )
    try:
        return unpickle(frame.payload, fields.get("buffers"))
    except Exception as error:
        raise _undecodable(
            f"unpickling the result raised {type(error).__name__}: {error}",
            "the modules it needs must be installed here too; or return plain values",
        ) from error


def _undecodable(message: str, hint: str) -> Declined:
    declined = Declined(message, hint=hint)
    declined.reason = "result_undecodable"
    return declined


def failure_of(
    frame: Frame, fields: Dict[str, Any], tried: str, takes_pickles: bool
) -> BaseException:
    """Makes the exception of an answer that has no value."""
    if frame.kind == ERROR:
        return _raised(parse_object(frame.payload, "error's fields"), tried, takes_pickles)
    if frame.kind == DECLINED:
        declined = Declined(_text(fields, "message"), tried=tried, hint=_text(fields, "hint"))
        declined.reason = _text(fields, "reason")
        return declined
    if frame.kind == CORRUPT:
        return _corrupt(
            _text(fields, "what"), _text(fields, "expected"), _text(fields, "got"), tried, "sandbox"
        )
    return ended(fields, tried)


def ended(fields: Dict[str, Any], tried: str) -> Failure:
    """Makes the exception of an ENDED frame."""
    status = _text(fields, "status")
    code = fields.get("exit_code")
    failure = BY_STATUS.get(status, Failure)(
        _text(fields, "error") or f"it ended as {status or 'nothing that is known'}",
        tried=tried,
        hint=_text(fields, "hint"),
        must_act=_text(fields, "must_act"),
        exit_code=code if isinstance(code, int) else None,
    )
    if isinstance(failure, Busy):
        wait_ms = fields.get("retry_after_ms")
        failure.retry_after_s = wait_ms / 1000 if isinstance(wait_ms, int) else 1.0
    return failure


def damaged(frame: Frame, tried: str) -> Corrupt:
    """Makes the exception of an answer that did not arrive as it was sent."""
    assert frame.damage is not None
    what, expected, got = frame.damage
    return _corrupt(what, expected, got, tried, "caller")


def _corrupt(what: str, expected: str, got: str, tried: str, where: str) -> Corrupt:
    corrupt = Corrupt(
        f"its {what or 'bytes'} did not arrive at the {where} as sent: "
        f"expected {expected}, got {got}",
        tried=tried,
        hint="nothing of it was used; call again, and have the machine's memory tested",
    )
    corrupt.what, corrupt.expected, corrupt.got = what, expected, got
    return corrupt


def breach(error: Breach, tried: str) -> Lost:
    """Makes the exception of an answer that breaks the protocol."""
    return Lost(
        f"the daemon broke the protocol: {error}",
        tried=tried,
        must_act="runtime",
        hint="is the daemon another version than this package?",
    )


def _raised(fields: Dict[str, Any], tried: str, takes_pickles: bool) -> BaseException:
    """The function's own exception if it can be had, with the remote traceback as its cause."""
    traceback = _text(fields, "traceback")
    if takes_pickles and fields.get("python") == PYTHON_MINOR:
        error = _exception_in(fields.get("pickle"))
        if error is not None:
            error.__cause__ = RemoteTraceback(traceback)
            return error
    name, message = _text(fields, "type"), _text(fields, "message")
    missing = _text(fields, "missing_module")
    failed = TaskFailed(
        f"{name}: {message}" if message else name,
        tried=tried,
        hint=f"add what has `{missing}` to the environment" if missing else "",
        exit_code=_exit_code(fields),
    )
    failed.type, failed.traceback = name, traceback
    return failed


def _exception_in(text: Any) -> Optional[Exception]:
    """Undoes the pickle of an exception. Not of ``SystemExit`` and its like: a function that ends
    itself shall not end its caller."""
    if not isinstance(text, str):
        return None
    try:
        error = pickle.loads(base64.b64decode(text, validate=True))
    except Exception:
        return None
    return error if isinstance(error, Exception) else None


def _exit_code(fields: Dict[str, Any]) -> Optional[int]:
    code = fields.get("exit_code")
    return code if isinstance(code, int) else None


def _text(fields: Dict[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""


def status_of(error: BaseException) -> Tuple[str, Optional[int]]:
    """The status and exit code that an outcome has for ``error``."""
    if isinstance(error, Failure):
        return error.status, error.exit_code
    return "failed", None

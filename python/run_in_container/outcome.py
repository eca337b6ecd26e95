"""How a task ended and what it used, as the daemon tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional


@dataclass(frozen=True)
class Usage:
    """What a task used. None where the machine could not say."""

    #: Seconds of wall-clock time, from the moment a worker took the call.
    wall_s: Optional[float] = None
    #: Seconds of processor time, children included.
    cpu_s: Optional[float] = None
    #: Largest memory in bytes.
    memory_peak_bytes: Optional[int] = None
    #: Seconds that the call waited in the daemon for a worker.
    queued_s: Optional[float] = None


@dataclass(frozen=True)
class Container:
    """Where a task ran."""

    id: str = ""
    engine: str = ""
    #: The image's digest, or the fingerprint of ``host:``.
    image: str = ""
    #: What each task gets new: ``nothing``, ``process`` or ``container``.
    fresh: str = ""
    #: Whether it was there before this task came.
    warm: Optional[bool] = None


@dataclass(frozen=True)
class Outcome:
    """How a task ended. ``status`` is ``ok`` or one of the statuses of ``Failure``."""

    status: str
    exit_code: Optional[int] = None
    usage: Usage = field(default_factory=Usage)
    container: Container = field(default_factory=Container)
    #: Each protection of the sandbox, and by what it is enforced.
    enforced: Mapping[str, Any] = field(default_factory=dict)
    #: What the task printed, if the executor collects it.
    stdout: str = ""
    stderr: str = ""
    #: Bytes of output that passed the bound and were thrown away.
    left_out_bytes: int = 0


def outcome_of(
    status: str,
    ran: Any,
    decision: Mapping[str, Any],
    exit_code: Optional[int] = None,
    stdout: str = "",
    stderr: str = "",
) -> Outcome:
    """Makes an outcome of ``ran`` (what an answer says of its run) and of OPENED's ``decision``.

    Both come from outside: what has another type than the protocol says is left out.
    """
    ran = ran if isinstance(ran, dict) else {}
    enforced = decision.get("enforced")
    return Outcome(
        status=status,
        exit_code=exit_code,
        usage=Usage(
            wall_s=_seconds(ran, "wall_us"),
            cpu_s=_seconds(ran, "cpu_us"),
            memory_peak_bytes=_number(ran, "memory_peak_bytes"),
            queued_s=_seconds(ran, "queued_us"),
        ),
        container=Container(
            id=_text(ran, "container"),
            engine=_text(decision, "engine"),
            image=_text(decision, "image"),
            fresh=_text(decision, "fresh"),
            warm=ran["warm"] if isinstance(ran.get("warm"), bool) else None,
        ),
        enforced=enforced if isinstance(enforced, dict) else {},
        stdout=stdout,
        stderr=stderr,
        left_out_bytes=_number(ran, "left_out_bytes") or 0,
    )


def _number(fields: Mapping[str, Any], key: str) -> Optional[int]:
    value = fields.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(fields: Mapping[str, Any], key: str) -> Optional[float]:
    value = _number(fields, key)
    return None if value is None else value / 1e6


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""

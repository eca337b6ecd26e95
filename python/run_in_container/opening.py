"""What an OPEN says: environment, image, limits and mounts, as people write them.

Paths of mounts are opened here, with the caller's rights, and handed over as descriptors: whoever
names a path opens it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import (
    Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union,
)

from .memory import seal

#: A name, the path of an environment file, or what such a file would say.
Environment = Union[str, "os.PathLike[str]", Mapping[str, Any]]

MOUNTS_MAX = 64
_SIZES = {
    "": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}
_TIMES = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_FRESH = ("nothing", "process", "container")


class Mount(NamedTuple):
    """A directory or file of this machine in the sandbox."""

    source: str
    target: str
    read_only: bool = True

    @classmethod
    def parse(cls, text: str) -> Mount:
        """Reads ``SOURCE:TARGET[:ro|rw]``, as the command line's ``--mount``."""
        parts = text.split(":")
        mode = parts.pop() if len(parts) == 3 else "ro"
        if len(parts) != 2 or mode not in ("ro", "rw") or not parts[0]:
            raise ValueError(f"mount {text!r} is not SOURCE:TARGET[:ro|rw], as in /data:/data:ro")
        return cls(parts[0], parts[1], mode == "ro")


class Opening:
    """The metadata of an OPEN, and the descriptors of its mounts and secrets.

    Close it after sending.
    """

    def __init__(
        self,
        *,
        environment: Union[None, Environment, Sequence[Environment]] = None,
        image: Optional[str] = None,
        fresh: Optional[str] = None,
        limits: Optional[Mapping[str, Any]] = None,
        mounts: Sequence[Union[str, Mount]] = (),
        variables: Optional[Mapping[str, str]] = None,
        max_workers: Optional[int] = None,
        engine: Optional[str] = None,
        network: Optional[str] = None,
        user: Optional[str] = None,
        workdir: Optional[str] = None,
        interpreter: Optional[str] = None,
        tenant: Optional[str] = None,
        secrets: Optional[Mapping[str, Union[str, bytes]]] = None,
        stock: Optional[int] = None,
    ) -> None:
        """Raises ``ValueError`` for what cannot be meant, ``OSError`` for a mount that is not
        there."""
        self.descriptors: List[int] = []
        self.about = _about(environment, image)
        plain = {
            "image": image, "engine": engine, "network": network, "user": user,
            "workdir": workdir, "interpreter": interpreter, "tenant": tenant,
        }
        fields: Dict[str, Any] = {key: value for key, value in plain.items() if value is not None}
        if environment is not None:
            listed: Sequence[Any] = (
                environment if isinstance(environment, (list, tuple)) else [environment]
            )
            fields["environments"] = [_environment(one) for one in listed]
        if fresh is not None:
            if fresh not in _FRESH:
                raise ValueError(f"fresh={fresh!r} is none of {', '.join(_FRESH)}")
            fields["fresh"] = fresh
        if limits:
            fields["limits"] = parse_limits(limits)
        if variables:
            fields["variables"] = _variables(variables)
        if max_workers is not None:
            if max_workers <= 0:
                raise ValueError(f"max_workers must be greater than 0, and is {max_workers}")
            fields["containers_most"] = max_workers
        if stock is not None:
            if stock <= 0:
                raise ValueError(f"stock must be greater than 0, and is {stock}")
            fields["stock"] = stock
        if mounts:
            fields["mounts"] = self._open_mounts(mounts)
        if secrets:
            fields["secrets"] = self._hold_secrets(secrets)
        self.metadata = json.dumps(fields).encode()

    def close(self) -> None:
        """Closes the descriptors of mounts and secrets. Idempotent."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def _open_mounts(self, mounts: Sequence[Union[str, Mount]]) -> List[Dict[str, str]]:
        if len(mounts) > MOUNTS_MAX:
            raise ValueError(f"{len(mounts)} mounts are more than {MOUNTS_MAX}")
        fields = []
        try:
            for mount in mounts:
                if isinstance(mount, str):
                    mount = Mount.parse(mount)
                self.descriptors.append(os.open(mount.source, os.O_PATH | os.O_CLOEXEC))
                fields.append({
                    "asked": os.fspath(mount.source),
                    "target": os.fspath(mount.target),
                    "access": "read-only" if mount.read_only else "read-write",
                })
        except BaseException:
            self.close()
            raise
        return fields


    def _hold_secrets(self, secrets: Mapping[str, Union[str, bytes]]) -> List[str]:
        """Puts secrets into sealed memory: only descriptors of it travel, after those of mounts."""
        try:
            for name, value in secrets.items():
                content = value.encode() if isinstance(value, str) else bytes(value)
                memory = seal([content])
                if memory is None:
                    raise OSError(f"the kernel gives no memory for the secret {name}")
                self.descriptors.append(memory)
        except BaseException:
            self.close()
            raise
        return list(secrets)


def parse_limits(limits: Mapping[str, Any]) -> Dict[str, int]:
    """Reads limits as environment files have them: ``memory``, ``cpus``, ``pids``, ``time``.

    Numbers are bytes, processors, processes and seconds. Raises ``ValueError`` for anything else.
    """
    readers: Dict[str, Tuple[str, Callable[[Any], int]]] = {
        "memory": ("memory_bytes", _bytes),
        "cpus": ("cpus_milli", lambda value: round(float(value) * 1000)),
        "pids": ("pids", int),
        "time": ("time_ms", milliseconds),
    }
    fields = {}
    for key, value in limits.items():
        if key not in readers:
            raise ValueError(f"limits has {key!r}, which is none of {', '.join(readers)}")
        name, read = readers[key]
        try:
            number = read(value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"limits: {key}={value!r} cannot be read: {error}") from error
        if number <= 0:
            raise ValueError(f"limits: {key}={value!r} leaves nothing, so that no task could run")
        fields[name] = number
    return fields


def milliseconds(value: Union[int, float, str]) -> int:
    """Reads a time: seconds as a number, or text such as ``90s`` and ``1h30m``."""
    if isinstance(value, (int, float)):
        return round(value * 1000)
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", value)
    if not value or parts is None:
        raise ValueError("expected a time such as 90s, 10m, 1h30m or 2d")
    return sum(int(part or 0) * _TIMES[unit] for part, unit in zip(parts.groups(), "dhms")) * 1000


def _bytes(value: Union[int, str]) -> int:
    if isinstance(value, int):
        return value
    digits = value.rstrip("KMGTiB")
    if not digits.isdigit() or value[len(digits) :] not in _SIZES:
        raise ValueError("expected a size such as 512MiB or 2GiB")
    return int(digits) * _SIZES[value[len(digits) :]]


def _environment(environment: Environment) -> Dict[str, Any]:
    if isinstance(environment, str):
        return {"name": environment}
    if isinstance(environment, Mapping):
        # The daemon holds an environment's name against its file's.
        name = environment.get("name", "environment")
        return {"text": json.dumps(dict(environment)), "file_name": f"{name}.yaml"}
    path = Path(environment)
    return {"text": path.read_text(encoding="utf-8"), "file_name": str(path)}


def _variables(variables: Mapping[str, str]) -> Dict[str, str]:
    for name, value in variables.items():
        if not isinstance(value, str):
            raise ValueError(f"variables: {name}={value!r} is not text")
    return dict(variables)


def _about(environment: Any, image: Optional[str]) -> str:
    named = []
    if environment is not None:
        is_mapping = isinstance(environment, Mapping)
        named.append(f"environment {'of this program' if is_mapping else environment}")
    if image is not None:
        named.append(f"image {image}")
    return ", ".join(named) or "the usual image"

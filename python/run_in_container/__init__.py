"""Runs Python functions in the sandboxes of a node's ``run-in-container`` daemon.

::

    from run_in_container import Executor

    with Executor(image="host:") as executor:
        print(executor.submit(pow, 2, 10).result())

``Executor`` is a ``concurrent.futures.Executor``; ``Client`` is what it stands on, and hands in
calls that outlive the program. Every exception of the package is a ``Failure``.
"""

from .client import Client, Pool
from .errors import (
    Busy, Cancelled, Corrupt, Declined, Failure, Killed, Lost, NoDaemon, OutOfMemory, Refused,
    RemoteTraceback, TaskFailed, TimedOut,
)
from .executor import Executor
from .future import Future
from .opening import Mount
from .outcome import Container, Outcome, Usage
from .version import VERSION as __version__

__all__ = [
    "Busy", "Cancelled", "Client", "Container", "Corrupt", "Declined", "Executor", "Failure",
    "Future", "Killed", "Lost", "Mount", "NoDaemon", "Outcome", "OutOfMemory", "Pool", "Refused",
    "RemoteTraceback", "TaskFailed", "TimedOut", "Usage", "__version__",
]

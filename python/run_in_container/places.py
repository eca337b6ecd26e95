"""Where a daemon listens. The only part of the package that reads environment variables."""

from __future__ import annotations

import os
from typing import Mapping, Optional


def usual_sockets(variables: Mapping[str, str], uid: int) -> list[str]:
    """The sockets that are tried, first to last, if none is named.

    ``$RUN_IN_CONTAINER_SOCKET`` alone, else the user's own daemon, else the node's.
    """
    named = variables.get("RUN_IN_CONTAINER_SOCKET")
    if named:
        return [named]
    runtime = variables.get("XDG_RUNTIME_DIR", "")
    if not os.path.isabs(runtime):  # XDG base directory specification: then it counts as unset
        runtime = f"/run/user/{uid}"
    own = os.path.join(runtime, "run-in-container/daemon.sock")
    node = "/run/run-in-container/daemon.sock"
    return [node] if uid == 0 else [own, node]


def default_socket(variables: Optional[Mapping[str, str]] = None) -> str:
    """The first of the usual sockets that exists, else the first of them."""
    usual = usual_sockets(os.environ if variables is None else variables, os.geteuid())
    return next(filter(os.path.exists, usual), usual[0])

"""``python -m run_in_container``: says whether a daemon is there, and which.

Exits with 0 if one answers, 1 if none does.
"""

from __future__ import annotations

import argparse
import sys

from . import Client, Failure, __version__


def main() -> int:
    """Asks the daemon for its HELLO and prints what it says."""
    parser = argparse.ArgumentParser(prog="python -m run_in_container", description=main.__doc__)
    parser.add_argument("--socket", metavar="PATH", help="the daemon's, if not the usual one")
    named = parser.parse_args().socket
    print(f"run_in_container {__version__}, Python {sys.version.split()[0]}")
    try:
        with Client(named) as client:
            daemon = client.daemon
            print(f"daemon {daemon.get('daemon')} at {client.socket}, pid {daemon.get('pid')}")
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

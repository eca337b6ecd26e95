"""Looks around in the sandbox: what a function finds there is what a task gets."""

import os
import sys


def look():
    """Return who and where this function is, and what it can see."""
    return {
        "python": sys.version.split()[0],
        "uid": os.getuid(),
        "directory": os.getcwd(),
        "processes": sum(name.isdigit() for name in os.listdir("/proc")),
        "variables": sorted(os.environ),
        "processors": len(os.sched_getaffinity(0)),
    }

"""What mistakes look like from outside: each function ends in its own way."""

import os
import sys


def raise_an_error():
    """Come back with a traceback as the author wrote it."""
    try:
        return {}["missing"]
    except KeyError as error:
        raise ValueError("this function has no answer") from error


def need_a_package():
    """Fail with a hint that the environment lacks a package."""
    import a_package_that_is_not_there

    return a_package_that_is_not_there


def leave():
    """End with an exit code instead of a result."""
    sys.exit(3)


def die():
    """End the worker itself: the next call gets a new one."""
    os.abort()


def return_a_socket():
    """Return what cannot travel."""
    import socket

    return socket.socket()

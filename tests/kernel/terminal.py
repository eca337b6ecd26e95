"""Runs a command on a pseudo terminal of 40 rows and 120 columns, as a person's terminal would.

``python3 -c SCRIPT TYPED COMMAND...``: TYPED is typed once the command has said something (at once if
it is empty). What the terminal shows goes to standard output; the exit code is the command's.
"""
import fcntl
import os
import pty
import struct
import sys
import termios


def main(typed, command):
    """Starts the command and copies what it shows."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.execvp(command[0], command)
    if typed:
        os.write(terminal, typed.encode())
    while True:
        try:
            shown = os.read(terminal, 65536)
        except OSError:  # EIO: the last holder of the terminal is gone (pty(7))
            break
        if not shown:
            break
        os.write(1, shown)
    status = os.waitpid(child, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


sys.exit(main(sys.argv[1], sys.argv[2:]))

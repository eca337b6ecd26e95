"""The real daemon, in a directory of its own."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

from run_in_container import Client, NoDaemon

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RIC_DAEMON", "")
START_S = 60  # a guard: usually some milliseconds


def refuse_without_program():
    """Skips, with the reason, where there is no daemon to be had."""
    if not os.access(PROGRAM, os.X_OK):
        raise FileNotFoundError(f"{PROGRAM or 'RIC_DAEMON'}: build it first: cargo build")
    asked = subprocess.run([PROGRAM, "serve", "--help"], capture_output=True)
    if asked.returncode != 0:
        raise unittest.SkipTest(f"needs a daemon: {PROGRAM} has no verb `serve`")


class Daemon:
    """Runs ``run-in-container serve`` until it is stopped."""

    def __init__(self, *flags):
        refuse_without_program()
        self._folder = tempfile.TemporaryDirectory(prefix="ric-python-")
        folder = self._folder.name
        self.socket = os.path.join(folder, "run", "daemon.sock")
        self.state = os.path.join(folder, "tasks")
        self.variables = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": folder,
            "XDG_DATA_HOME": os.path.join(folder, "data"),
            "XDG_RUNTIME_DIR": folder,
            "RUN_IN_CONTAINER_SOCKET": self.socket,
        }
        self.log = os.path.join(folder, "log")
        self._flags = flags
        self.start()

    def start(self):
        """Starts it, again if it has ended, and waits until it serves."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "serve", "--socket", self.socket, "--state", self.state, *self._flags],
                env=self.variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        self._wait()

    def kill(self):
        """Ends it as a crash does."""
        self.process.kill()
        self.process.wait()

    def _wait(self):
        end = time.monotonic() + START_S
        while True:
            try:
                Client(self.socket).close()
                return
            except NoDaemon:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.stop()
                    raise AssertionError(f"no daemon: {self.said()}") from None
                time.sleep(0.02)

    def said(self):
        """What it has printed."""
        return pathlib.Path(self.log).read_text(errors="replace")

    def containers(self, state):
        """Containers that are in this state, as ``ps`` tells them."""
        asked = subprocess.run(
            [PROGRAM, "ps", "--json", "--socket", self.socket], env=self.variables,
            stdout=subprocess.PIPE, check=True,
        )
        return [one for one in json.loads(asked.stdout)["containers"] if one["state"] == state]

    def stop(self):
        """Ends it as a service manager does, and makes sure."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self):
        """Stops it and removes its directory."""
        self.stop()
        self._folder.cleanup()


class WithDaemon(unittest.TestCase):
    """Tests that share one daemon."""

    daemon = None
    flags = ()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.daemon = Daemon(*cls.flags)
        cls.addClassCleanup(cls.daemon.close)

"""Submitted calls of five users while workers, containers and the daemon are killed: each that was
taken ends once, with its own result or with the reason why it has none, and nothing is left.

RIC_SOAK_TASKS says how many calls (default 300); 20000 take some minutes. That none runs twice is
seen in `tests/kernel/cases/submitted.rs`, where a site's policy lets calls leave marks.
"""

import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import unittest

from run_in_container import Busy, Cancelled, Client, Lost, TaskFailed

from daemon import PROGRAM, Daemon

TASKS = int(os.environ.get("RIC_SOAK_TASKS", "300"))
#: Users of root's daemon: ids that need no account. Root itself would see everyone's tasks. Any
#: other user's daemon serves that user alone.
UIDS = range(61_001, 61_006) if os.geteuid() == 0 else [None]
AHEAD = 40  # submitted and not fetched, by one user
WAIT_S = 120  # a guard: no test waits for it


def work(kind, number):
    import os
    import time

    if kind == "fail":
        raise ValueError(number)
    if kind == "slow":
        time.sleep(0.05)
    if kind == "end":
        os._exit(3)
    return number * 2


class User:
    """One user: submits, cancels, fetches, and connects again when the daemon has gone."""

    def __init__(self, socket, count, seed):
        self.socket, self.count = socket, count
        self.random = random.Random(seed)
        self.client = self.pool = None
        self.expected = {}  # id -> kind, number
        self.ended = collections.Counter()
        self.troubles = []

    def connected(self, act):
        """Does `act`, as often as it takes to find the daemon there."""
        end = time.monotonic() + WAIT_S
        while True:
            try:
                if self.client is None:
                    self.client = Client(self.socket)
                    self.pool = self.client.open(fresh="nothing", max_workers=2)
                return act()
            except Busy:
                time.sleep(0.05)
            except Lost:
                if self.client is not None:
                    self.client.close()
                self.client = None
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def run(self):
        kinds = ["plain"] * 80 + ["slow"] * 12 + ["fail"] * 5 + ["end"] * 3
        for number in range(self.count):
            kind = self.random.choice(kinds)
            identity = self.submit(kind, number)
            if identity is None:
                continue
            self.expected[identity] = kind, number
            if self.random.random() < 0.04:
                self.connected(lambda: self.client.cancel(identity))
                self.expected[identity] = "cancelled", number
            if len(self.expected) > AHEAD:
                self.fetch(self.random.choice(list(self.expected)))
        for identity in list(self.expected):
            self.fetch(identity)
        # What was taken and not acknowledged, because the daemon went away meanwhile.
        for task in self.connected(lambda: self.client.status()):
            self.expected[task["id"]] = None
            self.fetch(task["id"])
        left = self.connected(lambda: self.client.status())
        if left:
            self.troubles.append(f"left: {left}")
        return {"ended": dict(self.ended), "troubles": self.troubles}

    def submit(self, kind, number):
        try:
            return self.connected(lambda: self.client.submit(self.pool, work, kind, number))
        except Lost:
            return None

    def fetch(self, identity):
        expected = self.expected.pop(identity)

        def outcome():
            future = self.client.fetch(identity)
            error = future.exception(WAIT_S)
            # Lost with the connection, or with the daemon under it: only the latter is an end.
            if isinstance(error, Lost):
                [known] = self.client.status(identity)
                if known["state"] != "ended":
                    raise error
            return error, None if error else future.result()

        error, value = self.connected(outcome)
        kind, number = expected or (None, None)
        judged = self.judge(kind, number, error, value)
        self.ended[judged or "wrong"] += 1
        if judged is None:
            self.troubles.append(f"{kind} {number}: {error!r} {value!r}")
        self.forget(identity)

    def forget(self, identity):
        def forget():
            if self.client.status(identity):
                self.client.forget(identity)

        self.connected(forget)

    def judge(self, kind, number, error, value):
        if isinstance(error, Lost):
            return "lost"
        if isinstance(error, Cancelled):
            # By us, or with a container that was ended by `stop`.
            return "cancelled"
        if kind == "fail" and type(error) is ValueError and error.args == (number,):
            return "failed"
        if isinstance(error, TaskFailed) or type(error).__name__ == "Killed":
            return "ended"  # its worker was killed, or ended itself
        if kind is None:
            return "unacknowledged"
        return "ok" if error is None and value == number * 2 else None


def descendants(pid):
    """Processes below `pid`, by number."""
    parents = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    below, found = [pid], set()
    while below:
        parent = below.pop()
        children = {child for child, its in parents.items() if its == parent} - found
        found |= children
        below.extend(children)
    return found


def cgroups():
    return {path for path, _, _ in os.walk("/sys/fs/cgroup") if "/run-in-container-" in path}


class Survival(unittest.TestCase):
    def test_submitted_calls_end_once_whatever_is_killed(self):
        seed = random.randrange(1 << 32)
        chosen = random.Random(seed)
        before = cgroups()
        daemon = Daemon()
        self.addCleanup(daemon.close)
        self.open_to_all(daemon)
        users = [self.begin(daemon, seed + place, uid) for place, uid in enumerate(UIDS)]
        killed = collections.Counter()
        while any(user.poll() is None for user in users):
            time.sleep(chosen.uniform(0.1, 0.6))
            self.harm(daemon, chosen, killed)
        told = [user.communicate()[0] for user in users]
        self.assertEqual([0] * len(UIDS), [user.returncode for user in users], f"seed {seed}: {told}")
        told = [json.loads(one) for one in told]
        troubles = [trouble for one in told for trouble in one["troubles"]]
        ended = sum((collections.Counter(one["ended"]) for one in told), collections.Counter())
        print(f"{TASKS} tasks ended: {dict(ended)}; killed: {dict(killed)}", file=sys.stderr)
        self.assertEqual([], troubles, f"seed {seed}")
        self.assertGreaterEqual(sum(ended.values()), TASKS // len(UIDS) * len(UIDS))
        below = descendants(daemon.process.pid)
        daemon.stop()
        self.assertEqual(0, daemon.process.returncode, daemon.said())
        self.wait_until(lambda: not [pid for pid in below if os.path.exists(f"/proc/{pid}")])
        self.wait_until(lambda: cgroups() <= before)

    def wait_until(self, holds):
        end = time.monotonic() + 30
        while not holds():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.1)

    def open_to_all(self, daemon):
        for folder in (pathlib.Path(daemon.socket).parent, pathlib.Path(daemon.socket).parents[1]):
            os.chmod(folder, 0o755)

    def begin(self, daemon, seed, uid):
        words = [sys.executable, __file__, daemon.socket, str(TASKS // len(UIDS)), str(seed)]
        if uid is not None:
            ids = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            words = ["setpriv", *ids, *words]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def harm(self, daemon, chosen, killed):
        """Ends something that tasks need."""
        what = chosen.choices(["worker", "init", "stop", "daemon"], [6, 3, 2, 1])[0]
        if what == "daemon":
            daemon.kill()
            daemon.start()
            self.open_to_all(daemon)
        elif what == "stop":
            line = [PROGRAM, "stop", "--all", "--socket", daemon.socket]
            subprocess.run(line, env=daemon.variables, stdout=subprocess.DEVNULL, check=True)
        else:
            name = b"worker.py" if what == "worker" else b"run-in-container-init"
            pids = [pid for pid in descendants(daemon.process.pid) if name in self.command(pid)]
            if not pids:
                return
            try:
                os.kill(chosen.choice(sorted(pids)), signal.SIGKILL)
            except ProcessLookupError:
                return
        killed[what] += 1

    def command(self, pid):
        try:
            return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""


if __name__ == "__main__" and len(sys.argv) == 4:
    socket_path, how_many, its_seed = sys.argv[1:]
    print(json.dumps(User(socket_path, int(how_many), int(its_seed)).run()))
elif __name__ == "__main__":
    unittest.main()

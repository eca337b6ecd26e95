"""A thousand warm containers on one node: run by `benches/wire/run --thousand`.

What they take beyond their interpreters is the machine's available memory before and after, less
what the interpreters have for themselves alone. Pages that all of them share are counted once.
"""

import json
import os
import pathlib
import re
import statistics
import subprocess
import time

from contenders import Contender, begin, noop
from run_in_container import Executor

START_S = 900


def available_kib():
    text = pathlib.Path("/proc/meminfo").read_text()
    return int(re.search(r"MemAvailable:\s+(\d+)", text).group(1))


def private_kib(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(r"Private_\w+:\s+(\d+)", text))


def resident_kib(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text).group(1))


def workers():
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if b"worker.pyc" in (entry / "cmdline").read_bytes():
                yield int(entry.name)
        except OSError:
            pass


class Stocked(Contender):
    def __init__(self, program, count):
        super().__init__(f"{count} containers")
        self.program = program
        self.socket = os.path.join(self.folder.name, "run", "daemon.sock")
        state = os.path.join(self.folder.name, "tasks")
        command = [program, "serve", "--socket", self.socket, "--state", state]
        self.process = begin(self.folder.name, command, self.socket)
        self.executor = Executor(
            socket=self.socket, max_workers=count, stock=count, fresh="nothing",
        )
        end = time.monotonic() + START_S
        while self.idle() < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.idle()} of {count} containers started")
            time.sleep(0.5)

    def idle(self):
        asked = subprocess.run(
            [self.program, "ps", "--json", "--socket", self.socket],
            stdout=subprocess.PIPE, check=True,
        )
        return sum(one["state"] == "idle" for one in json.loads(asked.stdout)["containers"])

    def latency_us(self):
        took = []
        for _ in range(2000):
            begun = time.perf_counter()
            self.executor.submit(noop).result()
            took.append((time.perf_counter() - begun) * 1e6)
        return statistics.median(took)


def measure(program, count=1000):
    few = Stocked(program, 10)
    ten_us = few.latency_us()
    few.close()
    before, begun = available_kib(), time.monotonic()
    many = Stocked(program, count)
    try:
        took_s = time.monotonic() - begun
        used = before - available_kib()
        interpreters = sum(map(private_kib, workers()))
        beyond = (used - interpreters) / count / 1024
        daemon = resident_kib(many.process.pid) / 1024
        many_us = many.latency_us()
    finally:
        many.close()
    print(f"\n{count} containers, ready in {took_s:.1f} s, {used / count / 1024:.1f} MiB each")
    for text, measured, is_met in [
        (f"no-op as with ten ({ten_us:.0f} µs)", f"{many_us:.0f} µs", many_us <= 1.1 * ten_us),
        ("at most 1 MiB each beyond the interpreter", f"{beyond:.2f} MiB", beyond <= 1),
        ("the daemon under 50 MiB", f"{daemon:.1f} MiB", daemon < 50),
    ]:
        print(f"{'met   ' if is_met else 'MISSED'} {text}: {measured}")

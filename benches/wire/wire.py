"""What a call costs on its way, side by side: run by `benches/wire/run`.

Every round asks each contender for some calls, in an order of its own, so that whatever else the
machine does hits all alike. Nothing is asserted: the goals stand beside what was measured.
"""

import argparse
import hashlib
import os
import pickle
import random
import statistics
import subprocess
import time

import thousand
from contenders import (
    Bubblewrap, Contender, DockerExec, Floor, Fork, GlobusCompute, Ours, ProcessPool,
)

LARGE_BYTES = 64 << 20
#: A throughput is measured with so many calls at once, or fewer if they take too long.
MANY = 20_000


class Pinned:
    """Makes and asks a contender with everything on one processor.

    Threads and processes inherit the processors of who starts them.
    """

    def __init__(self, name, make):
        self.all = os.sched_getaffinity(0)
        self.one = {min(self.all)}
        self.name = name
        os.sched_setaffinity(0, self.one)
        try:
            self.contender = make(name)
        finally:
            os.sched_setaffinity(0, self.all)
        self.calls = self.contender.calls

    def call(self):
        self.contender.call()

    def many(self, count):
        self.contender.many(count)

    def close(self):
        self.contender.close()

    def __enter__(self):
        os.sched_setaffinity(0, self.one)

    def __exit__(self, *_):
        os.sched_setaffinity(0, self.all)


Contender.__enter__ = lambda self: self
Contender.__exit__ = lambda self, *_: None


def all_contenders(program, only):
    makers = [
        ("floor", Floor),
        ("floor, pinned", lambda name: Pinned(name, Floor)),
        ("daemon", lambda name: Ours(name, program, "nothing")),
        ("daemon, pinned", lambda name: Pinned(name, lambda one: Ours(one, program, "nothing"))),
        ("daemon, fresh: process", lambda name: Ours(name, program, "process")),
        ("fork and wait of Python", Fork),
        ("daemon, fresh: container", lambda name: Ours(name, program, "container")),
        ("the same, two at once", lambda name: Ours(name, program, "container", workers=2)),
        ("bwrap python3, two at once", lambda name: Bubblewrap(name, at_once=2)),
        ("ProcessPoolExecutor", ProcessPool),
        ("Globus Compute, process pool", lambda name: GlobusCompute(name, "pool")),
        ("Globus Compute, HTEX", lambda name: GlobusCompute(name, "htex")),
        ("docker exec", DockerExec),
    ]
    contenders = []
    for name, make in makers:
        if only and name not in only.split(";"):
            continue
        contender = None
        try:
            contender = make(name)
            contender.call()  # once unmeasured: whatever has to start has started
            contenders.append(contender)
        except Exception as why:
            if contender is not None:
                contender.close()
            print(f"left out: {name}: {type(why).__name__}: {str(why).strip()[:200]}", flush=True)
    return contenders


def latencies(contenders, seconds):
    """Microseconds of single calls, by contender."""
    took = {contender.name: [] for contender in contenders}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for contender in random.sample(contenders, len(contenders)):
            with contender:
                for _ in range(contender.calls):
                    begin = time.perf_counter()
                    contender.call()
                    took[contender.name].append((time.perf_counter() - begin) * 1e6)
    return took


def throughputs(contenders, seconds):
    """Calls a second with many at once, the best of three rounds, by contender."""
    rates = {}
    for contender in contenders:
        with contender:
            count, best = 20, 0.0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                begin = time.perf_counter()
                contender.many(count)
                spent = time.perf_counter() - begin
                best = max(best, count / spent)
                count = max(20, min(MANY, int(count / spent * seconds / 3)))
        rates[contender.name] = best
    return rates


def print_table(took, rates):
    p50 = {name: statistics.median(times) for name, times in took.items()}
    heads = f"{'p50 µs':>10} {'p95 µs':>10} {'calls':>7} {'/ daemon':>9} {'calls/s':>9}"
    print(f"\n{'no-op call':32} {heads}")
    for name, times in took.items():
        p95 = sorted(times)[len(times) * 95 // 100]
        ratio = p50[name] / p50["daemon"] if "daemon" in p50 else float("nan")
        numbers = f"{p50[name]:10.1f} {p95:10.1f} {len(times):7} {ratio:9.2f} {rates[name]:9.0f}"
        print(f"{name:32} {numbers}")
    return p50


def print_goals(p50, rates):
    def goal(text, measured, is_met):
        print(f"{'met   ' if is_met else 'MISSED'} {text}: {measured}")

    def ratio(text, above, below, limit, at_most):
        if above in p50 and below in p50:
            value = p50[above] / p50[below]
            is_met = value <= limit if at_most else value >= limit
            goal(text, f"{value:.2f}", is_met)

    print()
    ratio("daemon at most 1.5 × floor", "daemon", "floor", 1.5, True)
    ratio("the same, pinned", "daemon, pinned", "floor, pinned", 1.5, True)
    pool = "Globus Compute, process pool"
    ratio("its process pool at least 3 × daemon", pool, "daemon", 3, False)
    ratio("its HTEX at least 10 × daemon", "Globus Compute, HTEX", "daemon", 10, False)
    ratio("docker exec at least 300 × daemon", "docker exec", "daemon", 300, False)
    if "daemon" in rates:
        goal("20,000 no-ops a second", f"{rates['daemon']:.0f}", rates["daemon"] >= 20_000)
    if {"daemon, fresh: process", "fork and wait of Python"} <= rates.keys():
        ours, fork = (1e3 / rates[name] for name in (
            "daemon, fresh: process", "fork and wait of Python",
        ))
        text = f"fresh: process, sustained, at most fork and wait ({fork:.2f} ms) + 0.5 ms"
        goal(text, f"{ours:.2f} ms", ours <= fork + 0.5)
    if {"the same, two at once", "bwrap python3, two at once"} <= rates.keys():
        value = rates["the same, two at once"] / rates["bwrap python3, two at once"]
        goal("fresh: container at least 0.9 × the rate of bwrap", f"{value:.2f}", value >= 0.9)


def measure_first_bytes(contenders):
    """With a child, or a container, ready: what a call costs until the function begins."""
    for name, pause_s, most_us in [
        ("daemon, fresh: process", 0.02, 500), ("daemon, fresh: container", 0.3, 1000),
    ]:
        for contender in contenders:
            if contender.name == name:
                p50 = statistics.median(contender.first_byte_us(pause_s) for _ in range(50))
                word = "met   " if p50 <= most_us else "MISSED"
                print(f"{word} {name}, first byte within {most_us} µs: {p50:.0f} µs")


def measure_batches(contenders, batch):
    """No-ops a second of the Rust client."""
    for contender in contenders:
        if batch and contender.name == "daemon":
            told = subprocess.run([batch, contender.socket], stdout=subprocess.PIPE, check=True)
            rate = int(told.stdout)
            word = "met   " if rate >= 40_000 else "MISSED"
            print(f"{word} 40,000 no-ops a second from the Rust client: {rate}")


def measure_large(contender, rounds):
    """64 MiB there and back, in multiples of the four hashes that verification needs."""
    data = bytearray(os.urandom(1 << 20) * (LARGE_BYTES >> 20))
    hashing, moving = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        hashlib.sha256(data).digest()
        hashing.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        back = contender.executor.submit(echo, pickle.PickleBuffer(data)).result()
        moving.append(time.perf_counter() - begin)
        assert len(memoryview(back)) == LARGE_BYTES
    four, both = 4 * statistics.median(hashing), statistics.median(moving)
    print(f"\n64 MiB there and back: {both * 1e3:.0f} ms, four hashes {four * 1e3:.0f} ms")
    word = "met   " if both <= 2.2 * four else "MISSED"
    print(f"{word} at most 2.2 × the hashes: {both / four:.2f}")


def echo(data):
    import pickle

    return pickle.PickleBuffer(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("program", help="run-in-container, built for release")
    parser.add_argument("--seconds", type=float, default=60, help="for all single calls together")
    parser.add_argument("--rate-seconds", type=float, default=5, help="for each throughput")
    parser.add_argument("--large-rounds", type=int, default=7)
    parser.add_argument("--batch", help="the Rust client's bench, built")
    parser.add_argument("--thousand", action="store_true", help="also a thousand containers")
    parser.add_argument("--only", help="contenders, separated by semicolons")
    options = parser.parse_args()
    contenders = all_contenders(options.program, options.only)
    try:
        took = latencies(contenders, options.seconds)
        rates = throughputs(contenders, options.rate_seconds)
        print_goals(print_table(took, rates), rates)
        measure_first_bytes(contenders)
        measure_batches(contenders, options.batch)
        for contender in contenders:
            if contender.name == "daemon":
                measure_large(contender, options.large_rounds)
    finally:
        for contender in contenders:
            contender.close()
    if options.thousand:
        thousand.measure(options.program)


if __name__ == "__main__":
    main()

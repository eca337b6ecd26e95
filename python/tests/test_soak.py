"""Many threads, many executors and random cancels: every call ends once, with its own result."""

import gc
import os
import random
import threading
import time
import unittest
from concurrent import futures

from run_in_container import Executor, TaskFailed

from daemon import WithDaemon

THREADS = 8
CALLS = 400
WAIT_S = 300  # a guard: no test waits for it


def work(kind, number):
    if kind == "fail":
        raise ValueError(number)
    if kind == "sleep":
        time.sleep(0.01)
    if kind == "large":
        return bytes([number % 256]) * (1 << 20)
    if kind == "end":
        os._exit(3)
    return number * 2


class Soak(WithDaemon):
    def test_calls_of_many_threads_end_once_and_as_they_should(self):
        seed = random.randrange(1 << 32)
        troubles, ended = [], []

        def use(name):
            chosen = random.Random(seed + name)
            kinds = ["plain"] * 90 + ["sleep"] * 6 + ["fail"] * 6 + ["large"] * 3 + ["end"]
            with Executor(socket=self.daemon.socket, fresh="nothing", max_workers=2) as executor:
                calls = []
                for number in range(CALLS):
                    kind = chosen.choice(kinds)
                    call = executor.submit(work, kind, number)
                    call.add_done_callback(ended.append)
                    calls.append((kind, number, call, chosen.random() < 0.05 and call.cancel()))
                for kind, number, call, cancelled in calls:
                    trouble = self.judge(kind, number, call, cancelled)
                    if trouble:
                        troubles.append(trouble)

        threads = [threading.Thread(target=use, args=(name,)) for name in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        self.assertEqual([], troubles, f"seed {seed}")
        self.assertEqual(THREADS * CALLS, len(ended), f"seed {seed}")
        self.assertEqual(len(ended), len(set(map(id, ended))))

    def judge(self, kind, number, call, cancelled):
        """Returns what is wrong with how a call ended, or None."""
        if cancelled:
            return None if call.cancelled() else f"{number} was cancelled and is not"
        try:
            error, value = call.exception(WAIT_S), None
            value = call.result() if error is None else None
        except futures.CancelledError:
            return f"{number} was cancelled by nobody"
        if kind == "fail":
            good = type(error) is ValueError and error.args == (number,)
        elif kind == "end":
            good = isinstance(error, TaskFailed)
        elif kind == "large":
            good = value == bytes([number % 256]) * (1 << 20)
        else:
            good = value == number * 2
        return None if good else f"{kind} {number}: {error!r} {str(value)[:40]}"

    def test_memory_and_descriptors_stay_flat(self):
        def resident():
            gc.collect()
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

        with Executor(socket=self.daemon.socket, fresh="nothing", max_workers=1) as executor:
            def use():
                for chunk in range(4):
                    list(executor.map(abs, range(500)))
                    executor.submit(len, bytes(2 << 20)).result(WAIT_S)

            use()
            before, descriptors = resident(), len(os.listdir("/proc/self/fd"))
            for _ in range(5):
                use()
            self.assertLess(resident() - before, 8 << 20)
            self.assertEqual(descriptors, len(os.listdir("/proc/self/fd")))


if __name__ == "__main__":
    unittest.main()

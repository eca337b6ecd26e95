"""The executor on the real daemon: results, failures, output and cancelling, as programs see them.
"""

import asyncio
import contextlib
import functools
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import unittest
from concurrent import futures

from run_in_container import (
    Cancelled, Client, Declined, Executor, Failure, Killed, Lost, OutOfMemory, Refused,
    RemoteTraceback, TaskFailed, TimedOut,
)

import own_module
from daemon import Daemon, WithDaemon

WAIT_S = 120  # a guard: no test waits for it


def fail(kind, *args):
    raise kind(*args)


class OwnError(Exception):
    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self):
        return type(self), (self.code,)


class Calls(WithDaemon):
    """Calls that share one warm container."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.executor = Executor(socket=cls.daemon.socket, fresh="nothing", max_workers=1)
        cls.addClassCleanup(cls.executor.shutdown)

    def call(self, function, *args, **kwargs):
        return self.executor.submit(function, *args, **kwargs).result(WAIT_S)

    def test_results_are_what_functions_return(self):
        for value in (None, True, 3, -(2**70), 2.5, "ü", [1, {"a": None}], (1, 2), {3: b"x"}, {1}):
            got = self.call(lambda same: same, value)
            self.assertEqual((type(value), value), (type(got), got))

    def test_functions_of_own_modules_are_called(self):
        self.assertEqual(42, self.call(own_module.six_times, 7))
        point = self.call(own_module.Point, 5)
        self.assertIs(own_module.Point, type(point))
        self.assertEqual(5, point.x)

    def test_closures_partials_and_methods_are_called(self):
        base = 5
        self.assertEqual(7, self.call(lambda number: base + number, 2))
        self.assertEqual(8, self.call(functools.partial(pow, 2), 3))
        self.assertEqual(1, self.call([4, 5].index, 5))

    def test_a_global_that_changed_travels_as_it_is(self):
        names = {"LIMIT": 1}
        exec("def f(): return LIMIT", names)
        self.assertEqual(1, self.call(names["f"]))
        names["LIMIT"] = 2
        self.assertEqual(2, self.call(names["f"]))

    def test_exceptions_are_raised_as_themselves(self):
        for error in (ValueError("no"), KeyError("k"), OwnError(7)):
            future = self.executor.submit(fail, type(error), *(
                (error.code,) if isinstance(error, OwnError) else error.args
            ))
            raised = future.exception(WAIT_S)
            self.assertIs(type(error), type(raised))
            self.assertEqual(str(error), str(raised))
            self.assertIsInstance(raised.__cause__, RemoteTraceback)
            self.assertIn("in fail", str(raised.__cause__))
            self.assertEqual("failed", future.outcome.status)

    def test_a_function_that_exits_does_not_end_its_caller(self):
        error = self.executor.submit(sys.exit, 3).exception(WAIT_S)
        self.assertIsInstance(error, TaskFailed)
        self.assertEqual(3, error.exit_code)

    def test_a_process_that_ends_ends_its_call_alone(self):
        error = self.executor.submit(os._exit, 5).exception(WAIT_S)
        self.assertIsInstance(error, (TaskFailed, Lost))
        self.assertEqual(1, self.call(abs, -1))
        error = self.executor.submit(lambda: os.kill(os.getpid(), 9)).exception(WAIT_S)
        self.assertIsInstance(error, (Killed, TaskFailed))
        self.assertEqual(1, self.call(abs, -1))

    def test_what_cannot_be_pickled_ends_its_future(self):
        error = self.executor.submit(len, threading.Lock()).exception(WAIT_S)
        self.assertIn("pickle", str(error))
        error = self.executor.submit(threading.Lock).exception(WAIT_S)
        self.assertIsInstance(error, Declined)
        self.assertEqual("result_not_serialisable", error.reason)

    def test_what_cannot_be_unpickled_there_says_so(self):
        class Odd:
            def __reduce__(self):
                return fail, (RuntimeError, "not here")

        error = self.executor.submit(len, Odd()).exception(WAIT_S)
        self.assertIsInstance(error, Declined)
        self.assertEqual("arguments_undecodable", error.reason)

    def test_outcomes_say_where_and_how_long(self):
        future = self.executor.submit(time.sleep, 0.05)
        future.result(WAIT_S)
        outcome = future.outcome
        self.assertEqual(("ok", 0), (outcome.status, outcome.exit_code))
        self.assertGreater(outcome.usage.wall_s, 0.05)
        self.assertGreaterEqual(outcome.usage.queued_s, 0)
        self.assertTrue(outcome.container.id)
        self.assertEqual("native", outcome.container.engine)
        self.assertEqual("nothing", outcome.container.fresh)
        self.assertTrue(outcome.enforced)
        self.assertIsNone(self.executor.submit_call(time.sleep, (9,)).outcome)

    def test_buffers_are_not_copied(self):
        def look(data):
            view = memoryview(data)
            return view.readonly, view.nbytes, bytes(view[:3]), pickle.PickleBuffer(bytes(view))

        size = 3 << 20
        data = bytearray(b"abc" * (size // 3))
        readonly, nbytes, start, back = self.call(look, pickle.PickleBuffer(data))
        self.assertEqual((True, len(data), b"abc"), (readonly, nbytes, start))
        view = memoryview(back)
        self.assertTrue(view.readonly)
        self.assertEqual(data, view)

    def test_large_values_come_and_go(self):
        for size in (60_000, 1 << 20, 5 << 20):
            self.assertEqual(b"x" * size, self.call(lambda data: data, b"x" * size))

    def test_map_is_in_order_and_in_chunks(self):
        numbers = list(range(100))
        for chunksize in (1, 7, 1000):
            got = list(self.executor.map(lambda a, b: a * b, numbers, numbers, chunksize=chunksize))
            self.assertEqual([number * number for number in numbers], got)
        self.assertEqual([], list(self.executor.map(abs, [], chunksize=5)))

    def test_map_times_out_and_cancels_the_rest(self):
        begin = time.monotonic()
        with self.assertRaises(futures.TimeoutError):
            list(self.executor.map(time.sleep, [60] * 4, timeout=0.2))
        with self.assertRaises(futures.TimeoutError):
            list(self.executor.map(time.sleep, [60] * 4, timeout=0.2, chunksize=2))
        self.assertEqual(1, self.call(abs, -1))
        self.assertLess(time.monotonic() - begin, 30)

    def test_a_running_call_is_cancelled(self):
        future = self.executor.submit(time.sleep, 3600)
        self.assertTrue(future.cancel())
        self.assertTrue(future.cancelled())
        done, _ = futures.wait([future], WAIT_S)
        self.assertEqual({future}, done)
        with self.assertRaises(futures.CancelledError):
            future.result()
        self.assertEqual(1, self.call(abs, -1))

    def test_a_call_that_waits_is_cancelled(self):
        first = self.executor.submit(time.sleep, 0.5)
        waiting = [self.executor.submit(time.sleep, 3600) for _ in range(40)]
        self.assertTrue(all(future.cancel() for future in waiting))
        self.assertIsNone(first.result(WAIT_S))
        self.assertFalse(first.cancel())
        self.assertEqual(1, self.call(abs, -1))

    def test_a_deadline_ends_a_call(self):
        error = self.executor.submit_call(time.sleep, (3600,), deadline_s=0.3).exception(WAIT_S)
        self.assertIsInstance(error, TimedOut)
        self.assertEqual("timeout", error.outcome.status)
        self.assertEqual(1, self.call(abs, -1))

    def test_output_is_printed_as_it_comes(self):
        def talk():
            print("out", "ü" * 5000)
            print("err", file=sys.stderr)

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.call(talk)
        self.assertEqual("out " + "ü" * 5000 + "\n", out.getvalue())
        self.assertEqual("err\n", err.getvalue())

    def test_output_is_collected_or_taken(self):
        def talk():
            print("out")
            print("err", file=sys.stderr)

        future = self.executor.submit_call(talk, output="collect")
        future.result(WAIT_S)
        self.assertEqual(("out\n", "err\n"), (future.outcome.stdout, future.outcome.stderr))
        taken = []
        take = lambda future, stream, text: taken.append((future, stream, text))  # noqa: E731
        future = self.executor.submit_call(talk, output=take)
        future.result(WAIT_S)
        self.assertEqual({(future, "stdout", "out\n"), (future, "stderr", "err\n")}, set(taken))

    def test_output_comes_while_the_call_runs(self):
        came = threading.Event()

        def talk():
            print("first", flush=True)
            time.sleep(3600)

        future = self.executor.submit_call(talk, output=lambda *_: came.set())
        self.assertTrue(came.wait(WAIT_S))
        self.assertFalse(future.done())
        future.cancel()

    def test_asyncio_awaits_and_cancels(self):
        async def main():
            loop = asyncio.get_running_loop()
            self.assertEqual(1024, await loop.run_in_executor(self.executor, pow, 2, 10))
            many = [asyncio.wrap_future(self.executor.submit(abs, -n)) for n in range(20)]
            self.assertEqual(list(range(20)), await asyncio.gather(*many))
            slow = self.executor.submit(time.sleep, 3600)
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(slow), 0.2)
            self.assertTrue(slow.cancelled())

        asyncio.run(main())
        self.assertEqual(1, self.call(abs, -1))

    def test_callbacks_may_submit(self):
        results, done = [], threading.Event()

        def go_on(future):
            results.append(future.result())
            if len(results) < 50:
                self.executor.submit(abs, -len(results)).add_done_callback(go_on)
            else:
                done.set()

        self.executor.submit(abs, 0).add_done_callback(go_on)
        self.assertTrue(done.wait(WAIT_S))
        self.assertEqual(list(range(50)), results)


class Sandboxes(WithDaemon):
    """What an executor asks for is what its calls get."""

    def executor(self, **wishes):
        executor = Executor(socket=self.daemon.socket, **wishes)
        self.addCleanup(executor.shutdown)
        return executor

    def test_nothing_of_a_task_is_left_for_the_next_where_that_was_asked(self):
        def count():
            import builtins

            builtins.ric_count = getattr(builtins, "ric_count", 0) + 1
            return builtins.ric_count

        kept = self.executor(fresh="nothing", max_workers=1)
        self.assertEqual([1, 2, 3], [kept.submit(count).result(WAIT_S) for _ in range(3)])
        fresh = self.executor(fresh="process", max_workers=1)
        self.assertEqual([1, 1, 1], [fresh.submit(count).result(WAIT_S) for _ in range(3)])
        self.assertEqual("process", fresh.decision["fresh"])

    def test_variables_are_those_that_were_named(self):
        executor = self.executor(variables={"OMP_NUM_THREADS": "3"})
        variables = executor.submit(lambda: dict(os.environ)).result(WAIT_S)
        self.assertEqual("3", variables["OMP_NUM_THREADS"])
        self.assertNotIn("RUN_IN_CONTAINER_SOCKET", variables)

    def test_secrets_are_files_of_the_call_alone(self):
        executor = self.executor(secrets={"token": "xyzzy"}, fresh="nothing")
        read = executor.submit(lambda: open("/run/secrets/token").read())
        self.assertEqual("xyzzy", read.result(WAIT_S))
        without = self.executor(fresh="nothing").submit(os.path.exists, "/run/secrets/token")
        self.assertFalse(without.result(WAIT_S))

    def test_stock_is_ready_before_anything_is_called(self):
        self.executor(environment={"name": "stocked", "stock": 2}, max_workers=4)
        end = time.monotonic() + WAIT_S
        while len(self.daemon.containers("idle")) < 2:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def test_an_environment_of_the_program_is_used(self):
        environment = {"name": "own", "preload": ["decimal"], "variables": {"A": "b"}}
        executor = self.executor(environment=environment, fresh="nothing")

        def look():
            import sys

            return "decimal" in sys.modules, os.environ["A"]

        self.assertEqual((True, "b"), executor.submit(look).result(WAIT_S))

    def test_too_much_memory_ends_a_call_and_says_so(self):
        try:
            executor = self.executor(limits={"memory": "64MiB"}, fresh="nothing")
        except Refused as refused:
            self.skipTest(f"memory cannot be limited here: {refused.message}")
        error = executor.submit(lambda: len(bytearray(256 << 20))).exception(WAIT_S)
        self.assertIsInstance(error, (OutOfMemory, MemoryError))
        self.assertEqual(1, executor.submit(abs, -1).result(WAIT_S))

    def test_what_policy_does_not_allow_is_refused_before_anything_runs(self):
        with self.assertRaises(Refused) as caught:
            self.executor(mounts=["/etc:/data"])
        self.assertIn("/etc", str(caught.exception))
        self.assertTrue(caught.exception.hint)

    def test_results_are_json_for_who_asks_for_that(self):
        executor = self.executor(results="json", fresh="nothing")
        self.assertEqual([1, 2], executor.submit(lambda: (1, 2)).result(WAIT_S))
        error = executor.submit(lambda: {1, 2}).exception(WAIT_S)
        self.assertIsInstance(error, Declined)
        error = executor.submit(fail, OwnError, 3).exception(WAIT_S)
        self.assertIsInstance(error, TaskFailed)
        self.assertIn("OwnError", error.type)
        self.assertIn("in fail", error.traceback)

    def test_no_more_calls_run_at_once_than_were_asked_for(self):
        def when():
            begun = time.monotonic()
            time.sleep(0.1)
            return begun, time.monotonic()

        for fresh in ("nothing", "process", "container"):
            with self.subTest(fresh):
                executor = self.executor(max_workers=2, fresh=fresh)
                calls = [executor.submit(when) for _ in range(8)]
                times = [call.result(WAIT_S) for call in calls]
                at_once = [
                    sum(begun <= moment < ended for begun, ended in times) for moment, _ in times
                ]
                self.assertLessEqual(max(at_once), 2)

    def test_workers_are_as_many_as_were_asked_for(self):
        executor = self.executor(max_workers=3, fresh="nothing")
        calls = [executor.submit(lambda: time.sleep(0.3)) for _ in range(9)]
        futures.wait(calls, WAIT_S)
        used = {call.outcome.container.id for call in calls}
        self.assertLessEqual(len(used), 3)
        self.assertGreaterEqual(len(used), 1)


class Ends(unittest.TestCase):
    def test_a_killed_daemon_loses_its_calls(self):
        daemon = Daemon()
        self.addCleanup(daemon.close)
        executor = Executor(socket=daemon.socket, fresh="nothing")
        self.assertEqual(1, executor.submit(abs, -1).result(WAIT_S))
        waiting = [executor.submit(time.sleep, 3600) for _ in range(50)]
        daemon.process.kill()
        for future in waiting:
            self.assertIsInstance(future.exception(WAIT_S), Lost)
        with self.assertRaises(Lost):
            executor.submit(abs, -1)
        executor.shutdown()

    def test_a_daemon_that_drains_answers_what_it_has_taken(self):
        daemon = Daemon()
        self.addCleanup(daemon.close)
        executor = Executor(socket=daemon.socket, fresh="nothing", max_workers=1)
        self.assertEqual(1, executor.submit(abs, -1).result(WAIT_S))
        future = executor.submit(time.sleep, 0.5)
        time.sleep(0.1)
        daemon.process.send_signal(signal.SIGTERM)
        error = future.exception(WAIT_S)
        self.assertTrue(error is None or isinstance(error, Failure), error)
        executor.shutdown()

    def test_the_package_says_which_daemon_is_there(self):
        daemon = Daemon()
        self.addCleanup(daemon.close)
        command = [sys.executable, "-m", "run_in_container", "--socket", daemon.socket]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
        self.assertIn(f"pid {daemon.process.pid}".encode(), done.stdout)
        daemon.stop()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(1, done.returncode)
        self.assertIn(b"run-in-container serve", done.stderr)

    def test_what_was_submitted_is_fetched_by_another_client(self):
        daemon = Daemon()
        self.addCleanup(daemon.close)
        with Client(daemon.socket) as client:
            pool = client.open()
            identity = client.submit(pool, own_module.six_times, 7)
        with Client(daemon.socket) as client:
            self.assertEqual(42, client.fetch(identity).result(WAIT_S))
            self.assertEqual(42, client.fetch(identity).result(WAIT_S))
            [known] = client.status(identity)
            self.assertEqual(("ended", "ok"), (known["state"], known["status"]))
            client.forget(identity)
            self.assertIsInstance(client.fetch(identity).exception(WAIT_S), Failure)
            self.assertEqual([], client.status())

    def test_what_was_submitted_is_cancelled(self):
        daemon = Daemon()
        self.addCleanup(daemon.close)
        with Client(daemon.socket) as client:
            pool = client.open()
            identity = client.submit(pool, time.sleep, 3600)
            waiting = client.fetch(identity)
            client.cancel(identity)
            self.assertIsInstance(waiting.exception(WAIT_S), Cancelled)

    def test_large_payloads_are_submitted_too(self):
        daemon = Daemon()
        self.addCleanup(daemon.close)
        with Client(daemon.socket) as client:
            pool = client.open()
            large = os.urandom(3 << 20)
            identity = client.submit(pool, bytes.swapcase, large)
            self.assertEqual(large.swapcase(), client.fetch(identity).result(WAIT_S))
            # A call that gives up waiting ends no task.
            slow = client.submit(pool, time.sleep, 3)
            client.fetch(slow).cancel()
            self.assertIsNone(client.fetch(slow).result(WAIT_S))


if __name__ == "__main__":
    unittest.main()

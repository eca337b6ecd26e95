"""CPython's own tests for executors, run on ours.

Taken from the ``test`` package of the interpreter that runs this (Debian: libpython3-testsuite),
unchanged; what does not apply is named below with the reason, and docs/decisions/python-executor.md
points here. The functions that those tests call are in the standard library's own ``test`` package,
which ``host:`` shows, so they go by name.
"""

import os
import unittest

from run_in_container import Executor, Future
from run_in_container.future import Call

from daemon import Daemon

try:
    from test import test_concurrent_futures as cpython

    HAVE = hasattr(cpython, "ExecutorTest")
except ImportError:
    HAVE = False

#: What of CPython's tests for processes or threads says nothing about sandboxes.
DOES_NOT_APPLY = {
    "test_cancel_futures_wait_false": "same as test_hang_gh83386 here; written for threads",
    "test_context_manager_shutdown": "looks into _threads or _processes",
    "test_del_shutdown": "looks into _threads or _processes; ours is in test_fork.py",
    "test_shutdown_no_wait": "looks into _threads or _processes",
    "test_processes_terminate": "a multiprocessing semaphore reaches no sandbox",
    "test_threads_terminate": "a threading semaphore reaches no sandbox",
    "test_thread_names_*": "threads are not named by users",
    "test_saturation": "a semaphore reaches no sandbox",
    "test_idle_*_reuse*": "looks into _threads or _processes",
    "test_max_tasks*": "`fresh` says what a task gets new",
    "test_max_workers_too_large": "a limit of Windows",
    "test_killed_child": "the executor outlives a worker that was killed; ours is in "
                         "test_executor.py, a_process_that_ends_ends_its_call_alone",
    "test_ressources_gced_in_workers": "needs a multiprocessing manager that sandboxes reach",
    "test_default_workers": "policy and processors decide, see `decision`",
    "test_hang_global_shutdown_lock": "about a lock of CPython's process pool",
    "test_executor_map_current_future_cancel": "closes over a threading.Event; ours is in "
                                               "test_executor.py, map_times_out",
    "test_pending_calls_race": "closes over a threading.Event",
    "test_map_submits_without_iteration": "closes over a list that the calls fill",
    "test_initializer": "there is none: environments preload modules",
    "test_traceback": "reads the name of CPython's own class; ours is in test_executor.py, "
                      "exceptions_are_raised_as_themselves",
    "ExecutorDeadlockTest": "ends its workers by signals and expects a broken pool; here one call "
                            "fails and the next one works; ours are in test_executor.py",
}


if HAVE:
    class Sandboxes(Executor):
        """Called with what those tests pass, and nothing else."""

        def __init__(self, max_workers=None):
            super().__init__(max_workers, socket=daemon.socket, fresh="nothing")

    class OursMixin(cpython.ExecutorMixin):
        executor_type = Sandboxes

    class Shutdown(OursMixin, cpython.ExecutorShutdownTest, cpython.BaseTestCase):
        pass

    class Wait(OursMixin, cpython.WaitTests, cpython.BaseTestCase):
        pass

    class AsCompleted(OursMixin, cpython.AsCompletedTests, cpython.BaseTestCase):
        pass

    class Works(OursMixin, cpython.ExecutorTest, cpython.BaseTestCase):
        test_map_chunksize = cpython.ProcessPoolExecutorTest.test_map_chunksize

    class Futures(cpython.FutureTests):
        pass


daemon = None
_before = {}


def setUpModule():
    """Puts ours in the place of what CPython's tests name."""
    global daemon
    if not HAVE:
        raise unittest.SkipTest("this Python has no test_concurrent_futures in one piece")
    daemon = Daemon()
    unittest.addModuleCleanup(daemon.close)
    os.environ["RUN_IN_CONTAINER_SOCKET"] = daemon.socket
    unittest.addModuleCleanup(os.environ.pop, "RUN_IN_CONTAINER_SOCKET")
    for name, value in (("Future", bare), ("assert_python_ok", assert_python_ok)):
        _before[name] = getattr(cpython, name)
        setattr(cpython, name, value)
        unittest.addModuleCleanup(setattr, cpython, name, _before[name])


def bare():
    """A future that nobody has submitted, for the tests of the class itself."""
    return Future(Call(None, None, None, False))


def assert_python_ok(flag, program):
    """Runs a program of those tests with our executor under the name of theirs."""
    ours = "from run_in_container import Executor as Sandboxes"
    program = program.replace("from concurrent.futures import Sandboxes", ours)
    return _before["assert_python_ok"](flag, program)


if __name__ == "__main__":
    unittest.main()

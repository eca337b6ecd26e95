"""What becomes of a client when its process forks, ends, or forgets it."""

import gc
import os
import subprocess
import sys
import threading
import traceback
import unittest

from run_in_container import Client, Executor, Lost

from scripted import Daemon

WAIT_S = 30  # a guard: no test waits for it


def in_child(work):
    """Runs ``work`` in a forked child and returns what it printed, or its traceback."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            os.write(writer, work().encode())
            code = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said


class Forks(unittest.TestCase):
    def test_a_child_that_uses_its_parents_executor_is_told(self):
        def script(peer):
            peer.open()
            for value in range(2):
                peer.answer(peer.expect_call().task, value)
            peer.read()

        def work():
            said = []
            for use in (lambda: executor.submit(abs, 1), lambda: executor.submit(abs, 2)):
                try:
                    use()
                except Lost as error:
                    said.append(str(error))
            executor.shutdown()
            return "\n".join(said)

        with Daemon(script) as daemon, Executor(socket=daemon.socket) as executor:
            self.assertEqual(0, executor.submit(abs, -1).result(WAIT_S))
            said = in_child(work)
            self.assertEqual(2, said.count("before this process was forked"))
            self.assertIn("make a new Client or Executor in the child", said)
            # The parent's is as it was.
            self.assertEqual(1, executor.submit(abs, -1).result(WAIT_S))

    def test_a_child_does_not_keep_its_parents_connection_open(self):
        ended = threading.Event()

        def script(peer):
            peer.greet()
            self.assertIsNone(peer.read())
            ended.set()

        with Daemon(script) as daemon:
            client = Client(daemon.socket)
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(writer)
                os.read(reader, 1)  # until the parent is done
                os._exit(0)
            os.close(reader)
            try:
                client.close()
                self.assertTrue(ended.wait(WAIT_S))
            finally:
                os.close(writer)
                os.waitpid(child, 0)

    def test_a_child_may_make_a_client_of_its_own(self):
        def script(peer):
            peer.greet()
            peer.read()

        def work():
            with Client(daemon.socket) as client:
                return client.daemon["daemon"]

        with Daemon(script) as daemon, Client(daemon.socket):
            self.assertEqual("test", in_child(work))


class Ends(unittest.TestCase):
    def test_an_executor_that_is_forgotten_ends_its_connection(self):
        ended = threading.Event()

        def script(peer):
            peer.open()
            peer.answer(peer.expect_call().task, 1)
            self.assertIsNone(peer.read())
            ended.set()

        with Daemon(script) as daemon:
            executor = Executor(socket=daemon.socket)
            future = executor.submit(abs, -1)
            del executor
            gc.collect()
            self.assertEqual(1, future.result(WAIT_S))
            self.assertTrue(ended.wait(WAIT_S))

    def test_a_program_that_ends_waits_for_its_calls(self):
        answered = threading.Event()

        def script(peer):
            peer.open()
            first, second = peer.expect_call(), peer.expect_call()
            threading.Event().wait(0.2)  # the program is at its end by now
            peer.answer(first.task, 1)
            peer.answer(second.task, 2)
            answered.set()
            peer.read()

        program = (
            "import sys, run_in_container as r; e = r.Executor(socket=sys.argv[1]);"
            "[e.submit(abs, -1).add_done_callback(lambda f: print(f.result())) for _ in 'ab']"
        )
        with Daemon(script) as daemon:
            done = subprocess.run(
                [sys.executable, "-c", program, daemon.socket],
                stdout=subprocess.PIPE, timeout=WAIT_S, check=True,
            )
        self.assertEqual(b"1\n2\n", done.stdout)
        self.assertTrue(answered.is_set())

    def test_no_thread_and_no_descriptor_is_left(self):
        def script(peer):
            peer.open()
            for _ in range(3):
                peer.answer(peer.expect_call().task, 1)
            peer.read()

        def use():
            with Executor(socket=daemon.socket) as executor:
                list(executor.map(abs, range(3)))

        with Daemon(script) as daemon:
            use()
            gc.collect()
            threads = sum("run-in-container" in one.name for one in threading.enumerate())
            descriptors = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                use()
            gc.collect()
            left = [one.name for one in threading.enumerate() if "run-in-container" in one.name]
            self.assertEqual(threads, len(left), left)
            self.assertLessEqual(len(os.listdir("/proc/self/fd")), descriptors)


if __name__ == "__main__":
    unittest.main()

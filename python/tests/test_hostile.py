"""A daemon that lies, breaks off or speaks something else.

Each client learns what happened, nothing hangs, and nothing that was not verified is decoded.
"""

import json
import pickle
import socket
import threading
import unittest

from run_in_container import (
    Busy, Client, Corrupt, Declined, Executor, Killed, Lost, NoDaemon, OutOfMemory, Refused,
    RemoteTraceback, TaskFailed, TimedOut,
)

import scripted
from scripted import CORRUPT, DECLINED, ENDED, ERROR, HELLO, NEED, OPENED, RESULT, Daemon, encode

WAIT_S = 30  # a guard: no test waits for it


class Decoded(Exception):
    """Raised where a pickle was undone that nobody should have undone."""


DECODED = []


def boom():
    DECODED.append(True)
    raise Decoded


class Bomb:
    def __reduce__(self):
        return boom, ()


BOMB = pickle.dumps(Bomb())
PICKLED = {"encoding": "pickle", "python": "%d.%d" % __import__("sys").version_info[:2]}


def answered_by(*answers, **executor):
    """Makes one call and answers it; each answer takes a task and returns a frame."""

    def script(peer):
        peer.open()
        task = peer.expect_call().task
        for answer in answers:
            peer.send(answer(task))
        peer.read()

    with Daemon(script) as daemon:
        with Executor(socket=daemon.socket, **executor) as pool:
            future = pool.submit(abs, -1)
            error = future.exception(WAIT_S)
            return error if error is not None else future.result()


class Answers(unittest.TestCase):
    def test_an_answer_for_another_task_ends_the_connection(self):
        error = answered_by(lambda task: encode(RESULT, bytes(16), {"encoding": "json"}, b"1"))
        self.assertIsInstance(error, Lost)
        self.assertIn("nobody asked for", str(error))

    def test_a_second_answer_ends_the_connection(self):
        def script(peer):
            peer.open()
            task = peer.expect_call().task
            answers = [encode(RESULT, task, {"encoding": "json"}, value) for value in (b"1", b"2")]
            peer.send(*answers)
            self.assertTrue(peer.is_closed())

        with Daemon(script) as daemon, Executor(socket=daemon.socket) as executor:
            self.assertEqual(1, executor.submit(abs, -1).result(WAIT_S))

    def test_a_second_hello_ends_the_connection(self):
        hello = {"version_lowest": 1, "version_highest": 1}
        error = answered_by(lambda task: encode(HELLO, bytes(16), hello))
        self.assertIsInstance(error, Lost)

    def test_a_damaged_result_is_not_decoded_and_the_next_is(self):
        def script(peer):
            peer.open()
            task = peer.expect_call().task
            peer.send(encode(RESULT, task, PICKLED, BOMB, digest=bytes(32)))
            peer.answer(peer.expect_call().task, 2)
            peer.read()

        with Daemon(script) as daemon, Executor(socket=daemon.socket) as executor:
            error = executor.submit(abs, -1).exception(WAIT_S)
            self.assertIsInstance(error, Corrupt)
            self.assertEqual(("payload", "00" * 32), (error.what, error.expected))
            self.assertEqual(2, executor.submit(abs, -2).result(WAIT_S))

    def test_a_damaged_header_ends_every_call(self):
        def script(peer):
            peer.open()
            task = peer.expect_call().task
            peer.expect_call()
            broken = bytearray(encode(RESULT, task, {"encoding": "json"}, b"1"))
            broken[30] ^= 1
            peer.send(bytes(broken))
            self.assertTrue(peer.is_closed())

        with Daemon(script) as daemon, Executor(socket=daemon.socket) as executor:
            futures = [executor.submit(abs, -1) for _ in range(2)]
            for future in futures:
                error = future.exception(WAIT_S)
                self.assertIsInstance(error, Corrupt)
                self.assertEqual("header", error.what)

    def test_pickles_are_not_undone_by_who_asked_for_json(self):
        error = answered_by(lambda task: encode(RESULT, task, PICKLED, BOMB), results="json")
        self.assertIsInstance(error, Lost)
        self.assertIn("only JSON was asked for", str(error))
        # The control: who takes pickles undoes this one, and is told what that raised.
        error = answered_by(lambda task: encode(RESULT, task, PICKLED, BOMB))
        self.assertIsInstance(error, Declined)
        self.assertIsInstance(error.__cause__, Decoded)

    def test_pickled_exceptions_are_not_undone_by_who_asked_for_json(self):
        fields = {"type": "E", "message": "m", "traceback": "t", "pickle": "", "python": "3"}
        fields = dict(fields, pickle=__import__("base64").b64encode(BOMB).decode(), **{
            "python": PICKLED["python"],
        })
        failed = json.dumps(fields).encode()
        for results in ("json", "pickle"):
            DECODED.clear()
            error = answered_by(lambda task: encode(ERROR, task, {}, failed), results=results)
            self.assertIsInstance(error, TaskFailed)
            self.assertEqual(("E", "t"), (error.type, error.traceback))
            self.assertEqual(results == "pickle", bool(DECODED))

    def test_results_that_break_the_protocol_are_told(self):
        wrong = [
            ({"encoding": "xml"}, b"1"),
            ({}, b"1"),
            (b"[]", b"1"),
            (b"{", b"1"),
            ({"encoding": "json"}, b""),
            ({"encoding": "json"}, b"1 2"),
            ({"encoding": "json"}, b"\xff"),
            ({"encoding": "json"}, b"[" * 100_000),
        ]
        for fields, payload in wrong:
            with self.subTest(fields=fields, payload=payload[:8]):
                error = answered_by(lambda task: encode(RESULT, task, fields, payload))
                self.assertIsInstance(error, Lost)
                self.assertEqual("runtime", error.must_act)

    def test_buffers_outside_the_payload_are_refused(self):
        outside = [[[0, 1 << 40]], [[1, 2]], [[64, -1]], [[0, 64], [0, 64]], {}, [[0]], [["", 0]]]
        for buffers in outside:
            with self.subTest(buffers=buffers):
                fields = dict(PICKLED, buffers=buffers)
                error = answered_by(lambda task: encode(RESULT, task, fields, bytes(256)))
                self.assertIsInstance(error, Declined)
                self.assertIn("`buffers`", str(error))

    def test_a_pickle_of_another_python_is_refused_by_name(self):
        fields = dict(PICKLED, python="2.7")
        error = answered_by(lambda task: encode(RESULT, task, fields, BOMB))
        self.assertIn("pickled by Python 2.7", str(error))

    def test_need_is_answered_once(self):
        need = lambda task: encode(NEED, task, {"function_sha256": ""})  # noqa: E731
        error = answered_by(need, need)
        self.assertIsInstance(error, Lost)

    def test_a_function_that_was_forgotten_is_sent_again(self):
        def script(peer):
            peer.open()
            first = peer.expect_call()
            peer.send(encode(NEED, first.task, {"function_sha256": ""}))
            peer.expect(scripted.FUNCTION)
            second = peer.expect(scripted.CALL)
            self.assertEqual((first.task, first.payload), (second.task, second.payload))
            peer.answer(first.task, 5)
            peer.read()

        with Daemon(script) as daemon, Executor(socket=daemon.socket) as executor:
            self.assertEqual(5, executor.submit(abs, -5).result(WAIT_S))


class Endings(unittest.TestCase):
    def ended(self, status, **fields):
        about = {"status": status, "error": "why", "hint": "way out", **fields}
        return answered_by(lambda task: encode(ENDED, task, about), busy="raise")

    def test_each_status_has_its_exception(self):
        kinds = {
            "refused": Refused, "timeout": TimedOut, "out_of_memory": OutOfMemory,
            "killed": Killed, "lost": Lost, "failed": TaskFailed, "busy": Busy,
        }
        for status, kind in kinds.items():
            error = self.ended(status, exit_code=3, retry_after_ms=1500, ran={"wall_us": 2000})
            self.assertIs(kind, type(error))
            self.assertEqual(("why", "way out", 3), (error.message, error.hint, error.exit_code))
            self.assertIn("cannot call abs: why\n  hint: way out", str(error))
            self.assertEqual((status, 0.002), (error.outcome.status, error.outcome.usage.wall_s))
        self.assertEqual(1.5, self.ended("busy", retry_after_ms=1500).retry_after_s)

    def test_statuses_of_later_versions_are_failures(self):
        self.assertEqual("why", self.ended("eaten").message)

    def test_a_worker_that_declines_says_why(self):
        fields = {"reason": "python_mismatch", "message": "m", "hint": "h"}
        error = answered_by(lambda task: encode(DECLINED, task, fields))
        self.assertEqual(("python_mismatch", "m", "h"), (error.reason, error.message, error.hint))

    def test_arguments_that_arrived_damaged_are_told(self):
        fields = {"what": "arguments", "expected": "aa", "got": "bb"}
        error = answered_by(lambda task: encode(CORRUPT, task, fields))
        self.assertIsInstance(error, Corrupt)
        self.assertEqual(("arguments", "aa", "bb"), (error.what, error.expected, error.got))

    def test_an_exception_that_cannot_be_had_here_is_told_with_its_traceback(self):
        fields = {"type": "lib.Error", "message": "no", "traceback": "Traceback…", "exit_code": 4}
        error = answered_by(lambda task: encode(ERROR, task, {}, json.dumps(fields).encode()))
        self.assertEqual(("lib.Error", 4), (error.type, error.exit_code))
        self.assertIn("lib.Error: no", str(error))
        self.assertIn("Traceback…", str(error))

    def test_an_exception_is_raised_as_itself_with_the_remote_traceback(self):
        text = __import__("base64").b64encode(pickle.dumps(KeyError("k"))).decode()
        fields = {
            "type": "KeyError", "message": "'k'", "traceback": "Traceback…", "pickle": text,
            "python": PICKLED["python"],
        }
        error = answered_by(lambda task: encode(ERROR, task, {}, json.dumps(fields).encode()))
        self.assertEqual((KeyError, ("k",)), (type(error), error.args))
        self.assertIsInstance(error.__cause__, RemoteTraceback)
        self.assertIn("Traceback…", str(error.__cause__))

    def test_a_function_that_exits_does_not_end_its_caller(self):
        text = __import__("base64").b64encode(pickle.dumps(SystemExit(3))).decode()
        fields = {
            "type": "SystemExit", "message": "3", "traceback": "", "pickle": text,
            "python": PICKLED["python"], "exit_code": 3,
        }
        error = answered_by(lambda task: encode(ERROR, task, {}, json.dumps(fields).encode()))
        self.assertIsInstance(error, TaskFailed)
        self.assertEqual(3, error.exit_code)


class Connections(unittest.TestCase):
    def test_nobody_at_the_socket_is_told(self):
        with self.assertRaises(NoDaemon) as caught:
            Client("/nonexistent/daemon.sock")
        self.assertIn("/nonexistent/daemon.sock", str(caught.exception))
        self.assertIn("run-in-container serve", caught.exception.hint)

    def test_another_version_is_told(self):
        def script(peer):
            peer.greet(version_lowest=2, version_highest=3)
            self.assertTrue(peer.is_closed())

        with Daemon(script) as daemon, self.assertRaises(NoDaemon) as caught:
            Client(daemon.socket)
        self.assertIn("versions 2 to 3", str(caught.exception))

    def test_something_else_at_the_socket_is_told(self):
        def script(peer):
            peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 76)
            peer.is_closed()

        with Daemon(script) as daemon, self.assertRaises((NoDaemon, Corrupt, Lost)):
            Client(daemon.socket)

    def test_the_end_of_the_daemon_ends_every_call(self):
        def script(peer):
            peer.open()
            for _ in range(3):
                peer.expect_call()

        with Daemon(script) as daemon, Executor(socket=daemon.socket) as executor:
            futures = [executor.submit(abs, -1) for _ in range(3)]
            for future in futures:
                self.assertIsInstance(future.exception(WAIT_S), Lost)
            with self.assertRaises(Lost):
                executor.submit(abs, -1)

    def test_a_refusal_is_raised_before_anything_is_submitted(self):
        def script(peer):
            peer.greet()
            opening = peer.expect(scripted.OPEN)
            self.assertEqual({"image": "docker://x", "fresh": "process"}, opening.fields)
            refusal = {"status": "refused", "error": "policy `p` says no", "hint": "ask"}
            peer.send(encode(ENDED, opening.task, refusal))
            self.assertTrue(peer.is_closed())

        with Daemon(script) as daemon, self.assertRaises(Refused) as caught:
            Executor(socket=daemon.socket, image="docker://x", fresh="process")
        self.assertIn("for image docker://x: policy `p` says no", str(caught.exception))

    def test_a_daemon_that_gives_up_says_why(self):
        about = {"status": "error", "error": "it sent nonsense", "hint": "do not"}
        error = answered_by(lambda task: encode(ENDED, bytes(16), about))
        self.assertIsInstance(error, Lost)
        self.assertEqual(("it sent nonsense", "do not"), (error.message, error.hint))

    def test_an_opened_without_a_pool_is_a_breach(self):
        def script(peer):
            peer.greet()
            peer.send(encode(OPENED, peer.expect(scripted.OPEN).task, {}))
            peer.is_closed()

        with Daemon(script) as daemon, self.assertRaises(Lost):
            Executor(socket=daemon.socket)

    def test_a_daemon_that_reads_nothing_blocks_nobody(self):
        go_on = threading.Event()

        def script(peer):
            peer.open()
            go_on.wait(WAIT_S)
            for _ in range(200):
                peer.answer(peer.expect_call().task, None)
            peer.read()

        with Daemon(script) as daemon, Executor(socket=daemon.socket) as executor:
            futures = [executor.submit(len, b"x" * 100_000) for _ in range(200)]
            go_on.set()
            for future in futures:
                self.assertIsNone(future.result(WAIT_S))

    def test_descriptors_that_come_unasked_are_closed(self):
        closed = threading.Event()

        def script(peer):
            peer.open()
            task = peer.expect_call().task
            near, far = socket.socketpair()
            frame = encode(RESULT, task, {"encoding": "json"}, b"1")
            socket.send_fds(peer.stream, [frame], [far.fileno()])
            far.close()
            # The end: nobody holds the other one any more.
            near.settimeout(WAIT_S)
            self.assertEqual(b"", near.recv(1))
            near.close()
            closed.set()
            peer.read()

        with Daemon(script) as daemon, Executor(socket=daemon.socket) as executor:
            self.assertEqual(1, executor.submit(abs, -1).result(WAIT_S))
            self.assertTrue(closed.wait(5))


if __name__ == "__main__":
    unittest.main()

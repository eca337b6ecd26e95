"""Holds `worker.py` against the golden frames and against damage, with the standard library alone.

Run by `runtime/tests/frame.rs` with the machine's Python, and by hand:
`python3 tests/protocol/test_frames.py`.
"""

import array
import ast
import fcntl
import importlib.util
import itertools
import json
import os
import pathlib
import socket
import sys
import unittest

import golden

RUNTIME = pathlib.Path(__file__).resolve().parents[2] / "runtime"


def load_worker():
    spec = importlib.util.spec_from_file_location("worker", RUNTIME / "worker.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["worker"] = module
    spec.loader.exec_module(module)
    return module


worker = load_worker()


def connect(warm=False):
    """Returns a worker's connection, and the socket of its owner."""
    owner, inherited = socket.socketpair()
    connection = worker.Connection.__new__(worker.Connection)
    connection.fd, connection.digest = inherited.fileno(), b""
    connection.inode = os.fstat(connection.fd).st_ino
    connection.keep_open = inherited
    owner.settimeout(20)  # a guard: no test waits for it
    if warm:
        connection.handed_on = False
        connection.__class__ = worker.warm.Buffered
        connection.begin()
        inherited.detach()
        connection.keep_open = connection.socket
    return connection, owner


def sealed_memory(data):
    memory = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(memory, data)
    fcntl.fcntl(memory, 1033, 0xE)
    return memory


class GoldenFrames(unittest.TestCase):
    def frames(self):
        for path in golden.descriptions():
            with self.subTest(path.stem):
                yield json.loads(path.read_text()), path.with_suffix(".bin").read_bytes()

    def test_descriptions_and_bytes_agree(self):
        self.assertEqual([], [
            path.name for path in golden.descriptions()
            if golden.encode(json.loads(path.read_text())) != path.with_suffix(".bin").read_bytes()
        ])

    def test_worker_reads_them(self):
        for (frame, data), warm in itertools.product(list(self.frames()), (False, True)):
            connection, owner = connect(warm)
            if frame["carriage"] == "descriptor":
                owner.sendall(data[:-1])
                memory = sealed_memory(golden.payload_of(frame))
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))
                owner.sendmsg([data[-1:]], [rights])
                os.close(memory)
            else:
                owner.sendall(data)
            if "detected" in frame:
                with self.assertRaises(worker.Reply) as caught:
                    connection.receive()
                fields = caught.exception.fields
                self.assertEqual(frame["detected"], fields.get("what", fields.get("reason")))
                self.assertEqual(frame["detected"] == "header", caught.exception.last)
            else:
                kind, task, metadata, payload = connection.receive()
                self.assertEqual((frame["kind"], frame["task"]), (kind, task.hex()))
                self.assertEqual(json.loads(frame["metadata"] or "{}"), metadata)
                self.assertEqual(golden.payload_of(frame), payload)

    def test_warm_worker_reads_them_when_they_come_in_one_piece(self):
        connection, owner = connect(warm=True)
        frames = [pair for pair in self.frames() if "detected" not in pair[0]]
        for frame, data in frames:
            if frame["carriage"] == "descriptor":
                memory = sealed_memory(golden.payload_of(frame))
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))
                owner.sendmsg([data], [rights])
                os.close(memory)
            else:
                owner.sendall(data)
        for frame, _ in frames:
            kind, task, _, payload = connection.receive()
            self.assertEqual((frame["kind"], frame["task"]), (kind, task.hex()))
            self.assertEqual(golden.payload_of(frame), payload)

    def test_worker_writes_them(self):
        frames = [pair for pair in self.frames() if "detected" not in pair[0]]
        for (frame, data), warm in itertools.product(frames, (False, True)):
            connection, owner = connect(warm)
            task, metadata = bytes.fromhex(frame["task"]), frame["metadata"].encode()
            connection.send(frame["kind"], task, metadata, golden.payload_of(frame))
            connection.keep_open.close()
            sent = b"".join(iter(lambda: owner.recv(1 << 16), b""))
            self.assertEqual(data, sent)


class Damage(unittest.TestCase):
    def test_every_bit_of_header_and_metadata_is_covered(self):
        data = (golden.HERE / "call-json.bin").read_bytes()
        metadata_end = worker.HEADER_BYTES + int.from_bytes(data[24:28], "big")
        for bit, warm in itertools.product(range(metadata_end * 8), (False, True)):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            connection, owner = connect(warm)
            owner.sendall(changed)
            with self.assertRaises(worker.Reply) as caught:
                connection.receive()
            header = bit // 8 < 72
            self.assertEqual(worker.CORRUPT, caught.exception.kind)
            self.assertEqual(header, caught.exception.last)
            what = "header" if header else "metadata"
            self.assertEqual(what, caught.exception.fields["what"])

    def test_stream_goes_on_behind_damaged_metadata_and_payload(self):
        good = (golden.HERE / "call-json.bin").read_bytes()
        names = ("damaged-metadata", "damaged-checksum", "damaged-payload")
        for name, warm in itertools.product(names, (False, True)):
            connection, owner = connect(warm)
            owner.sendall((golden.HERE / (name + ".bin")).read_bytes() + good)
            with self.assertRaises(worker.Reply):
                connection.receive()
            self.assertEqual(worker.CALL, connection.receive()[0])

    def test_stream_cut_anywhere_runs_nothing_and_ends_the_worker(self):
        stream = b"".join(
            (golden.HERE / (name + ".bin")).read_bytes()
            for name in ("hello-owner", "function", "call-json")
        )
        for end in range(len(stream) + 1):
            answers, code = Serving().serve(stream[:end])
            self.assertEqual((0, int(end == len(stream))), (code, len(answers)), end)


class Serving(unittest.TestCase):
    """A whole worker in a forked child, spoken to frame by frame."""

    def serve(self, stream):
        """Returns the answers behind the greeting, and the exit code."""
        owner, inherited = socket.socketpair()
        owner.settimeout(20)
        child = os.fork()
        if child == 0:
            try:
                owner.close()
                os.dup2(inherited.fileno(), 3)
                worker.Worker(worker.Connection(3)).serve()
            finally:
                os._exit(1)  # whatever happens, the child runs no further tests
        inherited.close()
        owner.sendall(stream)
        owner.shutdown(socket.SHUT_WR)
        answers = b""
        try:
            for piece in iter(lambda: owner.recv(1 << 16), b""):
                answers += piece
        except ConnectionResetError:
            pass  # it ended with frames unread, which unix(7) tells us behind what it had said
        owner.close()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return answers.split(worker.MAGIC_AND_VERSION)[2:], code

    def frame(self, kind, metadata, task="11" * 16, version=1):
        return golden.encode({
            "kind": kind, "metadata": json.dumps(metadata), "task": task, "version": version,
            "carriage": "inline", "payload": "",
        })

    def golden_frames(self, *names):
        return b"".join((golden.HERE / (name + ".bin")).read_bytes() for name in names)

    def test_a_usual_call_needs_no_rare_code(self):
        loaded = vars(worker.rare).copy()
        vars(worker.rare).clear()
        self.addCleanup(vars(worker.rare).update, loaded)
        path, worker.WORKER_FILE = worker.WORKER_FILE, "/nowhere/worker.py"
        self.addCleanup(setattr, worker, "WORKER_FILE", path)
        answers, code = self.serve(self.golden_frames("hello-owner", "function", "call-json"))
        self.assertEqual((0, 1), (code, len(answers)))
        self.assertIn(b'"hello, world"', answers[0])

    def test_versions_without_overlap_end_the_worker(self):
        hello = self.frame(1, {"version_lowest": 2, "version_highest": 3}, "00" * 16)
        call = self.golden_frames("function", "call-json")
        answers, code = self.serve(hello + call)
        self.assertEqual((worker.EXIT_PROTOCOL, 1), (code, len(answers)))
        self.assertIn(b'"reason":"version"', answers[0])

    def test_unknown_kinds_and_versions_are_declined_and_the_next_frame_is_served(self):
        for unknown, reason in (
            (self.frame(99, {}), b'"reason":"unknown_kind"'),
            (self.frame(3, {}, version=2), b'"reason":"version"'),
        ):
            answers, code = self.serve(unknown + self.golden_frames("function", "call-json"))
            self.assertEqual((0, 2), (code, len(answers)))
            self.assertIn(reason, answers[0])
            self.assertIn(b'"hello, world"', answers[1])


class Faithfulness(unittest.TestCase):
    def test_json_is_used_where_it_brings_the_value_back(self):
        numbers = [1, -(1 << 63), (1 << 64) - 1, 0.1]
        for value in (None, True, "é\0\u2028", [], {}, [[1], {}], *numbers, numbers):
            self.assertIsNone(worker.json_obstacle(value, True))
            self.assertEqual(repr(value), repr(json.loads(worker.to_json(value))))

    def test_what_json_would_change_is_found(self):
        class Text(str):
            pass

        shared = [1]
        for value in ((1,), {1: 2}, 1 << 64, Text("a"), [shared, shared], {"a": (1,)}, b"", {1}):
            self.assertIsNotNone(worker.json_obstacle(value, True), value)
        for value in ({1: 2}, 1 << 64, b"", {1}, object(), [[1 << 70]]):
            self.assertIsNotNone(worker.json_obstacle(value, False), value)
        for value in ((1,), Text("a"), [shared, shared], {"a": (1,)}):
            self.assertIsNone(worker.json_obstacle(value, False), value)

    def test_nesting_is_bounded_and_cycles_end(self):
        nested = []
        for _ in range(99):
            nested = [nested]
        self.assertIsNone(worker.json_obstacle(nested, True))
        self.assertIsNotNone(worker.json_obstacle([nested], True))
        cycle = []
        cycle.extend([cycle, cycle])
        self.assertIsNotNone(worker.json_obstacle(cycle, True))
        self.assertIsNotNone(worker.json_obstacle(cycle, False))


class Source(unittest.TestCase):
    def test_python_3_8_can_parse_it(self):
        for name in ("worker.py", "worker_rare.py", "worker_warm.py"):
            ast.parse((RUNTIME / name).read_text(), feature_version=(3, 8))

    def test_an_old_python_is_told_so_before_anything_is_imported(self):
        body = ast.parse((RUNTIME / "worker.py").read_text()).body
        check = next(at for at, node in enumerate(body) if isinstance(node, ast.If))
        names = [alias.name for node in body[:check] if isinstance(node, ast.Import)
                 for alias in node.names]
        self.assertEqual(["sys"], names)
        newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef, ast.Nonlocal)
        found = [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, newer)]
        self.assertEqual([], found)


if __name__ == "__main__":
    unittest.main(warnings="ignore")

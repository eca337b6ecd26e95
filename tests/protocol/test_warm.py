"""Holds warm workers against docs/protocol.md: pickles, modules, buffers, a process for each call.

Each test starts a real `worker.py` and speaks for its owner. Run by `runtime/tests/frame.rs` with
the machine's Python, and by hand: `/usr/bin/python3 tests/protocol/test_warm.py`.
"""

import array
import base64
import fcntl
import hashlib
import importlib.util
import json
import marshal
import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys
import unittest

import golden

WORKER = pathlib.Path(__file__).resolve().parents[2] / "runtime" / "worker.py"
HELLO, FUNCTION, CALL, RESULT, ERROR, DECLINED, CORRUPT = range(1, 8)
MODULES, READY, AGAIN, CHILD = range(9, 13)
PYTHON = "%d.%d" % sys.version_info[:2]
LARGE = 1 << 20
NOBODY = 65534


class Owner:
    """A worker process, and the socket that its owner has."""

    def __init__(self, variables=(), **hello):
        self.socket, inside = socket.socketpair()
        self.socket.settimeout(60)  # a guard: no test waits for it
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", 'exec 3<&0 </dev/null; exec "$@"', "sh",
             sys.executable, "-s", WORKER],
            stdin=inside, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(os.environ, **dict(variables)), preexec_fn=as_nobody,
        )
        inside.close()
        self.data, self.descriptors, self.tasks = b"", [], 0
        self.send(HELLO, {"version_lowest": 1, "version_highest": 1, **hello})
        self.greeting = self.receive()[2]

    def send(self, kind, metadata=None, payload=b"", task=None):
        frame = {
            "kind": kind, "metadata": json.dumps(metadata) if metadata is not None else "",
            "task": (task or bytes(16)).hex(), "version": 1, "carriage": "inline",
            "payload_hex": payload.hex(),
        }
        if len(payload) < LARGE:
            return self.socket.sendall(golden.encode(frame))
        memory = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        os.write(memory, payload)
        fcntl.fcntl(memory, 1033, 0xE)
        data = golden.encode(dict(frame, carriage="descriptor"))
        self.socket.sendall(data[:-1])
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))
        self.socket.sendmsg([data[-1:]], [rights])
        os.close(memory)

    def receive(self):
        """Returns kind, task, metadata and payload; verified."""
        header = self.take(76)
        flags, task = header[7], header[8:24]
        size = int.from_bytes(header[28:36], "big")
        metadata = self.take(int.from_bytes(header[24:28], "big"))
        payload = self.take(1 if flags else size)
        if flags:
            memory = self.descriptors.pop(0)
            payload = os.pread(memory, size, 0)
            os.close(memory)
        assert hashlib.sha256(payload).digest() == header[36:68]
        return header[6], task, json.loads(metadata or b"{}"), payload

    def take(self, size):
        while len(self.data) < size:
            more, ancillary, _, _ = self.socket.recvmsg(1 << 16, socket.CMSG_LEN(4))
            if not more:
                raise EOFError
            self.data += more
            for _, _, rights in ancillary:
                self.descriptors.append(int.from_bytes(rights, sys.byteorder))
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def ask(self, function, *arguments, **more):
        """Sends a pickled function and a call of it."""
        function = pickle.dumps(function) if not isinstance(function, bytes) else function
        self.tasks += 1
        task = self.tasks.to_bytes(16, "big")
        python = more.get("python", PYTHON)
        self.send(FUNCTION, {"encoding": "pickle", "python": python}, function, task)
        metadata = {
            "function": "", "function_sha256": hashlib.sha256(function).hexdigest(),
            "encoding": "pickle", "python": PYTHON, "accepts": ["json", "pickle"],
            "result_bytes_max": 1 << 30,
        }
        payload = more.pop("payload", None) or pickle.dumps((arguments, {}), 5)
        self.send(CALL, dict(metadata, **more), payload, task)
        return task

    def call(self, function, *arguments, **more):
        """Returns kind, metadata and payload of the answer."""
        task = self.ask(function, *arguments, **more)
        kind, about, metadata, payload = self.receive()
        assert about == task, (kind, about, metadata)
        return kind, metadata, payload

    def value(self, function, *arguments):
        kind, metadata, payload = self.call(function, *arguments)
        assert kind == RESULT, (kind, metadata, payload)
        if metadata["encoding"] == "json":
            return json.loads(payload)
        return pickle.loads(payload)

    def fork(self):
        self.send(AGAIN)
        kind = self.receive()[0]
        assert kind == READY, kind

    def forked(self, function, *arguments):
        """Returns the value of a call in a process of its own, and how that ended."""
        self.fork()
        return self.value(function, *arguments), self.receive_child()

    def receive_child(self):
        kind, _, metadata, _ = self.receive()
        assert kind == CHILD, (kind, metadata)
        return metadata

    def end(self):
        """Returns the exit code, and what was printed."""
        self.socket.close()
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.decode(), err.decode()


def as_nobody():
    """Root may look into every process; what is claimed here is claimed for tasks."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def code(text):
    """Returns a pickled function: what `text`, which defines `f`, says."""
    maker = "(lambda names: (exec(%r, names), names['f'])[1])({'__name__': 'sent'})" % text
    return b"cbuiltins\neval\n(V" + maker.replace("\n", "\\u000a").encode() + b"\ntR."


class Warm(unittest.TestCase):
    def start(self, **hello):
        owner = Owner(**dict({"ready": True}, **hello))
        self.addCleanup(owner.end)
        if not hello.get("fork"):
            self.assertEqual(READY, owner.receive()[0])
        return owner

    def test_pickled_functions_are_called_and_kept(self):
        owner = self.start()
        self.assertEqual(1024, owner.value(pow, 2, 10))
        counter = code("calls = []\ndef f():\n    calls.append(0)\n    return len(calls)\n")
        self.assertEqual([1, 2], [owner.value(counter), owner.value(counter)])

    def test_pickles_that_cannot_be_undone_are_declined_by_name(self):
        owner = self.start()
        for function, reason in (
            (b"cno_such_module\nf\n.", "function_undecodable"),
            (b"garbage", "function_undecodable"),
            (pickle.dumps(7), "not_callable"),
        ):
            kind, metadata, _ = owner.call(function)
            self.assertEqual((DECLINED, reason), (kind, metadata["reason"]))
        kind, metadata, _ = owner.call(pow, 2, 3, python="2.7")
        self.assertEqual((DECLINED, "python_mismatch"), (kind, metadata["reason"]))
        kind, metadata, _ = owner.call(abs, payload=pickle.dumps(7))
        self.assertEqual((DECLINED, "arguments_undecodable"), (kind, metadata["reason"]))
        self.assertEqual(8, owner.value(pow, 2, 3))

    def test_modules_of_the_owner_come_before_those_of_the_image(self):
        owner = self.start(preload={"environment": "e", "modules": ["calendar"]})
        where = code("import calendar\ndef f():\n    return calendar.__file__\n")
        self.assertIn("/", owner.value(where))
        sources = {"calendar.py": "SAID = 'sent'\n", "sent/__init__.py": "from .below import g\n",
                   "sent/below.py": "def g():\n    raise OSError('below')\n"}
        owner.send(MODULES, None, json.dumps(sources).encode())
        said = code("import calendar\ndef f():\n    return calendar.SAID\n")
        self.assertEqual("sent", owner.value(said))
        kind, _, payload = owner.call(b"csent\ng\n.")
        self.assertEqual(ERROR, kind)
        self.assertIn("raise OSError('below')", json.loads(payload)["traceback"])

    def test_modules_that_are_compiled_for_this_python_need_no_source(self):
        owner = self.start()

        def compiled(value, magic=importlib.util.MAGIC_NUMBER):
            bytecode = marshal.dumps(compile("SAID = %r\n" % value, "sent.py", "exec"))
            return base64.b64encode(magic + bytes(12) + bytecode).decode()

        name = "sent.%s.pyc" % sys.implementation.cache_tag
        said = code("def f():\n    import sent\n    return sent.SAID\n")
        for modules, expected in [
            ({name: compiled("compiled")}, "compiled"),
            ({name: compiled("other", b"\0\0\r\n")}, "source"),
            ({name: "!"}, "source"),
            ({name: None}, "source"),
            ({"sent.cpython-30.pyc": compiled("old")}, "source"),
        ]:
            with self.subTest(expected):
                modules["sent.py"] = "SAID = 'source'\n"
                owner.send(MODULES, None, json.dumps(modules).encode())
                self.assertEqual(expected, owner.value(said))

    def test_results_that_only_cloudpickle_can_pickle_are_pickled_by_the_one_that_was_sent(self):
        owner = self.start()
        inner = code("def f():\n    return lambda: 1\n")
        self.assertEqual(DECLINED, owner.call(inner)[0])
        fake = "def dumps(value, protocol, buffer_callback):\n    return b'Vby cloudpickle\\n.'\n"
        owner.send(MODULES, None, json.dumps({"cloudpickle/__init__.py": fake}).encode())
        kind, metadata, payload = owner.call(inner)
        self.assertEqual((RESULT, "pickle"), (kind, metadata["encoding"]))
        self.assertEqual("by cloudpickle", pickle.loads(payload))

    def test_caller_that_takes_only_pickles_gets_one(self):
        kind, metadata, payload = self.start().call(pow, 2, 3, accepts=["pickle"])
        self.assertEqual((RESULT, "pickle"), (kind, metadata["encoding"]))
        self.assertEqual(8, pickle.loads(payload))

    def test_buffers_of_arguments_are_read_only_and_not_copied(self):
        owner = self.start()
        look = code(
            "def f(view):\n    view = memoryview(view)\n    ends = [view[0], view[len(view) - 1]]\n"
            "    return [view.readonly, len(view), *ends, type(view.obj).__name__]\n"
        )
        for size, kept_in in ((5000, "bytes"), (3 * LARGE, "mmap")):
            data = b"a" + bytes(size - 2) + b"z"
            buffers = []
            arguments = ((pickle.PickleBuffer(data),), {})
            head = pickle.dumps(arguments, 5, buffer_callback=buffers.append)
            offset = len(head) + -len(head) % 64
            payload = head.ljust(offset, b"\0") + data
            kind, _, said = owner.call(look, payload=payload, buffers=[[offset, size]])
            self.assertEqual(RESULT, kind, said)
            self.assertEqual([True, size, 97, 122, kept_in], json.loads(said))

    def test_buffers_that_lie_elsewhere_are_declined(self):
        owner = self.start()
        payload = pickle.dumps(((), {}), 5)
        for places in ([[1, 1]], [[64, 1000]], [[0, 1], [0, 1]], [[-64, 64]], "x"):
            kind, metadata, _ = owner.call(dict, payload=payload, buffers=places)
            said = kind, metadata["reason"]
            self.assertEqual((DECLINED, "arguments_undecodable"), said, places)

    def test_buffers_of_results_travel_beside_the_pickle(self):
        owner = self.start()
        make = code(
            "import pickle\nclass Array:\n    def __init__(self, data):\n        self.data = data\n"
            "    def __reduce_ex__(self, protocol):\n"
            "        return bytearray, (pickle.PickleBuffer(self.data),)\n"
            "def f(*sizes):\n    return [Array(bytes([7]) * size) for size in sizes]\n"
        )
        for sizes in ((5000, 100, 6000), (2 * LARGE, 5 * LARGE)):
            kind, metadata, payload = owner.call(make, *sizes)
            self.assertEqual((RESULT, "pickle"), (kind, metadata["encoding"]))
            places = metadata["buffers"]
            # The small one is in the pickle itself.
            self.assertEqual([size for size in sizes if size > 4096], [size for _, size in places])
            self.assertEqual([0] * len(places), [offset % 64 for offset, _ in places])
            buffers = [payload[offset : offset + size] for offset, size in places]
            arrays = pickle.loads(payload, buffers=buffers)
            self.assertEqual([bytes([7]) * size for size in sizes], arrays)
        kind, metadata, _ = owner.call(make, 5000, result_bytes_max=5000)
        self.assertEqual((DECLINED, "result_too_large"), (kind, metadata["reason"]))

    def test_exceptions_come_as_pickles_to_who_takes_them(self):
        owner = self.start()
        fail = code("def f(text):\n    raise KeyError(text)\n")
        _, _, payload = owner.call(fail, "why")
        said = json.loads(payload)
        self.assertEqual(PYTHON, said["python"])
        error = pickle.loads(base64.b64decode(said["pickle"]))
        self.assertEqual((KeyError, ("why",)), (type(error), error.args))
        self.assertNotIn("pickle", json.loads(owner.call(fail, "why", accepts=["json"])[2]))
        self.assertNotIn("pickle", json.loads(owner.call(fail, "w" * 300000)[2]))
        inner = code("class E(Exception):\n    pass\ndef f():\n    raise E(7)\n")
        self.assertNotIn("pickle", json.loads(owner.call(inner)[2]))

    def test_what_a_call_turned_is_turned_back(self):
        owner = self.start()
        home = owner.value(os.getcwd)
        owner.value(os.chdir, "/usr")
        self.assertEqual(home, owner.value(os.getcwd))
        owner.value(code(
            "import os\ndef f():\n    os.chdir('/usr')\n    os.closerange(4, 1000)\n"
            "    os.close(1001)\n"
        ))
        self.assertEqual(home, owner.value(os.getcwd))
        owner.value(code(
            "import sys, io\ndef f():\n    sys.stdout = io.StringIO()\n"
            "    sys.setrecursionlimit(77)\n"
        ))
        owner.value(print, "said")
        self.assertEqual(sys.getrecursionlimit(), owner.value(sys.getrecursionlimit))
        self.assertIn("said", owner.end()[1])

    def test_a_function_that_closes_the_connection_ends_the_worker(self):
        owner = self.start()
        owner.ask(os.closerange, 3, 2000)
        with self.assertRaises(EOFError):
            owner.receive()
        self.assertEqual(70, owner.end()[0])

    def test_children_of_functions_do_not_hold_the_connection(self):
        owner = self.start()
        child = owner.value(code(
            "import os, time\ndef f():\n    child = os.fork()\n    if child == 0:\n"
            "        time.sleep(60)\n        os._exit(0)\n    return child\n"
        ))
        owner.socket.shutdown(socket.SHUT_WR)
        with self.assertRaises(EOFError):  # and not the guard's timeout
            owner.receive()
        os.kill(child, signal.SIGKILL)


class Template(Warm):
    def start(self, *modules, **more):
        preload = {"environment": "e", "modules": list(modules)}
        return super().start(fork=True, preload=preload, **more)

    def test_each_call_gets_a_process_that_ends(self):
        owner = self.start("calendar")
        remember = code(
            "import sys, os\ndef f():\n    before = getattr(sys, 'residue', None)\n"
            "    sys.residue = 1\n    return [before, os.getpid(), 'calendar' in sys.modules]\n"
        )
        seen = [owner.forked(remember) for _ in range(3)]
        self.assertEqual([None] * 3, [value[0] for value, _ in seen])
        self.assertEqual(3, len({value[1] for value, _ in seen}))
        self.assertTrue(all(value[2] for value, _ in seen))
        self.assertEqual([0] * 3, [ended["wait_status"] for _, ended in seen])
        self.assertTrue(all(ended["largest_kib"] > 1000 for _, ended in seen))
        self.assertEqual(0, owner.end()[0])

    def test_everything_may_be_sent_at_once(self):
        owner = self.start()
        owner.send(MODULES, None, json.dumps({"sent.py": "X = 5\n"}).encode())
        for _ in range(3):
            owner.send(AGAIN)
            measure = code("import sent\ndef f(data):\n    return sent.X + len(data)\n")
            owner.ask(measure, bytes(2 * LARGE))
            kinds = [owner.receive() for _ in range(3)]
            self.assertEqual([READY, RESULT, CHILD], [kind for kind, *_ in kinds])
            self.assertEqual(b"%d" % (2 * LARGE + 5), kinds[1][3])

    def test_a_child_that_is_killed_is_told_of_and_leaves_no_call_behind(self):
        owner = self.start()
        owner.fork()
        owner.ask(os.kill, 0, 9)
        self.assertEqual(9, owner.receive_child()["wait_status"])
        owner.fork()
        template = owner.process.pid
        children = pathlib.Path("/proc/%d/task/%d/children" % (template, template))
        child = int(children.read_text())
        os.kill(child, signal.SIGKILL)  # before its call has come
        self.assertEqual(9, owner.receive_child()["wait_status"])
        owner.ask(print, "of a child that is gone")
        value, ended = owner.forked(pow, 2, 3)
        self.assertEqual((8, 0), (value, ended["wait_status"]))
        self.assertEqual("", owner.end()[1])

    def test_exceptions_and_refusals_end_the_child_too(self):
        owner = self.start()
        fail = code("def f():\n    raise OSError\n")
        for function, kind in ((fail, ERROR), (b"garbage", DECLINED)):
            owner.fork()
            self.assertEqual(kind, owner.call(function)[0])
            self.assertEqual(0, owner.receive_child()["wait_status"])

    def test_a_task_can_neither_read_nor_write_the_template(self):
        owner = self.start()
        template = owner.process.pid
        look = code(
            "import os\ndef f(pid):\n    said = []\n"
            "    for name in ('mem', 'environ', 'fd/0', 'maps'):\n        try:\n"
            "            os.close(os.open('/proc/%s/%s' % (pid, name), os.O_RDONLY))\n"
            "            said.append(name)\n        except OSError:\n            pass\n"
            "    return said\n"
        )
        trace = code(
            "import ctypes\ndef f(pid):\n    libc = ctypes.CDLL(None, use_errno=True)\n"
            "    return [libc.ptrace(16, pid, 0, 0), ctypes.get_errno()]\n"
        )
        self.assertEqual([], owner.forked(look, template)[0])
        self.assertEqual([-1, 1], owner.forked(trace, template)[0])
        # The control: a process of the same uid that is not a template is there to be read.
        other = subprocess.Popen(["/bin/sleep", "60"], preexec_fn=as_nobody)
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        self.assertIn("environ", owner.forked(look, other.pid)[0])
        # A task itself is as any process: what looks at /proc/self works.
        self.assertIn("environ", owner.forked(look, "self")[0])

    def test_a_template_that_was_changed_from_outside_ends(self):
        change = code(
            "import os, resource\ndef f(pid):\n"
            "    resource.prlimit(pid, resource.RLIMIT_NOFILE, (512, 512))\n"
        )
        nice = code("import os\ndef f(pid):\n    os.setpriority(os.PRIO_PROCESS, pid, 15)\n")
        affinity = code(
            "import os\ndef f(pid):\n"
            "    os.sched_setaffinity(pid, {min(os.sched_getaffinity(pid))})\n"
        )
        changes = [change, nice] + [affinity] * (len(os.sched_getaffinity(0)) > 1)
        for change in changes:
            owner = self.start()
            owner.forked(change, owner.process.pid)
            owner.send(AGAIN)
            with self.assertRaises(EOFError):
                owner.receive()
            self.assertEqual(70, owner.end()[0])

    def test_signals_to_its_group_do_not_reach_the_template(self):
        owner = self.start()
        owner.fork()
        owner.ask(os.killpg, 0, 9)
        self.assertEqual(9, owner.receive_child()["wait_status"])
        self.assertEqual(8, owner.forked(pow, 2, 3)[0])

    def test_a_task_that_kills_the_template_is_seen_as_its_end(self):
        owner = self.start()
        owner.fork()
        owner.ask(os.kill, owner.process.pid, 9)
        with self.assertRaises(EOFError):
            while True:
                owner.receive()
        self.assertEqual(-9, owner.end()[0])

    def test_random_numbers_differ_between_children(self):
        owner = self.start("random", "uuid", "tempfile")
        draw = code(
            "import random, uuid\ndef f():\n    return [random.random(), uuid.uuid4().hex]\n"
        )
        drawn = [owner.forked(draw)[0] for _ in range(4)]
        self.assertEqual(4, len({first for first, _ in drawn}))
        self.assertEqual(4, len({second for _, second in drawn}))

    def test_legacy_generator_of_numpy_is_seeded_anew(self):
        owner = self.start()
        fake = (
            "import random\nstate = 1\ndef seed():\n    global state\n"
            "    state = random.random()\n"
        )
        owner.send(MODULES, None, json.dumps({"numpy/__init__.py": "from . import random\n",
                                              "numpy/random.py": fake}).encode())
        draw = code("import numpy.random\ndef f():\n    return numpy.random.state\n")
        drawn = {owner.forked(draw)[0] for _ in range(3)}
        self.assertEqual(3, len(drawn))

    def test_streams_that_a_task_made_nonblocking_block_again(self):
        owner = self.start()
        owner.forked(os.set_blocking, 1, False)
        self.assertTrue(owner.forked(os.get_blocking, 1)[0])

    def declined(self, owner):
        owner.fork()
        kind, metadata, _ = owner.call(pow, 2, 3)
        self.assertEqual((DECLINED, "not_forkable"), (kind, metadata["reason"]))
        return metadata

    def test_threads_and_shared_memory_forbid_forking(self):
        owner = self.start()
        source = (
            "import threading\nwait = threading.Event().wait\n"
            "threading.Thread(target=wait, daemon=True).start()\n"
        )
        owner.send(MODULES, None, json.dumps({"threads.py": source}).encode())
        self.assertIn("2 threads", self.declined(owner)["message"])
        self.declined(owner)
        owner = self.start()
        source = "import mmap\nshared = mmap.mmap(-1, 4096)\n"
        owner.send(MODULES, None, json.dumps({"shared.py": source}).encode())
        self.assertIn("shares", self.declined(owner)["message"])

    def test_an_image_without_ctypes_forbids_forking(self):
        owner = self.start()
        source = "raise ImportError('there is none')\n"
        owner.send(MODULES, None, json.dumps({"ctypes/__init__.py": source}).encode())
        self.assertIn("ctypes", self.declined(owner)["message"])

    def test_garbage_on_the_stream_ends_the_template_at_the_next_frame(self):
        owner = self.start()
        owner.fork()
        owner.socket.sendall(b"\x89RIC" + bytes(100))
        kind, task, metadata, _ = owner.receive()
        self.assertEqual((CORRUPT, bytes(16), "header"), (kind, task, metadata["what"]))

    # What Warm claims is of workers that are not forked; here it would be claimed twice.
    for name in [name for name in vars(Warm) if name.startswith("test_")]:
        locals()[name] = None
    del name


if __name__ == "__main__":
    unittest.main(warnings="ignore")

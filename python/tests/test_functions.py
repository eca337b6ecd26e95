"""How functions and arguments travel, and when a pickle may be used again."""

import array
import base64
import decimal
import marshal
import os
import pickle
import pickletools
import subprocess
import sys
import sys
import textwrap
import threading
import types
import unittest

import cloudpickle

from run_in_container import functions
from run_in_container.payload import BUFFER_BYTES_MIN, Payload, Sieve, unpickle, with_buffers

import own_module


def function(source, **names):
    """Defines ``f`` in ``__main__``, as a program or a notebook does."""
    names["__name__"] = "__main__"
    exec(textwrap.dedent(source), names)
    return names["f"]


def globals_in(pickled):
    """The names that a pickle imports."""
    found, strings = [], []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "STACK_GLOBAL":
            found.append(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return found


class References(unittest.TestCase):
    def run_elsewhere(self, pickled, *arguments):
        """Calls a pickled function where only cloudpickle is installed; returns its repr."""
        program = (
            "import pickle, sys; function, arguments = pickle.load(sys.stdin.buffer);"
            "print(repr(pickle.loads(function)(*arguments)))"
        )
        path = os.path.dirname(os.path.dirname(cloudpickle.__file__))
        done = subprocess.run(
            [sys.executable, "-S", "-c", program], input=pickle.dumps((pickled, arguments)),
            stdout=subprocess.PIPE, check=True, cwd="/", env={"PYTHONPATH": path},
        )
        return done.stdout.decode().strip()

    def test_what_the_sandbox_can_import_goes_by_name(self):
        for value in (len, os.path.join, decimal.Decimal, textwrap.dedent):
            self.assertLess(len(functions.dumps(value)), 100, value)

    def test_what_is_the_callers_own_goes_by_value(self):
        self.assertTrue(functions.is_own(own_module.__name__))
        self.assertEqual("42", self.run_elsewhere(functions.dumps(own_module.six_times), 7))
        self.assertEqual("5", self.run_elsewhere(functions.dumps(lambda point: 5), None))
        point = functions.dumps(own_module.Point)
        self.assertIn("Point object", self.run_elsewhere(point, 1))

    def test_an_own_module_that_is_named_goes_with_its_functions(self):
        uses = function("def f(x): return own.six_times(x)", own=own_module)
        self.assertEqual("12", self.run_elsewhere(functions.dumps(uses), 2))

    def test_instances_of_own_classes_go_with_their_class(self):
        point = own_module.Point(4)
        self.assertEqual("4", self.run_elsewhere(functions.dumps(lambda: point.x)))

    def test_functions_of_this_package_go_by_value(self):
        from run_in_container.executor import _over

        self.assertEqual("[1, 2]", self.run_elsewhere(functions.dumps(_over(abs)), (-1,), (2,)))

    def test_other_peoples_pickles_do_not_change(self):
        functions.dumps(own_module.Point)
        self.assertFalse(cloudpickle.list_registry_pickle_by_value())
        self.assertIn("own_module", "".join(globals_in(cloudpickle.dumps(own_module.Point))))

    def test_what_cannot_be_pickled_changes_nothing_either(self):
        with self.assertRaises(TypeError):
            functions.dumps((own_module.Point, threading.Lock()))
        self.assertFalse(cloudpickle.list_registry_pickle_by_value())

    def test_the_serialiser_travels_as_source(self):
        import json

        sources = json.loads(b"".join(functions.modules_payload().pieces))
        self.assertIn("cloudpickle/__init__.py", sources)
        self.assertIn("class Pickler", sources["cloudpickle/cloudpickle.py"])
        compiled = sources[f"cloudpickle/cloudpickle.{sys.implementation.cache_tag}.pyc"]
        code = marshal.loads(base64.b64decode(compiled)[16:])
        self.assertEqual("cloudpickle/cloudpickle.py", code.co_filename)


class Kept(unittest.TestCase):
    """A pickle is used again exactly as long as a new one would be the same."""

    def setUp(self):
        self.functions = functions.Functions()

    def assert_kept(self, value, is_kept=True):
        first, second = self.functions.find(value), self.functions.find(value)
        self.assertEqual(is_kept, first is second)
        self.assertEqual(first.sha256, second.sha256)

    def assert_changed_by(self, value, change):
        before = self.functions.find(value)
        self.assertIs(before, self.functions.find(value))
        change()
        after = self.functions.find(value)
        self.assertIsNot(before, after)
        self.assertNotEqual(before.sha256, after.sha256)

    def test_what_goes_by_name_is_kept(self):
        for value in (len, os.path.join, decimal.Decimal):
            self.assert_kept(value)

    def test_a_function_of_constants_and_functions_is_kept(self):
        self.assert_kept(own_module.six_times)
        self.assert_kept(lambda a, b=2, *, c="x": os.path.join(str(a), str(b), c))

    def test_a_recursive_function_is_kept(self):
        f = function("def f(n): return f(n - 1) if n else 0")
        self.assert_kept(f)

    def test_a_changed_global_is_seen(self):
        f = function("LIMIT = 1\ndef f(): return LIMIT")
        self.assert_changed_by(f, lambda: f.__globals__.update(LIMIT=2))

    def test_a_changed_helper_is_seen(self):
        f = function("def g(): return 1\ndef f(): return g()")
        self.assert_changed_by(f, lambda: exec("def g(): return 2", f.__globals__))

    def test_a_changed_global_of_a_helper_is_seen(self):
        f = function("A = 1\ndef g(): return A\ndef f(): return [g() for _ in 'a']")
        self.assert_changed_by(f, lambda: f.__globals__.update(A=2))

    def test_a_global_that_hides_a_builtin_is_seen(self):
        f = function("def f(): return len('ab')")
        self.assert_changed_by(f, lambda: f.__globals__.update(len=abs))

    def test_changed_defaults_code_and_attributes_are_seen(self):
        f = function("def f(a=1, *, b=1): return a")
        self.assert_changed_by(f, lambda: setattr(f, "__defaults__", (2,)))
        self.assert_changed_by(f, lambda: f.__kwdefaults__.update(b=2))
        self.assert_changed_by(f, lambda: setattr(f, "note", 1))
        self.assert_changed_by(f, lambda: setattr(f, "note", 2))
        other = function("def f(a=1, *, b=1): return 7")
        self.assert_changed_by(f, lambda: setattr(f, "__code__", other.__code__))

    def test_a_changed_closure_is_seen(self):
        def outer():
            count = 1

            def change():
                nonlocal count
                count += 1

            return lambda: count, change

        inner, change = outer()
        self.assert_changed_by(inner, change)

    def test_what_may_change_unseen_is_not_kept(self):
        for source in (
            "THINGS = [1]\ndef f(): return THINGS",
            "class C: pass\ndef f(): return C()",
            "def f(a=[]): return a",
            "import types\nm = types.ModuleType('m')\ndef f(): return m",
        ):
            with self.subTest(source):
                self.assert_kept(function(source), is_kept=False)

    def test_a_list_that_changed_is_seen(self):
        f = function("THINGS = [1]\ndef f(): return THINGS")
        before = self.functions.find(f)
        f.__globals__["THINGS"].append(2)
        self.assertNotEqual(before.sha256, self.functions.find(f).sha256)

    def test_bound_methods_and_callables_are_not_kept(self):
        self.assert_kept(own_module.Point, is_kept=False)
        self.assert_kept([1].index, is_kept=False)

    def test_few_are_kept(self):
        for number in range(functions._KEPT_MAX + 50):
            self.functions.find(function(f"def f(): return {number}"))
        self.assertEqual(functions._KEPT_MAX, len(self.functions._kept))


class Buffers(unittest.TestCase):
    def pickled(self, *arguments):
        return functions.pickle_arguments(arguments, {})

    def content(self, payload):
        if payload.descriptor is None:
            return b"".join(payload.pieces)
        return os.pread(payload.descriptor, payload.size, 0)

    def test_small_ones_stay_in_the_pickle(self):
        payload = self.pickled(pickle.PickleBuffer(bytes(BUFFER_BYTES_MIN - 1)))
        self.assertFalse(payload.buffers)

    def test_large_ones_lie_beside_it_at_multiples_of_64(self):
        data = [bytearray([n]) * (BUFFER_BYTES_MIN + n) for n in range(1, 4)]
        payload = self.pickled(*map(pickle.PickleBuffer, data))
        self.assertEqual([len(one) for one in data], [size for _, size in payload.buffers])
        self.assertTrue(all(offset % 64 == 0 for offset, _ in payload.buffers))
        places = [list(place) for place in payload.buffers]
        args, kwargs = unpickle(self.content(payload), places)
        self.assertEqual([bytes(one) for one in data], [bytes(one) for one in args])

    def test_they_come_back_read_only_and_not_copied(self):
        payload = self.pickled(pickle.PickleBuffer(bytearray(2 << 20)))
        self.assertIsNotNone(payload.descriptor)
        content = self.content(payload)
        (view,), _ = unpickle(content, [list(place) for place in payload.buffers])
        self.assertTrue(memoryview(view).readonly)
        self.assertIs(content, memoryview(view).obj)

    def test_what_is_written_later_does_not_travel(self):
        for size in (BUFFER_BYTES_MIN, 2 << 20):
            data = bytearray(size)
            payload = self.pickled(pickle.PickleBuffer(data))
            data[:] = b"x" * size
            self.assertNotIn(b"x" * 64, self.content(payload))

    def test_buffers_that_are_not_contiguous_stay_in_the_pickle(self):
        sieve = Sieve()
        view = memoryview(bytes(4 * BUFFER_BYTES_MIN))[::2]
        self.assertTrue(sieve(pickle.PickleBuffer(view)))

    def test_memory_is_given_back(self):
        before = os.listdir("/proc/self/fd")
        payload = Payload((bytes(2 << 20),))
        payload.close()
        payload.close()
        Payload((bytes(2 << 20),))  # and by itself, when nothing refers to it
        self.assertEqual(before, os.listdir("/proc/self/fd"))

    def test_a_payload_without_memory_travels_in_the_stream(self):
        import resource

        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = max(map(int, os.listdir("/proc/self/fd"))) + 1
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            while True:
                held.append(os.open("/", os.O_RDONLY))
        except OSError:
            payload = with_buffers(b"p", [pickle.PickleBuffer(bytes(2 << 20))])
        finally:
            for descriptor in held:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        self.assertIsNone(payload.descriptor)
        self.assertEqual(payload.size, len(b"".join(payload.pieces)))


class Plain(unittest.TestCase):
    def test_plain_arguments_and_others_give_the_same(self):
        for args in ((1, "a", None, 2.5, b"x"), ([1], {"a": (2,)}), (array.array("i", [1]),)):
            content = b"".join(functions.pickle_arguments(args, {"k": 1}).pieces)
            self.assertEqual((args, {"k": 1}), pickle.loads(content))

    def test_subclasses_of_plain_types_are_not_taken_for_them(self):
        class Own(int):
            pass

        Own.__module__ = "__main__"
        content = b"".join(functions.pickle_arguments((Own(3),), {}).pieces)
        self.assertNotIn("__main__.Own", globals_in(content))
        self.assertIsInstance(types, types.ModuleType)


if __name__ == "__main__":
    unittest.main()

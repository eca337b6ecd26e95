"""How functions and arguments travel: by reference where the sandbox can import them, else whole.

Modules of the standard library and installed packages are the environment's business, and their
functions and classes go by name. What lies anywhere else, ``__main__`` and notebooks included, is
the caller's own and goes by value, code and all (cloudpickle), so that an image needs nothing but
a Python.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import io
import json
import marshal
import os
import pickle
import site
import sys
import sysconfig
import threading
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import cloudpickle  # type: ignore[import-untyped]

from .payload import Payload, Sieve, with_buffers

PYTHON_MINOR = "%d.%d" % sys.version_info[:2]
PROTOCOL = 5
#: Most functions whose pickles are kept for their next call.
_KEPT_MAX = 256
#: Values that say of themselves that they have not changed.
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_ATOM_SET = frozenset(_ATOMS)
_ABSENT = object()
_INSTALLED = ("site-packages", "dist-packages")
_PACKAGE = __name__.partition(".")[0]

#: cloudpickle's list of modules that go by value is the process's: it is lent while a pickle is
#: made, so that nobody else's pickles change.
_LENT = threading.RLock()


def is_own(name: Optional[str]) -> bool:
    """Whether module ``name`` is the caller's own code, so that the sandbox cannot import it."""
    known = _OWN.get(name)
    if known is None:
        module = sys.modules.get(name) if name else None
        known = module is not None and _is_own_module(module)
        if module is not None:
            _OWN[name] = known
    return known


_OWN: Dict[Optional[str], bool] = {"__main__": True, "builtins": False, None: False}


def _is_own_module(module: ModuleType) -> bool:
    name = module.__name__.partition(".")[0]
    if name == _PACKAGE:  # installed, yet in no image
        return True
    if name in getattr(sys, "stdlib_module_names", sys.builtin_module_names):
        return False
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith((".py", ".pyc")):
        return False  # built in, compiled, or made on the fly, which cloudpickle sees by itself
    file = os.path.realpath(file)
    if any(part in _INSTALLED for part in file.split(os.sep)):
        return False
    return not file.startswith(_library_folders())


def _library_folders() -> Tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths.update(getattr(site, "getsitepackages", list)())
    return tuple(os.path.realpath(path) + os.sep for path in paths if path)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by value what is the caller's own."""

    def __init__(self, file: io.BytesIO, sieve: Optional[Sieve]) -> None:
        super().__init__(file, protocol=PROTOCOL, buffer_callback=sieve)
        self.lent: Set[ModuleType] = set()

    def reducer_override(self, obj: Any) -> Any:
        """Called for everything but the plainest values, before it is pickled."""
        if isinstance(obj, ModuleType):
            self._lend(obj.__name__)
        elif isinstance(obj, (FunctionType, type)):
            self._lend(obj.__module__)
        return super().reducer_override(obj)

    def _lend(self, name: Optional[str]) -> None:
        if name == "__main__" or not is_own(name):
            return
        module = sys.modules[name]  # type: ignore[index]
        if module not in self.lent and name not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(module)
            self.lent.add(module)


def dumps(value: Any, sieve: Optional[Sieve] = None) -> bytes:
    """Pickles ``value``; raises whatever pickling raises, usually ``pickle.PicklingError``."""
    file = io.BytesIO()
    with _LENT:
        pickler = _Pickler(file, sieve)
        try:
            pickler.dump(value)
        finally:
            for module in pickler.lent:
                cloudpickle.unregister_pickle_by_value(module)
    return file.getvalue()


def pickle_arguments(args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Payload:
    """Pickles what a call is made with, as it is now. Raises as ``dumps``."""
    # The plainest arguments, and most, need no look at where their classes come from.
    for value in args:
        if type(value) not in _ATOM_SET:
            break
    else:
        for value in kwargs.values():
            if type(value) not in _ATOM_SET:
                break
        else:
            return Payload((pickle.dumps((args, kwargs), PROTOCOL),))
    sieve = Sieve()
    pickled = dumps((args, kwargs), sieve)
    return with_buffers(pickled, sieve.kept)


class Pickled:
    """A function as it travels, with what a call says of it in its metadata."""

    __slots__ = ("name", "payload", "sha256", "witness")

    def __init__(self, name: str, payload: Payload, witness: Optional[Witness]) -> None:
        self.name = name
        self.payload = payload
        self.sha256 = payload.digest.hex()
        self.witness = witness


def pickle_function(function: Callable[..., Any]) -> Pickled:
    """Pickles a function as it is now. Raises as ``dumps``."""
    payload = Payload((dumps(function),))
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return Pickled(name, payload, Witness.of(function))


class Functions:
    """The pickles of functions that were called lately.

    A pickle is used again only while everything that went into it is provably the same: its code,
    the globals and variables it names, and those of the functions it calls. A function that uses,
    say, a global list is pickled anew for each call, because nobody can tell what is in the list.
    """

    def __init__(self) -> None:
        self._kept: Dict[Any, Pickled] = {}

    def find(self, function: Callable[..., Any]) -> Pickled:
        """Returns the pickle of ``function`` as it is now. Raises as ``dumps``."""
        if type(function) not in (FunctionType, BuiltinFunctionType, type):
            return pickle_function(function)
        pickled = self._kept.get(function)
        if pickled is not None and pickled.witness.holds():  # type: ignore[union-attr]
            return pickled
        pickled = pickle_function(function)
        if pickled.witness is not None:
            if len(self._kept) >= _KEPT_MAX:
                self._kept.pop(next(iter(self._kept)), None)
            self._kept[function] = pickled
        return pickled


class Witness:
    """Tells whether a function would still give the same pickle."""

    __slots__ = ("_functions", "_places", "_cells")

    def __init__(self) -> None:
        self._functions: List[Tuple[FunctionType, CodeType, Any, Any, int]] = []
        self._places: List[Tuple[Dict[str, Any], str, Any]] = []
        self._cells: List[Tuple[Any, Any]] = []

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Optional[Witness]:
        """None if nobody can tell."""
        witness = cls()
        return witness if witness._see(function, set()) else None

    def holds(self) -> bool:
        """Whether everything is as it was."""
        for function, code, defaults, keyword_defaults, attributes in self._functions:
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ != keyword_defaults
                or len(function.__dict__) != attributes
            ):
                return False
        for namespace, name, value in self._places:
            if namespace.get(name, _ABSENT) is not value:
                return False
        for cell, value in self._cells:
            try:
                if cell.cell_contents is not value:
                    return False
            except ValueError:  # emptied
                return False
        return True

    def _see(self, value: Any, seen: Set[int]) -> bool:
        """Notes what ``value`` depends on. False if that cannot be told."""
        kind = type(value)
        if kind in _ATOM_SET or kind is BuiltinFunctionType and is_plain_builtin(value):
            return True
        if kind is tuple:
            return all(self._see(member, seen) for member in value)
        if isinstance(value, ModuleType):
            return value.__name__ in sys.modules and not is_own(value.__name__)
        if isinstance(value, type):
            return _is_importable(value)
        if kind is not FunctionType:
            return False
        if id(value) in seen or _is_importable(value):
            return True
        seen.add(id(value))
        return self._see_function(value, seen)

    def _see_function(self, function: FunctionType, seen: Set[int]) -> bool:
        keyword_defaults = function.__kwdefaults__
        self._functions.append((
            function,
            function.__code__,
            function.__defaults__,
            None if keyword_defaults is None else dict(keyword_defaults),
            len(function.__dict__),
        ))
        depends: List[Any] = [function.__defaults__, *(keyword_defaults or {}).values()]
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # a name that is not bound yet
                return False
            self._cells.append((cell, content))
            depends.append(content)
        for name, content in function.__dict__.items():
            self._places.append((function.__dict__, name, content))
            depends.append(content)
        for name in _names(function.__code__):
            content = function.__globals__.get(name, _ABSENT)
            self._places.append((function.__globals__, name, content))
            if content is not _ABSENT:
                depends.append(content)
        return all(self._see(value, seen) for value in depends)


def _names(code: CodeType) -> Set[str]:
    """Every name that the code may look for outside itself; attributes too, which does no harm."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def _is_importable(value: Any) -> bool:
    """Whether a function or class goes by name, so that its pickle never changes."""
    name = getattr(value, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or is_own(name):
        return False
    found: Any = module
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def is_plain_builtin(function: Any) -> bool:
    """Whether a built-in function belongs to a module and not to an object, as ``[].append``."""
    return function.__self__ is None or isinstance(function.__self__, ModuleType)


def modules_payload() -> Payload:
    """cloudpickle's own source, as MODULES and OPEN carry it, and compiled for a worker whose
    Python is of this version: to compile it takes longer than to start an interpreter."""
    return Payload((_modules(),))


@functools.lru_cache(maxsize=1)
def _modules() -> bytes:
    folder = os.path.dirname(cloudpickle.__file__)
    modules = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".py"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                source = file.read()
            path = f"cloudpickle/{name}"
            code = compile(source, path, "exec", dont_inherit=True)
            # As a `.pyc` begins: magic number, flags, and time and size of a source.
            compiled = importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)
            modules[path] = source
            modules[f"{path[:-3]}.{sys.implementation.cache_tag}.pyc"] = (
                base64.b64encode(compiled).decode()
            )
    return json.dumps(modules).encode()

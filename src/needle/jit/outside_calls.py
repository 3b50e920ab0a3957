"""Calls whose answer is another one each time (the clock, the system's random numbers), found in a function's code.

A compiled function makes them once, when it is followed. They are looked for in the instructions of functions that were
seen to run, and of those that these name: a name is followed from a variable through modules and classes.
"""

from __future__ import annotations

import dis
import linecache
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

__all__ = ["OutsideCall", "calls_in", "draws_in"]

_CLOCKS = frozenset(
    f"time.{name}{unit}"
    for name in ("time", "perf_counter", "monotonic", "process_time", "thread_time")
    for unit in ("", "_ns")
)
_DATES = frozenset({"datetime.now", "datetime.utcnow", "datetime.today", "date.today"})
_SYSTEM_DRAWS = frozenset({"posix.urandom", "nt.urandom", "uuid.uuid1", "uuid.uuid4"})
# Generators that start from the system's random numbers where they are given no seed.
_GENERATORS = frozenset({"default_rng", "RandomState", "Random", "SystemRandom"})
_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FAST"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_UNKNOWN = object()


class OutsideCall(NamedTuple):
    """What a line of a function names."""

    name: str
    file: str
    line: int


def calls_in(functions: Iterable[Any]) -> Iterator[OutsideCall]:
    """Yield where functions name the clock or the system's random numbers."""
    for function in functions:
        for value, place in _named(function):
            if _is_outside(_qualified(value), linecache.getline(place.file, place.line)):
                yield place


def _is_outside(name: str, line: str) -> bool:
    """Tell whether what a line names gives another answer each time."""
    last = name.rpartition(".")[2]
    if last in _GENERATORS:
        return f"{last}()" in line.replace(" ", "")
    return name in _CLOCKS | _DATES | _SYSTEM_DRAWS or name.startswith("secrets.")


def draws_in(functions: Iterable[Any]) -> Iterator[OutsideCall]:
    """Yield where functions name what draws from the generators of NumPy and of Python."""
    for function in functions:
        for value, place in _named(function):
            owner = getattr(value, "__self__", None)
            kind = f"{type(owner).__module__}.{type(owner).__qualname__}"
            if callable(value) and kind in ("numpy.random.mtrand.RandomState", "random.Random"):
                yield place


def _qualified(value: Any) -> str:
    """Return by what name a function is known; that of a class's method without its module."""
    name = getattr(value, "__qualname__", "")
    module = getattr(value, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) else str(name)


def _named(function: Any) -> Iterator[tuple[Any, OutsideCall]]:
    """Yield what a function's instructions name, each name followed as far as modules and classes go, and where."""
    known = {**function.__globals__, **_cells(function)}
    for code in _codes(function.__code__):
        yield from _named_in(code, dict(known))


def _named_in(code: types.CodeType, known: dict[str, Any]) -> Iterator[tuple[Any, OutsideCall]]:
    path, line = "", code.co_firstlineno
    value: Any = _UNKNOWN
    imported: Any = _UNKNOWN
    for one in dis.get_instructions(code):
        line = one.starts_line if isinstance(one.starts_line, int) and one.starts_line > 1 else line
        if one.opname == "IMPORT_NAME":
            value = imported = sys.modules.get(one.argval, _UNKNOWN)
            continue
        elif one.opname == "IMPORT_FROM":
            value = getattr(imported, one.argval, _UNKNOWN)
            continue
        elif one.opname in ("STORE_FAST", "STORE_DEREF") and value is not _UNKNOWN:
            known[one.argval], value = value, _UNKNOWN
            continue
        elif one.opname in _LOADS:
            path, value = str(one.argval), known.get(one.argval, _UNKNOWN)
        elif one.opname in _ATTRIBUTES and isinstance(value, (types.ModuleType, type)):
            path, value = f"{path}.{one.argval}", getattr(value, one.argval, _UNKNOWN)
        else:
            if one.opname not in ("PUSH_NULL", "PRECALL", "CACHE", "RESUME"):
                value = _UNKNOWN
            continue
        if value is not _UNKNOWN and not isinstance(value, types.ModuleType):
            yield value, OutsideCall(path, code.co_filename, line)


def _cells(function: Any) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    return found


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)

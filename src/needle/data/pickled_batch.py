"""Reads the pickles of CIFAR-10's python version without unpickling them.

A pickle is a program that may call anything. This reader runs the few instructions that a dict of NumPy arrays, lists,
texts and numbers is written with, on values of its own: numbers, strings, bytes, tuples, lists, dicts, and two inert
marks, for a name that the file mentions and for an array that is not filled yet. It imports nothing and calls nothing
that the file names, so a file can at worst be refused.

Reference: the instructions are documented in the standard library's `pickletools`, which also splits them up here.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from needle.errors import DataError

__all__ = ["read_pickled_dict"]

_MARK = object()
_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_ENCODE = {"_codecs encode"}
_UNSIGNED_BYTE = {"u1", b"u1", "|u1", b"|u1"}


@dataclass(frozen=True)
class _Name:
    """Something that the file names, as `module name`."""

    text: str


@dataclass
class _Dtype:
    """A dtype by its code."""

    code: Any


@dataclass
class _Array:
    """An array whose numbers come with the BUILD instruction."""

    value: Any = field(default=None)


class _UnknownInstructionError(Exception):
    """The pickle does more than write down data."""


def read_pickled_dict(path: Path) -> dict[Any, Any]:
    """Return the dict in a pickle; its texts as str, its byte strings as Python 2 wrote them as str of latin-1.

    Raises:
        DataError: the file is no such pickle, is cut off, or holds anything but plain data and arrays of bytes.
    """
    try:
        machine = _Machine()
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            machine.step(opcode.name, argument)
        result = _resolved(machine.stack.pop())
    except _UnknownInstructionError as error:
        raise DataError(f"{path}: not a batch of CIFAR-10: {error}") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: damaged or cut off: {error}") from None
    if not isinstance(result, dict):
        raise DataError(f"{path}: not a batch of CIFAR-10: expected a dict, got {type(result).__name__}")
    return result


class _Machine:
    """The stack and the memory that a pickle's instructions work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Run one instruction."""
        if name in _PUSHES_ARGUMENT:
            self.stack.append(argument)
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in _IGNORED:
            raise _UnknownInstructionError(f"it holds the instruction {name}, which no batch needs")

    def above_mark(self) -> list[Any]:
        """Take everything down to the last mark off the stack."""
        position = max(i for i, value in enumerate(self.stack) if value is _MARK)
        taken = self.stack[position + 1 :]
        del self.stack[position:]
        return taken

    def take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def memoize(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def name(self, text: str) -> None:
        self.stack.append(_Name(text))

    def reduce(self) -> None:
        """Where a pickle would call something: know the three calls that arrays are written with, and call nothing."""
        called, arguments = self.take(2)
        text = called.text if isinstance(called, _Name) else repr(type(called).__name__)
        if text in _RECONSTRUCT:
            self.stack.append(_Array())
        elif text == "numpy dtype":
            self.stack.append(_Dtype(arguments[0]))
        elif text in _ENCODE and arguments[1] == "latin1":
            self.stack.append(arguments[0].encode("latin-1"))
        else:
            raise _UnknownInstructionError(f"it asks for a call of {text}, which no batch needs")

    def build(self) -> None:
        """Fill an array; a dtype's state is byte order and flags, which bytes do not have."""
        target, state = self.take(2)
        if isinstance(target, _Array):
            target.value = _filled(state)
        elif not isinstance(target, _Dtype):
            raise _UnknownInstructionError(f"it fills a {type(target).__name__}, which no batch needs")
        self.stack.append(target)

    def append(self, values: list[Any]) -> None:
        _expect(self.stack[-1], list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        _expect(self.stack[-1], dict).update(zip(values[::2], values[1::2], strict=True))


def _filled(state: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    _, shape, dtype, is_fortran, content = state
    if not isinstance(dtype, _Dtype) or dtype.code not in _UNSIGNED_BYTE:
        raise _UnknownInstructionError(f"its arrays hold {getattr(dtype, 'code', dtype)}, expected unsigned bytes (u1)")
    raw = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"expected a {kind.__name__}, got a {type(value).__name__}")
    return value


def _resolved(value: Any) -> Any:
    """Put arrays in the place of their marks; lists hold none in these files."""
    if isinstance(value, dict):
        return {key: _resolved(part) for key, part in value.items()}
    return value.value if isinstance(value, _Array) else value


_PUSHES_ARGUMENT = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG1", "BINFLOAT"),
    *("STRING", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"),
}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "MARK": lambda m, _: m.stack.append(_MARK),
    "DICT": lambda m, _: m.stack.append(dict(zip(*[iter(m.above_mark())] * 2, strict=True))),
    "LIST": lambda m, _: m.stack.append(m.above_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.above_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.take(3))),
    "APPEND": lambda m, _: m.append(m.take(1)),
    "APPENDS": lambda m, _: m.append(m.above_mark()),
    "SETITEM": lambda m, _: m.set_items(m.take(2)),
    "SETITEMS": lambda m, _: m.set_items(m.above_mark()),
    "PUT": lambda m, key: m.memoize(key),
    "BINPUT": lambda m, key: m.memoize(key),
    "LONG_BINPUT": lambda m, key: m.memoize(key),
    "MEMOIZE": lambda m, _: m.memoize(len(m.memo)),
    "GET": lambda m, key: m.stack.append(m.memo[key]),
    "BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "LONG_BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "GLOBAL": lambda m, text: m.name(text),
    "STACK_GLOBAL": lambda m, _: m.name(" ".join(m.take(2))),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}

"""What running a compiled graph takes, kept on disk: a process that finds it there skips the compiler's stages.

A plan is found by the traced graph itself, before anything has been done with it: its primitives, shapes, settings and
constants, the processor, and the text of the compiler. It says how much memory a call needs, which outputs lie on
inputs, which constants simplifying has left, and which entry holds the machine code. A plan that is not whole, or whose
machine code is gone, is taken for absent.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler import LOADED_AT
from needle.compiler.cache import entry_name, read_entry, write_entry
from needle.compiler.graph import Graph, Node
from needle.compiler.host import host
from needle.compiler.thread_count import available_processors

__all__ = ["Plan", "plan_name", "read_plan", "write_plan"]

_COMPILER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Plan:
    """What running a compiled graph takes.

    Fields: `code`, the name of the entry with its machine code; `arena_bytes`, of the program's own buffers, behind
    which lie `control_bytes` that are 0 when the program starts; `parallel`, whether a second thread has anything to
    do, and `is_long`, whether that is worth waking one for; `overwrites`, which output lies on which input;
    `constants`, arrays that it is given behind its inputs.
    """

    code: str
    arena_bytes: int
    control_bytes: int
    parallel: bool
    is_long: bool
    overwrites: Mapping[int, int]
    constants: tuple[NDArray[Any], ...]


def plan_name(graph: Graph, may_overwrite: Mapping[int, int], drawn: Sequence[int] = ()) -> str | None:
    """Return the name of a graph's plan; None where it has none, as what it depends on has no text to tell it by."""
    compiler = _compiler_text()
    if compiler is None:
        return None
    try:
        described = _described(graph)
    except TypeError:
        return None
    around = repr((host(), available_processors(), np.__version__, sorted(may_overwrite.items()), [*drawn]))
    return entry_name("plan", compiler, around, described)


def read_plan(name: str) -> Plan | None:
    """Return a plan from disk, None where there is none."""
    entry = read_entry(name)
    if entry is None:
        return None
    head, _, arrays = entry.partition(b"\n")
    fields = json.loads(head)
    constants, start = [], 0
    for dtype, shape in fields.pop("constants"):
        length = math.prod(shape) * np.dtype(dtype).itemsize
        constants.append(np.frombuffer(arrays[start : start + length], np.uint8).view(dtype).reshape(shape))
        start += length
    overwrites = {int(output): given for output, given in fields.pop("overwrites").items()}
    return Plan(**fields, overwrites=overwrites, constants=tuple(constants))


def write_plan(name: str, plan: Plan) -> None:
    """Keep a plan, unless the compiler has been edited since this process loaded it."""
    if _read_compiler_text() is None:
        return
    fields = {
        "code": plan.code,
        "arena_bytes": plan.arena_bytes,
        "control_bytes": plan.control_bytes,
        "parallel": plan.parallel,
        "is_long": plan.is_long,
        "overwrites": dict(plan.overwrites),
        "constants": [(one.dtype.name, one.shape) for one in plan.constants],
    }
    arrays = b"".join(one.tobytes() for one in plan.constants)
    write_entry(name, json.dumps(fields).encode() + b"\n" + arrays)


@cache
def _compiler_text() -> str | None:
    """Return the hash of the compiler's text as this process has loaded it, None where that cannot be told."""
    return _read_compiler_text()


def _read_compiler_text() -> str | None:
    """Return the hash of the compiler's text; None where that is not at hand, or newer than what was loaded."""
    digest = hashlib.sha256()
    files = sorted(_COMPILER.rglob("*.py"))
    try:
        for file in files:
            status = file.stat()
            if max(status.st_mtime, status.st_ctime) > LOADED_AT:
                return None
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    except OSError:
        return None
    return digest.hexdigest() if files else None


def _described(graph: Graph) -> str:
    """Return a graph as text that no other graph has. The lines of the user's program that made it are not in it.

    Raises:
        TypeError: a node has a setting that no text tells from others.
    """
    nodes = graph.nodes()
    numbers = {node: number for number, node in enumerate(nodes)}
    lines = [_described_node(node, numbers) for node in nodes]
    outputs = [numbers[node] for node in graph.outputs]
    return "\n".join([*lines, f"{len(graph.inputs)} {outputs}"])


def _described_node(node: Node, numbers: Mapping[Node, int]) -> str:
    settings = {name: _plain(value) for name, value in node.params.items()}
    return f"{node.primitive}{[numbers[one] for one in node.inputs]}{settings}{node.shape}{_dtype_name(node.dtype)}"


@cache
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return f"{dtype.name}{dtype.byteorder}"


def _plain(value: Any) -> Any:
    """Return what stands for a setting in a text."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    if isinstance(value, np.dtype):
        return _dtype_name(value)
    if isinstance(value, Graph):
        return _described(value)
    if isinstance(value, np.ndarray):
        return _dtype_name(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return value
    raise TypeError(f"a setting of type {type(value).__name__}")

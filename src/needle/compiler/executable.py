"""From a graph to something that can be called: the compiler's stages in order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler.graph import Graph
from needle.compiler.host import host
from needle.compiler.native import compile_object, load_object
from needle.compiler.program import render_program
from needle.compiler.runtime import run_program
from needle.compiler.schedule import schedule
from needle.compiler.simplify import simplify

__all__ = ["Executable", "compile_graph"]


class Executable:
    """A compiled graph: call it with arrays for the graph's inputs, and get new arrays for its outputs."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.simplified = simplify(graph)
        self.program = schedule(self.simplified)
        self.module = render_program(self.program, host())
        address, self._code = load_object(compile_object(self.module.text), "program")
        self._address = address
        self._constants = [np.ascontiguousarray(value) for _, value in self.program.constants]
        self._arenas: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def __call__(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the program. The outputs are new arrays that nothing else refers to."""
        given = [np.ascontiguousarray(array) for array in arrays]
        outputs = [np.empty(buffer.shape, buffer.dtype) for buffer, _ in self.program.outputs]
        everything = [*given, *self._constants, *outputs]
        addresses = np.array([array.ctypes.data for array in everything], dtype=np.uintp)
        arena = self._borrow_arena()
        try:
            run_program(self._address, addresses, arena, self.module.parallel)
        finally:
            self._arenas.append(arena)
        return [array.reshape(shape) for array, (_, shape) in zip(outputs, self.program.outputs, strict=True)]

    def _borrow_arena(self) -> NDArray[np.uint8]:
        """Return memory that no other call is using."""
        with self._lock:
            if self._arenas:
                return self._arenas.pop()
        size = self.module.arena.size + 64
        memory = np.empty(size, dtype=np.uint8)
        start = -memory.ctypes.data % 64
        return memory[start:]


def compile_graph(graph: Graph) -> Executable:
    """Compile a graph for this processor."""
    return Executable(graph)

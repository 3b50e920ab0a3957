"""From a graph to something that can be called: the compiler's stages in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler.cache import cached_object
from needle.compiler.graph import Graph
from needle.compiler.host import host
from needle.compiler.in_place import overwrite_inputs
from needle.compiler.layout import sink_permutations
from needle.compiler.narrow import narrow_products
from needle.compiler.native import compile_modules, load_modules
from needle.compiler.overhang import without_borders
from needle.compiler.program import render_program
from needle.compiler.runtime import run_program
from needle.compiler.schedule import schedule
from needle.compiler.simplify import simplify

__all__ = ["Executable", "address_of", "compile_graph"]


class Executable:
    """A compiled graph.

    Args:
        graph: what to compute.
        may_overwrite: for the number of an output, the number of an input that its values may be written over.

    Attributes:
        overwrites: those of `may_overwrite` that came about: the output lies where the input lay.
        input_count: how many arrays the program is given.
        output_start: where the outputs' addresses begin among those of all arrays.
    """

    def __init__(self, graph: Graph, may_overwrite: Mapping[int, int] | None = None) -> None:
        self.graph = graph
        self.simplified = simplify(sink_permutations(simplify(graph)))
        if host().has_tiles:
            self.simplified = simplify(narrow_products(self.simplified))
        program = without_borders(schedule(self.simplified), host())
        self.program, self.overwrites = overwrite_inputs(program, may_overwrite or {})
        self.module = render_program(self.program, host())
        self._address, self._code = load_modules(cached_object(self.module.text, compile_modules), "program")
        self._constants = [np.ascontiguousarray(value) for _, value in self.program.constants]
        self._arenas: list[NDArray[np.uint8]] = []
        self.input_count = len(self.program.inputs)
        self.output_start = self.input_count + len(self._constants)

    def __call__(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the program on arrays. The outputs are new arrays that nothing else refers to."""
        given = [np.ascontiguousarray(array) for array in arrays]
        for overwritten in self.overwrites.values():
            given[overwritten] = given[overwritten].copy()
        outputs = self.new_outputs()
        for output, overwritten in self.overwrites.items():
            outputs[output] = given[overwritten].reshape(outputs[output].shape)
        addresses = self.new_addresses()
        for number, array in enumerate(given):
            addresses[number] = address_of(array)
        for number, array in enumerate(outputs, self.output_start):
            addresses[number] = address_of(array)
        self.run(addresses)
        return outputs

    def new_outputs(self) -> list[NDArray[Any]]:
        """Make arrays for the outputs, their values not set."""
        return [np.empty(shape, buffer.dtype) for buffer, shape in self.program.outputs]

    def new_addresses(self) -> NDArray[np.uintp]:
        """Make the list of all arrays' addresses, those of the program's own constants filled in."""
        addresses = np.zeros(self.output_start + len(self.program.outputs), dtype=np.uintp)
        for number, array in enumerate(self._constants, self.input_count):
            addresses[number] = address_of(array)
        return addresses

    def run(self, addresses: NDArray[np.uintp]) -> None:
        """Run the program on arrays at these addresses: inputs, constants, outputs. They are without gaps."""
        arena = self._borrow_arena()
        try:
            if self.module.parallel:
                arena[self.module.arena.size :].fill(0)
            run_program(self._address, addresses, arena, self.module.parallel)
        finally:
            self._arenas.append(arena)

    def _borrow_arena(self) -> NDArray[np.uint8]:
        """Return memory that no other call is using."""
        try:
            return self._arenas.pop()  # one operation of the interpreter: no two calls get the same
        except IndexError:
            pass
        size = self.module.arena.size + self.module.control_bytes
        memory = np.empty(size + 64, dtype=np.uint8)
        start = -memory.ctypes.data % 64
        return memory[start : start + size]


def address_of(array: NDArray[Any]) -> int:
    """Return where an array's first element lies."""
    address: int = array.__array_interface__["data"][0]
    return address


def compile_graph(graph: Graph) -> Executable:
    """Compile a graph for this processor."""
    return Executable(graph)

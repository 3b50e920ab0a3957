"""From a graph to something that can be called: by a plan and machine code from disk, or by the compiler's stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler import board
from needle.compiler.address import address_of
from needle.compiler.cache import cached_object, object_name, read_entry
from needle.compiler.graph import Graph
from needle.compiler.native import compile_modules, load_modules
from needle.compiler.plan import Plan, plan_name, read_plan, write_plan
from needle.compiler.runtime import is_only_thread, run_program

if TYPE_CHECKING:
    from needle.compiler.program import Module
    from needle.compiler.stages import Stages
    from needle.compiler.steps import Program

__all__ = ["Executable", "Memory", "compile_graph"]


class Executable:
    """A compiled graph.

    Args:
        graph: what to compute.
        may_overwrite: for the number of an output, the number of an input that its values may be written over.
        drawn: the numbers of the inputs, arrays of float64, that the program fills with random numbers, in this order,
            if it is told how (see `draws`).

    Attributes:
        overwrites: those of `may_overwrite` that came about: the output lies where the input lay.
        input_count: how many arrays the program is given.
        output_start: where the outputs' addresses begin among those of all arrays.
        output_kinds: each output's shape and dtype.
        generator: the pair that tells how `drawn` are filled: two integers, set to 0 where they are filled already.
    """

    def __init__(self, graph: Graph, may_overwrite: Mapping[int, int] | None = None, drawn: Sequence[int] = ()) -> None:
        self.graph = graph
        self._drawn = tuple(drawn)
        self.generator = np.zeros(2, dtype=np.int64)
        self._may_overwrite = dict(may_overwrite or {})
        self._plan, code = self._from_disk() or self._compiled()
        self._address, self._code = load_modules(code, "program")
        self._alone = board.alone()
        self._constants = self._plan.constants
        self._memories: list[Memory] = []
        self.overwrites = self._plan.overwrites
        self.input_count = len(graph.inputs)
        self.output_start = self.input_count + len(self._constants)
        self.output_kinds = [(node.shape, node.dtype) for node in graph.outputs]

    def _from_disk(self) -> tuple[Plan, bytes] | None:
        """Return the plan and the machine code that another process has left; None where either is not there."""
        self._plan_name = plan_name(self.graph, self._may_overwrite, self._drawn)
        plan = None if self._plan_name is None else read_plan(self._plan_name)
        code = None if plan is None else read_entry(plan.code)
        return None if plan is None or code is None else (plan, code)

    def _compiled(self) -> tuple[Plan, bytes]:
        """Return a plan and machine code made now, and leave them on disk."""
        module = self.module
        code = cached_object(module.text, compile_modules)
        constants = tuple(np.ascontiguousarray(value) for _, value in self.program.constants)
        plan = Plan(
            object_name(module.text),
            module.arena.size,
            module.control_bytes,
            module.parallel,
            module.is_long,
            self._stages.overwrites,
            constants,
        )
        if self._plan_name is not None:
            write_plan(self._plan_name, plan)
        return plan, code

    # ---------------------------------------------------------------------- the stages, made where they are asked for

    @cached_property
    def _stages(self) -> Stages:
        from needle.compiler.stages import Stages  # noqa: PLC0415  a program from disk does without

        return Stages(self.graph, self._may_overwrite, self._drawn)

    @property
    def simplified(self) -> Graph:
        """The graph, simplified."""
        return self._stages.simplified

    @property
    def program(self) -> Program:
        """The kernels."""
        return self._stages.program

    @property
    def module(self) -> Module:
        """The kernels as LLVM's text."""
        return self._stages.module

    # ------------------------------------------------------------------------------------------------------ running

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
        return [np.empty(shape, dtype) for shape, dtype in self.output_kinds]

    def new_addresses(self) -> NDArray[np.uintp]:
        """Make the list of the addresses of inputs, constants and outputs, the program's own arrays filled in."""
        count = self.output_start + len(self.output_kinds)
        addresses = np.zeros(count + bool(self._drawn), dtype=np.uintp)
        addresses[count:] = address_of(self.generator)
        for number, array in enumerate(self._constants, self.input_count):
            addresses[number] = address_of(array)
        return addresses

    @property
    def may_draw(self) -> bool:
        """Whether the program is to draw itself: the generator is locked while it runs, which no thread shall feel."""
        return bool(self._drawn) and is_only_thread()

    def run(self, addresses: NDArray[np.uintp]) -> None:
        """Run the program on arrays at these addresses, listed as by `new_addresses`. They are without gaps."""
        self.run_at(address_of(addresses))

    def run_at(self, addresses: int) -> None:
        """Run the program as `run` does, given where the list of addresses lies."""
        plan = self._plan
        try:
            memory = self._memories.pop()  # one operation of the interpreter: no two calls get the same
        except IndexError:
            memory = Memory(self._address, plan.arena_bytes, plan.control_bytes)
        try:
            job = memory.job
            if job.arrays != addresses:
                job.use(addresses)
            if plan.parallel:
                run_program(job, plan.is_long)
            else:
                self._alone(job.address)
        finally:
            self._memories.append(memory)


class Memory:
    """What a program needs while it runs: its arena, and what its threads tell each other by.

    Args:
        function: where the program lies.
        arena_bytes: the size of the arena.
        control_bytes: that of what is 0 when the program starts.

    Attributes:
        job: the program with this memory, to be run.
    """

    __slots__ = ("control", "job", "whole")

    def __init__(self, function: int, arena_bytes: int, control_bytes: int) -> None:
        self.whole = np.empty(arena_bytes + control_bytes + 64, dtype=np.uint8)
        start = -address_of(self.whole) % 64
        address = address_of(self.whole) + start
        self.control = self.whole[start + arena_bytes : start + arena_bytes + control_bytes]
        self.job = board.Job(function, address, address + arena_bytes, control_bytes)


def compile_graph(graph: Graph) -> Executable:
    """Compile a graph for this processor."""
    return Executable(graph)

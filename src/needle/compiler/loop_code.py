"""A loop as a kernel: a function that calls those of the loop's body, step after step, for a share of the lanes.

Steps that carry nothing on do not wait for each other: threads take shares of them. A loop in a loop's body is a
function as those of other steps are, and runs on one thread.

What goes along sequences is found by the number of the step. What is carried on from step to step lies in two places
in turns, or where it is given anyway. What a step needs only for itself lies in scratch memory of the lane, the same
in each step. What only prepares what all steps read, such as weights that are packed, is done before the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from needle.compiler.ir import SSA, Function
from needle.compiler.lanes import lanes_of_loop
from needle.compiler.loops import Buffer
from needle.compiler.memory import plan_memory
from needle.compiler.rebase import rebase
from needle.compiler.rendered import RenderedKernel
from needle.compiler.sharing import share_functions
from needle.compiler.steps import Contraction, Loop, Step

__all__ = ["RenderedLoop", "render_loop"]

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class RenderedLoop:
    """The phases of a loop: those that come before it, and the loop last; and the functions that it calls."""

    phases: list[RenderedKernel]
    functions: list[Function]


def render_loop(loop: Loop, processors: int, render: Callable[[Step, bool], Sequence[RenderedKernel]]) -> RenderedLoop:
    """Return the functions that compute a loop.

    Args:
        loop: the loop.
        processors: into how many lanes it may be divided.
        render: makes the functions of a step, the second argument says whether its right operand is packed once.
    """
    return _Renderer(loop, processors, render).rendered()


@dataclass(slots=True)
class _Scratch:
    """Memory of a loop's own: pieces one behind another."""

    size: int = 0

    def take(self, size: int) -> int:
        """Return where a new piece begins."""
        begin = self.size
        self.size += -(-size // _ALIGNMENT) * _ALIGNMENT
        return begin


@dataclass(slots=True)
class _Step:
    """What is known at a step of the loop, as it is written: the number of the step made, that of its elements."""

    f: Function
    made: SSA
    element: SSA
    known: dict[Buffer, SSA] = field(default_factory=dict)


class _Renderer:
    """Writes one loop."""

    def __init__(self, loop: Loop, processors: int, render: Callable[[Step, bool], Sequence[RenderedKernel]]) -> None:
        self.loop = loop
        body, carried, along = loop.body, len(loop.starts), len(loop.starts) + len(loop.sequences)
        self.carried = dict(zip(body.inputs[:carried], loop.starts, strict=True))
        self.elements = dict(zip(body.inputs[carried:along], loop.sequences, strict=True))
        self.captured = dict(zip(body.inputs[along:], loop.captured, strict=True))
        self.outputs = [buffer for buffer, _ in body.outputs]
        self.every = dict(zip(self.elements, loop.every, strict=True))
        # A few strands more than there are threads: one that comes later takes what is left.
        self.strands = 1 if loop.starts or processors == 1 else min(loop.length, 2 * processors)
        self.inside: list[Function] = []
        self.scratch = _Scratch()
        self.before: list[RenderedKernel] = []
        # Where an output lies: in what the steps give, or, where it is only carried, in one of two places of its own
        # and at last in the result.
        self.given = {self.outputs[loop.places[carried + n]]: one for n, one in enumerate(loop.given)}
        self.turns: dict[Buffer, int] = {}
        self.finals: dict[Buffer, Buffer] = {}
        for place, final in zip(loop.places, loop.finals, strict=False):
            output = self.outputs[place]
            if final is not None:
                self.finals[output] = final
            if output not in self.given and output not in self.turns:
                self.turns[output] = self.scratch.take(2 * self._bytes(output))
        lanes = [self._phases(steps, render) for steps in lanes_of_loop(loop, processors)]
        shared = iter(share_functions([phase for lane in lanes for phase in lane]))
        self.lanes = [self._hoisted([next(shared) for _ in lane]) for lane in lanes]

    @staticmethod
    def _bytes(buffer: Buffer) -> int:
        return -(-buffer.size * buffer.dtype.itemsize // _ALIGNMENT) * _ALIGNMENT

    def _phases(
        self, steps: Sequence[Step], render: Callable[[Step, bool], Sequence[RenderedKernel]]
    ) -> list[RenderedKernel]:
        """Return the phases of the steps of a lane."""
        found: list[RenderedKernel] = []
        for step in steps:
            named = replace(step, name=f"in_{self.loop.name}_{step.name}")
            if isinstance(named, Loop):
                inner = render_loop(named, 1, render)
                found += inner.phases
                self.inside += inner.functions
                continue
            rebased, begins = rebase(named)
            packs_once = isinstance(step, Contraction) and step.b.buffer in self.captured
            found += [replace(phase, begins=begins) for phase in render(rebased, packs_once) if phase.parts > 0]
        return found

    def _hoisted(self, phases: Sequence[RenderedKernel]) -> list[RenderedKernel]:
        """Take out the phases that only prepare what all steps read; they come before the loop."""
        touched = {buffer for step in self.loop.body.steps for buffer in (*step.reads(), *step.writes())}
        kept = []
        for phase in phases:
            read = phase.buffers[len(phase.writes) :]
            is_same = bool(read) and all(one in self.captured for one in read) and touched.isdisjoint(phase.writes)
            outside = [self.captured.get(one, one) for one in phase.buffers]
            if is_same and len(set(outside)) == len(outside):
                begins = {self.captured[one]: phase.begins[one] for one in read if one in phase.begins}
                self.before.append(replace(phase, buffers=tuple(outside), begins=begins, step=self.loop.name))
                self.captured.update({one: one for one in phase.writes})
            else:
                kept.append(phase)
        return kept

    # ---------------------------------------------------------------------------------------------- the function

    def rendered(self) -> RenderedLoop:
        """Return the loop's phases."""
        offsets = [self._offsets(lane) for lane in self.lanes]
        size = self.strands * max(self.scratch.size, 1)
        scratch = Buffer(f"scratch_{self.loop.name}", (size,), np.dtype(np.uint8))
        writes = dict.fromkeys([*self.loop.writes(), scratch])
        packed = [buffer for phase in self.before for buffer in phase.writes]
        buffers = tuple(dict.fromkeys([*writes, *self.loop.reads(), *packed]))
        self.pointers = {buffer: f"%p{number}" for number, buffer in enumerate(buffers)}
        self.memory = self.pointers[scratch]
        parameters = [*(f"ptr {pointer}" for pointer in self.pointers.values()), "i64 %begin", "i64 %end"]
        f = Function(f"loop_{self.loop.name}", parameters, "noinline nounwind #0", calls_kernels=True)
        self.count = f.integer(self.loop.length)
        if self.loop.counted:
            self.count = f.load("i64", SSA(self.pointers[self.loop.captured[0]], "ptr"), 8)
        if self.strands > 1:
            self._write_strands(f, self.lanes[0], offsets[0])
        else:
            for number, (lane, own) in enumerate(zip(self.lanes, offsets, strict=True)):
                self._write_lane(f, f.integer(number), lane, own)
        work = sum(phase.work for lane in self.lanes for phase in lane) * self.loop.length
        count = max(len(self.lanes), self.strands)
        main = RenderedKernel(f, buffers, count, count > 1, len(writes), work=work, step=self.loop.name)
        called = [phase.function for lane in self.lanes for phase in lane]
        functions = list({function.name: function for function in (*called, *self.inside)}.values())
        return RenderedLoop([*self.before, main], functions)

    def _write_lane(self, f: Function, number: SSA, phases: Sequence[RenderedKernel], own: dict[Buffer, int]) -> None:
        """Write all steps of one lane, made where it is in the share."""
        begins, ends = (f.compare(how, SSA(end, "i64"), number) for how, end in (("sle", "%begin"), ("sgt", "%end")))
        with f.when(f.binary("and", begins, ends)), f.loop(f.integer(0), self.count) as made:
            self._write_step(f, made, phases, own)

    def _write_strands(self, f: Function, phases: Sequence[RenderedKernel], own: dict[Buffer, int]) -> None:
        """Write the steps of the strands in the share, each in memory of its own.

        They are dealt to and fro: steps that are the longer the later they come are shared fairly too.
        """
        with f.loop(SSA("%begin", "i64"), SSA("%end", "i64")) as strand:
            memory = f.address(self.memory, "i8", f.binary("mul", strand, f.integer(self.scratch.size)))
            self.memory = memory.name
            from_last = f.binary("sub", f.integer(self.strands - 1), strand)
            with f.loop(f.integer(0), self.count, self.strands) as first:
                is_odd = f.compare("ne", f.binary("urem", first, f.integer(2 * self.strands)), f.integer(0))
                made = f.binary("add", first, f.select(is_odd, from_last, strand))
                with f.when(f.compare("slt", made, self.count)):
                    self._write_step(f, made, phases, own)

    def _offsets(self, phases: Sequence[RenderedKernel]) -> dict[Buffer, int]:
        """Return where in the scratch memory lies what the phases of a lane pass on to each other within a step."""
        outside = {*self.carried, *self.elements, *self.captured, *self.outputs}
        arena = plan_memory([[one for one in phase.buffers if one not in outside] for phase in phases])
        begin = self.scratch.take(arena.size)
        return {buffer: begin + offset for buffer, offset in arena.offsets.items()}

    def _write_step(self, f: Function, made: SSA, phases: Sequence[RenderedKernel], own: dict[Buffer, int]) -> None:
        """Write the calls of one step."""
        last = f.integer(self.loop.length - 1)
        step = _Step(f, made, f.binary("sub", last, made) if self.loop.backwards else made)
        for phase in phases:
            arguments = []
            for buffer in phase.buffers:
                if buffer not in step.known:
                    step.known[buffer] = self._pointer(step, buffer, own)
                begin = phase.begins.get(buffer, 0) * buffer.dtype.itemsize
                pointer = step.known[buffer]
                arguments.append(str(f.address(pointer.name, "i8", f.integer(begin)) if begin else pointer))
            f.do(f"call void @{phase.function.name}({', '.join(arguments)}, i64 0, i64 {phase.parts})")

    def _pointer(self, step: _Step, buffer: Buffer, own: dict[Buffer, int]) -> SSA:  # noqa: PLR0911  a line a kind
        """Write what finds a buffer of the body."""
        f = step.f
        if buffer in self.captured:
            return SSA(self.pointers[self.captured[buffer]], "ptr")
        if buffer in self.elements:
            return self._element(f, self.elements[buffer], buffer, self._number(f, buffer, step.element))
        if buffer in self.carried:
            return self._carried(step, buffer)
        if buffer in self.given:
            return self._element(f, self.given[buffer], buffer, step.element)
        if buffer in self.turns:
            place = self._turn(f, buffer, step.made)
            if buffer not in self.finals:
                return place
            is_last = f.compare("eq", step.made, f.binary("sub", self.count, f.integer(1)))
            return f.select(is_last, SSA(self.pointers[self.finals[buffer]], "ptr"), place)
        return f.address(self.memory, "i8", f.integer(own[buffer]))

    def _carried(self, step: _Step, buffer: Buffer) -> SSA:
        """Write what finds a value where the step before has left it; the first one finds what the loop begins with."""
        f = step.f
        number = list(self.carried).index(buffer)
        output = self.outputs[self.loop.places[number]]
        made = f.binary("sub", step.made, f.integer(1))
        if output in self.given:
            one = f.integer(1)
            element = f.binary("add" if self.loop.backwards else "sub", step.element, one)
            before = self._element(f, self.given[output], buffer, element)
        else:
            before = self._turn(f, output, made)
        is_first = f.compare("eq", step.made, f.integer(0))
        return f.select(is_first, SSA(self.pointers[self.carried[buffer]], "ptr"), before)

    def _number(self, f: Function, buffer: Buffer, element: SSA) -> SSA:
        """Write which element of its sequence a step gets."""
        every = self.every[buffer]
        if every > 1:
            element = f.binary("udiv", element, f.integer(every))
        count = self.elements[buffer].size // buffer.size
        return f.binary("urem", element, f.integer(count)) if count * every < self.loop.length else element

    def _element(self, f: Function, sequence: Buffer, like: Buffer, element: SSA) -> SSA:
        offset = f.binary("mul", element, f.integer(like.size * like.dtype.itemsize))
        return f.emit("ptr", f"getelementptr i8, ptr {self.pointers[sequence]}, {offset}")

    def _turn(self, f: Function, output: Buffer, made: SSA) -> SSA:
        """Write what finds the place of an output that is only carried, which is another one in every second step."""
        turn = f.binary("and", made, f.integer(1))
        offset = f.binary("mul", turn, f.integer(self._bytes(output)))
        return f.address(self.memory, "i8", f.binary("add", offset, f.integer(self.turns[output])))

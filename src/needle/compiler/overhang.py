"""The pass that leaves out copies of arrays with zeros around them, where all that read them are stencils.

A stencil reads the array itself, through windows that hang over its ends: a pass over memory less.
"""

from __future__ import annotations

from dataclasses import replace

from needle.compiler.host import Host
from needle.compiler.loops import (
    Buffer,
    Call,
    Gather,
    Kernel,
    Load,
    Place,
    Scatter,
    Store,
    Value,
    Within,
    axis_places,
    buffer_place,
    index_of_place,
    walk,
    zero_place,
)
from needle.compiler.row_blocks import in_row_blocks
from needle.compiler.stencil import plan_stencil
from needle.compiler.steps import Program, Step

__all__ = ["bordered_store", "without_borders"]


def without_borders(program: Program, host: Host) -> Program:
    """Return a program in which stencils read what others had to be given with a border."""
    readers: dict[Buffer, list[Step]] = {}
    for step in program.steps:
        for buffer in step.reads():
            readers.setdefault(buffer, []).append(step)
    outputs = {buffer for buffer, _ in program.outputs}
    instead: dict[Step, Step] = {}
    left_out: set[Step] = set()
    for step in program.steps:
        bordered = bordered_store(step)
        if bordered is None or not _is_copy(bordered) or bordered.buffer in outputs:
            continue
        old = readers.get(bordered.buffer, [])
        new = [_reading_through(instead.get(one, one), bordered, host) for one in old]
        found = {one: other for one, other in zip(old, new, strict=True) if other is not None}
        if len(found) == len(old):
            instead |= found
            left_out.add(step)
    steps = tuple(instead.get(step, step) for step in program.steps if step not in left_out)
    return replace(program, steps=steps)


def bordered_store(step: Step) -> Store | None:
    """Return the one stage of a kernel that writes an array and a number around it."""
    if not isinstance(step, Kernel) or len(step.stages) != 1 or step.reduced:
        return None
    (stage,) = step.stages
    if not isinstance(stage, Store) or not isinstance(stage.value, Within):
        return None
    rank = len(step.shape)
    whole = step.shape == stage.buffer.shape and stage.place == buffer_place(stage.buffer, axis_places(rank), rank)
    return stage if whole else None


def _is_copy(bordered: Store) -> bool:
    return isinstance(bordered.value, Within) and isinstance(bordered.value.value, Load)


def _reading_through(step: Step, bordered: Store, host: Host) -> Step | None:
    """Return a step that reads what was copied; None where it is not a stencil then."""
    if not isinstance(step, Kernel):
        return None
    kernel = _Reading(step, bordered).kernel()
    if kernel is None:
        return None
    pieces = in_row_blocks(kernel)
    copied = bordered.value.value if isinstance(bordered.value, Within) else None
    assert isinstance(copied, Load)
    bounded = [
        piece for piece in pieces if any(isinstance(one, Within) for stage in piece.stages for one in walk(stage.value))
    ]
    return kernel if all(plan_stencil(piece, host) is not None for piece in bounded) else None


class _Outside(Exception):  # noqa: N818  a finding, not an error
    """A load is not one of an element of the array at each point."""


class _Reading:
    """Puts loads of an array in the place of loads of its copy with a border."""

    def __init__(self, reader: Kernel, bordered: Store) -> None:
        self.reader = reader
        self.buffer = bordered.buffer
        assert isinstance(bordered.value, Within)
        self.copied = bordered.value
        self.known: dict[int, Value] = {}
        self.inside: dict[Place, Value] = {}

    def kernel(self) -> Kernel | None:
        """Return the kernel with its loads replaced; None where one cannot be."""
        if any(isinstance(stage, Scatter) for stage in self.reader.stages):
            return None
        try:
            stages = tuple(replace(stage, value=self.value(stage.value)) for stage in self.reader.stages)
        except _Outside:
            return None
        return replace(self.reader, stages=stages)

    def value(self, old: Value) -> Value:
        """Return a value of the array itself."""
        if id(old) not in self.known:
            self.known[id(old)] = self._changed(old)
        return self.known[id(old)]

    def _changed(self, old: Value) -> Value:
        if isinstance(old, Call):
            return replace(old, arguments=tuple(map(self.value, old.arguments)))
        if isinstance(old, Load) and old.buffer is self.buffer:
            if old.place not in self.inside:
                self.inside[old.place] = self._through(old.place)
            return self.inside[old.place]
        if isinstance(old, (Gather, Within)) and any(getattr(one, "buffer", None) is self.buffer for one in walk(old)):
            raise _Outside
        return old

    def _through(self, place: Place) -> Value:
        at = index_of_place(place, self.buffer.shape, self.reader.shape)
        if at is None:
            raise _Outside
        load = self.copied.value
        assert isinstance(load, Load)

        def moved(through: Place) -> Place:
            total = zero_place(len(self.reader.shape)).shifted(through.offset)
            for stride, coordinate in zip(through.strides, at, strict=True):
                total += coordinate.scaled(stride)
            return total

        bounds = tuple((moved(one), limit) for one, limit in self.copied.bounds)
        return replace(self.copied, value=replace(load, place=moved(load.place)), bounds=bounds)

"""The pass that takes out of a step where in its buffers it begins, so that steps that differ only there are alike.

The steps of a loop that was unrolled read and write slices of the same buffers. With the beginning of a slice added to
the pointer that a step's function is called with, one function serves all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from needle.compiler.loops import Buffer, Kernel, Place, buffers_and_places, with_places
from needle.compiler.steps import Contraction, Loop, Step

__all__ = ["rebase"]


def rebase(step: Step) -> tuple[Step, dict[Buffer, int]]:
    """Return a step whose places begin at 0 in each buffer, and how many elements into the buffer that is."""
    if isinstance(step, Loop):
        return step, {}
    begins: dict[Buffer, int] = {}
    for buffer, place in _places(step):
        begins[buffer] = min(begins.get(buffer, place.offset), place.offset)
    if not any(begins.values()):
        return step, {}

    def moved(buffer: Buffer | None, place: Place) -> Place:
        return place if buffer is None else place.shifted(-begins[buffer])

    if not isinstance(step, Contraction):
        return replace(step, stages=with_places(step.stages, moved)), begins
    a, b = (replace(one, offset=one.offset - begins[one.buffer]) for one in (step.a, step.b))
    return replace(step, a=a, b=b, epilogue=with_places(step.epilogue, moved)), begins


def _places(step: Kernel | Contraction) -> Iterator[tuple[Buffer, Place]]:
    if isinstance(step, Contraction):
        # The first element of a clipped operand may lie before the buffer.
        yield from ((one.buffer, Place(max(one.offset, 0), ())) for one in (step.a, step.b))
        yield step.out, Place(0, ())
    for stage in step.epilogue if isinstance(step, Contraction) else step.stages:
        yield from ((buffer, place) for buffer, place in buffers_and_places(stage) if buffer is not None)

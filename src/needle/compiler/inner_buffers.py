"""The pass that finds buffers which need not be memory of the program: nothing but one kernel ever sees them.

What one kernel writes and reads at the same point of its grid may lie in registers, or in a scratch row on the stack
that serves one point after another: the exponentials of a softmax, the mean of a row. It never leaves the first cache.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from needle.compiler.axes import goes_in_strips, merge_axes
from needle.compiler.loops import (
    Buffer,
    Gather,
    Kernel,
    Place,
    Reduce,
    Scatter,
    Store,
    Value,
    buffers_and_places,
    buffers_read,
    inner_loops,
    walk,
)
from needle.compiler.row_blocks import in_row_blocks
from needle.compiler.steps import Loop, Program, Step

__all__ = ["is_read_later", "keep_inside", "scratch_lengths"]

# Bytes: what a scratch row may take, and all of a kernel. Threads have small stacks, and caches are not large.
_LARGEST_ROW, _LARGEST_SCRATCH = 2**15, 2**17


def keep_inside(program: Program) -> Program:
    """Return a program whose kernels know which of their buffers nobody else sees."""
    outside = {
        *program.inputs,
        *(buffer for buffer, _ in program.constants),
        *(buffer for buffer, _ in program.outputs),
    }
    seen_by = Counter(buffer for step in program.steps for buffer in {*step.reads(), *step.writes()})

    def changed(step: Step) -> Step:
        if isinstance(step, Loop):
            return replace(step, body=keep_inside(step.body))
        if not isinstance(step, Kernel):
            return step
        return _marked(step, {buffer for buffer in step.writes() if seen_by[buffer] == 1 and buffer not in outside})

    return replace(program, steps=tuple(map(changed, program.steps)))


def _marked(kernel: Kernel, own: set[Buffer]) -> Step:
    """Return a kernel that keeps inside what fits, of its own buffers."""
    if not own:
        return kernel
    parts = in_row_blocks(kernel)
    seen_by = Counter(buffer for part in parts for buffer in {*part.reads(), *part.writes()})
    kept: list[Buffer] = []
    for part in parts:
        candidates = (buffer for buffer in part.writes() if buffer in own and seen_by[buffer] == 1)
        kept += _fitting(merge_axes(part), candidates)
    return replace(kernel, inner=tuple(kept))


def _fitting(kernel: Kernel, candidates: Iterable[Buffer]) -> list[Buffer]:
    """Return the candidates that have room inside of a kernel."""
    kept = []
    total = 0
    for buffer in candidates:
        size = _scratch_bytes(kernel, buffer)
        if size is not None and size <= _LARGEST_ROW and total + size <= _LARGEST_SCRATCH:
            kept.append(buffer)
            total += size
    return kept


def _scratch_bytes(kernel: Kernel, buffer: Buffer) -> int | None:
    """Return how much memory a buffer takes inside of a kernel, None where it cannot be there."""
    places = {place for stage in kernel.stages for other, place in buffers_and_places(stage) if other is buffer}
    writers = [stage for stage in kernel.stages if stage.buffer is buffer]
    if len(places) != 1 or len(writers) != 1 or not isinstance(writers[0], (Store, Reduce)):
        return None
    if any(isinstance(value, Gather) and value.buffer is buffer for root in _roots(kernel) for value in walk(root)):
        return None
    if not is_read_later(kernel, buffer):
        return 0
    (place,) = places
    lengths = scratch_lengths(kernel, place)
    if goes_in_strips(kernel) and lengths:
        return None
    return math.prod(lengths.values()) * buffer.dtype.itemsize


def _roots(kernel: Kernel) -> Iterator[Value]:
    for stage in kernel.stages:
        yield stage.value
        if isinstance(stage, Scatter):
            yield stage.index


def is_read_later(kernel: Kernel, buffer: Buffer) -> bool:
    """Tell whether a buffer is read in another loop than the one that writes it, or once that is over."""
    for stages in inner_loops(kernel):
        writers = [stage for stage in stages if stage.buffer is buffer]
        readers = [stage for stage in stages if buffer in buffers_read(stage)]
        if readers and (not writers or not isinstance(writers[0], Store)):
            return True
    return False


def scratch_lengths(kernel: Kernel, place: Place) -> dict[int, int]:
    """Return the lengths of the reduced axes, by their number, along which a place moves."""
    return {axis: kernel.shape[axis] for axis in kernel.reduced if place.strides[axis]}

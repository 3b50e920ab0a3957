"""The pass that divides sums over many rows among threads: the rows in blocks, each with sums of its own.

A kernel that reduces over rows, for each of its columns, could be shared by giving each thread some columns. But then
the threads would go through the same rows side by side, and take turns in having the same pieces of memory in their
caches. So each loop over the rows becomes a kernel of its own, in which a thread takes neighbouring rows whole, and
one more kernel combines what the blocks have found. How many blocks there are depends on the shape alone: the result
is the same for every number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from needle.compiler.axes import merge_axes
from needle.compiler.loops import Buffer, Kernel, Load, Place, Reduce, Stage, Store, inner_loops, with_places

__all__ = ["count_blocks", "in_row_blocks"]

# Blocks as large as that many points, but not more of them than that.
_BLOCK_POINTS, _MOST_BLOCKS = 8_192, 32
# What is combined in the end is little beside what a block has to add up.
_FEWEST_ROWS = 8


def in_row_blocks(kernel: Kernel, blocks: int | None = None) -> list[Kernel]:
    """Return the kernels that do what `kernel` does: several where it reduces over many rows, else itself.

    In so many `blocks` as are given, or as many as are worth it.
    """
    merged = merge_axes(kernel)
    if not merged.grid:
        merged = _with_one_column(merged)
    blocks = count_blocks(merged) if blocks is None else blocks
    if blocks < 2:
        return [kernel]
    kernels: list[Kernel] = []
    found: list[Stage] = []
    for stages in inner_loops(merged):
        name = f"{kernel.name}_{len(kernels)}"
        if isinstance(stages[0], Store) and stages[0].on_grid_only:
            found += _at_columns(stages)
            continue
        if found:
            kernels.append(_finish(f"{name}_finish", found, merged, blocks))
            found = []
        if any(isinstance(stage, Reduce) for stage in stages):
            loops, found = _sum_blocks(name, merged, stages, blocks)
            kernels += loops
        else:
            kernels.append(Kernel(name, merged.shape, (), tuple(stages), merged.sources))
    if found:
        kernels.append(_finish(f"{kernel.name}_finish", found, merged, blocks))
    return [_with_inner(one, kernel.inner) for one in kernels]


def _with_inner(kernel: Kernel, inner: Sequence[Buffer]) -> Kernel:
    seen = {*kernel.reads(), *kernel.writes()}
    return replace(kernel, inner=tuple(buffer for buffer in inner if buffer in seen))


def _with_one_column(kernel: Kernel) -> Kernel:
    """Return a kernel that reduces everything as one that reduces rows of one column each."""
    stages = with_places(kernel.stages, lambda _, place: Place(place.offset, (*place.strides, 0)))
    return replace(kernel, shape=(*kernel.shape, 1), stages=stages)


def count_blocks(kernel: Kernel) -> int:
    """Return into how many blocks the rows are worth dividing."""
    last = len(kernel.shape) - 1
    if kernel.reduced != tuple(range(last)) or not kernel.reduced:
        return 1
    reductions = [stage for stage in kernel.stages if not isinstance(stage, Store)]
    exact = all(
        isinstance(stage, Reduce)
        and not stage.function.startswith("arg")
        and stage.value.dtype == stage.buffer.dtype
        and stage.buffer.dtype.itemsize >= 4  # narrower sums are kept in a wider type
        for stage in reductions
    )
    if not exact:
        return 1
    most = min(_MOST_BLOCKS, kernel.shape[0] // _FEWEST_ROWS) if last == 1 else min(_MOST_BLOCKS, kernel.shape[0])
    return min(most, math.prod(kernel.shape) // _BLOCK_POINTS)


def _sum_blocks(name: str, kernel: Kernel, stages: Sequence[Stage], blocks: int) -> tuple[list[Kernel], list[Stage]]:
    """Return the kernels of one loop over the rows, and the stages that combine what its blocks have found."""
    rows, columns = kernel.shape[0], kernel.shape[-1]
    each = rows // blocks
    parts = [(0, blocks, each)] + [(blocks, 1, rows - blocks * each)] * (rows > blocks * each)
    total = sum(count for _, count, _ in parts)
    rank = len(kernel.shape)
    own: dict[Buffer, Buffer] = {}
    combining: list[Stage] = []
    for stage in stages:
        if isinstance(stage, Reduce):
            own[stage.buffer] = Buffer(f"{stage.buffer.name}_blocks", (total, columns), stage.buffer.dtype)
            value = Load(own[stage.buffer], Place(0, (columns, 1)), stage.buffer.dtype)
            place = Place(stage.place.offset, (0, stage.place.strides[-1]))
            combining.append(Reduce(stage.buffer, place, stage.function, value))
    kernels = []
    for first, count, length in parts:
        moved = with_places(stages, partial(_divide, each, first))
        result = Place(first * columns, (columns, *(0,) * (rank - 1), 1))
        divided = tuple(
            replace(stage, buffer=own[stage.buffer], place=result) if isinstance(stage, Reduce) else stage
            for stage in moved
        )
        shape = (count, length, *kernel.shape[1:])
        kernels.append(Kernel(f"{name}_{first}", shape, tuple(range(1, rank)), divided, kernel.sources))
    return kernels, combining


def _divide(each: int, first: int, _: Buffer | None, place: Place) -> Place:
    """Return a place for the axes block, row in the block, …, the blocks counted from `first`."""
    row, *others = place.strides
    return Place(place.offset + row * each * first, (row * each, row, *others))


def _at_columns(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return stages at each column as those of a kernel of blocks and columns."""
    return with_places(stages, lambda _, place: Place(place.offset, (0, place.strides[-1])))


def _finish(name: str, stages: Sequence[Stage], kernel: Kernel, blocks: int) -> Kernel:
    """Return the kernel that combines blocks and goes on with what is computed once a column."""
    combined = next((stage.value for stage in stages if isinstance(stage, Reduce)), None)
    rows = combined.buffer.shape[0] if isinstance(combined, Load) else blocks
    return Kernel(name, (rows, kernel.shape[-1]), (0,), tuple(stages), kernel.sources)

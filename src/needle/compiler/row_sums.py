"""Sums over rows right behind the rows: those of a block of rows are made where the rows are, while a cache has them.

A layer normalisation's gradient is computed row by row; those of its weight and bias are sums over all rows of what the
same arrays hold, for each column. As a kernel of its own that is another way through the arrays, once all rows are
done. So the rows are divided into blocks (see `row_blocks`): a thread computes those of a block, and then the block's
sums. What the blocks have found is added up in the end, in a fixed order. How many blocks there are depends on the
shapes and the caches alone, so that the result is the same for every number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

from needle.compiler.axes import goes_in_strips, merge_axes
from needle.compiler.host import Host
from needle.compiler.ir import SSA, Function
from needle.compiler.lanes import LaneStep
from needle.compiler.loops import (
    Buffer,
    Gather,
    Kernel,
    Place,
    Reduce,
    Store,
    Within,
    buffers_and_places,
    inner_loops,
    walk,
)
from needle.compiler.rendered import RenderedKernel
from needle.compiler.row_blocks import count_blocks

__all__ = ["blocks_behind", "rows_then_sums", "sums_behind_rows"]

# Blocks of fewer rows have as much to write as to read.
_FEWEST_ROWS = 8


def sums_behind_rows(steps: Sequence[LaneStep], host: Host) -> dict[int, tuple[int, int]]:
    """Return the steps behind whose rows sums can be made: for each, the number of the sums' step, and of blocks."""
    writer: dict[Buffer, int] = {}
    found: dict[int, tuple[int, int]] = {}
    taken: set[int] = set()
    for number, one in enumerate(steps):
        latest = max((writer[buffer] for buffer in one.step.reads() if buffer in writer), default=None)
        writer.update(dict.fromkeys(one.step.writes(), number))
        if latest is None or latest in taken or one.lane or steps[latest].lane:
            continue
        rows, sums = steps[latest].step, one.step
        blocks = blocks_behind(rows, sums, host) if isinstance(rows, Kernel) and isinstance(sums, Kernel) else None
        if blocks is not None:
            found[latest] = number, blocks
            taken |= {latest, number}
    return found


def blocks_behind(rows: Kernel, sums: Kernel, host: Host) -> int | None:
    """Return into how many blocks the rows of both kernels fall; None where the sums cannot follow a block's rows."""
    rows, sums = merge_axes(rows), merge_axes(sums)
    least = count_blocks(sums)
    fits = sums.reduced == (0,) and sums.grid == (1,) and not _has_borders(sums) and sums.shape[:1] == rows.shape[:1]
    if least < 2 or not fits or not _goes_by_rows(rows) or not _begins_with_sums(sums) or not _same_rows(rows, sums):
        return None
    count = rows.shape[0]
    touched = dict.fromkeys([*rows.reads(), *rows.writes(), *sums.reads()])
    size = sum(buffer.size * buffer.dtype.itemsize for buffer in touched if buffer.size >= count)
    if size < host.second_cache_bytes:  # it is there anyway
        return None
    for blocks in range(least, count // _FEWEST_ROWS + 1):
        if count % blocks == 0 and size // blocks <= host.second_cache_bytes // 2:
            return blocks
    return None


def _goes_by_rows(kernel: Kernel) -> bool:
    """Tell whether a kernel's parts are its rows, and each writes nothing but its own."""
    plain = all(isinstance(stage, (Reduce, Store)) for stage in kernel.stages) and not _has_borders(kernel)
    return plain and bool(kernel.reduced) and kernel.grid == (0,) and not goes_in_strips(kernel)


def _has_borders(kernel: Kernel) -> bool:
    """Tell whether a kernel has loops of its own kind: see `borders` and `stencil`."""
    return any(isinstance(one, Within) for stage in kernel.stages for one in walk(stage.value))


def _begins_with_sums(kernel: Kernel) -> bool:
    """Tell whether nothing is computed for each row beside the sums, and what follows them is once a column."""
    first, *others = inner_loops(kernel)
    return all(isinstance(stage, Reduce) for stage in first) and all(
        isinstance(stage, Store) and stage.on_grid_only for loop in others for stage in loop
    )


def _same_rows(rows: Kernel, sums: Kernel) -> bool:
    """Tell whether sums read nothing of what the other kernel writes but what is of the same row."""
    written = set(rows.writes())
    gathered = {one.buffer for stage in sums.stages for one in walk(stage.value) if isinstance(one, Gather)}
    if gathered & written:
        return False
    strides: dict[Buffer, set[int | None]] = {}
    for kernel in (rows, sums):
        for stage in kernel.stages:
            for buffer, place in buffers_and_places(stage):
                if buffer in written and buffer is not None:
                    strides.setdefault(buffer, set()).add(_row_stride(place, kernel.shape))
    read = set(sums.reads()) & written
    return bool(read) and all(len(strides[buffer]) == 1 and None not in strides[buffer] for buffer in read)


def _row_stride(place: Place, shape: Sequence[int]) -> int | None:
    """Return how far apart rows are at a place that stays in its row otherwise; None where it does not."""
    stride, *others = place.strides
    reach = place.offset + sum(one * (length - 1) for one, length in zip(others, shape[1:], strict=True))
    return stride if place.offset >= 0 and min(others, default=0) >= 0 and reach < stride else None


def rows_then_sums(rows: RenderedKernel, sums: RenderedKernel) -> RenderedKernel:
    """Return what computes, for each of its parts, a block of rows and then that block's sums.

    Args:
        rows: has a part for each row.
        sums: has a part for each block.
    """
    written = dict.fromkeys([*rows.writes, *sums.writes])
    buffers = tuple(dict.fromkeys([*written, *rows.buffers, *sums.buffers]))
    pointers = {buffer: f"%p{number}" for number, buffer in enumerate(buffers)}
    given = ["".join(f"_{pointers[one][2:]}" for one in phase.buffers) for phase in (rows, sums)]
    f = Function(
        f"{rows.function.name}{given[0]}_then_{sums.function.name}{given[1]}",
        [*(f"ptr noalias {pointer}" for pointer in pointers.values()), "i64 %begin", "i64 %end"],
        "nounwind #0",
        calls_kernels=True,
    )
    each = f.integer(rows.parts // sums.parts)
    with f.loop(SSA("%begin", "i64"), SSA("%end", "i64")) as block:
        first = f.binary("mul nsw", block, each)
        for phase, begin, end in (
            (rows, first, f.binary("add nsw", first, each)),
            (sums, block, f.binary("add nsw", block, f.integer(1))),
        ):
            arguments = ", ".join(f"ptr {pointers[buffer]}" for buffer in phase.buffers)
            f.do(f"call void @{phase.function.name}({arguments}, {begin}, {end})")
    shared = rows.shared or sums.shared
    return RenderedKernel(f, buffers, sums.parts, shared, len(written), work=rows.work + sums.work)

"""Rows looked at ahead: what the first loop over a row finds is found for the next row while the heaviest loop runs.

A softmax goes through a row for its maximum, and then again for exponentials. The first loop waits for memory and has
hardly anything to compute, the second one finds the row in a cache and computes: each leaves idle what the other waits
for. So one loop does the heavy part of a row and the first part of the one behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from needle.compiler.host import Host
from needle.compiler.loops import Gather, Kernel, Load, Reduce, Stage, Store, Within, buffers_and_places, walk

__all__ = ["loop_beside_next_row"]

# The last row of a thread's share is looked at once too often: that is little beside so many.
_FEWEST_ROWS = 64


def loop_beside_next_row(
    kernel: Kernel, loops: Sequence[Sequence[Stage]], costs: Sequence[int], host: Host
) -> int | None:
    """Return the number of the loop in which the first one is made for the next row; None where that is no gain.

    Args:
        kernel: a kernel that goes row by row.
        loops: its loops at each point of the grid.
        costs: how many operations each of these has at a point.
        host: the processor.
    """
    if not kernel.grid or len(kernel.reduced) != 1 or kernel.shape[kernel.grid[-1]] < _FEWEST_ROWS:
        return None
    if not all(isinstance(stage, Reduce) and not stage.function.startswith("arg") for stage in loops[0]):
        return None
    plain = all(isinstance(stage, (Reduce, Store)) for stage in kernel.stages)
    read = [value for stage in loops[0] for value in walk(stage.value) if isinstance(value, (Load, Gather, Within))]
    written = {stage.buffer for stage in kernel.stages}
    if not plain or any(not isinstance(one, Load) or one.buffer in written for one in read):
        return None
    # What lies in the first cache does not wait; and two rows are to stay in the second one.
    if _bytes(kernel) <= host.first_cache_bytes or 2 * _bytes_of_row(kernel) > host.second_cache_bytes:
        return None
    later = [number for number, loop in enumerate(loops) if number and not _is_on_grid(loop)]
    heaviest = max(later, key=costs.__getitem__, default=None)
    return None if heaviest is None or costs[heaviest] < costs[0] else heaviest


def _is_on_grid(loop: Sequence[Stage]) -> bool:
    return isinstance(loop[0], Store) and loop[0].on_grid_only


def _bytes(kernel: Kernel) -> int:
    return sum(one.size * one.dtype.itemsize for one in {*kernel.reads(), *kernel.writes()})


def _bytes_of_row(kernel: Kernel) -> int:
    """Return the size of all that a row touches."""
    (axis,) = kernel.reduced
    touched = {buffer for stage in kernel.stages for buffer, place in buffers_and_places(stage) if place.strides[axis]}
    return sum(kernel.shape[axis] * one.dtype.itemsize for one in touched if one is not None)

"""Kernels whose neighbouring points load the same elements: depthwise convolutions, pooling, differences of neighbours.

A stencil is computed in tiles: a vector along the last axis, for several neighbouring points along the axis on which
windows overlap. What the points of a tile have in common is loaded once, and sums that go over all points stay in
registers for a whole line. Zeros (or another number) around an image need not be there: where a window hangs over a
line's end, which is known when compiling, zeros stand in the place of loads; where it hangs over the first line or the
last, a pointer to zeros is chosen instead of the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from needle.compiler.axes import merge_axes
from needle.compiler.host import Host
from needle.compiler.loops import (
    Buffer,
    Call,
    Kernel,
    Load,
    Number,
    Place,
    Reduce,
    Stage,
    Store,
    Value,
    Within,
    inner_loops,
    walk,
)
from needle.compiler.primitives import PRIMITIVES

__all__ = ["REDUCTIONS", "BoundedLoad", "Line", "Stencil", "count_operations", "line_of", "loads_of", "plan_stencil"]

REDUCTIONS = {"reduce_sum": "add", "reduce_max": "maximum", "reduce_min": "minimum"}
# Of the loads that points make by themselves, a tile of this many has to save this share.
_TRIAL, _WORTH = 4, 0.25
_LARGEST_TILE = 16
# More code than this, in operations written out, takes LLVM longer than it is worth.
_LONGEST_CODE = 8_000
# What stands for lines outside of an image is to stay in the first caches.
_MOST_OUTSIDE_BYTES = 64 << 10

Bounds: TypeAlias = tuple[tuple[Place, int], ...]
# What loads at different offsets have in common: the buffer, the strides, the bounds that depend on the line, and what
# is outside of them.
Line: TypeAlias = tuple[Buffer, tuple[int, ...], Bounds, float]


@dataclass(frozen=True, slots=True)
class Stencil:
    """A kernel and how its points are put together.

    Attributes:
        kernel: its axes merged; the last one is that of vectors.
        along: the axis along which the points of a tile lie.
        tile: how many of them there are.
        lanes: the elements of a vector.
        groups: the stages that are done together.
        lines: the least and the greatest offset of the loads of each line, over a tile.
    """

    kernel: Kernel
    along: int
    tile: int
    lanes: int
    groups: tuple[tuple[Stage, ...], ...]
    lines: dict[Line, tuple[int, int]]

    @property
    def outside(self) -> dict[float, int]:
        """The numbers that a tile may load in the place of lines, and how many of each."""
        counts: dict[float, int] = {}
        for (_, _, bounds, number), (low, high) in self.lines.items():
            if bounds:
                counts[number] = max(counts.get(number, 0), high - low + self.lanes)
        return counts

    @property
    def length(self) -> int:
        """The length of the axis along which tiles lie."""
        return self.kernel.shape[self.along]

    def tiles_inside(self) -> range:
        """Return the numbers of the whole tiles no load of which hangs over the end of a line."""
        inside = [
            number
            for number in range(self.length // self.tile)
            if all(
                0 <= place.offset + place.strides[self.along] * (number * self.tile + u) < limit
                for place, limit in self.bounds_along()
                for u in (0, self.tile - 1)
            )
        ]
        return range(inside[0], inside[-1] + 1) if inside else range(0)

    def bounds_along(self) -> list[tuple[Place, int]]:
        """Return the bounds that depend on where in a line a point is."""
        found = [bound for load in loads_of(self.kernel.stages, self.kernel.inner) for bound in load.bounds]
        return [bound for bound in dict.fromkeys(found) if bound[0].strides[self.along]]


@dataclass(frozen=True, slots=True)
class BoundedLoad:
    """A load, and the bounds inside which it is made: there is a number outside."""

    load: Load
    bounds: Bounds = ()
    outside: float = 0.0


def loads_of(stages: Sequence[Stage], inner: Sequence[Buffer] = ()) -> list[BoundedLoad]:
    """Return what stages load, and inside which bounds; `inner` are buffers that are not in memory."""
    values = list({id(value): value for stage in stages for value in walk(stage.value)}.values())
    bounded = [value for value in values if isinstance(value, Within) and isinstance(value.value, Load)]
    inside = {id(value.value) for value in bounded}
    plain = [BoundedLoad(value) for value in values if isinstance(value, Load) and id(value) not in inside]
    found = [
        *plain,
        *(BoundedLoad(one.value, one.bounds, one.outside) for one in bounded if isinstance(one.value, Load)),
    ]
    return [one for one in found if one.load.buffer not in inner]


# ------------------------------------------------------------------------------------------------- planning


def plan_stencil(kernel: Kernel, host: Host) -> Stencil | None:
    """Return how to compute a kernel in tiles; None where it is none whose points share what they load."""
    kernel = merge_axes(kernel)
    last = len(kernel.shape) - 1
    if last < 1 or last in kernel.reduced or not _is_of_vectors(kernel):
        return None
    axes = [axis for axis in range(last) if not kernel.reduced or axis in kernel.reduced]
    loads = loads_of(kernel.stages, kernel.inner)
    kept, along = min(((_kept(loads, axis, kernel.shape[axis]), -axis) for axis in axes), default=(1.0, 0))
    along = -along
    if kept > 1 - _WORTH or not all(_is_simple(bound, along, last) for load in loads for bound in load.bounds):
        return None
    size = kernel.stages[0].buffer.dtype.itemsize
    lanes = min(host.vector_bytes // size, 1 << (kernel.shape[last].bit_length() - 1))
    groups = _groups(kernel, host)
    tile = _tile_size(groups, along, kernel.shape[along], host)
    found = Stencil(kernel, along, tile, lanes, groups, _lines(loads, along, tile))
    code = count_operations(kernel.stages) * tile * (found.length // tile - len(found.tiles_inside()) + 2)
    return found if code <= _LONGEST_CODE and sum(found.outside.values()) * size <= _MOST_OUTSIDE_BYTES else None


def _is_of_vectors(kernel: Kernel) -> bool:
    """Tell whether all stages can be computed for vectors along the last axis, in one loop."""
    dtype = kernel.stages[0].buffer.dtype
    on_grid = any(isinstance(stage, Store) and stage.on_grid_only for stage in kernel.stages)
    if len(inner_loops(kernel)) != 1 or on_grid or dtype not in (np.float32, np.float64):
        return False
    kinds = all(
        isinstance(stage, Store)
        or (isinstance(stage, Reduce) and stage.function in REDUCTIONS and stage.buffer not in kernel.inner)
        for stage in kernel.stages
    )
    places = all(stage.place.strides[-1] == 1 and stage.buffer.dtype == dtype for stage in kernel.stages)
    values = (value for stage in kernel.stages for value in walk(stage.value))
    return kinds and places and all(_is_vector(value, dtype) for value in values) and _reads_what_it_wrote(kernel)


def _reads_what_it_wrote(kernel: Kernel) -> bool:
    """Tell whether a kernel reads of the buffers that it writes only what is known at the point."""
    stored: set[tuple[Buffer, Place]] = set()
    written = {stage.buffer for stage in kernel.stages}
    for stage in kernel.stages:
        for value in walk(stage.value):
            own = isinstance(value, Load) and value.buffer in written
            if own and isinstance(value, Load) and (value.buffer, value.place) not in stored:
                return False
        if isinstance(stage, Store):
            stored.add((stage.buffer, stage.place))
    return True


def _is_vector(value: Value, dtype: np.dtype[Any]) -> bool:
    if isinstance(value, Call):
        truths = value.function.startswith("logical") and {one.dtype for one in value.arguments} != {np.dtype(np.bool_)}
        return PRIMITIVES[value.function].in_vectors and value.dtype in (dtype, np.bool_) and not truths
    if isinstance(value, Within):
        return isinstance(value.value, Load)
    if isinstance(value, Load):
        return value.dtype == dtype and value.place.strides[-1] in (0, 1)
    return isinstance(value, Number) and value.dtype == dtype


def _is_simple(bound: tuple[Place, int], along: int, last: int) -> bool:
    """Tell whether a bound is of places in a line alone, or of lines alone."""
    strides = bound[0].strides
    in_line = [axis for axis, stride in enumerate(strides) if stride] == [along]
    return in_line or (strides[along] == 0 and strides[last] == 0)


def _kept(loads: Sequence[BoundedLoad], axis: int, length: int) -> float:
    """Return which share of the loads of neighbouring points along an axis a tile has to make."""
    count = min(_TRIAL, length)
    # What one point loads twice is no window that overlaps another.
    moving = {(one.load.buffer, one.load.place) for one in loads if one.load.place.strides[axis]}
    if count < 2 or not moving:
        return 1.0
    distinct = {
        (buffer, place.strides, place.offset + u * place.strides[axis])
        for buffer, place in moving
        for u in range(count)
    }
    return len(distinct) / (count * len(moving))


def _groups(kernel: Kernel, host: Host) -> tuple[tuple[Stage, ...], ...]:
    """Divide many sums into groups that stay in registers; stages that read each other's results stay together."""
    stages = kernel.stages
    most = max(host.vector_registers // 2, 1)
    if len(stages) <= most or not all(isinstance(stage, Reduce) for stage in stages):
        return (stages,)
    count = -(-len(stages) // most)
    return tuple(stages[len(stages) * i // count : len(stages) * (i + 1) // count] for i in range(count))


def _tile_size(groups: Sequence[Sequence[Stage]], along: int, length: int, host: Host) -> int:
    """Return how many points fit into the registers, spread evenly over the axis."""
    fitting = [
        size
        for size in range(1, min(length, _LARGEST_TILE) + 1)
        if all(_registers(stages, along, size) <= host.vector_registers for stages in groups)
    ]
    tiles = -(-length // max(fitting, default=min(2, length)))
    return -(-length // tiles)


def _registers(stages: Sequence[Stage], along: int, size: int) -> int:
    """Count the registers of a tile: results, and the widest line of each buffer that moves along the axis."""
    widest: dict[Buffer, int] = {}
    lines: dict[tuple[Buffer, tuple[int, ...]], list[int]] = {}
    for one in loads_of(stages):
        stride = one.load.place.strides[along]
        if stride:
            lines.setdefault((one.load.buffer, one.load.place.strides), []).append(one.load.place.offset // abs(stride))
    for (buffer, _), places in lines.items():
        run, before = 0, None
        for place in sorted(set(places)):
            run = run + place - before if before is not None and place - before < size else size
            widest[buffer] = max(widest.get(buffer, 0), run)
            before = place
    results = sum(size if isinstance(stage, Store) else 1 for stage in stages)
    return results + sum(widest.values()) + 2


def _lines(loads: Sequence[BoundedLoad], along: int, tile: int) -> dict[Line, tuple[int, int]]:
    found: dict[Line, tuple[int, int]] = {}
    for one in loads:
        line, place = line_of(one, along), one.load.place
        ends = sorted((place.offset, place.offset + (tile - 1) * place.strides[along]))
        low, high = found.get(line, (ends[0], ends[1]))
        found[line] = min(low, ends[0]), max(high, ends[1])
    return found


def line_of(one: BoundedLoad, along: int) -> Line:
    """Return the line that a load is in."""
    place = one.load.place
    bounds = tuple(bound for bound in one.bounds if not bound[0].strides[along])
    return one.load.buffer, place.strides, bounds, one.outside


def count_operations(stages: Sequence[Stage]) -> int:
    """Return how many operations stages make at a point."""
    values = {id(value): value for stage in stages for value in walk(stage.value)}
    return len(stages) + sum(isinstance(value, (Call, Load)) for value in values.values())

"""The axes that a kernel loops over: few of them, and whether they are gone through row by row or in strips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from needle.compiler.loops import Buffer, Kernel, Place, Reduce, Scan, Scatter, buffers_and_places, with_places

__all__ = ["goes_in_strips", "merge_axes"]


def merge_axes(kernel: Kernel, first: int = 0) -> Kernel:
    """Return the kernel with as few axes as its places allow: those of length 1 go, neighbours in step become one.

    Axes before `first` stay.
    """
    kept = [axis for axis, length in enumerate(kernel.shape) if axis < first or length != 1]
    kernel = _with_axes(kernel, [[axis] for axis in kept])
    axis = len(kernel.shape) - 2
    while axis >= first:
        if _in_step(kernel, axis):
            groups = [[one] for one in range(len(kernel.shape))]
            kernel = _with_axes(kernel, [*groups[:axis], [axis, axis + 1], *groups[axis + 2 :]])
        axis -= 1
    return kernel


def _in_step(kernel: Kernel, axis: int) -> bool:
    if (axis in kernel.reduced) != (axis + 1 in kernel.reduced):
        return False
    length = kernel.shape[axis + 1]
    return all(place.strides[axis] == place.strides[axis + 1] * length for place in _places(kernel))


def _places(kernel: Kernel) -> Iterator[Place]:
    return (place for stage in kernel.stages for _, place in buffers_and_places(stage))


def _with_axes(kernel: Kernel, groups: Sequence[Sequence[int]]) -> Kernel:
    """Make one axis of each group; its stride is that of the group's last."""

    def place(_: Buffer | None, old: Place) -> Place:
        return Place(old.offset, tuple(old.strides[group[-1]] for group in groups))

    shape = tuple(int(np.prod([kernel.shape[axis] for axis in group])) for group in groups)
    reduced = tuple(number for number, group in enumerate(groups) if group[-1] in kernel.reduced)
    return replace(kernel, shape=shape, reduced=reduced, stages=with_places(kernel.stages, place))


def goes_in_strips(kernel: Kernel) -> bool:
    """Tell whether a kernel reduces other axes than the last one, whose points are gone through side by side."""
    special = any(isinstance(stage, (Scan, Scatter)) for stage in kernel.stages)
    argument = any(isinstance(stage, Reduce) and stage.function.startswith("arg") for stage in kernel.stages)
    return bool(kernel.reduced) and len(kernel.shape) - 1 not in kernel.reduced and not special and not argument

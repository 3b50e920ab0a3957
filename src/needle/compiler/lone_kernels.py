"""Kernels that share nothing with others: running sums, scattered sums and joined arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from needle.compiler.graph import Node
from needle.compiler.loops import (
    Buffer,
    Load,
    Number,
    Place,
    Scan,
    Scatter,
    Stage,
    Store,
    axis_places,
    buffer_place,
    index_of_place,
    zero_place,
)
from needle.compiler.lowering import Lowering, NeedsBuffer

__all__ = ["LoneKernel", "lone_kernels"]

# The shape that a kernel loops over, its reduced axes and its stages.
LoneKernel: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], list[Stage]]
Buffers: TypeAlias = dict[Node, Buffer]
# Where an index lies at each point of a domain.
_Locate: TypeAlias = Callable[[Sequence[Place], Sequence[int]], Place]
# So many parts of a joined array, of one shape, are written by one kernel: each is a stream of memory of its own.
_MOST_TOGETHER = 8


def lone_kernels(node: Node, buffers: Buffers) -> list[LoneKernel]:
    """Return the kernels of a node, in the order in which they run: all write its buffer."""
    return _MAKERS[node.primitive](node, buffers)


def _cumsum(node: Node, buffers: Buffers) -> list[LoneKernel]:
    axes = axis_places(len(node.shape))
    buffer = buffers[node]
    value = Lowering(buffers, len(axes), {}).value(node.inputs[0], axes)
    scan = Scan(buffer, buffer_place(buffer, axes, len(axes)), value)
    return [(node.shape, (node.params["axis"],), [scan])]


def _scatter_add(node: Node, buffers: Buffers) -> list[LoneKernel]:
    values, indices = node.inputs
    rank, count = len(values.shape), len(indices.shape)
    axes = axis_places(rank)
    buffer = buffers[node]
    lowering = Lowering(buffers, rank, {})
    place = buffer_place(buffer, (zero_place(rank), *axes[count:]), rank)
    index = lowering.value(indices, axes[:count])
    value = lowering.value(values, axes)
    scatter = Scatter(buffer, place, buffer.strides[0], buffer.shape[0] - 1, index, value)
    return [_zeros(buffer), (values.shape, tuple(range(count)), [scatter])]


def _zeros(buffer: Buffer) -> LoneKernel:
    (place,) = axis_places(1)
    zero = Number(np.zeros((), buffer.dtype).tobytes(), buffer.dtype)
    return (buffer.size,), (), [Store(buffer, place, zero)]


def _concat(node: Node, buffers: Buffers) -> list[LoneKernel]:
    buffer = buffers[node]

    def locate(index: Sequence[Place], domain: Sequence[int]) -> Place:
        return buffer_place(buffer, index, len(domain))

    kernels: list[LoneKernel] = []
    for part, stage in _copies(node, buffer, buffers, locate, {}):
        # A copy is as fast by itself; what is computed may be so of the same operands.
        alike = bool(kernels) and kernels[-1][0] == part.shape and not isinstance(stage.value, Load)
        if alike and len(kernels[-1][2]) < _MOST_TOGETHER:
            kernels[-1][2].append(stage)
        else:
            kernels.append((part.shape, (), [stage]))
    return kernels


def _copies(
    node: Node, buffer: Buffer, buffers: Buffers, locate: _Locate, lowerings: dict[int, Lowering]
) -> Iterator[tuple[Node, Stage]]:
    """Yield the parts of a joined array, and what writes each into a buffer: `locate` tells where an index lies.

    What parts of one rank have in common is lowered once (`lowerings`), and so computed once.
    """
    start = 0
    for part in node.inputs:
        place = partial(_shifted, locate, node.params["axis"], start)
        start += part.shape[node.params["axis"]]
        inner = part
        while inner.primitive == "reshape" and inner not in buffers:
            (inner,) = inner.inputs
        if inner.primitive == "concat" and inner not in buffers:
            yield from _copies(inner, buffer, buffers, partial(_reshaped, place, inner, part.shape), lowerings)
        else:
            axes = axis_places(len(part.shape))
            lowering = lowerings.setdefault(len(axes), Lowering(buffers, len(axes), {}))
            value = lowering.value(part, axes)
            yield part, Store(buffer, place(axes, part.shape), value)


def _shifted(locate: _Locate, axis: int, start: int, index: Sequence[Place], domain: Sequence[int]) -> Place:
    """Return where an index lies that is counted from `start` along an axis."""
    return locate([one.shifted(start) if number == axis else one for number, one in enumerate(index)], domain)


def _reshaped(
    locate: _Locate, node: Node, shape: tuple[int, ...], index: Sequence[Place], domain: Sequence[int]
) -> Place:
    """Return where an index of a node lies, given where one of its reshape to `shape` does."""
    flat = buffer_place(Buffer("", node.shape, node.dtype), index, len(domain))
    found = index_of_place(flat, shape, domain)
    if found is None:
        raise NeedsBuffer(node)
    return locate(found, domain)


_MAKERS: Mapping[str, Callable[[Node, Buffers], list[LoneKernel]]] = {
    "cumsum": _cumsum,
    "scatter_add": _scatter_add,
    "concat": _concat,
}

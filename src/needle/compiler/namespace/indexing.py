"""`x[index]` as NumPy does it, and its transpose: values added at the places that an index names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from needle.compiler import trace
from needle.compiler.graph import Node, constant_node
from needle.compiler.namespace.choice import where
from needle.compiler.namespace.creation import arange, asarray, zeros
from needle.compiler.namespace.movement import (
    broadcast_to,
    expand_dims,
    flip,
    moveaxis,
    moveaxis_block,
    pad,
    permute_dims,
    reshape,
)
from needle.compiler.user_code import trace_error
from needle.errors import AxisError

__all__ = ["scatter_add", "take", "take_by_index"]


def take(x: Any, indices: Any, axis: int = 0) -> trace.TracedArray:
    """Choose whole slices along an axis by their positions."""
    moved = moveaxis(x, axis, 0)
    chosen = _gather(moved, trace.as_node(indices))
    return chosen if axis % x.ndim == 0 else moveaxis_block(chosen, len(np.shape(indices)), axis % x.ndim)


def scatter_add(shape: Sequence[int], index: Any, values: Any) -> trace.TracedArray:
    """Add `values` into zeros of `shape` at `index`, which may name a place more than once."""
    if isinstance(index, trace.TracedArray):
        return _scatter_add_rows(shape, index, values)
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is Ellipsis or type(part) in (slice, int) for part in parts):
        return _zeros_around(shape, _full_index(zeros(shape), index), values)
    positions = reshape(arange(math.prod(shape)), tuple(shape))[index]
    flat = trace.as_node(reshape(broadcast_to(values, positions.shape), (-1,)))
    added = trace.traced("scatter_add", flat, trace.as_node(reshape(positions, (-1,))), length=math.prod(shape))
    return reshape(added, tuple(shape))


def _scatter_add_rows(shape: Sequence[int], rows: trace.TracedArray, values: Any) -> trace.TracedArray:
    """Add slices into zeros of `shape`, each at a position along the first axis."""
    positions = reshape(_wrapped(rows, shape[0]), (-1,))
    slices = reshape(broadcast_to(values, (*rows.shape, *shape[1:])), (positions.size, *shape[1:]))
    return trace.traced("scatter_add", trace.as_node(slices), trace.as_node(positions), length=shape[0])


def _zeros_around(shape: Sequence[int], parts: Sequence[Any], values: Any) -> trace.TracedArray:
    """Write `values` into zeros of `shape` at integers, slices and None, which name no place twice."""
    bounds, flipped, chosen = _resolved(parts, shape)
    lengths = [len(range(*bound)) for bound in bounds]
    x = reshape(broadcast_to(asarray(values), tuple(chosen)), tuple(lengths))
    x = flip(x, tuple(flipped)) if flipped else x
    for axis, (n, (_, _, step)) in enumerate(zip(lengths, bounds, strict=True)):
        if step > 1 and n > 1:
            widths = [(0, step - 1) if other == axis + 1 else (0, 0) for other in range(len(lengths) + 1)]
            spread = reshape(pad(expand_dims(x, axis + 1), widths), (*x.shape[:axis], n * step, *x.shape[axis + 1 :]))
            x = spread[(slice(None),) * axis + (slice(0, (n - 1) * step + 1),)]
    starts = [start if n else 0 for n, (start, _, _) in zip(lengths, bounds, strict=True)]
    ends = [length - start - n for length, start, n in zip(shape, starts, x.shape, strict=True)]
    return pad(x, list(zip(starts, ends, strict=True)))


def take_by_index(x: trace.TracedArray, index: Any) -> trace.TracedArray:
    """Answer `x[index]` as NumPy does."""
    x, parts = _without_flags(x, _full_index(x, index))
    if not any(_is_array(part) for part in parts):
        return _basic(x, parts)
    # Beside index arrays, a lone integer is an index array of no axes.
    parts = [np.asarray(part) if isinstance(part, int) else part for part in parts]
    sliced = _basic(x, [slice(None) if _is_array(part) else part for part in parts])
    places = [place for place, part in enumerate(parts) if _is_array(part)]
    arrays = [parts[place] for place in places]
    adjacent = places == list(range(places[0], places[-1] + 1))
    chosen, block = _advanced(sliced, places, arrays)
    return moveaxis_block(chosen, block, places[0]) if adjacent else chosen


def _without_flags(x: trace.TracedArray, parts: Sequence[Any]) -> tuple[trace.TracedArray, list[Any]]:
    """Write True and False in an index as what they are to NumPy: a new axis of which one or no element is chosen."""
    found: list[Any] = []
    axis = 0
    for part in parts:
        is_flag = isinstance(part, (bool, np.bool_))
        if is_flag:
            x = expand_dims(x, axis)
        found.append(np.arange(int(part)) if is_flag else part)
        axis += part is not None
    return x, found


def _is_array(part: Any) -> bool:
    return isinstance(part, (np.ndarray, trace.TracedArray))


def _full_index(x: trace.TracedArray, index: Any) -> list[Any]:
    """Return one entry for each axis (and each None): no Ellipsis, no masks, Python integers."""
    parts: list[Any] = []
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, trace.TracedArray) and part.dtype.kind == "b":
            raise trace_error(
                "a mask made of values, whose result has no fixed shape, cannot be compiled",
                "keep the shape and choose with ndl.where, or select outside of the compiled function",
            )
        if isinstance(part, (list, np.ndarray)) and np.asarray(part).dtype.kind == "b":
            parts.extend(np.nonzero(part))
        elif isinstance(part, list):
            parts.append(np.asarray(part))
        else:
            is_place = isinstance(part, (int, np.integer)) and not isinstance(part, bool)
            parts.append(int(part) if is_place else part)
    used = sum(not (part is None or part is Ellipsis or isinstance(part, (bool, np.bool_))) for part in parts)
    rest = [slice(None)] * (x.ndim - used)
    if used > x.ndim:
        raise IndexError(f"too many indices: {used} for {x.ndim} axes")
    if Ellipsis not in [part if part is Ellipsis else None for part in parts]:
        return parts + rest
    place = next(i for i, part in enumerate(parts) if part is Ellipsis)
    return parts[:place] + rest + parts[place + 1 :]


def _basic(x: trace.TracedArray, parts: Sequence[Any]) -> trace.TracedArray:
    """Index by integers, slices and None: slice, flip, reshape."""
    bounds, flipped, shape = _resolved(parts, x.shape)
    node: Node = x.node
    if any(bound != (0, length, 1) for bound, length in zip(bounds, x.shape, strict=True)):
        columns = dict(zip(("start", "stop", "step"), zip(*bounds, strict=True), strict=True))
        node = trace.traced("slice", node, **columns).node
    sliced = trace.TracedArray(node)
    return reshape(flip(sliced, tuple(flipped)) if flipped else sliced, tuple(shape))


def _resolved(parts: Sequence[Any], lengths: Sequence[int]) -> tuple[list[tuple[int, int, int]], list[int], list[int]]:
    """Return a forward slice for each axis, the axes that are flipped then, and the shape of what is chosen."""
    bounds: list[tuple[int, int, int]] = []
    flipped: list[int] = []
    shape: list[int] = []
    axis = 0
    for part in parts:
        if part is None:
            shape.append(1)
            continue
        start, stop, step = _slice_bounds(part, lengths[axis], axis)
        if step < 0:
            flipped.append(axis)
            count = len(range(start, stop, step))
            start, stop, step = start + (count - 1) * step, start + 1, -step
            start, stop = (start, stop) if count else (0, 0)
        bounds.append((start, stop, step))
        if not isinstance(part, int):
            shape.append(len(range(start, stop, step)))
        axis += 1
    return bounds, flipped, shape


def _slice_bounds(part: Any, length: int, axis: int) -> tuple[int, int, int]:
    if isinstance(part, slice):
        return part.indices(length)
    if not isinstance(part, int):
        raise IndexError(f"an index is an integer, a slice, None, Ellipsis or an array, not {type(part).__name__}")
    if not -length <= part < length:
        raise IndexError(f"index {part} is out of bounds for axis {axis} with size {length}")
    return part % length, part % length + 1, 1


def _advanced(x: trace.TracedArray, places: Sequence[int], arrays: Sequence[Any]) -> tuple[trace.TracedArray, int]:
    """Index by arrays at some axes: those axes become one in front, of which positions are gathered."""
    _check_together([one.shape for one in arrays])
    lengths = [x.shape[place] for place in places]
    moved = permute_dims(x, [*places, *(axis for axis in range(x.ndim) if axis not in places)])
    flat = reshape(moved, (math.prod(lengths), *moved.shape[len(places) :]))
    position: Any = 0
    for array_, length in zip(arrays, lengths, strict=True):
        position = position * length + _wrapped(array_, length)
    node = position.node if isinstance(position, trace.TracedArray) else constant_node(np.asarray(position))
    return _gather(flat, node), len(node.shape)


def _check_together(shapes: Sequence[tuple[int, ...]]) -> None:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        found = ", ".join(map(str, shapes))
        raise AxisError(f"arrays of indices do not broadcast together: their shapes are {found}") from None


def _wrapped(indices: Any, length: int) -> Any:
    """Count negative indices from the end, and check those that are known."""
    if isinstance(indices, trace.TracedArray):
        indices.check_when_run(partial(_check_bounds, length=length))
        return where(indices < 0, indices + length, indices)
    _check_bounds(indices, length)
    return np.where(indices < 0, indices + length, indices)


def _check_bounds(indices: Any, length: int) -> None:
    if indices.size and not (-length <= indices.min() and indices.max() < length):
        wrong = indices[(indices < -length) | (indices >= length)].flat[0]
        raise AxisError(f"index {wrong} is out of bounds for an axis of size {length}")


def _gather(x: trace.TracedArray, indices: Node) -> trace.TracedArray:
    return trace.traced("gather", x.node, indices)

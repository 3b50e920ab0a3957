"""Elements in another place: shapes, orders of axes, repetition, joining, borders, windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from needle.compiler import trace
from needle.compiler.namespace.creation import asarray, result_type

__all__ = [
    "broadcast_to",
    "concat",
    "concatenate",
    "expand_dims",
    "flip",
    "matrix_transpose",
    "moveaxis",
    "moveaxis_block",
    "pad",
    "permute_dims",
    "reshape",
    "sliding_window_view",
    "squeeze",
    "stack",
    "swapaxes",
    "transpose",
]


def reshape(x: Any, shape: Any, copy: bool | None = None) -> trace.TracedArray:
    """Return the elements in another shape; one length may be −1."""
    node = trace.as_node(x)
    shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
    if -1 in shape:
        known = -math.prod(shape)
        shape = tuple(math.prod(node.shape) // known if n == -1 else n for n in shape)
    return trace.TracedArray(node) if node.shape == shape else trace.traced("reshape", node, shape=shape)


def permute_dims(x: Any, axes: Sequence[int]) -> trace.TracedArray:
    """Return the axes in another order."""
    node = trace.as_node(x)
    order = trace.as_axes(tuple(axes), len(node.shape))
    identity = order == tuple(range(len(order)))
    return trace.TracedArray(node) if identity else trace.traced("permute", node, axes=order)


def transpose(x: Any, axes: Sequence[int] | None = None) -> trace.TracedArray:
    """Return the axes in another order, reversed where none is given."""
    return permute_dims(x, tuple(reversed(range(x.ndim))) if axes is None else axes)


def matrix_transpose(x: Any) -> trace.TracedArray:
    """Swap the last two axes."""
    return swapaxes(x, -1, -2)


def swapaxes(x: Any, first: int, second: int) -> trace.TracedArray:
    """Swap two axes."""
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return permute_dims(x, order)


def moveaxis(x: Any, source: int, destination: int) -> trace.TracedArray:
    """Move one axis to another place."""
    order = [axis for axis in range(x.ndim) if axis != source % x.ndim]
    order.insert(destination % x.ndim, source % x.ndim)
    return permute_dims(x, order)


def broadcast_to(x: Any, shape: Any) -> trace.TracedArray:
    """Repeat along new leading axes and along axes of length 1."""
    return trace.TracedArray(trace.broadcast_node(trace.as_node(x), shape))


def squeeze(x: Any, axis: Any = None) -> trace.TracedArray:
    """Drop axes of length 1."""
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else trace.as_axes(axis, x.ndim)
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def expand_dims(x: Any, axis: Any) -> trace.TracedArray:
    """Insert axes of length 1."""
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    new = trace.as_axes(axis, x.ndim + count)
    lengths = iter(x.shape)
    return reshape(x, tuple(1 if i in new else next(lengths) for i in range(x.ndim + count)))


def flip(x: Any, axis: Any = None) -> trace.TracedArray:
    """Reverse the order along axes."""
    axes = trace.as_axes(axis, x.ndim)
    return trace.traced("flip", trace.as_node(x), axis=axes) if axes else x


def concat(arrays: Sequence[Any], axis: int | None = 0) -> trace.TracedArray:
    """Put arrays one behind another along an axis."""
    parts = [reshape(one, (-1,)) for one in arrays] if axis is None else [asarray(one) for one in arrays]
    (positive,) = trace.as_axes(0 if axis is None else axis, parts[0].ndim)
    others = {one.shape[:positive] + one.shape[positive + 1 :] for one in parts}
    if len(others) > 1:
        raise ValueError(f"shapes {[one.shape for one in parts]} do not join along axis {positive}")
    dtype = result_type(*parts)
    return trace.traced("concat", *(trace.as_node(one, dtype) for one in parts), axis=positive)


concatenate = concat


def stack(arrays: Sequence[Any], axis: int = 0) -> trace.TracedArray:
    """Put arrays side by side along a new axis."""
    if len({one.shape for one in arrays}) > 1:
        raise ValueError(f"shapes {[one.shape for one in arrays]} do not stack")
    return concat([expand_dims(one, axis) for one in arrays], axis)


def pad(x: Any, widths: Sequence[tuple[int, int]], *, constant_values: float = 0) -> trace.TracedArray:
    """Put a border of one number around."""
    value = {"value": float(constant_values)} if constant_values else {}
    return trace.traced("pad", trace.as_node(x), widths=tuple(tuple(pair) for pair in widths), **value)


def sliding_window_view(x: Any, window_shape: Any, axis: Any = None, **options: Any) -> trace.TracedArray:
    """Return windows over axes: their places stay where the axes were, what is inside comes behind all axes."""
    sizes = (window_shape,) if isinstance(window_shape, int) else tuple(window_shape)
    node = trace.as_node(x)
    axes = trace.as_axes(axis, len(node.shape))
    return trace.traced("windows", node, axes=axes, sizes=sizes)


def moveaxis_block(x: Any, count: int, place: int) -> trace.TracedArray:
    """Move the first `count` axes to stand from `place` on."""
    rest = list(range(count, x.ndim))
    return permute_dims(x, [*rest[:place], *range(count), *rest[place:]])

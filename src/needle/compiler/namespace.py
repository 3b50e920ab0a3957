"""The array API's functions for traced arrays: the namespace that `TracedArray.__array_namespace__` answers with.

Elementwise functions come from the table of primitives (see `__getattr__` below); here are the others: creation,
reductions, movement, products and indexing, each written as nodes.
"""

from __future__ import annotations

import builtins
import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from needle.compiler import trace
from needle.compiler.graph import Node, constant_node, input_node, make_node
from needle.compiler.primitives import UFUNC_OF
from needle.compiler.repeat import OpenBody, results_of
from needle.errors import AxisError, TraceError

# The array API's names where NumPy's functions have another.
_UFUNC_ALIASES = {"abs": "absolute", "pow": "power", "atan": "arctan", "atan2": "arctan2", "round": "rint"}
_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")

pi, e, inf, nan, newaxis = np.pi, np.e, np.inf, np.nan, None
float16 = np.dtype("float16")


def __getattr__(name: str) -> Any:
    """Find elementwise functions and dtypes by name."""
    if name in _DTYPES:
        return np.dtype(name)
    ufunc = UFUNC_OF.get(_UFUNC_ALIASES.get(name, name))
    if ufunc is None:
        raise AttributeError(f"the traced array namespace has no {name}")

    def apply(*operands: Any) -> trace.TracedArray:
        return trace.apply_ufunc(ufunc, *operands)

    return apply


def erf(x: Any) -> trace.TracedArray:
    """Return the error function, which NumPy has not."""
    whole = trace.node_dtype(x).kind in "iub"
    return trace.traced("erf", trace.as_node(x, np.dtype(np.float64) if whole else None))


# ------------------------------------------------------------------------------------------------ creation


def asarray(value: Any, dtype: Any = None, copy: bool | None = None) -> trace.TracedArray:
    """Return a traced array of values that are known."""
    return trace.TracedArray(trace.as_node(value, None if dtype is None else np.dtype(dtype)))


array = asarray


def full(shape: Any, fill_value: Any, dtype: Any = None) -> trace.TracedArray:
    """Return one value repeated."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    value = trace.as_node(fill_value, None if dtype is None else np.dtype(dtype))
    return trace.TracedArray(trace.broadcast_node(value, shape))


def zeros(shape: Any, dtype: Any = "float64") -> trace.TracedArray:
    """Return zeros."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = "float64") -> trace.TracedArray:
    """Return ones."""
    return full(shape, 1, dtype)


def full_like(x: Any, fill_value: Any, dtype: Any = None) -> trace.TracedArray:
    """Return one value in the shape and dtype of `x`."""
    return full(x.shape, fill_value, x.dtype if dtype is None else dtype)


def zeros_like(x: Any, dtype: Any = None) -> trace.TracedArray:
    """Return zeros in the shape and dtype of `x`."""
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: Any = None) -> trace.TracedArray:
    """Return ones in the shape and dtype of `x`."""
    return full_like(x, 1, dtype)


def arange(start: int, stop: int | None = None, step: int = 1, dtype: Any = None) -> trace.TracedArray:
    """Return start, start + step, … below stop."""
    bounds = range(0, start, step) if stop is None else range(start, stop, step)
    counted = trace.traced("iota", length=len(bounds), dtype=np.dtype(dtype or np.int64))
    return counted * bounds.step + bounds.start


def eye(n: int, m: int | None = None, *, k: int = 0, dtype: Any = "float64") -> trace.TracedArray:
    """Return ones on a diagonal, zeros elsewhere."""
    rows, columns = arange(n), arange(n if m is None else m)
    return astype(expand_dims(rows + k, 1) == columns, dtype)


def astype(x: Any, dtype: Any, copy: bool = True) -> trace.TracedArray:
    """Return the elements in another dtype."""
    return trace.TracedArray(trace.as_node(asarray(x), np.dtype(dtype)))


def result_type(*operands: Any) -> np.dtype[Any]:
    """Return the dtype that operands promote to."""
    return np.result_type(*(trace.node_dtype(one) if not isinstance(one, np.dtype) else one for one in operands))


# ---------------------------------------------------------------------------------------------- reductions


def _reduce(primitive: str, x: Any, axis: Any, keepdims: bool) -> trace.TracedArray:
    node = trace.as_node(x)
    axes = trace.as_axes(axis, len(node.shape))
    empty = builtins.any(node.shape[one] == 0 for one in axes)
    if empty and primitive in ("reduce_max", "reduce_min"):
        raise ValueError("zero-size array to reduction operation which has no identity")
    reduced = trace.traced(primitive, node, axes=axes)
    return _kept(reduced, node.shape, axes) if keepdims else reduced


def _kept(reduced: trace.TracedArray, shape: Sequence[int], axes: Sequence[int]) -> trace.TracedArray:
    return reshape(reduced, tuple(1 if axis in axes else length for axis, length in enumerate(shape)))


def sum(x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> trace.TracedArray:
    """Sum over axes; small integers and booleans as int64, as NumPy does."""
    wanted = np.sum(np.empty(0, x.dtype)).dtype if dtype is None else np.dtype(dtype)
    return _reduce("reduce_sum", astype(x, wanted), axis, keepdims)


def prod(x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> trace.TracedArray:
    """Multiply over axes."""
    wanted = np.prod(np.empty(0, x.dtype)).dtype if dtype is None else np.dtype(dtype)
    return _reduce("reduce_prod", astype(x, wanted), axis, keepdims)


def max(x: Any, axis: Any = None, keepdims: bool = False) -> trace.TracedArray:
    """Return the largest element over axes."""
    return _reduce("reduce_max", x, axis, keepdims)


def min(x: Any, axis: Any = None, keepdims: bool = False) -> trace.TracedArray:
    """Return the smallest element over axes."""
    return _reduce("reduce_min", x, axis, keepdims)


amax, amin = max, min


def any(x: Any, axis: Any = None, keepdims: bool = False) -> trace.TracedArray:
    """Tell whether any element is true."""
    return astype(_reduce("reduce_sum", astype(x != 0, np.int64), axis, keepdims), bool)


def all(x: Any, axis: Any = None, keepdims: bool = False) -> trace.TracedArray:
    """Tell whether all elements are true."""
    return trace.apply_ufunc(np.logical_not, any(x == 0, axis, keepdims))


def mean(x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> trace.TracedArray:
    """Average over axes; integers as float64."""
    floating = np.dtype(np.float64) if x.dtype.kind in "iub" else x.dtype
    summed = sum(x, axis, floating if dtype is None else dtype, keepdims)
    return summed / math.prod(x.shape[one] for one in trace.as_axes(axis, x.ndim))


def var(x: Any, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> trace.TracedArray:
    """Return the variance over axes."""
    axes = trace.as_axes(axis, x.ndim)
    centred = x - mean(x, axes, keepdims=True)
    return sum(centred * centred, axes, keepdims=keepdims) / (math.prod(x.shape[one] for one in axes) - correction)


def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> trace.TracedArray:
    """Return where the largest element is, in the flattened array where `axis` is None."""
    return _arg("argmax", x, axis, keepdims)


def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> trace.TracedArray:
    """Return where the smallest element is, in the flattened array where `axis` is None."""
    return _arg("argmin", x, axis, keepdims)


def _arg(primitive: str, x: Any, axis: int | None, keepdims: bool) -> trace.TracedArray:
    searched = reshape(x, (-1,)) if axis is None else x
    (searched_axis,) = trace.as_axes(0 if axis is None else axis, searched.ndim)
    found = trace.traced(primitive, trace.as_node(searched), axis=searched_axis)
    return _kept(found, x.shape, trace.as_axes(axis, x.ndim)) if keepdims else found


def cumulative_sum(x: Any, *, axis: int | None = None, dtype: Any = None) -> trace.TracedArray:
    """Return the running sum along an axis."""
    wanted = np.cumsum(np.empty(0, x.dtype)).dtype if dtype is None else np.dtype(dtype)
    (positive,) = trace.as_axes(0 if axis is None else axis, x.ndim)
    return trace.traced("cumsum", trace.as_node(asarray(x), wanted), axis=positive)


def cumsum(x: Any, axis: int | None = None, dtype: Any = None) -> trace.TracedArray:
    """Return the running sum along an axis, under NumPy's name."""
    return cumulative_sum(x if axis is not None else reshape(x, (-1,)), axis=axis, dtype=dtype)


def reduce_by_ufunc(ufunc: np.ufunc, x: Any, axis: Any = 0, **options: Any) -> trace.TracedArray:
    """Answer `np.add.reduce` and its like."""
    by_name: dict[str, Any] = {
        "add": sum,
        "multiply": prod,
        "maximum": max,
        "minimum": min,
        "logical_or": any,
        "logical_and": all,
    }
    if ufunc.__name__ not in by_name:
        raise trace.uncompiled_error(f"np.{ufunc.__name__}.reduce")
    return by_name[ufunc.__name__](x, axis, **options)


# ------------------------------------------------------------------------------------------------ movement


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


def repeat_step(step: Any, carried: Sequence[Any], sequences: Sequence[Any], backwards: bool = False) -> Any:
    """Return what is carried after the last step, and what all steps give, stacked: a loop (see `repeat`).

    `step` takes what is carried and an element of each sequence, and returns what is carried on and what it gives.
    """
    own, elements = ([trace.as_node(one) for one in side] for side in (carried, sequences))
    inputs = [input_node(one.shape, one.dtype) for one in own]
    inputs += [input_node(one.shape[1:], one.dtype) for one in elements]
    on, given = step(*map(trace.TracedArray, inputs))
    count = len(own)
    body = OpenBody(
        tuple(inputs[:count]), tuple(inputs[count:]), tuple(one.node for one in on), tuple(one.node for one in given)
    )
    results = results_of(body.node(own, elements, elements[0].shape[0], backwards))
    return tuple(map(trace.TracedArray, results[:count])), tuple(map(trace.TracedArray, results[count:]))


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


def tril(x: Any, k: int = 0) -> trace.TracedArray:
    """Keep the triangle below diagonal k."""
    return where(_below(x, k), x, zeros_like(x))


def triu(x: Any, k: int = 0) -> trace.TracedArray:
    """Keep the triangle above diagonal k."""
    return where(_below(x, k - 1), zeros_like(x), x)


def _below(x: Any, k: int) -> trace.TracedArray:
    rows, columns = x.shape[-2:]
    return expand_dims(arange(rows) + k, 1) >= arange(columns)


# ------------------------------------------------------------------------------- choice, limits, products


def after(x: trace.TracedArray, *others: trace.TracedArray) -> trace.TracedArray:
    """Return the elements of `x`, to be read only once there are the others: what is made of them is computed anew."""
    node = x.node
    for one in others:
        if not math.prod(one.shape):  # there is nothing to wait for
            continue
        first = reshape(take_by_index(reshape(one, (-1,)), slice(0, 1)), (1,) * x.ndim)
        node = make_node("after", (node, trace.broadcast_node(first.node, x.shape)), trace.user_source())
    return trace.TracedArray(node)


def where(condition: Any, a: Any, b: Any) -> trace.TracedArray:
    """Choose elements of `a` where the condition holds, of `b` elsewhere."""
    kinds = [trace.node_dtype(one) for one in (a, b)]
    dtype = np.result_type(*(np.empty(0, kind) if isinstance(kind, np.dtype) else kind(0) for kind in kinds))
    nodes = (trace.as_node(condition, np.dtype(bool)), trace.as_node(a, dtype), trace.as_node(b, dtype))
    shape = np.broadcast_shapes(*(node.shape for node in nodes))
    return trace.traced("where", *(trace.broadcast_node(node, shape) for node in nodes))


def clip(x: Any, min: Any = None, max: Any = None) -> trace.TracedArray:
    """Limit elements to [min, max]."""
    low = x if min is None else trace.apply_ufunc(np.maximum, x, min)
    return low if max is None else trace.apply_ufunc(np.minimum, low, max)


def matmul(a: Any, b: Any) -> trace.TracedArray:
    """Multiply matrices; the axes before the last two broadcast."""
    left, right = trace.as_node(a), trace.as_node(b)
    if len(left.shape) < 2 or len(right.shape) < 2:
        raise TraceError("matmul of traced arrays takes matrices: reshape a vector first")
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"matmul: inner dimensions {left.shape[-1]} and {right.shape[-2]} differ")
    dtype = np.matmul.resolve_dtypes((left.dtype, right.dtype, None))[0]
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    nodes = [
        trace.broadcast_node(trace.as_node(trace.TracedArray(node), dtype), (*batch, *node.shape[-2:]))
        for node in (left, right)
    ]
    return trace.traced("matmul", *nodes)


# ------------------------------------------------------------------------------------------------ indexing


def take(x: Any, indices: Any, axis: int = 0) -> trace.TracedArray:
    """Choose whole slices along an axis by their positions."""
    moved = moveaxis(x, axis, 0)
    chosen = _gather(moved, trace.as_node(indices))
    return chosen if axis % x.ndim == 0 else moveaxis_block(chosen, len(np.shape(indices)), axis % x.ndim)


def moveaxis_block(x: Any, count: int, place: int) -> trace.TracedArray:
    """Move the first `count` axes to stand from `place` on."""
    rest = list(range(count, x.ndim))
    return permute_dims(x, [*rest[:place], *range(count), *rest[place:]])


def scatter_add(shape: Sequence[int], index: Any, values: Any) -> trace.TracedArray:
    """Add `values` into zeros of `shape` at `index`, which may name a place more than once."""
    if isinstance(index, trace.TracedArray):
        return _scatter_add_rows(shape, index, values)
    parts = index if isinstance(index, tuple) else (index,)
    if builtins.all(part is None or part is Ellipsis or type(part) in (slice, int) for part in parts):
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
    if not builtins.any(_is_array(part) for part in parts):
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
            raise trace.trace_error(
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
    used = builtins.sum(not (part is None or part is Ellipsis or isinstance(part, (bool, np.bool_))) for part in parts)
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
    if builtins.any(bound != (0, length, 1) for bound, length in zip(bounds, x.shape, strict=True)):
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


trace.TracedArray.namespace = sys.modules[__name__]

"""One value for many: sums, extremes and their places, averages; and running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.compiler import trace
from needle.compiler.namespace.creation import asarray, astype
from needle.compiler.namespace.movement import reshape
from needle.compiler.user_code import uncompiled_error

__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "cumsum",
    "cumulative_sum",
    "max",
    "mean",
    "min",
    "prod",
    "reduce_by_ufunc",
    "sum",
    "var",
]


def _reduce(primitive: str, x: Any, axis: Any, keepdims: bool) -> trace.TracedArray:
    node = trace.as_node(x)
    axes = trace.as_axes(axis, len(node.shape))
    if primitive in ("reduce_max", "reduce_min") and 0 in (node.shape[one] for one in axes):
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
        raise uncompiled_error(f"np.{ufunc.__name__}.reduce")
    return by_name[ufunc.__name__](x, axis, **options)

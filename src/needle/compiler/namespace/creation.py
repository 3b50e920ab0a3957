"""Traced arrays of values that are known, and elements in another dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.compiler import trace

__all__ = [
    "arange",
    "array",
    "asarray",
    "astype",
    "eye",
    "full",
    "full_like",
    "ones",
    "ones_like",
    "result_type",
    "zeros",
    "zeros_like",
]


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
    return astype((rows + k)[:, None] == columns, dtype)


def astype(x: Any, dtype: Any, copy: bool = True) -> trace.TracedArray:
    """Return the elements in another dtype."""
    return trace.TracedArray(trace.as_node(asarray(x), np.dtype(dtype)))


def result_type(*operands: Any) -> np.dtype[Any]:
    """Return the dtype that operands promote to."""
    return np.result_type(*(trace.node_dtype(one) if not isinstance(one, np.dtype) else one for one in operands))

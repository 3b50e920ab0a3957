"""Elements of one array or another: by a condition, by limits, by their place."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.compiler import trace
from needle.compiler.namespace.creation import arange, zeros_like

__all__ = ["clip", "tril", "triu", "where"]


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


def tril(x: Any, k: int = 0) -> trace.TracedArray:
    """Keep the triangle below diagonal k."""
    return where(_below(x, k), x, zeros_like(x))


def triu(x: Any, k: int = 0) -> trace.TracedArray:
    """Keep the triangle above diagonal k."""
    return where(_below(x, k - 1), zeros_like(x), x)


def _below(x: Any, k: int) -> trace.TracedArray:
    rows, columns = x.shape[-2:]
    return (arange(rows) + k)[:, None] >= arange(columns)

"""The array API's functions for traced arrays: the namespace that `TracedArray.__array_namespace__` answers with.

Elementwise functions come from the table of primitives (see `__getattr__` below). The others are written as nodes, a
file each for a family: creation, movement, choice, reductions and indexing. Here are those of no family.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.compiler import trace
from needle.compiler.graph import input_node, make_node
from needle.compiler.namespace.choice import *
from needle.compiler.namespace.creation import *
from needle.compiler.namespace.indexing import *
from needle.compiler.namespace.movement import *
from needle.compiler.namespace.reductions import *
from needle.compiler.primitives import UFUNC_OF
from needle.compiler.repeat import OpenBody, results_of
from needle.compiler.user_code import user_source
from needle.errors import TraceError

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


def after(x: trace.TracedArray, *others: trace.TracedArray) -> trace.TracedArray:
    """Return the elements of `x`, to be read only once there are the others: what is made of them is computed anew."""
    node = x.node
    for one in others:
        if not math.prod(one.shape):  # there is nothing to wait for
            continue
        first = reshape(take_by_index(reshape(one, (-1,)), slice(0, 1)), (1,) * x.ndim)
        node = make_node("after", (node, trace.broadcast_node(first.node, x.shape)), user_source())
    return trace.TracedArray(node)


def repeat_step(
    step: Any,
    carried: Sequence[Any],
    sequences: Sequence[Any],
    *,
    backwards: bool = False,
    every: Sequence[int] | None = None,
    steps: Any = None,
) -> Any:
    """Return what is carried after the last step, and what all steps give, stacked: a loop (see `repeat`).

    `step` takes what is carried and an element of each sequence, and returns what is carried on and what it gives. A
    sequence goes on `every` so many steps, 1 where nothing is said; the first one says how many there are. Only so many
    `steps` are made where that is given, a number of int64.
    """
    own, elements = ([trace.as_node(one) for one in side] for side in (carried, sequences))
    inputs = [input_node(one.shape, one.dtype) for one in own]
    inputs += [input_node(one.shape[1:], one.dtype) for one in elements]
    on, given = step(*map(trace.TracedArray, inputs))
    count = len(own)
    body = OpenBody(
        tuple(inputs[:count]), tuple(inputs[count:]), tuple(one.node for one in on), tuple(one.node for one in given)
    )
    length = elements[0].shape[0] * (1 if every is None else every[0])
    counted = None if steps is None else trace.as_node(steps)
    results = results_of(body.node(own, elements, length, backwards, every=every, steps=counted))
    return tuple(map(trace.TracedArray, results[:count])), tuple(map(trace.TracedArray, results[count:]))


trace.TracedArray.namespace = sys.modules[__name__]

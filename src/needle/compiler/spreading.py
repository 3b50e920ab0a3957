"""Copies of operands in a wider type, or in pairs, that lie as the operands do.

The windows of an image overlap: copied into panels, each of its elements would be there many times. So the piece of
memory that such an operand lies in is copied as it is, element by element, and walked through as before.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from needle.compiler.elements import Element, load_pair
from needle.compiler.ir import SSA, Function, llvm_type
from needle.compiler.loops import Buffer
from needle.compiler.operand import Operand
from needle.compiler.rendered import RenderedKernel

__all__ = ["render_spread", "times_in_memory"]

# A thread's share, and what is too little for two.
_PIECE, _WORTH_SHARING = 8192, 60_000


def _extent(operand: Operand) -> tuple[int, int]:
    """Return the places of an operand's first and last element, of those that are there."""
    reach = [stride * (length - 1) for walk in operand.axes for length, stride in walk]
    first, last = (operand.offset + sum(pick(0, one) for one in reach) for pick in (min, max))
    return (max(first, 0), min(last, operand.buffer.size - 1)) if operand.clips else (first, last)


def times_in_memory(operand: Operand) -> float:
    """Return how often an operand has each element of the memory that it lies in: less than 1 where there are gaps."""
    first, last = _extent(operand)
    return math.prod(length for walk in operand.axes for length, stride in walk if stride) / (last - first + 1)


def render_spread(
    name: str, operand: Operand, dtype: np.dtype[Any], ahead: int = 0
) -> tuple[RenderedKernel, Buffer, int]:
    """Write the function that copies what an operand lies in.

    Args:
        name: the function's.
        operand: the operand.
        dtype: of the copy.
        ahead: how many elements further on that lies which an element makes a pair with; the last ones have none, and
            stand alone. 0 for no pairs.

    Returns:
        The function, the copy, and the place in the operand's buffer of the copy's first element.
    """
    first, last = _extent(operand)
    size = last - first + 1
    copy = Buffer(name, (size,), dtype)
    element = Element(operand.buffer.dtype, operand.buffer.dtype, dtype)
    parameters = ["ptr noalias %copy", "ptr noalias %source", "i64 %begin", "i64 %end"]
    f = Function(name, parameters, "nounwind noinline #0")
    pieces = -(-size // _PIECE)
    begin, end = (f.binary("mul nsw", SSA(bound, "i64"), f.integer(_PIECE)) for bound in ("%begin", "%end"))
    alone = f.integer(max(0, size - ahead))
    parts = [(begin, f.intrinsic("smin", end, alone), ahead)]
    if ahead:
        parts.append((f.intrinsic("smax", begin, alone), f.intrinsic("smin", end, f.integer(size)), 0))
    for low, high, stride in parts:
        with f.loop(low, high) as i:
            address = f.address("%source", element.unit, f.binary("add nsw", i, f.integer(first)))
            value = load_pair(f, address, stride) if stride else element.load(f, address)
            f.store(value, f.address("%copy", llvm_type(dtype), i), dtype.itemsize)
    return RenderedKernel(f, (copy, operand.buffer), pieces, size >= _WORTH_SHARING, 1), copy, first

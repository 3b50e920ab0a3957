"""Copies of operands in a wider type that lie as the operands do.

The windows of an image overlap: copied into panels, each of its elements would be there many times. So the piece of
memory that such an operand lies in is copied as it is, element by element, and walked through as before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from needle.compiler.elements import Element
from needle.compiler.ir import SSA, Function, llvm_type
from needle.compiler.loops import Buffer
from needle.compiler.operand import Operand
from needle.compiler.render import RenderedKernel

__all__ = ["render_spread", "times_in_memory"]

# A thread's share, and what is too little for two.
_PIECE, _WORTH_SHARING = 8192, 60_000

# Writes what becomes of the element at an address of the operand's memory.
Make = Callable[[Function, SSA], SSA]


def _extent(operand: Operand) -> tuple[int, int]:
    """Return the places of an operand's first and last element."""
    reach = [stride * (length - 1) for walk in operand.axes for length, stride in walk]
    return operand.offset + sum(min(0, one) for one in reach), operand.offset + sum(max(0, one) for one in reach)


def times_in_memory(operand: Operand) -> float:
    """Return how often an operand has each element of the memory that it lies in: less than 1 where there are gaps."""
    first, last = _extent(operand)
    return math.prod(length for walk in operand.axes for length, stride in walk if stride) / (last - first + 1)


def render_spread(
    name: str, operand: Operand, dtype: np.dtype[Any], make: Make | None = None, ahead: int = 0
) -> tuple[RenderedKernel, Buffer, int]:
    """Write the function that copies what an operand lies in.

    Args:
        name: the function's.
        operand: the operand.
        dtype: of the copy.
        make: what becomes of an element; it is converted where None.
        ahead: how many elements further on `make` looks.

    Returns:
        The function, the copy, and the place in the operand's buffer of the copy's first element.
    """
    first, last = _extent(operand)
    size = max(1, last - first + 1 - ahead)
    copy = Buffer(name, (size,), dtype)
    element = Element(operand.buffer.dtype, operand.buffer.dtype, dtype)
    parameters = ["ptr noalias %copy", "ptr noalias %source", "i64 %begin", "i64 %end"]
    f = Function(name, parameters, "nounwind noinline #0")
    pieces = -(-size // _PIECE)
    begin, end = (f.binary("mul nsw", SSA(bound, "i64"), f.integer(_PIECE)) for bound in ("%begin", "%end"))
    with f.loop(begin, f.intrinsic("smin", end, f.integer(size))) as i:
        address = f.address("%source", element.unit, f.binary("add nsw", i, f.integer(first)))
        value = element.load(f, address) if make is None else make(f, address)
        f.store(value, f.address("%copy", llvm_type(dtype), i), dtype.itemsize)
    return RenderedKernel(f, (copy, operand.buffer), pieces, size >= _WORTH_SHARING, 1), copy, first

"""The store of a tile that is transposed: of a product with few columns, whose vectors are along the result's rows.

A vector of sums belongs to one column of the result then. Squares of them are transposed in registers, so that what is
stored are pieces of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.compiler.ir import SSA, Function, llvm_type
from needle.compiler.packing import mask_below, offset, store_vector, transposed
from needle.compiler.tiling import Tiling

__all__ = ["turning_function"]


def turning_function(name: str, tiling: Tiling, dtype: np.dtype[Any], row_stride: int) -> Function:
    """Return the function that stores the sums of a tile: `height` rows of the result, `width` of its columns."""
    f = Function(name, ["ptr noalias %out", "ptr noalias %sums", "i64 %height", "i64 %width"], "nounwind noinline #0")
    lanes, scalar, align = tiling.lanes, llvm_type(dtype), dtype.itemsize
    vector, height, width = f"<{lanes} x {scalar}>", SSA("%height", "i64"), SSA("%width", "i64")
    square = f.slot(scalar, lanes * lanes)
    with f.loop(f.integer(0), height, lanes) as row, f.loop(f.integer(0), width, lanes) as column:
        sums = []
        for i in range(lanes):
            place = offset(f, [column, row], (tiling.b_width, 1), i * tiling.b_width)
            sums.append(f.load(vector, f.address("%sums", scalar, place), align))
        for i, one in enumerate(transposed(f, sums)):
            f.store(one, f.address(square.name, scalar, f.integer(i * lanes)), align)
        mask = mask_below(f, f.binary("sub", width, column), lanes)
        left = f.intrinsic("smin", f.binary("sub", height, row), f.integer(lanes))
        with f.loop(f.integer(0), left) as number:
            one = f.load(vector, f.address(square.name, scalar, offset(f, [number], (lanes,))), align)
            place = offset(f, [f.binary("add", row, number), column], (row_stride, 1))
            store_vector(f, one, f.address("%out", scalar, place), mask, align)
    return f

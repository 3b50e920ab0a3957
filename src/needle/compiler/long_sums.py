"""Products of few elements and long sums, such as gradients of weights: pieces of the sums are shared by threads.

Tiles of the result alone are too few for every thread to have as many, and each thread would go through all of the
operands. Here it goes through some steps of the sum for all tiles, into sums of its own; the pieces' sums are added up
in the end. How many pieces there are depends on the product alone: every number of threads gives the same bits.
"""

from __future__ import annotations

import math

from needle.compiler.ir import SSA, llvm_type
from needle.compiler.loops import Buffer, Call, Kernel, Load, Place, Store, Value
from needle.compiler.packing import part_start
from needle.compiler.render import render_kernel
from needle.compiler.rendered import RenderedKernel
from needle.compiler.steps import Contraction
from needle.compiler.tiles_function import TilesFunction
from needle.compiler.tiling import Split, Tiling

__all__ = ["render_pieces"]


def render_pieces(step: Contraction, tiling: Tiling, tiles: RenderedKernel) -> list[RenderedKernel]:
    """Return the functions that compute a product piece by piece, and add the pieces up.

    Args:
        step: the product, with no epilogue.
        tiling: its tiling, into several pieces.
        tiles: computes tiles begin … end − 1 of the result, from a first cut of the sums up to another one.
    """
    out, count = step.out, tiling.pieces
    pieces = Buffer(f"{out.name}_pieces", (count, out.size), out.dtype)
    parameters = ["ptr noalias %out", "ptr noalias %a", "ptr noalias %b", "i64 %begin", "i64 %end"]
    f = TilesFunction(f"{step.name}_pieces", parameters, "nounwind noinline #0")
    f.add(tiles.function)
    each, begin, end = f.integer(tiles.parts), SSA("%begin", "i64"), SSA("%end", "i64")
    after_last = f.binary("udiv", f.binary("add", end, f.integer(tiles.parts - 1)), each)
    with f.loop(f.binary("udiv", begin, each), after_last) as piece:
        start = f.binary("mul nsw", piece, each)
        low = f.binary("sub", f.intrinsic("smax", begin, start), start)
        high = f.intrinsic("smin", f.binary("sub", end, start), each)
        sums = f.address("%out", llvm_type(out.dtype), f.binary("mul nsw", piece, f.integer(out.size)))
        split = Split(tiling.cuts, count)
        cuts = [part_start(f, split, f.binary("add", piece, f.integer(more))) for more in (0, 1)]
        numbers = ", ".join(map(str, (low, high, *cuts)))
        f.do(f"call void @{tiles.function.name}({sums}, ptr %a, ptr %b, {numbers})")
    buffers = (pieces, *tiles.buffers[1:])
    # Fewer chunks are not over at once: pieces at an image's ends are shorter, and other kernels run beside them.
    work = math.prod(step.out.shape) * step.a.shape[-1]
    return [RenderedKernel(f, buffers, count * tiles.parts, True, 1, work=work), render_kernel(_total(step, pieces))]


def _total(step: Contraction, pieces: Buffer) -> Kernel:
    """Return the kernel that adds up the pieces, in order."""
    count, size = pieces.shape
    loads = [Load(pieces, Place(number * size, (1,)), pieces.dtype) for number in range(count)]
    total: Value = loads[0]
    for load in loads[1:]:
        total = Call("add", (total, load), pieces.dtype)
    return Kernel(f"{step.name}_total", (size,), (), (Store(step.out, Place(0, (1,)), total),), step.sources)

"""Matrix products: one generator for every shape and layout.

A tile of the result, some rows high and some vectors wide, is kept in registers while the loop over the sum loads a few
vectors of a row of the right operand, repeats one element of each of the tile's rows of the left operand, and
multiplies and adds (`tile_sums`). `tiling` says how large tiles are, which of them are finished together while their
operands lie in the caches (`tiles`), and which operands are first copied into panels (`packing`). Long sums are cut:
sums so far are kept in the result. What follows elementwise, a contraction's epilogue, is computed tile by tile while
the sums are in the first cache.

Reference: K. Goto, R. van de Geijn, "Anatomy of high-performance matrix multiplication", 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from needle.compiler.along_sums import render_along_sums
from needle.compiler.elements import Element
from needle.compiler.host import Host
from needle.compiler.long_sums import render_pieces
from needle.compiler.loops import Buffer, Call, Kernel, Load, Place, Reduce
from needle.compiler.operand import Operand
from needle.compiler.packing import render_pack
from needle.compiler.render import render_kernel
from needle.compiler.rendered import RenderedKernel
from needle.compiler.sources import left_panels, right_panels, source_of
from needle.compiler.spreading import render_spread, times_in_memory
from needle.compiler.steps import Contraction
from needle.compiler.tiles import Tiles
from needle.compiler.tiling import choose_tiling
from needle.compiler.turning import TurnedTiles

__all__ = ["render_contraction"]


def render_contraction(
    step: Contraction, host: Host, packs_once: bool = False, is_alone: bool = False
) -> list[RenderedKernel]:
    """Return the functions that compute a contraction, in order.

    `packs_once` says that other contractions have the same right operand, and will share what is packed; `is_alone`
    that the program has no other step.
    """
    if not all(step.out.shape):
        return []
    if step.out.dtype not in (np.float32, np.float64) or step.a.shape[-1] == 0:
        kernels = [_plain_loops(step)]
        if step.epilogue:
            kernels.append(Kernel(f"{step.name}_finish", step.out.shape, (), step.epilogue, step.sources))
        return [render_kernel(kernel) for kernel in kernels]
    product, tiling = choose_tiling(step, host, packs_once, is_alone)
    if tiling.sum_lanes > 1:
        return render_along_sums(step, product, tiling)
    phases: list[RenderedKernel] = []
    left, right = (step.b, step.a) if product.is_turned else (step.a, step.b)
    a, a_buffer = left_panels(product, tiling), left.buffer
    b, b_buffer = right_panels(product, tiling), right.buffer
    if a_buffer.dtype != step.out.dtype and not tiling.pack_a:
        # Conversions one by one, where tiles repeat an element, take longer than all of them beforehand.
        if left.clips or times_in_memory(left) > 0.5:
            spread, a_buffer, first = render_spread(f"{step.name}_spread_a", left, step.out.dtype)
            phases.append(spread)
            a = replace(a, layout=replace(a.layout, offset=a.layout.offset - first))
        else:
            tiling = replace(tiling, pack_a=True)
    if tiling.pack_a:
        a_buffer = a.buffer(f"{step.name}_a", step.out)
        phases.append(render_pack(f"{step.name}_pack_a", a, left.buffer, a_buffer))
    if tiling.pack_b and not tiling.packs_in_blocks:
        b_buffer = b.buffer(f"{step.name}_b", step.out)
        phases.append(render_pack(f"{step.name}_pack_b", b, right.buffer, b_buffer))
    dtypes = a_buffer.dtype, step.out.dtype if tiling.pack_b else b_buffer.dtype
    elements = [Element(dtype, dtype, step.out.dtype) for dtype in dtypes]
    sources = [source_of(*one) for one in zip((a, b), (tiling.pack_a, tiling.pack_b), elements, strict=True)]
    tiles = TurnedTiles if product.is_turned else Tiles
    work = tiles(step, product, tiling, *sources, panels=b if tiling.packs_in_blocks else None)
    rendered = work.render(a_buffer, b_buffer)
    return [*phases, *(render_pieces(step, tiling, rendered) if tiling.pieces > 1 else [rendered])]


def _plain_loops(step: Contraction) -> Kernel:
    """Write a product of integers, or of empty sums, as a kernel that reduces."""
    *batch, rows, inner = step.a.shape
    columns = step.b.shape[-1]
    rank = len(batch) + 3

    def place(operand: Operand, axes: Sequence[int]) -> Place:
        strides = [0] * rank
        for axis, ((_, stride),) in zip(axes, operand.axes, strict=True):
            strides[axis] = stride
        return Place(operand.offset, tuple(strides))

    batch_axes = list(range(len(batch)))
    row, column, summed = rank - 3, rank - 2, rank - 1
    dtype = step.out.dtype
    a = Load(step.a.buffer, place(step.a, [*batch_axes, row, summed]), dtype)
    b = Load(step.b.buffer, place(step.b, [*batch_axes, summed, column]), dtype)
    out = Place(0, (*Buffer("", (*batch, rows, columns), dtype).strides, 0))
    stage = Reduce(step.out, out, "reduce_sum", Call("multiply", (a, b), dtype))
    return Kernel(step.name, (*batch, rows, columns, inner), (summed,), (stage,), step.sources)

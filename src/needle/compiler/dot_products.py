"""Products of bfloat16 by the processor's dot instructions (AVX-512 BF16).

One instruction multiplies 16 pairs by 16 pairs and adds both products of each to 16 sums of float32. A pair, two
numbers that stand beside each other in the sum, takes the place that a number of float32 has in `contract`: so this is
its product of half as many steps, with another multiply-add. The right operand is copied into panels of pairs, unless
few tiles read it. The left one is read where it lies if it lies along the sum; else it is copied into panels too, or,
where it is windows that overlap, the memory that it lies in is copied once, each number with the one that follows it in
the sum. The last number of an odd sum makes a pair with 0.

The sums differ from those of numbers cast to float32 in their order, and in that numbers and sums below 2⁻¹²⁶ are taken
for 0. What is not finite stays so.

Reference: Intel Architecture Instruction Set Extensions Programming Reference, VDPBF16PS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from needle.compiler.elements import PAIR, Element, join_pairs, load_pair
from needle.compiler.host import Host
from needle.compiler.ir import SSA, Function
from needle.compiler.loops import Buffer
from needle.compiler.matrices import Product
from needle.compiler.packing import Copy, Panels, load_vector, render_pack
from needle.compiler.rendered import RenderedKernel
from needle.compiler.sources import left_panels, right_panels, source_of
from needle.compiler.spreading import render_spread, times_in_memory
from needle.compiler.steps import Contraction
from needle.compiler.tile_sums import SumLoop, TileSize, TileSums
from needle.compiler.tiles import Tiles
from needle.compiler.tiling import Tiling, divide
from needle.dtype import bfloat16, float32

__all__ = ["render_dot_product", "takes_pairs"]

# Windows that have each number of an image fewer times than this are copied into panels.
_OVERLAP = 1.5
# A right operand is read where it lies by as many tiles, or fewer where pairs of its rows are a multiple of so many
# numbers apart: they push each other out of the first cache.
_FEW_READERS, _FEW_ALIASED, _ALIAS_ELEMENTS = 16, 2, 4096


def takes_pairs(step: Contraction, host: Host) -> bool:
    """Tell whether the host has instructions for a product of pairs."""
    return host.has_dots and step.a.buffer.dtype == bfloat16 and step.out.dtype == float32 and all(step.out.shape)


def render_dot_product(step: Contraction, host: Host) -> list[RenderedKernel]:
    """Return the functions that compute a product of bfloat16, in order: copies of operands, and the product."""
    assert host.has_dots
    candidates = Product.candidates(step)
    is_odd = candidates[0].sums[-1] % 2 == 1
    product, tiling = divide([one.in_pairs() for one in candidates], host)
    stride = product.a.inner[-1] // 2
    lies_along = stride == 1
    is_spread = stride > 1 and (bool(product.clips) or times_in_memory(step.a) > _OVERLAP)
    pack_b = is_odd or not _is_read_across(product, tiling)
    tiling = replace(tiling, pack_a=not (lies_along or is_spread), pack_b=pack_b)
    a, b, a_buffer = left_panels(product, tiling), right_panels(product, tiling), step.a.buffer
    phases: list[RenderedKernel] = []
    if is_spread:
        spread, a_buffer, first = render_spread(f"{step.name}_spread_a", step.a, PAIR, stride)
        phases.append(spread)
        a = replace(a, layout=replace(a.layout, offset=a.layout.offset - first))
    elif tiling.pack_a:
        a_buffer = _pack(f"{step.name}_pack_a", a, step.a.buffer, is_odd, phases)
    b_buffer = step.b.buffer
    if tiling.pack_b:
        b_buffer = _pack(f"{step.name}_pack_b", b, step.b.buffer, is_odd, phases)
    a_source, b_source = (
        source_of(panels, packed, Element(buffer.dtype, PAIR, PAIR))
        for panels, packed, buffer in ((a, tiling.pack_a, a_buffer), (b, tiling.pack_b, b_buffer))
    )
    tiles = _OddDotTiles if is_odd and not tiling.pack_a else _DotTiles
    return [*phases, tiles(step, product, tiling, a_source, b_source).render(a_buffer, b_buffer)]


def _is_read_across(product: Product, tiling: Tiling) -> bool:
    """Tell whether so few tiles read the right operand that they join pairs of its rows themselves."""
    repeats = math.prod(n for n, stride in zip(product.batch, product.b.batch, strict=True) if stride == 0)
    aliased = product.b.inner[-1] % _ALIAS_ELEMENTS == 0
    return product.b.outer == 1 and tiling.rows.count * repeats <= (_FEW_ALIASED if aliased else _FEW_READERS)


def _pack(name: str, panels: Panels, source: Buffer, is_odd: bool, phases: list[RenderedKernel]) -> Buffer:
    """Add the function that copies pairs into panels, and return the panels' buffer."""
    packed = replace(panels.buffer(name, source), dtype=PAIR)
    phases.append(render_pack(name, panels, source, packed, partial(_PairCopy, is_odd=is_odd)))
    return packed


def _join_rows(f: Function, address: SSA, stride: int, lanes: int, mask: SSA | None) -> SSA:
    """Return the pairs of a row and the one that lies `stride` further on."""
    even, odd = (
        load_vector(f, f"<{lanes} x i16>", f.address(address.name, "i16", f.integer(at)), mask, 2) for at in (0, stride)
    )
    return join_pairs(f, even, odd)


class _PairCopy(Copy):
    """Writes the copy of one panel's pairs; of an odd sum, the last number is paired with 0."""

    def __init__(  # noqa: PLR0917
        self,
        f: Function,
        panels: Panels,
        buffers: tuple[Buffer, Buffer],
        matrix: SSA,
        first: SSA,
        target: SSA,
        *,
        is_odd: bool,
    ) -> None:
        super().__init__(f, panels, buffers, matrix, first, target)
        source, _ = buffers
        self.stride = panels.layout.inner[-1] // 2
        self.single = Element(source.dtype, source.dtype, source.dtype)
        self.element = Element(source.dtype, PAIR, PAIR)
        self.is_odd = is_odd
        self.steps -= is_odd

    def write(self, begin: SSA, end: SSA) -> None:
        """Copy pairs begin … end − 1."""
        f, layout, whole = self.f, self.panels.layout, end
        if self.is_odd:
            whole = f.intrinsic("smin", end, f.integer(self.steps))
        if self.steps:
            if layout.outer == 1:
                self._along_panels(begin, whole)
            elif self.stride == 1:
                self._along_sums(begin, whole)
            else:
                self._elements(begin, whole)
        if self.is_odd:
            with f.when(f.compare("sgt", end, f.integer(self.steps))):
                self._last()

    def _last(self) -> None:
        f, k = self.f, self.f.integer(self.steps)
        with f.loop(f.integer(0), f.integer(self.panels.width)) as j:
            column = f.intrinsic("smin", f.binary("add nsw", self.first, j), f.integer(self.panels.outer - 1))
            value = join_pairs(f, self.single.load(f, self._source(column, k)), None)
            f.store(value, self._target(k, j), self.size)

    def _columns(self, column: SSA, k: SSA, mask: SSA | None) -> SSA:
        return _join_rows(self.f, self._source(column, k), self.stride, self.panels.lanes, mask)

    def _one(self, column: SSA, k: SSA) -> SSA:
        return load_pair(self.f, self._source(column, k), self.stride)


class _DotSums(TileSums):
    """Writes the loops over sums of pairs' products."""

    def load_right(self, address: SSA, mask: SSA | None) -> SSA:
        """Load pairs of neighbouring columns: from a panel, or from two rows."""
        if self.tiling.pack_b:
            return super().load_right(address, mask)
        return _join_rows(self.f, address, self.b.inner[-1] // 2, self.tiling.lanes, mask)

    def multiply_add(self, a: SSA, b: SSA, so_far: SSA) -> SSA:
        """Add the products of pairs to sums so far, side by side."""
        f, pairs = self.f, f"<{2 * self.tiling.lanes} x bfloat>"
        name = f"llvm.x86.avx512bf16.dpbf16ps.{self.tiling.lanes * 32}"
        f.declarations.add(f"declare {so_far.type} @{name}({so_far.type}, {pairs}, {pairs})")
        one, other = (f.emit(pairs, f"bitcast {value} to {pairs}") for value in (a, b))
        return f.emit(so_far.type, f"call {so_far.type} @{name}({so_far}, {one}, {other})")


class _OddDotSums(_DotSums):
    """Writes the loops over sums whose last number stands alone: what lies behind it is no part of the sum."""

    joins_innermost = False

    def _axis(self, loops: Sequence[SumLoop], at: tuple[SSA, SSA], tile: TileSize, starts: Sequence[SSA]) -> list[SSA]:
        """Write the loop over pairs, and the last number as a loop of one step, or of none in other cuts of the sum."""
        if len(loops) > 1:
            return super()._axis(loops, at, tile, starts)
        (loop,), pairs, a = loops, self.f.integer(self.product.sums[-1] - 1), self.a
        in_pairs = replace(loop, end=self.f.intrinsic("smin", loop.end, pairs), may_be_empty=True)
        sums = super()._axis([in_pairs], at, tile, starts)
        self.a = replace(a, element=replace(a.element, loaded=bfloat16))
        last = replace(loop, begin=self.f.intrinsic("smax", loop.begin, pairs), may_be_empty=True)
        sums = super()._axis([last], at, tile, sums)
        self.a = a
        return sums


class _DotTiles(Tiles):
    """Writes the function that computes tiles of sums of pairs' products."""

    sums_type = _DotSums


class _OddDotTiles(Tiles):
    """Writes the same where sums are odd, and the left operand is read where it lies."""

    sums_type = _OddDotSums

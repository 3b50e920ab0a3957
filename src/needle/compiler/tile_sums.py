"""The loop over the sum of one tile of a matrix product, with all of the tile's sums in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from needle.compiler.ir import SSA, Function
from needle.compiler.matrices import Product
from needle.compiler.packing import load_vector, opaque, prefetch, splat
from needle.compiler.sources import Source
from needle.compiler.tiling import Tiling

__all__ = ["SumLoop", "TileSize", "TileSums"]

# How many rows and vectors a tile has, and the vectors' masks.
TileSize: TypeAlias = tuple[int, int, Sequence[SSA | None]]

# How many steps of the sum a line of memory is asked for before it is used: of panels, and of rows where they lie.
_PANEL_AHEAD, _AHEAD = 32, 16
# What memory comes in.
_LINE_BYTES = 64


@dataclass(frozen=True, slots=True)
class SumLoop:
    """A loop over a sum: its bounds, how far apart its steps are in both operands, and whether there may be none."""

    begin: SSA
    end: SSA
    strides: tuple[int, int]
    may_be_empty: bool


class TileSums:
    """Writes the loops over the sums of tiles.

    Args:
        f: the function to write into.
        product: the product's sizes.
        tiling: its tiles.
        a: where the left operand lies.
        b: and the right one.

    Attributes:
        joins_innermost: whether the innermost axis of the sum may go on from the one around it in one loop.
    """

    joins_innermost = True

    def __init__(self, f: Function, product: Product, tiling: Tiling, a: Source, b: Source) -> None:
        self.f = f
        self.product = product
        self.tiling = tiling
        self.a = a
        self.b = b

    def write(
        self,
        at: tuple[SSA, SSA],
        bounds: Sequence[tuple[SSA, SSA]],
        tile: TileSize,
        starts: Sequence[SSA],
    ) -> list[SSA]:
        """Write the loops over the sum and return the sums, row by row.

        Args:
            at: where the tile's operands begin.
            bounds: where each axis of the sum begins and ends.
            tile: its size.
            starts: the sums so far.
        """
        return self._axis(self._loops(bounds), at, tile, starts)

    def _loops(self, bounds: Sequence[tuple[SSA, SSA]]) -> list[SumLoop]:
        """Return the loops over the sum: one for axes on which both operands go on evenly from one to the next.

        An image's samples lie closest: a loop over them alone would be over and begun again too often.
        """
        f, sums = self.f, self.product.sums
        clipped = {clip.sum_step for clip in self.product.clips}
        loops: list[SumLoop] = []
        for axis, (begin, end) in enumerate(bounds):
            strides, length = (self.a.inner[axis], self.b.inner[axis]), f.integer(sums[axis])
            may_join = axis not in clipped and (self.joins_innermost or axis < len(bounds) - 1)
            is_whole = may_join and (begin.name, end.name) == ("0", length.name)
            if loops and is_whole and loops[-1].strides == tuple(sums[axis] * stride for stride in strides):
                outer = loops.pop()
                first, after_last = (f.binary("mul nsw", one, length) for one in (outer.begin, outer.end))
                loops.append(SumLoop(first, after_last, strides, outer.may_be_empty))
            else:
                loops.append(SumLoop(begin, end, strides, axis in clipped))
        return loops

    def _axis(
        self,
        loops: Sequence[SumLoop],
        at: tuple[SSA, SSA],
        tile: TileSize,
        starts: Sequence[SSA],
    ) -> list[SSA]:
        """Write the first of some loops over the sum, and the others inside it."""
        f, vector, (loop, *inside) = self.f, starts[0].type, loops
        begin, end = loop.begin, opaque(f, loop.end)
        before, body, done = f.block, f.fresh("body"), f.fresh("done")
        if loop.may_be_empty:
            f.do(f"br {f.compare('slt', begin, end)}, label {body}, label {done}")
        else:
            f.do(f"br label {body}")
        f.label(body)
        k, following = f.fresh("k"), f.fresh("k")
        kept = [SSA(f.fresh("sum"), vector) for _ in starts]
        heads = len(f.lines)
        f.lines.extend([""] * (1 + len(kept)))
        a, b = (
            f.address(pointer.name, source.element.unit, f.binary("mul nsw", SSA(k, "i64"), f.integer(stride)))
            for pointer, source, stride in zip(at, (self.a, self.b), loop.strides, strict=True)
        )
        if inside:
            sums = self._axis(inside, (a, b), tile, kept)
        else:
            self._ask_for_next_rows(at[0], SSA(k, "i64"), tile[0])
            sums = self._step(a, b, tile, kept)
        f.lines.append(f"  {following} = add nsw i64 {k}, 1")
        latch = f.block
        f.lines[heads] = f"  {k} = phi i64 [ {begin.name}, %{before} ], [ {following}, %{latch} ]"
        for number, (one, start, new) in enumerate(zip(kept, starts, sums, strict=True), heads + 1):
            f.lines[number] = f"  {one.name} = phi {vector} [ {start.name}, %{before} ], [ {new.name}, %{latch} ]"
        more = f.emit("i1", f"icmp slt i64 {following}, {end.name}")
        f.do(f"br {more}, label {body}, label {done}")
        f.label(done)
        if not loop.may_be_empty:
            return sums
        either = f"phi {vector} [ {{}}, %{before} ], [ {{}}, %{latch} ]"
        return [f.emit(vector, either.format(one.name, new.name)) for one, new in zip(starts, sums, strict=True)]

    def _ask_for_next_rows(self, a: SSA, k: SSA, rows: int) -> None:
        """Ask, at each step, for a line of the rows of the tile below, where they come right after a tile's own.

        The first tile to read them would wait for the memory that they come from.
        """
        f, element = self.f, self.a.element
        if self.a.is_along_sums and not self.tiling.pack_a and self.product.sums == (self.a.outer,):
            line = f.binary("mul nsw", k, f.integer(_LINE_BYTES // element.memory.itemsize))
            prefetch(f, f.address(element.moved(f, a, rows * self.a.outer).name, element.unit, line))

    def _step(self, a: SSA, b: SSA, tile: TileSize, kept: Sequence[SSA]) -> list[SSA]:
        """Write one step of the sum: a few vectors of the right operand times an element of each row of the left."""
        f, lanes, (rows, vectors, masks) = self.f, self.tiling.lanes, tile
        row = []
        for j in range(vectors):
            mask = None if self.tiling.pack_b else masks[j]
            row.append(self.load_right(self.b.element.moved(f, b, j * lanes), mask))
            if self.tiling.pack_b:
                prefetch(f, self.b.element.moved(f, b, j * lanes + _PANEL_AHEAD * self.b.inner[-1]))
        if self.tiling.pack_a:
            prefetch(f, self.a.element.moved(f, a, _PANEL_AHEAD * self.a.inner[-1]))
        if not (self.a.is_along_sums or self.tiling.pack_a):
            # Each step's elements lie in a line (or two) of their own, too far apart for the processor to foresee.
            for i in dict.fromkeys([0, rows - 1]):
                prefetch(f, self.a.element.moved(f, a, i * self.a.outer + _AHEAD * self.a.inner[-1]))
        sums = []
        for i in range(rows):
            repeated = splat(f, self.a.element.load(f, self.a.element.moved(f, a, i * self.a.outer)), lanes)
            sums += [self.multiply_add(repeated, row[j], kept[i * vectors + j]) for j in range(vectors)]
        return sums

    def load_right(self, address: SSA, mask: SSA | None) -> SSA:
        """Load a vector of the right operand."""
        element = self.b.element
        value = load_vector(self.f, element.vector(self.tiling.lanes), address, mask, element.align)
        return element.converted(self.f, value)

    def multiply_add(self, a: SSA, b: SSA, so_far: SSA) -> SSA:
        """Add products of elements to sums so far, side by side."""
        return self.f.intrinsic("fma", a, b, so_far)

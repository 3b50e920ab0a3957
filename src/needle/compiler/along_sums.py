"""Products whose vectors are along the sum: of few columns, which would leave most of a vector across them empty.

For each element of the result there is a vector of sums, each of every so many products. In the end their elements are
added up, as many vectors at once as they have elements. The left operand is read where it lies; the right one is
copied column by column, unless it lies so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from needle.compiler.elements import Element
from needle.compiler.epilogue import Epilogue
from needle.compiler.ir import SSA, Function, llvm_type
from needle.compiler.matrices import Layout, Product
from needle.compiler.packing import Panels, load_vector, mask_below, render_pack, store_vector, with_parts_exchanged
from needle.compiler.rendered import RenderedKernel
from needle.compiler.sources import Source, left_panels, right_panels, source_of
from needle.compiler.steps import Contraction
from needle.compiler.tile_sums import TileSize, TileSums
from needle.compiler.tiles import TilePlace, Tiles
from needle.compiler.tiling import Split, Tiling

__all__ = ["render_along_sums"]


def render_along_sums(step: Contraction, product: Product, tiling: Tiling) -> list[RenderedKernel]:
    """Return the functions that compute a product whose vectors are along the sum, in order."""
    phases: list[RenderedKernel] = []
    a, b, b_buffer = left_panels(product, tiling), right_panels(product, tiling), step.b.buffer
    if tiling.pack_b:
        panels = _columns(product, tiling)
        b_buffer = panels.buffer(f"{step.name}_b", step.out)
        phases.append(render_pack(f"{step.name}_pack_b", panels, step.b.buffer, b_buffer))
    elements = [Element(one.dtype, one.dtype, step.out.dtype) for one in (step.a.buffer, b_buffer)]
    a_source, b_source = source_of(a, False, elements[0]), source_of(b, False, elements[1])
    if tiling.pack_b:
        width = panels.width
        b_source = Source(0, panels.batch_strides, 0, width, width, (1,), elements[1])
    work = _Tiles(step, product, tiling, a_source, b_source)
    return [*phases, work.render(step.a.buffer, b_buffer)]


def _columns(product: Product, tiling: Tiling) -> Panels:
    """Return the copy of the right operand: one panel, in which columns of whole vectors follow each other."""
    lanes, (length,) = tiling.sum_lanes, product.sums
    layout = Layout(product.b.offset, product.b.batch, product.b.inner[-1], (product.b.outer,))
    vectors = -(-length // lanes)
    split = Split(vectors, 1)
    return Panels(layout, product.batch, length, (product.columns,), split, lanes, vectors * lanes, lanes)


class _Sums(TileSums):
    """Writes the loops over sums of which vectors are along the sum."""

    def __init__(self, f: Function, product: Product, tiling: Tiling, a: Source, b: Source) -> None:
        lanes = tiling.sum_lanes
        super().__init__(f, product, tiling, *(replace(one, inner=(lanes,)) for one in (a, b)))
        (self.length,) = product.sums

    def write(
        self,
        at: tuple[SSA, SSA],
        bounds: Sequence[tuple[SSA, SSA]],
        tile: TileSize,
        starts: Sequence[SSA],
    ) -> list[SSA]:
        """Write the loop over whole vectors, and what is done for the rest."""
        f, lanes = self.f, self.tiling.sum_lanes
        whole, rest = divmod(self.length, lanes)
        sums = list(starts)
        if whole:
            sums = super().write(at, [(f.integer(0), f.integer(whole))], tile, sums)
        if rest:
            a, b = (
                source.element.moved(f, one, whole * lanes) for source, one in zip((self.a, self.b), at, strict=True)
            )
            sums = self._products(a, b, tile, sums, mask_below(f, f.integer(rest), lanes))
        return sums

    def _step(self, a: SSA, b: SSA, tile: TileSize, kept: Sequence[SSA]) -> list[SSA]:
        return self._products(a, b, tile, kept, None)

    def _products(
        self,
        a: SSA,
        b: SSA,
        tile: TileSize,
        kept: Sequence[SSA],
        mask: SSA | None,
    ) -> list[SSA]:
        """Multiply a vector of each row by one of each column."""
        rows, columns, _ = tile
        left = [self._vector(self.a, a, i, mask) for i in range(rows)]
        sums = list(kept)
        for j in range(columns):
            right = self._vector(self.b, b, j, mask)
            for i, one in enumerate(left):
                sums[i * columns + j] = self.multiply_add(one, right, sums[i * columns + j])
        return sums

    def _vector(self, source: Source, start: SSA, number: int, mask: SSA | None) -> SSA:
        f, element = self.f, source.element
        address = element.moved(f, start, number * source.outer)
        return element.converted(f, load_vector(f, element.vector(self.tiling.sum_lanes), address, mask, element.align))


class _Tiles(Tiles):
    """Writes the function that computes tiles of a product whose vectors are along the sum."""

    sums_type = _Sums

    def make_epilogue(self, row_stride: int) -> Epilogue:
        """Return what follows a tile: across columns, vectors are as long as along the sum."""
        return Epilogue(self.step, self.product, replace(self.tiling, lanes=self.tiling.sum_lanes), row_stride)

    def write_sums(self, place: TilePlace, rows: int, vectors: int) -> None:
        """Write one size's code: the loop, the sums of the vectors' elements, and the store."""
        f, dtype, lanes = self.f, self.step.out.dtype, self.tiling.sum_lanes
        scalar = llvm_type(dtype)
        vector, count = f"<{lanes} x {scalar}>", rows * vectors
        sums = self.loop(place, (rows, vectors, [None] * vectors), [SSA("zeroinitializer", vector)] * count)
        target = f.address("%out", scalar, place.out) if self.writes_out else self.tile
        in_order = not self.writes_out or self.product.out.outer == vectors
        for first in range(0, count, lanes):
            length = min(lanes, count - first)
            total = _added_up(f, sums[first : first + length], lanes)
            mask = None if length == lanes else mask_below(f, f.integer(length), lanes)
            store_vector(f, total, self.moved(target if in_order else self.tile, first), mask, dtype.itemsize)
        if not in_order:
            for i in range(rows):
                for j in range(0, vectors, lanes):
                    mask = None if vectors - j >= lanes else mask_below(f, f.integer(vectors - j), lanes)
                    value = load_vector(f, vector, self.moved(self.tile, i * vectors + j), mask, dtype.itemsize)
                    store_vector(f, value, self.moved(target, i * self.product.out.outer + j), mask, dtype.itemsize)
        if self.step.epilogue:
            self.epilogue.call(f, target, (place.out, place.first_column), (rows, -(-vectors // lanes)))


def _added_up(f: Function, vectors: Sequence[SSA], lanes: int) -> SSA:
    """Return the vector of the sums of the elements of at most as many vectors as they have elements.

    Of two vectors half of the elements change places, and both are added: what comes has sums of both, half as many of
    each. That goes on until there is one vector.
    """
    type_ = vectors[0].type
    found = [*vectors, *[SSA("poison", type_)] * (lanes - len(vectors))]
    step = lanes // 2
    while step:
        joined = []
        for a, b in zip(found[:step], found[step:], strict=True):
            if a.name == "poison":
                joined.append(a)
                continue
            joined.append(f.binary("fadd", *with_parts_exchanged(f, a, b, lanes, step)))
        found, step = joined, step // 2
    return found[0]

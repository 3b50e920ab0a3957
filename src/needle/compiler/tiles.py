"""The function that computes tiles of a matrix product, block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from needle.compiler.epilogue import Epilogue
from needle.compiler.ir import SSA, llvm_type
from needle.compiler.loops import Buffer
from needle.compiler.matrices import Product
from needle.compiler.operand import Clip
from needle.compiler.packing import (
    Panels,
    coordinates,
    load_vector,
    mask_below,
    offset,
    part_start,
    render_pack,
    store_vector,
)
from needle.compiler.rendered import Bands, RenderedKernel
from needle.compiler.sources import Source
from needle.compiler.steps import Contraction
from needle.compiler.thread_count import available_processors
from needle.compiler.tile_sums import TileSize, TileSums
from needle.compiler.tiles_function import TilesFunction
from needle.compiler.tiling import Split, Tiling

__all__ = ["TilePlace", "Tiles"]

# Fewer multiply-adds than this are done by one thread.
_WORTH_SHARING = 400_000
# Fewer bands for each thread are not divided evenly enough to go on in them.
_BANDS_EACH = 2


@dataclass(frozen=True, slots=True)
class TilePlace:
    """Where a tile's operands and its result begin, the columns from there on, and the part of the sum to do.

    The first column is that of the result, also where the product gives it transposed.
    """

    a: SSA
    b: SSA
    out: SSA
    columns_left: SSA
    bounds: Sequence[tuple[SSA, SSA]]
    is_first: SSA
    is_last: SSA
    first_column: SSA


class Tiles:
    """Writes the function that computes tiles begin … end − 1 of the result, block by block.

    Args:
        step: the contraction.
        product: its sizes.
        tiling: its tiles.
        a: where the left operand lies.
        b: and the right one.
        panels: of the right operand, where each block makes its own.

    Attributes:
        sums_type: what writes the loops over the sums of a tile.
    """

    sums_type: type[TileSums] = TileSums

    def __init__(
        self,
        step: Contraction,
        product: Product,
        tiling: Tiling,
        a: Source,
        b: Source,
        *,
        panels: Panels | None = None,
    ) -> None:
        self.step = step
        self.product = product
        self.tiling = tiling
        self.a = a
        self.b = b
        # Sums that nobody else reads go no further than a piece of the stack.
        self.writes_out = step.keeps_out or tiling.cuts > 1
        height, width = self.own_shape()
        self.epilogue = self.make_epilogue(product.out.outer if self.writes_out else width)
        names = self.epilogue.pointers
        written = ["%out"] * self.writes_out + [names[buffer] for buffer in self.epilogue.writes]
        read = ["%a", "%b", *(names[buffer] for buffer in self.epilogue.reads)]
        parameters = [f"ptr noalias {name}" for name in [*written, *read]]
        parameters += ["i64 %begin", "i64 %end"]
        self.cuts = SSA("0", "i64"), SSA(str(tiling.cuts), "i64")
        if tiling.pieces > 1:
            self.cuts = SSA("%first", "i64"), SSA("%last", "i64")
            parameters += map(str, self.cuts)
        self.f = TilesFunction(f"{step.name}_tiles", parameters, "nounwind noinline #0")
        self.tile = self.f.slot(llvm_type(step.out.dtype), height * width)
        self.sums = self.sums_type(self.f, product, tiling, a, b)
        self.panels = panels
        self.b_pointer = SSA("%b", "ptr")
        if panels is not None:
            self.b_pointer = self.f.slot(llvm_type(step.out.dtype), tiling.block[1] * panels.inner * panels.width)

    def own_shape(self) -> tuple[int, int]:
        """Return the rows and columns of a tile's piece of the stack."""
        return self.tiling.rows.largest, self.tiling.b_width

    def make_epilogue(self, row_stride: int) -> Epilogue:
        """Return what follows a tile, given how many elements apart rows of its sums are."""
        return Epilogue(self.step, self.product, self.tiling, row_stride)

    def render(self, a: Buffer, b: Buffer) -> RenderedKernel:
        """Return the function."""
        f, product, tiling = self.f, self.product, self.tiling
        blocks = [-(-count // size) for count, size in zip(self._counts(), tiling.block, strict=True)]
        size = math.prod(tiling.block)
        # What threads take is a tile; a whole block where that has panels of its own.
        each = 1 if tiling.packs_in_blocks else size
        parts = math.prod([*product.batch, *blocks, each])
        last = f.binary("sub", f.binary("add", SSA("%end", "i64"), f.integer(each - 1)), f.integer(0))
        first_block = f.binary("udiv", SSA("%begin", "i64"), f.integer(each))
        bounds = first_block, f.binary("udiv", last, f.integer(each))
        packed = self._nothing_packed()
        with ExitStack() as loops:
            if tiling.all_by_cuts:
                cut = loops.enter_context(f.loop(*self.cuts))
            block = loops.enter_context(f.loop(*bounds))
            at, across, down = self._block_at(block, blocks)
            within = self._tiles_of_block(block)
            if self.panels is not None:
                panels = f.binary("udiv", block, f.integer(blocks[0]))
                with f.when(f.compare("ne", f.load("i64", packed, 8), panels)):
                    self._pack(self.panels, at, across, b)
                    f.store(panels, packed, 8)
            if not tiling.all_by_cuts:
                cut = loops.enter_context(f.loop(*self.cuts))
            number = loops.enter_context(f.loop(*within))
            self._tile_in_block(at, down, across, number, cut)
        work = int(math.prod(product.batch) * product.rows * product.columns * product.inner * product.share)
        if self.step.epilogue:
            f.add(self.epilogue.function())
        written = (self.step.out,) * self.writes_out + self.epilogue.writes
        buffers = (*written, a, b, *self.epilogue.reads)
        by_cuts = tiling.all_by_cuts
        is_shared, work = work >= _WORTH_SHARING, 0 if by_cuts else work
        rendered = RenderedKernel(f, buffers, parts, is_shared, len(written), work=work, is_streamed=by_cuts)
        bands = self._bands()
        return rendered if bands is None else replace(rendered, bands=bands, banded=tuple(range(len(written))))

    def _bands(self) -> Bands | None:
        """Return the bands of columns that blocks below each other are; None where they are uneven or few."""
        product, split = self.product, self.tiling.vectors
        if product.is_turned or math.prod(product.batch) != 1 or split.largest != split.smallest:
            return None
        if self.tiling.pieces > 1:
            return None
        bands = Bands(product.columns, self.tiling.block[1] * split.largest * self.tiling.lanes)
        are_many = bands.count >= _BANDS_EACH * available_processors()
        return bands if are_many and all(bands.keep(store.place) for store in self.step.epilogue) else None

    def _block_at(self, block: SSA, blocks: Sequence[int]) -> tuple[list[SSA], SSA, SSA]:
        """Return a block's coordinates: in the batch, and across and down a matrix of so many blocks.

        All matrices that share a right operand go by a block of its panels before the next one's turn.
        """
        strides, batch = self.product.b.batch, self.product.batch
        own = [axis for axis, stride in enumerate(strides) if stride]
        order = [*own, len(batch), *(axis for axis in range(len(batch)) if axis not in own)]
        lengths = [*batch, blocks[1]]
        *found, down = coordinates(self.f, block, [*(lengths[axis] for axis in order), blocks[0]])
        *at, across = (found[order.index(axis)] for axis in range(len(lengths)))
        return at, across, down

    def _tiles_of_block(self, block: SSA) -> tuple[SSA, SSA]:
        """Return the numbers, within a block, of the first tile to do and of that after the last one."""
        f, size = self.f, self.f.integer(math.prod(self.tiling.block))
        if self.tiling.packs_in_blocks:
            return f.integer(0), size
        start = f.binary("mul nsw", block, size)
        low = f.binary("sub", f.intrinsic("smax", start, SSA("%begin", "i64")), start)
        end = f.intrinsic("smin", f.binary("add", start, size), SSA("%end", "i64"))
        return low, f.binary("sub", end, start)

    def _nothing_packed(self) -> SSA:
        """Return where the number of the blocks' panels will be that are there already."""
        packed = self.f.slot("i64")
        self.f.store(self.f.integer(-1), packed, 8)
        return packed

    def _pack(self, panels: Panels, at: Sequence[SSA], across: SSA, b: Buffer) -> None:
        """Make the panels of a block, in memory that every block of this thread uses for them."""
        f, width = self.f, self.tiling.block[1]
        count, size = panels.split.count, panels.inner * panels.width
        packed = panels.buffer(f"{self.step.name}_b", self.step.out)
        pack = render_pack(f"{f.name}.pack", panels, b, packed, only_these=True)
        f.add(pack.function)
        matrix = offset(f, at, [stride // size for stride in panels.batch_strides])
        begin = f.binary("mul nsw", across, f.integer(width))
        end = f.intrinsic("smin", f.binary("add nsw", begin, f.integer(width)), f.integer(count))
        each = f.integer(pack.parts // (math.prod(panels.own_batch) * count))
        bounds = [f.binary("mul nsw", f.binary("add nsw", matrix, panel), each) for panel in (begin, end)]
        f.do(f"call void @{pack.function.name}({self.b_pointer}, ptr %b, {', '.join(map(str, bounds))})")

    def _counts(self) -> tuple[int, int]:
        return self.tiling.rows.count, self.tiling.vectors.count

    def _tile_in_block(self, at: Sequence[SSA], down: SSA, across: SSA, number: SSA, cut: SSA) -> None:
        """Compute a tile, given its number in the block; nothing where the block hangs over the edge."""
        f = self.f
        height, width = self.tiling.block
        row, own = coordinates(f, number, [height, width])
        row = f.binary("add", row, f.binary("mul", down, f.integer(height)))
        column = f.binary("add", own, f.binary("mul", across, f.integer(width)))
        rows, columns = self._counts()
        if rows % height == 0 and columns % width == 0:
            self._tile(at, row, column, own, cut)
            return
        inside = f.binary("and", f.compare("slt", row, f.integer(rows)), f.compare("slt", column, f.integer(columns)))
        with f.when(inside):
            self._tile(at, row, column, own, cut)

    def _tile(self, at: Sequence[SSA], row: SSA, panel: SSA, own: SSA, cut: SSA) -> None:
        """Compute a tile at these numbers, its panel `own` in its block: one loop for each size that tiles have."""
        f, tiling, product = self.f, self.tiling, self.product
        first_row, height = self._extent(tiling.rows, row)
        first_vector, width = self._extent(tiling.vectors, panel)
        first_column = f.binary("mul nsw", first_vector, f.integer(tiling.lanes))
        first = (first_column, first_row) if product.is_turned else (first_row, first_column)
        bounds = self._bounds(at, cut)
        place = TilePlace(
            self.a.begin(f, at, row, first_row),
            self._begin_of_b(at, panel, own, first_column),
            offset(f, [*at, *first], [*product.out.batch, product.out.outer, 1]),
            f.binary("sub", f.integer(self.product.columns), first_column),
            bounds,
            f.compare("eq", cut, self.cuts[0]),
            f.compare("eq", cut, f.integer(tiling.cuts - 1)),
            first[1],
        )
        for is_tall, rows in self._variants(tiling.rows, height):
            with f.when(is_tall):
                for is_wide, vectors in self._variants(tiling.vectors, width):
                    with f.when(is_wide):
                        self.write_sums(place, rows, vectors)

    def _bounds(self, at: Sequence[SSA], cut: SSA) -> list[tuple[SSA, SSA]]:
        """Return where each axis of the sum begins and ends in a cut, for the tiles at a place in the batch."""
        f, inner, second = self.f, self.tiling.inner, self.tiling.second
        outer, within = coordinates(f, cut, [inner.count, second.count])
        bounds = [
            (part_start(f, split, at), part_start(f, split, f.binary("add", at, f.integer(1))))
            for split, at in ((inner, outer), (second, within))
        ]
        bounds += [(f.integer(0), f.integer(length)) for length in self.product.sums[2:]]
        for clip in self.product.clips:
            row = f.integer(0) if clip.row_step is None else at[clip.row_step]
            (begin, end), (first, last) = bounds[clip.sum_step], self._inside(clip, row)
            bounds[clip.sum_step] = f.intrinsic("smax", begin, first), f.intrinsic("smin", end, last)
        return bounds[: len(self.product.sums)]

    def _inside(self, clip: Clip, row: SSA) -> tuple[SSA, SSA]:
        """Return the first step that a clip leaves at a row's coordinate, and the one after the last."""
        f, apart = self.f, clip.sum_stride

        def steps(number: SSA) -> SSA:
            positive = f.intrinsic("smax", number, f.integer(0))
            return f.binary("udiv", positive, f.integer(apart))

        first = offset(f, [row], [-clip.row_stride], apart - 1 - clip.start)
        return steps(first), steps(offset(f, [row], [-clip.row_stride], clip.length - 1 - clip.start + apart))

    def _begin_of_b(self, at: Sequence[SSA], panel: SSA, own: SSA, first_column: SSA) -> SSA:
        if self.panels is None:
            return self.b.begin(self.f, at, panel, first_column)
        return self.f.binary("mul nsw", own, self.f.integer(self.b.panel))

    def _extent(self, split: Split, number: SSA) -> tuple[SSA, SSA]:
        start = part_start(self.f, split, number)
        end = part_start(self.f, split, self.f.binary("add", number, self.f.integer(1)))
        return start, self.f.binary("sub", end, start)

    def _variants(self, split: Split, size: SSA) -> list[tuple[SSA, int]]:
        if split.largest == split.smallest:
            return [(SSA("true", "i1"), split.largest)]
        is_large = self.f.compare("eq", size, self.f.integer(split.largest))
        is_small = self.f.binary("xor", is_large, SSA("true", "i1"))
        return [(is_large, split.largest), (is_small, split.smallest)]

    # -- one tile

    def write_sums(self, place: TilePlace, rows: int, vectors: int) -> None:
        """Write one size's code: the sums so far, the loop, and the store."""
        f, lanes = self.f, self.tiling.lanes
        scalar = llvm_type(self.step.out.dtype)
        masks = self.masks(place, vectors)
        target = f.address("%out", scalar, place.out) if self.writes_out else self.tile
        stride = self.epilogue.row_stride
        addresses = [self.moved(target, i * stride + j * lanes) for i in range(rows) for j in range(vectors)]
        align = self.step.out.dtype.itemsize
        vector = f"<{lanes} x {scalar}>"
        starts = []
        for number, address in enumerate(addresses):
            zero = SSA("zeroinitializer", vector)
            if self.tiling.cuts > 1:
                before = load_vector(f, vector, address, masks[number % vectors], align)
                zero = f.select(place.is_first, zero, before)
            starts.append(zero)
        sums = self.loop(place, (rows, vectors, masks), starts)
        for number, address in enumerate(addresses):
            store_vector(f, sums[number], address, masks[number % vectors] if self.writes_out else None, align)
        if self.step.epilogue:
            with f.when(place.is_last):
                self.epilogue.call(f, target, (place.out, place.first_column), (rows, vectors))

    def loop(self, place: TilePlace, tile: TileSize, starts: Sequence[SSA]) -> list[SSA]:
        """Write the loop over a tile's sums and return them."""
        a = self.f.address("%a", self.a.element.unit, place.a)
        b = self.f.address(self.b_pointer.name, self.b.element.unit, place.b)
        return self.sums.write((a, b), place.bounds, tile, starts)

    def masks(self, place: TilePlace, vectors: int) -> list[SSA | None]:
        """Return for each vector of a tile the mask of its columns: none where all are always there."""
        masks: list[SSA | None] = [None] * vectors
        columns = self.tiling.vectors
        # The last panel is one of the narrow ones.
        if self.product.columns % self.tiling.lanes and vectors == columns.smallest:
            left = self.f.binary("sub", place.columns_left, self.f.integer((vectors - 1) * self.tiling.lanes))
            masks[-1] = mask_below(self.f, left, self.tiling.lanes)
        return masks

    def moved(self, address: SSA, elements: int) -> SSA:
        """Return the address so many of the result's elements further on."""
        return self.f.address(address.name, llvm_type(self.step.out.dtype), self.f.integer(elements))

"""Matrix products: one generator for every shape and layout.

A tile of the result, some rows high and some vectors wide, is kept in registers while the loop over the sum loads a few
vectors of a row of the right operand, repeats one element of each of the tile's rows of the left operand, and
multiplies and adds. `tiling` says how large tiles are, which of them are finished together while their operands lie in
the caches, and which operands are first copied into panels (`packing`). Long sums are cut: sums so far are kept in
the result. What follows elementwise, a contraction's epilogue, is computed tile by tile while the sums are in the first
cache.

Reference: K. Goto, R. van de Geijn, "Anatomy of high-performance matrix multiplication", 2008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from needle.compiler.elements import Element
from needle.compiler.epilogue import Epilogue
from needle.compiler.host import Host
from needle.compiler.ir import SSA, Function, llvm_type
from needle.compiler.long_sums import render_pieces
from needle.compiler.loops import Buffer, Call, Kernel, Load, Place, Reduce
from needle.compiler.operand import Clip, Operand
from needle.compiler.packing import (
    Panels,
    coordinates,
    load_vector,
    mask_below,
    offset,
    opaque,
    part_start,
    prefetch,
    render_pack,
    splat,
    store_vector,
)
from needle.compiler.render import Bands, RenderedKernel, render_kernel
from needle.compiler.spreading import render_spread, times_in_memory
from needle.compiler.steps import Contraction
from needle.compiler.thread_count import available_processors
from needle.compiler.tiles_function import TilesFunction
from needle.compiler.tiling import Product, Split, Tiling, choose_tiling

__all__ = ["Source", "Tiles", "left_panels", "render_contraction", "right_panels", "source_of"]

# Fewer multiply-adds than this are done by one thread.
_WORTH_SHARING = 400_000
# Fewer bands for each thread are not divided evenly enough to go on in them.
_BANDS_EACH = 2
# How many steps of the sum a line of memory is asked for before it is used.
_AHEAD = 16


def render_contraction(step: Contraction, host: Host, packs_once: bool = False) -> list[RenderedKernel]:
    """Return the functions that compute a contraction, in order.

    `packs_once` says that other contractions have the same right operand, and will share what is packed.
    """
    if not all(step.out.shape):
        return []
    if step.out.dtype not in (np.float32, np.float64) or step.a.shape[-1] == 0:
        kernels = [_plain_loops(step)]
        if step.epilogue:
            kernels.append(Kernel(f"{step.name}_finish", step.out.shape, (), step.epilogue, step.sources))
        return [render_kernel(kernel) for kernel in kernels]
    product, tiling = choose_tiling(step, host, packs_once)
    phases: list[RenderedKernel] = []
    a, a_buffer = left_panels(product, tiling), step.a.buffer
    b, b_buffer = right_panels(product, tiling), step.b.buffer
    if a_buffer.dtype != step.out.dtype and not tiling.pack_a:
        # Conversions one by one, where tiles repeat an element, take longer than all of them beforehand.
        if times_in_memory(step.a) > 0.5:
            spread, a_buffer, first = render_spread(f"{step.name}_spread_a", step.a, step.out.dtype)
            phases.append(spread)
            a = replace(a, layout=replace(a.layout, offset=a.layout.offset - first))
        else:
            tiling = replace(tiling, pack_a=True)
    if tiling.pack_a:
        a_buffer = a.buffer(f"{step.name}_a", step.out)
        phases.append(render_pack(f"{step.name}_pack_a", a, step.a.buffer, a_buffer))
    if tiling.pack_b and not tiling.packs_in_blocks:
        b_buffer = b.buffer(f"{step.name}_b", step.out)
        phases.append(render_pack(f"{step.name}_pack_b", b, step.b.buffer, b_buffer))
    dtypes = a_buffer.dtype, step.out.dtype if tiling.pack_b else b_buffer.dtype
    elements = [Element(dtype, dtype, step.out.dtype) for dtype in dtypes]
    sources = [source_of(*one) for one in zip((a, b), (tiling.pack_a, tiling.pack_b), elements, strict=True)]
    work = Tiles(step, product, tiling, *sources, panels=b if tiling.packs_in_blocks else None)
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


def left_panels(product: Product, tiling: Tiling) -> Panels:
    """Return how the left operand is cut into panels."""
    rows, lanes = product.rows, tiling.lanes
    return Panels(product.a, product.batch, rows, product.sums, tiling.rows, 1, tiling.a_width, lanes)


def right_panels(product: Product, tiling: Tiling) -> Panels:
    """Return how the right operand is cut into panels."""
    columns, lanes = product.columns, tiling.lanes
    return Panels(product.b, product.batch, columns, product.sums, tiling.vectors, lanes, tiling.b_width, lanes)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tile's operand begins and how it goes on: start + batch · at + panel · number + outer · first element.

    All of it is counted in what `element` says of memory.
    """

    start: int
    batch: tuple[int, ...]
    panel: int
    first: int
    outer: int
    inner: tuple[int, ...]
    element: Element

    @property
    def is_along_sums(self) -> bool:
        """Whether what one step after another takes lies side by side."""
        return self.inner[-1] * self.element.memory.itemsize == self.element.loaded.itemsize

    def begin(self, f: Function, at: Sequence[SSA], number: SSA, first: SSA) -> SSA:
        """Return where the operand of a tile begins."""
        return offset(f, [*at, number, first], [*self.batch, self.panel, self.first], self.start)


def source_of(panels: Panels, is_packed: bool, element: Element) -> Source:
    """Return where tiles find an operand: in panels, or where it lies."""
    if is_packed:
        inner = [panels.width]
        for length in reversed(panels.sums[1:]):
            inner.insert(0, inner[0] * length)
        return Source(0, panels.batch_strides, panels.inner * panels.width, 0, 1, tuple(inner), element)
    layout = panels.layout
    return Source(layout.offset, layout.batch, 0, layout.outer, layout.outer, layout.inner, element)


class Tiles:
    """Writes the function that computes tiles begin … end − 1 of the result, block by block."""

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
        row_stride = product.out.outer if self.writes_out else tiling.b_width
        self.epilogue = Epilogue(step, product, tiling, row_stride)
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
        self.tile = self.f.slot(llvm_type(step.out.dtype), tiling.rows.largest * tiling.b_width)
        self.panels = panels  # of the right operand, where each block makes its own
        self.b_pointer = SSA("%b", "ptr")
        if panels is not None:
            self.b_pointer = self.f.slot(llvm_type(step.out.dtype), tiling.block[1] * panels.inner * panels.width)

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
        if math.prod(product.batch) != 1 or split.largest != split.smallest or self.tiling.pieces > 1:
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
        bounds = self._bounds(at, cut)
        place = _TilePlace(
            self.a.begin(f, at, row, first_row),
            self._begin_of_b(at, panel, own, first_column),
            offset(f, [*at, first_row, first_column], [*product.out.batch, product.out.outer, 1]),
            f.binary("sub", f.integer(self.product.columns), first_column),
            bounds,
            f.compare("eq", cut, self.cuts[0]),
            f.compare("eq", cut, f.integer(tiling.cuts - 1)),
            first_column,
        )
        for is_tall, rows in self._variants(tiling.rows, height):
            with f.when(is_tall):
                for is_wide, vectors in self._variants(tiling.vectors, width):
                    with f.when(is_wide):
                        self._sums(place, rows, vectors)

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

    def _sums(self, place: _TilePlace, rows: int, vectors: int) -> None:
        """Write one size's code: the sums so far, the loop, and the store."""
        f, lanes = self.f, self.tiling.lanes
        scalar = llvm_type(self.step.out.dtype)
        masks = self._masks(place, vectors)
        target = f.address("%out", scalar, place.out) if self.writes_out else self.tile
        stride = self.epilogue.row_stride
        addresses = [self._moved(target, i * stride + j * lanes) for i in range(rows) for j in range(vectors)]
        align = self.step.out.dtype.itemsize
        vector = f"<{lanes} x {scalar}>"
        starts = []
        for number, address in enumerate(addresses):
            zero = SSA("zeroinitializer", vector)
            if self.tiling.cuts > 1:
                before = load_vector(f, vector, address, masks[number % vectors], align)
                zero = f.select(place.is_first, zero, before)
            starts.append(zero)
        sums = self._loop(place, rows, vectors, starts, masks)
        for number, address in enumerate(addresses):
            store_vector(f, sums[number], address, masks[number % vectors] if self.writes_out else None, align)
        if self.step.epilogue:
            with f.when(place.is_last):
                self.epilogue.call(f, target, (place.out, place.first_column), (rows, vectors))

    def _masks(self, place: _TilePlace, vectors: int) -> list[SSA | None]:
        """Return for each vector of a tile the mask of its columns: none where all are always there."""
        masks: list[SSA | None] = [None] * vectors
        columns = self.tiling.vectors
        # The last panel is one of the narrow ones.
        if self.product.columns % self.tiling.lanes and vectors == columns.smallest:
            left = self.f.binary("sub", place.columns_left, self.f.integer((vectors - 1) * self.tiling.lanes))
            masks[-1] = mask_below(self.f, left, self.tiling.lanes)
        return masks

    def _loop(
        self, place: _TilePlace, rows: int, vectors: int, starts: Sequence[SSA], masks: Sequence[SSA | None]
    ) -> list[SSA]:
        """Write the loops over the sum, all sums in registers, and return them."""
        a = self.f.address("%a", self.a.element.unit, place.a)
        b = self.f.address(self.b_pointer.name, self.b.element.unit, place.b)
        return self._axis(0, (a, b), place.bounds, (rows, vectors, masks), starts)

    def _axis(
        self,
        axis: int,
        at: tuple[SSA, SSA],
        bounds: Sequence[tuple[SSA, SSA]],
        tile: tuple[int, int, Sequence[SSA | None]],
        starts: Sequence[SSA],
    ) -> list[SSA]:
        """Write the loop over one axis of the sum, and those inside it."""
        f, vector = self.f, starts[0].type
        begin, end = bounds[axis][0], opaque(f, bounds[axis][1])
        before, body, done = f.block, f.fresh("body"), f.fresh("done")
        may_be_empty = any(clip.sum_step == axis for clip in self.product.clips)
        if may_be_empty:
            f.do(f"br {f.compare('slt', begin, end)}, label {body}, label {done}")
        else:
            f.do(f"br label {body}")
        f.label(body)
        k, following = f.fresh("k"), f.fresh("k")
        kept = [SSA(f.fresh("sum"), vector) for _ in starts]
        heads = len(f.lines)
        f.lines.extend([""] * (1 + len(kept)))
        a, b = (
            f.address(
                pointer.name, source.element.unit, f.binary("mul nsw", SSA(k, "i64"), f.integer(source.inner[axis]))
            )
            for pointer, source in zip(at, (self.a, self.b), strict=True)
        )
        if axis + 1 < len(self.product.sums):
            sums = self._axis(axis + 1, (a, b), bounds, tile, kept)
        else:
            sums = self._step(a, b, tile, kept)
        f.lines.append(f"  {following} = add nsw i64 {k}, 1")
        latch = f.block
        f.lines[heads] = f"  {k} = phi i64 [ {begin.name}, %{before} ], [ {following}, %{latch} ]"
        for number, (one, start, new) in enumerate(zip(kept, starts, sums, strict=True), heads + 1):
            f.lines[number] = f"  {one.name} = phi {vector} [ {start.name}, %{before} ], [ {new.name}, %{latch} ]"
        more = f.emit("i1", f"icmp slt i64 {following}, {end.name}")
        f.do(f"br {more}, label {body}, label {done}")
        f.label(done)
        if not may_be_empty:
            return sums
        either = f"phi {vector} [ {{}}, %{before} ], [ {{}}, %{latch} ]"
        return [f.emit(vector, either.format(one.name, new.name)) for one, new in zip(starts, sums, strict=True)]

    def _step(self, a: SSA, b: SSA, tile: tuple[int, int, Sequence[SSA | None]], kept: Sequence[SSA]) -> list[SSA]:
        """Write one step of the sum: a few vectors of the right operand times an element of each row of the left."""
        f, lanes, (rows, vectors, masks) = self.f, self.tiling.lanes, tile
        row = []
        for j in range(vectors):
            mask = None if self.tiling.pack_b else masks[j]
            row.append(self.load_right(self.b.element.moved(f, b, j * lanes), mask))
            if self.tiling.pack_b:
                prefetch(f, self.b.element.moved(f, b, j * lanes + _AHEAD * self.b.inner[-1]))
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

    def _moved(self, address: SSA, elements: int) -> SSA:
        return self.f.address(address.name, llvm_type(self.step.out.dtype), self.f.integer(elements))


@dataclass(frozen=True, slots=True)
class _TilePlace:
    """Where a tile's operands and its result begin, the columns from there on, and the part of the sum to do."""

    a: SSA
    b: SSA
    out: SSA
    columns_left: SSA
    bounds: Sequence[tuple[SSA, SSA]]
    is_first: SSA
    is_last: SSA
    first_column: SSA

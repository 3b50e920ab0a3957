"""Matrix products: one generator for every shape and layout.

The right operand is packed into panels of a few vectors' width, zeros where the last one has no columns. A tile of
the result, some rows high and a panel wide, is kept in registers while the loop over the inner dimension loads a
row of the panel, repeats one element of each of the tile's rows of the left operand, and multiplies and adds. The left
operand is read in place, whatever its strides. How high and wide a tile is comes from a count of the cycles that its
multiply-adds and its loads take on the host's registers.

Reference: K. Goto, R. van de Geijn, "Anatomy of high-performance matrix multiplication", 2008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle.compiler.host import Host
from needle.compiler.ir import SSA, Function, llvm_type
from needle.compiler.loops import Buffer, Call, Kernel, Load, Place, Reduce
from needle.compiler.render import RenderedKernel, render_kernel
from needle.compiler.schedule import Contraction, Operand

__all__ = ["Tile", "choose_tile", "render_contraction"]

# Fewer multiply-adds than this are done by one thread.
_WORTH_SHARING = 60_000


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of the result: rows × vectors, and the number of elements of a vector."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        """The width in elements."""
        return self.vectors * self.lanes


def choose_tile(rows: int, columns: int, lanes: int, registers: int) -> Tile:
    """Return the tile that covers rows × columns in the fewest cycles, as `_cycles` counts them."""
    candidates = [
        Tile(height, vectors, lanes)
        for vectors in (1, 2, 3, 4)
        for height in range(1, rows + 1)
        if height * vectors + vectors + 1 <= registers and vectors <= max(1, -(-columns // lanes))
    ]
    return min(candidates, key=lambda tile: (_cycles(rows, columns, tile), -tile.rows * tile.vectors))


def _cycles(rows: int, columns: int, tile: Tile) -> float:
    """Count the cycles a step of the inner dimension takes: two multiply-adds and two loads a cycle, four to finish."""
    full, rest = divmod(rows, tile.rows)
    panels = -(-columns // tile.columns)
    heights = [(tile.rows, full)] + ([(rest, 1)] if rest else [])
    cost = 0.0
    for height, count in heights:
        cost += count * max(height * tile.vectors / 2, (height + tile.vectors) / 2, 4)
    return panels * cost


def render_contraction(step: Contraction, host: Host) -> tuple[list[RenderedKernel], Buffer | None]:
    """Return the functions that compute a contraction, in order, and the buffer for the packed operand."""
    if step.out.dtype not in (np.float32, np.float64) or not all(step.out.shape):
        return [render_kernel(_plain_loops(step))], None
    rows, columns = step.out.shape[-2:]
    if step.a.shape[-1] == 0:
        return [render_kernel(_plain_loops(step))], None
    tile = choose_tile(rows, columns, host.vector_bytes // step.out.dtype.itemsize, host.vector_registers)
    panels = -(-columns // tile.columns)
    batch = _batch_with_own_operand(step.b)
    inner = step.b.shape[-2]
    packed = Buffer(f"{step.name}_packed", (math.prod(batch), panels, inner, tile.columns), step.out.dtype)
    return [_render_pack(step, tile, packed, batch), _render_tiles(step, tile, packed, batch)], packed


def _plain_loops(step: Contraction) -> Kernel:
    """Write a product of integers (or an empty one) as a kernel that reduces."""
    *batch, rows, columns = step.out.shape
    inner = step.a.shape[-1]
    rank = len(batch) + 3

    def place(operand: Operand, axes: Sequence[int]) -> Place:
        strides = [0] * rank
        for axis, stride in zip(axes, operand.place.strides, strict=True):
            strides[axis] = stride
        return Place(operand.place.offset, tuple(strides))

    batch_axes = list(range(len(batch)))
    row, column, summed = rank - 3, rank - 2, rank - 1
    dtype = step.out.dtype
    a = Load(step.a.buffer, place(step.a, [*batch_axes, row, summed]), dtype)
    b = Load(step.b.buffer, place(step.b, [*batch_axes, summed, column]), dtype)
    out = Place(0, (*step.out.strides, 0))
    stage = Reduce(step.out, out, "reduce_sum", Call("multiply", (a, b), dtype))
    return Kernel(step.name, (*batch, rows, columns, inner), (summed,), (stage,), step.sources)


def _batch_with_own_operand(operand: Operand) -> tuple[int, ...]:
    """Return the batch axes' lengths, 1 where the same matrix serves all: it is packed once."""
    strides = operand.place.strides[:-2]
    return tuple(1 if stride == 0 else n for n, stride in zip(operand.shape[:-2], strides, strict=True))


def _split(f: Function, number: SSA, lengths: Sequence[int]) -> list[SSA]:
    """Return the coordinates of a position in an array of these lengths."""
    coordinates: list[SSA] = []
    for length in reversed(lengths[1:]):
        coordinates.append(f.binary("urem", number, f.integer(length)))
        number = f.binary("udiv", number, f.integer(length))
    return [number, *reversed(coordinates)] if lengths else []


def _offset(f: Function, coordinates: Sequence[SSA], strides: Sequence[int], start: int = 0) -> SSA:
    total = f.integer(start)
    for coordinate, stride in zip(coordinates, strides, strict=True):
        if stride:
            total = f.binary("add nsw", total, f.binary("mul nsw", coordinate, f.integer(stride)))
    return total


def _render_pack(step: Contraction, tile: Tile, packed: Buffer, batch: Sequence[int]) -> RenderedKernel:
    """Write the function that copies the right operand into panels."""
    pointers = ["ptr noalias %packed", "ptr noalias %b", "i64 %begin", "i64 %end"]
    f = Function(f"{step.name}_pack", pointers, "nounwind #0")
    type_, size = llvm_type(packed.dtype), packed.dtype.itemsize
    inner, columns = step.b.shape[-2:]
    panels = packed.shape[1]
    row_stride, column_stride = step.b.place.strides[-2:]
    zero = SSA("0.0", type_)
    with f.loop(SSA("%begin", "i64"), SSA("%end", "i64")) as part:
        *place, panel = _split(f, part, [*batch, panels])
        source = _offset(f, place, step.b.place.strides[:-2], step.b.place.offset)
        first = f.binary("mul nsw", panel, f.integer(tile.columns))
        left = f.binary("sub", f.integer(columns), first)
        width = f.intrinsic("smin", left, f.integer(tile.columns))
        target = f.binary("mul nsw", part, f.integer(inner * tile.columns))
        source = f.binary("add nsw", source, f.binary("mul nsw", first, f.integer(column_stride)))
        with f.loop(f.integer(0), f.integer(inner)) as k:
            row = f.binary("add nsw", source, f.binary("mul nsw", k, f.integer(row_stride)))
            out = f.binary("add nsw", target, f.binary("mul nsw", k, f.integer(tile.columns)))
            with f.loop(f.integer(0), width) as j:
                at = f.binary("add nsw", row, f.binary("mul nsw", j, f.integer(column_stride)))
                value = f.load(type_, f.address("%b", type_, at), size)
                f.store(value, f.address("%packed", type_, f.binary("add nsw", out, j)), size)
            with f.loop(width, f.integer(tile.columns)) as j:
                f.store(zero, f.address("%packed", type_, f.binary("add nsw", out, j)), size)
    parts = math.prod(batch) * panels
    return RenderedKernel(f, (packed, step.b.buffer), parts, packed.size >= _WORTH_SHARING)


def _render_tiles(step: Contraction, tile: Tile, packed: Buffer, batch: Sequence[int]) -> RenderedKernel:
    """Write the function that computes tiles begin … end − 1 of the result, panel by panel."""
    pointers = ["ptr noalias %out", "ptr noalias %a", "ptr noalias %packed", "i64 %begin", "i64 %end"]
    f = Function(f"{step.name}_tiles", pointers, "nounwind #0")
    *out_batch, rows, columns = step.out.shape
    inner = step.a.shape[-1]
    panels, heights = packed.shape[1], -(-rows // tile.rows)
    own = Buffer("", tuple(batch), packed.dtype).strides
    packed_strides = [0 if n == 1 else stride for n, stride in zip(batch, own, strict=True)]
    with f.loop(SSA("%begin", "i64"), SSA("%end", "i64")) as part:
        *place, panel, height = _split(f, part, [*out_batch, panels, heights])
        first_row = f.binary("mul nsw", height, f.integer(tile.rows))
        first_column = f.binary("mul nsw", panel, f.integer(tile.columns))
        matrix = f.binary("mul nsw", _offset(f, place, packed_strides), f.integer(panels))
        panel_start = f.binary("mul nsw", f.binary("add nsw", matrix, panel), f.integer(inner * tile.columns))
        a_start = _offset(f, place, step.a.place.strides[:-2], step.a.place.offset)
        a_start = f.binary("add nsw", a_start, f.binary("mul nsw", first_row, f.integer(step.a.place.strides[-2])))
        out_start = _offset(f, [*place, first_row, first_column], step.out.strides)
        left = f.binary("sub", f.integer(columns), first_column)
        work = _TileCode(f, step, tile, packed.dtype, a_start, panel_start, out_start, left)
        rest = rows % tile.rows
        if not rest:
            work.write(tile.rows)
        else:
            is_last = f.compare("eq", height, f.integer(heights - 1))
            with f.when(is_last):
                work.write(rest)
            if heights > 1:
                with f.when(f.binary("xor", is_last, SSA("true", "i1"))):
                    work.write(tile.rows)
    parts = math.prod(out_batch) * panels * heights
    shared = step.out.size * inner >= _WORTH_SHARING
    return RenderedKernel(f, (step.out, step.a.buffer, packed), parts, shared)


@dataclass
class _TileCode:
    """Writes one tile: accumulators, the loop over the inner dimension, and the store."""

    f: Function
    step: Contraction
    tile: Tile
    dtype: np.dtype[Any]
    a_start: SSA
    panel_start: SSA
    out_start: SSA
    columns_left: SSA

    def write(self, rows: int) -> None:
        """Write a tile of `rows` rows."""
        f, tile = self.f, self.tile
        scalar = llvm_type(self.dtype)
        vector = f"<{tile.lanes} x {scalar}>"
        sums = [[f.slot(vector) for _ in range(tile.vectors)] for _ in range(rows)]
        for slot in (slot for row in sums for slot in row):
            f.store(SSA("zeroinitializer", vector), slot, 64)
        row_stride, inner_stride = self.step.a.place.strides[-2:]
        with f.loop(f.integer(0), f.integer(self.step.a.shape[-1])) as k:
            at = f.binary("add nsw", self.panel_start, f.binary("mul nsw", k, f.integer(tile.columns)))
            panel_row = [
                f.load(vector, f.address("%packed", scalar, f.binary("add nsw", at, f.integer(j * tile.lanes))), 4)
                for j in range(tile.vectors)
            ]
            a_at = f.binary("add nsw", self.a_start, f.binary("mul nsw", k, f.integer(inner_stride)))
            for i in range(rows):
                element_at = f.binary("add nsw", a_at, f.integer(i * row_stride))
                element = f.load(scalar, f.address("%a", scalar, element_at), self.dtype.itemsize)
                repeated = self._repeat(element, vector)
                for j in range(tile.vectors):
                    so_far = f.load(vector, sums[i][j], 64)
                    f.store(f.intrinsic("fma", repeated, panel_row[j], so_far), sums[i][j], 64)
        self._store(sums, vector, scalar)

    def _repeat(self, element: SSA, vector: str) -> SSA:
        first = self.f.emit(vector, f"insertelement {vector} poison, {element}, i64 0")
        mask = f"<{self.tile.lanes} x i32> zeroinitializer"
        return self.f.emit(vector, f"shufflevector {first}, {vector} poison, {mask}")

    def _store(self, sums: list[list[SSA]], vector: str, scalar: str) -> None:
        """Write the sums to the result, whole vectors where all columns are there, else those that are."""
        f, tile = self.f, self.tile
        row_stride = self.step.out.strides[-2]
        ragged = self.step.out.shape[-1] % tile.columns
        for i, row in enumerate(sums):
            for j, slot in enumerate(row):
                value = f.load(vector, slot, 64)
                at = f.binary("add nsw", self.out_start, f.integer(i * row_stride + j * tile.lanes))
                address = f.address("%out", scalar, at)
                if ragged:
                    self._store_masked(value, address, vector, j)
                else:
                    f.store(value, address, self.dtype.itemsize)

    def _store_masked(self, value: SSA, address: SSA, vector: str, j: int) -> None:
        f, lanes = self.f, self.tile.lanes
        left = f.binary("sub", self.columns_left, f.integer(j * lanes))
        numbers = ", ".join(f"i64 {lane}" for lane in range(lanes))
        limits = f"<{lanes} x i64>"
        first = f.emit(limits, f"insertelement {limits} poison, {left}, i64 0")
        repeated = f.emit(limits, f"shufflevector {first}, {limits} poison, <{lanes} x i32> zeroinitializer")
        mask = f.emit(f"<{lanes} x i1>", f"icmp slt {limits} <{numbers}>, {repeated.name}")
        name = f"llvm.masked.store.v{lanes}f{self.dtype.itemsize * 8}.p0"
        f.declarations.add(f"declare void @{name}({vector}, ptr, i32, <{lanes} x i1>)")
        f.do(f"call void @{name}({value}, {address}, i32 {self.dtype.itemsize}, {mask})")

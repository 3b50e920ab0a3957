"""Products of bfloat16 by the processor's tile registers (Intel's advanced matrix extensions).

Eight registers hold matrices of 16 rows of 64 bytes; one instruction multiplies two of them, 16 × 32 by 32 × 16 numbers
of bfloat16, and adds the result to a third, of float32. Four of these make a tile of 32 × 32 sums. Both operands are
copied into panels first: of the left one 32 rows, of the right one 32 columns, in steps of 32 along the sum; in the
right one's the numbers of two steps lie side by side, as the instruction takes them.

Reference: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18 (AMX).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from needle.compiler.epilogue import Epilogue
from needle.compiler.host import Host
from needle.compiler.ir import SSA, Function
from needle.compiler.loops import Buffer
from needle.compiler.matrices import Layout, Product
from needle.compiler.operand import refine
from needle.compiler.packing import coordinates, load_vector, mask_below, offset, part_start, store_vector
from needle.compiler.rendered import RenderedKernel
from needle.compiler.steps import Contraction
from needle.compiler.tiles_function import TilesFunction
from needle.compiler.tiling import Split, Tiling

__all__ = ["render_tile_product"]

# The side of a tile of sums, and how many steps of the sum one instruction takes: both 32.
_SIDE = 32
_PANEL_STEP = _SIDE * _SIDE  # elements of a panel's step
# Tiles that are finished together, down and across, and steps of 32: both operands' panels fit into a second cache.
_BLOCK, _STEPS = 8, 32
_LANES = 16
_ROW_BYTES = 64
_WORTH_SHARING = 60_000


@dataclass(frozen=True, slots=True)
class _Axes:
    """Axes that are gone through as one: their lengths, and how many elements apart neighbours along each are."""

    lengths: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.lengths)

    def place(self, f: Function, number: SSA) -> SSA:
        """Return where an element lies, given its number."""
        return offset(f, coordinates(f, number, self.lengths), self.strides) if self.lengths else f.integer(0)


@dataclass(frozen=True, slots=True)
class _Matrices:
    """One operand: a matrix for each point of the batch, along its outer axis and along the sum."""

    buffer: Buffer
    offset: int
    batch: _Axes
    outer: _Axes
    sums: _Axes

    @property
    def panels(self) -> int:
        return -(-self.outer.count // _SIDE)

    @property
    def steps(self) -> int:
        return -(-self.sums.count // _SIDE)

    def packed(self, name: str) -> Buffer:
        """Return the buffer of the panels."""
        return Buffer(name, (self.batch.count, self.panels, self.steps, _SIDE, _SIDE), self.buffer.dtype)


def render_tile_product(step: Contraction, host: Host) -> list[RenderedKernel]:
    """Return the functions that compute a product of bfloat16, in order: two that copy panels, one that multiplies."""
    assert host.has_tiles
    a, b = _operands(step)
    a_panels, b_panels = a.packed(f"{step.name}_a"), b.packed(f"{step.name}_b")
    pack_a = _Pack(f"{step.name}_pack_a", a).render(a_panels, _pack_rows)
    pack_b = _Pack(f"{step.name}_pack_b", b).render(b_panels, _pack_columns)
    return [pack_a, pack_b, _Tiles(step, a, b).render(a_panels, b_panels)]


def _operands(step: Contraction) -> tuple[_Matrices, _Matrices]:
    """Return both operands. Where the right one is the same for the whole batch, that is more rows of the left one."""
    batch: list[tuple[int, int, int]] = []
    for a_walk, b_walk in zip(step.a.axes[:-2], step.b.axes[:-2], strict=True):
        found = refine(a_walk, b_walk)
        assert found is not None, "the schedule leaves no walks that cannot be gone together"
        batch += zip(*found, strict=True)
    lengths, a_strides, b_strides = (tuple(axis[i] for axis in batch) for i in range(3))
    rows = _Axes(tuple(n for n, _ in step.a.axes[-2]), tuple(stride for _, stride in step.a.axes[-2]))
    if not any(stride for n, stride in zip(lengths, b_strides, strict=True) if n > 1):
        rows = _Axes((*lengths, *rows.lengths), (*a_strides, *rows.strides))
        lengths, a_strides, b_strides = (), (), ()
    sums = refine(step.a.axes[-1], step.b.axes[-2])
    assert sums is not None
    ((columns, column_stride),) = step.b.axes[-1]
    a_sums, b_sums = (_Axes(tuple(sums[0]), tuple(strides)) for strides in sums[1:])
    return (
        _Matrices(step.a.buffer, step.a.offset, _Axes(lengths, a_strides), rows, a_sums),
        _Matrices(step.b.buffer, step.b.offset, _Axes(lengths, b_strides), _Axes((columns,), (column_stride,)), b_sums),
    )


# ------------------------------------------------------------------------------------------------- panels


class _Pack:
    """Writes the function that copies one operand into panels."""

    def __init__(self, name: str, matrices: _Matrices) -> None:
        self.matrices = matrices
        parameters = ["ptr noalias %packed", "ptr noalias %source", "i64 %begin", "i64 %end"]
        self.f = Function(name, parameters, "nounwind noinline #0")

    def render(self, packed: Buffer, pack: Callable[[_Pack, SSA, SSA, SSA], None]) -> RenderedKernel:
        """Return the function; `pack` writes what is done for one panel."""
        f, matrices = self.f, self.matrices
        with f.loop(SSA("%begin", "i64"), SSA("%end", "i64")) as part:
            at, panel = coordinates(f, part, [matrices.batch.count, matrices.panels])
            matrix = f.binary("add", matrices.batch.place(f, at), f.integer(matrices.offset))
            target = f.binary("mul", part, f.integer(matrices.steps * _PANEL_STEP))
            pack(self, matrix, f.binary("mul", panel, f.integer(_SIDE)), target)
        parts = matrices.batch.count * matrices.panels
        return RenderedKernel(f, (packed, matrices.buffer), parts, packed.size >= _WORTH_SHARING, 1)

    def line(self, matrix: SSA, number: SSA) -> SSA:
        """Return where a row (or a column) begins; past the last one, where that does."""
        f, outer = self.f, self.matrices.outer
        inside = f.intrinsic("smin", number, f.integer(outer.count - 1))
        return f.binary("add", matrix, outer.place(f, inside))

    @contextmanager
    def outer_sums(self, start: SSA) -> Iterator[tuple[SSA, SSA]]:
        """Go through all axes of the sum but the innermost: give the step's number and the source's place."""
        f, sums = self.f, self.matrices.sums
        with ExitStack() as loops:
            at = [loops.enter_context(f.loop(f.integer(0), f.integer(n))) for n in sums.lengths[:-1]]
            multiples = [math.prod(sums.lengths[axis + 1 :]) for axis in range(len(at))]
            yield offset(f, at, multiples), f.binary("add", start, offset(f, at, sums.strides[:-1]))

    def at_source(self, place: SSA) -> SSA:
        return self.f.address("%source", "i16", place)

    def at_target(self, place: SSA) -> SSA:
        return self.f.address("%packed", "i16", place)

    def step_place(self, k: SSA) -> tuple[SSA, SSA]:
        """Return where the panel's piece of a step of the sum begins, and which of its 32 it is."""
        f = self.f
        piece = f.binary("mul", f.binary("lshr", k, f.integer(5)), f.integer(_PANEL_STEP))
        return piece, f.binary("and", k, f.integer(_SIDE - 1))


def _pack_rows(pack: _Pack, matrix: SSA, first: SSA, target: SSA) -> None:
    """Copy 32 rows: 32 neighbouring steps of one row side by side."""
    f, sums = pack.f, pack.matrices.sums
    count, length, stride = sums.count, sums.lengths[-1], sums.strides[-1]
    whole = length // _SIDE if stride == 1 and (length % _SIDE == 0 or len(sums.lengths) == 1) else 0
    with f.loop(f.integer(0), f.integer(_SIDE)) as r:
        row = f.binary("add", target, f.binary("mul", r, f.integer(_SIDE)))
        with pack.outer_sums(pack.line(matrix, f.binary("add", first, r))) as (k0, source):
            if whole:
                with f.loop(f.integer(0), f.integer(whole)) as j:
                    steps = f.binary("mul", j, f.integer(_SIDE))
                    value = f.load("<32 x i16>", pack.at_source(f.binary("add", source, steps)), 2)
                    piece, _ = pack.step_place(f.binary("add", k0, steps))
                    f.store(value, pack.at_target(f.binary("add", row, piece)), 2)
            with f.loop(f.integer(whole * _SIDE), f.integer(length)) as i:
                value = f.load("i16", pack.at_source(offset(f, [i], [stride], 0, source)), 2)
                piece, within = pack.step_place(f.binary("add", k0, i))
                f.store(value, pack.at_target(f.binary("add", row, f.binary("add", piece, within))), 2)
        with f.loop(f.integer(count), f.integer(pack.matrices.steps * _SIDE)) as k:
            piece, within = pack.step_place(k)
            f.store(SSA("0", "i16"), pack.at_target(f.binary("add", row, f.binary("add", piece, within))), 2)


def _pack_columns(pack: _Pack, matrix: SSA, first: SSA, target: SSA) -> None:
    """Copy 32 columns: two halves of 16, of each the pairs of steps one after the other."""
    sums = pack.matrices.sums
    in_pairs = sums.lengths[-1] % 2 == 0 or len(sums.lengths) == 1
    if pack.matrices.outer.strides == (1,) and in_pairs:
        _pack_pairs(pack, matrix, first, target)
    else:
        _pack_single_columns(pack, matrix, first, target)


def _pack_pairs(pack: _Pack, matrix: SSA, first: SSA, target: SSA) -> None:
    """Copy columns that lie side by side, two steps of the sum at a time."""
    f, sums = pack.f, pack.matrices.sums
    length, stride, count = sums.lengths[-1], sums.strides[-1], sums.count
    left = f.binary("sub", f.integer(pack.matrices.outer.count), first)
    zeros = SSA("zeroinitializer", "<16 x i16>")
    order = ", ".join(f"i32 {lane + 16 * odd}" for lane in range(_LANES) for odd in (0, 1))

    def pair(k: SSA, even: SSA | None, odd: SSA | None) -> None:
        piece, within = pack.step_place(k)
        place = offset(f, [piece, within], (1, _LANES), 0, target)
        for half in (0, 1):
            mask = mask_below(f, f.binary("sub", left, f.integer(half * _LANES)), _LANES)
            values = []
            for source in (even, odd):
                if source is None:
                    values.append(zeros)
                    continue
                address = pack.at_source(f.binary("add", source, f.integer(half * _LANES)))
                values.append(load_vector(f, "<16 x i16>", address, mask, 2))
            joined = f.emit("<32 x i16>", f"shufflevector {values[0]}, {values[1]}, <32 x i32> <{order}>")
            f.store(joined, pack.at_target(f.binary("add", place, f.integer(half * _LANES * _SIDE))), 2)

    with pack.outer_sums(f.binary("add", matrix, first)) as (k0, source):
        with f.loop(f.integer(0), f.integer(length - length % 2), 2) as i:
            even = offset(f, [i], [stride], 0, source)
            pair(f.binary("add", k0, i), even, f.binary("add", even, f.integer(stride)))
        if length % 2:
            pair(f.integer(length - 1), f.binary("add", source, f.integer((length - 1) * stride)), None)
    with f.loop(f.integer(count + count % 2), f.integer(pack.matrices.steps * _SIDE), 2) as k:
        pair(k, None, None)


def _pack_single_columns(pack: _Pack, matrix: SSA, first: SSA, target: SSA) -> None:
    """Copy columns element by element."""
    f, sums = pack.f, pack.matrices.sums

    def place(column: SSA, k: SSA) -> SSA:
        piece, within = pack.step_place(k)
        pair, odd = f.binary("lshr", within, f.integer(1)), f.binary("and", within, f.integer(1))
        half, lane = f.binary("lshr", column, f.integer(4)), f.binary("and", column, f.integer(_LANES - 1))
        return offset(f, [piece, half, pair, lane, odd], (1, _LANES * _SIDE, _SIDE, 2, 1), 0, target)

    with f.loop(f.integer(0), f.integer(_SIDE)) as column:
        start = pack.line(matrix, f.binary("add", first, column))
        with pack.outer_sums(start) as (k0, source), f.loop(f.integer(0), f.integer(sums.lengths[-1])) as i:
            value = f.load("i16", pack.at_source(offset(f, [i], [sums.strides[-1]], 0, source)), 2)
            f.store(value, pack.at_target(place(column, f.binary("add", k0, i))), 2)
        with f.loop(f.integer(sums.count), f.integer(pack.matrices.steps * _SIDE)) as k:
            f.store(SSA("0", "i16"), pack.at_target(place(column, k)), 2)


# -------------------------------------------------------------------------------------------------- tiles


class _Tiles:
    """Writes the function that computes tiles begin … end − 1 of the result, block by block."""

    def __init__(self, step: Contraction, a: _Matrices, b: _Matrices) -> None:
        self.step = step
        self.a = a
        self.b = b
        self.rows, self.columns = a.outer.count, b.outer.count
        self.cuts = Split(a.steps, -(-a.steps // _STEPS))
        self.writes_out = step.keeps_out or self.cuts.count > 1
        self.epilogue = Epilogue(step, _product(self.rows, self.columns), _TILING, _SIDE)
        names = self.epilogue.pointers
        written = ["%out"] * self.writes_out + [names[buffer] for buffer in self.epilogue.writes]
        read = ["%a", "%b", *(names[buffer] for buffer in self.epilogue.reads)]
        parameters = [f"ptr noalias {name}" for name in [*written, *read]]
        self.f = TilesFunction(f"{step.name}_tiles", [*parameters, "i64 %begin", "i64 %end"], "nounwind noinline #0")
        self.sums = self.f.slot("float", _SIDE * _SIDE)

    def render(self, a: Buffer, b: Buffer) -> RenderedKernel:
        """Return the function."""
        f = self.f
        self._configure()
        down, across = (min(_BLOCK, count) for count in (self.a.panels, self.b.panels))
        blocks = -(-self.a.panels // down), -(-self.b.panels // across)
        each = down * across
        count = self.a.batch.count
        last = f.binary("add", SSA("%end", "i64"), f.integer(each - 1))
        with f.loop(
            f.binary("udiv", SSA("%begin", "i64"), f.integer(each)), f.binary("udiv", last, f.integer(each))
        ) as block:
            at, row_block, column_block = coordinates(f, block, [count, *blocks])
            start = f.binary("mul", block, f.integer(each))
            low = f.binary("sub", f.intrinsic("smax", start, SSA("%begin", "i64")), start)
            end = f.intrinsic("smin", f.binary("add", start, f.integer(each)), SSA("%end", "i64"))
            bounds = low, f.binary("sub", end, start)
            with f.loop(f.integer(0), f.integer(self.cuts.count)) as cut, f.loop(*bounds) as number:
                row, column = coordinates(f, number, [down, across])
                row = offset(f, [row_block], [down], 0, row)
                column = offset(f, [column_block], [across], 0, column)
                inside = f.binary(
                    "and",
                    f.compare("slt", row, f.integer(self.a.panels)),
                    f.compare("slt", column, f.integer(self.b.panels)),
                )
                with f.when(inside):
                    self._tile(at, row, column, cut)
        self._call("tilerelease")
        if self.step.epilogue:
            f.add(self.epilogue.function())
        written = (self.step.out,) * self.writes_out + self.epilogue.writes
        parts = count * blocks[0] * blocks[1] * each
        return RenderedKernel(f, (*written, a, b, *self.epilogue.reads), parts, True, len(written))

    def _call(self, name: str, *arguments: SSA) -> None:
        types = ", ".join(argument.type for argument in arguments)
        self.f.declarations.add(f"declare void @llvm.x86.{name}({types})")
        self.f.do(f"call void @llvm.x86.{name}({', '.join(map(str, arguments))})")

    def _configure(self) -> None:
        """Make all eight registers as large as they can be: 16 rows of 64 bytes."""
        f = self.f
        palette = f.slot("i8", 64)
        words = [1, 0, *[_ROW_BYTES * 0x0001_0001_0001_0001] * 2, 0, 0, 0x1010_1010_1010_1010, 0]
        for number, word in enumerate(words):
            f.store(SSA(str(word), "i64"), f.address(palette.name, "i64", f.integer(number)), 8)
        self._call("ldtilecfg", palette)

    def _tile(self, at: SSA, row: SSA, column: SSA, cut: SSA) -> None:
        """Compute 32 × 32 sums, or a cut of them."""
        f = self.f
        first = part_start(f, self.cuts, cut)
        steps = f.binary("sub", part_start(f, self.cuts, f.binary("add", cut, f.integer(1))), first)
        first_row, first_column = (f.binary("mul", one, f.integer(_SIDE)) for one in (row, column))
        out = offset(f, [at, first_row, first_column], (self.rows * self.columns, self.columns, 1))
        height = f.intrinsic("smin", f.binary("sub", f.integer(self.rows), first_row), f.integer(_SIDE))
        masks = [
            mask_below(f, f.binary("sub", f.integer(self.columns - half * _LANES), first_column), _LANES)
            for half in (0, 1)
        ]
        if self.cuts.count > 1:
            with f.when(f.compare("sgt", cut, f.integer(0))):
                self._copy(height, masks, out, into_sums=True)
                self._move_sums("tileloadd64")
            with f.when(f.compare("eq", cut, f.integer(0))):
                self._zero()
        else:
            self._zero()
        self._multiply(self._panel("%a", self.a, at, row, first), self._panel("%b", self.b, at, column, first), steps)
        self._move_sums("tilestored64")
        if self.writes_out:
            self._copy(height, masks, out, into_sums=False)
        if self.step.epilogue:
            with f.when(f.compare("eq", cut, f.integer(self.cuts.count - 1))):
                self.epilogue.call(f, self.sums, (out, first_column), (height, 2))

    def _panel(self, pointer: str, matrices: _Matrices, at: SSA, number: SSA, step: SSA) -> SSA:
        size = matrices.steps * _PANEL_STEP
        place = offset(self.f, [at, number, step], (matrices.panels * size, size, _PANEL_STEP))
        return self.f.address(pointer, "i16", place)

    def _zero(self) -> None:
        for register in range(4):
            self._call("tilezero", SSA(str(register), "i8"))

    def _move_sums(self, name: str) -> None:
        """Load or store the four registers of sums."""
        for register in range(4):
            start = self.f.integer(register // 2 * _LANES * _SIDE + register % 2 * _LANES)
            address = self.f.address(self.sums.name, "float", start)
            self._call(name, SSA(str(register), "i8"), address, self.f.integer(_SIDE * 4))

    def _multiply(self, a: SSA, b: SSA, steps: SSA) -> None:
        f = self.f
        registers = [SSA(str(number), "i8") for number in range(8)]
        stride, second = f.integer(_ROW_BYTES), f.integer(_LANES * _SIDE)
        with f.loop(f.integer(0), steps) as step:
            start = f.binary("mul", step, f.integer(_PANEL_STEP))
            places = [f.address(one.name, "i16", start) for one in (a, b)]
            later = [f.address(one.name, "i16", second) for one in places]
            self._call("tileloadd64", registers[4], places[0], stride)
            self._call("tileloadd64", registers[6], places[1], stride)
            self._call("tdpbf16ps", registers[0], registers[4], registers[6])
            self._call("tileloadd64", registers[7], later[1], stride)
            self._call("tdpbf16ps", registers[1], registers[4], registers[7])
            self._call("tileloadd64", registers[5], later[0], stride)
            self._call("tdpbf16ps", registers[2], registers[5], registers[6])
            self._call("tdpbf16ps", registers[3], registers[5], registers[7])

    def _copy(self, height: SSA, masks: Sequence[SSA], out: SSA, *, into_sums: bool) -> None:
        """Copy the sums to the result, or the sums so far from there."""
        f, vector = self.f, "<16 x float>"
        with f.loop(f.integer(0), height) as i:
            for half, mask in enumerate(masks):
                start = f.integer(half * _LANES)
                there = f.address("%out", "float", offset(f, [i, start], (self.columns, 1), 0, out))
                here = f.address(self.sums.name, "float", offset(f, [i, start], (_SIDE, 1)))
                if into_sums:
                    f.store(load_vector(f, vector, there, mask, 4), here, 4)
                else:
                    store_vector(f, f.load(vector, here, 4), there, mask, 4)


_TILING = Tiling(Split(1, 1), Split(1, 1), _LANES, Split(1, 1), (1, 1), pack_a=False, pack_b=False)


def _product(rows: int, columns: int) -> Product:
    """Return what an epilogue needs to know of the result."""
    nowhere = Layout(0, (), 0, ())
    return Product((), rows, columns, (), 4, nowhere, nowhere, Layout(0, (), columns, ()))

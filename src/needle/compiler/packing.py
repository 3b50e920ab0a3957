"""Copies of matrices in panels: what a tile reads one step after another lies side by side.

A panel holds, for every step of the sum, the elements of `width` neighbouring columns (or rows, of the left operand).
Memory that lies along the panels is copied vector by vector; memory that lies along the sums is transposed in squares
of registers, in log₂(lanes) rounds of shuffles; what lies neither way is copied element by element. Places past the
matrix's edge hold anything: the tile does not store what comes of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from needle.compiler.elements import Element
from needle.compiler.ir import SSA, Function, llvm_type
from needle.compiler.loops import Buffer
from needle.compiler.matrices import Layout
from needle.compiler.rendered import RenderedKernel
from needle.compiler.tiling import WORTH_COPYING_TOGETHER, Split

__all__ = [
    "SQUARE",
    "Copy",
    "Panels",
    "coordinates",
    "load_vector",
    "mask_below",
    "offset",
    "opaque",
    "part_start",
    "prefetch",
    "render_pack",
    "splat",
    "store_vector",
    "transposed",
    "with_parts_exchanged",
]

# How far ahead memory is asked for: steps of the sum where each is in another line, elements where they share lines.
_STEPS_AHEAD, _ELEMENTS_AHEAD = 32, 64
# Steps of the sum in one piece of work for a thread: fewer where all panels have their turn at them.
_PIECE, _SHORT_PIECE = 128, 64
# The side of the squares that are transposed in registers. Larger ones are little faster, and long to compile.
SQUARE = 8
# Copying an element takes as long as so many operations.
_COPY_COST = 4


@dataclass(frozen=True, slots=True)
class Panels:
    """How a matrix is cut: `split` of its outer axis, in units of `unit` elements, panels `width` wide."""

    layout: Layout
    batch: tuple[int, ...]
    outer: int
    sums: tuple[int, ...]
    split: Split
    unit: int
    width: int
    lanes: int

    def buffer(self, name: str, like: Buffer) -> Buffer:
        """Return the buffer that holds all panels; matrices that repeat along a batch axis are there once."""
        return Buffer(name, (math.prod(self.own_batch), self.split.count, self.inner, self.width), like.dtype)

    @property
    def inner(self) -> int:
        """The number of steps of the sum."""
        return math.prod(self.sums)

    @property
    def own_batch(self) -> tuple[int, ...]:
        """The batch axes' lengths, 1 where the same matrix serves all."""
        return tuple(1 if stride == 0 else n for n, stride in zip(self.batch, self.layout.batch, strict=True))

    @property
    def batch_strides(self) -> tuple[int, ...]:
        """How many elements apart the packed matrices of neighbours along each batch axis are."""
        size = self.split.count * self.inner * self.width
        strides = []
        for length in reversed(self.own_batch):
            strides.append(0 if length == 1 else size)
            size *= length
        return tuple(reversed(strides))


def coordinates(f: Function, number: SSA, lengths: Sequence[int]) -> list[SSA]:
    """Return the coordinates of a position in an array of these lengths."""
    found: list[SSA] = []
    for length in reversed(lengths[1:]):
        found.append(f.binary("urem", number, f.integer(length)))
        number = f.binary("udiv", number, f.integer(length))
    return [number, *reversed(found)] if lengths else []


def offset(f: Function, at: Sequence[SSA], strides: Sequence[int], start: int = 0, base: SSA | None = None) -> SSA:
    """Return base + start + Σ at[i] · strides[i]."""
    total = f.integer(start)
    if base is not None:
        total = f.binary("add nsw", base, total) if start else base
    for coordinate, stride in zip(at, strides, strict=True):
        if stride:
            total = f.binary("add nsw", total, f.binary("mul nsw", coordinate, f.integer(stride)))
    return total


def part_start(f: Function, split: Split, number: SSA) -> SSA:
    """Return where a part of a split begins: ⌈number · total / count⌉."""
    if split.total % split.count == 0:
        return f.binary("mul nsw", number, f.integer(split.largest))
    product = f.binary("mul nsw", number, f.integer(split.total))
    return f.binary("udiv", f.binary("add nsw", product, f.integer(split.count - 1)), f.integer(split.count))


def load_vector(f: Function, vector: str, address: SSA, mask: SSA | None, align: int) -> SSA:
    """Load a vector, zeros where a mask says so."""
    if mask is None:
        return f.load(vector, address, align)
    name = f"llvm.masked.load.{_mangled(vector)}.p0"
    f.declarations.add(f"declare {vector} @{name}(ptr, i32, {mask.type}, {vector})")
    return f.emit(vector, f"call {vector} @{name}({address}, i32 {align}, {mask}, {vector} zeroinitializer)")


def store_vector(f: Function, value: SSA, address: SSA, mask: SSA | None, align: int) -> None:
    """Store a vector where a mask lets it."""
    if mask is None:
        f.store(value, address, align)
        return
    name = f"llvm.masked.store.{_mangled(value.type)}.p0"
    f.declarations.add(f"declare void @{name}({value.type}, ptr, i32, {mask.type})")
    f.do(f"call void @{name}({value}, {address}, i32 {align}, {mask})")


def opaque(f: Function, number: SSA) -> SSA:
    """Return a number of which LLVM knows nothing: it would write out a loop whose length it knows, many times over."""
    return f.emit("i64", f'call i64 asm "", "=r,0"({number})')


def prefetch(f: Function, address: SSA) -> None:
    """Ask for a line of memory that will be read soon; it may lie past the end."""
    f.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    f.do(f"call void @llvm.prefetch.p0({address}, i32 0, i32 3, i32 1)")


def mask_below(f: Function, limit: SSA, lanes: int) -> SSA:
    """Return the mask of the lanes whose number is below a limit."""
    numbers = ", ".join(f"i64 {lane}" for lane in range(lanes))
    repeated = splat(f, limit, lanes)
    return f.emit(f"<{lanes} x i1>", f"icmp slt <{lanes} x i64> <{numbers}>, {repeated.name}")


def splat(f: Function, value: SSA, lanes: int) -> SSA:
    """Return the vector of one value everywhere."""
    vector = f"<{lanes} x {value.type}>"
    first = f.emit(vector, f"insertelement {vector} poison, {value}, i64 0")
    return f.emit(vector, f"shufflevector {first}, {vector} poison, <{lanes} x i32> zeroinitializer")


def transposed(f: Function, rows: Sequence[SSA]) -> list[SSA]:
    """Transpose a square of registers: halves change places, then quarters within halves, and so on."""
    rows, lanes, step = list(rows), len(rows), len(rows) // 2
    while step:
        for i in (i for i in range(lanes) if i & step == 0):
            rows[i], rows[i + step] = with_parts_exchanged(f, rows[i], rows[i + step], lanes, step)
        step //= 2
    return rows


def with_parts_exchanged(f: Function, a: SSA, b: SSA, lanes: int, step: int) -> tuple[SSA, SSA]:
    """Return two vectors, of whose parts of `step` elements the second, fourth, … of `a` and the first, third, … of `b`
    have changed places.
    """
    upper = [lane if lane & step == 0 else lanes + lane - step for lane in range(lanes)]
    lower = [lane + step if lane & step == 0 else lanes + lane for lane in range(lanes)]
    return _shuffled(f, a, b, upper), _shuffled(f, a, b, lower)


def _shuffled(f: Function, a: SSA, b: SSA, order: Sequence[int]) -> SSA:
    chosen = ", ".join(f"i32 {lane}" for lane in order)
    return f.emit(a.type, f"shufflevector {a}, {b}, <{len(order)} x i32> <{chosen}>")


def _mangled(vector: str) -> str:
    count, element = vector.strip("<>").split(" x ")
    return f"v{count}{ {'float': 'f32', 'double': 'f64'}.get(element, element) }"


def render_pack(  # noqa: PLR0917
    name: str,
    panels: Panels,
    source: Buffer,
    packed: Buffer,
    copy: Callable[..., Copy] | None = None,
    only_these: bool = False,
) -> RenderedKernel:
    """Write the function that copies a matrix into panels; `copy` writes how one panel's steps are.

    `only_these` says that `packed` begins with the first panel of those that a call copies, and not with the first.
    """
    parameters = ["ptr noalias %packed", "ptr noalias %source", "i64 %begin", "i64 %end"]
    f = Function(name, parameters, "nounwind noinline #0")
    *outside, steps = panels.sums
    # Panels that share lines of memory follow each other while these are in the cache.
    crosses = panels.layout.outer == 1 and not only_these
    size = _SHORT_PIECE if crosses else _PIECE
    pieces, count, place = -(-steps // size), panels.split.count, len(panels.own_batch)
    with f.loop(SSA("%begin", "i64"), SSA("%end", "i64")) as part:
        if crosses:
            *found, panel = coordinates(f, part, [*panels.own_batch, *outside, pieces, count])
        else:
            found = coordinates(f, part, [*panels.own_batch, count, *outside, pieces])
            panel = found.pop(place)
        at, outer, piece = found[:place], found[place:-1], found[-1]
        matrix = offset(f, [*at, *outer], [*panels.layout.batch, *panels.layout.inner[:-1]], panels.layout.offset)
        first = f.binary("mul nsw", part_start(f, panels.split, panel), f.integer(panels.unit))
        lengths = [*panels.own_batch, count, *outside]
        strides = [math.prod(lengths[axis + 1 :]) for axis in range(len(lengths))]
        number = offset(f, [*at, panel, *outer], strides)
        if only_these:
            number = f.binary("sub nsw", number, f.binary("udiv", SSA("%begin", "i64"), f.integer(pieces)))
        target = f.binary("mul nsw", number, f.integer(steps * panels.width))
        begin = f.binary("mul nsw", piece, f.integer(size))
        end = f.intrinsic("smin", f.binary("add nsw", begin, f.integer(size)), f.integer(steps))
        (copy or Copy)(f, panels, (source, packed), matrix, first, target).write(begin, end)
    parts = math.prod([*panels.own_batch, panels.split.count, *outside, pieces])
    is_shared, work = packed.size >= WORTH_COPYING_TOGETHER, packed.size * _COPY_COST
    return RenderedKernel(f, (packed, source), parts, is_shared, 1, work=work)


class Copy:
    """Writes the copy of one panel's steps: elements of the packed type, converted to it where the source has another.

    Args:
        f: the function to write into.
        panels: all panels.
        buffers: what is copied, and what into.
        matrix: where the panel's matrix begins.
        first: the number of the panel's first column.
        target: where the panel begins.
    """

    def __init__(  # noqa: PLR0917
        self, f: Function, panels: Panels, buffers: tuple[Buffer, Buffer], matrix: SSA, first: SSA, target: SSA
    ) -> None:
        self.f = f
        self.panels = panels
        source, packed = buffers
        self.element = Element(source.dtype, source.dtype, packed.dtype)
        self.scalar, self.size = llvm_type(packed.dtype), packed.dtype.itemsize
        self.steps = panels.sums[-1]
        self.matrix = matrix
        self.first = first
        self.target = target

    def write(self, begin: SSA, end: SSA) -> None:
        """Copy steps begin … end − 1."""
        layout = self.panels.layout
        if layout.outer == 1:
            self._along_panels(begin, end)
        elif layout.inner[-1] == 1:
            self._along_sums(begin, end)
        else:
            self._elements(begin, end)

    def _source(self, column: SSA, k: SSA) -> SSA:
        at = offset(self.f, [column, k], (self.panels.layout.outer, self.panels.layout.inner[-1]))
        return self.f.address("%source", self.element.unit, self.f.binary("add nsw", self.matrix, at))

    def _columns(self, column: SSA, k: SSA, mask: SSA | None) -> SSA:
        """Load a vector of one step of neighbouring columns."""
        return self._vector(self.panels.lanes, column, k, mask)

    def _vector(self, lanes: int, column: SSA, k: SSA, mask: SSA | None) -> SSA:
        """Load what lies side by side from one step of one column on."""
        element = self.element
        value = load_vector(self.f, element.vector(lanes), self._source(column, k), mask, element.align)
        return element.converted(self.f, value)

    def _one(self, column: SSA, k: SSA) -> SSA:
        """Load one step of one column."""
        return self.element.load(self.f, self._source(column, k))

    def _target(self, k: SSA, j: SSA) -> SSA:
        at = offset(self.f, [k, j], (self.panels.width, 1))
        return self.f.address("%packed", self.scalar, self.f.binary("add nsw", self.target, at))

    def _ahead(self, k: SSA, steps: int) -> SSA:
        """Return how many elements further on that lies which is read so many steps later, maybe of the next panel."""
        f, (*_, stride), total = self.f, self.panels.layout.inner, self.panels.sums[-1]
        next_panel = self.panels.width * self.panels.layout.outer - total * stride
        is_here = f.compare("slt", k, f.integer(total - steps))
        return f.select(is_here, f.integer(steps * stride), f.integer(steps * stride + next_panel))

    def _moved(self, address: SSA, elements: SSA) -> SSA:
        return self.f.address(address.name, self.element.unit, elements)

    def _along_panels(self, begin: SSA, end: SSA) -> None:
        f, panels = self.f, self.panels
        starts = range(0, panels.width, panels.lanes)
        columns = [f.binary("add nsw", self.first, f.integer(j)) for j in starts]
        left = [f.binary("sub nsw", f.integer(panels.outer), column) for column in columns]
        whole = panels.unit == panels.lanes and panels.outer % panels.lanes == 0 and _is_even(panels.split)
        masks = [None if whole else mask_below(f, limit, panels.lanes) for limit in left]
        with f.loop(begin, end) as k:
            ahead = self._ahead(k, _STEPS_AHEAD)
            for j, column, mask in zip(starts, columns, masks, strict=True):
                prefetch(f, self._moved(self._source(column, k), ahead))
                value = self._columns(column, k, mask)
                f.store(value, self._target(k, f.integer(j)), self.size)

    def _along_sums(self, begin: SSA, end: SSA) -> None:
        f, panels = self.f, self.panels
        side, steps = min(panels.lanes, SQUARE), self.steps
        short = min(side, steps)
        mask = mask_below(f, f.integer(short), side) if short < side else None
        last = f.integer(panels.outer - 1)
        with f.loop(begin, end, side) as start:
            # The last square overlaps the one before: it writes the same values there.
            k = f.intrinsic("smin", start, f.integer(steps - short))
            ahead = self._ahead(k, _ELEMENTS_AHEAD)
            with f.loop(f.integer(0), opaque(f, f.integer(panels.width)), side) as j:
                rows = []
                for i in range(side):
                    column = f.binary("add nsw", f.binary("add nsw", self.first, j), f.integer(i))
                    column = f.intrinsic("smin", column, last)
                    prefetch(f, self._moved(self._source(column, k), ahead))
                    rows.append(self._vector(side, column, k, mask))
                for i, row in enumerate(transposed(f, rows)[:short]):
                    f.store(row, self._target(f.binary("add nsw", k, f.integer(i)), j), self.size)

    def _elements(self, begin: SSA, end: SSA) -> None:
        f, panels = self.f, self.panels
        last = f.integer(panels.outer - 1)
        with f.loop(begin, end) as k, f.loop(f.integer(0), f.integer(panels.width)) as j:
            column = f.intrinsic("smin", f.binary("add nsw", self.first, j), last)
            f.store(self._one(column, k), self._target(k, j), self.size)


def _is_even(split: Split) -> bool:
    return split.largest == split.smallest

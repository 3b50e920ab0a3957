"""The code of stencils: tiles of points side by side, whose loads are shared and whose sums stay in registers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from needle.compiler.host import Host
from needle.compiler.ir import SSA, Function, constant, llvm_type
from needle.compiler.loops import Buffer, Call, Kernel, Load, Number, Place, Reduce, Stage, Store, Value, Within
from needle.compiler.packing import prefetch, splat
from needle.compiler.rendered import RenderedKernel
from needle.compiler.scalar import emit_call, reduction_start
from needle.compiler.stencil import (
    REDUCTIONS,
    BoundedLoad,
    Line,
    Stencil,
    count_operations,
    line_of,
    loads_of,
    plan_stencil,
)

__all__ = ["render_stencil"]

# A smaller amount of work is not worth waking a second thread for, in points × operations.
_WORTH_SHARING = 60_000


def render_stencil(kernel: Kernel, host: Host) -> RenderedKernel | None:
    """Return the function of a kernel whose neighbouring points share what they load; None for any other."""
    stencil = plan_stencil(kernel, host)
    if stencil is None:
        return None
    buffers = tuple(dict.fromkeys([*kernel.writes(), *kernel.reads()]))
    pointers = {buffer: f"%p{number}" for number, buffer in enumerate(buffers)}
    parameters = [*(f"ptr noalias {pointer}" for pointer in pointers.values()), "i64 %begin", "i64 %end"]
    function = Function(kernel.name, parameters, "nounwind #0")
    parts = _Renderer(stencil, function, pointers).render()
    work = math.prod(kernel.shape) * count_operations(kernel.stages)
    return RenderedKernel(function, buffers, parts, work >= _WORTH_SHARING, len(kernel.writes()), work=work)


class _Renderer:
    """Writes one stencil's function."""

    def __init__(self, stencil: Stencil, function: Function, pointers: dict[Buffer, str]) -> None:
        self.stencil = stencil
        self.kernel = stencil.kernel
        self.f = function
        self.pointers = pointers
        self.dtype = stencil.kernel.stages[0].buffer.dtype
        self.scalar = llvm_type(self.dtype)
        self.vector = f"<{stencil.lanes} x {self.scalar}>"
        self.axes: dict[int, SSA] = {}
        self.sums: dict[int, SSA] = {}  # of each reduction: what all vectors have so far
        last = len(self.kernel.shape) - 1
        self.outer = [axis for axis in self.kernel.grid if axis not in (stencil.along, last)]
        self.line_axes = [*self.outer, *(axis for axis in self.kernel.reduced if axis != stencil.along)]
        self.ahead = self._elements_ahead()
        self.outside = self._write_outside()
        # What is known in the tile that is being written.
        self.values: dict[int, list[SSA]] = {}
        self.loaded: dict[tuple[Line, int], SSA] = {}
        self.stored: dict[tuple[Buffer, Place], list[SSA]] = {}
        self.addresses: dict[Line, SSA] = {}

    def _write_outside(self) -> dict[float, SSA]:
        """Write arrays of what is outside of images, which are read in the place of lines."""
        written = {}
        for number, count in self.stencil.outside.items():
            written[number] = self.f.slot(self.scalar, count)
            with self.f.loop(self.f.integer(0), self.f.integer(count)) as place:
                address = self.f.address(written[number].name, self.scalar, place)
                self.f.store(SSA(constant(number, self.dtype), self.scalar), address, self.dtype.itemsize)
        return written

    def _elements_ahead(self) -> list[tuple[Buffer, Place]]:
        """Return what the same tile of the next line loads that this line's has not: it is asked for ahead.

        Lines follow each other too slowly, and each is read too often, for the processor to see where they lead.
        """
        along = self.stencil.along
        if not self.line_axes:
            return []
        before = self.line_axes[-1]
        farthest: dict[tuple[Buffer, tuple[int, ...], int], Place] = {}
        for load in (one.load for one in loads_of(self.kernel.stages, self.kernel.inner)):
            strides = load.place.strides
            if strides[along] and strides[-1] == 1 and strides[before] > 0:
                key = load.buffer, strides, load.place.offset % abs(strides[along])
                farthest[key] = max(farthest.get(key, load.place), load.place, key=lambda place: place.offset)
        return [(buffer, place.shifted(place.strides[before])) for (buffer, _, _), place in farthest.items()]

    def render(self) -> int:
        """Write the loops and return how many parts the outermost one has."""
        f, kernel, last = self.f, self.kernel, len(self.kernel.shape) - 1
        begin, end = SSA("%begin", "i64"), SSA("%end", "i64")
        outer, reduced = self.outer, self.line_axes[len(self.outer) :]
        vectors = -(-kernel.shape[last] // self.stencil.lanes)
        for number, stage in enumerate(kernel.stages):
            if isinstance(stage, Reduce):
                self.sums[number] = f.slot(self.vector, vectors)
        shares = (f.integer(0), f.integer(vectors)) if outer else (begin, end)
        with ExitStack() as loops:
            for number, axis in enumerate(outer):
                bounds = (f.integer(0), f.integer(kernel.shape[axis])) if number else (begin, end)
                self.axes[axis] = loops.enter_context(f.loop(*bounds))
            self._start_sums(shares)
            with ExitStack() as inner:
                for axis in reduced:
                    self.axes[axis] = inner.enter_context(f.loop(f.integer(0), f.integer(kernel.shape[axis])))
                self.line_of(shares)
            self._finish_sums(shares)
        return kernel.shape[outer[0]] if outer else vectors

    def _first_lane(self, vector: SSA) -> SSA:
        """Return where a vector begins; the last one overlaps the one before it where they do not divide the axis."""
        f, lanes, length = self.f, self.stencil.lanes, self.kernel.shape[-1]
        start = f.binary("mul nsw", vector, f.integer(lanes))
        return f.intrinsic("smin", start, f.integer(length - lanes)) if length % lanes else start

    # -- sums

    def _start_sums(self, vectors: tuple[SSA, SSA]) -> None:
        f = self.f
        if not self.sums:
            return
        with f.loop(*vectors) as vector:
            for number, sums in self.sums.items():
                stage = self.kernel.stages[number]
                assert isinstance(stage, Reduce)
                start = SSA(reduction_start(stage.function, self.dtype), self.scalar)
                f.store(splat(f, start, self.stencil.lanes), f.address(sums.name, self.vector, vector), 64)

    def _finish_sums(self, vectors: tuple[SSA, SSA]) -> None:
        f = self.f
        if not self.sums:
            return
        with f.loop(*vectors) as vector:
            self.axes[len(self.kernel.shape) - 1] = self._first_lane(vector)
            for number, sums in self.sums.items():
                stage = self.kernel.stages[number]
                found = f.load(self.vector, f.address(sums.name, self.vector, vector), 64)
                f.store(found, self._address(stage.buffer, self._begin(stage.place)), self.dtype.itemsize)

    # -- tiles

    def line_of(self, vectors: tuple[SSA, SSA]) -> None:
        """Write all tiles of a line: in the order of memory, or vector by vector where sums stay in registers."""
        f, last = self.f, len(self.kernel.shape) - 1
        if not self.sums:
            for start, size in self._tiles():
                with f.loop(*vectors) as vector:
                    self.axes[last] = self._first_lane(vector)
                    self._tile(start, size, 0, self.kernel.stages, {})
            return
        with f.loop(*vectors) as vector:
            self.axes[last] = self._first_lane(vector)
            first = 0
            for group in self.stencil.groups:
                self._sums_ofline_of(first, group, vector)
                first += len(group)

    def _sums_ofline_of(self, first: int, stages: Sequence[Stage], vector: SSA) -> None:
        """Write a line of stages, some of them reductions, in slots of their own: LLVM keeps them in registers."""
        f = self.f
        kept = {number: f.slot(self.vector) for number in range(first, first + len(stages)) if number in self.sums}
        far = {number: f.address(self.sums[number].name, self.vector, vector) for number in kept}
        for number, slot in kept.items():
            f.store(f.load(self.vector, far[number], 64), slot, 64)
        for start, size in self._tiles():
            self._tile(start, size, first, stages, kept)
        for number, slot in kept.items():
            f.store(f.load(self.vector, slot, 64), far[number], 64)

    def _tiles(self) -> Iterator[tuple[int | None, int]]:
        """Yield each tile's start and size: those that hang over the line's ends one by one, the others in a loop.

        The start is None in the loop, where no load hangs over.
        """
        f, along, tile = self.f, self.stencil.along, self.stencil.tile
        inside = self.stencil.tiles_inside()
        number = 0
        while number * tile < self.stencil.length:
            if number == inside.start and len(inside) > 1:
                with f.loop(f.integer(inside.start * tile), f.integer(inside.stop * tile), tile) as start:
                    self.axes[along] = start
                    yield None, tile
                number = inside.stop
                continue
            self.axes[along] = f.integer(number * tile)
            yield number * tile, min(tile, self.stencil.length - number * tile)
            number += 1

    def _tile(self, start: int | None, size: int, first: int, stages: Sequence[Stage], kept: dict[int, SSA]) -> None:
        """Write one tile of stages, which are counted from `first`."""
        f = self.f
        self.values, self.loaded, self.stored, self.addresses = {}, {}, {}, {}
        for buffer, place in self.ahead:
            address = self._address(buffer, self._begin(place))
            for u in range(size):
                prefetch(f, self._moved(address, u * place.strides[self.stencil.along]))
        for number, stage in enumerate(stages, first):
            values = self._value(stage.value, start, size)
            if isinstance(stage, Store):
                self.stored[stage.buffer, stage.place] = values
                if stage.buffer in self.kernel.inner:  # read by stages of this very loop alone
                    continue
                base = self._address(stage.buffer, self._begin(stage.place))
                for u, value in enumerate(values):
                    f.store(value, self._moved(base, u * stage.place.strides[self.stencil.along]), self.dtype.itemsize)
                continue
            assert isinstance(stage, Reduce)
            so_far = f.load(self.vector, kept[number], 64)
            for value in values:
                so_far = self._combined(stage.function, so_far, value)
            f.store(so_far, kept[number], 64)

    def _combined(self, function: str, a: SSA, b: SSA) -> SSA:
        return emit_call(self.f, REDUCTIONS[function], [a, b], [self.dtype, self.dtype], self.dtype)

    # -- values at the points of a tile

    def _value(self, value: Value, start: int | None, size: int) -> list[SSA]:
        """Return a value at each point of the tile, tap after tap: so that few of them are needed at once."""
        if isinstance(value, Load) and (value.buffer, value.place) in self.stored:
            return self.stored[value.buffer, value.place]
        if id(value) not in self.values:
            self.values[id(value)] = self._compute(value, start, size)
        return self.values[id(value)]

    def _compute(self, value: Value, start: int | None, size: int) -> list[SSA]:
        if isinstance(value, Number):
            return [splat(self.f, SSA(constant(value.value, value.dtype), self.scalar), self.stencil.lanes)] * size
        if isinstance(value, Call):
            arguments = [self._value(one, start, size) for one in value.arguments]
            return [self._call(value, list(one)) for one in zip(*arguments, strict=True)]
        if isinstance(value, Within):
            assert isinstance(value.value, Load)
            return self._load(BoundedLoad(value.value, value.bounds, value.outside), start, size)
        assert isinstance(value, Load)
        return self._load(BoundedLoad(value), start, size)

    def _call(self, call: Call, arguments: list[SSA]) -> SSA:
        if call.function == "logical_not":
            return self.f.binary("xor", arguments[0], splat(self.f, SSA("true", "i1"), self.stencil.lanes))
        return emit_call(self.f, call.function, arguments, [one.dtype for one in call.arguments], call.dtype)

    def _load(self, one: BoundedLoad, start: int | None, size: int) -> list[SSA]:
        along = self.stencil.along
        line, place = line_of(one, along), one.load.place
        found = []
        for u in range(size):
            hangs_over = start is not None and not all(
                0 <= bound.offset + bound.strides[along] * (start + u) < limit
                for bound, limit in one.bounds
                if bound.strides[along]
            )
            key = line, place.offset + u * place.strides[along]
            if hangs_over:
                found.append(splat(self.f, SSA(constant(one.outside, self.dtype), self.scalar), self.stencil.lanes))
                continue
            if key not in self.loaded:
                self.loaded[key] = self._vector_at(line, key[1])
            found.append(self.loaded[key])
        return found

    def _vector_at(self, line: Line, offset: int) -> SSA:
        f, (low, _) = self.f, self.stencil.lines[line]
        if line not in self.addresses:
            self.addresses[line] = self._line_address(line, low)
        address = self._moved(self.addresses[line], offset - low)
        if line[1][-1] == 1:
            return f.load(self.vector, address, self.dtype.itemsize)
        return splat(f, f.load(self.scalar, address, self.dtype.itemsize), self.stencil.lanes)

    def _line_address(self, line: Line, low: int) -> SSA:
        """Return the address of a line's lowest load in the tile: that of other numbers where the line is outside."""
        f, (buffer, strides, bounds, outside) = self.f, line
        address = self._address(buffer, self._begin(Place(low, strides)))
        if not bounds:
            return address
        inside = SSA("true", "i1")
        for place, limit in bounds:
            # As numbers without sign, what is below 0 is far above every length.
            inside = f.binary("and", inside, f.compare("ult", self._begin(place), f.integer(limit)))
        return f.select(inside, address, self.outside[outside])

    def _begin(self, place: Place) -> SSA:
        """Return a place at the tile's first point."""
        f, total = self.f, self.f.integer(place.offset)
        for axis, stride in enumerate(place.strides):
            if stride:
                total = f.binary("add nsw", total, f.binary("mul nsw", self.axes[axis], f.integer(stride)))
        return total

    def _address(self, buffer: Buffer, place: SSA) -> SSA:
        # Not `inbounds`: a line may begin before the buffer, with loads that are not made.
        return self.f.emit("ptr", f"getelementptr {self.scalar}, ptr {self.pointers[buffer]}, {place}")

    def _moved(self, address: SSA, elements: int) -> SSA:
        if not elements:
            return address
        return self.f.emit("ptr", f"getelementptr {self.scalar}, {address}, i64 {elements}")

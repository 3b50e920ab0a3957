"""From kernels to LLVM IR: one function a kernel, that does a share of its outermost loop.

A kernel whose last axis is reduced runs row by row: for each grid point, one loop over the reduced axes after
another. A kernel that reduces other axes runs in strips of columns: partial results for a strip are kept side by
side, and the innermost loop runs over the strip, so that memory is read in order and LLVM makes vectors of it. LLVM's
own optimiser does the rest: vectors, unrolling, moving what does not change out of loops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle.compiler.axes import goes_in_strips, merge_axes
from needle.compiler.host import host
from needle.compiler.inner_buffers import is_read_later, scratch_lengths
from needle.compiler.ir import SSA, Function, constant, llvm_type, memory_type
from needle.compiler.kernel_work import kernel_work, stage_work
from needle.compiler.loops import (
    Buffer,
    Call,
    Gather,
    Kernel,
    Load,
    Number,
    Place,
    Position,
    Reduce,
    Scan,
    Scatter,
    Stage,
    Store,
    Value,
    Within,
    inner_loops,
)
from needle.compiler.rendered import RenderedKernel
from needle.compiler.rows_ahead import loop_beside_next_row
from needle.compiler.scalar import (
    EXTREMUM_STEPS,
    emit_bits,
    emit_call,
    emit_cast,
    emit_combine,
    emit_extremum,
    extremum_start,
    is_extremum,
    reduction_start,
)
from needle.compiler.thread_count import available_processors

__all__ = ["render_kernel", "render_stores"]

# How many columns have their partial results side by side at least, to make the innermost loop long.
_NARROWEST_STRIP = 64
# How many rows are gone through side by side, of up to so many operations in each column.
_ROWS_TOGETHER = ((4, 24), (2, 48))
# A smaller amount of work is not worth waking a second thread for, in points × operations.
_WORTH_SHARING = 60_000


def render_kernel(kernel: Kernel, outermost_stays: bool = False) -> RenderedKernel:
    """Return the function that computes points begin … end − 1 of a kernel's outermost loop.

    That loop is over the kernel's first axis where `outermost_stays`, and else over as many as can be gone through as
    one.
    """
    buffers = tuple(dict.fromkeys([*kernel.writes(), *kernel.reads()]))
    kernel = merge_axes(kernel, first=int(outermost_stays))
    pointers = {buffer: f"%p{i}" for i, buffer in enumerate(buffers)}
    parameters = [f"ptr noalias {pointer}" for pointer in pointers.values()]
    function = Function(kernel.name, [*parameters, "i64 %begin", "i64 %end"], "nounwind #0")
    renderer = _Renderer(kernel, function, pointers)
    parts = renderer.render()
    work = kernel_work(kernel)
    return RenderedKernel(function, buffers, parts, work >= _WORTH_SHARING, len(kernel.writes()), work=work)


def render_stores(
    function: Function,
    pointers: dict[Buffer, str],
    axes: Sequence[SSA],
    known: dict[tuple[Buffer, Place], SSA],
    stores: Sequence[Store],
) -> None:
    """Write stores at one point, given the point's axes and what elements of buffers are known there."""
    renderer = _Renderer(Kernel("", (), (), tuple(stores)), function, pointers)
    renderer.axes = dict(enumerate(axes))
    renderer.stored = dict(known)
    for store in stores:
        renderer.store(store)


# -------------------------------------------------------------------------------------------- rendering


def strip_width(columns: int, column_bytes: int, has_rows: bool) -> int:
    """Return how wide strips of so many columns are: a strip a processor, where there is nothing else to share.

    Wide ones go through memory in order; what is kept for each column is to stay in the first cache.
    """
    widest = max(host().first_cache_bytes // 2 // max(column_bytes, 1) // 16 * 16, _NARROWEST_STRIP)
    shares = 1 if has_rows else available_processors()
    strips = max(-(-columns // (widest * shares)), 1) * shares
    return max(_NARROWEST_STRIP, -(-columns // (16 * strips)) * 16)


def _column_bytes(kernel: Kernel, fleeting: Set[Buffer]) -> int:
    """Return how many bytes are kept for each column: partial results, and what is never written to memory."""
    kept = [stage.value.dtype for stage in kernel.stages if isinstance(stage, Reduce)]
    kept += [buffer.dtype for buffer in kernel.inner if buffer not in fleeting]
    return sum(dtype.itemsize for dtype in kept)


def _rows_together(stages: Sequence[Stage], length: int) -> int:
    """Return how many rows of a strip are gone through side by side.

    So a partial result is loaded and stored less often. What that is beside much else is not worth the code.
    """
    if not any(isinstance(stage, Reduce) for stage in stages):
        return 1
    cost = sum(map(stage_work, stages))
    return max(1, min(length, next((rows for rows, most in _ROWS_TOGETHER if cost <= most), 1)))


def _starts(stage: Stage) -> tuple[SSA, ...]:
    """Return what the values start from that a stage keeps from one point to the next."""
    if isinstance(stage, (Store, Scatter)):
        return ()
    dtype = stage.value.dtype
    function = stage.function if isinstance(stage, Reduce) else "reduce_sum"
    if is_extremum(function, dtype):
        return (SSA(extremum_start(function, dtype), f"i{dtype.itemsize * 8}"),) * len(EXTREMUM_STEPS)
    best = SSA(reduction_start(function, dtype), llvm_type(dtype))
    return (best, SSA("0", "i64")) if function.startswith("arg") else (best,)


@dataclass(slots=True)
class _Ahead:
    """The stages of a loop that is made for a row ahead, the slots that keep what they find, and that row."""

    stages: Sequence[Stage]
    slots: Sequence[tuple[SSA, ...]]
    row: SSA


class _Renderer:
    """Writes one kernel's function."""

    def __init__(self, kernel: Kernel, function: Function, pointers: dict[Buffer, str]) -> None:
        self.kernel = kernel
        self.f = function
        self.pointers = pointers
        self.axes: dict[int, SSA] = {}
        self.in_strips = goes_in_strips(kernel)
        self.strip = _NARROWEST_STRIP
        self.column = SSA("0", "i64")  # within the strip
        # Where buffers are that only this kernel sees, by need, and those of them whose values are known when needed.
        self.scratch: dict[Buffer, SSA] = {}
        self.fleeting = {buffer for buffer in kernel.inner if not is_read_later(kernel, buffer)}
        # What is known at the point that is being written: by value's identity, and by buffer where just stored.
        self.memo: dict[int, SSA] = {}
        self.stored: dict[tuple[Buffer, Place], SSA] = {}

    def render(self) -> int:
        """Write the loops and return how many parts the outermost one has."""
        kernel = self.kernel
        if self.in_strips:
            return self._render_strips(len(kernel.shape) - 1)
        return self._render_rows()

    # -- row by row

    def _render_rows(self) -> int:
        grid = self.kernel.grid
        if not grid:
            with self.f.loop(SSA("%begin", "i64"), SSA("%end", "i64")):
                self._stages_at_point(inner_loops(self.kernel))
            return 1
        stages = inner_loops(self.kernel)
        heavy = loop_beside_next_row(self.kernel, stages, [sum(map(stage_work, loop)) for loop in stages], host())
        with ExitStack() as loops:
            for number, axis in enumerate(grid):
                begin, end = (SSA("%begin", "i64"), SSA("%end", "i64")) if number == 0 else self._bounds(axis)
                ahead = self._first_row(stages[0], begin) if heavy is not None and axis == grid[-1] else None
                self.axes[axis] = loops.enter_context(self.f.loop(begin, end))
                if ahead is not None:
                    following = self.f.binary("add nsw", self.axes[axis], self.f.integer(1))
                    ahead.row = self.f.intrinsic("smin", following, self.f.binary("sub nsw", end, self.f.integer(1)))
            self._stages_at_point(stages, heavy, ahead)
        return self.kernel.shape[grid[0]]

    def _first_row(self, stages: Sequence[Stage], begin: SSA) -> _Ahead:
        """Write the first loop over the first of some rows, if it exists, and return what holds what it finds."""
        axis = self.kernel.grid[-1]
        last = self.f.integer(self.kernel.shape[axis] - 1)
        ahead = _Ahead(stages, [self._start(stage) for stage in stages], self.f.intrinsic("smin", begin, last))
        self._run_over_reduced((), (), ahead)
        return ahead

    def _bounds(self, axis: int) -> tuple[SSA, SSA]:
        return self.f.integer(0), self.f.integer(self.kernel.shape[axis])

    def _stages_at_point(
        self, loops: Sequence[Sequence[Stage]], heavy: int | None = None, ahead: _Ahead | None = None
    ) -> None:
        for number, stages in enumerate(loops):
            if ahead is not None and number == 0:
                self._store_found(ahead.stages, ahead.slots)
                for stage, slot in zip(ahead.stages, ahead.slots, strict=True):
                    self._set_to_start(stage, slot)
            # Stores may share a loop with others, also where no axis is left to loop over.
            elif all(isinstance(one, Store) and (one.on_grid_only or not self.kernel.reduced) for one in stages):
                with self._point():
                    for stage in stages:
                        self.store(stage)
            else:
                slots = [self._start(stage) for stage in stages]
                self._run_over_reduced(stages, slots, ahead if number == heavy else None)
                self._store_found(stages, slots)

    def _run_over_reduced(
        self, stages: Sequence[Stage], slots: Sequence[tuple[SSA, ...]], ahead: _Ahead | None
    ) -> None:
        """Write one loop over the reduced axes, with what each reduction has so far in a slot."""
        with ExitStack() as loops:
            for axis in self.kernel.reduced:
                self.axes[axis] = loops.enter_context(self.f.loop(*self._bounds(axis)))
            with self._point():
                for stage, slot in zip(stages, slots, strict=True):
                    self._step(stage, slot)
            if ahead is not None:
                here = dict(self.axes)
                self.axes[self.kernel.grid[-1]] = ahead.row
                with self._point():
                    for stage, slot in zip(ahead.stages, ahead.slots, strict=True):
                        self._step(stage, slot)
                self.axes = here

    def _store_found(self, stages: Sequence[Stage], slots: Sequence[tuple[SSA, ...]]) -> None:
        """Write what reductions have found to where it belongs."""
        with self._point():
            for stage, slot in zip(stages, slots, strict=True):
                if isinstance(stage, Reduce):
                    self._store(stage.buffer, stage.place, self._found(stage, slot))

    def _found(self, stage: Reduce, slot: tuple[SSA, ...]) -> SSA:
        """Write what gives a reduction's result, once it has seen all."""
        dtype = stage.value.dtype
        if is_extremum(stage.function, dtype):
            return emit_extremum(self.f, stage.function, [self._bits_in(one, dtype) for one in slot], dtype)
        return self.f.load(llvm_type(stage.buffer.dtype), slot[-1], 1)

    def _bits_in(self, slot: SSA, dtype: np.dtype[Any]) -> SSA:
        return self.f.load(f"i{dtype.itemsize * 8}", slot, 1)

    def _start(self, stage: Stage) -> tuple[SSA, ...]:
        """Reserve what a stage keeps from one point to the next, and set it to its start."""
        slots = tuple(self.f.slot(start.type) for start in _starts(stage))
        self._set_to_start(stage, slots)
        return slots

    def _set_to_start(self, stage: Stage, slots: tuple[SSA, ...]) -> None:
        for start, slot in zip(_starts(stage), slots, strict=True):
            self.f.store(start, slot, 1)

    def _step(self, stage: Stage, slot: tuple[SSA, ...]) -> None:
        """Write what a stage does at one point."""
        value = self._value(stage.value)
        if isinstance(stage, Store):
            self._store(stage.buffer, stage.place, value)
        elif isinstance(stage, Scatter):
            self._scatter(stage, value)
        elif isinstance(stage, Reduce) and stage.function.startswith("arg"):
            self._argument(stage, slot, value)
        elif isinstance(stage, Reduce) and len(slot) == len(EXTREMUM_STEPS):
            dtype = stage.value.dtype
            bits = emit_bits(self.f, value, dtype)
            for step, one in zip(EXTREMUM_STEPS, slot, strict=True):
                self.f.store(self.f.intrinsic(step, self._bits_in(one, dtype), bits), one, 1)
        else:
            function = stage.function if isinstance(stage, Reduce) else "reduce_sum"
            so_far = self.f.load(value.type, slot[0], 1)
            combined = emit_combine(self.f, function, so_far, value, stage.value.dtype)
            self.f.store(combined, slot[0], 1)
            if isinstance(stage, Scan):
                self._store(stage.buffer, stage.place, combined)

    def _argument(self, stage: Reduce, slot: tuple[SSA, ...], value: SSA) -> None:
        """Keep the first of the largest (or smallest), a NaN before all else, as NumPy does."""
        dtype = stage.value.dtype
        best = self.f.load(value.type, slot[0], 1)
        better = "greater" if stage.function == "argmax" else "less"
        wins = emit_call(self.f, better, [value, best], [dtype, dtype], np.dtype(bool))
        if dtype.kind not in "iub":
            nan, already = (emit_call(self.f, "isnan", [one], [dtype], np.dtype(bool)) for one in (value, best))
            first_nan = self.f.binary("and", nan, self.f.binary("xor", already, SSA("true", "i1")))
            wins = self.f.binary("or", wins, first_nan)
        self.f.store(self.f.select(wins, value, best), slot[0], 1)
        if self.kernel.reduced:  # an axis of one element is gone by now, and 0 is the place in it
            (axis,) = self.kernel.reduced
            where = self.f.load("i64", slot[1], 8)
            self.f.store(self.f.select(wins, self.axes[axis], where), slot[1], 8)

    def _scatter(self, stage: Scatter, value: SSA) -> None:
        index = self._clamped(self._value(stage.index), stage.index.dtype, stage.last)
        address = self._moved_address(stage.buffer, stage.place, stage.stride, index)
        dtype = stage.buffer.dtype
        before = self._from_memory(self.f.load(memory_type(dtype), address, dtype.itemsize), dtype)
        self._to_memory(emit_call(self.f, "add", [before, value], [dtype, dtype], dtype), address, dtype)

    # -- strip by strip

    def _render_strips(self, last: int) -> int:
        """Write loops over the outer grid axes, then over strips of the last one."""
        outer = [axis for axis in self.kernel.grid if axis != last]
        length = self.kernel.shape[last]
        begin, end = SSA("%begin", "i64"), SSA("%end", "i64")
        self.strip = strip_width(length, _column_bytes(self.kernel, self.fleeting), has_rows=bool(outer))
        strips = -(-length // self.strip)
        with ExitStack() as loops:
            for number, axis in enumerate(outer):
                bounds = (begin, end) if number == 0 else self._bounds(axis)
                self.axes[axis] = loops.enter_context(self.f.loop(*bounds))
            strip_bounds = (self.f.integer(0), self.f.integer(strips)) if outer else (begin, end)
            strip = loops.enter_context(self.f.loop(*strip_bounds))
            self._stages_in_strip(last, *self._extent(strip, strips, length))
        return self.kernel.shape[outer[0]] if outer else strips

    def _extent(self, strip: SSA, strips: int, length: int) -> tuple[SSA, SSA]:
        """Return where a strip begins and how wide it is: known numbers where possible, for LLVM to write loops out."""
        if strips == 1:
            return self.f.integer(0), self.f.integer(length)
        start = self.f.binary("mul", strip, self.f.integer(self.strip))
        if length % self.strip == 0:
            return start, self.f.integer(self.strip)
        left = self.f.binary("sub", self.f.integer(length), start)
        return start, self.f.intrinsic("smin", left, self.f.integer(self.strip))

    def _stages_in_strip(self, last: int, start: SSA, width: SSA) -> None:
        for stages in inner_loops(self.kernel):
            sums = {id(stage): self._strip_of_starts(stage, width) for stage in stages if isinstance(stage, Reduce)}
            if isinstance(stages[0], Store) and stages[0].on_grid_only:
                with self._column(last, start, width):
                    for stage in stages:
                        self._step(stage, ())
            else:
                self._rows_of_strip(stages, sums, last, start, width)
            if sums:
                with self._column(last, start, width) as column:
                    for stage in stages:
                        if isinstance(stage, Reduce):
                            slot_address = self._element(sums[id(stage)], stage, column)
                            found = self.f.load(llvm_type(stage.buffer.dtype), slot_address, 1)
                            self._store(stage.buffer, stage.place, found)

    def _rows_of_strip(
        self, stages: Sequence[Stage], sums: Mapping[int, SSA], last: int, start: SSA, width: SSA
    ) -> None:
        """Write one loop over the reduced axes, that goes through a strip in each step."""
        *outer, axis = self.kernel.reduced
        length = self.kernel.shape[axis]
        together = _rows_together(stages, length)
        whole = length - length % together
        with ExitStack() as loops:
            for other in outer:
                self.axes[other] = loops.enter_context(self.f.loop(*self._bounds(other)))
            for first, end, rows in ((0, whole, together), (whole, length, 1)):
                if first < end:
                    bounds = self.f.integer(first), self.f.integer(end)
                    with self.f.loop(*bounds, rows) as row, self._column(last, start, width) as column:
                        slots = [self._slot_of_column(sums, stage, column) for stage in stages]
                        self._rows_of_column(stages, slots, [(axis, row, number) for number in range(rows)])

    def _rows_of_column(
        self, stages: Sequence[Stage], slots: Sequence[tuple[SSA, ...]], rows: Sequence[tuple[int, SSA, int]]
    ) -> None:
        """Write what stages do in a column of some rows: each an axis, where along it they begin, and how far on."""
        for axis, first, number in rows:
            self.axes[axis] = self.f.binary("add nsw", first, self.f.integer(number))
            with self._point():
                for stage, slot in zip(stages, slots, strict=True):
                    self._step(stage, slot)

    def _slot_of_column(self, sums: Mapping[int, SSA], stage: Stage, column: SSA) -> tuple[SSA, ...]:
        """Return where a stage keeps what it has so far of a column."""
        return (self._element(sums[id(stage)], stage, column),) if id(stage) in sums else ()

    @contextmanager
    def _column(self, last: int, start: SSA, width: SSA) -> Iterator[SSA]:
        with self.f.loop(self.f.integer(0), width) as column:
            self.axes[last] = self.f.emit("i64", f"add nsw {start}, {column.name}")
            self.column = column
            with self._point():
                yield column

    def _strip_of_starts(self, stage: Reduce, width: SSA) -> SSA:
        type_ = llvm_type(stage.value.dtype)
        strip = self.f.slot(type_, self.strip)
        with self.f.loop(self.f.integer(0), width) as column:
            address = self.f.address(strip.name, type_, column)
            self.f.store(SSA(reduction_start(stage.function, stage.value.dtype), type_), address, 1)
        return strip

    def _element(self, strip: SSA, stage: Stage, column: SSA) -> SSA:
        return self.f.address(strip.name, llvm_type(stage.value.dtype), column)

    # -- values at a point

    @contextmanager
    def _point(self) -> Iterator[None]:
        """What is computed inside is known only inside."""
        before = self.memo, self.stored
        self.memo, self.stored = {}, {}
        yield
        self.memo, self.stored = before

    def _value(self, value: Value) -> SSA:
        if isinstance(value, Load) and (value.buffer, value.place) in self.stored:
            return self.stored[value.buffer, value.place]
        if id(value) not in self.memo:
            self.memo[id(value)] = self._compute(value)
        return self.memo[id(value)]

    def _compute(self, value: Value) -> SSA:
        dtype = value.dtype
        if isinstance(value, Number):
            return SSA(constant(value.value, dtype), llvm_type(dtype))
        if isinstance(value, Position):
            return emit_cast(self.f, self._place(value.place), np.dtype(np.int64), dtype)
        if isinstance(value, Call):
            arguments = [self._value(one) for one in value.arguments]
            return emit_call(self.f, value.function, arguments, [one.dtype for one in value.arguments], dtype)
        if isinstance(value, Within):
            return self._within(value)
        if isinstance(value, Gather):
            index = self._clamped(self._value(value.index), value.index.dtype, value.last)
            address = self._moved_address(value.buffer, value.place, value.stride, index)
        else:
            address = self._address(value.buffer, value.place)
        return self._from_memory(self.f.load(memory_type(dtype), address, dtype.itemsize), dtype)

    def _within(self, value: Within) -> SSA:
        """Compute a value only inside its bounds: the memory outside is another's."""
        f = self.f
        inside = SSA("true", "i1")
        for place, length in value.bounds:
            # As numbers without sign, what is below 0 is far above every length.
            inside = f.binary("and", inside, f.compare("ult", self._place(place), f.integer(length)))
        kept = f.slot(llvm_type(value.dtype))
        f.store(SSA(constant(value.outside, value.dtype), llvm_type(value.dtype)), kept, 1)
        known = dict(self.memo)
        with f.when(inside):
            f.store(self._value(value.value), kept, 1)
        self.memo = known
        return f.load(llvm_type(value.dtype), kept, 1)

    def _clamped(self, index: SSA, dtype: np.dtype[Any], last: int) -> SSA:
        """Keep an index inside its buffer, so that a wrong one cannot touch other memory."""
        wide = emit_cast(self.f, index, dtype, np.dtype(np.int64))
        return self.f.intrinsic("smin", self.f.intrinsic("smax", wide, self.f.integer(0)), self.f.integer(last))

    def _moved_address(self, buffer: Buffer, place: Place, stride: int, index: SSA) -> SSA:
        moved = self.f.binary("mul", index, self.f.integer(stride))
        position = self.f.binary("add", self._place(place), moved)
        return self.f.address(self.pointers[buffer], memory_type(buffer.dtype), position)

    def store(self, stage: Stage) -> None:
        """Compute a stage's value at the point of `axes`, and store it."""
        self._store(stage.buffer, stage.place, self._value(stage.value))

    def _store(self, buffer: Buffer, place: Place, value: SSA) -> None:
        self.stored[buffer, place] = value
        if buffer not in self.fleeting:
            self._to_memory(value, self._address(buffer, place), buffer.dtype)

    def _to_memory(self, value: SSA, address: SSA, dtype: np.dtype[Any]) -> None:
        stored = self.f.emit("i8", f"zext {value} to i8") if dtype.kind == "b" else value
        self.f.store(stored, address, dtype.itemsize)

    def _from_memory(self, value: SSA, dtype: np.dtype[Any]) -> SSA:
        return self.f.compare("ne", value, SSA("0", "i8")) if dtype.kind == "b" else value

    def _address(self, buffer: Buffer, place: Place) -> SSA:
        if buffer in self.kernel.inner:
            return self._scratch_address(buffer, place)
        return self.f.address(self.pointers[buffer], memory_type(buffer.dtype), self._place(place))

    def _scratch_address(self, buffer: Buffer, place: Place) -> SSA:
        """Compute where an element of a buffer is that only this kernel sees: there is room for one point's."""
        lengths = scratch_lengths(self.kernel, place)
        type_ = memory_type(buffer.dtype)
        if buffer not in self.scratch:
            self.scratch[buffer] = self.f.slot(type_, self.strip if self.in_strips else math.prod(lengths.values()))
        if self.in_strips:
            return self.f.address(self.scratch[buffer].name, type_, self.column)
        strides, step = [0] * len(place.strides), 1
        for axis in reversed(lengths):
            strides[axis] = step
            step *= lengths[axis]
        return self.f.address(self.scratch[buffer].name, type_, self._place(Place(0, tuple(strides))))

    def _place(self, place: Place) -> SSA:
        """Compute a place from the loop variables."""
        total = self.f.integer(place.offset)
        for axis, stride in enumerate(place.strides):
            if stride:
                term = self.axes[axis]
                if stride != 1:
                    term = self.f.emit("i64", f"mul nsw {term}, {stride}")
                total = self.f.emit("i64", f"add nsw {total}, {term.name}")
        return total

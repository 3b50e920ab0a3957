"""Kernels that go band by band through columns that a matrix product has just finished, thread by thread.

Batch normalisation follows a product and sums over its rows. Threads that share a product take columns of it; what
reduces those columns can go on where the product's tiles have left off, in the same thread, which has them in its
cache. Nobody waits in between, and no sums of pieces have to be put together.

A band is a few vectors wide. Sums of its columns stay in registers while a loop goes down the rows, and what is known
of a column, once it is known, stays there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.compiler.axes import merge_axes
from needle.compiler.host import Host
from needle.compiler.ir import SSA, Function, constant, llvm_type, memory_type
from needle.compiler.kernel_work import kernel_work
from needle.compiler.loops import (
    Buffer,
    Call,
    Kernel,
    Load,
    Number,
    Place,
    Reduce,
    Stage,
    Store,
    Value,
    buffers_and_places,
    inner_loops,
    walk,
)
from needle.compiler.packing import load_vector, mask_below, splat, store_vector
from needle.compiler.rendered import Bands, RenderedKernel
from needle.compiler.scalar import emit_call, emit_combine

__all__ = ["render_in_bands"]

# What LLVM has an instruction for that takes vectors.
_FUNCTIONS = frozenset(
    {
        "absolute",
        "add",
        "after",
        "cast",
        "divide",
        "equal",
        "greater",
        "greater_equal",
        "less",
        "less_equal",
        "logical_and",
        "logical_or",
        "maximum",
        "minimum",
        "multiply",
        "multiply_add",
        "negative",
        "not_equal",
        "sqrt",
        "square",
        "subtract",
        "where",
    }
)
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def render_in_bands(kernel: Kernel, bands: Bands, host: Host) -> RenderedKernel | None:
    """Return the function of a kernel of which each part is a band; None where it is better divided in another way.

    The kernel reduces over rows, of as many columns as there are in all bands; and what it reads and writes in a band
    stays in the second cache.
    """
    merged = merge_axes(kernel)
    if merged.shape[1:] != (bands.columns,) or merged.reduced != (0,) or not all(map(_has_vectors, merged.stages)):
        return None
    size = merged.shape[0] * bands.columns
    wide = [buffer for buffer in {*kernel.reads(), *kernel.writes()} if buffer.size >= size]
    if merged.shape[0] * bands.width * sum(buffer.dtype.itemsize for buffer in wide) > host.second_cache_bytes:
        return None
    buffers = tuple(dict.fromkeys([*kernel.writes(), *kernel.reads()]))
    function = _Writer(merged, bands, buffers, host).function()
    outside = {
        buffer for stage in merged.stages for buffer, place in buffers_and_places(stage) if not bands.keep(place)
    }
    banded = tuple(number for number, buffer in enumerate(buffers) if buffer not in outside)
    work = kernel_work(merged)
    written = len(kernel.writes())
    return RenderedKernel(function, buffers, bands.count, True, written, work=work, bands=bands, banded=banded)


def _has_vectors(stage: Stage) -> bool:
    """Tell whether a stage can be written for neighbouring columns as vectors."""
    if isinstance(stage, Reduce):
        if stage.function != "reduce_sum" or stage.value.dtype not in _FLOATS or stage.buffer.dtype not in _FLOATS:
            return False
    elif not isinstance(stage, Store):
        return False
    if stage.place.strides[-1] != 1:
        return False
    return all(map(_has_vector, walk(stage.value)))


def _has_vector(value: Value) -> bool:
    if value.dtype not in (*_FLOATS, np.dtype(bool)):
        return False
    if isinstance(value, Call):
        return value.function in _FUNCTIONS
    return isinstance(value, Number) or (isinstance(value, Load) and value.place.strides[-1] in (0, 1))


class _Writer:
    """Writes the function of bands begin … end − 1 of a kernel of rows and columns."""

    def __init__(self, kernel: Kernel, bands: Bands, buffers: Sequence[Buffer], host: Host) -> None:
        self.kernel = kernel
        self.bands = bands
        self.pointers = {buffer: f"%p{number}" for number, buffer in enumerate(buffers)}
        parameters = [f"ptr noalias {pointer}" for pointer in self.pointers.values()]
        self.f = Function(kernel.name, [*parameters, "i64 %begin", "i64 %end"], "nounwind #0")
        widest = max(stage.value.dtype.itemsize for stage in kernel.stages if isinstance(stage, Reduce))
        self.lanes = host.vector_bytes // widest
        self.first = self.row = self.f.integer(0)
        self.masks: list[SSA | None] = []
        # What is known of the band's columns, and of the row that is being written: by place, and by value's identity.
        self.of_columns: dict[tuple[Buffer, Place, int], SSA] = {}
        self.of_row: dict[tuple[Buffer, Place, int], SSA] = {}
        self.memo: dict[tuple[int, int], SSA] = {}

    def function(self) -> Function:
        """Return the function."""
        f, bands = self.f, self.bands
        rest = bands.columns % bands.width
        with f.loop(SSA("%begin", "i64"), SSA("%end", "i64")) as band:
            self.first = f.binary("mul nsw", band, f.integer(bands.width))
            is_last = f.compare("eq", band, f.integer(bands.count - 1))
            if rest:
                with f.when(is_last):
                    self._band(rest)
                with f.when(f.binary("xor", is_last, SSA("true", "i1"))):
                    self._band(bands.width)
            else:
                self._band(bands.width)
        return f

    def _band(self, width: int) -> None:
        """Write what is done for a band of so many columns."""
        f, lanes = self.f, self.lanes
        self.of_columns = {}
        self.masks = [None] * (width // lanes)
        if width % lanes:
            self.masks.append(mask_below(f, f.integer(width % lanes), lanes))
        for stages in inner_loops(self.kernel):
            self.memo, self.of_row = {}, {}
            if isinstance(stages[0], Store) and stages[0].on_grid_only:
                for stage in stages:
                    for j in range(len(self.masks)):
                        self._store(stage, self._value(stage.value, j), j)
            else:
                self._rows(stages)

    def _rows(self, stages: Sequence[Stage]) -> None:
        """Write one loop over the rows, with the sums of the columns in registers."""
        f, vectors = self.f, range(len(self.masks))
        begin, end = f.integer(0), f.integer(self.kernel.shape[0])
        before, body, done = f.block, f.fresh("body"), f.fresh("done")
        f.do(f"br label {body}")
        f.label(body)
        self.row, following = SSA(f.fresh("row"), "i64"), f.fresh("row")
        reductions = [stage for stage in stages if isinstance(stage, Reduce)]
        kept = {
            (id(stage), j): SSA(f.fresh("sum"), self._type(stage.value.dtype)) for stage in reductions for j in vectors
        }
        head = len(f.lines)
        f.lines.extend([""] * (1 + len(kept)))
        sums: dict[tuple[int, int], SSA] = {}
        for stage in stages:
            for j in vectors:
                value = self._value(stage.value, j)
                if isinstance(stage, Reduce):
                    sums[id(stage), j] = emit_combine(f, stage.function, kept[id(stage), j], value, stage.value.dtype)
                else:
                    self._store(stage, value, j)
        f.lines.append(f"  {following} = add nsw i64 {self.row.name}, 1")
        latch = f.block
        f.lines[head] = f"  {self.row.name} = phi i64 [ {begin.name}, %{before} ], [ {following}, %{latch} ]"
        for number, key in enumerate(kept, head + 1):
            one, new = kept[key], sums[key]
            f.lines[number] = f"  {one.name} = phi {one.type} [ zeroinitializer, %{before} ], [ {new.name}, %{latch} ]"
        more = f.emit("i1", f"icmp slt i64 {following}, {end.name}")
        f.do(f"br {more}, label {body}, label {done}")
        f.label(done)
        self.memo, self.of_row = {}, {}
        for stage in reductions:
            for j in vectors:
                self._store(stage, self._cast(sums[id(stage), j], stage.value.dtype, stage.buffer.dtype), j)

    # -- values of a vector of columns

    def _value(self, value: Value, j: int) -> SSA:
        if isinstance(value, Load):
            for known in (self.of_row, self.of_columns):
                if (value.buffer, value.place, j) in known:
                    return known[value.buffer, value.place, j]
        if (id(value), j) not in self.memo:
            self.memo[id(value), j] = self._compute(value, j)
        return self.memo[id(value), j]

    def _compute(self, value: Value, j: int) -> SSA:
        if isinstance(value, Number):
            one = f"{llvm_type(value.dtype)} {constant(value.value, value.dtype)}"
            return SSA(f"<{', '.join([one] * self.lanes)}>", self._type(value.dtype))
        if isinstance(value, Call):
            arguments = [self._value(one, j) for one in value.arguments]
            kinds = [one.dtype for one in value.arguments]
            if value.function == "cast":
                return self._cast(arguments[0], kinds[0], value.dtype)
            return emit_call(self.f, value.function, arguments, kinds, value.dtype)
        assert isinstance(value, Load)
        return self._load(value, j)

    def _load(self, value: Load, j: int) -> SSA:
        f, dtype = self.f, value.dtype
        address = self._address(value.buffer, value.place, j)
        if value.place.strides[-1] == 0:
            found = splat(f, f.load(memory_type(dtype), address, dtype.itemsize), self.lanes)
        else:
            found = load_vector(f, f"<{self.lanes} x {memory_type(dtype)}>", address, self.masks[j], dtype.itemsize)
        return f.compare("ne", found, SSA("zeroinitializer", found.type)) if dtype.kind == "b" else found

    def _cast(self, value: SSA, kind: np.dtype[Any], result: np.dtype[Any]) -> SSA:
        if kind == result:
            return value
        target = self._type(result)
        if result.kind == "b":
            return self.f.compare("une", value, SSA("zeroinitializer", value.type))
        if kind.kind == "b":
            return self.f.emit(target, f"uitofp {value} to {target}")
        return self.f.emit(target, f"{'fpext' if kind.itemsize < result.itemsize else 'fptrunc'} {value} to {target}")

    def _store(self, stage: Stage, value: SSA, j: int) -> None:
        """Store what a stage has computed, and keep it for what comes after: to the end of the row, or of the band."""
        row, _ = stage.place.strides
        (self.of_row if row else self.of_columns)[stage.buffer, stage.place, j] = value
        if stage.buffer in self.pointers:
            dtype = stage.buffer.dtype
            if dtype.kind == "b":
                bytes_ = f"<{self.lanes} x i8>"
                value = self.f.emit(bytes_, f"zext {value} to {bytes_}")
            store_vector(self.f, value, self._address(stage.buffer, stage.place, j), self.masks[j], dtype.itemsize)

    def _address(self, buffer: Buffer, place: Place, j: int) -> SSA:
        f = self.f
        row, column = place.strides
        at = f.integer(place.offset + column * j * self.lanes)
        if column:
            at = f.binary("add nsw", at, self.first)
        if row:
            at = f.binary("add nsw", at, f.binary("mul nsw", self.row, f.integer(row)))
        return f.address(self.pointers[buffer], memory_type(buffer.dtype), at)

    def _type(self, dtype: np.dtype[Any]) -> str:
        return f"<{self.lanes} x {llvm_type(dtype)}>"

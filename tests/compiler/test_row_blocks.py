"""Sums over many rows in blocks, and arrays with borders: the interpreter's values, however many threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler.loops import Buffer as LoopBuffer
from needle.compiler.loops import Kernel, Load, Reduce, Store, axis_places, buffer_place, in_few_loops
from needle.compiler.row_blocks import in_row_blocks
from needle.compiler.thread_count import set_num_threads

from .compiled import assert_compiles, compile_function


def whole(*shape: int) -> np.ndarray:
    """Return small whole numbers, whose sums are exact."""
    return np.random.default_rng(sum(shape)).integers(-4, 5, shape).astype("float32")


def normalized(x: Any) -> Any:
    axes = tuple(range(x.ndim - 1))
    mean = np.mean(x, axis=axes, keepdims=True)
    variance = np.mean((x - mean) ** 2, axis=axes, keepdims=True)
    y = (x - mean) / np.sqrt(variance + 1)
    return y, mean, variance * 0.1, np.sum(y * x, axis=axes), np.max(y, axis=axes)


SHAPES = [(1030, 37), (8192, 3), (251, 129), (257, 16), (4100, 64), (64, 33, 17), (9, 130, 64), (250, 500), (16, 5000)]


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_of_columns(shape: tuple[int, ...]) -> None:
    # NumPy adds thousands of rows one to the other, and rounds each time.
    assert_compiles(normalized, whole(*shape), rtol=1e-4)


@pytest.mark.parametrize("function", [np.sum, np.max, np.min])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "float16"])
def test_reductions_over_rows(function: Callable[..., Any], dtype: str) -> None:
    assert_compiles(lambda x: function(x, axis=0), whole(3001, 23).astype(dtype))


def test_every_number_of_threads_gives_the_same_bits() -> None:
    x = np.random.default_rng(0).standard_normal((5003, 61)).astype("float32")
    run = compile_function(normalized, x)
    found = []
    for threads in (1, 2, 3, 5):
        set_num_threads(threads)
        found.append([result.tobytes() for result in run([x])])
    set_num_threads(None)
    assert all(one == found[0] for one in found)


def test_only_many_rows_are_divided() -> None:
    def kernel(rows: int, columns: int) -> Kernel:
        x, y = LoopBuffer("x", (rows, columns), np.dtype("float32")), LoopBuffer("y", (columns,), np.dtype("float32"))
        axes = axis_places(2)
        value = Load(x, buffer_place(x, axes, 2), x.dtype)
        return Kernel("k", (rows, columns), (0,), (Reduce(y, buffer_place(y, axes[1:], 2), "reduce_sum", value),))

    assert len(in_row_blocks(kernel(10, 10))) == 1
    assert len(in_row_blocks(kernel(4, 100_000))) == 1
    first, rest, finish = in_row_blocks(kernel(10_001, 16))
    assert first.shape[0] * first.shape[1] + rest.shape[1] == 10_001
    assert finish.shape == (first.shape[0] + 1, 16)


def test_reductions_that_need_not_wait_share_a_loop() -> None:
    names = ["x", "a", "half", "b", "c", "d"]
    x, a, half, b, c, d = (LoopBuffer(name, (8,) if name == "x" else (), np.dtype("float32")) for name in names)
    (axis,) = axis_places(1)
    once = axis.scaled(0)

    def total(of: LoopBuffer, into: LoopBuffer) -> Reduce:
        return Reduce(into, once, "reduce_sum", Load(of, axis if of is x else once, of.dtype))

    def copy(of: LoopBuffer, into: LoopBuffer) -> Store:
        return Store(into, once, Load(of, once, of.dtype), on_grid_only=True)

    stages = (total(x, a), copy(a, half), total(half, c), total(x, b), copy(b, d))
    assert [stage.buffer.name for stage in in_few_loops(stages)] == ["a", "b", "half", "d", "c"]


BORDERS: list[tuple[tuple[int, ...], list[tuple[int, int]]]] = [
    ((2, 5, 6, 3), [(0, 0), (1, 1), (2, 0), (0, 0)]),
    ((3, 4, 5, 16), [(0, 0), (0, 2), (1, 1), (0, 3)]),
    ((2, 3), [(1, 2), (0, 1)]),
    ((7,), [(2, 3)]),
    ((3, 1, 4), [(0, 0), (1, 1), (0, 0)]),
    ((1, 8, 8, 64), [(0, 0), (1, 1), (1, 1), (0, 0)]),
    ((0, 3), [(0, 0), (1, 1)]),
    ((2, 0, 3), [(0, 0), (1, 1), (0, 0)]),
    ((200, 30, 9), [(0, 0), (1, 1), (0, 0)]),
]


@pytest.mark.parametrize(("shape", "widths"), BORDERS)
def test_borders_of_zeros(shape: tuple[int, ...], widths: list[tuple[int, int]]) -> None:
    x = np.full(shape, np.nan, "float32") if 0 in shape else whole(*shape)
    assert_compiles(lambda x: np.pad(x, widths), x)
    assert_compiles(lambda x: np.pad(x * 2 + 1, widths) + 1, x)
    last_first = (len(shape) - 1, *range(len(shape) - 1))
    assert_compiles(lambda x: np.pad(x.transpose(last_first), [widths[axis] for axis in last_first]), x)
    assert_compiles(lambda x: np.pad(np.pad(x, widths), widths).sum(axis=-1), x)


def test_padding_is_part_of_what_reads_it() -> None:
    x = whole(4, 6)
    run = compile_function(lambda x: np.pad(np.exp(x), ((0, 0), (2, 1))), x)
    assert len(run.program.steps) == 1

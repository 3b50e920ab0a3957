"""Reductions of whole arrays in two steps, and the largest and smallest of numbers among which may be NaN."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler.executable import Executable
from needle.compiler.graph import Graph, input_node, make_node, verify
from needle.compiler.thread_count import set_num_threads
from needle.compiler.whole_sums import reduce_rows_first
from needle.dtype import bfloat16

from .compiled import assert_compiles, compile_function

SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e-7, -1e-7]


@pytest.mark.parametrize("function", [np.max, np.min])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", bfloat16])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_extrema_of_special_numbers(function: Callable[..., Any], dtype: Any, count: int) -> None:
    rows = np.array(list(itertools.product(SPECIAL, repeat=count))).astype(dtype)
    with np.errstate(invalid="ignore"):
        expected = function(rows.astype("float64"), axis=1)
    (found,) = compile_function(lambda x: function(x, axis=1), rows)([rows])
    np.testing.assert_array_equal(found.astype("float64"), expected)


@pytest.mark.parametrize("function", [np.max, np.min])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65, 1000])
def test_extrema_keep_a_nan_wherever_it_stands(function: Callable[..., Any], length: int) -> None:
    rows = np.random.default_rng(0).standard_normal((length, length)).astype("float32")
    run = compile_function(lambda x: function(x, axis=1), rows)
    np.testing.assert_array_equal(run([rows])[0], function(rows, axis=1))
    for sign in (1, -1):
        np.fill_diagonal(rows, np.copysign(np.nan, sign))
        assert np.isnan(run([rows])[0]).all()


@pytest.mark.parametrize("function", [np.sum, np.max, np.min])
@pytest.mark.parametrize(
    "shape", [(20_001,), (300_007,), (200, 100), (3, 50, 200), (70_000, 1), (5000, 3, 2), (1, 20_000)]
)
def test_reductions_of_everything(function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(-4, 5, shape).astype("float32")
    assert_compiles(function, x)
    assert_compiles(lambda x: (function(x * 2), x + 1), x)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 130])
@pytest.mark.parametrize("columns", [1, 17, 300, 7000])
def test_sums_over_rows_that_are_gone_through_several_at_a_time(rows: int, columns: int) -> None:
    x = np.random.default_rng(0).integers(-4, 5, (rows, columns)).astype("float32")
    assert_compiles(lambda x: (np.sum(x, axis=0), np.max(x, axis=0), x * x), x)
    assert_compiles(lambda x: np.sum((x - np.sum(x, axis=0)) * x, axis=0), x)


def test_a_whole_array_is_reduced_by_all_threads_to_the_same_bits() -> None:
    x = np.random.default_rng(0).standard_normal((300_007,)).astype("float32")
    run = compile_function(lambda x: np.sum(np.sin(x)), x)
    assert run.module.parallel
    found = set()
    for threads in (1, 2, 5):
        set_num_threads(threads)
        found.add(run([x])[0].tobytes())
    set_num_threads(None)
    assert len(found) == 1


def test_rows_are_reduced_first() -> None:
    x = input_node((200, 3, 50), np.dtype("float32"))
    graph = reduce_rows_first(Graph((x,), (make_node("reduce_sum", (x,), axes=(0, 1, 2)),)))
    verify(graph)
    (whole,) = graph.outputs
    assert whole.inputs[0].shape == (200,)
    for other in [(50, 3, 2), (1, 1, 50_000)]:
        small = input_node(other, np.dtype("float32"))
        before = Graph((small,), (make_node("reduce_sum", (small,), axes=(0, 1, 2)),))
        assert reduce_rows_first(before).outputs[0].inputs[0] is small


def test_executables_of_empty_arrays() -> None:
    run: Executable = compile_function(np.sum, np.zeros((0, 70_000), "float32"))
    assert run([np.zeros((0, 70_000), "float32")])[0] == 0


@pytest.mark.parametrize("shape", [(1,), (1, 3), (3, 1), (1, 1), (2, 1, 3)])
@pytest.mark.parametrize("dtype", ["bool", "int8", "float32", "float64"])
def test_an_axis_of_one_element_beside_other_results(shape: tuple[int, ...], dtype: str) -> None:
    x = np.random.default_rng(0).integers(-3, 4, shape).astype(dtype)
    for axis in range(len(shape)):
        assert_compiles(lambda x, axis=axis: (np.exp(x.astype("float32")), np.argmax(x, axis=axis)), x)
        assert_compiles(lambda x, axis=axis: (x.astype("float32") + 1, np.argmin(x, axis=axis)), x)

"""The places of extrema: NumPy's, with NaN, zeros of both signs and equal numbers, along every axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler.graph import Graph, input_node, make_node, verify
from needle.compiler.places import find_places_by_value
from needle.dtype import bfloat16

from .compiled import compile_function

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0]


@pytest.mark.parametrize("function", [np.argmax, np.argmin])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", bfloat16, "int8", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(5, 16), (3, 64), (16, 7), (40, 1000), (2, 33, 50), (300,)])
def test_places_are_those_of_the_first(function: Callable[..., Any], dtype: Any, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 5, shape).astype(dtype)
    for axis in range(len(shape)):
        (found,) = compile_function(lambda x, axis=axis: function(x, axis=axis), x)([x])
        expected = function(x.astype("float64"), axis=axis)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("function", [np.argmax, np.argmin])
@pytest.mark.parametrize("length", [16, 17, 100])
def test_the_first_nan_comes_before_all_else(function: Callable[..., Any], length: int) -> None:
    rng = np.random.default_rng(length)
    x = rng.choice(np.array(SPECIAL, "float32"), (500, length), p=[0.01, 0.01, 0.01, 0.3, 0.3, 0.185, 0.185])
    run = compile_function(lambda x: function(x, axis=1), x)
    np.testing.assert_array_equal(run([x])[0], function(x, axis=1))
    x[:] = -np.inf
    np.testing.assert_array_equal(run([x])[0], 0)
    x[:] = np.nan
    np.testing.assert_array_equal(run([x])[0], 0)


def test_long_axes_are_gone_through_in_two_reductions() -> None:
    x = input_node((4, 100), np.dtype("float32"))
    graph = find_places_by_value(Graph((x,), (make_node("argmax", (x,), axis=1),)))
    verify(graph)
    kinds = {node.primitive for node in graph.nodes()}
    assert {"reduce_max", "reduce_min"} <= kinds
    assert "argmax" not in kinds
    short = Graph((x,), (make_node("argmax", (x,), axis=0),))
    assert find_places_by_value(short).outputs[0] is short.outputs[0]

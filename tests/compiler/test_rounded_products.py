"""Products whose maximum is subtracted from them are rounded alike in both places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler.graph import Graph, input_node, make_node, verify
from needle.compiler.interpret import interpret
from needle.compiler.rounded_products import round_products

from .compiled import assert_compiles


@pytest.mark.parametrize("size", [1e5, 1e10, 1e20])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_above_the_largest(size: float, dtype: str) -> None:
    x = (np.random.default_rng(0).standard_normal((7, 33)) * size).astype(dtype)

    def below(x: Any) -> Any:
        scaled = x * np.asarray(0.1, dtype)
        largest = np.max(scaled, axis=1, keepdims=True)
        shifted = scaled - largest
        return np.max(shifted, axis=1), np.sum(np.exp(shifted), axis=1), np.max(-scaled, axis=0) + scaled

    assert_compiles(below, x, rtol=1e-6)


def test_only_products_that_an_extremum_finds_are_rounded() -> None:
    x, y = (input_node((3, 4), np.dtype("float32")) for _ in range(2))
    found = make_node("multiply", (x, y))
    other = make_node("multiply", (found, x))
    largest = make_node("reduce_max", (make_node("negative", (found,)),), axes=(1,))
    graph = Graph((x, y), (make_node("add", (other, y)), largest))
    rounded = round_products(graph)
    verify(rounded)
    assert [node.primitive for node in rounded.nodes()].count("rounded_multiply") == 1
    assert rounded.outputs[1].inputs[0].inputs[0].primitive == "rounded_multiply"
    arrays = [np.full((3, 4), 0.3, np.float32), np.full((3, 4), 0.7, np.float32)]
    for one, expected in zip(interpret(rounded, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_array_equal(one, expected)
    without = Graph((x, y), (other,))
    assert round_products(without) is without

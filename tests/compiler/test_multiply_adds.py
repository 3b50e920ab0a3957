"""Products are fused with sums once for each node: what is computed anew is the same number everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import needle as ndl
from needle.compiler.graph import Graph, Node, input_node, make_node, verify
from needle.compiler.interpret import interpret
from needle.compiler.multiply_adds import fuse_multiply_adds

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


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("elsewhere", ["tanh", "square", "nothing"])
def test_the_largest_of_fused_values_is_found_again_by_its_gradient(dtype: str, axis: int, elsewhere: str) -> None:
    """The largest of x·w + c has gradient 1, in whatever else x·w is used beside."""
    rng = np.random.default_rng(1)
    x, w, c = (ndl.Tensor(rng.standard_normal((45, 48)), dtype=dtype) for _ in range(3))
    other = {"tanh": ndl.tanh, "square": lambda y: y * y, "nothing": lambda y: y * 0}[elsewhere]

    @ndl.jit
    def gradient(x: Any, w: Any, c: Any) -> Any:
        x, c = (ndl.Tensor(one, requires_grad=True) for one in (x, c))
        product = x * w
        (ndl.max(product + c, axes=axis).sum() + other(product).sum()).backward()
        return c.grad

    found = gradient(x, w, c).numpy().astype(np.float64)
    np.testing.assert_allclose(found.sum(axis), 1, rtol=1e-2)


def test_a_product_with_one_reader_goes_into_the_sum_or_difference() -> None:
    x, y, z = (input_node((3, 4), np.dtype("float32")) for _ in range(3))
    product = make_node("multiply", (x, y))
    arrays = [np.random.default_rng(n).standard_normal((3, 4)).astype("f4") for n in range(3)]
    for name, operands in {
        "add": [(product, z), (z, product), (product, make_node("multiply", (y, z)))],
        "subtract": [(product, z), (z, product)],
    }.items():
        for pair in operands:
            graph = Graph((x, y, z), (make_node(name, pair),))
            fused = fuse_multiply_adds(graph)
            verify(fused)
            assert fused.outputs[0].primitive == "multiply_add"
            for one, expected in zip(interpret(fused, arrays), interpret(graph, arrays), strict=True):
                np.testing.assert_allclose(one, expected, rtol=1e-6)


def test_a_product_that_is_read_elsewhere_stays_one() -> None:
    def names(*outputs: Node) -> set[str]:
        return {node.primitive for node in fuse_multiply_adds(Graph((x, y), outputs)).nodes()}

    x, y = (input_node((3, 4), np.dtype("float32")) for _ in range(2))
    product = make_node("multiply", (x, y))
    total = make_node("add", (product, y))
    assert "multiply_add" in names(total)
    assert "multiply_add" not in names(total, product)
    assert "multiply_add" not in names(total, make_node("tanh", (product,)))
    assert "multiply_add" not in names(make_node("add", (product, product)))


def test_integers_are_not_fused() -> None:
    x = input_node((3, 4), np.dtype("int32"))
    graph = Graph((x,), (make_node("add", (make_node("multiply", (x, x)), x)),))
    assert [node.primitive for node in fuse_multiply_adds(graph).nodes()].count("multiply_add") == 0

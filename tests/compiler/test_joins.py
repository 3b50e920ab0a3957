"""Sums of padded parts become the parts side by side, and what is joined is permuted in parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import needle as ndl
from needle.compiler import Graph, TracedArray, input_node, interpret
from needle.compiler.graph import Node, verify
from needle.compiler.joins import join_pads, permute_parts

from .compiled import assert_compiles


def pad(part: Any, axis: int, before: int, after: int) -> Any:
    return TracedArray.namespace.pad(part, [(before, after) if one == axis else (0, 0) for one in range(part.ndim)])


def graph_of(function: Any, *shapes: tuple[int, ...]) -> Graph:
    inputs = tuple(input_node(shape, np.dtype("float32")) for shape in shapes)
    return Graph(inputs, (function(*map(TracedArray, inputs)).node,))


def primitives(graph: Graph) -> list[str]:
    return [node.primitive for node in graph.nodes() if node.primitive != "input"]


def assert_same(before: Graph, after: Graph) -> None:
    verify(after)
    arrays = [np.random.default_rng(0).standard_normal(node.shape).astype("float32") for node in before.inputs]
    for one, other in zip(interpret(before, arrays), interpret(after, arrays), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_parts_that_cover_everything_are_joined(order: tuple[int, ...]) -> None:
    def function(*parts: Any) -> Any:
        padded = [pad(parts[0], 1, 0, 5), pad(parts[1], 1, 2, 4), pad(parts[2], 1, 3, 0)]
        first, second, third = (padded[number] for number in order)
        return first + (second + third)

    before = graph_of(function, (4, 2), (4, 1), (4, 4))
    after = join_pads(before)
    assert primitives(after) == ["concat"]
    assert_same(before, after)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: pad(a, 0, 0, 3) + pad(b, 0, 3, 0),  # a row is in neither
        lambda a, b: pad(a, 0, 0, 1) + pad(b, 0, 1, 0),  # one is in both
        lambda a, b: pad(a, 0, 0, 2) + TracedArray.namespace.exp(pad(b, 0, 2, 0)),
    ],
)
def test_other_sums_stay(function: Any) -> None:
    assert "concat" not in primitives(join_pads(graph_of(function, (2, 3), (2, 3))))


@pytest.mark.parametrize("first", [True, False])
def test_sums_over_the_steps_of_a_long_loop_stay(first: bool) -> None:
    def function(a: Any, b: Any) -> Any:
        total = pad(a, 0, 0, 2)
        for _ in range(2000):
            more = TracedArray.namespace.exp(b)
            total = total + more if first else more + total
        return total

    assert "concat" not in primitives(join_pads(graph_of(function, (2, 3), (4, 3))))


def test_parts_that_are_used_elsewhere_stay() -> None:
    def function(a: Any, b: Any) -> Any:
        padded = pad(a, 0, 0, 2)
        return (padded + pad(b, 0, 2, 0)) * padded

    assert "concat" not in primitives(join_pads(graph_of(function, (2, 3), (2, 3))))


def test_joined_parts_are_permuted() -> None:
    def function(a: Any, b: Any) -> Any:
        xp = TracedArray.namespace
        return xp.permute_dims(xp.concat([a, b], axis=1), (2, 1, 0))

    before = graph_of(function, (2, 3, 4), (2, 5, 4))
    after = permute_parts(before)
    outputs: tuple[Node, ...] = after.outputs
    assert outputs[0].primitive == "concat"
    assert outputs[0].params["axis"] == 1
    assert_same(before, after)


def test_gradients_of_slices_that_cover_a_tensor() -> None:
    @ndl.jit
    def gradients(x: ndl.Tensor) -> ndl.Tensor:
        parts = ndl.permute(x.reshape((4, 6, 3, 5)), (2, 0, 3, 1))
        y = parts[0] * parts[1] + ndl.exp(parts[2])
        (y * y).sum().backward()
        return x.grad

    x = ndl.Tensor(np.random.default_rng(0).standard_normal((4, 6, 15)))
    found = gradients(x).numpy()
    kernels = gradients.lower(x).show("kernels")
    with ndl.jit.disabled():
        np.testing.assert_allclose(found, gradients(x).numpy(), rtol=1e-12)
    assert " if 0 <= " not in kernels  # no padding is left


def test_compiled() -> None:
    x = np.random.default_rng(1).standard_normal((3, 7)).astype("float32")
    assert_compiles(lambda a: np.concatenate([a[:, :2], a[:, 2:] * 2], axis=1).T, x)

"""What is kept in one form only: signs asked of results, values read inside of their copies with a border."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import Graph, TracedArray, input_node, interpret
from needle.compiler.graph import verify
from needle.compiler.results import keep_one_form
from needle.compiler.schedule import schedule
from needle.compiler.simplify import simplify

from .compiled import assert_compiles

BORDER = ((0, 0), (1, 1), (1, 1), (0, 0))


def graph_of(function: Callable[..., Any], *arrays: np.ndarray) -> Graph:
    inputs = tuple(input_node(array.shape, array.dtype) for array in arrays)
    traced = function(*(TracedArray(node) for node in inputs))
    outputs = traced if isinstance(traced, tuple) else (traced,)
    return simplify(Graph(inputs, tuple(one.node for one in outputs)))


def buffers_of(graph: Graph) -> list[tuple[int, ...]]:
    """Return the shapes of the buffers that a graph's kernels write."""
    return [buffer.shape for step in schedule(graph).steps for buffer in step.writes()]


def assert_same(before: Graph, after: Graph, *arrays: np.ndarray) -> None:
    verify(after)
    for got, expected in zip(interpret(after, arrays), interpret(before, arrays), strict=True):
        np.testing.assert_array_equal(got, expected)


def image(*shape: int) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(shape).astype("float32")
    values.flat[:3] = np.nan, 0.0, -0.0
    return values


def rectified(a: Any) -> Any:
    """Return an activation that is worth keeping, given what is normalised."""
    xp = a.__array_namespace__()
    return xp.maximum(xp.exp(a) * 0.5 - 0.6, 0)


def test_signs_are_asked_of_what_is_kept() -> None:
    def layer(a: Any, w: Any) -> Any:
        xp = a.__array_namespace__()
        x = xp.exp(a) * 0.5 - 0.6
        return xp.maximum(x, 0) @ w, xp.where(x > 0, a, 0)

    arrays = image(8, 12), image(12, 3)
    before = graph_of(layer, *arrays)
    after = keep_one_form(before)
    assert_same(before, after, *arrays)
    assert buffers_of(before).count((8, 12)) == 3
    assert buffers_of(after).count((8, 12)) == 2
    assert_compiles(layer, *(np.nan_to_num(one) for one in arrays))


def test_signs_stay_where_no_maximum_is_computed_or_the_limit_is_another() -> None:
    def others(a: Any) -> Any:
        xp = a.__array_namespace__()
        return xp.where(a > 0, a, 1), xp.maximum(a, 0.5), xp.maximum(a + 1, 0), xp.where(a + 1 > 2, a, 1)

    before = graph_of(others, image(5, 5))
    assert keep_one_form(before).show() == before.show()


def test_values_with_a_border_are_read_inside_it() -> None:
    def layer(a: Any) -> Any:
        xp = a.__array_namespace__()
        y = rectified(a)
        padded = xp.pad(y, BORDER)
        return padded[:, 1:, 2:] @ xp.matrix_transpose(padded[:, :-1, :-2]), xp.sum(y, axis=(0, 1, 2)), y[:, ::2] + 1

    arrays = (image(2, 8, 9, 4),)
    before = graph_of(layer, *arrays)
    after = keep_one_form(before)
    assert_same(before, after, *arrays)
    assert (2, 8, 9, 4) in buffers_of(before)
    assert (2, 8, 9, 4) not in buffers_of(after)
    assert_compiles(layer, np.nan_to_num(arrays[0]))


def test_of_two_borders_one_is_kept_with_the_values() -> None:
    def layer(a: Any) -> Any:
        xp = a.__array_namespace__()
        y = rectified(a)
        wide = xp.pad(y, ((0, 0), (2, 1), (0, 3), (0, 0)))
        return xp.pad(y, BORDER), wide, y @ xp.matrix_transpose(y)

    arrays = (image(2, 8, 9, 4),)
    before = graph_of(layer, *arrays)
    after = keep_one_form(before)
    assert_same(before, after, *arrays)
    assert (2, 8, 9, 4) not in buffers_of(after)
    assert_compiles(layer, np.nan_to_num(arrays[0]))


@pytest.mark.parametrize("kind", ["output", "input", "wide", "channels", "cheap"])
def test_values_are_kept_without_a_border_where_that_is_better(kind: str) -> None:
    def layer(a: Any) -> Any:
        xp = a.__array_namespace__()
        y = {"input": lambda: a, "cheap": lambda: xp.maximum(a, 0)}.get(kind, lambda: rectified(a))()
        widths = {"wide": ((0, 0), (4, 4), (4, 4), (0, 0)), "channels": ((0, 0), (0, 0), (1, 1), (1, 1))}
        padded = xp.pad(y, widths.get(kind, BORDER))
        return (padded, xp.sum(y * 2, axis=1), *([y] if kind == "output" else []))

    before = graph_of(layer, image(2, 8, 9, 4))
    assert keep_one_form(before).show() == before.show()

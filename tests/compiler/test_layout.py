"""The pass that moves permutations towards the outputs: the same values, and fewer permutations where they cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.compiler import Graph, TracedArray, input_node, interpret, verify
from needle.compiler.layout import sink_permutations
from needle.compiler.simplify import simplify

# Whole numbers, so that sums are the same in every order.
X = np.arange(-60, 60, dtype="float64").reshape(2, 3, 4, 5)
W = np.arange(120, dtype="float64").reshape(2, 3, 4, 5) % 7


def trace(function: Callable[..., Any]) -> Graph:
    nodes = [input_node(array.shape, array.dtype) for array in (X, W)]
    return Graph(tuple(nodes), (function(*map(TracedArray, nodes)).node,))


def sink(graph: Graph) -> Graph:
    sunk = simplify(sink_permutations(simplify(graph)))
    verify(sunk)
    (before,), (after,) = interpret(graph, [X, W]), interpret(sunk, [X, W])
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    np.testing.assert_array_equal(after, before)
    return sunk


def permutations(graph: Graph) -> list[tuple[int, ...]]:
    return [node.params["axes"] for node in graph.nodes() if node.primitive == "permute"]


LAST = (0, 2, 3, 1)
FIRST = (0, 3, 1, 2)


def normalized(x: Any) -> Any:
    """Subtract what the channels (axis 1) have in common."""
    return x - np.sum(x, axis=(0, 2, 3)).reshape(1, -1, 1, 1)


CANCEL: dict[str, Callable[[Any, Any], Any]] = {
    "an activation": lambda x, w: np.maximum(np.exp2(x * 0).transpose(FIRST), 0).transpose(LAST),
    "a cast and a comparison": lambda x, w: ((x * 2).transpose(FIRST).astype("float32") > 3).transpose(LAST),
    "a normalization": lambda x, w: normalized((x * 2).transpose(FIRST)).transpose(LAST),
    "a sum of branches": lambda x, w: (x.transpose(FIRST) + (w * w).transpose(FIRST)).transpose(LAST),
    "a slice": lambda x, w: (x * 2).transpose(FIRST)[:, 1:5:2, :, ::-1].transpose(LAST),
    "padding": lambda x, w: np.pad((x * 2).transpose(FIRST), ((0, 0), (1, 2), (0, 0), (3, 0))).transpose(LAST),
    "a flip": lambda x, w: np.flip((x * 2).transpose(FIRST), (1, 3)).transpose(LAST),
    "a broadcast": lambda x, w: np.broadcast_to((x * 2)[:, :, :1].transpose(FIRST), (2, 5, 3, 4)).transpose(LAST),
    "joining": lambda x, w: np.concatenate([x.transpose(FIRST), w.transpose(FIRST)], axis=1).transpose(LAST),
    "axes of length one": lambda x, w: (x * 2).transpose(FIRST)[:, None, :, :, None][:, 0, ..., 0, :].transpose(LAST),
}


@pytest.mark.parametrize("name", CANCEL)
def test_permutations_cancel_across(name: str) -> None:
    assert permutations(sink(trace(CANCEL[name]))) == []


def test_sums_over_permuted_axes_are_taken_before() -> None:
    graph = sink(trace(lambda x, w: np.sum((x * 2).transpose(3, 1, 0, 2), axis=(0, 2))))
    assert permutations(graph) == []
    graph = sink(trace(lambda x, w: np.max((x * 2).transpose(3, 1, 0, 2), axis=2)))
    assert permutations(graph) == [(2, 0, 1)]


def test_one_permuted_operand_among_others_stays() -> None:
    def update(x: Any, w: Any) -> Any:
        return (w * 2).reshape(2, 5, 3, 4) * 0.5 + (x * 2).transpose(FIRST) * 0.25

    (add,) = (node for node in sink(trace(update)).nodes() if node.primitive == "add")
    assert add.shape == (2, 5, 3, 4)


@pytest.mark.parametrize("dtypes", [(), ("bfloat16", "float32")])
def test_what_comes_from_outside_is_permuted_where_it_is_copied(dtypes: tuple[str, ...]) -> None:
    def program(x: Any, w: Any) -> Any:
        for dtype in dtypes:
            x = x.astype(np.dtype(dtype))
        return np.pad(x.transpose(LAST), ((0, 0), (1, 1), (1, 1), (0, 0)))

    graph = sink(trace(program))
    (pad,) = (node for node in graph.nodes() if node.primitive == "pad")
    assert pad.inputs[0].primitive == "permute"


def windows(x: Any) -> Any:
    sizes = tuple(min(2, n) for n in x.shape[1:3])
    return np.lib.stride_tricks.sliding_window_view(x, sizes, axis=(1, 2)).sum(axis=(4, 5))


STEPS: dict[str, Callable[[Any, Any, tuple[int, ...]], Any]] = {
    "permute": lambda a, b, axes: a.transpose(axes),
    "permute the other": lambda a, b, axes: a * 2 if a.shape != b.shape else b.transpose(axes),
    "add": lambda a, b, axes: a + b.reshape(a.shape) if a.size == b.size else a * 3,
    "add permuted": lambda a, b, axes: a.transpose(axes) - (a * 2).transpose(axes),
    "centre": lambda a, b, axes: a - a.sum(axis=axes[:2], keepdims=True),
    "largest": lambda a, b, axes: np.maximum(a, a.max(axis=axes[0], keepdims=True)),
    "where": lambda a, b, axes: np.where(a.transpose(axes) > 1, a.transpose(axes), 0),
    "slice": lambda a, b, axes: a[1:, ::-1, :, :2],
    "pad": lambda a, b, axes: np.pad(a, ((0, 1), (1, 0), (0, 0), (2, 1))),
    "windows": lambda a, b, axes: windows(a),
    "flip": lambda a, b, axes: np.flip(a, axes[:2]),
    "join": lambda a, b, axes: np.concatenate([a.transpose(axes), (a * 2).transpose(axes)], axis=axes[0]),
    "ones": lambda a, b, axes: (
        a.reshape(a.shape[0], 1, *a.shape[1:])
        .transpose(0, 1, 4, 2, 3)
        .reshape(a.shape[0], *[a.shape[i] for i in (3, 1, 2)])
    ),
    "flatten": lambda a, b, axes: a.reshape(a.shape[0] * a.shape[1], a.shape[2], 1, a.shape[3]),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.permutations(range(4))), max_size=8))
def test_values_are_the_same_in_any_program(steps: list[tuple[str, list[int]]]) -> None:
    def program(x: Any, w: Any) -> Any:
        a, b = x, w
        for name, axes in steps:
            if 0 in a.shape or a.size > 5000:
                break
            a, b = STEPS[name](a, b, tuple(axes)), a
        return np.remainder(a, 8)

    sink(trace(program))

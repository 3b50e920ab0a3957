"""The simplifying pass: the same bits with fewer nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.compiler import Graph, TracedArray, input_node, interpret, verify
from needle.compiler.simplify import simplify

SPECIAL = np.array([[0.0, -0.0, 1.0, -1.5], [np.nan, np.inf, -np.inf, 3e38], [1e-45, -2.0, 0.5, 7.0]], "float32")


def trace(function: Callable[[Any], Any], x: np.ndarray = SPECIAL) -> Graph:
    node = input_node(x.shape, x.dtype)
    return Graph((node,), (function(TracedArray(node)).node,))


def primitives(graph: Graph) -> list[str]:
    return [node.primitive for node in graph.nodes() if node.primitive not in ("input", "constant")]


def assert_same_bits(graph: Graph, x: np.ndarray = SPECIAL) -> Graph:
    smaller = simplify(graph)
    verify(smaller)
    with np.errstate(all="ignore"):
        (before,), (after,) = interpret(graph, [x]), interpret(smaller, [x])
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    assert bits(after) == bits(before)
    return smaller


def bits(array: np.ndarray) -> bytes:
    """Return the bits of an array whose NaNs are all the same one: IEEE 754 says nothing of a NaN's sign."""
    return np.where(np.isnan(array), np.nan, array).tobytes()


REWRITES: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "times one goes": (lambda x: x * 1 * 1.0, []),
    "one times goes": (lambda x: 1 * x, []),
    "divided by one goes": (lambda x: x / 1, []),
    "minus zero goes": (lambda x: x - 0, []),
    "double negation goes": (lambda x: np.negative(-x), []),
    "to the power of one goes": (lambda x: x**1, []),
    "a square is a product": (lambda x: x**2, ["multiply"]),
    "adding a negative subtracts": (lambda x: x + -(x * x), ["multiply", "subtract"]),
    "equal nodes become one": (lambda x: (x * x) / (x * x), ["multiply", "divide"]),
    "movement there and back goes": (lambda x: x.T.T.reshape(12).reshape(3, 4), []),
    "permutations join": (lambda x: x.reshape(3, 2, 2).transpose(1, 0, 2).transpose(1, 2, 0), ["reshape", "permute"]),
    "numbers are computed once": (
        lambda x: x * (np.full_like(x, 2) * np.exp(np.zeros_like(x))),
        ["broadcast", "multiply"],
    ),
    "a cast to the same dtype goes": (lambda x: x.astype("float32"), []),
    "a full slice goes": (lambda x: x[:, :], []),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrite_gives_the_same_bits_with_fewer_nodes(name: str) -> None:
    function, expected = REWRITES[name]
    assert primitives(assert_same_bits(trace(function))) == expected


KEPT: dict[str, Callable[[Any], Any]] = {
    "adding zero changes the sign of zero": lambda x: x + 0,
    "subtracting minus zero changes the sign of zero": lambda x: x - np.float32(-0.0),
    "times zero keeps NaN": lambda x: x * 0,
    "minus itself keeps NaN": lambda x: x - x,
    "divided by itself keeps NaN": lambda x: x / x,
    "a cast to integers and back rounds": lambda x: x.astype("float16").astype("float32"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_true_of_every_number_stays(name: str) -> None:
    graph = trace(KEPT[name])
    smaller = simplify(graph)
    assert [p for p in primitives(smaller) if p not in ("reshape", "broadcast")]
    with np.errstate(all="ignore"):
        before, after = interpret(graph, [SPECIAL])[0], interpret(smaller, [SPECIAL])[0]
    assert bits(before) == bits(after)


def test_large_constants_are_not_computed_into_the_program() -> None:
    ones = np.ones((100, 100), "float32")
    smaller = simplify(trace(lambda x: (x[0, 0] + 0 * np.asarray(1.0)) * ones.sum() + np.exp(x[0, 0]), SPECIAL))
    assert all(node.params["value"].size <= 64 for node in smaller.nodes() if node.primitive == "constant")


STEPS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "negate": lambda a, b: -a,
    "number": lambda a, b: a * 1 + b / 1 - 0,
    "square": lambda a, b: a**2 - b,
    "where": lambda a, b: np.where(a > b, a, b * 1),
    "transpose twice": lambda a, b: a.T.T + b,
    "reshape": lambda a, b: a.reshape(-1).reshape(a.shape) * b,
    "flip": lambda a, b: a[::-1] + b[:, ::-1],
    "row sums": lambda a, b: a - np.sum(b, axis=1, keepdims=True),
    "constants": lambda a, b: a + (b * 0 + 3) ** 2,
    "casts": lambda a, b: a.astype("float64").astype("float64").astype("float32") + b,
}


@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8)
)
def test_random_program_keeps_its_bits(program: list[tuple[str, int, int]]) -> None:
    def run(x: Any) -> Any:
        values = [x]
        for step, first, second in program:
            values.append(STEPS[step](values[first % len(values)], values[second % len(values)]))
        return values[-1]

    graph = trace(run)
    smaller = assert_same_bits(graph)
    assert len(smaller.nodes()) <= len(graph.nodes())

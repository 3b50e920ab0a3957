"""Products of bfloat16: found in graphs anywhere, and computed by tile registers where the processor has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import Graph, TracedArray, input_node, interpret, verify
from needle.compiler.host import host
from needle.compiler.narrow import narrow_products
from needle.compiler.simplify import simplify
from needle.compiler.thread_count import set_num_threads

from .compiled import assert_compiles, compile_function

needs_tiles = pytest.mark.skipif(not host().has_tiles, reason="this processor has no tile registers for bfloat16")


def narrow(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(ml_dtypes.bfloat16)


def wide(x: Any) -> Any:
    return x.astype("float32")


def windows(x: Any, w: Any) -> Any:
    """Convolve images (N, H, W, C) with (3, 3, C, F), a border of zeros around them, stride 2 along the width."""
    x = np.pad(wide(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, :, ::2].transpose(0, 1, 2, 4, 5, 3)
    rows = view.reshape(-1, view.shape[3] * view.shape[4] * view.shape[5])
    return rows @ wide(w).reshape(rows.shape[1], -1)


def weight_gradient(x: Any, g: Any) -> Any:
    view = np.lib.stride_tricks.sliding_window_view(wide(x), (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    rows = view.reshape(-1, view.shape[3] * view.shape[4] * view.shape[5])
    return rows.T @ wide(g).reshape(rows.shape[0], -1)


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "rows and columns past the tiles": (lambda a, b: wide(a) @ wide(b), (narrow(70, 100), narrow(100, 90))),
    "a right operand on its side": (lambda a, b: wide(a) @ wide(b).T, (narrow(70, 100), narrow(90, 100))),
    "a left operand on its side": (lambda a, b: wide(a).T @ wide(b), (narrow(100, 70), narrow(100, 90))),
    "both on their sides": (lambda a, b: wide(a).T @ wide(b).T, (narrow(101, 70), narrow(90, 101))),
    "an odd sum": (lambda a, b: wide(a) @ wide(b), (narrow(64, 77), narrow(77, 64))),
    "a long sum, in cuts": (lambda a, b: wide(a) @ wide(b), (narrow(40, 3001), narrow(3001, 50))),
    "many blocks": (lambda a, b: wide(a) @ wide(b), (narrow(600, 64), narrow(64, 600))),
    "a batch": (lambda a, b: wide(a) @ wide(b), (narrow(3, 64, 70), narrow(3, 70, 80))),
    "a batch by one matrix": (lambda a, b: wide(a) @ wide(b), (narrow(3, 5, 64, 70), narrow(70, 80))),
    "heads": (
        lambda q, k: wide(q).transpose(0, 2, 1, 3) @ wide(k).transpose(0, 2, 3, 1),
        (narrow(2, 80, 3, 64), narrow(2, 80, 3, 64)),
    ),
    "what follows elementwise": (
        lambda a, b: np.maximum(wide(a) @ wide(b) + 1, 0) * 2,
        (narrow(70, 100), narrow(100, 90)),
    ),
    "what follows, and the sums too": (
        lambda a, b: (np.tanh(wide(a) @ wide(b)), wide(a) @ wide(b)),
        (narrow(33, 2200), narrow(2200, 65)),
    ),
    "a result that is narrow": (
        lambda a, b: (wide(a) @ wide(b)).astype(ml_dtypes.bfloat16).astype("float32"),
        (narrow(64, 64), narrow(64, 64)),
    ),
    "a convolution": (windows, (narrow(2, 12, 13, 32), narrow(3, 3, 32, 40))),
    "a convolution of few channels": (windows, (narrow(2, 40, 40, 3), narrow(3, 3, 3, 64))),
    "its weight's gradient": (weight_gradient, (narrow(2, 12, 13, 32), narrow(2, 10, 11, 40))),
}


def traced(function: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Graph:
    inputs = tuple(input_node(array.shape, array.dtype) for array in arrays)
    found = function(*map(TracedArray, inputs))
    return Graph(inputs, tuple(one.node for one in (found if isinstance(found, tuple) else (found,))))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_products_of_what_was_narrow_are_found(name: str) -> None:
    function, arrays = FUNCTIONS[name]
    graph = simplify(traced(function, arrays))
    narrowed = narrow_products(graph)
    verify(narrowed)
    assert [node for node in narrowed.nodes() if node.primitive == "widening_matmul"]
    assert not [node for node in narrowed.nodes() if node.primitive == "matmul"]
    for before, after in zip(interpret(graph, arrays), interpret(narrowed, arrays), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-4)


def test_small_products_and_those_of_one_wide_operand_stay() -> None:
    for function, arrays in (
        (lambda a, b: wide(a) @ wide(b), (narrow(8, 200), narrow(200, 200))),
        (lambda a, b: wide(a) @ b, (narrow(100, 100), narrow(100, 100).astype("float32"))),
    ):
        graph = narrow_products(simplify(traced(function, arrays)))
        assert "widening_matmul" not in {node.primitive for node in graph.nodes()}


@needs_tiles
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_tiles_give_what_float32_gives(name: str, threads: int) -> None:
    function, arrays = FUNCTIONS[name]
    set_num_threads(threads)
    try:
        compiled = compile_function(function, *arrays)
        assert "widening_matmul" in compiled.simplified.show()
        # A result that is rounded to bfloat16 may fall on the other side; sums of thousands differ by their order.
        assert_compiles(function, *arrays, rtol=1e-2 if "narrow" in name else 1e-4)
    finally:
        set_num_threads(None)


@needs_tiles
def test_what_is_not_finite_comes_out() -> None:
    a, b = narrow(64, 64), narrow(64, 64)
    a[3, 5], a[40, 0] = np.nan, np.inf
    (y,) = compile_function(lambda a, b: wide(a) @ wide(b), a, b)((a, b))
    assert np.isnan(y[3]).all()
    assert not np.isfinite(y[40]).any()
    rest = [row for row in range(64) if row not in (3, 40)]
    assert np.isfinite(y[rest]).all()

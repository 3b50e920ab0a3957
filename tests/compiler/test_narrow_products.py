"""Products of bfloat16 and float16: found in graphs anywhere, and the same on hosts of all kinds."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import interpret, plan, stages, verify
from needle.compiler.host import Host, host
from needle.compiler.narrow import narrow_products
from needle.compiler.simplify import simplify
from needle.compiler.thread_count import set_num_threads

from .compiled import assert_compiles, compile_function
from .narrow_products import FUNCTIONS, SMALL_FUNCTIONS, narrow, traced, wide

ALL = FUNCTIONS | SMALL_FUNCTIONS
PLAIN = replace(host(), has_tiles=False, has_dots=False)
HOSTS = {
    "dots": replace(host(), has_tiles=False),
    "without instructions of bfloat16": PLAIN,
    "short vectors": replace(PLAIN, vector_bytes=16, vector_registers=16),
}
needs_dots = pytest.mark.skipif(not host().has_dots, reason="this processor has no instructions for pairs of bfloat16")
HOST_NAMES = [pytest.param(name, marks=[needs_dots] if name == "dots" else []) for name in HOSTS]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Host:
    """Compile for another host, which has less than this one."""
    found = HOSTS[request.param]
    for module in (stages, plan):
        monkeypatch.setattr(module, "host", lambda: found)
    return found


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


def test_products_of_one_wide_operand_or_of_two_dtypes_stay() -> None:
    for other in ("float32", "float16"):
        arrays = narrow(100, 100), narrow(100, 100).astype(other)
        graph = narrow_products(simplify(traced(lambda a, b: wide(a) @ wide(b), arrays)))
        assert "widening_matmul" not in {node.primitive for node in graph.nodes()}


def test_graphs_of_nothing_narrow_stay_what_they_are() -> None:
    graph = traced(lambda a, b: a @ b, (np.ones((3, 4)), np.ones((4, 5))))
    assert narrow_products(graph) is graph


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("on", HOST_NAMES, indirect=True)
@pytest.mark.parametrize("name", ALL)
def test_compiled_products_give_what_float32_gives(name: str, on: Host, dtype: np.dtype) -> None:
    function, arrays = ALL[name]
    arrays = tuple(array.astype(dtype) for array in arrays)
    # A result that is rounded to bfloat16 may fall on the other side; sums of thousands differ by their order.
    assert_compiles(function, *arrays, rtol=1e-2 if "narrow" in name else 1e-4)


@pytest.mark.parametrize("on", HOST_NAMES, indirect=True)
@pytest.mark.parametrize("name", ["many blocks", "a long sum, in cuts", "a convolution", "heads"])
def test_every_number_of_threads_gives_the_same_bits(name: str, on: Host) -> None:
    function, arrays = ALL[name]
    compiled, found = compile_function(function, *arrays), []
    try:
        for threads in (1, 2, 3):
            set_num_threads(threads)
            found.append(compiled(arrays))
    finally:
        set_num_threads(None)
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("on", HOST_NAMES, indirect=True)
def test_narrow_products_sum_in_float32_and_round_once(on: Host, dtype: np.dtype) -> None:
    ones = np.ones((2, 3000), dtype)
    (y,) = compile_function(lambda a, b: a @ b, ones, ones.T.copy())((ones, ones.T.copy()))
    assert y.dtype == (ones @ ones.T).dtype  # NumPy's product of bfloat16 is float32
    np.testing.assert_array_equal(y.astype("float32"), np.full((2, 2), 3000, y.dtype).astype("float32"))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("on", HOST_NAMES, indirect=True)
def test_windows_of_narrow_products_are_not_written_out(on: Host, dtype: np.dtype) -> None:
    x, w = narrow(4, 34, 34, 32).astype(dtype), narrow(3, 3, 32, 32).astype(dtype)

    def convolve(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        view = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
        return view.reshape(-1, 9 * 32) @ w.reshape(9 * 32, 32)

    compiled = compile_function(convolve, x, w)
    assert compiled.module.arena.size < 3 * x.size * 4
    (y,) = compiled((x, w))
    exact = convolve(x.astype("float32"), w.astype("float32"))
    np.testing.assert_allclose(y.astype("float32"), exact, rtol=0.01, atol=0.1)


@pytest.mark.parametrize("on", HOST_NAMES, indirect=True)
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("inner", [31, 32])
def test_what_is_not_finite_comes_out_where_it_belongs(on: Host, layout: str, inner: int) -> None:
    a, b = narrow(20, inner), narrow(inner, 40)
    a[3, 5], a[7, 0], a[9, 30] = np.nan, np.inf, -np.inf
    stored = [one if letter == "n" else one.T.copy() for one, letter in zip((a, b), layout, strict=True)]

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (wide(a) if layout[0] == "n" else wide(a).T) @ (wide(b) if layout[1] == "n" else wide(b).T)

    (y,) = compile_function(product, *stored)(stored)
    with np.errstate(invalid="ignore"):
        exact = product(*stored)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(exact))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(exact))
    assert np.isfinite(np.delete(y, [3, 7, 9], axis=0)).all()


@pytest.mark.parametrize("on", HOST_NAMES, indirect=True)
@pytest.mark.parametrize("width", [13, 14])
def test_pixels_that_a_weight_does_not_meet_do_not_reach_its_gradient(on: Host, width: int) -> None:
    function, (x, g) = weight_gradient_case(width)
    x[:, :, -1] = np.nan  # the last column is seen by the last column of weights only
    (slope,) = compile_function(function, x, g)((x, g))
    slope = slope.reshape(3, 3, 32, -1)
    assert np.isnan(slope[:, 2]).all()
    assert np.isfinite(slope[:, :2]).all()


def weight_gradient_case(width: int) -> tuple:
    function, _ = FUNCTIONS["its weight's gradient"]
    return function, (narrow(2, 12, width, 32), narrow(2, 10, width - 2, 40))


@needs_dots
def test_pairs_take_numbers_below_the_smallest_normal_one_for_zero() -> None:
    tiny = np.full((1, 2), 1e-39, ml_dtypes.bfloat16)
    large = np.full((2, 1), 1e30, ml_dtypes.bfloat16)
    (y,) = compile_function(lambda a, b: wide(a) @ wide(b), tiny, large)((tiny, large))
    assert y == 0

"""Matrix products in every layout and size, and what is computed from their tiles, against exact ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import needle as ndl
from needle.compiler import Graph, TracedArray, input_node, interpret
from needle.compiler import tiling as tiling_module
from needle.compiler.contract import render_contraction
from needle.compiler.executable import Executable
from needle.compiler.host import Host
from needle.compiler.matrices import Product
from needle.compiler.schedule import schedule
from needle.compiler.steps import Contraction
from needle.compiler.thread_count import set_num_threads
from needle.compiler.tiling import Split, Tiling, choose_tiling

LAYOUTS = ["nn", "nt", "tn", "tt"]


@pytest.fixture
def any_threads() -> Iterator[None]:
    yield
    set_num_threads(None)


def compile_function(function: Callable[..., Any], *arrays: np.ndarray) -> Executable:
    inputs = tuple(input_node(array.shape, array.dtype) for array in arrays)
    traced = function(*(TracedArray(node) for node in inputs))
    outputs = traced if isinstance(traced, tuple) else (traced,)
    return Executable(Graph(inputs, tuple(one.node for one in outputs)))


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def assert_product(rows: int, inner: int, columns: int, layout: str, dtype: str) -> None:
    a = normal(*(rows, inner)[:: -1 if layout[0] == "t" else 1], dtype=dtype)
    b = normal(*(inner, columns)[:: -1 if layout[1] == "t" else 1], dtype=dtype)

    def product(x: Any, y: Any) -> Any:
        return (x.T if layout[0] == "t" else x) @ (y.T if layout[1] == "t" else y)

    (got,) = compile_function(product, a, b)([a, b])
    exact = product(a.astype("float64"), b.astype("float64"))
    bound = product(abs(a.astype("float64")), abs(b.astype("float64"))) * np.finfo(dtype).eps * (inner + 1)
    assert got.dtype == dtype
    assert (abs(got - exact) <= bound + 1e-300).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("columns", [1, 2, 15, 16, 17, 33, 100])
def test_ragged_products_agree_with_exact_ones(columns: int, layout: str) -> None:
    for rows, inner in [(1, 1), (3, 17), (33, 2), (17, 100), (100, 15)]:
        assert_product(rows, inner, columns, layout, "float32")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_double_products_agree_with_exact_ones(layout: str) -> None:
    for rows, inner, columns in [(1, 3, 2), (17, 33, 15), (100, 9, 33), (31, 64, 8)]:
        assert_product(rows, inner, columns, layout, "float64")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_long_and_aliased_products_agree_with_exact_ones(layout: str) -> None:
    assert_product(70, 1100, 530, layout, "float32")
    assert_product(256, 300, 256, layout, "float32")


@pytest.mark.parametrize("sizes", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_empty_products_are_zeros(sizes: tuple[int, int, int]) -> None:
    rows, inner, columns = sizes
    a, b = normal(rows, inner), normal(inner, columns)
    (got,) = compile_function(lambda x, y: x @ y, a, b)([a, b])
    np.testing.assert_array_equal(got, np.zeros((rows, columns), "float32"))


SHAPES = [((5, 6, 7), (7, 9)), ((2, 5, 6, 7), (2, 5, 7, 9)), ((3, 1, 20, 33), (2, 33, 17)), ((6, 7), (4, 7, 9))]


@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES)
def test_batches_agree_with_the_interpreter(a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> None:
    a, b, bias = normal(*a_shape), normal(*b_shape), normal(b_shape[-1])
    compiled = compile_function(lambda x, y, c: (x @ y, np.tanh(x @ y + c) * 2), a, b, bias)
    for got, expected in zip(compiled([a, b, bias]), interpret(compiled.graph, [a, b, bias]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_views_that_are_neither_rows_nor_columns_agree() -> None:
    a, b = normal(40, 66), normal(99, 50)
    compiled = compile_function(lambda x, y: x[::2, ::-2] @ y[1::3, 3:50:2], a, b)
    (got,) = compiled([a, b])
    np.testing.assert_allclose(got, a[::2, ::-2] @ b[1::3, 3:50:2], rtol=1e-5, atol=1e-4)


def test_every_number_of_threads_gives_the_same_bits(any_threads: None) -> None:
    a, b = normal(200, 700), normal(700, 130)
    compiled = compile_function(lambda x, y: x @ y, a, b)
    results = []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        results.append(compiled([a, b])[0])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


# -- epilogues

N, M = 37, 45
# `full` comes transposed: an output that is made of an input like it is left to a kernel, which can replace it.
ROW, COLUMN, FULL, MASK = normal(M), normal(N, 1), normal(M, N), normal(N, M) > 0
EPILOGUES: dict[str, Callable[..., Any]] = {
    "bias by columns": lambda p, row, column, full, mask: p + row,
    "bias by rows": lambda p, row, column, full, mask: p + column,
    "activation": lambda p, row, column, full, mask: np.maximum(p + row, 0),
    "exponential": lambda p, row, column, full, mask: np.exp(p * 0.1),
    "residual": lambda p, row, column, full, mask: p + full,
    "mask": lambda p, row, column, full, mask: p * mask,
    "choice": lambda p, row, column, full, mask: np.where(mask, p, row),
    "scale": lambda p, row, column, full, mask: p * 0.125,
    "cast": lambda p, row, column, full, mask: (p + row).astype("float16"),
    "comparison": lambda p, row, column, full, mask: p > full,
    "two results": lambda p, row, column, full, mask: (np.maximum(p + row, 0), p + row > 0),
    "one of another": lambda p, row, column, full, mask: ((s := np.tanh(p + row)), s * full),
    "the sums too": lambda p, row, column, full, mask: (p, np.maximum(p, 0)),
}


def with_product(rest: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b, row, column, full, mask: rest(a @ b, row, column, full.T, mask)


@pytest.fixture(params=[20, 700], ids=["whole sums", "cut sums"])
def inner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The length of the sums: of the long ones the epilogue has to wait for the last part."""
    monkeypatch.setattr(tiling_module, "_depth", lambda product, rows, vectors, host: 300)
    return request.param


@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogue_agrees_with_the_interpreter_and_is_fused(name: str, inner: int, any_threads: None) -> None:
    arrays = [normal(N, inner), normal(inner, M), ROW, COLUMN, FULL, MASK]
    compiled = compile_function(with_product(EPILOGUES[name]), *arrays)
    (step,) = compiled.program.steps
    assert isinstance(step, Contraction)
    assert step.epilogue
    assert step.keeps_out == (name == "the sums too")
    expected = interpret(compiled.graph, arrays)
    for threads in (1, 2):
        set_num_threads(threads)
        for got, wanted in zip(compiled(arrays), expected, strict=True):
            assert got.dtype == wanted.dtype
            tolerance = 2e-2 if got.dtype == np.float16 else 1e-3
            np.testing.assert_allclose(got.astype("f8"), wanted.astype("f8"), rtol=tolerance, atol=tolerance)


def test_epilogue_of_a_product_of_integers_agrees() -> None:
    a, b = np.arange(12).reshape(3, 4), np.arange(20).reshape(4, 5)
    compiled = compile_function(lambda x, y: np.maximum(x @ y - 100, 0), a, b)
    np.testing.assert_array_equal(compiled([a, b])[0], np.maximum(a @ b - 100, 0))


def test_what_needs_all_sums_is_not_an_epilogue() -> None:
    a, b = normal(20, 30), normal(30, 40)
    compiled = compile_function(lambda x, y: (p := x @ y) - p.max(axis=0, keepdims=True), a, b)
    assert len(compiled.program.steps) > 1
    np.testing.assert_allclose(compiled([a, b])[0], (a @ b) - (a @ b).max(axis=0), rtol=1e-5, atol=1e-4)


def test_transposed_sums_are_not_an_epilogue() -> None:
    a, b, c = normal(30, 20), normal(20, 30), normal(30, 30)
    compiled = compile_function(lambda x, y, z: (x @ y).T + z, a, b, c)
    np.testing.assert_allclose(compiled([a, b, c])[0], (a @ b).T + c, rtol=1e-5, atol=1e-4)


def test_update_that_may_replace_its_input_stays_a_kernel() -> None:
    a, b, weight = normal(20, 30), normal(30, 40), normal(20, 40)
    inputs = tuple(input_node(array.shape, array.dtype) for array in (a, b, weight))
    x, y, w = map(TracedArray, inputs)
    updated = Executable(Graph(inputs, ((w - x @ y).node,)), {0: 2})
    assert updated.overwrites == {0: 2}


# -- panels made in blocks


@pytest.fixture
def always_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling_module, "_is_worth_packing_b", lambda *_: True)
    monkeypatch.setattr(tiling_module, "available_processors", lambda: 2)
    monkeypatch.setattr(tiling_module, "_FEW_ROWS", 2)


@pytest.mark.usefixtures("any_threads", "always_packed")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_whose_blocks_make_their_own_panels_agree(layout: str) -> None:
    for rows, inner, columns in [(250, 130, 500), (300, 33, 90), (251, 60, 77), (130, 700, 250)]:
        a, b = normal(rows, inner), normal(inner, columns)
        stored = [
            np.ascontiguousarray(one.T) if letter == "t" else one for one, letter in zip((a, b), layout, strict=True)
        ]
        compiled = compile_function(
            lambda x, y: (x.T if layout[0] == "t" else x) @ (y.T if layout[1] == "t" else y), *stored
        )
        assert "_tiles.pack" in compiled.module.text
        results = []
        for threads in (1, 2, 3):
            set_num_threads(threads)
            results.append(compiled(stored)[0])
        np.testing.assert_allclose(results[0], a.astype("f8") @ b, rtol=1e-4, atol=1e-3)
        assert all((result == results[0]).all() for result in results)


@pytest.mark.usefixtures("any_threads")
def test_a_small_product_alone_has_threads_copy_the_panels_of_their_own_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling_module, "available_processors", lambda: 2)
    a, b = normal(50, 70), normal(128, 70)
    alone = compile_function(lambda x, y: x @ y.T, a, b)
    among_others = compile_function(lambda x, y: np.exp(x @ y.T).sum(0), a, b)
    assert "_tiles.pack" in alone.module.text
    assert "_tiles.pack" not in among_others.module.text
    results = []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        results.append(alone([a, b])[0])
    np.testing.assert_allclose(results[0], a.astype("f8") @ b.T, rtol=1e-4, atol=1e-4)
    assert all((result == results[0]).all() for result in results)


def test_panels_are_not_for_threads_to_take_where_one_would_have_much_more_than_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiling_module, "available_processors", lambda: 2)
    a, b = normal(300, 20), normal(65, 20)  # of five vectors one thread would have four
    (step,) = compile_function(lambda x, y: x @ y.T, a, b).program.steps
    assert isinstance(step, Contraction)
    tiling = choose_tiling(step, HOST, is_alone=True)[1]
    assert tiling.pack_b
    assert not tiling.packs_in_blocks


@pytest.mark.usefixtures("any_threads", "always_packed")
def test_blocks_make_the_panels_of_their_own_matrix() -> None:
    a, b = normal(3, 2, 140, 40), normal(3, 2, 90, 40)
    compiled = compile_function(lambda x, y: np.maximum(x @ y.transpose(0, 1, 3, 2), 0), a, b)
    assert "_tiles.pack" in compiled.module.text
    for threads in (1, 2):
        set_num_threads(threads)
        np.testing.assert_allclose(compiled([a, b])[0], np.maximum(a @ b.swapaxes(2, 3), 0), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("always_packed")
def test_panels_of_an_operand_of_several_products_are_made_once() -> None:
    a, c, b = normal(250, 130), normal(250, 130) + 1, normal(500, 130)
    compiled = compile_function(lambda x, y, w: (x @ w.T, y @ w.T), a, c, b)
    assert "_tiles.pack" not in compiled.module.text
    assert compiled.module.text.count("_pack_b(") > 0
    for got, left in zip(compiled([a, c, b]), (a, c), strict=True):
        np.testing.assert_allclose(got, left @ b.T, rtol=1e-4, atol=1e-3)


# -- sums cut within one step of their outermost axis


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize(("batch", "side", "channels", "features"), [(3, 40, 48, 64), (2, 45, 64, 33), (1, 70, 20, 20)])
def test_sums_over_large_images_agree(
    monkeypatch: pytest.MonkeyPatch, batch: int, side: int, channels: int, features: int
) -> None:
    monkeypatch.setattr(tiling_module, "_depth", lambda *_: 300)
    image, adjoint = normal(batch, side, side, channels), normal(batch, side, side, features)
    gradient = ndl.jit(ndl.ops.ConvWeightGradient(stride=1, padding=1, groups=1, kernel=(3, 3)))
    x, g = ndl.Tensor(image, requires_grad=False), ndl.Tensor(adjoint, requires_grad=False)
    padded = np.pad(image.astype("f8"), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
    expected = np.tensordot(windows, adjoint.astype("f8"), ((0, 4, 5), (0, 1, 2)))
    results = []
    for threads in (1, 2):
        set_num_threads(threads)
        results.append(gradient(x, g).numpy())
    np.testing.assert_allclose(results[0], expected, rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(results[0], results[1])
    steps = gradient.lower(x, g).program.executable.program.steps
    tilings = [choose_tiling(step, HOST)[1] for step in steps if isinstance(step, Contraction)]
    assert tilings
    assert all((tiling.second.count > 1 or batch == 1) and tiling.all_by_cuts for tiling in tilings)


# -- division

HOST = Host("any", "", 64, 32, True, 48 << 10, 2 << 20)


@pytest.mark.parametrize(("total", "count"), [(100, 8), (7, 4), (5, 5), (64, 3)])
def test_split_is_even(total: int, count: int) -> None:
    starts = [-(-number * total // count) for number in range(count + 1)]
    sizes = [end - start for start, end in itertools.pairwise(starts)]
    split = Split(total, count)
    assert (max(sizes), sizes[0], sizes[-1]) == (split.largest, split.largest, split.smallest)


def test_tiles_fit_the_registers() -> None:
    for rows, columns, inner in itertools.product([1, 7, 100, 784], [1, 10, 100, 500], [1, 100, 3000]):
        for host in (HOST, Host("any", "", 32, 16, True, 32 << 10, 512 << 10), Host("any", "", 16, 32, False, 1, 1)):
            tiling = tiling_of(rows, inner, columns, host)
            loaded = tiling.vectors.largest if tiling.sum_lanes == 1 else tiling.rows.largest
            assert tiling.rows.largest * tiling.vectors.largest + loaded < host.vector_registers
            assert tiling.vectors.total * tiling.lanes >= columns
            assert tiling.rows.smallest >= 1


def tiling_of(rows: int, inner: int, columns: int, host: Host) -> Tiling:
    a, b = input_node((rows, inner), np.dtype("f4")), input_node((inner, columns), np.dtype("f4"))
    graph = Graph((a, b), ((TracedArray(a) @ TracedArray(b)).node,))
    (step,) = schedule(graph).steps
    assert isinstance(step, Contraction)
    return choose_tiling(step, host)[1]


@pytest.mark.parametrize(
    ("rows", "columns", "is_packed"), [(128, 128, False), (128, 100, False), (512, 128, True), (128, 1024, True)]
)
def test_the_rows_of_a_cut_are_read_where_they_lie_by_few_tiles(rows: int, columns: int, is_packed: bool) -> None:
    a, b = input_node((16384, rows), np.dtype("f4")), input_node((16384, columns), np.dtype("f4"))
    graph = Graph((a, b), ((TracedArray(a).T @ TracedArray(b)).node,))
    (step,) = schedule(graph).steps
    assert isinstance(step, Contraction)
    tiling = choose_tiling(step, HOST)[1]
    assert tiling.all_by_cuts
    assert tiling.pack_b is is_packed


def test_rows_that_follow_each_other_are_asked_for_a_tile_ahead() -> None:
    b = input_node((64, 32), np.dtype("f4"))
    counts = []
    for a in (input_node((140, 64), np.dtype("f4")), input_node((140, 65), np.dtype("f4"))):
        graph = Graph((a, b), ((TracedArray(a)[:, :64] @ TracedArray(b)).node,))
        (step,) = schedule(graph).steps
        assert isinstance(step, Contraction)
        counts.append(render_contraction(step, HOST)[-1].function.text().count("@llvm.prefetch"))
    assert counts[0] == counts[1] + 1


@pytest.mark.usefixtures("always_packed")
@pytest.mark.parametrize(("rows", "inner", "columns"), [(250, 500, 250), (784, 250, 500), (2048, 64, 96)])
def test_blocks_that_make_panels_keep_them_in_the_second_cache(rows: int, inner: int, columns: int) -> None:
    tiling = tiling_of(rows, inner, columns, HOST)
    assert tiling.packs_in_blocks
    assert tiling.inner.count == 1
    assert tiling.block[1] * tiling.b_width * inner * 4 <= HOST.second_cache_bytes // 4
    assert (
        math.prod(
            -(-split.count // size) for split, size in zip((tiling.rows, tiling.vectors), tiling.block, strict=True)
        )
        >= 16
    )


def test_square_product_takes_the_largest_tile_and_cuts_long_sums() -> None:
    tiling = tiling_of(2048, 2048, 2048, HOST)
    assert (tiling.rows.largest, tiling.vectors.largest, tiling.inner.count) == (14, 2, 8)
    assert tiling.pack_b


def test_equal_layers_share_their_functions() -> None:
    x, *weights = normal(20, 30), normal(30, 30), abs(normal(30, 30)), normal(30, 40)

    def layers(x: Any, *weights: Any) -> Any:
        for weight in weights:
            x = np.maximum(x @ weight, 0)
        return x

    compiled = compile_function(layers, x, *weights)
    assert compiled.module.text.count("define internal void @k") == 2 * 2
    np.testing.assert_allclose(compiled([x, *weights])[0], layers(x, *weights), rtol=1e-5, atol=1e-3)


# -- products with few columns, of which vectors are along the rows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rows", "inner", "columns"),
    [(500, 250, 10), (101, 33, 10), (7, 5, 3), (64, 40, 17), (503, 1300, 10), (700, 1200, 1)],
)
def test_turned_products_agree_with_exact_ones(rows: int, inner: int, columns: int, dtype: str) -> None:
    assert_product(rows, inner, columns, "tn", dtype)
    assert_product(rows, inner, columns, "tt", dtype)


def test_a_product_with_few_columns_is_turned_where_its_rows_lie_side_by_side() -> None:
    def product(layout: str, columns: int, host: Host, inner: int = 250) -> Product:
        a, b = input_node((inner, 500), np.dtype("f4")), input_node((inner, columns), np.dtype("f4"))
        left, right = TracedArray(a), TracedArray(b)
        graph = Graph((a, b), ((left.T @ right if layout == "tn" else right.T @ left).node,))
        (step,) = schedule(graph).steps
        assert isinstance(step, Contraction)
        return choose_tiling(step, host)[0]

    wide = replace(HOST, vector_bytes=64, vector_registers=32)
    turned = product("tn", 10, wide)
    assert turned.is_turned
    assert (turned.rows, turned.columns, turned.result_columns) == (10, 500, 10)
    assert not product("nt", 10, wide).is_turned
    assert product("tn", 10, wide, inner=4000).is_turned
    assert not product("tn", 64, wide).is_turned


@pytest.mark.parametrize("name", ["activation", "the sums too", "residual", "cast"])
@pytest.mark.parametrize("columns", [3, 10, 19])
def test_epilogue_of_a_turned_product_agrees(name: str, columns: int, any_threads: None) -> None:
    rows = 173
    left = [normal(60, rows), normal(60, columns)]
    rest = [normal(columns), normal(rows, 1), normal(columns, rows), normal(rows, columns) > 0]
    arrays = [*left, *rest]
    compiled = compile_function(lambda a, b, *rest: with_product(EPILOGUES[name])(a.T, b, *rest), *arrays)
    (step,) = compiled.program.steps
    assert isinstance(step, Contraction)
    assert step.epilogue
    expected = interpret(compiled.graph, arrays)
    for threads in (1, 2):
        set_num_threads(threads)
        for got, wanted in zip(compiled(arrays), expected, strict=True):
            tolerance = 2e-2 if got.dtype == np.float16 else 1e-4
            np.testing.assert_allclose(got.astype("f8"), wanted.astype("f8"), rtol=tolerance, atol=tolerance)


# -- products with few columns, of which vectors are along the sum


def tiling_along(rows: int, inner: int, columns: int) -> Tiling:
    return tiling_of(rows, inner, columns, replace(HOST, vector_bytes=64, vector_registers=32))


def test_vectors_are_along_the_sum_where_columns_are_few_and_sums_are_long() -> None:
    assert tiling_along(250, 500, 10).sum_lanes == 16
    assert tiling_along(250, 500, 10).vectors == Split(10, 1)
    assert tiling_along(250, 20, 10).sum_lanes == 1
    assert tiling_along(250, 500, 16).sum_lanes == 1
    assert tiling_along(8, 500, 10).sum_lanes == 1
    assert tiling_along(250, 50_000, 10).sum_lanes == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["nn", "nt"])
@pytest.mark.parametrize("columns", [1, 3, 10, 17, 20])
def test_products_with_vectors_along_the_sum_agree_with_exact_ones(columns: int, layout: str, dtype: str) -> None:
    for rows, inner in [(250, 500), (101, 160), (3, 333), (1, 407)]:
        assert_product(rows, inner, columns, layout, dtype)


@pytest.mark.parametrize("name", EPILOGUES)
@pytest.mark.parametrize("columns", [3, 10, 17])
def test_epilogue_of_a_product_with_vectors_along_the_sum_agrees(name: str, columns: int, any_threads: None) -> None:
    rows, inner = 101, 300
    rest = [normal(columns), normal(rows, 1), normal(columns, rows), normal(rows, columns) > 0]
    arrays = [normal(rows, inner), normal(inner, columns) / 16, *rest]
    compiled = compile_function(with_product(EPILOGUES[name]), *arrays)
    (step,) = compiled.program.steps
    assert isinstance(step, Contraction)
    assert step.epilogue
    expected = interpret(compiled.graph, arrays)
    for threads in (1, 2, 3):
        set_num_threads(threads)
        for got, wanted in zip(compiled(arrays), expected, strict=True):
            tolerance = 2e-2 if got.dtype == np.float16 else 1e-4
            np.testing.assert_allclose(got.astype("f8"), wanted.astype("f8"), rtol=tolerance, atol=tolerance)


def test_what_is_not_finite_stays_in_its_row_and_column_where_vectors_are_along_the_sum() -> None:
    a, b = normal(40, 205), normal(205, 10)
    a[7, 0], a[9, 204], b[0, 3], b[204, 5] = np.nan, np.inf, np.inf, np.nan
    (got,) = compile_function(lambda x, y: x @ y, a, b)([a, b])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(a.astype("f8") @ b))


@pytest.mark.parametrize("shared", [False, True])
def test_batches_and_views_with_vectors_along_the_sum_agree(shared: bool) -> None:
    a, b = normal(4, 50, 2, 200), normal(210, 10) if shared else normal(4, 210, 10)

    def product(x: Any, y: Any) -> Any:
        return x[:, ::2, 1, :] @ y[..., 10:, :]

    (got,) = compile_function(product, a, b)([a, b])
    np.testing.assert_allclose(got, product(a.astype("f8"), b), rtol=1e-5, atol=1e-4)


def test_batches_of_turned_products_agree() -> None:
    a, b = normal(5, 40, 70), normal(5, 40, 9)
    (got,) = compile_function(lambda x, y: x.transpose((0, 2, 1)) @ y, a, b)([a, b])
    np.testing.assert_allclose(got, a.transpose(0, 2, 1).astype("f8") @ b, rtol=1e-5, atol=1e-4)


# -- long sums


def product_tiling(a: np.ndarray, b: np.ndarray) -> Tiling:
    """Return how a product of two matrices, the left one transposed, is divided."""
    inputs = tuple(input_node(array.shape, array.dtype) for array in (a, b))
    left, right = (TracedArray(node) for node in inputs)
    (step,) = schedule(Graph(inputs, ((left.T @ right).node,))).steps
    assert isinstance(step, Contraction)
    return choose_tiling(step, HOST)[1]


@pytest.mark.parametrize(("rows", "inner", "columns"), [(128, 16384, 128), (21, 9001, 16), (147, 40000, 17)])
def test_long_sums_fall_into_pieces_that_do_not_depend_on_threads(
    rows: int, inner: int, columns: int, any_threads: None
) -> None:
    a, b = normal(inner, rows), normal(inner, columns)
    tiling = product_tiling(a, b)
    assert tiling.pieces > 1
    assert tiling.cuts % tiling.pieces == 0
    compiled = compile_function(lambda x, y: x.T @ y, a, b)
    exact = a.T.astype("float64") @ b.astype("float64")
    results = []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        results.append(compiled([a, b])[0])
    np.testing.assert_allclose(results[0], exact, rtol=0, atol=1e-5 * inner**0.5 * 10)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_sums_with_something_after_them_are_computed_in_one_piece() -> None:
    a, b, bias = normal(30000, 48), normal(30000, 32), normal(32)
    compiled = compile_function(lambda x, y, c: np.tanh(x.T @ y * 0.01 + c), a, b, bias)
    assert "pieces" not in compiled.module.text
    exact = np.tanh(a.T.astype("float64") @ b.astype("float64") * 0.01 + bias)
    np.testing.assert_allclose(compiled([a, b, bias])[0], exact, rtol=0, atol=1e-4)

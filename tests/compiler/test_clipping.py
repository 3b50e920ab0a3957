"""Products that sum over what is inside of an image, and not over the zeros around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import needle as ndl
from needle.compiler import plan, stages
from needle.compiler.clipping import without_products_of_zeros
from needle.compiler.contract import render_contraction
from needle.compiler.host import host
from needle.compiler.narrow import narrow_products
from needle.compiler.operand import Clip, share_left
from needle.compiler.schedule import schedule
from needle.compiler.simplify import simplify
from needle.compiler.steps import Contraction
from needle.compiler.thread_count import set_num_threads
from needle.compiler.tiling import choose_tiling, divide

from .compiled import assert_compiles, compile_function

# Samples, size, channels, features, kernel, stride, padding, dilation.
CASES: dict[str, tuple[Any, ...]] = {
    "3x3": (32, (8, 8), 32, 32, (3, 3), 1, 1, 1),
    "ragged": (15, (4, 5), 33, 17, (3, 3), 1, 1, 1),
    "strided": (32, (5, 7), 16, 20, (3, 3), 2, 1, 1),
    "stride of the kernel": (32, (9, 9), 16, 16, (4, 4), 3, 3, 1),
    "dilated": (32, (6, 6), 16, 16, (3, 3), 1, 2, 2),
    "nothing but border": (7, (6, 6), 24, 24, (3, 3), 1, 5, 1),
    "kernel larger than the image": (32, (2, 2), 16, 16, (5, 5), 1, 2, 1),
    "one row": (32, (1, 3), 16, 16, (3, 3), 1, 1, 1),
    "one element": (32, (1, 1), 16, 16, (3, 3), 1, 1, 1),
    "uneven border": (32, (8, 8), 16, 16, (3, 3), 1, ((0, 1), (2, 1)), 1),
    "cut sums": (16, (4, 4), 512, 48, (3, 3), 1, 1, 1),
    "one axis": (32, (8,), 32, 32, (3,), 1, 1, 1),
    "three axes": (12, (3, 4, 3), 16, 16, (3, 3, 3), 1, 1, 1),
}

# Samples and channels that pairs of bfloat16 leave one of.
ODD = 15, (5, 4), 33, 40, (3, 3), 1, 1, 1
HOSTS = {"this one": host(), "without instructions of bfloat16": replace(host(), has_dots=False, has_tiles=False)}


@pytest.fixture
def any_threads() -> Iterator[None]:
    yield
    set_num_threads(None)


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def step_of(case: tuple[Any, ...], dtype: str = "float32") -> tuple[Any, list[ndl.Tensor]]:
    """Return a function of an image and a weight, to their product's square and gradients, and both."""
    samples, size, channels, features, kernel, stride, padding, dilation = case
    shapes = (samples, *size, channels), (*kernel, channels, features)
    x, w = (ndl.Tensor(normal(*shape, dtype=dtype), dtype=dtype) for shape in shapes)

    def step(x: ndl.Tensor, w: ndl.Tensor) -> tuple[ndl.Tensor, ...]:
        x.grad = w.grad = None
        y = ndl.conv(x, w, stride=stride, padding=padding, dilation=dilation)
        (y * y).sum().backward()
        return y, x.grad, w.grad

    return step, [x, w]


def narrow_step_of(case: tuple[Any, ...], dtype: str) -> tuple[Any, list[ndl.Tensor]]:
    """Return the same with products in a narrow dtype, of numbers small enough for float16."""
    samples, size, channels, features, kernel, stride, padding, dilation = case
    shapes = (samples, *size, channels), (*kernel, channels, features)
    x, w = (ndl.Tensor(normal(*shape) / 8, dtype="float32") for shape in shapes)

    def step(x: ndl.Tensor, w: ndl.Tensor) -> tuple[ndl.Tensor, ...]:
        x.grad = w.grad = None
        with ndl.autocast(dtype):
            y = ndl.conv(x, w, stride=stride, padding=padding, dilation=dilation)
        (y * y).sum().backward()
        return y, x.grad, w.grad

    return step, [x, w]


def clipped(program: Any) -> int:
    return str(program.show("kernels")).count("clipped")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_clipped_products_agree_with_eager_ones(case: tuple[Any, ...], dtype: str) -> None:
    step, tensors = step_of(case, dtype)
    expected = [one.numpy().copy() for one in step(*tensors)]
    compiled = ndl.jit(step)
    for got, wanted in zip(compiled(*tensors), expected, strict=True):
        largest = abs(wanted).max()
        np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=largest * (1e-5 if dtype == "float32" else 1e-13))
    assert clipped(compiled.lower(*tensors))


@pytest.mark.parametrize("on", HOSTS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", [*CASES.values(), ODD], ids=[*CASES, "odd sums"])
def test_clipped_products_of_narrow_numbers_agree_with_eager_ones(
    case: tuple[Any, ...], dtype: str, on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (stages, plan):
        monkeypatch.setattr(module, "host", lambda: HOSTS[on])
    step, tensors = narrow_step_of(case, dtype)
    expected = [one.numpy().astype("float32") for one in step(*tensors)]
    compiled = ndl.jit(step)
    for got, wanted in zip(compiled(*tensors), expected, strict=True):
        largest = abs(wanted).max()
        np.testing.assert_allclose(got.numpy().astype("float32"), wanted, rtol=0, atol=largest * 0.02)
    assert clipped(compiled.lower(*tensors))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_numbers_that_are_not_finite_stay_where_windows_see_them(dtype: str) -> None:
    step, (x, w) = narrow_step_of(ODD, dtype)
    image = x.numpy().copy()
    image[3, 0, 0, 5], image[-1, -1, -1, -1] = np.nan, np.inf
    x = ndl.Tensor(image, dtype="float32")
    with np.errstate(invalid="ignore", over="ignore"):
        expected = step(x, w)[0].numpy().astype("float32")
    got = ndl.jit(step)(x, w)[0].numpy().astype("float32")
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))


def test_products_for_tile_registers_are_not_clipped() -> None:
    step, tensors = narrow_step_of(CASES["3x3"], "bfloat16")
    graph = ndl.jit(step).lower(*tensors).program.executable.graph
    for has_tiles in (False, True):
        other = replace(host(), has_tiles=has_tiles)
        program = without_products_of_zeros(schedule(simplify(narrow_products(simplify(graph)))), other)
        assert ("clipped" in program.show()) != has_tiles


def test_a_single_sample_keeps_its_border() -> None:
    step, tensors = step_of((1, *CASES["3x3"][1:]))
    assert clipped(ndl.jit(step).lower(*tensors)) == 0


def test_every_number_of_threads_gives_the_same_bits(any_threads: None) -> None:
    step, tensors = step_of((32, (4, 4), 64, 64, (3, 3), 1, 1, 1))
    compiled = ndl.jit(step)
    results = []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        results.append([one.numpy().copy() for one in compiled(*tensors)])
    for one, two, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def residual(x: Any, w: Any) -> Any:
    """Return a block whose activation is read with a border, without one, and behind a product."""
    xp = x.__array_namespace__()
    h = xp.maximum(xp.exp(x * 0.3) - 0.9, 0)
    view = np.lib.stride_tricks.sliding_window_view(xp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2))
    rows = xp.reshape(xp.permute_dims(view, (0, 1, 2, 4, 5, 3)), (16 * 36, 9 * 8))
    y = xp.reshape(rows @ w, x.shape)
    return xp.maximum(y + h, 0), xp.sum(xp.where(h > 0, y, 0), axis=(0, 1, 2))


def test_what_else_reads_the_image_finds_it() -> None:
    x, w = normal(16, 6, 6, 8), normal(72, 8)
    program = compile_function(residual, x, w).program
    assert "clipped" in program.show()
    assert not any(buffer.shape == (16, 8, 8, 8) for step in program.steps for buffer in step.writes())
    assert_compiles(residual, x, w)


def test_an_image_that_goes_out_with_its_border_keeps_it() -> None:
    def with_border(x: Any, w: Any) -> Any:
        xp = x.__array_namespace__()
        padded = xp.pad(x, ((0, 0), (1, 1), (0, 0)))
        view = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=1)
        rows = xp.reshape(xp.permute_dims(view, (0, 1, 3, 2)), (16 * 6, 3 * 8))
        return padded, rows @ w

    arrays = normal(16, 6, 8), normal(24, 8)
    assert "clipped" not in compile_function(with_border, *arrays).program.show()
    assert_compiles(with_border, *arrays)


def test_numbers_that_are_not_finite_stay_where_windows_see_them() -> None:
    _, (x, w) = step_of((32, (4, 4), 16, 16, (3, 3), 1, 1, 1))
    image, weight = x.numpy().copy(), w.numpy().copy()
    image[3, 0, 0, 5] = np.nan
    weight[0, 0, 2, 7] = np.inf
    forward = ndl.jit(lambda a, b: ndl.conv(a, b, padding=1))
    y = forward(ndl.Tensor(image), ndl.Tensor(weight)).numpy()
    assert np.isnan(y[3, :2, :2]).all()
    assert np.isfinite(y[3, 2:, :, :7]).all()
    assert not np.isfinite(y[:, 1:, 1:, 7]).any()
    # The infinite weight meets no element of the image there, and no zero around it either.
    assert np.isfinite(y[4:, 0, :, 7]).all()
    assert np.isfinite(y[4:, :, 0, 7]).all()


@pytest.mark.parametrize("row_stride", [0, 1, 2, 3])
@pytest.mark.parametrize("sum_stride", [1, 2, 3])
@pytest.mark.parametrize("start", [-5, -2, 0, 1])
def test_the_steps_inside_are_those_that_meet_the_condition(row_stride: int, sum_stride: int, start: int) -> None:
    clip = Clip(0, 0, row_stride, sum_stride, start, 4)
    total = 0
    for row in range(6):
        inside = [step for step in range(5) if 0 <= start + row_stride * row + sum_stride * step < 4]
        assert list(clip.inside(row, 5)) == inside
        total += len(inside)
    assert share_left([clip], [6], [5]) == pytest.approx(total / 30)


def test_neighbours_and_their_samples_are_summed_in_one_loop() -> None:
    step, tensors = step_of((32, (8, 8), 16, 16, (3, 3), 1, 1, 1))
    wide = replace(host(), vector_bytes=64, vector_registers=32)  # a tile of one size
    loops = {}
    for one in ndl.jit(step).lower(*tensors).program.executable.program.steps:
        if isinstance(one, Contraction) and one.a.clips:
            tiles = render_contraction(one, wide)[-1].function
            loops.setdefault(one.out.shape, set()).add(tiles.text().count("asm"))
    # Lines of the kernel, its elements and channels; lines of the image, and its elements with their samples.
    assert loops == {(32, 8, 8, 16): {3}, (3, 3, 16, 16): {2}}


def test_operands_that_are_clipped_are_read_where_they_lie() -> None:
    step, tensors = step_of((16, (2, 2), 256, 1600, (3, 3), 1, 1, 1))
    wide = replace(host(), vector_bytes=64, vector_registers=32)
    packed = 0
    for one in ndl.jit(step).lower(*tensors).program.executable.program.steps:
        if isinstance(one, Contraction) and one.a.clips:
            product, tiling = choose_tiling(one, wide)
            assert not tiling.pack_a
            # The gradient of the weight, whose columns push each other out of the cache, is copied where it is whole.
            packed += divide([replace(product, clips=())], wide)[1].pack_a
    assert packed == 1


@pytest.mark.parametrize(("channels", "is_cut"), [(32, False), (48, True)])
def test_sums_over_windows_stay_whole_where_a_panel_and_a_window_fit_a_cache(channels: int, is_cut: bool) -> None:
    small = replace(host(), vector_bytes=64, vector_registers=32, second_cache_bytes=65536)
    x, w = (ndl.Tensor(normal(*shape)) for shape in [(32, 4, 4, channels), (3, 3, channels, 64)])
    lowered = ndl.jit(lambda x, w: ndl.conv(x, w, padding=1)).lower(x, w)
    (product,) = (one for one in lowered.program.executable.program.steps if isinstance(one, Contraction))
    assert (choose_tiling(product, small)[1].cuts > 1) is is_cut

"""Kernels whose neighbouring points share their loads: against NumPy, at all sizes and at the ends of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import interpret
from needle.compiler import stencil as stencil_module
from needle.compiler.host import host
from needle.compiler.loops import Kernel, Within, walk
from needle.compiler.stencil import plan_stencil
from needle.compiler.thread_count import set_num_threads
from needle.ops.convolution import Conv, ConvTranspose, ConvWeightGradient
from needle.ops.pooling import AvgPool, AvgPoolGradient, MaxPool, MaxPoolGradient

from .compiled import assert_compiles, compile_function


@pytest.fixture
def any_threads() -> Iterator[None]:
    yield
    set_num_threads(None)


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def kernels_of(function: Any, *arrays: np.ndarray) -> list[Kernel]:
    return [step for step in compile_function(function, *arrays).program.steps if isinstance(step, Kernel)]


def assert_depthwise(
    image: np.ndarray, kernel: tuple[int, ...], stride: int = 1, padding: int = 0, dilation: int = 1
) -> None:
    channels = image.shape[-1]
    settings = stride, padding, dilation, channels
    weight = normal(*kernel, 1, channels, dtype=str(image.dtype))
    count = Conv(*settings).windows(kernel).count(image.shape[1:-1])
    elements = normal(image.shape[0], *count, channels, dtype=str(image.dtype))
    assert_compiles(Conv(*settings).compute, image, weight)
    assert_compiles(ConvTranspose(*settings, size=image.shape[1:-1]).compute, elements, weight)
    assert_compiles(ConvWeightGradient(*settings, kernel=kernel).compute, image, elements)


@pytest.mark.parametrize("channels", [2, 3, 15, 16, 17, 33, 60, 128])
@pytest.mark.parametrize("width", [2, 5, 8, 17])
def test_depthwise_convolutions_agree_at_every_width(channels: int, width: int) -> None:
    assert_depthwise(normal(2, 4, width, channels), (3, 3), padding=1)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [((1, 1), 1, 0, 1), ((5, 3), 1, 2, 1), ((3, 3), 2, 1, 1), ((3, 3), 3, 0, 1), ((3, 3), 1, 2, 2), ((7, 7), 1, 3, 1)],
)
def test_depthwise_settings(kernel: tuple[int, int], stride: int, padding: int, dilation: int) -> None:
    assert_depthwise(normal(2, 9, 11, 20), kernel, stride, padding, dilation)


@pytest.mark.parametrize("shape", [(3, 12, 18), (1, 1, 40, 8), (2, 4, 5, 6, 7), (1, 30, 5), (40, 6, 6, 4)])
def test_depthwise_of_one_to_three_spatial_axes(shape: tuple[int, ...]) -> None:
    assert_depthwise(normal(*shape), (3,) * (len(shape) - 2), padding=1)


def test_depthwise_of_doubles() -> None:
    assert_depthwise(normal(2, 6, 9, 11, dtype="float64"), (3, 3), padding=1)


def test_several_features_a_channel_and_grouped_convolutions() -> None:
    image = normal(2, 6, 7, 12)
    for groups, features in [(12, 36), (4, 24), (3, 12)]:
        weight = normal(3, 3, 12 // groups, features)
        settings = 1, 1, 1, groups
        elements = normal(2, 6, 7, features)
        assert_compiles(Conv(*settings).compute, image, weight)
        assert_compiles(ConvTranspose(*settings, size=(6, 7)).compute, elements, weight)
        assert_compiles(ConvWeightGradient(*settings, kernel=(3, 3)).compute, image, elements)


def test_depthwise_convolution_makes_no_padded_copy() -> None:
    image, weight = normal(2, 8, 8, 16), normal(3, 3, 1, 16)
    (kernel,) = kernels_of(Conv(1, 1, 1, 16).compute, image, weight)
    assert plan_stencil(kernel, host()) is not None
    gradient = kernels_of(ConvWeightGradient(1, 1, 1, 16, kernel=(3, 3)).compute, image, image)
    assert gradient
    assert all(kernel.shape[-4:-2] != (10, 10) for kernel in gradient)


def test_padded_copy_stays_where_something_else_reads_it() -> None:
    image, weight = normal(2, 6, 6, 16), normal(3, 3, 1, 16)

    def both(a: Any, b: Any) -> Any:
        padded = a.__array_namespace__().pad(a, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return Conv(1, 0, 1, 16).compute(padded, b), padded

    assert_compiles(both, image, weight)
    assert any(
        isinstance(one, Within) for step in kernels_of(both, image, weight) for one in walk(step.stages[0].value)
    )


def test_what_is_beyond_an_image_is_zero_times_the_weight() -> None:
    image, weight = normal(1, 5, 6, 16), normal(3, 3, 1, 16)
    weight[0, 0, 0, 3], weight[2, 1, 0, 4] = np.nan, np.inf
    image[0, 2, 3, 5] = np.nan
    compiled = compile_function(Conv(1, 1, 1, 16).compute, image, weight)
    (got,) = compiled([image, weight])
    with np.errstate(invalid="ignore"):
        (expected,) = interpret(compiled.graph, [image, weight])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert np.isnan(expected[0, 0, 0, 3])


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (2, 1)])
def test_pooling_of_windows_that_overlap(kernel: int, stride: int) -> None:
    image = normal(2, 9, 12, 21)
    assert_compiles(AvgPool(kernel, stride).compute, image)
    image[0, 4, 4, 4] = np.nan
    assert_compiles(MaxPool(kernel, stride).compute, image)
    assert_compiles(MaxPool(kernel, stride, 1).compute, image)
    assert_compiles(AvgPool(kernel, stride, 1).compute, np.nan_to_num(image))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (3, 2, 1, 1), (2, 3, 0, 1), (3, 2, 1, 2), (2, 2, 0, 1)]
)
def test_gradients_of_pooling(kernel: int, stride: int, padding: int, dilation: int) -> None:
    settings = kernel, stride, padding, dilation
    image = np.round(normal(2, 9, 12, 21), 1)  # of equal maxima the first one counts
    maxima = MaxPool(*settings).compute(image)
    elements = normal(*maxima.shape)
    assert_compiles(MaxPoolGradient(*settings).compute, elements, image, maxima)
    if dilation == 1:
        assert_compiles(AvgPoolGradient(*settings[:3], size=(9, 12)).compute, elements)


def test_maxima_at_the_ends_of_an_image_are_of_the_image_alone() -> None:
    image = -1 - abs(normal(1, 5, 6, 16))
    image[0, 0, 0, 3] = -np.inf
    compiled = compile_function(MaxPool(3, 1, 1).compute, image)
    (kernel,) = (step for step in compiled.program.steps if isinstance(step, Kernel))
    assert plan_stencil(kernel, host()) is not None
    np.testing.assert_array_equal(compiled([image])[0], interpret(compiled.graph, [image])[0])


def test_sums_and_elements_of_differences_in_one_kernel() -> None:
    def differences(a: Any) -> Any:
        xp = a.__array_namespace__()
        d = a[:, 1:] - a[:, :-1]
        return xp.sum(xp.square(d), axis=(0, 1)), xp.where(d > 0, d, 0 * d), xp.max(d, axis=(0, 1))

    assert_compiles(differences, normal(40, 33, 50))


def test_functions_of_truths() -> None:
    def peaks(a: Any, b: Any) -> Any:
        xp = a.__array_namespace__()
        middle, before, after = a[:, 1:-1], a[:, :-2], a[:, 2:]
        low = xp.logical_not(xp.logical_and(middle > before, middle >= after))
        return xp.where(xp.logical_or(low, middle < b), 0 * middle, middle)

    arrays = normal(5, 20, 37), normal(37)
    (kernel,) = kernels_of(peaks, *arrays)
    assert plan_stencil(kernel, host()) is not None
    assert_compiles(peaks, *arrays)


def test_every_number_of_threads_gives_the_same_bits(any_threads: None) -> None:
    image, elements = normal(8, 16, 16, 48), normal(8, 16, 16, 48)
    compiled = compile_function(ConvWeightGradient(1, 1, 1, 48, kernel=(3, 3)).compute, image, elements)
    results = []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        (found,) = compiled([image, elements])
        results.append(found.tobytes())
    assert len(set(results)) == 1


def test_hosts_with_few_registers_take_smaller_tiles() -> None:
    (kernel,) = kernels_of(Conv(1, 1, 1, 32).compute, normal(2, 16, 16, 32), normal(3, 3, 1, 32))
    large, small = (plan_stencil(kernel, replace(host(), vector_bytes=n, vector_registers=n // 2)) for n in (64, 32))
    assert large is not None
    assert small is not None
    assert (large.lanes, small.lanes) == (16, 8)
    assert 1 < small.tile < large.tile


def test_what_shares_no_loads_is_no_stencil() -> None:
    for function in (lambda a: a + 1, lambda a: a[:, ::2] + a[:, 1::2], MaxPool(2).compute):
        kernels = kernels_of(function, normal(4, 8, 8, 16))
        assert kernels
        assert all(plan_stencil(kernel, host()) is None for kernel in kernels)


def test_code_that_would_be_too_long_is_left_to_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = normal(2, 6, 9, 20), normal(3, 3, 1, 20)
    monkeypatch.setattr(stencil_module, "_LONGEST_CODE", 10)
    assert_compiles(Conv(1, 1, 1, 20).compute, *arrays)
    assert len(kernels_of(Conv(1, 1, 1, 20).compute, *arrays)) == 2  # a padded copy after all


def test_sums_that_load_an_element_twice_at_one_point_are_no_stencil() -> None:
    x, w = normal(32, 64), normal(64)
    (kernel,) = kernels_of(lambda x, w: (np.sum(x * w, axis=0), np.sum(x * x, axis=0)), x, w)
    assert plan_stencil(kernel, host()) is None

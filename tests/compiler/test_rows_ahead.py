"""Rows looked at ahead: the interpreter's values, however many threads, and each row's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler.axes import merge_axes
from needle.compiler.host import host
from needle.compiler.kernel_work import stage_work
from needle.compiler.loops import Kernel, inner_loops
from needle.compiler.rows_ahead import loop_beside_next_row
from needle.compiler.thread_count import set_num_threads

from .compiled import compile_function


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def softmax(x: Any) -> Any:
    powers = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)


def layer_norm(x: Any) -> Any:
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + 1e-5)


def of_scaled(x: Any) -> Any:
    return softmax(x * x[:1, :, :1])


def least_and_sum(x: Any) -> Any:
    least = np.min(x, axis=-1, keepdims=True)
    return least, np.sum(np.exp(least - x) * x, axis=-1)


def looks_ahead(run: Any) -> bool:
    """Tell whether a kernel of a program goes through rows ahead."""
    for step in run.program.steps:
        if isinstance(step, Kernel):
            merged = merge_axes(step)
            loops = inner_loops(merged)
            if loop_beside_next_row(merged, loops, [len(loop) for loop in loops], host()) is not None:
                return True
    return False


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (softmax, (200, 1024)),
        (softmax, (64, 1001)),
        (softmax, (67, 517)),
        (softmax, (3, 70, 300)),
        (of_scaled, (7, 65, 257)),
        (layer_norm, (301, 333)),
        (least_and_sum, (129, 500)),
    ],
)
def test_values_are_the_interpreters_on_any_number_of_threads(function: Any, shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    run = compile_function(function, x)
    assert looks_ahead(run)
    expected = function(x)
    results = []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        results.append(run([x]))
    set_num_threads(None)
    for found, wanted in zip(results[0], expected if isinstance(expected, tuple) else [expected], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)
    for other in results[1:]:
        assert [one.tobytes() for one in other] == [one.tobytes() for one in results[0]]


def test_what_is_wrong_in_a_row_stays_in_it() -> None:
    x = normal(100, 600)
    x[50, 7], x[99, 0], x[0, 599] = np.nan, np.inf, np.nan
    run = compile_function(softmax, x)
    (found,) = run([x])
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found, softmax(x), rtol=2e-5, atol=2e-6)
    assert np.isnan(found).any(axis=1).nonzero()[0].tolist() == [0, 50, 99]


def test_what_is_small_or_heavy_is_not_done_ahead() -> None:
    for shape in [(20, 4096), (4096,), (64, 64)]:
        assert not looks_ahead(compile_function(softmax, normal(*shape))), shape
    # The heavy part comes first, before what is light.
    x, heavy = normal(100, 600), lambda x: x / np.sum(np.exp(np.tanh(x)) * x, axis=-1, keepdims=True)
    (kernel,) = (step for step in compile_function(heavy, x).program.steps if isinstance(step, Kernel))
    loops = inner_loops(kernel)
    assert loop_beside_next_row(kernel, loops, [sum(map(stage_work, loop)) for loop in loops], host()) is None


def test_the_costs_are_those_of_the_kernel() -> None:
    run = compile_function(softmax, normal(200, 1024))
    (kernel,) = (step for step in run.program.steps if isinstance(step, Kernel))
    loops = inner_loops(kernel)
    costs = [sum(map(stage_work, loop)) for loop in loops]
    heavy = loop_beside_next_row(kernel, loops, costs, host())
    assert heavy is not None and "exp" in " ".join(map(str, loops[heavy]))

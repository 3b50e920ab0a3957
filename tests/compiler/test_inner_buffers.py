"""Buffers that only one kernel sees lie inside of it, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler.executable import Executable
from needle.compiler.loops import Kernel
from needle.compiler.thread_count import set_num_threads

from .compiled import assert_compiles, compile_function


def softmax(x: Any) -> Any:
    y = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return y / np.sum(y, axis=-1, keepdims=True)


def standardized(x: Any, axis: int) -> Any:
    centred = x - np.mean(x, axis=axis, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, axis=axis, keepdims=True) + 1)


def inner_sizes(executable: Executable) -> list[int]:
    kernels = [step for step in executable.program.steps if isinstance(step, Kernel)]
    return sorted(buffer.size for kernel in kernels for buffer in kernel.inner)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def test_a_softmax_keeps_its_exponentials_and_sums_inside() -> None:
    x = normal(40, 70)
    run = compile_function(softmax, x)
    assert inner_sizes(run) == [40, 40, 2800]
    assert run.module.arena.size == 0
    np.testing.assert_allclose(run([x])[0], softmax(x), rtol=1e-5)


def test_rows_that_do_not_fit_stay_in_memory() -> None:
    x = normal(3, 20_000)
    run = compile_function(softmax, x)
    assert inner_sizes(run) == [3, 3]
    np.testing.assert_allclose(run([x])[0], softmax(x), rtol=1e-5)


def test_what_others_see_stays_in_memory() -> None:
    def function(x: Any) -> Any:
        y = np.exp(x - np.max(x, axis=-1, keepdims=True))
        return y, y / np.sum(y, axis=-1, keepdims=True)

    x = normal(40, 70)
    assert inner_sizes(compile_function(function, x)) == [40, 40]
    assert_compiles(function, x, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 5), (64, 33), (130, 300), (3, 1), (1, 9), (2, 3, 65), (5000, 40)])
@pytest.mark.parametrize("axis", [0, -1])
def test_rows_strips_and_blocks(shape: tuple[int, ...], axis: int) -> None:
    assert_compiles(lambda x: standardized(x, axis), normal(*shape), rtol=1e-4)


@pytest.mark.parametrize("axes", [(1, 2), (2,), (0, 2), (0,), (0, 1, 2)])
def test_several_axes_and_booleans_in_between(axes: tuple[int, ...]) -> None:
    def function(x: Any) -> Any:
        positive = x > np.mean(x, axis=axes, keepdims=True)
        count = np.sum(positive, axis=axes, keepdims=True)
        chosen = np.where(positive, np.exp(x), 0)
        return np.where(positive, chosen / count, chosen - np.max(chosen, axis=axes, keepdims=True))

    for shape in [(5, 7, 9), (3, 64, 33), (40, 1, 40)]:
        assert_compiles(function, normal(*shape), rtol=1e-4)


def test_threads_have_scratch_rows_of_their_own() -> None:
    x = normal(512, 700)
    run = compile_function(softmax, x)
    found = []
    for threads in (1, 2, 5):
        set_num_threads(threads)
        found.append([run([x])[0].tobytes() for _ in range(20)])
    set_num_threads(None)
    assert all(one == found[0][0] for many in found for one in many)


@pytest.mark.parametrize(("reads_both", "times"), [(True, 2), (False, 1)])
def test_what_another_kernel_has_all_to_compute_is_computed_again(reads_both: bool, times: int) -> None:
    def function(x: Any, w: Any) -> Any:
        hidden = x @ w
        y = np.tanh(hidden)
        slope = 1 - y * y
        return (y * hidden) @ w * (slope * hidden if reads_both else slope)

    x, w = normal(40, 40), normal(40, 40) / 6
    run = compile_function(function, x, w)
    assert sum("tanh" in line for line in run.program.show().splitlines()) == times
    assert_compiles(function, x, w, rtol=1e-4)

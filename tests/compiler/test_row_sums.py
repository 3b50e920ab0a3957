"""Sums over rows behind the rows that they are of: the interpreter's values, however many threads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import program
from needle.compiler.host import host
from needle.compiler.loops import Kernel
from needle.compiler.row_sums import blocks_behind
from needle.compiler.thread_count import set_num_threads

from .compiled import compile_function


@pytest.fixture(autouse=True)
def small_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take arrays for large, and each program as one that no other test has left on disk."""
    small = replace(host(), second_cache_bytes=1 << 16)
    real = program.sums_behind_rows
    monkeypatch.setattr(program, "sums_behind_rows", lambda steps, _: real(steps, small))
    monkeypatch.setenv("NEEDLE_CACHE_DIR", str(tmp_path))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def layer_norm_gradients(x: Any, g: Any, weight: Any) -> Any:
    axes = tuple(range(x.ndim - 1))
    centred = x - np.mean(x, axis=-1, keepdims=True)
    scaled = centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + 1e-5)
    given = g * weight
    slope = given - np.mean(given, axis=-1, keepdims=True) - scaled * np.mean(given * scaled, axis=-1, keepdims=True)
    return slope, np.sum(g * scaled, axis=axes), np.sum(g, axis=axes)


def of_shape(*shape: int) -> list[np.ndarray]:
    return [normal(*shape), normal(*shape, seed=1), normal(shape[-1], seed=2)]


def pairs(run: Any) -> list[tuple[Kernel, Kernel]]:
    """Return the kernels of which the first is followed by the second."""
    small = replace(host(), second_cache_bytes=1 << 16)
    kernels = [step for step in run.program.steps if isinstance(step, Kernel)]
    return [(a, b) for a in kernels for b in kernels if blocks_behind(a, b, small) is not None]


@pytest.mark.parametrize("shape", [(512, 128), (1030, 96), (16, 40, 130), (2048, 17)])
def test_gradients_of_a_layer_normalisation(shape: tuple[int, ...]) -> None:
    arrays = of_shape(*shape)
    run = compile_function(layer_norm_gradients, *arrays)
    assert pairs(run)
    assert "_then_" in run.module.text
    wide = [one.astype("float64") for one in arrays]
    found = []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        found.append(run(arrays))
    set_num_threads(None)
    for got, expected in zip(found[0], layer_norm_gradients(*wide), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-4)
    assert len({b"".join(one.tobytes() for one in results) for results in found}) == 1


def test_sums_of_other_rows_wait_for_all() -> None:
    def backwards(x: Any) -> Any:
        share = x / np.sum(x * x, axis=-1, keepdims=True)
        return share, np.sum(share[::-1] * x, axis=0)

    x = normal(512, 128)
    run = compile_function(backwards, x)
    assert not pairs(run)
    assert "_then_" not in run.module.text
    for got, expected in zip(run([x]), backwards(x.astype("float64")), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("axes", [None, (0, 1)])
def test_a_sum_of_all_elements_is_none_of_columns(axes: Any) -> None:
    def function(x: Any) -> Any:
        share = x / np.sum(x * x, axis=-1, keepdims=True)
        return share, np.sum(share, axis=axes)

    x = normal(512, 128)
    run = compile_function(function, x)
    assert "_then_" not in run.module.text
    for got, expected in zip(run([x]), function(x.astype("float64")), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-4)


def test_what_the_caches_hold_is_left_as_it_is() -> None:
    run = compile_function(layer_norm_gradients, *of_shape(128, 64))
    assert "_then_" not in run.module.text


def test_many_layers_share_their_functions() -> None:
    def three(x: Any, g: Any, weight: Any) -> Any:
        sums: list[Any] = []
        for _ in range(3):
            g, *more = layer_norm_gradients(x, g, weight)
            sums += more
        return g, *sums

    arrays = of_shape(512, 128)
    run = compile_function(three, *arrays)
    assert "_then_" in run.module.text
    for got, expected in zip(run(arrays), three(*(one.astype("float64") for one in arrays)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)

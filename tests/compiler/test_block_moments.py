"""Variances over many rows, and sums beside them, in blocks of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import needle as ndl
from needle.compiler import interpret
from needle.compiler.block_moments import find_moments_in_blocks
from needle.compiler.graph import Graph, verify
from needle.compiler.host import host
from needle.compiler.loops import Kernel
from needle.compiler.simplify import simplify
from needle.compiler.thread_count import set_num_threads

from .compiled import compile_function

# Rows, columns, and what is around them; the first axis falls into blocks that divide it.
SHAPES = [(128, 1024), (250, 500), (64, 8, 8, 96), (10_000, 16)]


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def moments(x: Any, g: Any, w: Any) -> tuple[Any, ...]:
    """Return the sums of a batch normalisation and of its gradient."""
    axes = tuple(range(x.ndim - 1))
    mean = np.mean(x, axis=axes, keepdims=True)
    deviation = x - mean
    return (
        np.sum(deviation * deviation, axis=axes),
        np.sum(g * (deviation * w), axis=axes),
        np.sum(g * w, axis=axes),
        np.sum(g, axis=axes),
        mean,
        deviation * w,
    )


def graphs_of(shape: tuple[int, ...], dtype: str = "float32") -> tuple[Graph, Graph, list[np.ndarray]]:
    arrays = [normal(*shape, dtype=dtype), normal(*shape, dtype=dtype) + 1, normal(shape[-1], dtype=dtype)]
    graph = simplify(compile_function(moments, *arrays).graph)
    return graph, find_moments_in_blocks(graph, host()), arrays


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_in_blocks_are_those_of_all(shape: tuple[int, ...], dtype: str) -> None:
    graph, changed, arrays = graphs_of(shape, dtype)
    assert changed is not graph
    verify(changed)
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    for one, other in zip(interpret(changed, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize("shape", [(16, 64), (131, 2000), (8, 40_000), (1, 200_000)])
def test_what_is_small_or_falls_into_no_blocks_stays(shape: tuple[int, ...]) -> None:
    graph, changed, _ = graphs_of(shape)
    assert changed is graph


def test_other_axes_stay() -> None:
    def variance(x: Any) -> Any:
        deviation = x - np.mean(x, axis=1, keepdims=True)
        return np.sum(deviation * deviation, axis=1)

    graph = simplify(compile_function(variance, normal(128, 1024)).graph)
    assert find_moments_in_blocks(graph, host()) is graph


def test_a_variance_beside_a_large_mean_keeps_its_digits() -> None:
    x = normal(256, 1024) + 10_000
    found = compile_function(moments, x, x, x[0])([x, x, x[0]])[0]
    exact = np.var(x.astype("float64"), axis=0) * len(x)
    np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_infinities_and_nan_stay_in_their_columns() -> None:
    x, g = normal(128, 1024), normal(128, 1024)
    x[3, 5], x[100, 7], g[64, 9] = np.nan, np.inf, np.nan
    squares, products, *_ = compile_function(moments, x, g, g[0])([x, g, g[0]])
    assert np.flatnonzero(~np.isfinite(squares)).tolist() == [5, 7]
    assert np.flatnonzero(~np.isfinite(products)).tolist() == [5, 7, 9]


def test_batch_norm_reads_its_input_in_two_kernels() -> None:
    run = compile_function(moments, *graphs_of((128, 1024))[2])
    x = run.program.inputs[0]
    assert sum(x in step.reads() for step in run.program.steps if isinstance(step, Kernel)) == 2


def test_a_compiled_batch_norm_agrees_with_the_eager_one_on_any_threads() -> None:
    def loss(x: ndl.Tensor, w: ndl.Tensor, b: ndl.Tensor) -> ndl.Tensor:
        return ndl.tanh(ndl.normalize(x, (0,)) * w + b).sum()

    tensors = [ndl.Tensor(one) for one in (normal(250, 500), normal(500), normal(500))]
    eager, expected = ndl.value_and_grad(loss, [0, 1, 2])(*tensors)
    compiled = ndl.jit(ndl.value_and_grad(loss, [0, 1, 2]))
    seen = set()
    for threads in (1, 2, 5):
        set_num_threads(threads)
        value, gradients = compiled(*tensors)
        seen.add(b"".join(one.numpy().tobytes() for one in (value, *gradients)))
    set_num_threads(None)
    assert len(seen) == 1
    np.testing.assert_allclose(value.numpy(), eager.numpy(), rtol=1e-4)
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-3, atol=1e-4)

"""Joined arrays: parts that are computed together, and joined arrays that are parts of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import Graph, TracedArray, input_node
from needle.compiler.executable import Executable
from needle.compiler.loops import Kernel
from needle.ops.windows import interleave

from .compiled import assert_compiles, compile_function


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def kernels_of(function: Any, *arrays: np.ndarray) -> list[Kernel]:
    return [step for step in compile_function(function, *arrays).program.steps if isinstance(step, Kernel)]


@pytest.mark.parametrize("steps", [(3, 4), (1, 1), (0, 2)])
@pytest.mark.parametrize("strides", [(2, 2), (1, 3), (3, 1)])
def test_interleaved_phases_are_written_once(strides: tuple[int, int], steps: tuple[int, int]) -> None:
    size = tuple(max(n * s - 1, 0) for n, s in zip(steps, strides, strict=True))

    def image(a: Any) -> Any:
        return interleave([a * (number + 2) for number in range(strides[0] * strides[1])], strides, size)

    array = normal(2, *steps, 5)
    assert_compiles(image, array)
    if 0 not in steps:
        (kernel, *copies) = kernels_of(image, array)
        assert len(kernel.stages) == strides[0] * strides[1]
        assert len(copies) <= 1  # of what is cut off


def test_parts_of_parts_lie_where_they_belong() -> None:
    def nested(a: Any, b: Any) -> Any:
        xp = a.__array_namespace__()
        inner = xp.reshape(xp.concat([a, b + 1], axis=1), (4, 3))  # (2, 6)
        return xp.concat([inner, a * 2], axis=0)

    assert_compiles(nested, normal(2, 3), normal(2, 3) + 1)
    kernels = kernels_of(nested, normal(2, 3), normal(2, 3))
    assert {stage.buffer.shape for kernel in kernels for stage in kernel.stages} == {(6, 3)}


def test_parts_that_a_reshape_tears_apart_are_joined_first() -> None:
    def nested(a: Any, b: Any) -> Any:
        xp = a.__array_namespace__()
        return xp.concat([xp.reshape(xp.concat([a, b], axis=1), (5, 2)), a], axis=0)

    assert_compiles(nested, normal(2, 2), normal(2, 3))


def test_joined_arrays_that_are_used_otherwise_too_are_there() -> None:
    def nested(a: Any) -> Any:
        xp = a.__array_namespace__()
        inner = xp.concat([a, a + 1], axis=0)
        return xp.concat([inner, inner * 2], axis=1), inner

    assert_compiles(nested, normal(3, 4))


def test_more_parts_than_one_kernel_writes() -> None:
    def stacked(a: Any) -> Any:
        return a.__array_namespace__().stack([a * (number + 2) for number in range(20)], axis=1)

    assert_compiles(stacked, normal(3, 4))
    assert len(kernels_of(stacked, normal(3, 4))) == 3


def test_an_input_is_not_overwritten_part_by_part() -> None:
    inputs = (input_node((2, 5), np.dtype("float32")),)
    a = TracedArray(inputs[0])
    xp = a.__array_namespace__()
    swapped = xp.stack([a[1] * 2, a[0] + 1])
    executable = Executable(Graph(inputs, (swapped.node,)), {0: 0})
    array = normal(2, 5)
    (got,) = executable([array])
    np.testing.assert_allclose(got, np.stack([array[1] * 2, array[0] + 1]))
    assert not executable.overwrites

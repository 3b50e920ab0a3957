"""Compiled graphs against the reference interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import interpret
from needle.compiler.address import address_of
from needle.compiler.thread_count import get_num_threads, set_num_threads

from .compiled import assert_compiles, compile_function


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Any:
    set_num_threads(request.param)
    yield request.param
    set_num_threads(None)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def softmax(x: Any) -> Any:
    powers = np.exp(x - np.max(x, axis=1, keepdims=True))
    return powers / np.sum(powers, axis=1, keepdims=True)


def batch_norm(x: Any) -> Any:
    centred = x - np.mean(x, axis=0, keepdims=True)
    variance = np.mean(centred * centred, axis=0, keepdims=True)
    return centred / np.sqrt(variance + 1e-5), variance


def adam(p: Any, g: Any, m: Any, v: Any) -> Any:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return p - 0.001 * m / (np.sqrt(v) + 1e-8), m, v


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "one number": (lambda x: x + 1, (normal(),)),
    "nothing": (lambda x: x * 2, (normal(0, 3),)),
    "softmax": (softmax, (normal(40, 100),)),
    "batch norm": (batch_norm, (normal(100, 500),)),
    "adam": (adam, (normal(90, 200), normal(90, 200), normal(90, 200), abs(normal(90, 200)))),
    "reductions": (lambda x: (x.sum(), x.sum(axis=(0, 2)), x.max(axis=1), np.prod(x, axis=(1, 2))), (normal(3, 4, 5),)),
    "argmax": (lambda x: (np.argmax(x, axis=0), np.argmin(x, axis=1)), (normal(7, 9),)),
    "running sums": (lambda x: np.cumsum(x, axis=0), (normal(7, 9),)),
    "gather": (lambda x: x[np.array([0, 2, 2]), 1:3], (normal(3, 4),)),
    "scatter": (lambda x: x.__array_namespace__().scatter_add((5, 4), np.array([0, 2, 0]), x), (normal(3, 4),)),
    "pad and join": (
        lambda x: np.concatenate([np.pad(x, ((1, 2), (0, 1))), x.T @ np.ones((3, 5), "f4")]),
        (normal(3, 4),),
    ),
    "slices": (lambda x: x[::-2, None, ::-1] * 2, (normal(5, 3),)),
    "joined axes": (lambda x: (x.reshape(4, 3).T.reshape(12) * 2).reshape(2, 6), (normal(3, 4),)),
    "integers": (lambda x: (x % 3, x // 2, x % -3, x // -2, x**2), (np.arange(-20, 20),)),
    "division by zero": (lambda x: (x % 0, x // 0), (np.arange(-2, 3),)),
    "booleans": (lambda x: (x > 0) & (x < 1), (normal(50),)),
    "casts": (lambda x: (x.astype("int32"), x.astype("float16"), x.astype("float64"), x != 0), (normal(50) * 10,)),
    "remainders": (lambda x: (x % 2.5, x // 2), (normal(50) * 10,)),
    "product of integers": (lambda x: x @ x.T, (np.arange(6).reshape(2, 3),)),
    "batches of products": (lambda x, y: x @ y, (normal(5, 6), normal(3, 2, 6, 7))),
    "relu of a product": (lambda x, w: np.maximum(x @ w.T, 0).sum(axis=0), (normal(10, 20), normal(30, 20))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_function_agrees_with_the_interpreter(name: str, threads: int) -> None:
    function, arrays = FUNCTIONS[name]
    with np.errstate(all="ignore"):
        assert_compiles(function, *arrays)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 7), (33, 17, 65), (100, 100, 10), (112, 96, 100)])
def test_product_in_every_layout_agrees_with_the_interpreter(size: tuple[int, int, int], threads: int) -> None:
    rows, inner, columns = size
    a, b = normal(rows, inner), normal(inner, columns)
    assert_compiles(lambda x, y: (x @ y, x @ y.T.T), a, b)
    assert_compiles(lambda x, y: x.T @ y.T, a.T.copy(), b.T.copy())


def test_outputs_are_new_arrays() -> None:
    x = normal(4, 4)
    compiled = compile_function(lambda x: (x, x, x.reshape(16)), x)
    first, second = compiled([x]), compiled([x])
    everything = [x, *first, *second]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(everything) for b in everything[:i])


def test_number_of_threads_is_checked() -> None:
    assert get_num_threads() >= 1
    with pytest.raises(ValueError, match="1 or more, got 0"):
        set_num_threads(0)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 2), ("float64", 3), ("float16", 1)])
def test_error_function_is_one_primitive_that_is_right_to_the_last_digits(dtype: str, limit: int) -> None:
    rng = np.random.default_rng(0)
    size = rng.uniform(np.finfo(dtype).minexp, 3, 100_000)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan]
    x = np.concatenate([special, np.exp2(size) * rng.choice([-1, 1], len(size))]).astype(dtype)
    compiled = compile_function(lambda x: x.__array_namespace__().erf(x), x)
    assert [node.primitive for node in compiled.graph.nodes()] == ["input", "erf"]
    (got,) = compiled([x])
    (expected,) = interpret(compiled.graph, [x])
    np.testing.assert_array_equal(got[:5], [0, 0, 1, -1, np.nan])
    assert np.signbit(got[1])
    assert got.dtype == dtype
    assert (np.abs(got[5:] - expected[5:]) <= limit * np.spacing(np.abs(expected[5:]))).all()


def test_error_function_of_whole_numbers_is_of_floating_point() -> None:
    assert_compiles(lambda x: x.__array_namespace__().erf(x), np.arange(-3, 4))


@pytest.mark.parametrize("array", [np.ones(3), np.ones((4, 6))[1:, ::2], np.ones(()), np.empty((0, 3))])
def test_the_address_of_an_array_is_that_of_its_first_element(array):
    assert address_of(array) == array.__array_interface__["data"][0]

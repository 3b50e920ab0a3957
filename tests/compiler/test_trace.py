"""Traced arrays against NumPy: the same calls, recorded and interpreted, give the same arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from needle import tracing
from needle.compiler import Graph, TracedArray, abstract_result, input_node, interpret, verify
from needle.errors import TraceError
from needle.jit.recorder import Recorder


def trace(function: Callable[..., Any], *arrays: np.ndarray) -> Graph:
    inputs = tuple(input_node(array.shape, array.dtype) for array in arrays)
    result = function(*(TracedArray(node) for node in inputs))
    graph = Graph(inputs, (result.node,))
    verify(graph)
    return graph


def assert_traces_like_numpy(function: Callable[..., Any], *arrays: np.ndarray) -> None:
    """Run `function` on NumPy's arrays and on traced ones: same dtype, same shape, same numbers."""
    (got,) = interpret(trace(function, *arrays), arrays)
    expected = np.asarray(function(*arrays))
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def numbers(*shape: int, dtype: str = "float32") -> np.ndarray:
    return (np.arange(np.prod(shape, dtype=int)).reshape(shape) * 7 % 11 - 5).astype(dtype)


X = numbers(3, 4)
NUMPY_CALLS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: np.sum(x, axis=1),
    "sum of all, kept": lambda x: np.sum(x, keepdims=True),
    "sum of booleans counts": lambda x: np.sum(x > 0),
    "sum of small integers widens": lambda x: np.sum(x.astype("int8"), axis=0),
    "prod": lambda x: np.prod(x, axis=(0, 1)),
    "max": lambda x: np.max(x, axis=-1, keepdims=True),
    "min": np.min,
    "mean": lambda x: np.mean(x, axis=0),
    "mean of integers": lambda x: np.mean(x.astype("int32")),
    "var": lambda x: np.var(x, axis=1),
    "any": lambda x: np.any(x > 3, axis=0),
    "all": lambda x: np.all(x > -9),
    "argmax": lambda x: np.argmax(x, axis=1),
    "argmin of all, kept": lambda x: np.argmin(x, keepdims=True),
    "cumsum": lambda x: np.cumsum(x, axis=0),
    "cumsum flattened": np.cumsum,
    "reduce by ufunc": lambda x: np.add.reduce(x, axis=1),
    "reshape": lambda x: np.reshape(x, (2, -1)),
    "transpose": np.transpose,
    "T": lambda x: x.T,
    "swapaxes": lambda x: np.swapaxes(x, 0, 1),
    "moveaxis": lambda x: np.moveaxis(x, 0, -1),
    "broadcast_to": lambda x: np.broadcast_to(x, (2, 3, 4)),
    "squeeze": lambda x: np.squeeze(x[None], axis=0),
    "expand_dims": lambda x: np.expand_dims(x, (0, -1)),
    "flip": lambda x: np.flip(x, axis=1),
    "concatenate": lambda x: np.concatenate([x, x + 1], axis=1),
    "concatenate promotes": lambda x: np.concatenate([x, x.astype("int32")], axis=0),
    "stack": lambda x: np.stack([x, -x], axis=1),
    "pad": lambda x: np.pad(x, ((1, 0), (0, 2))),
    "tril": lambda x: np.tril(x, 1),
    "triu": lambda x: np.triu(x, -1),
    "where": lambda x: np.where(x > 0, x, 0.5),
    "clip": lambda x: np.clip(x, -1, 2),
    "clip below": lambda x: np.clip(x, -1, None),
    "take": lambda x: np.take(x, np.array([[2, 0], [1, 1]]), axis=1),
    "matmul": lambda x: x @ x.T,
    "matmul with batches": lambda x: np.matmul(np.stack([x, x]), x.T),
    "a number keeps float32": lambda x: 2.5 * x + 1,
    "an integer becomes float64 beside a float": lambda x: x.astype("int64") * 0.5,
    "division of integers": lambda x: x.astype("int32") / 2,
    "remainder": lambda x: x % 3,
    "floor division": lambda x: x // 2,
    "power": lambda x: (x * x + 1) ** 0.5,
    "number to the power": lambda x: 2**x,
    "exp": np.exp,
    "maximum": lambda x: np.maximum(x, 1),
    "logical": lambda x: (x > 0) & (x < 3) | ~(x > -2) ^ (x == 0),
    "comparison": lambda x: (x != 1) == (x >= 1),
    "zeros_like": lambda x: np.zeros_like(x) + np.ones_like(x) * np.full_like(x, 3),
    "known array": lambda x: x + np.arange(4),
    "known array first": lambda x: np.arange(4) - x,
    "absolute and sign": lambda x: abs(x) - np.sign(x),
}


@pytest.mark.parametrize("name", NUMPY_CALLS)
def test_numpy_call_traces_to_the_same_result(name: str) -> None:
    assert_traces_like_numpy(NUMPY_CALLS[name], X)


def array_api_calls() -> dict[str, Callable[[Any, Any], Any]]:
    return {
        "arange": lambda xp, x: x + xp.arange(1, 9, 2, dtype=x.dtype),
        "eye": lambda xp, x: x @ xp.eye(4, dtype=x.dtype),
        "eye off the diagonal": lambda xp, x: xp.eye(3, 5, k=1) + 0 * x[0, 0],
        "full": lambda xp, x: x + xp.full(x.shape, 2, dtype=x.dtype),
        "permute_dims": lambda xp, x: xp.permute_dims(x, (1, 0)),
        "matrix_transpose": lambda xp, x: xp.matrix_transpose(x),
        "cumulative_sum": lambda xp, x: xp.cumulative_sum(x, axis=1),
        "astype": lambda xp, x: xp.astype(x, xp.int64),
        "concat flat": lambda xp, x: xp.concat([x, x], axis=None),
        "pow": lambda xp, x: xp.pow(xp.abs(x), 2),
        "isfinite": lambda xp, x: xp.isfinite(x),
    }


@pytest.mark.parametrize("name", array_api_calls())
def test_array_api_call_traces_to_the_same_result(name: str) -> None:
    call = array_api_calls()[name]
    assert_traces_like_numpy(lambda x: call(x.__array_namespace__(), x), X)


SHAPE = (4, 3, 5)


@st.composite
def indices(draw: st.DrawFn) -> Any:
    """Draw an index of all the kinds that NumPy takes, for an array of SHAPE."""
    if draw(st.booleans()):
        return draw(hnp.basic_indices(SHAPE, allow_newaxis=True, allow_ellipsis=True))
    shape = draw(st.sampled_from([(), (2,), (2, 1), (3, 2)]))
    parts: list[Any] = []
    for length in SHAPE[: draw(st.integers(1, 3))]:
        arrays = hnp.arrays(np.int64, shape, elements=st.integers(-length, length - 1))
        slices = st.builds(slice, st.none(), st.none(), st.sampled_from([None, 2, -1]))
        parts.append(draw(st.one_of(arrays, slices, st.integers(-length, length - 1))))
        if draw(st.integers(0, 5)) == 0:
            parts.append(None)
    return tuple(parts)


@given(indices())
def test_indexing_traces_to_the_same_result(index: Any) -> None:
    assert_traces_like_numpy(lambda x: x[index], numbers(*SHAPE))


def test_indexing_by_a_known_mask_traces_to_the_same_result() -> None:
    mask = X[:, 0] > 0
    assert_traces_like_numpy(lambda x: x[mask], X)


def test_indexing_by_a_traced_array_counts_negative_ones_from_the_end() -> None:
    assert_traces_like_numpy(lambda x, i: x[:, i], X, np.array([[1, -1], [0, -4]]))


def test_scatter_add_sums_where_places_repeat() -> None:
    index = (np.array([0, 2, 0]), slice(1, 3))
    values = numbers(3, 2)
    graph = trace(lambda v: v.__array_namespace__().scatter_add((3, 4), index, v), values)
    expected = np.zeros((3, 4), "float32")
    np.add.at(expected, index, values)
    np.testing.assert_array_equal(interpret(graph, [values])[0], expected)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0), (1, 3)])
def test_awkward_shapes_trace_to_the_same_result(shape: tuple[int, ...]) -> None:
    x = numbers(*shape)
    for function in (lambda x: x + 1, np.sum, lambda x: x.reshape(-1), lambda x: np.exp(x)[None]):
        assert_traces_like_numpy(function, x)


VALUES_NEEDED = {
    "branch on a value": (lambda x: 1 if x[0, 0] > 0 else 2, "ndl.where"),
    "float": (lambda x: float(x[0, 0]), "return it from the function"),
    "int": (lambda x: int(x[0, 0]), "return it from the function"),
    "item": (lambda x: x[0, 0].item(), "return it from the function"),
    "as an index": (lambda x: [1, 2][x[0, 0]], "index with the Tensor"),
    "as a NumPy array": (np.asarray, "return the Tensor"),
    "a mask": (lambda x: x[x > 0], "ndl.where"),
    "a function without a primitive": (np.spacing, "needle.ops"),
}


@pytest.mark.parametrize("name", VALUES_NEEDED)
def test_a_trace_that_needs_values_says_where_and_what_to_do(name: str) -> None:
    function, remedy = VALUES_NEEDED[name]
    with pytest.raises(TraceError, match=remedy) as caught, tracing.recording(Recorder(())):
        trace(function, X)
    assert "test_trace.py:" in str(caught.value)


SHAPE_ERRORS: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: x + np.ones(3),
    "matmul": lambda x: x @ x,
    "concat": lambda x: np.concatenate([x, x.T]),
    "stack": lambda x: np.stack([x, x.T]),
    "max of nothing": lambda x: np.max(x[:0], axis=0),
}


@pytest.mark.parametrize("name", SHAPE_ERRORS)
def test_shapes_that_do_not_fit_are_the_error_that_numpy_raises(name: str) -> None:
    with pytest.raises(ValueError):
        SHAPE_ERRORS[name](X)
    with pytest.raises(ValueError):
        trace(SHAPE_ERRORS[name], X)


@pytest.mark.parametrize("index", [7, (0, 0, 0), (slice(None), np.array([4])), -4])
def test_index_out_of_range_is_an_index_error(index: Any) -> None:
    with pytest.raises(IndexError):
        trace(lambda x: x[index], X)


def test_abstract_result_knows_shapes_and_computes_nothing() -> None:
    huge = np.broadcast_to(np.float32(1), (10**6, 10**6))
    product = abstract_result(lambda a, b: a @ b, (huge, huge))
    assert (product.shape, product.dtype) == ((10**6, 10**6), np.dtype("float32"))


def test_graph_prints_every_node_with_the_line_that_made_it() -> None:
    text = trace(lambda x: np.sum(np.exp(x) * 2, axis=1), X).show()
    assert [line.split()[2].split("(")[0] for line in text.splitlines()[:-1]] == [
        *("input", "exp", "constant", "reshape", "broadcast", "multiply", "reduce_sum")
    ]
    assert text.splitlines()[1].split("#")[1].strip().endswith(tuple("0123456789"))
    assert text.endswith("return %6")

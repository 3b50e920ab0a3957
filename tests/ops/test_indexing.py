"""Indexing against NumPy's, fuzzed; and what the table cannot say about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import needle as ndl
from needle import Tensor, autograd
from needle.dtype import bfloat16
from needle.errors import DataError
from needle.ops.indexing import ScatterAdd, as_class_indices

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays_and_indices(draw: st.DrawFn) -> tuple[np.ndarray, Any]:
    """An array and any index that NumPy knows: some of integers, slices, None, Ellipsis, integer arrays, masks."""
    shape = draw(SHAPES)
    array = np.arange(float(np.prod(shape))).reshape(shape)
    index: Any = draw(
        st.one_of(
            hnp.basic_indices(shape, max_dims=6, allow_newaxis=True),
            advanced_indices(shape),
            hnp.arrays(bool, st.sampled_from([shape[:n] for n in range(1, len(shape) + 1)] or [(0,)])),
        )
    )
    return array, index


@st.composite
def advanced_indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """A tuple with arrays of one shape (or broadcasting against it) for some axes, and other parts between them."""
    common = draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=3))
    parts: list[Any] = []
    for length in shape[: draw(st.integers(0, len(shape)))]:
        kinds = ["slice", "none"] + ["array", "array", "integer", "list", "mask", "tensor"] * (length > 0)
        kind = draw(st.sampled_from(kinds))
        if kind == "none":
            parts.append(None)
        if kind in ("slice", "none"):
            parts.append(draw(st.slices(length)))
        elif kind == "integer":
            parts.append(draw(st.sampled_from([int, np.int32]))(draw(st.integers(-length, length - 1))))
        elif kind == "mask":
            chosen = draw(st.permutations(range(length)))[: common[-1]]
            parts.append(np.isin(np.arange(length), chosen))
        else:
            side = draw(st.sampled_from([common, common[-1:], (1,)]))
            numbers = draw(hnp.arrays(np.int64, side, elements=st.integers(-length, length - 1)))
            parts.append(numbers.tolist() if kind == "list" else Tensor(numbers) if kind == "tensor" else numbers)
    if draw(st.booleans()):
        parts.append(Ellipsis)
    return tuple(parts)


def raw(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(raw, index))
    if isinstance(index, list) and not np.size(index):
        return np.zeros(np.shape(index), dtype=int)
    return index.numpy() if isinstance(index, Tensor) else index


@settings(max_examples=400, deadline=None)
@given(arrays_and_indices(), st.booleans())
def test_indexing_is_numpys_and_so_is_its_gradient(sample, is_lazy):
    array, index = sample
    autograd.LAZY_MODE = is_lazy
    try:
        try:
            expected = array[raw(index)]
        except IndexError:
            with pytest.raises(IndexError):
                Tensor(array)[index]
            return
        leaf = Tensor(array)
        found = leaf[index]
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(found.numpy(), expected)
        # Each element's gradient is the sum of the weights of the places where it was put.
        weights = np.arange(1.0, expected.size + 1).reshape(expected.shape)
        (found * Tensor(weights, requires_grad=False)).sum().backward()
        places = np.zeros(array.shape)
        np.add.at(places, raw(index), weights)
        np.testing.assert_array_equal(leaf.grad.numpy(), places)
    finally:
        autograd.LAZY_MODE = False


@pytest.mark.parametrize("is_lazy", [False, True])
def test_arrays_of_indices_that_do_not_fit_each_other_are_an_index_error(is_lazy, monkeypatch):
    monkeypatch.setattr(autograd, "LAZY_MODE", is_lazy)
    for x in (ndl.init.ones(3, 2, 4), ndl.init.ones(1, 2, 0)):
        with pytest.raises(IndexError, match="broadcast"):
            x[np.array([0, 0, 0]), np.array([True, True])]


@settings(max_examples=100, deadline=None)
@given(arrays_and_indices())
def test_adding_at_an_index_is_the_transpose_of_choosing(sample):
    """⟨choose x, y⟩ = ⟨x, add y⟩ for all x and y defines a transpose."""
    array, index = sample
    try:
        chosen = array[raw(index)]
    except IndexError:
        return
    x, y = np.cos(array), np.sin(np.arange(chosen.size)).reshape(chosen.shape)
    added = ScatterAdd(array.shape, raw(index))(Tensor(y)).numpy()
    np.testing.assert_allclose((x[raw(index)] * y).sum(), (x * added).sum(), atol=1e-12)


def test_basic_index_shares_memory():
    x = Tensor(np.ones((3, 4)))
    assert np.shares_memory(x[1:, ::2].realize_cached_data(), x.realize_cached_data())


def test_index_that_is_changed_afterwards_does_not_change_the_gradient():
    x = Tensor([1.0, 2.0, 3.0])
    index = np.array([0, 0])
    y = x[index]
    index[:] = 2
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2, 0, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradient_of_an_element_chosen_often_is_summed_in_float32(dtype):
    # Counting up in ones, bfloat16 would stop at 256 and float16 at 2048.
    x = Tensor(np.ones(2), dtype=bfloat16 if dtype == "bfloat16" else dtype)
    x[np.zeros(4096, dtype=int)].sum().backward()
    assert x.grad.dtype == dtype
    np.testing.assert_array_equal(x.grad.numpy().astype(float), [4096, 0])


def test_indexing_twice_differentiates_twice():
    x = Tensor(np.array([2.0, 3.0]))
    y = x[[0, 0, 1]]
    (y * y * y).sum().backward()
    first = x.grad
    np.testing.assert_array_equal(first.numpy(), [2 * 3 * 4, 3 * 9])
    first.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2 * 6 * 2, 6 * 3])


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "float16", bfloat16])
def test_labels_of_any_dtype_are_class_indices(dtype):
    labels = np.array([[0, 2], [1, 2]]).astype(dtype)
    indices = as_class_indices(labels, 3)
    assert indices.dtype.kind in "iu"
    np.testing.assert_array_equal(indices, [[0, 2], [1, 2]])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3]), r"labels are whole numbers from 0 to 2, got 3 at position \(1,\)"),
        (np.array([[0, 1], [-1, 5]]), r"got -1 at position \(1, 0\)"),
        (np.array([0.0, 0.5]), r"got 0.5 at position \(1,\)"),
        (np.array([np.inf]), r"got inf at position \(0,\)"),
        (np.array(7), r"got 7 at position \(\)"),
    ],
)
def test_label_that_is_no_class_is_named_with_its_position(labels, message):
    with pytest.raises(DataError, match=message):
        as_class_indices(labels, 3)


@pytest.mark.parametrize("dtype", ["int8", ">i4", "int64", "float32"])
def test_negative_label_of_any_dtype_is_refused(dtype):
    with pytest.raises(DataError, match=r"got -1(\.0)? at position \(1,\)"):
        as_class_indices(np.array([0, -1]).astype(dtype), 300)


def test_rows_of_a_tensor_can_be_walked_through():
    assert [row.tolist() for row in Tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]
    assert ndl.stack(Tensor([[1, 2], [3, 4]]), 1).tolist() == [[1, 3], [2, 4]]

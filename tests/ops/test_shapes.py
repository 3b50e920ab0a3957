"""Broadcasting, movement and sums of products over shapes that hypothesis makes up, against NumPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import needle as ndl
from needle import Tensor

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
PAIRS = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=3)
TRIPLES = hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, min_side=0, max_side=3)


def numbers(shape: tuple[int, ...], start: float = 1.0) -> np.ndarray:
    return np.sin(np.arange(start, start + np.prod(shape))).reshape(shape)


def summed_to(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Add up what broadcasting from `shape` had repeated: element by element, where each came from."""
    result = np.zeros(shape)
    source = np.broadcast_to(np.arange(np.prod(shape)).reshape(shape), array.shape)
    np.add.at(result.reshape(-1), source.ravel().astype(int), array.ravel())
    return result


@settings(max_examples=150, deadline=None)
@given(PAIRS)
def test_operands_broadcast_as_numpys_and_their_gradients_are_summed_back(shapes):
    a, b = numbers(shapes.input_shapes[0]), numbers(shapes.input_shapes[1], 50.0)
    x, y = Tensor(a), Tensor(b)
    product = x * y
    np.testing.assert_array_equal(product.numpy(), a * b)
    weights = numbers(shapes.result_shape, 99.0)
    product.backward(Tensor(weights))
    np.testing.assert_allclose(x.grad.numpy(), summed_to(weights * b, a.shape), atol=1e-12)
    np.testing.assert_allclose(y.grad.numpy(), summed_to(weights * a, b.shape), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(TRIPLES)
def test_where_broadcasts_three_shapes(shapes):
    c, a, b = (numbers(shape, 7.0 * i) for i, shape in enumerate(shapes.input_shapes))
    x, y = Tensor(a), Tensor(b)
    chosen = ndl.where(Tensor(c > 0), x, y)
    np.testing.assert_array_equal(chosen.numpy(), np.where(c > 0, a, b))
    chosen.backward()
    ones = np.broadcast_to(c > 0, shapes.result_shape).astype(float)
    np.testing.assert_array_equal(x.grad.numpy(), summed_to(ones, a.shape))
    np.testing.assert_array_equal(y.grad.numpy(), summed_to(1 - ones, b.shape))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.data())
def test_reductions_take_any_axes(shape, data):
    a = numbers(shape)
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1))) if shape else ())
    axes = tuple(axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes)
    keepdims = data.draw(st.booleans())
    x = Tensor(a)
    found = x.sum(axes, keepdims)
    expected = a.sum(axis=axes, keepdims=keepdims)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    weights = numbers(expected.shape, 5.0)
    found.backward(Tensor(weights))
    expanded = weights if keepdims else np.expand_dims(weights, axes)
    np.testing.assert_array_equal(x.grad.numpy(), np.broadcast_to(expanded, shape))


@st.composite
def movements(draw, shape):
    """A movement of a Tensor of this shape: as Needle's function and as NumPy's."""
    axes = draw(st.permutations(range(len(shape))))
    some = tuple(axes[: draw(st.integers(0, len(shape)))])
    widths = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in shape]
    new = tuple(draw(st.sets(st.integers(0, len(shape)), min_size=1, max_size=2)))
    choices = [
        (lambda x: x.permute(axes), lambda a: a.transpose(axes)),
        (lambda x: ndl.flip(x, some), lambda a: np.flip(a, some)),
        (lambda x: ndl.pad(x, widths), lambda a: np.pad(a, widths) if a.ndim else a),
        (lambda x: x.flatten(), np.ravel),
        (lambda x: x.reshape(shape[::-1]), lambda a: a.reshape(shape[::-1])),
        (lambda x: x.squeeze(), np.squeeze),
        (lambda x: x.expand_dims(new), lambda a: np.expand_dims(a, new)),
        (lambda x: x.broadcast_to((2, *shape)), lambda a: np.broadcast_to(a, (2, *shape))),
    ]
    if len(shape) > 1:
        choices.append((lambda x: x.transpose(some or None) if len(some) == 2 else x.T, lambda a: swapped(a, some)))
    return draw(st.sampled_from(choices))


def swapped(a, axes):
    return np.swapaxes(a, *(axes if len(axes) == 2 else (-1, -2)))


@settings(max_examples=200, deadline=None)
@given(SHAPES.flatmap(lambda shape: st.tuples(st.just(shape), movements(shape))))
def test_movement_is_numpys_and_its_gradient_brings_back_what_it_moved(sample):
    shape, (ours, numpys) = sample
    a = numbers(shape)
    x = Tensor(a)
    moved = ours(x)
    expected = numpys(a)
    assert moved.shape == expected.shape
    np.testing.assert_array_equal(moved.numpy(), expected)
    # A movement is linear: its gradient for weights w is, at each element, the sum of w where the element went.
    weights = numbers(expected.shape, 3.0)
    moved.backward(Tensor(weights))
    came_from = numpys(np.arange(1, a.size + 1).reshape(shape)).ravel()  # 0: from the border
    places = np.zeros(a.size + 1)
    np.add.at(places, came_from.astype(int), weights.ravel())
    np.testing.assert_allclose(x.grad.numpy().ravel(), places[1:], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(SHAPES.filter(bool), st.integers(0, 3), st.data())
def test_undilating_undoes_dilating(shape, dilation, data):
    axes = tuple(data.draw(st.sets(st.integers(-len(shape), len(shape) + 1))))
    a = Tensor(numbers(shape))
    dilated = ndl.dilate(a, axes, dilation)
    np.testing.assert_array_equal(ndl.undilate(dilated, axes, dilation).numpy(), a.numpy())
    np.testing.assert_allclose(dilated.numpy().sum(), a.numpy().sum(), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(SHAPES.filter(bool), st.data())
def test_splitting_undoes_stacking_and_stacking_splitting(shape, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    a = Tensor(numbers(shape))
    parts = ndl.split(a, axis)
    assert len(parts) == shape[axis]
    if len(parts):
        again = ndl.stack(parts.tuple(), axis)
        np.testing.assert_array_equal(again.numpy(), a.numpy())


@st.composite
def subscripts(draw):
    """Subscripts of one to three Tensors over a few letters of fixed lengths, and their shapes."""
    lengths = {"a": 2, "b": 3, "c": 1, "d": 2, "e": 0}
    letters = st.text("abcd" * 4 + "e", max_size=3)
    terms = draw(st.lists(letters, min_size=1, max_size=3))
    used = sorted(set("".join(terms)))
    result = "".join(draw(st.permutations(used))[: draw(st.integers(0, len(used)))]) if used else ""
    text = ",".join(terms) + draw(st.sampled_from(["->" + result, ""]))
    return text, [tuple(lengths[letter] for letter in term) for term in terms]


@settings(max_examples=200, deadline=None)
@given(subscripts())
def test_einsum_is_numpys(sample):
    text, shapes = sample
    arrays = [numbers(shape, 10.0 * i + 1) for i, shape in enumerate(shapes)]
    leaves = [Tensor(array) for array in arrays]
    found = ndl.einsum(text, *leaves)
    expected = np.einsum(text, *arrays)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)
    # Linear in each operand: ⟨gradient, operand⟩ is the sum of the result.
    found.backward()
    for leaf in leaves:
        np.testing.assert_allclose((leaf.grad.numpy() * leaf.numpy()).sum(), expected.sum(), atol=1e-10)

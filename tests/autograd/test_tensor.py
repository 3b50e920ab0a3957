"""Tensors as values: what they are made from, what they share, what they copy."""

import copy

import ml_dtypes
import numpy as np
import pytest

import needle as ndl
from needle.errors import DTypeError, ShapeError

# ------------------------------------------------------------------------------------------------ construction


@pytest.mark.parametrize(
    ("values", "dtype", "shape"),
    [
        ([1.0, 2.0], "float64", (2,)),
        ([[1, 2, 3]], "int64", (1, 3)),
        (6, "int64", ()),
        (0.5, "float64", ()),
        ([True, False], "bool", (2,)),
        ((1, 2.5), "float64", (2,)),
        (np.float32(2), "float32", ()),
        (np.zeros((2, 0), dtype="uint8"), "uint8", (2, 0)),
        (np.array([1, 2.5], dtype=object), "float64", (2,)),
        (np.ones(3, dtype=ml_dtypes.bfloat16), "bfloat16", (3,)),
    ],
)
def test_tensor_keeps_the_dtype_that_numpy_gives(values, dtype, shape):
    tensor = ndl.Tensor(values)
    assert tensor.dtype == dtype
    assert tensor.shape == shape
    assert type(tensor.cached_data) is np.ndarray
    assert tensor.ndim == len(shape)
    assert tensor.size == np.prod(shape)
    assert tensor.device == ndl.cpu()


def test_tensor_takes_the_dtype_that_is_asked_for():
    assert ndl.Tensor([1, 2], dtype="float32").dtype == "float32"
    assert ndl.Tensor(ndl.Tensor([1.9]), dtype="int64").numpy().tolist() == [1]
    assert ndl.Tensor([1.0], dtype="float32", unknown=3).dtype == "float32"  # older programs pass more


def test_tensor_requires_a_gradient_unless_told_or_bool():
    assert ndl.Tensor([1.0]).requires_grad
    assert ndl.Tensor([1]).requires_grad
    assert not ndl.Tensor([1.0], requires_grad=False).requires_grad
    assert not ndl.Tensor([True]).requires_grad
    assert not ndl.Tensor.make_const(np.ones(2)).requires_grad


def test_tensor_copies_an_array_and_shares_a_tensor():
    array = np.ones(2)
    tensor = ndl.Tensor(array)
    array[0] = 5
    assert tensor.numpy().tolist() == [1, 1]
    assert ndl.Tensor(tensor).cached_data is tensor.cached_data
    other = ndl.Tensor(tensor, dtype="float32")
    assert not np.shares_memory(other.cached_data, tensor.cached_data)
    assert ndl.Tensor.make_const(array).cached_data is array


@pytest.mark.parametrize("values", [[[1], [1, 2]], "text", [object()], None, [1.0, None]])
def test_tensor_of_no_numbers_is_an_error(values):
    with pytest.raises(DTypeError):
        ndl.Tensor(values)


def test_tensor_of_an_unknown_dtype_is_an_error():
    with pytest.raises(DTypeError, match="no dtype 'complex64'"):
        ndl.Tensor([1.0], dtype="complex64")


# ------------------------------------------------------------------------------------------- data and copies


def test_data_shares_and_rebinds():
    tensor = ndl.Tensor([1.0, 2.0])
    assert tensor.data.cached_data is tensor.cached_data
    assert not tensor.data.requires_grad
    assert tensor.detach().is_leaf()
    new = ndl.Tensor([3.0, 4.0, 5.0])
    tensor.data = new
    assert tensor.cached_data is new.cached_data
    assert tensor.shape == (3,)


def test_data_of_another_dtype_or_kind_is_an_error():
    tensor = ndl.Tensor([1.0], dtype="float32")
    before = tensor.cached_data
    with pytest.raises(DTypeError, match="this Tensor is float32, the new data float64"):
        tensor.data = ndl.Tensor([1.0])
    with pytest.raises(DTypeError, match="takes a Tensor, got ndarray"):
        tensor.data = np.ones(1, dtype="float32")
    assert tensor.cached_data is before


def test_numpy_is_a_copy_and_realize_is_not():
    tensor = ndl.Tensor([1.0])
    tensor.numpy()[0] = 9
    assert tensor.numpy()[0] == 1
    tensor.realize_cached_data()[0] = 9
    assert tensor.numpy()[0] == 9


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copy_is_a_leaf_of_its_own(copied):
    x = ndl.Tensor([1.0, 2.0])
    y = x * 2
    y.sum().backward()
    twin = copied(y)
    assert type(twin) is ndl.Tensor
    assert twin.is_leaf()
    assert twin.requires_grad
    assert twin.grad is None
    assert not np.shares_memory(twin.cached_data, y.cached_data)
    assert twin.numpy().tolist() == [2, 4]


def test_deepcopy_keeps_sharing_inside_a_structure():
    w = ndl.Tensor([1.0])
    first, second = copy.deepcopy([w, w])
    assert first is second
    assert first is not w


# -------------------------------------------------------------------------------------- identity and protocol


def test_tensors_compare_and_hash_by_identity():
    a, b = ndl.Tensor([1.0]), ndl.Tensor([1.0])
    assert a == a  # noqa: PLR0124  this is the question
    assert a != b
    assert {a: 1, b: 2}[a] == 1
    assert (a, b) == (a, b)
    assert a in [b, a]


def test_text_shows_the_values():
    assert repr(ndl.Tensor([1.0, 2.0])) == "needle.Tensor([1. 2.])"
    assert str(ndl.Tensor([1, 2])) == "[1 2]"


def test_numbers_and_truth_of_one_element():
    assert float(ndl.Tensor([2.5])) == 2.5
    assert int(ndl.Tensor(3)) == 3
    assert ndl.Tensor([[4]]).item() == 4
    assert not ndl.Tensor(0.0)
    assert ndl.Tensor([[1.0, 2.0]]).tolist() == [[1, 2]]
    with pytest.raises(ShapeError, match="2 elements: only one makes a number"):
        ndl.Tensor([1.0, 2.0]).item()


def test_length_and_iteration_go_along_the_first_axis():
    tensor = ndl.Tensor([[1.0, 2.0], [3.0, 4.0]])
    assert len(tensor) == 2
    assert [row.tolist() for row in tensor] == [[1, 2], [3, 4]]
    with pytest.raises(ShapeError, match="no axes"):
        len(ndl.Tensor(1.0))


def test_numpy_reads_a_tensor_as_an_array():
    tensor = ndl.Tensor([1.0, 2.0])
    assert np.asarray(tensor).tolist() == [1, 2]
    assert np.asarray(tensor, dtype="int32").dtype == "int32"
    np.testing.assert_allclose(tensor, [1, 2])


# --------------------------------------------------------------------------------------------------- the signs

A = np.array([[1.0, 2.0], [3.0, 4.0]], dtype="float32")
B = np.array([[0.5, 4.0], [2.0, 0.25]], dtype="float32")
SIGNS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
}
SCALARS = [3, 0.5, True, np.float64(0.5), np.float32(0.5), np.int64(3), np.array(0.5)]


@pytest.mark.parametrize("sign", SIGNS)
def test_sign_of_two_tensors_is_numpys(sign):
    result = SIGNS[sign](ndl.Tensor(A), ndl.Tensor(B))
    assert result.dtype == "float32"
    np.testing.assert_allclose(result.numpy(), SIGNS[sign](A, B), rtol=1e-6)


@pytest.mark.parametrize("sign", SIGNS)
def test_sign_with_an_array_on_either_side(sign):
    left, right = SIGNS[sign](B, ndl.Tensor(A)), SIGNS[sign](ndl.Tensor(A), B)
    assert isinstance(left, ndl.Tensor)
    np.testing.assert_allclose(left.numpy(), SIGNS[sign](B, A), rtol=1e-6)
    np.testing.assert_allclose(right.numpy(), SIGNS[sign](A, B), rtol=1e-6)


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: f"{type(scalar).__name__}-{scalar}")
@pytest.mark.parametrize("sign", SIGNS)
def test_sign_with_a_number_on_either_side_keeps_float32(sign, scalar):
    number = float(scalar)
    right, left = SIGNS[sign](ndl.Tensor(A), scalar), SIGNS[sign](scalar, ndl.Tensor(A))
    assert right.dtype == left.dtype == "float32"
    np.testing.assert_allclose(right.numpy(), SIGNS[sign](A, number), rtol=1e-6)
    np.testing.assert_allclose(left.numpy(), SIGNS[sign](number, A), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_numbers_take_on_the_dtype_of_the_tensor(dtype):
    x = ndl.Tensor([1.0, 2.0], dtype=dtype)
    y = 1.0 - np.float64(0.5) * x / 2 + x**2
    assert y.dtype == dtype
    y.sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.numpy().astype(float).tolist() == [1.75, 3.75]


def test_matrix_product_with_arrays_on_either_side():
    np.testing.assert_allclose((ndl.Tensor(A) @ B).numpy(), A @ B)
    np.testing.assert_allclose((A @ ndl.Tensor(B)).numpy(), A @ B)


def test_comparisons_give_bool_constants():
    x = ndl.Tensor([1.0, 2.0, 3.0])
    for result, expected in [(x < 2, [1, 0, 0]), (x <= 2, [1, 1, 0]), (x > 2, [0, 0, 1]), (x >= 2, [0, 1, 1])]:
        assert result.dtype == "bool"
        assert not result.requires_grad
        assert result.tolist() == [bool(one) for one in expected]


def test_sign_with_something_else_is_an_error():
    with pytest.raises(DTypeError, match="not with list"):
        ndl.Tensor([1.0]) - [1.0]
    with pytest.raises(DTypeError, match="not with str"):
        ndl.Tensor([1.0]) * "2"


def test_operator_on_something_that_is_no_tensor_is_an_error():
    with pytest.raises(DTypeError, match=r"exp: expected Tensors, got ndarray: wrap it as ndl.Tensor"):
        ndl.exp(np.ones(2))
    with pytest.raises(DTypeError, match=r"add: expected Tensors, got float"):
        ndl.add(ndl.Tensor([1.0]), 2.0)


def test_one_element_formats_as_a_number():
    for shape in ((), (1,), (1, 1)):
        x = ndl.Tensor(np.full(shape, 1.23456, np.float32))
        assert f"{x:.3f} {x:>8.1e}" == "1.235  1.2e+00"
        assert f"{x}" == str(x)
    assert f"{ndl.Tensor(3):03d} {ndl.Tensor(3):.1f} {ndl.Tensor(True):d}" == "003 3.0 1"
    for empty_or_more in ((2,), (0,), (2, 3)):
        x = ndl.Tensor(np.zeros(empty_or_more))
        assert f"{x}" == str(x)
        with pytest.raises(ShapeError, match=r"format: '.3f' is for one number, and a Tensor of shape .* \.mean\(\)"):
            f"{x:.3f}"


def test_in_looks_at_the_elements():
    x = ndl.Tensor([[1.0, 2.0], [3.0, 4.0]])
    assert 3 in x
    assert 5.0 not in x
    assert np.float32(2) in x
    with pytest.raises(DTypeError, match="in: a number may be among a Tensor's elements, got Tensor"):
        x in x  # noqa: B015, PLR0124


def test_equality_is_identity_and_says_so_beside_numbers():
    x, y = ndl.Tensor([1.0]), ndl.Tensor([1.0])
    assert x == x  # noqa: PLR0124
    assert x != y
    assert not x == None  # noqa: E711, SIM201
    assert {x: 1}[x] == 1
    assert [y, x].index(x) == 1
    for other in (1.0, 1, np.float32(1), np.ones(1)):
        with pytest.warns(UserWarning, match=r"^== between a Tensor and a number.*always False: write ndl.equal"):
            assert not x == other  # noqa: SIM201
        with pytest.warns(UserWarning, match="^!= between a Tensor and a number.*always True: write ndl.not_equal"):
            assert x != other

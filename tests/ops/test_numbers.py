"""Hard numbers: far out, at kinks and ties, at zeros, among small integers; and values known from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

import needle as ndl
from needle import Tensor
from needle.dtype import bfloat16

FAR = [-1e4, -100.0, -20.0, -1.0, 0.0, 1.0, 20.0, 100.0, 1e4]


def gradient(function, values, **options):
    x = Tensor(values, **options)
    function(x).sum().backward()
    return x.grad.numpy()


def sigmoid_of(z):
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


# ----------------------------------------------------------------------- far from 0: no overflow, no warning, no NaN


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (ndl.sigmoid, sigmoid_of),
        (ndl.silu, lambda z: z * sigmoid_of(z)),
        (ndl.softplus, lambda z: max(z, 0.0) + math.log1p(math.exp(-abs(z)))),
        (ndl.tanh, math.tanh),
        (ndl.erf, math.erf),
        (ndl.gelu, lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2),
        (lambda x: ndl.gelu(x, True), lambda z: z * (1 + math.tanh(0.7978845608028654 * (z + 0.044715 * z**3))) / 2),
        (ndl.elu, lambda z: z if z > 0 else math.expm1(z)),
        (ndl.relu, lambda z: max(z, 0.0)),
    ],
    ids=["sigmoid", "silu", "softplus", "tanh", "erf", "gelu", "gelu_tanh", "elu", "relu"],
)
def test_activation_is_right_far_from_zero(function, expected, dtype):
    tolerance = {"float64": 1e-14, "float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}[dtype]
    x = Tensor(FAR, dtype=bfloat16 if dtype == "bfloat16" else dtype)
    values = x.numpy().astype(float)
    found = function(x).numpy().astype(float)
    np.testing.assert_allclose(found, [expected(z) for z in values], rtol=tolerance, atol=tolerance)
    function(x).sum().backward()
    slopes = x.grad
    assert np.isfinite(slopes.numpy().astype(float)).all()
    slopes.sum().backward()
    assert np.isfinite(x.grad.numpy().astype(float)).all()


@pytest.mark.parametrize("size", [1e10, 1e30])
@pytest.mark.parametrize("function", [ndl.sigmoid, ndl.silu, ndl.softplus, ndl.tanh, ndl.erf, ndl.gelu, ndl.elu])
def test_activation_takes_any_finite_float32(function, size):
    assert np.isfinite(function(Tensor([-size, size], dtype="float32")).numpy()).all()
    assert np.isfinite(gradient(function, [-size, size], dtype="float32")).all()


@pytest.mark.parametrize("function", [ndl.logsumexp, ndl.softmax, ndl.logsoftmax])
def test_softmax_family_takes_logits_of_any_size(function):
    for size in (1e4, 1e10, 1e300):
        assert np.isfinite(function(Tensor([-size, 0.0, size])).numpy()).all()
        assert np.isfinite(gradient(function, [-size, 0.0, size])).all()


def test_logsumexp_and_softmax_of_infinite_logits():
    assert ndl.logsumexp(Tensor([-np.inf, 0.0])).item() == 0.0
    assert ndl.logsumexp(Tensor([np.inf, 0.0])).item() == np.inf
    np.testing.assert_array_equal(ndl.softmax(Tensor([-np.inf, 0.0, 0.0])).numpy(), [0, 0.5, 0.5])


# ---------------------------------------------------------------------------------------------- known numbers


def test_erf_is_right_to_the_last_digits():
    a = np.concatenate([np.linspace(-6.5, 6.5, 20001), np.logspace(-300, 0, 500), [0.46875, 0.5, 4.0, 5.9]])
    found = ndl.erf(Tensor(a)).numpy()
    expected = np.array([math.erf(one) for one in a])
    assert np.max(np.abs(found - expected) / np.abs(np.where(expected == 0, 1, expected))) < 1e-15


def test_erf_of_special_numbers():
    found = ndl.erf(Tensor([np.inf, -np.inf, np.nan, 0.0])).numpy()
    np.testing.assert_array_equal(found, [1.0, -1.0, np.nan, 0.0])


@pytest.mark.parametrize(
    ("function", "argument", "value"),
    [
        # Tables of the normal distribution: Φ(1) = 0.8413447460685429, Φ(−2) = 0.0227501319481792.
        (ndl.gelu, 1.0, 0.8413447460685429),
        (ndl.gelu, -2.0, -2 * 0.0227501319481792),
        (ndl.erf, 1.0, 0.8427007929497149),
        (ndl.sigmoid, math.log(3), 0.75),
        (ndl.silu, math.log(3), 0.75 * math.log(3)),
        (ndl.softplus, 0.0, math.log(2)),
        (ndl.tanh, math.log(2), 0.6),
        (ndl.elu, -math.log(2), -0.5),
        (ndl.leaky_relu, -2.0, -0.02),
        (ndl.round, 2.5, 2.0),
        (ndl.round, -1.5, -2.0),
        (ndl.sin, math.pi / 6, 0.5),
        (ndl.cos, math.pi / 3, 0.5),
    ],
)
def test_function_has_the_known_value(function, argument, value):
    assert function(Tensor(argument)).item() == pytest.approx(value, rel=1e-14)


def test_functions_at_known_matrices():
    m = Tensor([[1.0, 2.0], [3.0, 4.0]])
    assert (m @ m).tolist() == [[7, 10], [15, 22]]
    assert ndl.einsum("ii", m).item() == 5
    assert ndl.var(m).item() == 1.25
    assert ndl.prod(m, 0).tolist() == [3, 8]
    assert ndl.cumsum(m, 1).tolist() == [[1, 3], [3, 7]]
    assert ndl.tril(m).tolist() == [[1, 0], [3, 4]]
    assert ndl.dilate(m, (1,), 1).tolist() == [[1, 0, 2, 0], [3, 0, 4, 0]]
    assert ndl.argmax(m).item() == 3


# ------------------------------------------------------------------------------------ kinks, ties, zeros


@pytest.mark.parametrize(
    ("function", "at", "slope"),
    [
        (ndl.relu, 0.0, 0.0),
        (ndl.relu, -0.0, 0.0),
        (ndl.abs, 0.0, 0.0),
        (ndl.leaky_relu, 0.0, 0.01),
        (ndl.elu, 0.0, 1.0),
        (lambda x: ndl.clip(x, 0.0, 1.0), 0.0, 1.0),
        (lambda x: ndl.clip(x, 0.0, 1.0), 1.0, 1.0),
        (lambda x: ndl.maximum(x, 0.0), 0.0, 0.5),
        (lambda x: ndl.minimum(x, 0.0), 0.0, 0.5),
        (lambda x: x**0, 0.0, 0.0),
        (lambda x: x**1, 0.0, 1.0),
        (lambda x: x**2, 0.0, 0.0),
        (lambda x: x ** Tensor(2.0), 0.0, 0.0),
        (lambda x: x ** Tensor(0.0), 0.0, 0.0),
        (lambda x: Tensor(0.0) ** x, 2.0, 0.0),
        (ndl.sign, 0.0, 0.0),
        (ndl.floor, 1.0, 0.0),
    ],
)
def test_gradient_at_a_kink_is_as_documented(function, at, slope):
    assert gradient(function, [at]).tolist() == [slope]


def test_equally_large_elements_share_the_gradient_of_max():
    assert gradient(lambda x: x.max(1), [[3.0, 3.0, 1.0], [0.0, 2.0, 1.0]]).tolist() == [[0.5, 0.5, 0], [0, 1, 0]]
    assert gradient(ndl.min, [1.0, 1.0, 1.0, 1.0]).tolist() == [0.25] * 4


def test_max_of_not_a_number_is_none_and_its_gradient_warns_of_nothing():
    x = Tensor([np.nan, 1.0])
    y = x.max()
    assert np.isnan(y.item())
    y.backward()
    assert x.grad.numpy().sum() == 1


def test_gradient_of_prod_is_right_beside_zeros():
    assert gradient(ndl.prod, [2.0, 3.0, 5.0]).tolist() == [15, 10, 6]
    assert gradient(ndl.prod, [2.0, 0.0, 5.0]).tolist() == [0, 10, 0]
    assert gradient(ndl.prod, [0.0, 0.0, 5.0]).tolist() == [0, 0, 0]
    assert gradient(lambda x: ndl.prod(x, 1), [[0.0, 4.0], [1.0, 2.0]]).tolist() == [[4, 0], [2, 1]]


def test_prod_has_mixed_second_derivatives_at_zero():
    x = Tensor([2.0, 0.0, 5.0])
    x.prod().backward()
    x.grad[0].backward()  # ∂y/∂x₀ = x₁ x₂
    assert x.grad.tolist() == [0, 5, 0]


def test_where_keeps_what_it_did_not_choose_out_of_the_gradient():
    x, y = Tensor([np.nan, 2.0]), Tensor([3.0, np.inf])
    ndl.where(Tensor([False, True]), x, y).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([0, 1], [1, 0])


# -------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_number_takes_on_the_tensors_dtype(dtype):
    x = Tensor([1.0, 2.0], dtype=dtype)
    for y in (
        x + 1,
        2.5 * x,
        x / np.float64(3),
        x**2,
        1 - x,
        2 / x,
        2**x,
        ndl.maximum(x, 0.5),
        ndl.where(x > 1, x, 0.1),
    ):
        assert y.dtype == dtype


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        ("float32", "float64", "float64"),
        ("float16", "float32", "float32"),
        ("bfloat16", "float32", "float32"),
        ("float16", "bfloat16", "float32"),
        ("int32", "int64", "int64"),
        ("uint8", "int8", "int16"),
        ("bool", "float32", "float32"),
        ("int64", "float32", "float64"),
    ],
)
def test_mixed_dtypes_promote(a, b, result):
    x, y = Tensor([1], dtype=a), Tensor([1], dtype=b)
    assert (x + y).dtype == (y * x).dtype == ndl.maximum(x, y).dtype == result


def test_small_integers_compare_with_any_number():
    x = Tensor([0, 255], dtype="uint8")
    assert (x > -1).tolist() == [True, True]
    assert (x < 300).tolist() == [True, True]
    assert ndl.equal(x, 511).tolist() == [False, False]
    assert ndl.maximum(x, -1).tolist() == [0, 255]
    assert ndl.where(x > 0, x, -1).tolist() == [-1, 255]
    assert (x - 1).tolist() == [255, 254]


def test_sixteen_bit_sums_are_made_in_float32():
    x = Tensor(np.full(4096, 0.1), dtype="float16")
    assert x.sum().item() == pytest.approx(409.6, rel=1e-3)
    assert x.mean().item() == pytest.approx(0.1, rel=1e-3)


def test_clip_of_integers_by_fractions_is_a_fraction():
    assert ndl.clip(Tensor([0, 3]), 0.5, 2.5).tolist() == [0.5, 2.5]


def test_casting_rounds_the_gradient_to_the_operands_dtype():
    x = Tensor([1.0, 2.0], dtype="float32")
    (x.astype("float64") * (1 / 3)).sum().backward()
    assert x.grad.dtype == "float32"
    assert x.grad.numpy().tolist() == [np.float32(1 / 3)] * 2


def test_casting_to_integers_ends_the_graph():
    x = Tensor([1.5, 2.5])
    assert not x.astype("int32").requires_grad
    assert not x.astype("bool").requires_grad


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # what float16 cannot hold
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("source", ["float32", "float64", "float16", "bfloat16"])
def test_casting_to_integers_gives_the_nearest_that_there_is(source, dtype):
    limits = np.iinfo(dtype)
    borders = [sign * 2.0**k + d for k in (7, 8, 15, 16, 31, 32, 63, 64) for sign in (1, -1) for d in (-1, 0, 0.5)]
    x = Tensor([math.nan, math.inf, -math.inf, 0.9, -0.9, -1.5, 300.7, -300.7, 1e20, *borders], dtype=source)
    exact = [0 if math.isnan(one) else one if math.isinf(one) else math.trunc(one) for one in x.numpy().tolist()]
    expected = [int(min(max(one, limits.min), limits.max)) for one in exact]
    for function in (ndl.astype, ndl.jit(ndl.astype)):
        for repeats in (1, 3):  # other places in vectors
            many = ndl.ops.concatenate([x] * repeats)
            assert function(many, dtype).tolist() == expected * repeats
        assert function(x[0], dtype).item() == 0
        assert function(x[:0], dtype).shape == (0,)
        assert function(ndl.ops.stack([x, x], 1)[:, 0], dtype).tolist() == expected


def test_gradient_through_a_cast_from_integers_is_not_cut_off():
    x = Tensor([1, 2])
    (x.astype("float64") * 0.5).sum().backward()
    assert x.grad.tolist() == [0.5, 0.5]

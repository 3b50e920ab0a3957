"""Linear, activations and dropout, against their formulas."""

import math

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DataError, ShapeError


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("shape", [(5, 3), (1, 3), (2, 4, 3), (1, 2, 2, 3), (0, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_multiplies_and_adds(shape, bias):
    layer = nn.Linear(3, 2, bias=bias, dtype="float64")
    x = np.random.default_rng(0).standard_normal(shape)
    expected = x @ layer.weight.numpy() + (layer.bias.numpy() if bias else 0)
    t = ndl.Tensor(x)
    y = layer(t)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)
    g = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(ndl.Tensor(g))
    np.testing.assert_allclose(t.grad.numpy(), g @ layer.weight.numpy().T, rtol=1e-12)
    np.testing.assert_allclose(layer.weight.grad.numpy(), x.reshape(-1, 3).T @ g.reshape(-1, 2), rtol=1e-10, atol=1e-12)
    if bias:
        np.testing.assert_allclose(layer.bias.grad.numpy(), g.reshape(-1, 2).sum(0)[None], rtol=1e-10, atol=1e-12)


def test_linear_has_the_shapes_and_dtypes_of_the_contract():
    layer = nn.Linear(3, 2)
    assert layer.weight.shape == (3, 2)
    assert layer.bias.shape == (1, 2)
    assert layer.weight.dtype == layer.bias.dtype == "float32"
    assert type(layer.weight) is type(layer.bias) is nn.Parameter
    assert layer.weight.requires_grad
    assert layer.bias.requires_grad
    half = nn.Linear(3, 2, device=ndl.cpu(), dtype="bfloat16")
    assert half.weight.dtype == half.bias.dtype == "bfloat16"
    assert nn.Linear(3, 2, bias=False).bias is None
    assert len(nn.Linear(3, 2, bias=False).parameters()) == 1


def test_linear_of_a_vector_or_the_wrong_length_is_refused():
    layer = nn.Linear(3, 2)
    with pytest.raises(ShapeError, match="takes matrices"):
        layer(ndl.Tensor(np.ones(3, dtype="float32")))
    with pytest.raises(ShapeError, match=r"inner dimensions differ: a.shape\[-1\] = 4, b.shape\[-2\] = 3"):
        layer(ndl.Tensor(np.ones((1, 4), dtype="float32")))


FORMULAS = {
    "relu": (nn.ReLU(), lambda x: np.maximum(x, 0)),
    "tanh": (nn.Tanh(), np.tanh),
    "sigmoid": (nn.Sigmoid(), sigmoid),
    "silu": (nn.SiLU(), lambda x: x * sigmoid(x)),
    "gelu": (nn.GELU(), lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2),
    "gelu, tanh form": (
        nn.GELU(approximate=True),
        lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "leaky relu": (nn.LeakyReLU(0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
    "elu": (nn.ELU(1.5), lambda x: np.where(x > 0, x, 1.5 * (np.exp(x) - 1))),
    "softplus": (nn.Softplus(), lambda x: np.log(1 + np.exp(x))),
    "selu": (nn.SELU(), lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1))),
    "mish": (nn.Mish(), lambda x: x * np.tanh(np.log(1 + np.exp(x)))),
    "relu6": (nn.ReLU6(), lambda x: np.clip(x, 0, 6)),
    "hardsigmoid": (nn.Hardsigmoid(), lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "hardswish": (nn.Hardswish(), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "logsigmoid": (nn.LogSigmoid(), lambda x: np.log(sigmoid(x))),
    "softsign": (nn.Softsign(), lambda x: x / (1 + abs(x))),
    "glu": (nn.GLU(axis=0), lambda x: x[: len(x) // 2] * sigmoid(x[len(x) // 2 :])),
    "softmax": (nn.Softmax(), lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    "softmax, axis 0": (nn.Softmax(0), lambda x: np.exp(x) / np.exp(x).sum(0, keepdims=True)),
    "logsoftmax": (nn.LogSoftmax(), lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_are_their_formulas(name):
    module, formula = FORMULAS[name]
    x = np.random.default_rng(0).standard_normal((4, 5)) * 3
    np.testing.assert_allclose(module(ndl.Tensor(x)).numpy(), formula(x), rtol=1e-9, atol=1e-12)
    assert module.parameters() == []


@pytest.mark.parametrize(("name", "ours"), [("PReLU", (3,)), ("PReLU", ()), ("SELU", ()), ("Mish", ()), ("GLU", (2,))])
def test_activations_are_those_of_pytorch(name, ours):
    torch = pytest.importorskip("torch")
    x = ndl.Tensor(np.random.default_rng(0).standard_normal((2, 3, 4)), dtype="float32")
    theirs, layer = getattr(torch.nn, name)(*ours), getattr(nn, name)(*ours)
    their_x = torch.tensor(x.numpy(), requires_grad=True)
    expected, y = theirs(their_x), layer(x)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), their_x.grad.numpy(), rtol=1e-5, atol=1e-5)
    for one, other in zip(layer.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), rtol=1e-5)
    with pytest.raises(ShapeError, match="there is at least one parameter, got 0"):
        nn.PReLU(0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", FORMULAS)
def test_activations_keep_the_dtype_and_bear_extremes(name, dtype):
    size = 50.0 if dtype == "float16" else 1e4  # GELU's gradient multiplies three of them, and float16 ends at 65,504
    x = ndl.Tensor(np.array([[-size, -1.0, 0.0, 1.0, size]] * 2), dtype=dtype)
    y = FORMULAS[name][0](x)
    y.backward()
    assert y.dtype == x.grad.dtype == dtype
    assert np.isfinite(y.numpy().astype("float64")).all()
    assert np.isfinite(x.grad.numpy().astype("float64")).all()


def test_dropout_is_the_contract_formula_in_training():
    x = np.random.default_rng(0).standard_normal((7, 5)).astype("float32")
    t = ndl.Tensor(x)
    np.random.seed(3)
    y = nn.Dropout(0.3)(t)
    np.random.seed(3)
    mask = np.random.rand(7, 5) <= 1 - 0.3
    np.testing.assert_array_equal(y.numpy(), x * mask / np.float32(1 - 0.3))
    y.backward()
    np.testing.assert_allclose(t.grad.numpy(), mask / (1 - 0.3), rtol=1e-6)
    assert y.dtype == "float32"


def test_dropout_is_the_identity_in_evaluation():
    x = ndl.Tensor([1.0])
    assert nn.Dropout(0.9).eval()(x) is x


def test_dropout_keeps_the_mean():
    np.random.seed(0)
    y = nn.Dropout(0.25)(ndl.Tensor(np.ones(200_000))).numpy()
    assert abs(y.mean() - 1) < 0.01
    assert abs((y == 0).mean() - 0.25) < 0.01


@pytest.mark.parametrize("p", [-0.1, 1, 1.0, 1.5, float("nan")])
def test_dropout_refuses_what_is_no_probability(p):
    with pytest.raises(DataError, match=r"Dropout: the probability p is in \[0, 1\), got"):
        nn.Dropout(p)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_network_runs_and_differentiates_in_every_float_dtype(dtype):
    model = nn.Sequential(
        nn.Linear(6, 4, dtype=dtype),
        nn.BatchNorm1d(4, dtype=dtype),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Residual(nn.Sequential(nn.LayerNorm1d(4, dtype=dtype), nn.Linear(4, 4, dtype=dtype), nn.GELU())),
        nn.RMSNorm(4, dtype=dtype),
        nn.Linear(4, 3, dtype=dtype),
    )
    np.random.seed(0)
    for tensor in model.parameters():
        assert tensor.dtype == dtype
    x = ndl.Tensor(np.random.randn(8, 6), dtype=dtype)
    loss = nn.SoftmaxLoss()(model(x), ndl.Tensor(np.arange(8) % 3))
    loss.backward()
    assert loss.dtype == dtype
    assert x.grad.dtype == dtype
    assert {parameter.grad.dtype for parameter in model.parameters()} == {np.dtype(x.dtype)}
    wide = model.to(dtype="float64").eval()
    assert np.isfinite(wide(ndl.Tensor(x.numpy().astype("float64"))).numpy()).all()

"""What constructors and forward passes draw from the generator: exactly this, in this order, and nothing else."""

import numpy as np
import pytest

import needle as ndl
from needle import nn

B = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
IMAGES = np.random.default_rng(0).standard_normal((2, 6, 3, 3)).astype("float32")


def after(draws):
    """Return the generator's state after draws made by hand from seed 0, and what they were."""
    np.random.seed(0)
    drawn = draws()
    return np.random.get_state()[1:3], drawn


def assert_draws(action, draws):
    expected, drawn = after(draws)
    np.random.seed(0)
    result = action()
    key, position = np.random.get_state()[1:3]
    np.testing.assert_array_equal(key, expected[0])
    assert position == expected[1]
    return result, drawn


def test_linear_draws_its_weight_and_then_its_bias():
    layer, (weight, bias) = assert_draws(lambda: nn.Linear(5, 3), lambda: (np.random.rand(5, 3), np.random.rand(3, 1)))
    for parameter, draw, fan_in in ((layer.weight, weight, 5), (layer.bias, bias.T, 3)):
        bound = np.sqrt(2) * np.sqrt(3 / fan_in)
        np.testing.assert_array_equal(parameter.numpy(), (draw * 2 * bound - bound).astype("float32"))


def test_linear_without_bias_draws_its_weight_only():
    assert_draws(lambda: nn.Linear(5, 3, bias=False), lambda: np.random.rand(5, 3))


def test_modules_draw_in_the_order_in_which_they_are_made():
    model, drawn = assert_draws(
        lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2)),
        lambda: [np.random.rand(*shape) for shape in ((5, 4), (4, 1), (4, 2), (2, 1))],
    )
    bound = np.sqrt(6 / 4)
    np.testing.assert_array_equal(model[4].weight.numpy(), (drawn[2] * 2 * bound - bound).astype("float32"))


def test_dropout_draws_once_of_its_input_shape_in_training():
    x = ndl.Tensor(B)
    for p in (0.5, 0.1, 0.0):
        assert_draws(lambda p=p: nn.Dropout(p)(x), lambda: np.random.rand(4, 6))
    assert_draws(lambda: nn.Dropout().eval()(x), lambda: None)
    images = ndl.init.ones(2, 3, 4, 5)
    assert_draws(lambda: nn.Dropout2d(0.3)(images), lambda: np.random.rand(2, 3, 1, 1))
    assert_draws(lambda: nn.Dropout2d().eval()(images), lambda: None)


LAYERS = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(6), B),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(6), IMAGES),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(6, affine=True, track_running_stats=True), IMAGES[..., 0]),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(6), IMAGES),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), IMAGES),
    "LayerNorm": (lambda: nn.LayerNorm(6), B),
    "LayerNorm1d": (lambda: nn.LayerNorm1d(6), B),
    "RMSNorm": (lambda: nn.RMSNorm(6), B),
    "Identity": (nn.Identity, B),
    "Flatten": (nn.Flatten, IMAGES),
    "Residual": (lambda: nn.Residual(nn.ReLU()), B),
    "Sequential": (lambda: nn.Sequential(nn.ReLU()), B),
    **{layer.__name__: (layer, B) for layer in (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.LeakyReLU)},
    **{layer.__name__: (layer, B) for layer in (nn.ELU, nn.Softplus, nn.Softmax, nn.LogSoftmax)},
    **{layer.__name__: (layer, B) for layer in (nn.GLU, nn.SELU, nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid)},
    **{layer.__name__: (layer, B) for layer in (nn.Mish, nn.PReLU, nn.ReLU6, nn.Softsign)},
}


@pytest.mark.parametrize("name", LAYERS)
def test_other_layers_draw_nothing(name):
    make, x = LAYERS[name]

    def use():
        module = make()
        y = module(ndl.Tensor(x))
        y.backward()
        module.eval()(ndl.Tensor(x))
        module.load_state_dict(module.state_dict())
        repr(module)

    assert_draws(use, lambda: None)


LOSSES = {
    "SoftmaxLoss": np.array([0, 1, 2, 3]),
    "CrossEntropyLoss": np.array([0, 1, 2, 3]),
    "NLLLoss": np.array([0, 1, 2, 3]),
    "MSELoss": B,
    "L1Loss": B,
    "HuberLoss": B,
    "BCEWithLogitsLoss": B > 0,
    "KLDivLoss": np.abs(B),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_draw_nothing(name):
    assert_draws(lambda: getattr(nn, name)()(ndl.Tensor(B), ndl.Tensor(LOSSES[name])).backward(), lambda: None)


def test_dropout_draws_from_needles_own_generator_once_seeded():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    try:
        ndl.seed(5)
        first = nn.Dropout()(ndl.Tensor(B)).numpy()
        ndl.seed(5)
        np.testing.assert_array_equal(nn.Dropout()(ndl.Tensor(B)).numpy(), first)
    finally:
        ndl.seed(None)
    np.testing.assert_array_equal(np.random.get_state()[1], before)

"""Pooling layers: against PyTorch, written-out windows, and their compiled selves."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import ShapeError

LAYERS = [
    (nn.MaxPool2d, "MaxPool2d", {"kernel_size": 2}, (2, 3, 7, 8)),
    (nn.MaxPool2d, "MaxPool2d", {"kernel_size": 3, "stride": 2, "padding": 1}, (2, 5, 6, 7)),
    (nn.MaxPool2d, "MaxPool2d", {"kernel_size": (2, 1), "stride": (1, 3), "dilation": 2}, (1, 1, 5, 9)),
    (nn.MaxPool1d, "MaxPool1d", {"kernel_size": 3}, (2, 3, 10)),
    (nn.AvgPool2d, "AvgPool2d", {"kernel_size": 2}, (2, 3, 7, 8)),
    (nn.AvgPool2d, "AvgPool2d", {"kernel_size": 3, "stride": 2, "padding": 1}, (2, 9, 6, 7)),
    (nn.AvgPool2d, "AvgPool2d", {"kernel_size": 3, "padding": 1, "count_include_pad": False}, (1, 2, 5, 4)),
    (nn.AvgPool1d, "AvgPool1d", {"kernel_size": 2, "stride": 3}, (1, 3, 9)),
    (nn.MaxPool3d, "MaxPool3d", {"kernel_size": 2, "padding": 1}, (2, 3, 3, 5, 4)),
    (nn.AvgPool3d, "AvgPool3d", {"kernel_size": 2, "stride": 1}, (2, 1, 3, 2, 4)),
    (nn.MaxPool2d, "MaxPool2d", {"kernel_size": 3, "stride": 2, "ceil_mode": True}, (2, 3, 6, 8)),
    (nn.MaxPool2d, "MaxPool2d", {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}, (1, 2, 6, 7)),
    (nn.MaxPool1d, "MaxPool1d", {"kernel_size": 2, "stride": 3, "dilation": 2, "ceil_mode": True}, (1, 2, 8)),
    (nn.AvgPool2d, "AvgPool2d", {"kernel_size": 3, "stride": 2, "ceil_mode": True}, (2, 3, 6, 8)),
    (nn.AvgPool2d, "AvgPool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, (2, 3, 6, 7)),
    (
        nn.AvgPool2d,
        "AvgPool2d",
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        (2, 3, 6, 7),
    ),
    (nn.AvgPool1d, "AvgPool1d", {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}, (1, 2, 6)),
    (nn.AdaptiveAvgPool3d, "AdaptiveAvgPool3d", {"output_size": (2, 1, 3)}, (2, 3, 3, 5, 6)),
    (nn.AdaptiveMaxPool1d, "AdaptiveMaxPool1d", {"output_size": 3}, (2, 3, 7)),
    (nn.AdaptiveMaxPool3d, "AdaptiveMaxPool3d", {"output_size": 2}, (2, 3, 3, 5, 4)),
    (nn.AdaptiveAvgPool2d, "AdaptiveAvgPool2d", {"output_size": (2, 3)}, (2, 3, 5, 7)),
    (nn.AdaptiveAvgPool2d, "AdaptiveAvgPool2d", {"output_size": 1}, (2, 3, 5, 7)),
    (nn.AdaptiveAvgPool1d, "AdaptiveAvgPool1d", {"output_size": 4}, (2, 3, 6)),
    (nn.AdaptiveMaxPool2d, "AdaptiveMaxPool2d", {"output_size": (3, 2)}, (2, 3, 7, 6)),
]


def drawn(shape, dtype):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def with_gradient(layer, array):
    x = ndl.Tensor(array)
    y = layer(x)
    (y * y).sum().backward()
    return y.numpy(), x.grad.numpy()


@pytest.mark.parametrize(("layer", "peer", "settings", "shape"), LAYERS)
def test_layer_agrees_with_pytorch(layer, peer, settings, shape):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    array = drawn(shape, "float64")
    found, slope = with_gradient(layer(**settings), array)
    x = torch.tensor(array, requires_grad=True)
    y = getattr(torch.nn, peer)(**settings)(x)
    (y * y).sum().backward()
    np.testing.assert_allclose(found, y.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(slope, x.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("layer", "peer", "settings", "shape"), LAYERS)
def test_compiled_step_agrees_with_eager(layer, peer, settings, shape, dtype):
    own, array = layer(**settings), drawn(shape, dtype)

    def train(compiled):
        x = nn.Parameter(ndl.Tensor(array))
        optimizer = ndl.optim.SGD([x], lr=0.1)

        def step():
            optimizer.reset_grad()
            y = own(x)
            (y * y).sum().backward()
            optimizer.step()
            return y

        run = ndl.jit(step) if compiled else step
        return [run().numpy() for _ in range(3)], x.numpy()

    (results, found), (expected_results, expected) = train(True), train(False)
    assert found.dtype == results[0].dtype == dtype
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(results, expected_results, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_max_pool_is_the_maximum_of_blocks():
    array = drawn((2, 3, 4, 6), "float32")
    expected = array.reshape(2, 3, 2, 2, 3, 2).max((3, 5))
    np.testing.assert_array_equal(nn.MaxPool2d(2)(ndl.Tensor(array)).numpy(), expected)


def test_equal_maxima_give_the_gradient_to_the_first():
    x = ndl.Tensor(np.zeros((1, 1, 2, 4)))
    nn.MaxPool2d(2)(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy()[0, 0], [[1, 0, 1, 0], [0, 0, 0, 0]])


def test_padding_is_never_the_maximum():
    y = nn.MaxPool2d(3, stride=1, padding=1)(ndl.Tensor(-np.ones((1, 2, 3, 3))))
    np.testing.assert_array_equal(y.numpy(), -np.ones((1, 2, 3, 3)))


def test_description_names_what_is_not_the_default():
    assert nn.MaxPool2d(3, stride=2).extra_repr() == "kernel_size=3, stride=2"
    assert nn.AvgPool2d(2, count_include_pad=False).extra_repr() == "kernel_size=2, count_include_pad=False"
    assert nn.AdaptiveMaxPool2d((1, 2)).extra_repr() == "output_size=(1, 2)"


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)])
def test_input_with_other_axes_is_refused(layer):
    with pytest.raises(ShapeError, match=r"expected x of shape \(N, C, H, W\), got \(3, 4, 4\)"):
        layer(ndl.init.ones(3, 4, 4))

"""Convolutional layers: against the course's contract, PyTorch, and their compiled selves."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import SettingError, ShapeError

LAYERS = [
    (nn.Conv2d, "Conv2d", (3, 5, 3), {"stride": 2, "padding": 1}, (2, 3, 7, 8)),
    (nn.Conv2d, "Conv2d", (4, 6, (3, 2)), {"groups": 2, "dilation": 2}, (1, 4, 9, 8)),
    (nn.Conv2d, "Conv2d", (4, 8, 3), {"groups": 4, "padding": "same"}, (2, 4, 5, 5)),
    (nn.Conv2d, "Conv2d", (4, 8, 3), {"groups": 4, "padding": 2, "padding_mode": "replicate"}, (2, 4, 5, 5)),
    (nn.Conv2d, "Conv2d", (3, 4, (3, 2)), {"padding": "same", "dilation": 2, "padding_mode": "circular"}, (2, 3, 5, 6)),
    (nn.Conv3d, "Conv3d", (2, 3, 3), {"stride": 2, "padding": (1, 0, 2), "padding_mode": "reflect"}, (1, 2, 3, 4, 5)),
    (nn.Conv1d, "Conv1d", (3, 4, 3), {"padding": 1, "bias": False}, (2, 3, 9)),
    (nn.Conv3d, "Conv3d", (2, 3, 2), {"stride": (1, 2, 1)}, (1, 2, 3, 4, 5)),
    (nn.ConvTranspose2d, "ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (2, 4, 3, 5)),
    (nn.ConvTranspose2d, "ConvTranspose2d", (4, 6, 3), {"groups": 2, "dilation": 2}, (1, 4, 3, 4)),
    (nn.ConvTranspose1d, "ConvTranspose1d", (2, 3, 4), {"stride": 3}, (2, 2, 5)),
]


def test_contract_draws_weight_then_bias():
    np.random.seed(3)
    layer = nn.Conv(4, 6, 3)
    np.random.seed(3)
    bound = np.sqrt(2) * np.sqrt(3 / (4 * 9))
    weight = (np.random.rand(3, 3, 4, 6) * 2 * bound - bound).astype("float32")
    bias = (np.random.rand(6) * 2 / np.sqrt(4 * 9) - 1 / np.sqrt(4 * 9)).astype("float32")
    np.testing.assert_allclose(layer.weight.numpy(), weight, rtol=1e-6)
    np.testing.assert_allclose(layer.bias.numpy(), bias, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("kernel_size", "stride", "size"), [(3, 1, 14), (3, 2, 7), (7, 4, 4), (1, 1, 14), (1, 2, 7)])
def test_contract_padding_is_half_the_kernel(kernel_size, stride, size):
    assert nn.Conv(2, 3, kernel_size, stride)(ndl.init.ones(1, 2, 14, 14)).shape == (1, 3, size, size)


def test_contract_takes_the_first_of_a_pair():
    layer = nn.Conv(2, 3, (3, 3), (2, 2), bias=False)
    assert (layer.kernel_size, layer.stride, layer.bias) == (3, 2, None)


def test_course_layer_is_the_general_one_with_half_padding():
    x = ndl.Tensor(np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype("float32"))
    course, general = nn.Conv(3, 4, 3, 2), nn.Conv2d(3, 4, 3, 2, padding=1)
    general.weight.data, general.bias.data = course.weight.data, course.bias.data
    np.testing.assert_array_equal(course(x).numpy(), general(x).numpy())


@pytest.mark.parametrize(("layer", "peer", "sizes", "settings", "shape"), LAYERS)
def test_layer_agrees_with_pytorch(layer, peer, sizes, settings, shape):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    np.random.seed(0)
    own = layer(*sizes, **settings, dtype="float64")
    other = getattr(torch.nn, peer)(*sizes, **settings).double()
    # (*kernel, a, b) here is (b, a, *kernel) there.
    rank = own.rank
    order = (rank + 1, rank, *range(rank))
    back = (*range(2, rank + 2), 1, 0)
    with torch.no_grad():
        other.weight.copy_(torch.tensor(own.weight.numpy().transpose(order)))
        if own.bias is not None:
            other.bias.copy_(torch.tensor(own.bias.numpy()))
    values = np.random.standard_normal(shape)
    x, x_there = ndl.Tensor(values), torch.tensor(values, requires_grad=True)
    y, y_there = own(x), other(x_there)
    np.testing.assert_allclose(y.numpy(), y_there.detach().numpy(), atol=1e-12)
    (y * y).sum().backward()
    (y_there * y_there).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), x_there.grad.numpy(), atol=1e-11)
    np.testing.assert_allclose(own.weight.grad.numpy(), other.weight.grad.numpy().transpose(back), atol=1e-11)
    if own.bias is not None:
        np.testing.assert_allclose(own.bias.grad.numpy(), other.bias.grad.numpy(), atol=1e-11)


@pytest.mark.parametrize(("layer", "peer", "sizes", "settings", "shape"), LAYERS)
def test_compiled_training_step_is_the_eager_one(layer, peer, sizes, settings, shape):
    def train(compiled):
        np.random.seed(1)
        own = layer(*sizes, **settings)
        optimizer = ndl.optim.Adam(own.parameters(), lr=0.05)
        x = ndl.Tensor(np.random.standard_normal(shape).astype("float32"), requires_grad=False)

        def step(x):
            optimizer.reset_grad()
            y = own(x)
            loss = (y * y).sum()
            loss.backward()
            optimizer.step()
            return loss

        run = ndl.jit(step) if compiled else step
        losses = [float(run(x).numpy()) for _ in range(3)]
        return losses, [one.numpy() for one in own.parameters()]

    (losses, found), (expected_losses, expected) = train(True), train(False)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# Channel counts beside, at and past the width of vectors; maps of odd sizes; strides that leave a rest.
SHAPES = [
    ((2, 8, 8, 16), (3, 3, 16, 32), {"padding": 1}),
    ((3, 7, 5, 17), (3, 3, 17, 19), {"padding": 1}),
    ((2, 9, 9, 3), (7, 7, 3, 16), {"stride": 4, "padding": 3}),
    ((1, 1, 1, 33), (3, 3, 33, 65), {"padding": 1}),
    ((2, 6, 6, 32), (3, 3, 32, 64), {"stride": 2, "padding": 1}),
    ((4, 4, 4, 40), (1, 1, 40, 24), {}),
    ((2, 5, 6, 12), (3, 3, 12, 12), {"dilation": 2, "padding": 2}),
    ((2, 5, 6, 24), (3, 3, 1, 24), {"groups": 24, "padding": 1}),
    ((2, 5, 6, 24), (3, 3, 12, 32), {"groups": 2, "padding": 1}),
    ((2, 40, 16), (5, 16, 24), {"padding": 2}),
    ((1, 4, 5, 6, 8), (3, 3, 3, 8, 16), {"padding": 1}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels_before", [False, True])
@pytest.mark.parametrize(("image", "kernel", "settings"), SHAPES)
def test_compiled_convolution_is_the_eager_one(image, kernel, settings, channels_before, dtype):
    rng = np.random.default_rng(0)
    a, b = (ndl.Tensor(rng.standard_normal(shape).astype(dtype)) for shape in (image, kernel))
    if channels_before:
        a = ndl.Tensor(np.ascontiguousarray(np.moveaxis(a.numpy(), -1, 1)))

    def run(a, b):
        x = nn.convolution.channels_last(a) if channels_before else a
        y = ndl.conv(x, b, **{"padding": 0, **settings})
        loss = ndl.relu(y * y - 1).sum()
        loss.backward()
        return y, a.grad, b.grad

    for found, expected in zip(ndl.jit(run)(a, b), run(a, b), strict=True):
        scale = np.abs(expected.numpy()).max()
        np.testing.assert_allclose(
            found.numpy(), expected.numpy(), atol=scale * (1e-5 if dtype == "float32" else 1e-13)
        )


def test_wrong_input_names_the_layer_and_its_place():
    model = nn.Sequential(nn.Conv(3, 4, 3), nn.ReLU(), nn.Conv2d(5, 6, 3))
    with pytest.raises(ShapeError, match=r"Conv2d: expected x of shape \(N, 5, H, W\), got \(1, 4, 8, 8\)") as caught:
        model(ndl.init.ones(1, 3, 8, 8))
    assert "modules.2" in str(caught.value)
    with pytest.raises(ShapeError, match=r"Conv1d: expected x of shape \(N, 2, W\), got \(2, 5\)"):
        nn.Conv1d(2, 3, 3)(ndl.init.ones(2, 5))


def test_channels_are_multiples_of_groups():
    with pytest.raises(SettingError, match="in_channels = 3 and out_channels = 4 are multiples of groups, got 2"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(SettingError, match=r"padding_mode is one of 'zeros', 'reflect', .*, got 'mirror'"):
        nn.Conv2d(3, 4, 3, padding_mode="mirror")
    with pytest.raises(ShapeError, match="kernel_size has 3 numbers"):
        nn.Conv2d(3, 4, (3, 3, 3))


def test_layers_describe_themselves():
    assert "4 → 8, kernel_size=(3, 3), padding=1, groups=2" in str(nn.Conv2d(4, 8, 3, padding=1, groups=2))
    assert "3 → 8, kernel_size=3, stride=2, bias=False" in str(nn.Conv(3, 8, 3, 2, bias=False))

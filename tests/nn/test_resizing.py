"""Resizing: against PyTorch, the formula, differences, and its compiled self."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import SettingError, ShapeError

from .differences import check_gradients

SETTINGS = [
    ({"scale_factor": 2}, (2, 3, 4, 5)),
    ({"size": (3, 9)}, (1, 2, 7, 4)),
    ({"scale_factor": 3, "mode": "bilinear"}, (2, 1, 4, 5)),
    ({"size": (3, 9), "mode": "bilinear"}, (1, 2, 7, 4)),
    ({"size": (1, 7), "mode": "bilinear", "align_corners": True}, (2, 9, 4, 3)),
    ({"size": (5, 2), "mode": "bilinear"}, (1, 1, 1, 1)),
]


def drawn(shape, dtype="float64"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def linear(row, length, align_corners):
    """One row by NumPy's own interpolation."""
    old, i = len(row), np.arange(length)
    places = i * (old - 1) / max(length - 1, 1) if align_corners else (i + 0.5) * old / length - 0.5
    return np.interp(places, np.arange(old), row)


@pytest.mark.parametrize(("settings", "shape"), SETTINGS)
def test_layer_agrees_with_pytorch(settings, shape):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    array = drawn(shape)
    x, other = ndl.Tensor(array), torch.tensor(array, requires_grad=True)
    y, expected = nn.Upsample(**settings)(x), torch.nn.Upsample(**settings)(other)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), other.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("old", "new"), [(1, 4), (5, 1), (4, 9), (7, 3), (6, 6)])
def test_bilinear_is_numpy_interpolation_along_an_axis(old, new, align_corners):
    array = drawn((2, old, 3))
    y = ndl.resize(ndl.Tensor(array), new, mode="bilinear", align_corners=align_corners).numpy()
    expected = np.apply_along_axis(linear, 1, array, new, align_corners)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)


def test_nearest_repeats_elements():
    array = drawn((1, 2, 3, 2), "float32")
    y = ndl.resize(ndl.Tensor(array), scale_factor=2).numpy()
    np.testing.assert_array_equal(y, array.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize(("settings", "shape"), SETTINGS)
def test_gradients_are_differences(settings, shape):
    layer = nn.Upsample(**settings)
    check_gradients(lambda x: layer(x) ** 3, drawn(shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("settings", "shape"), SETTINGS)
def test_compiled_step_agrees_with_eager(settings, shape, dtype):
    layer = nn.Upsample(**settings)

    def train(compiled):
        x = nn.Parameter(ndl.Tensor(drawn(shape, dtype)))
        optimizer = ndl.optim.SGD([x], lr=0.01)

        def step():
            optimizer.reset_grad()
            y = layer(x)
            (y * y).sum().backward()
            optimizer.step()
            return y

        run = ndl.jit(step) if compiled else step
        return [run().numpy() for _ in range(2)], x.numpy()

    (results, found), (expected_results, expected) = train(True), train(False)
    assert found.dtype == results[0].dtype == dtype
    np.testing.assert_allclose(results, expected_results, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_bad_settings_are_refused():
    x = ndl.init.ones(1, 2, 2, 3)
    with pytest.raises(SettingError, match="takes a size or a scale_factor, got size=None"):
        ndl.resize(x)
    with pytest.raises(SettingError, match="takes a size or a scale_factor, got size=2"):
        ndl.resize(x, 2, 2)
    with pytest.raises(SettingError, match="scale_factor is a positive number, got -1"):
        ndl.resize(x, scale_factor=-1)
    with pytest.raises(SettingError, match='"nearest" or "bilinear", got \'cubic\''):
        ndl.resize(x, 2, mode="cubic")
    with pytest.raises(SettingError, match="no corners to align"):
        ndl.resize(x, 2, align_corners=True)
    with pytest.raises(ShapeError, match="size is 1 or more"):
        ndl.resize(x, scale_factor=0.1)
    with pytest.raises(ShapeError, match=r"takes an image \(N, \*spatial, C\)"):
        ndl.resize(ndl.init.ones(2, 3), 2)
    with pytest.raises(ShapeError, match=r"Upsample: expected x of shape"):
        nn.Upsample(2)(ndl.init.ones(2, 3))


def test_description_names_the_size_and_the_mode():
    assert nn.Upsample(scale_factor=2).extra_repr() == "scale_factor=2, mode=nearest"
    assert (
        nn.Upsample(4, mode="bilinear", align_corners=True).extra_repr() == "size=4, mode=bilinear, align_corners=True"
    )

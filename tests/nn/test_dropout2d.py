"""Dropping whole channels."""

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DataError, ShapeError


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_channels_are_dropped_whole_and_the_rest_scaled(dtype):
    np.random.seed(0)
    x = np.random.rand(3, 4, 2, 5).astype(dtype) + 1
    np.random.seed(1)
    y = nn.Dropout2d(0.4)(ndl.Tensor(x)).numpy()
    np.random.seed(1)
    mask = np.random.rand(3, 4, 1, 1) <= 0.6
    assert y.dtype == dtype
    np.testing.assert_allclose(y, x * mask / 0.6, rtol=1e-6)


@pytest.mark.parametrize(("layer", "spatial"), [(nn.Dropout1d, (5,)), (nn.Dropout3d, (2, 1, 3))])
def test_channels_of_other_ranks(layer, spatial):
    x = np.random.default_rng(0).random((3, 4, *spatial)) + 1
    np.random.seed(1)
    y = layer(0.4)(ndl.Tensor(x)).numpy()
    np.random.seed(1)
    mask = np.random.rand(3, 4, *[1] * len(spatial)) <= 0.6
    np.testing.assert_allclose(y, x * mask / 0.6, rtol=1e-12)
    with pytest.raises(ShapeError, match=rf"{layer.__name__}: expected x of shape \(N, C, "):
        layer()(ndl.init.ones(2, 3))


def test_evaluation_passes_everything():
    x = ndl.init.ones(1, 2, 3, 3)
    assert nn.Dropout2d(0.9).eval()(x) is x


def test_other_shapes_and_probabilities_are_refused():
    with pytest.raises(ShapeError, match=r"Dropout2d: expected x of shape \(N, C, H, W\), got \(2, 3\)"):
        nn.Dropout2d()(ndl.init.ones(2, 3))
    with pytest.raises(DataError, match=r"Dropout2d: the probability p is in \[0, 1\), got 1"):
        nn.Dropout2d(1)

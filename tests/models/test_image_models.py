"""The small networks for grey images: shapes, what they learn, and themselves compiled."""

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.data import DigitsDataset
from needle.errors import ShapeError
from needle.models import Autoencoder, ConvNet


def images(count):
    dataset = DigitsDataset(train=True)
    pixels, labels = dataset[:count]
    return ndl.Tensor(pixels.reshape(count, -1).astype("float32"), requires_grad=False), labels


def losses(model, loss_fn, x, y, steps, compiled):
    optimizer = optim.Adam(model.parameters(), lr=0.005)

    def step(x, y):
        optimizer.reset_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    step = ndl.jit(step) if compiled else step
    return [step(x, y).item() for _ in range(steps)]


def make(kind):
    np.random.seed(0)
    return ConvNet(8, 8, 10, 8, dropout=0.0) if kind is ConvNet else Autoencoder(8, 8, 16, 8)


@pytest.mark.parametrize("kind", [ConvNet, Autoencoder])
def test_compiled_steps_are_the_eager_ones_and_learn(kind):
    x, labels = images(64)
    loss_fn, y = (nn.SoftmaxLoss(), ndl.Tensor(labels)) if kind is ConvNet else (nn.BCEWithLogitsLoss(), x)
    eager = losses(make(kind), loss_fn, x, y, 3, False)
    compiled = losses(make(kind), loss_fn, x, y, 60, True)
    np.testing.assert_allclose(compiled[:3], eager, rtol=1e-3)
    assert compiled[-1] < (0.1 if kind is ConvNet else 0.6) * compiled[0]


def test_images_may_be_flat_or_not():
    x, _ = images(3)
    for kind in (ConvNet, Autoencoder):
        model = make(kind).eval()
        np.testing.assert_array_equal(
            model(x).numpy().reshape(3, -1), model(x.reshape((3, 8, 8))).numpy().reshape(3, -1)
        )


def test_a_convnet_is_made_of_what_it_says():
    model = ConvNet(28, 28, 10)
    convolutions = 9 * (32 + 32 * 32 + 32 * 64 + 64 * 64)
    assert model.num_parameters() == convolutions + 2 * (32 + 32 + 64 + 64) + 49 * 64 * 10 + 10
    assert ConvNet(9, 11, 3)(ndl.init.rand(2, 9, 11)).shape == (2, 3)


def test_an_autoencoder_says_pictures_in_few_numbers():
    model = Autoencoder(28, 20, code_size=5)
    x = ndl.init.rand(2, 28, 20)
    assert model.encode(x).shape == (2, 5)
    assert model.decode(model.encode(x)).shape == model(x).shape == (2, 28, 20)


def test_sizes_that_do_not_fit_are_told():
    with pytest.raises(ShapeError, match="images are 4 x 4 or larger, got 3 x 8"):
        ConvNet(3, 8, 10)
    with pytest.raises(ShapeError, match="divisible by 4, got 9 x 8"):
        Autoencoder(9, 8)
    for model in (make(ConvNet), make(Autoencoder)):
        with pytest.raises(ShapeError, match=r"takes images \(N, 8, 8\), flattened or not, got shape \(2, 63\)"):
            model(ndl.init.rand(2, 63))

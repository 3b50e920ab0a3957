"""The first homework's script, against the same mathematics in plain NumPy."""

import numpy as np
import pytest

import needle as ndl


def one_hot(labels, classes):
    return np.eye(classes)[labels]


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_parse_mnist_gives_pixels_in_the_unit_interval_and_labels(simple_ml, small_mnist, small_arrays):
    X, y = simple_ml.parse_mnist(
        str(small_mnist / "train-images-idx3-ubyte.gz"), str(small_mnist / "train-labels-idx1-ubyte.gz")
    )
    images, labels = small_arrays["train"]
    assert (X.dtype, X.shape, y.dtype, y.shape) == (np.float32, (130, 784), np.uint8, (130,))
    np.testing.assert_allclose(X, images, rtol=1e-6)
    np.testing.assert_array_equal(y, labels)


def test_softmax_loss_is_the_mean_cross_entropy(simple_ml):
    generator = np.random.default_rng(0)
    z, labels = generator.standard_normal((7, 4)) * 3, generator.integers(0, 4, 7)
    loss = simple_ml.softmax_loss(ndl.Tensor(z), ndl.Tensor(one_hot(labels, 4)))
    assert loss.numpy() == pytest.approx(-np.log(softmax(z)[np.arange(7), labels]).mean())


def test_softmax_loss_gradient_is_softmax_minus_one_hot(simple_ml):
    generator = np.random.default_rng(1)
    z, labels = ndl.Tensor(generator.standard_normal((5, 3))), generator.integers(0, 3, 5)
    simple_ml.softmax_loss(z, ndl.Tensor(one_hot(labels, 3))).backward()
    np.testing.assert_allclose(z.grad.numpy(), (softmax(z.numpy()) - one_hot(labels, 3)) / 5)


def test_softmax_loss_is_finite_for_large_logits(simple_ml):
    z = ndl.Tensor(np.array([[1e4, -1e4], [-1e4, 1e4]]))
    assert simple_ml.softmax_loss(z, ndl.Tensor(one_hot([0, 1], 2))).numpy() == 0


def test_nn_epoch_takes_the_steps_of_gradient_descent_in_order(simple_ml):
    generator = np.random.default_rng(2)
    X, y = generator.random((23, 6)).astype(np.float32), generator.integers(0, 4, 23).astype(np.uint8)
    w1, w2 = generator.standard_normal((6, 5)), generator.standard_normal((5, 4))
    W1, W2 = simple_ml.nn_epoch(X, y, ndl.Tensor(w1), ndl.Tensor(w2), lr=0.3, batch=8)
    for start in (0, 8, 16):
        x, labels = X[start : start + 8], y[start : start + 8]
        hidden = np.maximum(x @ w1, 0)
        slope = (softmax(hidden @ w2) - one_hot(labels, 4)) / len(x)
        step1, step2 = x.T @ (slope @ w2.T * (hidden > 0)), hidden.T @ slope
        w1, w2 = w1 - 0.3 * step1, w2 - 0.3 * step2
    np.testing.assert_allclose(W1.numpy(), w1, rtol=1e-6)
    np.testing.assert_allclose(W2.numpy(), w2, rtol=1e-6)


def test_nn_epoch_keeps_float32_and_builds_up_no_graph(simple_ml):
    X, y = np.random.rand(20, 6).astype(np.float32), np.zeros(20, dtype=np.uint8)
    start = [ndl.Tensor(np.random.randn(*shape).astype(np.float32)) for shape in ((6, 5), (5, 4))]
    for weights in simple_ml.nn_epoch(X, y, *start, 0.1, 10):
        assert weights.dtype == "float32"
        assert weights.is_leaf()


def test_loss_err_counts_the_wrong_ones(simple_ml):
    logits = ndl.Tensor(np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]]))
    loss, error = simple_ml.loss_err(logits, np.array([0, 1, 1, 0]))
    assert error == 0.5
    assert loss == pytest.approx(-np.log(softmax(logits.numpy())[np.arange(4), [0, 1, 1, 0]]).mean())


def test_simple_ml_learns_mnist(simple_ml, real_mnist, capsys):
    simple_ml.main(real_mnist, epochs=2)
    last = capsys.readouterr().out.splitlines()[-1]
    assert float(last.split()[-1].rstrip("%")) < 5

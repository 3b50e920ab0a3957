"""Pictures of a run, and what they are drawn from."""

import sys

import numpy as np
import pytest

from needle import nn
from needle.autograd import Tensor
from needle.errors import DataError, MissingExtraError
from needle.train import (
    Predictions,
    confusion_matrix,
    curves_png,
    predict_batches,
    predict_probabilities,
    worst_indices,
    worst_png,
)


def make_rows(losses):
    keys = ("train_loss", "train_error", "test_loss", "test_error")
    return [{"epoch": i, **dict.fromkeys(keys, loss)} for i, loss in enumerate(losses, start=1)]


def size_of(png):
    assert png.startswith(b"\x89PNG\r\n")
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def test_predict_probabilities_is_the_softmax_of_the_logits():
    model, images = nn.Linear(6, 3), np.random.default_rng(0).random((5, 2, 3)).astype(np.float32)
    logits = images.reshape(5, 6) @ model.weight.numpy() + model.bias.numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predict_probabilities(model, Tensor.make_const(images)), expected, rtol=1e-5)


def test_predict_probabilities_does_not_overflow():
    model = nn.Linear(1, 2)
    model.weight.data = Tensor(np.array([[1e5, -1e5]], dtype=np.float32))
    np.testing.assert_array_equal(
        predict_probabilities(model, Tensor.make_const(np.ones((1, 1), np.float32))), [[1, 0]]
    )


def test_predict_batches_joins_the_batches_in_order():
    model, images = nn.Linear(4, 3), np.random.default_rng(0).random((7, 4)).astype(np.float32)
    labels = np.arange(7) % 3
    batches = [(Tensor(images[:5]), Tensor(labels[:5])), (Tensor(images[5:]), Tensor(labels[5:]))]
    predictions = predict_batches(model, batches)
    np.testing.assert_allclose(predictions.probabilities, predict_probabilities(model, Tensor(images)), rtol=1e-6)
    np.testing.assert_array_equal(predictions.labels, labels)
    with pytest.raises(DataError, match="the data set is empty"):
        predict_batches(model, [])


def test_predictions_know_their_error_and_loss():
    predictions = Predictions(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), np.array([2, 1]))
    assert predictions.error == 0.5
    assert predictions.loss == pytest.approx(-(np.log(0.25) + np.log(0.8)) / 2)
    assert np.isfinite(Predictions(np.array([[1.0, 0.0]]), np.array([1])).loss)


def test_confusion_matrix_counts_pairs():
    labels, classes = np.array([0, 1, 2, 2, 2]), np.array([0, 2, 2, 1, 2])
    np.testing.assert_array_equal(
        confusion_matrix(labels, classes, 4), [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 2, 0], [0] * 4]
    )


def test_worst_indices_begins_with_the_least_probable_right_class():
    predictions = Predictions(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([1, 1, 0]))
    assert worst_indices(predictions, 2).tolist() == [0, 2]


@pytest.mark.parametrize("losses", [[0.5], [2.0, 0.01], [0.3, 0.2, 0.0], list(np.geomspace(3, 1e-4, 200)), [0.0, 0.0]])
def test_curves_are_drawn_for_any_figures(losses):
    pytest.importorskip("matplotlib")
    assert size_of(curves_png(make_rows(losses), "a title")) == (1350, 540)


def test_curves_are_the_same_bytes_for_the_same_figures():
    pytest.importorskip("matplotlib")
    assert curves_png(make_rows([0.5, 0.4])) == curves_png(make_rows([0.5, 0.4]))
    assert curves_png(make_rows([0.5, 0.4])) != curves_png(make_rows([0.5, 0.3]))


@pytest.mark.parametrize("count", [1, 3, 40])
def test_worst_images_are_drawn_for_any_number(count):
    pytest.importorskip("matplotlib")
    generator = np.random.default_rng(0)
    predictions = Predictions(generator.dirichlet(np.ones(3), count), generator.integers(0, 3, count))
    images = generator.random((count, 8, 8))
    width, height = size_of(worst_png(images, predictions, ["a", "b", "ankle boot"], rows=2, columns=3))
    assert (width, height) == (607, 600)


def test_drawing_touches_no_global_state_of_matplotlib():
    mpl = pytest.importorskip("matplotlib")
    before = dict(mpl.rcParams)
    curves_png(make_rows([0.5, 0.4]))
    assert dict(mpl.rcParams) == before


def test_drawing_without_matplotlib_says_how_to_get_it(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"drawing plots needs the package 'matplotlib'.*needle-dl\[plot\]"):
        curves_png(make_rows([0.5]))

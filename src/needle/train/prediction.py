"""What a model says about inputs, and where it is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor, no_grad
from needle.errors import DataError
from needle.nn import Module
from needle.ops import reshape
from needle.train.trainer import Batches

__all__ = ["Predictions", "confusion_matrix", "flat", "predict_batches", "predict_probabilities", "worst_indices"]


@dataclass(frozen=True)
class Predictions:
    """A model's answers for a data set, in its order.

    Args:
        probabilities: (N, classes).
        labels: (N,).
    """

    probabilities: NDArray[np.floating[Any]]
    labels: NDArray[np.int64]

    @property
    def classes(self) -> NDArray[np.int64]:
        """The most probable class of each sample, (N,)."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def error(self) -> float:
        """The share of samples that are classified wrongly."""
        return float((self.classes != self.labels).mean())

    @property
    def loss(self) -> float:
        """The mean of −log of the probability of the right class."""
        right = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(right, np.finfo(right.dtype).tiny)).mean())


def flat(inputs: Tensor) -> Tensor:
    """Return a batch of images as rows: (B, …) → (B, features)."""
    return inputs if len(inputs.shape) == 2 else reshape(inputs, (inputs.shape[0], math.prod(inputs.shape[1:])))


@no_grad()
def predict_probabilities(model: Module, inputs: Tensor) -> NDArray[np.floating[Any]]:
    """Return the probability of each class, (B, classes), for a batch of inputs: softmax of the model's logits."""
    model.eval()
    logits = model(flat(inputs)).numpy().astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))  # at most 1: nothing overflows
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def predict_batches(model: Module, batches: Batches) -> Predictions:
    """Return the model's answers for every batch of (inputs, labels), in order.

    Raises:
        DataError: there are no batches.
    """
    answers = [(predict_probabilities(model, inputs), labels.numpy().astype(np.int64)) for inputs, labels in batches]
    if not answers:
        raise DataError("there are no batches: the data set is empty")
    probabilities, labels = zip(*answers, strict=True)
    return Predictions(np.concatenate(probabilities), np.concatenate(labels))


def confusion_matrix(labels: NDArray[np.integer[Any]], classes: NDArray[np.integer[Any]], n: int) -> NDArray[np.int64]:
    """Count how often each class (row) was taken for each class (column).

    Shapes:
        labels, classes: (N,)
        returns: (n, n)

    Example:
        >>> import numpy as np
        >>> from needle.train import confusion_matrix
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        array([[1, 1],
               [0, 1]])
    """
    return np.bincount(labels * n + classes, minlength=n * n).reshape(n, n)


def worst_indices(predictions: Predictions, count: int) -> NDArray[np.int64]:
    """Return the samples that the model is most wrong about: the least probability for the right class first."""
    right = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    return np.argsort(right, kind="stable")[:count]

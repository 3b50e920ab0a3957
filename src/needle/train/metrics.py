"""Metrics: figures about outputs and targets that are added up batch by batch.

Each metric is sums and what is made of them. The sums of two parts of a data set, of two batches or of two devices, add
up to those of the whole, so that no figure depends on how the data were cut.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from needle.errors import DataError, SettingError, ShapeError

__all__ = ["F1", "Accuracy", "ConfusionMatrix", "ErrorRate", "Metric", "Perplexity", "TopKAccuracy"]


class Metric:
    """A figure made of sums over samples. A subclass writes `sums` and `figure`.

    Attributes:
        name: what it is called in rows of figures.
        is_share: whether it is a share of samples, which is shown in percent.
        higher_is_better: whether more is better.

    Example:
        >>> import numpy as np
        >>> from needle.train import Metric
        >>> class MeanAbsoluteError(Metric):
        ...     name = "mae"
        ...     def sums(self, outputs, targets):
        ...         return np.array([np.abs(outputs - targets).sum(), targets.size])
        ...     def figure(self, sums):
        ...         return float(sums[0] / sums[1])
        >>> metric = MeanAbsoluteError()
        >>> metric.update(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
        >>> metric.update(np.array([5.0]), np.array([1.0]))
        >>> metric.compute()
        2.0
    """

    name: str
    is_share: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True
    total: NDArray[Any] | None = None

    def sums(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        """Return what this batch adds."""
        raise NotImplementedError(f"{type(self).__name__}.sums is not written")

    def figure(self, sums: NDArray[Any]) -> Any:
        """Return the figure that sums over all batches make."""
        raise NotImplementedError(f"{type(self).__name__}.figure is not written")

    def reset(self) -> None:
        """Forget all batches."""
        self.total = None

    def update(self, outputs: ArrayLike, targets: ArrayLike) -> None:
        """Add a batch."""
        self.add(self.sums(np.asarray(outputs), np.asarray(targets)))

    def add(self, sums: NDArray[Any]) -> None:
        """Add sums made elsewhere: by this metric on another device, or before a run was interrupted."""
        self.total = np.asarray(sums) if self.total is None else self.total + sums

    def compute(self) -> Any:
        """Return the figure over all batches since the last `reset`.

        Raises:
            DataError: there was none.
        """
        if self.total is None:
            raise DataError(f"metric {self.name!r}: there was no batch to compute it from")
        return self.figure(self.total)


class Accuracy(Metric):
    """The share of samples whose largest logit is the label's.

    Shapes:
        outputs: (..., classes), any scores of classes
        targets: (...), whole numbers
    """

    name = "accuracy"
    is_share = True

    def sums(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        """Return how many samples are right, and how many there are."""
        _check_classes(self.name, outputs, targets)
        return np.array([(outputs.argmax(axis=-1) == targets).sum(), targets.size], dtype=np.int64)

    def figure(self, sums: NDArray[Any]) -> float:
        """Return right / all."""
        return float(sums[0] / sums[1])


class ErrorRate(Accuracy):
    """The share of samples whose largest logit is not the label's: 1 − accuracy. Shapes as in `Accuracy`."""

    name = "error"
    higher_is_better = False

    def figure(self, sums: NDArray[Any]) -> float:
        """Return wrong / all."""
        return float((sums[1] - sums[0]) / sums[1])


class TopKAccuracy(Metric):
    """The share of samples whose label is among the k largest logits. Shapes as in `Accuracy`.

    Of logits that are equal, those of lower classes count as larger, so that a model without an opinion is not right
    everywhere.

    Args:
        k: how many; 5 by default, as is usual for many classes.

    Raises:
        SettingError: k is less than 1.
    """

    is_share = True

    def __init__(self, k: int = 5) -> None:
        if k < 1:
            raise SettingError(f"TopKAccuracy: k is 1 or more, got {k}")
        self.k = k
        self.name = f"top_{k}_accuracy"

    def sums(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        """Return how many samples are right, and how many there are."""
        _check_classes(self.name, outputs, targets)
        own = np.take_along_axis(outputs, targets[..., None], axis=-1)
        lower = np.arange(outputs.shape[-1]) < targets[..., None]
        before = ((outputs > own) | ((outputs == own) & lower)).sum(axis=-1)
        return np.array([((before < self.k) & ~np.isnan(own[..., 0])).sum(), targets.size], dtype=np.int64)

    def figure(self, sums: NDArray[Any]) -> float:
        """Return right / all."""
        return float(sums[0] / sums[1])


class ConfusionMatrix(Metric):
    """How often each class (row) is taken for each class (column).

    Args:
        num_classes: how many classes there are.

    Shapes:
        outputs: (..., num_classes)
        targets: (...), whole numbers
        compute returns: (num_classes, num_classes), counts

    Example:
        >>> from needle.train import ConfusionMatrix
        >>> metric = ConfusionMatrix(2)
        >>> metric.update([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0]], [0, 0, 1])
        >>> metric.compute()
        array([[1, 1],
               [0, 1]])
    """

    name = "confusion_matrix"

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise SettingError(f"{type(self).__name__}: num_classes is 1 or more, got {num_classes}")
        self.num_classes = num_classes

    def sums(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        """Return the batch's counts."""
        _check_classes(self.name, outputs, targets)
        n = self.num_classes
        if outputs.shape[-1] != n:
            raise ShapeError(f"metric {self.name!r} is of {n} classes, got outputs of shape {outputs.shape}")
        pairs = targets.reshape(-1) * n + outputs.argmax(axis=-1).reshape(-1)
        return np.bincount(pairs, minlength=n * n).reshape(n, n)

    def figure(self, sums: NDArray[Any]) -> Any:
        """Return the counts."""
        return sums


class F1(ConfusionMatrix):
    """The F1 score: the harmonic mean of precision and recall, averaged over classes.

    Formula::

        F1 of a class = 2·tp / (2·tp + fp + fn),   0 where that is 0/0
        macro: the mean over classes;  micro: of the sums of tp, fp and fn;  weighted: weighted by classes' samples

    Args:
        num_classes: how many classes there are.
        average: "macro" (every class counts the same), "micro" or "weighted".

    Reference:
        C. van Rijsbergen, "Information retrieval", 1979, chapter 7.
    """

    name = "f1"

    def __init__(self, num_classes: int, average: str = "macro") -> None:
        super().__init__(num_classes)
        if average not in {"macro", "micro", "weighted"}:
            raise SettingError(f"F1: average is macro, micro or weighted, got {average!r}")
        self.average = average

    def figure(self, sums: NDArray[Any]) -> float:
        """Return the score."""
        right, actual, said = np.diagonal(sums), sums.sum(axis=1), sums.sum(axis=0)
        if self.average == "micro":
            return float(2 * right.sum() / (actual.sum() + said.sum()))
        scores = 2 * right / np.maximum(actual + said, 1)
        return float(np.average(scores, weights=actual if self.average == "weighted" else None))


class Perplexity(Metric):
    """How many tokens the model hesitates between: e to the mean of −log of the right token's probability.

    Shapes:
        outputs: (..., vocabulary), logits
        targets: (...), token ids
    """

    name = "perplexity"
    higher_is_better = False

    def sums(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of −log p, in nats, and how many tokens there are."""
        _check_classes(self.name, outputs, targets)
        logits = outputs.astype(np.float64)
        top = logits.max(axis=-1, keepdims=True)
        log_sum = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
        own = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return np.array([(log_sum - own).sum(), targets.size])

    def figure(self, sums: NDArray[Any]) -> float:
        """Return exp(mean)."""
        return math.exp(min(float(sums[0] / sums[1]), 709.0))  # 709: the largest whose exp is finite


def _check_classes(name: str, outputs: NDArray[Any], targets: NDArray[Any]) -> None:
    """Raise where there is not one target for each row of scores, or one that is no class."""
    if outputs.ndim < 1 or outputs.shape[:-1] != targets.shape:
        raise ShapeError(
            f"metric {name!r} takes outputs (..., classes) and targets (...), got {outputs.shape} and {targets.shape}"
        )
    if targets.dtype.kind not in "iu":
        raise DataError(f"metric {name!r} takes targets that are whole numbers, got {targets.dtype}")
    if targets.size and not 0 <= targets.min() <= targets.max() < outputs.shape[-1]:
        raise DataError(
            f"metric {name!r}: targets are from 0 to {outputs.shape[-1] - 1}, got {targets.min()} to {targets.max()}"
        )

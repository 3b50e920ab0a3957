"""Losses of class labels: how improbable a model finds the right class, each one operator with its own gradient.

They are computed from logits by way of logsoftmax, so that logits of any size are fine. Labels are whole numbers of
any integer or floating-point dtype, one for each row of scores; they are checked and get no gradient.
"""

from __future__ import annotations

import math
from functools import reduce
from operator import sub as minus
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.dtype import float64, int64, is_narrow
from needle.errors import DataError, ShapeError
from needle.ops.arithmetic import multiply, negate, subtract
from needle.ops.broadcasting import summation
from needle.ops.indexing import as_class_indices
from needle.ops.loss import checked_reduction, in_dtype
from needle.ops.movement import expand_dims
from needle.ops.softmax import normalisers, powers_and_sum, softmax

__all__ = ["CrossEntropy", "NegativeLogLikelihood", "cross_entropy", "nll_loss"]


class ClassLabels:
    """How labels become targets: label smoothing s, ignored labels, class weights w, and what the mean divides by.

    Each label y stands for a distribution over the classes: w_y · (1 − s) on its class, and w_c · s / C on every
    class c besides; 0 on all where y is to be ignored. The mean divides by the sum of w_y over the labels that count.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        class_weights: ArrayLike | Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise DataError(f"label_smoothing is in [0, 1], got {label_smoothing}")
        self.smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.class_weights = None if class_weights is None else _checked_weights(class_weights)
        self.reduction = checked_reduction(reduction)

    def describe(self) -> str:
        """Return the options that are not the default, for `repr`."""
        weights = None if self.class_weights is None else self.class_weights.tolist()
        listed = {
            "label_smoothing": self.smoothing or None,
            "ignore_index": self.ignore_index,
            "class_weights": weights,
        }
        parts = [f"{name}={value}" for name, value in listed.items() if value is not None]
        return ", ".join(parts if self.reduction == "mean" else [*parts, f"reduction={self.reduction!r}"])

    def read(self, labels: Array, num_classes: int, dtype: Any) -> tuple[Array, Array | None, Array | None]:
        """Return the labels as class indices, whether each counts, and its weight (None, None: all alike)."""
        xp = array_namespace(labels)
        counts = None
        if self.ignore_index is not None:
            counts = labels != self.ignore_index
            labels = xp.where(counts, labels, xp.zeros_like(labels))
        indices = xp.astype(as_class_indices(labels, num_classes), int64)
        weights = None if counts is None else xp.astype(counts, dtype)
        if self.class_weights is not None:
            own = xp.take(self.weights_of_classes(xp, num_classes, dtype), indices, axis=0)
            weights = own if weights is None else own * weights
        return indices, counts, weights

    def weights_of_classes(self, xp: Any, num_classes: int, dtype: Any) -> Array:
        """Return w as an array, ones where none were given."""
        if self.class_weights is None:
            return xp.ones((num_classes,), dtype=dtype)
        if len(self.class_weights) != num_classes:
            raise ShapeError(f"there are {len(self.class_weights)} class weights for {num_classes} classes")
        return xp.asarray(self.class_weights, dtype=dtype)

    def divisor(self, count: int, weights: Array | None) -> Any:
        """Return what the losses' sum is divided by; 1 where no label counts, so that the mean of none is 0."""
        if self.reduction != "mean":
            return 1.0
        if weights is None:
            return count
        xp = array_namespace(weights)
        total = xp.sum(weights)
        return xp.where(total == 0, xp.ones_like(total), total)

    def target_sum(self, count: int) -> float | None:
        """Return what the targets of each of `count` labels sum to, where that does not depend on the labels."""
        if self.smoothing or self.ignore_index is not None or self.class_weights is not None:
            return None
        return 1 / self.divisor(count, None)

    def losses(self, scores: Array, labels: Array, parts: tuple[Array, ...] = ()) -> Array:
        """Return −Σ target · log probability of each row, reduced.

        Log probabilities are the scores less the `parts` (…, 1), one after another; only those that are picked are
        computed where the labels take no others.
        """
        xp = array_namespace(scores)
        num_classes, dtype = scores.shape[-1], scores.dtype
        indices, counts, weights = self.read(labels, num_classes, dtype)
        losses = -reduce(minus, (xp.squeeze(part, axis=-1) for part in parts), _pick(scores, indices))
        losses = losses if weights is None else _weighted(losses, weights)
        if self.smoothing:
            classes = self.weights_of_classes(xp, num_classes, dtype)
            spread = -xp.sum(reduce(minus, parts, scores) * classes, axis=-1) / num_classes
            spread = spread if counts is None else _weighted(spread, xp.astype(counts, dtype))
            losses = (1 - self.smoothing) * losses + self.smoothing * spread
        if self.reduction == "none":
            return losses
        return xp.sum(losses) / self.divisor(math.prod(labels.shape), weights)


def _weighted(losses: Array, weights: Array) -> Array:
    """Return losses · weights, and 0 where the weight is 0 even if the loss is infinite."""
    xp = array_namespace(losses)
    return xp.where(weights == 0, xp.zeros_like(losses), losses) * weights


def _pick(rows: Array, indices: Array) -> Array:
    """Return the element of each row that its index names, as a sum: compiled, it is part of a loop that there is."""
    xp = array_namespace(rows)
    is_named = xp.expand_dims(indices, axis=-1) == xp.arange(rows.shape[-1])
    return xp.sum(xp.where(is_named, rows, xp.zeros_like(rows)), axis=-1)


class ClassTargets(TensorOp):
    """y = the distributions over the classes that labels stand for, divided by what the mean divides by."""

    name = "class_targets"
    differentiable = False
    computes_wide = False  # the result's dtype has nothing to do with that of the labels

    def __init__(self, labels: ClassLabels, num_classes: int, dtype: Any) -> None:
        self.labels = labels
        self.num_classes = num_classes
        self.dtype = dtype

    def compute(self, labels: Array) -> Array:
        xp = array_namespace(labels)
        labels = xp.astype(labels, xp.float32) if is_narrow(labels.dtype) else labels
        wide = xp.result_type(self.dtype, xp.float32) if self.dtype.kind == "f" else xp.float32
        indices, counts, weights = self.labels.read(labels, self.num_classes, wide)
        share = 1 / self.labels.divisor(math.prod(labels.shape), weights)  # of a label in the mean
        smoothing = self.labels.smoothing
        on_class = xp.asarray((1 - smoothing) * share, dtype=wide)
        on_class = on_class if weights is None else on_class * xp.expand_dims(weights, axis=-1)
        is_class = xp.expand_dims(indices, axis=-1) == xp.arange(self.num_classes)
        targets = xp.where(is_class, on_class, xp.zeros_like(on_class))
        if smoothing:
            spread = self.labels.weights_of_classes(xp, self.num_classes, wide) * (smoothing * share / self.num_classes)
            spread = spread if counts is None else spread * xp.expand_dims(counts, axis=-1)
            targets = targets + spread
        return xp.astype(targets, self.dtype)


class ClassLoss(TensorOp):
    """A loss of scores (…, C) and labels (…)."""

    precision = "wide"

    def __init__(self, labels: ClassLabels | None = None) -> None:
        self.labels = ClassLabels() if labels is None else labels

    def targets(self, node: Tensor) -> Tensor:
        """Return the target distributions of the labels that the loss was computed with."""
        scores, labels = node.inputs
        dtype = float64 if scores.dtype.kind in "iub" else scores.dtype
        return ClassTargets(self.labels, scores.shape[-1], dtype)(labels)

    def spread(self, out_grad: Tensor, targets: Tensor) -> Tensor:
        """Return the adjoint so that it broadcasts against the targets, in their dtype."""
        out_grad = in_dtype(out_grad, targets.dtype)
        return expand_dims(out_grad, -1) if self.labels.reduction == "none" else out_grad


class CrossEntropy(ClassLoss):
    """y = −Σ target · ln softmax(z), reduced."""

    name = "cross_entropy"

    def compute(self, z: Array, labels: Array) -> Array:
        _check_class_shapes(z.shape, labels.shape)
        return self.labels.losses(z, labels, normalisers(z, -1))

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor, None]:
        targets = self.targets(node)
        residual = SoftmaxResidual(self.labels.target_sum(math.prod(node.inputs[1].shape)))
        return multiply(residual(node.inputs[0], targets), self.spread(out_grad, targets)), None


class SoftmaxResidual(TensorOp):
    """y = softmax(z) · Σ t − t along the last axis: probabilities against constant targets t.

    Args:
        target_sum: Σ t, where it is known to be the same for each row.
    """

    name = "softmax_residual"
    precision = "wide"

    def __init__(self, target_sum: float | None = None) -> None:
        self.target_sum = target_sum

    def compute(self, z: Array, targets: Array) -> Array:
        powers, power_sum = powers_and_sum(z, -1)
        known = self.target_sum
        target_sum = array_namespace(z).sum(targets, axis=-1, keepdims=True) if known is None else known
        return powers * (target_sum / power_sum) - targets

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor, None]:
        z, targets = node.inputs
        probabilities = softmax(z)
        weighted = multiply(multiply(out_grad, summation(targets, -1, keepdims=True)), probabilities)
        return subtract(weighted, multiply(probabilities, summation(weighted, -1, keepdims=True))), None


class NegativeLogLikelihood(ClassLoss):
    """y = −Σ target · log probability, reduced."""

    name = "nll_loss"

    def compute(self, log_probabilities: Array, labels: Array) -> Array:
        _check_class_shapes(log_probabilities.shape, labels.shape)
        return self.labels.losses(log_probabilities, labels)

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor, None]:
        targets = self.targets(node)
        return multiply(targets, negate(self.spread(out_grad, targets))), None


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    class_weights: ArrayLike | Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Tell how far logits are from class labels.

    Formula::

        loss = ln Σ_c exp z_c − z_y      for each position with logits z and label y

    With label smoothing s and C classes it is (1 − s) times this, plus s times its mean over all classes as y.

    Shapes:
        logits: (…, C), mostly (B, C).
        labels: (…), of any integer or floating-point dtype, holding whole numbers from 0 to C − 1.
        result: (), or (…) where the reduction is "none".

    Args:
        logits: the scores before softmax.
        labels: the right classes. They get no gradient.
        label_smoothing: the part of each target that is spread evenly over all classes.
        ignore_index: a label that is left out of the loss and of the mean; none where None.
        class_weights: (C,) factors for the loss of each class; the mean is the weighted one.
        reduction: "mean", "sum" or "none". The mean over no labels that count is 0.

    Raises:
        ShapeError: the shapes do not fit, or there are no labels.
        DataError: a label is no class, or an option is out of its range.

    Gradient:
        softmax(z) − the target distribution, divided as the mean is.

    Example:
        >>> import needle as ndl
        >>> from needle.ops.class_loss import cross_entropy
        >>> cross_entropy(ndl.Tensor([[0.0, 0.0], [1e4, -1e4]]), ndl.Tensor([0, 0]))
        needle.Tensor(0.34657359027997264)
    """
    return CrossEntropy(ClassLabels(label_smoothing, ignore_index, class_weights, reduction))(logits, labels)


def nll_loss(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    ignore_index: int | None = None,
    class_weights: ArrayLike | Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Tell how improbable class labels are: the negative logarithm of the likelihood.

    Formula::

        loss = −log_probability of the label      for each position

    `cross_entropy` of logits is this of their logsoftmax.

    Shapes:
        log_probabilities: (…, C).
        labels: (…).
        result: (), or (…) where the reduction is "none".

    Args and errors are those of `cross_entropy`.
    """
    return NegativeLogLikelihood(ClassLabels(0.0, ignore_index, class_weights, reduction))(log_probabilities, labels)


def _checked_weights(class_weights: ArrayLike | Tensor) -> NDArray[Any]:
    weights = class_weights.numpy() if isinstance(class_weights, Tensor) else np.asarray(class_weights)
    if weights.ndim != 1:
        raise ShapeError(f"class_weights has one number for each class, shape (C,), got {weights.shape}")
    if weights.dtype.kind not in "fiu" or not (np.isfinite(weights) & (weights >= 0)).all():
        raise DataError("class_weights are finite numbers, 0 or more")
    return weights


def _check_class_shapes(scores: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Check that labels are one class for each row of scores.

    Raises:
        ShapeError: they are not, or there are none.
    """
    if not scores or labels != scores[:-1]:
        wanted = f"for scores {scores} that is {scores[:-1]}" if scores else "and scores have one axis or more"
        hint = ""
        if len(scores) > 1 and labels == scores:
            hint = ". For one-hot rows write labels.argmax(-1)"
        elif scores and math.prod(labels) == math.prod(scores[:-1]):
            hint = f". Write labels.reshape({scores[:-1]})"
        raise ShapeError(f"labels have the scores' shape without its last axis, {wanted}, got {labels}{hint}")
    if 0 in scores:
        raise ShapeError(f"there is no loss of an empty batch: the scores have shape {scores}")

"""Losses as modules: they keep the options, the operators in `needle.ops` do the work. They draw nothing.

A prediction and its target have the same shape; they are never broadcast against each other.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from needle.autograd import Tensor
from needle.nn.module import Module
from needle.ops.class_loss import ClassLabels, CrossEntropy, NegativeLogLikelihood
from needle.ops.loss import (
    AbsoluteError,
    BinaryCrossEntropyWithLogits,
    HuberError,
    KLDivergence,
    SquaredError,
    checked_delta,
    checked_reduction,
)

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "NLLLoss",
    "SoftmaxLoss",
]


class CrossEntropyLoss(Module):
    """The negative logarithm of the probability that softmax gives to the right class.

    Formula::

        loss = ln Σ_c exp z_c − z_y      for each row of logits z with label y, averaged

    Shapes:
        logits: (…, C), mostly (B, C).
        labels: (…), whole numbers from 0 to C − 1 of any integer or floating-point dtype.
        result: (), or (…) where the reduction is "none".

    Args:
        label_smoothing: the part of each target that is spread evenly over all classes.
        ignore_index: a label that is left out of the loss and of the mean; none where None.
        class_weights: (C,) factors for the loss of each class; the mean is the weighted one.
        reduction: "mean", "sum" or "none".

    Raises:
        ShapeError: the shapes do not fit, or the batch is empty.
        DataError: a label is no class, or an option is out of its range.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.CrossEntropyLoss()(ndl.Tensor([[0.0, 0.0]]), ndl.Tensor([1]))
        needle.Tensor(0.6931471805599453)
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        class_weights: ArrayLike | Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        self.options = ClassLabels(label_smoothing, ignore_index, class_weights, reduction)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss."""
        return CrossEntropy(self.options)(logits, labels)

    def extra_repr(self) -> str:
        """Return the options that are not the default."""
        return self.options.describe()


class SoftmaxLoss(CrossEntropyLoss):
    """The mean of logsumexp(z) − z_y over a batch of logits z and labels y: `CrossEntropyLoss` by its older name."""


class NLLLoss(Module):
    """The negative log likelihood: `CrossEntropyLoss` of what has been through a logsoftmax already.

    Shapes:
        log_probabilities: (…, C).
        labels: (…), whole numbers from 0 to C − 1.
        result: (), or (…) where the reduction is "none".

    Args and errors are those of `CrossEntropyLoss`, without label smoothing.
    """

    def __init__(
        self,
        ignore_index: int | None = None,
        class_weights: ArrayLike | Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        self.options = ClassLabels(0.0, ignore_index, class_weights, reduction)

    def forward(self, log_probabilities: Tensor, labels: Tensor) -> Tensor:
        """Return the loss."""
        return NegativeLogLikelihood(self.options)(log_probabilities, labels)

    def extra_repr(self) -> str:
        """Return the options that are not the default."""
        return self.options.describe()


class _ValueLoss(Module):
    """What losses of a prediction and a target have in common."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = checked_reduction(reduction)

    def extra_repr(self) -> str:
        """Return what is not the default."""
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class MSELoss(_ValueLoss):
    """The squared error: (prediction − target)², averaged.

    Shapes:
        prediction, target: the same.
        result: (), or that shape where the reduction is "none".

    Args:
        reduction: "mean" over all elements, "sum" or "none".

    Raises:
        ShapeError: the shapes differ, or there are no elements.
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        return SquaredError(self.reduction)(prediction, target)


class L1Loss(_ValueLoss):
    """The absolute error: |prediction − target|, averaged. Shapes, arguments and errors are those of `MSELoss`."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        return AbsoluteError(self.reduction)(prediction, target)


class HuberLoss(_ValueLoss):
    """An error that is squared near 0 and absolute far from it, so that outliers weigh less.

    Formula::

        loss = d²/2                         where |d| ≤ delta, with d = prediction − target
               delta · (|d| − delta/2)      elsewhere

    Shapes and errors are those of `MSELoss`.

    Args:
        delta: where the parabola ends, more than 0.
        reduction: "mean" over all elements, "sum" or "none".
    """

    def __init__(self, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.delta = checked_delta(delta)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        return HuberError(self.delta, self.reduction)(prediction, target)

    def extra_repr(self) -> str:
        """Return delta, and what is not the default."""
        return ", ".join(filter(None, [f"delta={self.delta}", super().extra_repr()]))


class BCEWithLogitsLoss(_ValueLoss):
    """The cross-entropy of yes-or-no targets t and logits z: −t · ln σ(z) − (1 − t) · ln(1 − σ(z)), averaged.

    Shapes and arguments are those of `MSELoss`.

    Raises:
        ShapeError: the shapes differ, or there are no elements.
        DataError: a target is not in [0, 1].
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss."""
        return BinaryCrossEntropyWithLogits(self.reduction)(logits, targets)


class KLDivLoss(_ValueLoss):
    """The divergence of log probabilities ln q from target distributions p: Σ p · (ln p − ln q) of each row, averaged.

    Shapes:
        log_probabilities, target: the same, (…, C).
        result: (), or (…) where the reduction is "none".

    Args:
        reduction: "mean" over the rows, "sum" or "none". (Other libraries' "mean" may divide by C too.)

    Raises:
        ShapeError: the shapes differ, or there are no elements.
    """

    def forward(self, log_probabilities: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        return KLDivergence(self.reduction)(log_probabilities, target)

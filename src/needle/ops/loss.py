"""Losses of values: how far a prediction is from its target, each one operator with its own gradient.

A prediction and its target have exactly the same shape here. Broadcasting them against each other is never what was
meant: (N, 1) against (N,) would compare each prediction with every target.

`reduction` says what becomes of the single losses: their "mean", their "sum", or "none": all of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.dtype import float64
from needle.errors import DataError, ShapeError
from needle.ops.activation import sigmoid
from needle.ops.arithmetic import add_scalar, mul_scalar, multiply, negate, subtract
from needle.ops.comparison import equal, where
from needle.ops.elementwise import clip, sign
from needle.ops.exponential import log
from needle.ops.movement import expand_dims

__all__ = [
    "AbsoluteError",
    "BinaryCrossEntropyWithLogits",
    "HuberError",
    "KLDivergence",
    "SquaredError",
    "binary_cross_entropy_with_logits",
    "huber_loss",
    "kl_divergence",
    "l1_loss",
    "mse_loss",
]

REDUCTIONS = ("mean", "sum", "none")


def checked_reduction(reduction: str) -> str:
    """Return the name of a reduction.

    Raises:
        DataError: there is no such reduction.
    """
    if reduction not in REDUCTIONS:
        raise DataError(f"reduction is one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
    return reduction


def checked_delta(delta: float) -> float:
    """Return the bound of Huber's parabola.

    Raises:
        DataError: it is not more than 0.
    """
    if not delta > 0:
        raise DataError(f"delta is more than 0, got {delta}")
    return delta


class ValueLoss(TensorOp):
    """A loss of two Tensors of the same shape, a prediction and a target."""

    precision = "wide"

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = checked_reduction(reduction)

    def losses(self, a: Array, b: Array) -> Array:
        """Return the single losses of raw arrays."""
        raise NotImplementedError

    def compute(self, a: Array, b: Array) -> Array:
        _check_equal_shapes(a.shape, b.shape)
        xp = array_namespace(a)
        dtype = _common_dtype(a.dtype, b.dtype)
        losses = self.losses(xp.astype(a, dtype, copy=False), xp.astype(b, dtype, copy=False))
        if self.reduction == "none":
            return losses
        total = xp.sum(losses)
        return total / math.prod(losses.shape) if self.reduction == "mean" else total

    def operands(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs in the dtype that the loss is computed in."""
        a, b = node.inputs
        dtype = _common_dtype(a.dtype, b.dtype)
        return in_dtype(a, dtype), in_dtype(b, dtype)

    def scaled(self, out_grad: Tensor, node: Tensor, factor: float) -> Tensor:
        """Return the adjoint of each single loss, times a factor."""
        return mul_scalar(out_grad, factor / node.inputs[0].size if self.reduction == "mean" else factor)


class DifferenceLoss(ValueLoss):
    """A loss that depends on the difference a − b only."""

    def slope(self, difference: Tensor) -> Tensor:
        """Return the derivative of the loss by the difference, but for `factor`."""
        raise NotImplementedError

    factor = 1.0

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        adjoint = multiply(self.slope(subtract(*self.operands(node))), self.scaled(out_grad, node, self.factor))
        return adjoint if _is_trained(a) else None, negate(adjoint) if _is_trained(b) else None


class SquaredError(DifferenceLoss):
    """y = (a − b)², reduced."""

    name = "mse_loss"
    factor = 2.0

    def losses(self, a: Array, b: Array) -> Array:
        """Return the squares."""
        difference = a - b
        return difference * difference

    def slope(self, difference: Tensor) -> Tensor:
        """Return the difference: half the derivative."""
        return difference


class AbsoluteError(DifferenceLoss):
    """y = |a − b|, reduced."""

    name = "l1_loss"

    def losses(self, a: Array, b: Array) -> Array:
        """Return the absolute values."""
        return array_namespace(a).abs(a - b)

    def slope(self, difference: Tensor) -> Tensor:
        """Return the sign, 0 at 0."""
        return sign(difference)


class HuberError(DifferenceLoss):
    """y = d²/2 where |d| ≤ delta, delta · (|d| − delta/2) elsewhere, with d = a − b; reduced."""

    name = "huber_loss"

    def __init__(self, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.delta = checked_delta(delta)

    def losses(self, a: Array, b: Array) -> Array:
        """Return the parabola near 0 and the lines that go on from it."""
        xp = array_namespace(a)
        size = xp.abs(a - b)
        near = xp.where(size <= self.delta, size, xp.zeros_like(size))  # no square of what is far: it may overflow
        return xp.where(size <= self.delta, 0.5 * near * near, self.delta * (size - 0.5 * self.delta))

    def slope(self, difference: Tensor) -> Tensor:
        """Return the difference, limited."""
        return clip(difference, -self.delta, self.delta)


class BinaryCrossEntropyWithLogits(ValueLoss):
    """y = ln(1 + eᶻ) − z·t, reduced."""

    name = "binary_cross_entropy_with_logits"

    def losses(self, a: Array, b: Array) -> Array:
        """Return max(z, 0) − z·t + ln(1 + e^−|z|), in which no exponent is above 0."""
        xp = array_namespace(a)
        # Values are looked at only where they are at hand, which they are not while a program is traced.
        if type(b) is np.ndarray and ((b < 0) | (b > 1)).any():
            raise DataError("targets are probabilities from 0 to 1")
        return xp.maximum(a, xp.zeros_like(a)) - a * b + xp.log1p(xp.exp(-xp.abs(a)))

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        z, targets = self.operands(node)
        scale = self.scaled(out_grad, node, 1.0)
        return (
            multiply(subtract(sigmoid(z), targets), scale) if _is_trained(node.inputs[0]) else None,
            multiply(z, negate(scale)) if _is_trained(node.inputs[1]) else None,
        )


class KLDivergence(ValueLoss):
    """y = Σ p · (ln p − ln q) along the last axis, reduced."""

    name = "kl_divergence"

    def losses(self, a: Array, b: Array) -> Array:
        """Return the divergence of each row; p · ln p is 0 at p = 0."""
        if not a.ndim:
            raise ShapeError("distributions lie along the last axis, and these Tensors have none")
        xp = array_namespace(a)
        log_p = xp.log(xp.where(b == 0, xp.ones_like(b), b))
        return xp.sum(b * (log_p - xp.where(b == 0, xp.zeros_like(a), a)), axis=-1)

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        log_q, p = self.operands(node)
        scale = self.scaled(out_grad, node, float(p.shape[-1]) if self.reduction == "mean" else 1.0)
        scale = expand_dims(scale, -1) if self.reduction == "none" else scale
        is_zero = equal(p, 0)
        slope = where(is_zero, 0.0, add_scalar(subtract(log(where(is_zero, 1.0, p)), log_q), 1))
        return (
            multiply(p, negate(scale)) if _is_trained(node.inputs[0]) else None,
            multiply(slope, scale) if _is_trained(node.inputs[1]) else None,
        )


def mse_loss(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the squared error.

    Formula::

        loss = (prediction − target)²

    Shapes:
        prediction, target: the same.
        result: (), or that of the prediction where the reduction is "none".

    Args:
        prediction: what the model says.
        target: what is right.
        reduction: "mean" over all elements, "sum" or "none".

    Raises:
        ShapeError: the shapes differ, or there are no elements.

    Gradient:
        2 (prediction − target), divided as the mean is; the opposite for the target.

    Example:
        >>> import needle as ndl
        >>> from needle.ops.loss import mse_loss
        >>> mse_loss(ndl.Tensor([1.0, 2.0]), ndl.Tensor([1.0, 4.0]))
        needle.Tensor(2.0)
    """
    return SquaredError(reduction)(prediction, target)


def l1_loss(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the absolute error |prediction − target|; shapes, arguments and errors are those of `mse_loss`.

    Gradient:
        The sign of the difference; 0 where there is none.
    """
    return AbsoluteError(reduction)(prediction, target)


def huber_loss(prediction: Tensor, target: Tensor, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """Return an error that is squared near 0 and absolute far from it, so that outliers weigh less.

    Formula::

        loss = d²/2                         where |d| ≤ delta, with d = prediction − target
               delta · (|d| − delta/2)      elsewhere

    Shapes, arguments and errors are those of `mse_loss`; `delta` is more than 0.

    Gradient:
        d limited to [−delta, delta].

    Reference:
        P. Huber, "Robust estimation of a location parameter", 1964.
    """
    return HuberError(delta, reduction)(prediction, target)


def binary_cross_entropy_with_logits(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Tell how far logits are from yes-or-no targets.

    Formula::

        loss = −t · ln σ(z) − (1 − t) · ln(1 − σ(z))

    Shapes:
        logits, targets: the same.
        result: (), or that of the logits where the reduction is "none".

    Args:
        logits: the scores z before the sigmoid.
        targets: probabilities t from 0 to 1, of any dtype, booleans too.
        reduction: "mean" over all elements, "sum" or "none".

    Raises:
        ShapeError: the shapes differ, or there are no elements.
        DataError: a target is not in [0, 1].

    Gradient:
        σ(z) − t, divided as the mean is.
    """
    return BinaryCrossEntropyWithLogits(reduction)(logits, targets)


def kl_divergence(log_probabilities: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Tell how far a distribution is from a target distribution: Kullback and Leibler's divergence.

    Formula::

        loss = Σ_c p_c · (ln p_c − ln q_c)      for each row with target p and log probabilities ln q

    Shapes:
        log_probabilities, target: the same, (…, C).
        result: (), or (…) where the reduction is "none".

    Args:
        log_probabilities: ln q, such as a logsoftmax.
        target: p, not its logarithm.
        reduction: "mean" over the rows, "sum" or "none". (Other libraries' "mean" may divide by C too.)

    Raises:
        ShapeError: the shapes differ, or there are no elements.

    Gradient:
        −p by ln q, and ln p − ln q + 1 by p (0 where p is 0), divided as the mean is.
    """
    return KLDivergence(reduction)(log_probabilities, target)


def in_dtype(tensor: Tensor, dtype: Any) -> Tensor:
    """Return a Tensor in a dtype: itself where it has it already."""
    return tensor if tensor.dtype == dtype else tensor.astype(dtype)


def _common_dtype(a: Any, b: Any) -> Any:
    """Return the dtype that two operands are computed in: integers follow the floating-point one beside them."""
    floating = [dtype for dtype in (a, b) if dtype.kind not in "iub"]
    return np.result_type(*floating) if floating else float64


def _is_trained(operand: Tensor) -> bool:
    """Tell whether an operand gets a gradient: targets that are integers or booleans do not."""
    return operand.requires_grad and operand.dtype.kind not in "iub"


def _check_equal_shapes(prediction: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Check that a prediction and its target have the same shape.

    Raises:
        ShapeError: they do not, or have no elements.
    """
    if prediction != target:
        rule = f"the prediction has shape {prediction}, the target {target}, and they must be equal"
        if math.prod(prediction) == math.prod(target):
            rule += (
                ": broadcast against each other, every prediction would be compared with every target. "
                f"Write target.reshape({prediction})"
            )
        raise ShapeError(rule)
    if 0 in prediction:
        raise ShapeError(f"there is no loss of an empty batch: the prediction has shape {prediction}")

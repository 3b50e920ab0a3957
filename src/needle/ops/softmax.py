"""Softmax and its relatives, computed so that no logit is too large for them.

eᶻ overflows float32 from z = 89 on. All of these subtract the largest element first, which changes nothing:

    ln Σ eᶻ = m + ln Σ eᶻ⁻ᵐ   with m = max z

so that the largest exponent is 0 and the sum lies between 1 and the number of elements.
"""

from __future__ import annotations

from collections.abc import Sequence

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import ShapeError
from needle.ops.arithmetic import multiply, subtract
from needle.ops.broadcasting import broadcast_reduced, summation
from needle.ops.exponential import exp
from needle.ops.movement import normalize_axes, normalize_axis

__all__ = ["LogSoftmax", "LogSumExp", "Softmax", "log_normalizer", "logsoftmax", "logsumexp", "softmax"]


def _finite_maximum(a: Array, axes: tuple[int, ...]) -> Array:
    """Return the maximum over `axes`, kept; 0 where it is infinite, since inf − inf is no number."""
    xp = array_namespace(a)
    largest = xp.max(a, axis=axes, keepdims=True)
    return xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))


def log_normalizer(z: Array, axis: int) -> tuple[Array, Array]:
    """Return what is to be subtracted from logits, one after the other, to give the logarithms of their softmax.

    That is the maximum, and the logarithm of the sum of exponentials of what is left.
    """
    xp = array_namespace(z)
    largest = _finite_maximum(z, (axis,))
    return largest, xp.log(xp.sum(xp.exp(z - largest), axis=axis, keepdims=True))


class LogSumExp(TensorOp):
    """y = ln Σ eᶻ over some axes."""

    name = "logsumexp"
    precision = "wide"

    def __init__(self, axes: int | Sequence[int] | None = None) -> None:
        self.axes = axes

    def compute(self, z: Array) -> Array:
        axes = normalize_axes(self.axes, z.ndim)
        if any(z.shape[axis] == 0 for axis in axes):
            raise ShapeError(f"no elements along axes {axes} of shape {z.shape}")
        xp = array_namespace(z)
        largest = _finite_maximum(z, axes)
        summed = xp.log(xp.sum(xp.exp(z - largest), axis=axes, keepdims=True)) + largest
        return xp.squeeze(summed, axis=axes)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        z = node.inputs[0]
        share = exp(subtract(z, broadcast_reduced(node, z.shape, self.axes)))
        return multiply(broadcast_reduced(out_grad, z.shape, self.axes), share)


def logsumexp(a: Tensor, axes: int | Sequence[int] | None = None) -> Tensor:
    """Take the logarithm of a sum of exponentials.

    Formula::

        y = ln Σ eᶻ   over `axes`

    Shapes:
        a: any, with elements along `axes`.
        result: that of `a` without `axes`.

    Args:
        a: the logits z.
        axes: one axis, several, or None for all.

    Raises:
        AxisError: an axis that `a` does not have.
        ShapeError: no elements along an axis.

    Gradient:
        ∂y/∂z = eᶻ⁻ʸ: the softmax of z.

    Example:
        >>> import needle as ndl
        >>> ndl.logsumexp(ndl.Tensor([1e4, 1e4]))
        needle.Tensor(10000.69314718056)
    """
    return LogSumExp(axes)(a)


class Softmax(TensorOp):
    """y = eᶻ / Σ eᶻ along an axis."""

    name = "softmax"
    precision = "wide"

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def compute(self, z: Array) -> Array:
        axis = normalize_axis(self.axis, z.ndim)
        if z.shape[axis] == 0:
            return z
        xp = array_namespace(z)
        powers = xp.exp(z - _finite_maximum(z, (axis,)))
        # One division a row: one an element takes many processors as long as much of the exponential.
        return powers * (1.0 / xp.sum(powers, axis=axis, keepdims=True))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        weighted = multiply(out_grad, node)
        return subtract(weighted, multiply(node, summation(weighted, self.axis, keepdims=True)))


def softmax(a: Tensor, axis: int = -1) -> Tensor:
    """Turn logits into probabilities that sum to 1 along an axis.

    Formula::

        yᵢ = eᶻⁱ / Σⱼ eᶻʲ

    Shapes:
        a: any with at least one axis.
        result: the same.

    Args:
        a: the logits z.
        axis: the axis of the classes; the last by default.

    Raises:
        AxisError: an axis that `a` does not have.

    Gradient:
        ∂/∂z = y · (g − Σ g·y).

    Example:
        >>> import needle as ndl
        >>> ndl.softmax(ndl.Tensor([0.0, 0.0]))
        needle.Tensor([0.5 0.5])
    """
    return Softmax(axis)(a)


class LogSoftmax(TensorOp):
    """y = z − ln Σ eᶻ along an axis."""

    name = "logsoftmax"
    precision = "wide"

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def compute(self, z: Array) -> Array:
        axis = normalize_axis(self.axis, z.ndim)
        if z.shape[axis] == 0:
            return z
        largest, log_total = log_normalizer(z, axis)
        return (z - largest) - log_total

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return subtract(out_grad, multiply(exp(node), summation(out_grad, self.axis, keepdims=True)))


def logsoftmax(a: Tensor, axis: int = -1) -> Tensor:
    """Take the logarithm of the softmax.

    Formula::

        yᵢ = zᵢ − ln Σⱼ eᶻʲ

    Shapes:
        a: any with at least one axis.
        result: the same.

    Args:
        a: the logits z.
        axis: the axis of the classes; the last by default.

    Raises:
        AxisError: an axis that `a` does not have.

    Gradient:
        ∂/∂z = g − eʸ · Σ g.
    """
    return LogSoftmax(axis)(a)

"""Normalisation: subtract the mean and divide by the deviation, or divide by the root mean square alone.

One operator each, with the closed form of its gradient instead of a chain of ten small ones. What is averaged over
is the caller's choice of axes: that is the only difference between batch, layer, instance and group normalisation.

    x̂ = (x − mean x) · r              r = 1 / √(mean (x − mean x)² + ε)
    ∂loss/∂x = r · (g − mean g − x̂ · mean (g·x̂))          with g = ∂loss/∂x̂

The two means that are subtracted from g are what flows back through the mean and the deviation. The gradient is an
operator again, as is r, so that it can be differentiated further.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.dtype import float32, float64, is_narrow
from needle.errors import ShapeError
from needle.ops.arithmetic import add, divide, mul_scalar, multiply
from needle.ops.broadcasting import summation
from needle.ops.exponential import power_scalar
from needle.ops.movement import normalize_axes

__all__ = ["Normalize", "RMSNormalize", "normalize", "rms_normalize"]

Axes = int | Sequence[int]


def _nothing() -> None:
    """Stand for a reference to an array that is gone."""


class Moments:
    """The mean, the mean square around it, and r = 1/√(mean square + ε) of an array over some axes, all kept.

    The last NumPy array's are remembered for as long as it lives, so that the backward pass and running statistics
    need not compute them again.
    """

    def __init__(self, axes: Axes, eps: float, centred: bool) -> None:
        self.axes = axes
        self.eps = eps
        self.centred = centred
        self.resolved: tuple[tuple[int, ...], tuple[int, ...], int] | None = None
        self.seen: Any = _nothing
        self.values: tuple[Any, Array, Array] | None = None

    def resolve(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Return the axes as numbers, and how many elements are averaged.

        Raises:
            ShapeError: none are.
        """
        if self.resolved is None or self.resolved[0] != shape:
            axes = normalize_axes(self.axes, len(shape))
            count = math.prod(shape[axis] for axis in axes)
            if not count:
                raise ShapeError(f"no elements to average along axes {axes} of shape {shape}")
            self.resolved = shape, axes, count
        return self.resolved[1:]

    def normalize(self, x: Array) -> Array:
        """Return x̂."""
        xp = array_namespace(x)
        x = xp.astype(x, float64) if x.dtype.kind in "iub" else x
        axes, n = self.resolve(x.shape)
        mean: Any = 0
        centred = x
        if self.centred:
            mean = xp.sum(x, axis=axes, keepdims=True) / n
            centred = x - mean
        square = xp.sum(centred * centred, axis=axes, keepdims=True) / n
        inverse = 1.0 / xp.sqrt(square + self.eps)
        self.values = mean, square, inverse
        self.seen = weakref.ref(x) if type(x) is np.ndarray else _nothing
        return centred * inverse

    def of(self, x: Array) -> tuple[Any, Array, Array]:
        """Return mean (0 where not centred), mean square and r of `x`."""
        if self.seen() is not x:
            self.normalize(array_namespace(x).astype(x, float32) if is_narrow(x.dtype) else x)
        assert self.values is not None
        return self.values


class Normalization(TensorOp):
    """What both normalisations share: all but whether the mean is subtracted."""

    precision = "wide"

    centred: bool

    def __init__(self, axes: Axes, eps: float = 1e-5) -> None:
        self.moments = Moments(axes, eps, self.centred)

    def compute(self, x: Array) -> Array:
        return self.moments.normalize(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return NormalizationAdjoint(self.moments)(out_grad, node, InverseDeviation(self.moments)(node.inputs[0]))


class Normalize(Normalization):
    """y = (x − mean x) / √(var x + ε) over some axes."""

    name = "normalize"
    centred = True


class RMSNormalize(Normalization):
    """y = x / √(mean x² + ε) over some axes."""

    name = "rms_normalize"
    centred = False


class InverseDeviation(TensorOp):
    """r = 1 / √(mean (x − mean x)² + ε), the axes kept."""

    name = "inverse_deviation"
    precision = "wide"

    def __init__(self, moments: Moments) -> None:
        self.moments = moments

    def compute(self, x: Array) -> Array:
        return self.moments.of(x)[2]

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        # ∂r/∂x = −r³ · (x − mean x) / n
        x = node.inputs[0]
        axes, n = self.moments.resolve(x.shape)
        slope = mul_scalar(multiply(out_grad, power_scalar(node, 3)), -1 / n)
        if self.moments.centred:
            x = add(x, mul_scalar(summation(x, axes, keepdims=True), -1 / n))
        return multiply(slope, x)


class NormalizationAdjoint(TensorOp):
    """y = r · (g − mean g − x̂ · mean (g·x̂)), without the first mean where x was not centred."""

    name = "normalization_adjoint"

    def __init__(self, moments: Moments) -> None:
        self.moments = moments

    def compute(self, g: Array, normalized: Array, inverse: Array) -> Array:
        xp = array_namespace(g)
        axes, n = self.moments.resolve(g.shape)
        y = g - normalized * (xp.sum(g * normalized, axis=axes, keepdims=True) / n)
        if self.moments.centred:
            y = y - xp.sum(g, axis=axes, keepdims=True) / n
        return y * inverse

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor, ...]:
        # Linear and symmetric in g; by the product rule in x̂; proportional to r.
        g, normalized, inverse = node.inputs
        axes, n = self.moments.resolve(g.shape)

        def mean(a: Tensor) -> Tensor:
            return mul_scalar(summation(a, axes, keepdims=True), 1 / n)

        crossed = add(
            multiply(out_grad, mean(multiply(g, normalized))), multiply(g, mean(multiply(out_grad, normalized)))
        )
        return (
            NormalizationAdjoint(self.moments)(out_grad, normalized, inverse),
            mul_scalar(multiply(crossed, inverse), -1),
            divide(summation(multiply(out_grad, node), axes, keepdims=True), inverse),
        )


def normalize(x: Tensor, axes: Axes, eps: float = 1e-5) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over axes.

    Formula::

        y = (x − mean x) / √(var x + eps)     var: the mean square distance from the mean

    Shapes:
        x: any, with elements along `axes`.
        result: the same.

    Args:
        x: the Tensor. Integers are computed in float64.
        axes: one axis or several: the elements along them share a mean and a variance.
        eps: keeps the divisor away from 0 where all elements are equal.

    Raises:
        AxisError: an axis that `x` does not have.
        ShapeError: no elements along `axes`.

    Gradient:
        r · (g − mean g − y · mean (g·y)) with r = 1/√(var x + eps).

    Cost:
        About 7 operations an element, and 10 more for the gradient.

    Example:
        >>> import needle as ndl
        >>> from needle.ops.normalization import normalize
        >>> normalize(ndl.Tensor([[1.0, 3.0]]), axes=1, eps=0.0)
        needle.Tensor([[-1.  1.]])
    """
    return Normalize(axes, eps)(x)


def rms_normalize(x: Tensor, axes: Axes, eps: float = 1e-5) -> Tensor:
    """Scale to mean square 1 over axes, without shifting.

    Formula::

        y = x / √(mean x² + eps)

    Shapes:
        x: any, with elements along `axes`.
        result: the same.

    Args:
        x: the Tensor. Integers are computed in float64.
        axes: one axis or several: the elements along them share a divisor.
        eps: keeps the divisor away from 0.

    Raises:
        AxisError: an axis that `x` does not have.
        ShapeError: no elements along `axes`.

    Gradient:
        r · (g − y · mean (g·y)) with r = 1/√(mean x² + eps).

    Reference:
        B. Zhang, R. Sennrich, "Root mean square layer normalization", 2019, equation 4.
    """
    return RMSNormalize(axes, eps)(x)

"""Activation functions, stable for inputs of any size: operators with their own gradients, and what is made of them."""

from __future__ import annotations

import math

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import ShapeError
from needle.ops.arithmetic import add_scalar, divide, mul_scalar, multiply, negate, subtract
from needle.ops.casting import widened
from needle.ops.comparison import greater, where
from needle.ops.elementwise import abs as absolute
from needle.ops.elementwise import clip, erf, error_function, tanh
from needle.ops.exponential import exp
from needle.ops.indexing import getitem
from needle.ops.movement import normalize_axes, reshape

__all__ = [
    "ELU",
    "GELU",
    "LeakyReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "elu",
    "gelu",
    "glu",
    "hardsigmoid",
    "hardswish",
    "leaky_relu",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
]


class ReLU(TensorOp):
    """y = max(a, 0)."""

    name = "relu"

    def compute(self, a: Array) -> Array:
        xp = array_namespace(a)
        return xp.maximum(a, xp.asarray(0, dtype=a.dtype))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return where(greater(node.inputs[0], 0), out_grad, 0)


def relu(a: Tensor) -> Tensor:
    """Rectify every element: y = max(a, 0).

    Gradient:
        The adjoint where a > 0, 0 elsewhere (at 0 too).
    """
    return ReLU()(a)


class LeakyReLU(TensorOp):
    """y = a where a > 0, slope · a elsewhere."""

    name = "leaky_relu"

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = slope

    def compute(self, a: Array) -> Array:
        return array_namespace(a).where(a > 0, a, a * self.slope)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return where(greater(node.inputs[0], 0), out_grad, mul_scalar(out_grad, self.slope))


def leaky_relu(a: Tensor, slope: float = 0.01) -> Tensor:
    """Rectify, but let a part of what is negative through: y = a where a > 0, slope · a elsewhere."""
    return LeakyReLU(slope)(a)


class ELU(TensorOp):
    """y = a where a > 0, α (eᵃ − 1) elsewhere."""

    name = "elu"

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def compute(self, a: Array) -> Array:
        xp = array_namespace(a)
        return xp.where(a > 0, a, xp.expm1(xp.minimum(a, xp.asarray(0, dtype=a.dtype))) * self.alpha)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        # For a ≤ 0: ∂y/∂a = α eᵃ = y + α.
        return where(greater(node.inputs[0], 0), out_grad, multiply(out_grad, add_scalar(node, self.alpha)))


def elu(a: Tensor, alpha: float = 1.0) -> Tensor:
    """Apply the exponential linear unit: y = a where a > 0, α (eᵃ − 1) elsewhere.

    Reference:
        D. Clevert et al., "Fast and accurate deep network learning by exponential linear units", 2016.
    """
    return ELU(alpha)(a)


def sigmoid_of(a: Array) -> Array:
    """Return 1 / (1 + e⁻ᵃ) of a raw array, with no exponent above 0, so that none overflows."""
    xp = array_namespace(a)
    small = xp.exp(-xp.abs(a))
    return xp.where(a >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


class Sigmoid(TensorOp):
    """y = 1 / (1 + e⁻ᵃ)."""

    name = "sigmoid"

    def compute(self, a: Array) -> Array:
        return sigmoid_of(a)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        y = widened(node)
        return multiply(out_grad, subtract(y, multiply(y, y)))


def sigmoid(a: Tensor) -> Tensor:
    """Apply the logistic function to every element: y = 1 / (1 + e⁻ᵃ).

    Gradient:
        ∂y/∂a = y (1 − y).
    """
    return Sigmoid()(a)


class SiLU(TensorOp):
    """y = a σ(a)."""

    name = "silu"

    def compute(self, a: Array) -> Array:
        return a * sigmoid_of(a)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        share = sigmoid(widened(node.inputs[0]))
        return multiply(out_grad, share + multiply(node, add_scalar(mul_scalar(share, -1), 1)))


def silu(a: Tensor) -> Tensor:
    """Weight every element by its own sigmoid: y = a σ(a), also called swish.

    Gradient:
        ∂y/∂a = σ(a) + y (1 − σ(a)).

    Reference:
        S. Elfwing et al., "Sigmoid-weighted linear units", 2018, equation 1.
    """
    return SiLU()(a)


class Softplus(TensorOp):
    """y = ln(1 + eᵃ)."""

    name = "softplus"

    def compute(self, a: Array) -> Array:
        xp = array_namespace(a)
        return xp.maximum(a, xp.asarray(0, dtype=a.dtype)) + xp.log1p(xp.exp(-xp.abs(a)))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return multiply(out_grad, sigmoid(widened(node.inputs[0])))


def softplus(a: Tensor) -> Tensor:
    """Apply a smooth rectifier: y = ln(1 + eᵃ), computed as max(a, 0) + ln(1 + e^−|a|).

    Gradient:
        ∂y/∂a = σ(a).
    """
    return Softplus()(a)


# The tanh form's constants: √(2/π) and 0.044715.
_INNER = math.sqrt(2 / math.pi)
_CUBIC = 0.044715
# From here on Φ is 0 or 1 and φ is 0 in every dtype: squares and cubes are taken of nothing larger.
_FAR = 40.0


class GELU(TensorOp):
    """y = a Φ(a), with Φ the normal distribution function."""

    name = "gelu"

    def __init__(self, approximate: bool = False) -> None:
        self.approximate = approximate

    def compute(self, a: Array) -> Array:
        if self.approximate:
            xp = array_namespace(a)
            inner = xp.minimum(xp.maximum(a, -_FAR), _FAR)
            return 0.5 * a * (1.0 + xp.tanh(_INNER * (inner + _CUBIC * (inner * inner * inner))))
        return 0.5 * a * (1.0 + error_function(a * math.sqrt(0.5)))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        given = widened(node.inputs[0])
        a = clip(given, -_FAR, _FAR)
        square = multiply(a, a)
        if self.approximate:
            t = tanh(multiply(a, add_scalar(mul_scalar(square, _INNER * _CUBIC), _INNER)))
            inner_slope = add_scalar(mul_scalar(square, 3 * _INNER * _CUBIC), _INNER)
            slope = multiply(mul_scalar(a, 0.5), multiply(add_scalar(mul_scalar(multiply(t, t), -1), 1), inner_slope))
            return multiply(out_grad, add_scalar(mul_scalar(t, 0.5), 0.5) + slope)
        # Of what is given, so that a compiled program computes it once for the result and the gradient.
        probability = add_scalar(mul_scalar(erf(mul_scalar(given, math.sqrt(0.5))), 0.5), 0.5)
        density = mul_scalar(exp(mul_scalar(square, -0.5)), 1 / math.sqrt(2 * math.pi))
        return multiply(out_grad, probability + multiply(a, density))


def gelu(a: Tensor, approximate: bool = False) -> Tensor:
    """Weight every element by the probability that a normal variable lies below it.

    Formula::

        y = a Φ(a) = a/2 · (1 + erf(a/√2))
        approximate: y ≈ a/2 · (1 + tanh(√(2/π) (a + 0.044715 a³)))

    Args:
        a: the Tensor, of any shape.
        approximate: use the tanh form, as some published models do; exact by default.

    Gradient:
        ∂y/∂a = Φ(a) + a φ(a), with φ the normal density.

    Reference:
        D. Hendrycks, K. Gimpel, "Gaussian error linear units", 2016.
    """
    return GELU(approximate)(a)


# --------------------------------------------------------------------------------- made of other operators

# Of values of mean 0 and variance 1, selu makes such values again.
_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772


def selu(a: Tensor) -> Tensor:
    """Apply the scaled exponential linear unit: y = 1.0507 · elu(a, 1.6733).

    Reference:
        G. Klambauer et al., "Self-normalizing neural networks", 2017, equation 2.
    """
    return mul_scalar(elu(a, _SELU_ALPHA), _SELU_SCALE)


def mish(a: Tensor) -> Tensor:
    """Weight every element by the tangent of its softplus: y = a · tanh(ln(1 + eᵃ)).

    Reference:
        D. Misra, "Mish: a self regularized non-monotonic activation function", 2019, equation 1.
    """
    return multiply(a, tanh(softplus(a)))


def relu6(a: Tensor) -> Tensor:
    """Rectify and limit every element: y = min(max(a, 0), 6).

    Reference:
        A. Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications", 2017.
    """
    return clip(a, 0, 6)


def hardsigmoid(a: Tensor) -> Tensor:
    """Apply a sigmoid made of straight lines: y = min(max(a + 3, 0), 6) / 6."""
    return mul_scalar(clip(add_scalar(a, 3), 0, 6), 1 / 6)


def hardswish(a: Tensor) -> Tensor:
    """Weight every element by a sigmoid made of straight lines: y = a · min(max(a + 3, 0), 6) / 6.

    Reference:
        A. Howard et al., "Searching for MobileNetV3", 2019, section 5.2.
    """
    return multiply(a, hardsigmoid(a))


def logsigmoid(a: Tensor) -> Tensor:
    """Return the logarithm of the logistic function: y = −ln(1 + e⁻ᵃ), which stays finite where σ(a) is 0."""
    return negate(softplus(negate(a)))


def softsign(a: Tensor) -> Tensor:
    """Bend every element towards ±1: y = a / (1 + |a|)."""
    return divide(a, add_scalar(absolute(a), 1))


def prelu(a: Tensor, weight: Tensor) -> Tensor:
    """Rectify, but let a learned part of what is negative through: y = a where a > 0, weight · a elsewhere.

    Shapes:
        a: (N, C, …), or any where there is one weight.
        weight: (C,), one for each channel, or (1,).
        result: a's.

    Raises:
        ShapeError: there are neither one weight nor as many as channels.

    Reference:
        K. He et al., "Delving deep into rectifiers", 2015, equation 1.
    """
    if weight.ndim != 1 or (weight.shape[0] != 1 and (a.ndim < 2 or weight.shape[0] != a.shape[1])):
        raise ShapeError(
            f"prelu: there is one weight, or one for each channel of (N, C, …), got {weight.shape}, {a.shape}"
        )
    by_channel = reshape(weight, () if weight.shape[0] == 1 else (-1, *[1] * (a.ndim - 2)))
    return where(greater(a, 0), a, multiply(a, by_channel))


def glu(a: Tensor, axis: int = -1) -> Tensor:
    """Weight the first half of an axis by the sigmoid of the second: y = a₁ · σ(a₂).

    Shapes:
        a: any, of an even length along the axis.
        result: half as long along it.

    Raises:
        ShapeError: the length is odd.

    Reference:
        Y. Dauphin et al., "Language modeling with gated convolutional networks", 2017, equation 1.
    """
    (axis,) = normalize_axes(axis, a.ndim)
    half, odd = divmod(a.shape[axis], 2)
    if odd:
        raise ShapeError(f"glu: an axis that is halved has an even length, got {a.shape[axis]}")
    before = (slice(None),) * axis
    return multiply(getitem(a, (*before, slice(None, half))), sigmoid(getitem(a, (*before, slice(half, None)))))

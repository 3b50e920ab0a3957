"""Functions of each element by itself: rounding, sign, trigonometry, limits, the error function."""

from __future__ import annotations

import math

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import DataError
from needle.ops.arithmetic import mul_scalar, multiply, negate, subtract
from needle.ops.broadcasting import ElementwiseOp, unbroadcast
from needle.ops.comparison import equal, greater_equal, less_equal, operands, where
from needle.ops.exponential import exp
from needle.tensor_operators import Operand, as_number

__all__ = [
    "Abs",
    "Ceil",
    "Clip",
    "Cos",
    "Erf",
    "Floor",
    "IsFinite",
    "IsNaN",
    "Maximum",
    "Minimum",
    "Round",
    "Sign",
    "Sin",
    "Tanh",
    "abs",
    "ceil",
    "clip",
    "cos",
    "erf",
    "floor",
    "isfinite",
    "isnan",
    "maximum",
    "minimum",
    "round",
    "sign",
    "sin",
    "tanh",
]


class Abs(TensorOp):
    """y = |a|."""

    name = "abs"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).abs(a)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return multiply(out_grad, sign(node.inputs[0]))


def abs(a: Tensor) -> Tensor:
    """Take the absolute value of every element: y = |a|.

    Gradient:
        The sign of `a`: 0 at 0.
    """
    return Abs()(a)


class Sin(TensorOp):
    """y = sin a."""

    name = "sin"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).sin(a)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return multiply(out_grad, cos(node.inputs[0]))


def sin(a: Tensor) -> Tensor:
    """Take the sine of every element, in radians; ∂y/∂a = cos a."""
    return Sin()(a)


class Cos(TensorOp):
    """y = cos a."""

    name = "cos"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).cos(a)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return negate(multiply(out_grad, sin(node.inputs[0])))


def cos(a: Tensor) -> Tensor:
    """Take the cosine of every element, in radians; ∂y/∂a = −sin a."""
    return Cos()(a)


class Tanh(TensorOp):
    """y = tanh a."""

    name = "tanh"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).tanh(a)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return subtract(out_grad, multiply(out_grad, multiply(node, node)))


def tanh(a: Tensor) -> Tensor:
    """Take the hyperbolic tangent of every element: y = (eᵃ − e⁻ᵃ) / (eᵃ + e⁻ᵃ).

    Gradient:
        ∂y/∂a = 1 − y².
    """
    return Tanh()(a)


class Erf(TensorOp):
    """y = 2/√π ∫₀ᵃ e^(−t²) dt."""

    name = "erf"

    def compute(self, a: Array) -> Array:
        return error_function(a)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        a = clip(node.inputs[0], -_FAR, _FAR)
        return multiply(out_grad, mul_scalar(exp(negate(multiply(a, a))), 2 / math.sqrt(math.pi)))


def erf(a: Tensor) -> Tensor:
    """Take the error function of every element.

    Formula::

        y = 2/√π ∫₀ᵃ e^(−t²) dt

    Gradient:
        ∂y/∂a = 2/√π e^(−a²).

    Reference:
        W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23, 1969.
    """
    return Erf()(a)


# Cody's coefficients: numerators and denominators of erf on |a| ≤ 0.46875, and of e^(a²) erfc on |a| ≤ 4 and beyond,
# lowest power first.
_SMALL_P = (3.209377589138469472562e3, 3.774852376853020208137e2, 1.138641541510501556495e2, 3.161123743870565596947)
_SMALL_P_TOP = 1.857777061846031526730e-1
_SMALL_Q = (2.844236833439170622273e3, 1.282616526077372275645e3, 2.440246379344441733056e2, 2.360129095234412093499e1)
_MIDDLE_P = (
    *(1.23033935479799725272e3, 2.05107837782607146532e3, 1.71204761263407058314e3, 8.81952221241769090411e2),
    *(2.98635138197400131132e2, 6.61191906371416294775e1, 8.88314979438837594118, 5.64188496988670089180e-1),
    2.15311535474403846343e-8,
)
_MIDDLE_Q = (
    *(1.23033935480374942043e3, 3.43936767414372163696e3, 4.36261909014324715820e3, 3.29079923573345962678e3),
    *(1.62138957456669018874e3, 5.37181101862009857509e2, 1.17693950891312499305e2, 1.57449261107098347253e1),
    1.0,
)
_LARGE_P = (
    *(6.58749161529837803157e-4, 1.60837851487422766278e-2, 1.25781726111229246204e-1, 3.60344899949804439429e-1),
    *(3.05326634961232344035e-1, 1.63153871373020978498e-2),
)
_LARGE_Q = (
    *(2.33520497626869185443e-3, 6.05183413124413191178e-2, 5.27905102951428412248e-1, 1.87295284992346725209),
    *(2.56852019228982242072, 1.0),
)


# e^(−a²) is 0 from here on in every dtype: squares are taken of nothing larger.
_FAR = 40.0


def error_function(a: Array) -> Array:
    """Return erf of a raw array, to the last digit or two of its dtype. NumPy has none, the compiler has."""
    xp = array_namespace(a)
    if hasattr(xp, "erf"):
        return xp.erf(a)
    size = xp.abs(a)
    # Outside its own range each branch is given an argument inside it, so that nothing overflows.
    inner = xp.where(size <= 0.46875, a, xp.zeros_like(a))
    square = inner * inner
    small = inner * _polynomial((*_SMALL_P, _SMALL_P_TOP), square) / _polynomial((*_SMALL_Q, 1.0), square)
    middle_size = xp.where(size < 4.0, size, 4.0)
    middle = xp.exp(-middle_size * middle_size) * _polynomial(_MIDDLE_P, middle_size)
    middle = middle / _polynomial(_MIDDLE_Q, middle_size)
    large_size = xp.where(size > 4.0, xp.where(size < 10.0, size, 10.0), 4.0)
    inverse = 1.0 / (large_size * large_size)
    correction = inverse * _polynomial(_LARGE_P, inverse) / _polynomial(_LARGE_Q, inverse)
    large = xp.exp(-large_size * large_size) * (1 / math.sqrt(math.pi) - correction) / large_size
    outer = xp.sign(a) * (1.0 - xp.where(size <= 4.0, middle, large))
    return xp.where(size <= 0.46875, small, outer)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Evaluate a polynomial by Horner's scheme, lowest coefficient first."""
    result = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        result = result * x + coefficient
    return result


class StepFunction(TensorOp):
    """An operator that is constant between its steps: its gradient is 0."""

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return mul_scalar(out_grad, 0)


class Sign(StepFunction):
    """y = −1, 0 or 1."""

    name = "sign"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).sign(a)


def sign(a: Tensor) -> Tensor:
    """Return −1, 0 or 1 as each element is negative, zero or positive. The gradient is 0."""
    return Sign()(a)


class Floor(StepFunction):
    """y = the largest whole number ≤ a."""

    name = "floor"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).floor(a)


def floor(a: Tensor) -> Tensor:
    """Round every element down. The gradient is 0."""
    return Floor()(a)


class Ceil(StepFunction):
    """y = the smallest whole number ≥ a."""

    name = "ceil"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).ceil(a)


def ceil(a: Tensor) -> Tensor:
    """Round every element up. The gradient is 0."""
    return Ceil()(a)


class Round(StepFunction):
    """y = the nearest whole number."""

    name = "round"

    def compute(self, a: Array) -> Array:
        return a if a.dtype.kind in "iub" else array_namespace(a).round(a)


def round(a: Tensor) -> Tensor:
    """Round every element to the nearest whole number, halves to the even one. The gradient is 0."""
    return Round()(a)


class IsNaN(TensorOp):
    """y = whether a is not a number."""

    name = "isnan"
    differentiable = False

    def compute(self, a: Array) -> Array:
        return array_namespace(a).isnan(a)


def isnan(a: Tensor) -> Tensor:
    """Tell which elements are not a number."""
    return IsNaN()(a)


class IsFinite(TensorOp):
    """y = whether a is neither infinite nor NaN."""

    name = "isfinite"
    differentiable = False

    def compute(self, a: Array) -> Array:
        return array_namespace(a).isfinite(a)


def isfinite(a: Tensor) -> Tensor:
    """Tell which elements are neither infinite nor NaN."""
    return IsFinite()(a)


class Choice(ElementwiseOp):
    """The larger or the smaller of two elements; equal ones share the adjoint."""

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        half = where(equal(a, b), mul_scalar(out_grad, 0.5), out_grad)
        return (
            unbroadcast(where(equal(a, node), half, 0), a.shape) if a.requires_grad else None,
            unbroadcast(where(equal(b, node), half, 0), b.shape) if b.requires_grad else None,
        )


class Maximum(Choice):
    """y = max(a, b)."""

    name = "maximum"

    def compute(self, a: Array, b: Array) -> Array:
        return array_namespace(a).maximum(a, b)


def maximum(a: Operand, b: Operand) -> Tensor:
    """Return the larger of two elements; NaN where either is.

    Shapes:
        a, b: Tensors or numbers that broadcast against each other.
        result: their broadcast shape.

    Raises:
        ShapeError: the shapes do not broadcast.

    Gradient:
        The adjoint goes to the larger one; equal ones get half each.
    """
    return Maximum()(*operands(a, b))


class Minimum(Choice):
    """y = min(a, b)."""

    name = "minimum"

    def compute(self, a: Array, b: Array) -> Array:
        return array_namespace(a).minimum(a, b)


def minimum(a: Operand, b: Operand) -> Tensor:
    """Return the smaller of two elements; shapes, errors and gradient are those of `maximum`."""
    return Minimum()(*operands(a, b))


class Clip(TensorOp):
    """y = a limited to [low, high]."""

    name = "clip"

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        self.low = None if low is None else as_number(low)
        self.high = None if high is None else as_number(high)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise DataError(f"clip: low = {low} is above high = {high}")

    def compute(self, a: Array) -> Array:
        xp = array_namespace(a)
        limited = a if self.low is None else xp.maximum(a, self.low)
        return limited if self.high is None else xp.minimum(limited, self.high)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        a = node.inputs[0]
        passed = out_grad if self.low is None else where(greater_equal(a, self.low), out_grad, 0)
        return passed if self.high is None else where(less_equal(a, self.high), passed, 0)


def clip(a: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Limit every element to [low, high].

    Args:
        a: the Tensor, of any shape.
        low: the lower limit; none where None.
        high: the upper limit; none where None.

    Raises:
        DataError: the lower limit is above the upper one.
        DTypeError: a limit is not one number.

    Gradient:
        The adjoint where `a` is inside the limits or on them, 0 outside.
    """
    return Clip(low, high)(a)

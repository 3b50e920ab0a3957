"""Powers, roots, exponentials and logarithms."""

from __future__ import annotations

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import DTypeError
from needle.ops.arithmetic import divide, mul_scalar, multiply
from needle.ops.broadcasting import ElementwiseOp, unbroadcast
from needle.ops.comparison import equal, where
from needle.tensor_operators import Scalar, as_number

__all__ = [
    "EWisePow",
    "Exp",
    "Log",
    "PowerScalar",
    "Sqrt",
    "exp",
    "log",
    "power",
    "power_scalar",
    "sqrt",
]


class Exp(TensorOp):
    """y = eᵃ."""

    name = "exp"
    precision = "wide"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).exp(a)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return multiply(out_grad, node)


def exp(a: Tensor) -> Tensor:
    """Raise e to the power of every element: y = eᵃ.

    Gradient:
        ∂y/∂a = y.
    """
    return Exp()(a)


class Log(TensorOp):
    """y = ln a."""

    name = "log"
    precision = "wide"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).log(a)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return divide(out_grad, node.inputs[0])


def log(a: Tensor) -> Tensor:
    """Take the natural logarithm of every element: y = ln a; −inf at 0, NaN below.

    Gradient:
        ∂y/∂a = 1/a.
    """
    return Log()(a)


class Sqrt(TensorOp):
    """y = √a."""

    name = "sqrt"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).sqrt(a)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return divide(out_grad, mul_scalar(node, 2))


def sqrt(a: Tensor) -> Tensor:
    """Take the square root of every element: y = √a; NaN below 0.

    Gradient:
        ∂y/∂a = 1/(2y): infinite at 0.
    """
    return Sqrt()(a)


class EWisePow(ElementwiseOp):
    """y = aᵇ."""

    name = "power"
    precision = "wide"

    def compute(self, a: Array, b: Array) -> Array:
        return a**b

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        return (
            unbroadcast(out_grad * (b * power(a, where(equal(b, 0), 0, b - 1))), a.shape) if a.requires_grad else None,
            unbroadcast(out_grad * (node * log_or_zero(a)), b.shape) if b.requires_grad else None,
        )


def log_or_zero(a: Tensor) -> Tensor:
    """Return ln a, and 0 where a is 0: there aᵇ is 0 for every b > 0, so that it does not change with b."""
    is_zero = equal(a, 0)
    return where(is_zero, 0.0, log(where(is_zero, 1.0, a)))


def power(a: Tensor, b: Tensor) -> Tensor:
    """Raise one Tensor to the power of another, element by element: y = aᵇ.

    Shapes:
        a, b: any that broadcast against each other.
        result: their broadcast shape.

    Raises:
        ShapeError: the shapes do not broadcast.

    Gradient:
        ∂y/∂a = b · aᵇ⁻¹ (0 where b is 0, also at a = 0),   ∂y/∂b = aᵇ · ln a (0 where a is 0; NaN where a is negative).
    """
    return EWisePow()(a, b)


class PowerScalar(TensorOp):
    """y = aᶜ."""

    name = "power_scalar"
    precision = "wide"

    def __init__(self, scalar: Scalar) -> None:
        self.scalar = as_number(scalar)

    def compute(self, a: Array) -> Array:
        if self.scalar < 0 and isinstance(self.scalar, int) and a.dtype.kind in "iu":
            raise DTypeError(f"integers have no power {self.scalar} among the integers: use a floating-point Tensor")
        return a**self.scalar

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        if self.scalar == 0:
            return mul_scalar(out_grad, 0)
        return multiply(out_grad, mul_scalar(power_scalar(node.inputs[0], self.scalar - 1), self.scalar))


def power_scalar(a: Tensor, scalar: Scalar) -> Tensor:
    """Raise every element to the power of a number: y = aᶜ.

    Gradient:
        ∂y/∂a = c · aᶜ⁻¹, and 0 everywhere for c = 0.
    """
    return PowerScalar(scalar)(a)

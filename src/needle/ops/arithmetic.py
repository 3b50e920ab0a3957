"""Sums, differences, products and quotients, of two Tensors or of a Tensor and a number.

Two Tensors broadcast against each other as in NumPy; the gradient is summed back to each one's shape. A number takes
on the Tensor's dtype, so that float32 stays float32.
"""

from __future__ import annotations

from needle.autograd import Tensor, TensorOp
from needle.device import Array
from needle.ops.broadcasting import ElementwiseOp, unbroadcast
from needle.tensor_operators import Scalar, as_number

__all__ = [
    "AddScalar",
    "DivScalar",
    "EWiseAdd",
    "EWiseDiv",
    "EWiseMul",
    "MulScalar",
    "Negate",
    "add",
    "add_scalar",
    "divide",
    "divide_scalar",
    "mul_scalar",
    "multiply",
    "negate",
    "subtract",
]


class EWiseAdd(ElementwiseOp):
    """y = a + b."""

    name = "add"

    def compute(self, a: Array, b: Array) -> Array:
        return a + b

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        return (
            unbroadcast(out_grad, a.shape) if a.requires_grad else None,
            unbroadcast(out_grad, b.shape) if b.requires_grad else None,
        )


def add(a: Tensor, b: Tensor) -> Tensor:
    """Add two Tensors element by element: y = a + b.

    Shapes:
        a, b: any that broadcast against each other.
        result: their broadcast shape.

    Raises:
        ShapeError: the shapes do not broadcast.

    Example:
        >>> import needle as ndl
        >>> ndl.add(ndl.Tensor([1.0, 2.0]), ndl.Tensor([10.0]))
        needle.Tensor([11. 12.])
    """
    return EWiseAdd()(a, b)


class AddScalar(TensorOp):
    """y = a + c."""

    name = "add_scalar"

    def __init__(self, scalar: Scalar) -> None:
        self.scalar = as_number(scalar)

    def compute(self, a: Array) -> Array:
        if self.scalar < 0 and a.dtype.kind == "u":  # NumPy takes no negative number beside unsigned ones
            return a - -self.scalar
        return a + self.scalar

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return out_grad


def add_scalar(a: Tensor, scalar: Scalar) -> Tensor:
    """Add a number to every element: y = a + c."""
    return AddScalar(scalar)(a)


def subtract(a: Tensor, b: Tensor) -> Tensor:
    """Subtract two Tensors element by element: y = a + (−b).

    Shapes:
        a, b: any that broadcast against each other.
        result: their broadcast shape.

    Raises:
        ShapeError: the shapes do not broadcast.
    """
    return add(a, negate(b))


class EWiseMul(ElementwiseOp):
    """y = a · b."""

    name = "multiply"

    def compute(self, a: Array, b: Array) -> Array:
        return a * b

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        return (
            unbroadcast(multiply(out_grad, b), a.shape) if a.requires_grad else None,
            unbroadcast(multiply(out_grad, a), b.shape) if b.requires_grad else None,
        )


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Multiply two Tensors element by element: y = a · b.

    Shapes:
        a, b: any that broadcast against each other.
        result: their broadcast shape.

    Raises:
        ShapeError: the shapes do not broadcast.
    """
    return EWiseMul()(a, b)


class MulScalar(TensorOp):
    """y = a · c."""

    name = "mul_scalar"

    def __init__(self, scalar: Scalar) -> None:
        self.scalar = as_number(scalar)

    def compute(self, a: Array) -> Array:
        return a * self.scalar

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return mul_scalar(out_grad, self.scalar)


def mul_scalar(a: Tensor, scalar: Scalar) -> Tensor:
    """Multiply every element by a number: y = a · c."""
    return MulScalar(scalar)(a)


class EWiseDiv(ElementwiseOp):
    """y = a / b."""

    name = "divide"

    def compute(self, a: Array, b: Array) -> Array:
        return a / b

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        grad_a = divide(out_grad, b)
        return (
            unbroadcast(grad_a, a.shape) if a.requires_grad else None,
            unbroadcast(negate(multiply(grad_a, node)), b.shape) if b.requires_grad else None,
        )


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Divide two Tensors element by element: y = a / b.

    Shapes:
        a, b: any that broadcast against each other.
        result: their broadcast shape. Integers give floating-point results.

    Raises:
        ShapeError: the shapes do not broadcast.

    Gradient:
        ∂y/∂a = 1/b,   ∂y/∂b = −y/b.
    """
    return EWiseDiv()(a, b)


class DivScalar(TensorOp):
    """y = a / c."""

    name = "divide_scalar"

    def __init__(self, scalar: Scalar) -> None:
        self.scalar = as_number(scalar)

    def compute(self, a: Array) -> Array:
        return a / self.scalar

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return divide_scalar(out_grad, self.scalar)


def divide_scalar(a: Tensor, scalar: Scalar) -> Tensor:
    """Divide every element by a number: y = a / c."""
    return DivScalar(scalar)(a)


class Negate(TensorOp):
    """y = −a."""

    name = "negate"

    def compute(self, a: Array) -> Array:
        return -a

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return negate(out_grad)


def negate(a: Tensor) -> Tensor:
    """Change the sign of every element: y = −a."""
    return Negate()(a)

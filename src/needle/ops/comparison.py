"""Comparisons, and the choice between two Tensors that is made with them.

Comparisons give booleans and carry no gradient. They take a number on either side, as the signs do.
"""

from __future__ import annotations

from needle.autograd import Tensor
from needle.device import Array, array_namespace
from needle.errors import DTypeError
from needle.ops.broadcasting import ElementwiseOp, unbroadcast
from needle.tensor_operators import Operand, constant_beside

__all__ = [
    "Equal",
    "Greater",
    "GreaterEqual",
    "Less",
    "LessEqual",
    "NotEqual",
    "Where",
    "equal",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "not_equal",
    "where",
]


class Comparison(ElementwiseOp):
    """An operator from two Tensors to booleans."""

    differentiable = False


class Equal(Comparison):
    """y = (a = b)."""

    name = "equal"

    def compute(self, a: Array, b: Array) -> Array:
        return a == b


class NotEqual(Comparison):
    """y = (a ≠ b)."""

    name = "not_equal"

    def compute(self, a: Array, b: Array) -> Array:
        return a != b


class Less(Comparison):
    """y = (a < b)."""

    name = "less"

    def compute(self, a: Array, b: Array) -> Array:
        return a < b


class LessEqual(Comparison):
    """y = (a ≤ b)."""

    name = "less_equal"

    def compute(self, a: Array, b: Array) -> Array:
        return a <= b


class Greater(Comparison):
    """y = (a > b)."""

    name = "greater"

    def compute(self, a: Array, b: Array) -> Array:
        return a > b


class GreaterEqual(Comparison):
    """y = (a ≥ b)."""

    name = "greater_equal"

    def compute(self, a: Array, b: Array) -> Array:
        return a >= b


def _compare(op: Comparison, a: Operand, b: Operand) -> Tensor:
    return op(*operands(a, b))


def operands(a: Operand, b: Operand) -> tuple[Tensor, Tensor]:
    """Return both operands as Tensors, a number in the dtype that it has beside the other.

    Raises:
        DTypeError: neither is a Tensor.
    """
    if isinstance(a, Tensor):
        return a, b if isinstance(b, Tensor) else constant_beside(a, b)
    if isinstance(b, Tensor):
        return constant_beside(b, a), b
    raise DTypeError(f"one of the operands must be a Tensor, got {type(a).__name__} and {type(b).__name__}")


def equal(a: Operand, b: Operand) -> Tensor:
    """Tell where two Tensors (or a Tensor and a number) are equal.

    `a == b` itself tells whether the two names stand for the same Tensor, so that Tensors can be keys of a dict.

    Shapes:
        a, b: any that broadcast against each other.
        result: their broadcast shape, of booleans.

    Example:
        >>> import needle as ndl
        >>> ndl.equal(ndl.Tensor([1, 2]), 2)
        needle.Tensor([False  True])
    """
    return _compare(Equal(), a, b)


def not_equal(a: Operand, b: Operand) -> Tensor:
    """Tell where two Tensors (or a Tensor and a number) differ."""
    return _compare(NotEqual(), a, b)


def less(a: Operand, b: Operand) -> Tensor:
    """Tell where a < b."""
    return _compare(Less(), a, b)


def less_equal(a: Operand, b: Operand) -> Tensor:
    """Tell where a ≤ b."""
    return _compare(LessEqual(), a, b)


def greater(a: Operand, b: Operand) -> Tensor:
    """Tell where a > b."""
    return _compare(Greater(), a, b)


def greater_equal(a: Operand, b: Operand) -> Tensor:
    """Tell where a ≥ b."""
    return _compare(GreaterEqual(), a, b)


class Where(ElementwiseOp):
    """y = a where the condition holds, b elsewhere."""

    name = "where"

    def compute(self, condition: Array, a: Array, b: Array) -> Array:
        if condition.dtype.kind != "b":
            raise DTypeError(f"the condition is made of booleans, got {condition.dtype}: compare with something")
        return array_namespace(condition).where(condition, a, b)

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        condition, a, b = node.inputs
        return (
            None,
            unbroadcast(where(condition, out_grad, 0), a.shape) if a.requires_grad else None,
            unbroadcast(where(condition, 0, out_grad), b.shape) if b.requires_grad else None,
        )


def where(condition: Tensor, a: Operand, b: Operand) -> Tensor:
    """Choose elements of `a` where `condition` holds and of `b` elsewhere.

    Shapes:
        condition: booleans.
        a, b: Tensors or numbers; all three broadcast against each other.
        result: the broadcast shape.

    Raises:
        DTypeError: the condition is not made of booleans, or neither `a` nor `b` is a Tensor.
        ShapeError: the shapes do not broadcast.

    Gradient:
        The adjoint goes to the operand that was chosen; the other one gets 0 there, also where the operand that was
        not chosen is NaN or infinite.

    Example:
        >>> import needle as ndl
        >>> x = ndl.Tensor([-1.0, 2.0])
        >>> ndl.where(x > 0, x, 0)
        needle.Tensor([0. 2.])
    """
    return Where()(condition, *operands(a, b))

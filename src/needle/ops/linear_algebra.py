"""Matrix products."""

from __future__ import annotations

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import ShapeError
from needle.ops.broadcasting import broadcast_rule, unbroadcast
from needle.ops.movement import transpose

__all__ = ["MatMul", "matmul"]


class MatMul(TensorOp):
    """y = a @ b over the last two axes; the axes before them broadcast."""

    name = "matmul"

    def compute(self, a: Array, b: Array) -> Array:
        if a.ndim < 2 or b.ndim < 2:
            raise ShapeError(f"takes matrices (two axes or more), got shapes {a.shape} and {b.shape}")
        if a.shape[-1] != b.shape[-2]:
            raise ShapeError(f"inner dimensions differ: a.shape[-1] = {a.shape[-1]}, b.shape[-2] = {b.shape[-2]}")
        if a.ndim > 2 and b.ndim > 2 and (rule := broadcast_rule([a.shape[:-2], b.shape[:-2]])):
            raise ShapeError(f"the batch axes differ: {rule}")
        return array_namespace(a).matmul(a, b)

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        return (
            unbroadcast(matmul(out_grad, transpose(b)), a.shape) if a.requires_grad else None,
            unbroadcast(matmul(transpose(a), out_grad), b.shape) if b.requires_grad else None,
        )


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices, or batches of them.

    Formula::

        y[…, i, j] = Σₖ a[…, i, k] · b[…, k, j]

    Shapes:
        a: (…, M, K).
        b: (…, K, N).
        result: (…, M, N); the batch axes before the last two broadcast.

    Raises:
        ShapeError: fewer than two axes, inner dimensions that differ, or batch axes that do not broadcast.

    Gradient:
        ∂/∂a = g @ bᵀ,   ∂/∂b = aᵀ @ g, each summed over the batch axes along which it was repeated.

    Cost:
        2·M·N·K floating-point operations a matrix.

    Example:
        >>> import needle as ndl
        >>> ndl.matmul(ndl.Tensor([[1.0, 2.0]]), ndl.Tensor([[3.0], [4.0]]))
        needle.Tensor([[11.]])
    """
    return MatMul()(a, b)

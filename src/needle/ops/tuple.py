"""Operators that put Tensors into a TensorTuple and take them out."""

from __future__ import annotations

from typing import cast

from needle.autograd import Tensor, TensorOp, TensorTuple, TensorTupleOp
from needle.device import Array, array_namespace
from needle.tensor_operators import Scalar, as_number

__all__ = [
    "FusedAddScalars",
    "MakeTensorTuple",
    "TupleGetItem",
    "fused_add_scalars",
    "make_tuple",
    "tuple_get_item",
]


class MakeTensorTuple(TensorTupleOp):
    """y = (a₀, a₁, …)."""

    name = "make_tuple"
    computes_wide = False

    def compute(self, *arrays: Array) -> tuple[Array, ...]:
        return arrays

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> tuple[Tensor, ...]:
        return out_grad.tuple()


def make_tuple(*tensors: Tensor) -> TensorTuple:
    """Put Tensors into one TensorTuple."""
    return MakeTensorTuple()(*tensors)


class TupleGetItem(TensorOp):
    """y = aᵢ of a TensorTuple a."""

    name = "tuple_get_item"
    computes_wide = False

    def __init__(self, index: int) -> None:
        self.index = self.element = index

    def compute(self, a: tuple[Array, ...]) -> Array:
        return a[self.index]

    def gradient(self, out_grad: Tensor, node: Tensor) -> TensorTuple:
        arrays = node.inputs[0].realize_cached_data()
        zeros = [Tensor.make_const(array_namespace(array).zeros_like(array)) for array in arrays]
        return make_tuple(*(out_grad if i == self.index else zero for i, zero in enumerate(zeros)))


def tuple_get_item(value: TensorTuple, index: int) -> Tensor:
    """Return element `index` of a TensorTuple; the very Tensor where `make_tuple` made the tuple.

    Gradient:
        A TensorTuple with the adjoint at `index` and zeros elsewhere.
    """
    if isinstance(value.op, MakeTensorTuple):
        return cast(Tensor, value.inputs[index])
    return TupleGetItem(index)(value)


class FusedAddScalars(TensorTupleOp):
    """y = (a + c₀, a + c₁)."""

    name = "fused_add_scalars"

    def __init__(self, c0: Scalar, c1: Scalar) -> None:
        self.c0 = as_number(c0)
        self.c1 = as_number(c1)

    def compute(self, a: Array) -> tuple[Array, Array]:
        return a + self.c0, a + self.c1

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Tensor:
        return out_grad[0] + out_grad[1]


def fused_add_scalars(x: Tensor, c0: Scalar, c1: Scalar) -> TensorTuple:
    """Return (x + c0, x + c1): the smallest operator that gives two results."""
    return FusedAddScalars(c0, c1)(x)

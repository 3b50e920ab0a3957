"""Operators that put Tensors together along an axis, and take one apart."""

from __future__ import annotations

from collections.abc import Sequence

from needle.autograd import Tensor, TensorOp, TensorTuple, TensorTupleOp
from needle.device import Array, array_namespace
from needle.errors import ShapeError
from needle.ops.movement import normalize_axis
from needle.ops.tuple import make_tuple

__all__ = ["Concatenate", "Split", "Stack", "concatenate", "split", "stack"]


class Stack(TensorOp):
    """y = the Tensors of a TensorTuple side by side along a new axis."""

    name = "stack"
    computes_wide = False

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def compute(self, arrays: tuple[Array, ...]) -> Array:
        for number, array in enumerate(arrays):
            if array.shape != arrays[0].shape:
                raise ShapeError(f"element {number} has shape {array.shape}, element 0 has {arrays[0].shape}")
        axis = normalize_axis(self.axis, arrays[0].ndim + 1)
        return array_namespace(arrays[0]).stack(arrays, axis=axis)

    def gradient(self, out_grad: Tensor, node: Tensor) -> TensorTuple:
        return split(out_grad, self.axis)


def stack(args: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Put Tensors side by side along a new axis.

    Shapes:
        args: all of one shape.
        result: that shape with an axis of len(args) inserted at `axis`.

    Raises:
        ShapeError: no Tensors, or shapes that differ.
        AxisError: an axis that the result does not have.

    Gradient:
        The adjoint, split along `axis`.

    Example:
        >>> import needle as ndl
        >>> ndl.stack([ndl.Tensor([1, 2]), ndl.Tensor([3, 4])], 1)
        needle.Tensor([[1 3] [2 4]])
    """
    if len(args) == 0:
        raise ShapeError("stack: at least one Tensor is needed")
    return Stack(axis)(make_tuple(*args))


class Split(TensorTupleOp):
    """y = the slices of a along an axis."""

    name = "split"
    computes_wide = False

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def compute(self, a: Array) -> tuple[Array, ...]:
        axis = normalize_axis(self.axis, a.ndim)
        before = (slice(None),) * axis
        return tuple(a[(*before, i)] for i in range(a.shape[axis]))

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Tensor:
        return stack(out_grad.tuple(), self.axis)


def split(a: Tensor, axis: int = 0) -> TensorTuple:
    """Take a Tensor apart into its slices along an axis, which vanishes: the inverse of `stack`.

    Shapes:
        a: any with at least one axis.
        result: as many Tensors as `a` is long along `axis`, each of `a`'s shape without it.

    Raises:
        AxisError: an axis that `a` does not have.
    """
    return Split(axis)(a)


class Concatenate(TensorOp):
    """y = Tensors one behind another along an axis."""

    name = "concatenate"
    computes_wide = False

    def __init__(self, axis: int = 0) -> None:
        self.axis = axis

    def compute(self, *arrays: Array) -> Array:
        first = arrays[0]
        axis = normalize_axis(self.axis, first.ndim)
        expected = first.shape[:axis] + first.shape[axis + 1 :]
        for number, array in enumerate(arrays):
            if array.ndim != first.ndim or array.shape[:axis] + array.shape[axis + 1 :] != expected:
                raise ShapeError(
                    f"element {number} has shape {array.shape}, element 0 has {first.shape}: "
                    f"they may differ along axis {axis} only"
                )
        return array_namespace(first).concat(arrays, axis=axis)

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        axis = normalize_axis(self.axis, out_grad.ndim)
        before = (slice(None),) * axis
        parts: list[Tensor | None] = []
        start = 0
        for one in node.inputs:
            stop = start + one.shape[axis]
            parts.append(out_grad[(*before, slice(start, stop))] if one.requires_grad else None)
            start = stop
        return tuple(parts)


def concatenate(args: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Put Tensors one behind another along an axis that they have.

    Shapes:
        args: shapes that differ along `axis` only.
        result: the same, as long along `axis` as all together.

    Raises:
        ShapeError: no Tensors, or shapes that differ elsewhere.
        AxisError: an axis that they do not have.

    Gradient:
        Each Tensor gets its part of the adjoint.

    Example:
        >>> import needle as ndl
        >>> ndl.concatenate([ndl.Tensor([1, 2]), ndl.Tensor([3])])
        needle.Tensor([1 2 3])
    """
    if len(args) == 0:
        raise ShapeError("concatenate: at least one Tensor is needed")
    return Concatenate(axis)(*args)

"""Broadcasting and summation: each is the other's gradient.

Repeating an element along an axis means that all its copies send their adjoints back to it, so they are summed;
summing along an axis means that the one adjoint of the sum goes back to every element, so it is repeated. Both live
here, with the implicit broadcasting of elementwise operators that stands on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import NeedleError, ShapeError
from needle.ops.movement import as_shape, normalize_axes, reshape

__all__ = ["BroadcastTo", "Summation", "broadcast_to", "summation"]


class BroadcastTo(TensorOp):
    """y = a repeated along new axes and axes of length 1."""

    name = "broadcast_to"
    computes_wide = False

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = as_shape(shape)

    def compute(self, a: Array) -> Array:
        tail = self.shape[len(self.shape) - a.ndim :]
        fits = a.ndim <= len(self.shape) and all(n in (1, m) for n, m in zip(a.shape, tail, strict=True))
        if not fits:
            raise ShapeError(f"shape {a.shape} does not broadcast to {self.shape}")
        return array_namespace(a).broadcast_to(a, self.shape)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return unbroadcast(out_grad, node.inputs[0].shape)


def broadcast_to(a: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat `a` along new leading axes and along its axes of length 1, as NumPy does.

    Shapes:
        a: any that broadcasts to `shape`.
        result: `shape`.

    Returns:
        A Tensor that shares memory with `a`: nothing is copied.

    Raises:
        ShapeError: `a` does not broadcast to `shape`.

    Gradient:
        The adjoint summed over every axis along which `a` was repeated.

    Example:
        >>> import needle as ndl
        >>> ndl.broadcast_to(ndl.Tensor([1.0, 2.0]), (2, 2))
        needle.Tensor([[1. 2.] [1. 2.]])
    """
    return BroadcastTo(shape)(a)


class Summation(TensorOp):
    """y = Σ a over some axes."""

    name = "summation"
    precision = "wide"

    def __init__(self, axes: int | Sequence[int] | None = None, keepdims: bool = False) -> None:
        self.axes = axes
        self.keepdims = keepdims

    def compute(self, a: Array) -> Array:
        axes = normalize_axes(self.axes, a.ndim)
        dtype = None if a.dtype.kind == "b" else a.dtype
        return array_namespace(a).sum(a, axis=axes, dtype=dtype, keepdims=self.keepdims)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return broadcast_reduced(out_grad, node.inputs[0].shape, self.axes)


def summation(a: Tensor, axes: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """Sum over axes.

    Formula::

        y = Σ a   over `axes`

    Shapes:
        a: any.
        result: that of `a` without `axes`, or with length 1 there where `keepdims`.

    Args:
        a: the Tensor. Booleans are counted, as int64; other dtypes stay.
        axes: one axis, several, or None for all. Negative ones count from the end.
        keepdims: keep the summed axes with length 1, so that the result broadcasts against `a`.

    Raises:
        AxisError: an axis that `a` does not have, or one named twice.

    Gradient:
        The adjoint, repeated along the summed axes.

    Example:
        >>> import needle as ndl
        >>> ndl.summation(ndl.Tensor([[1.0, 2.0], [3.0, 4.0]]), 0)
        needle.Tensor([4. 6.])
    """
    return Summation(axes, keepdims)(a)


def broadcast_reduced(reduced: Tensor, shape: tuple[int, ...], axes: int | Sequence[int] | None) -> Tensor:
    """Repeat the result of a reduction over `axes` back to the `shape` that it was made from.

    Shapes:
        reduced: `shape` without `axes`, or with length 1 there.
        result: `shape`.
    """
    dropped = normalize_axes(axes, len(shape))
    kept = tuple(1 if axis in dropped else length for axis, length in enumerate(shape))
    return broadcast_to(reduced if reduced.shape == kept else reshape(reduced, kept), shape)


class ElementwiseOp(TensorOp):
    """An operator that works element by element, on shapes that broadcast as NumPy's do."""

    def explain_failure(self, error: Exception, arrays: Sequence[Array]) -> NeedleError | None:
        """Name the axis on which the shapes differ."""
        rule = broadcast_rule([array.shape for array in arrays]) if isinstance(error, ValueError) else None
        return ShapeError(rule) if rule else None


def broadcast_rule(shapes: Sequence[tuple[int, ...]]) -> str | None:
    """Say on which axis shapes fail to broadcast against each other, or None where they do."""
    for axis, lengths in enumerate(zip_longest(*[shape[::-1] for shape in shapes], fillvalue=1)):
        if len({length for length in lengths if length != 1}) > 1:
            listed = " and ".join(str(shape) for shape in shapes)
            numbers = " against ".join(str(length) for length in lengths)
            return f"shapes {listed} do not broadcast: axis {-1 - axis} has {numbers}"
    return None


def unbroadcast(adjoint: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum an adjoint over the axes along which an input of `shape` was repeated to the adjoint's shape.

    Shapes:
        adjoint: any that `shape` broadcasts to.
        result: `shape`.
    """
    if adjoint.shape == shape:
        return adjoint
    new_axes = adjoint.ndim - len(shape)
    repeated = [
        new_axes + axis for axis, length in enumerate(shape) if length == 1 and adjoint.shape[new_axes + axis] != 1
    ]
    summed = summation(adjoint, (*range(new_axes), *repeated))
    return summed if summed.shape == shape else reshape(summed, shape)

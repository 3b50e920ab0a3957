"""Operators that move elements and change none: shape and order.

Their results share memory with their input where NumPy's do. They are linear, so that the gradient of each is
another movement: the one that brings every element's adjoint back to where the element came from.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import AxisError, DTypeError, ShapeError

__all__ = [
    "ExpandDims",
    "Flip",
    "Permute",
    "Reshape",
    "Squeeze",
    "Transpose",
    "expand_dims",
    "flip",
    "permute",
    "reshape",
    "squeeze",
    "transpose",
]


def normalize_axes(axes: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Return axes as a tuple of numbers from 0 to ndim − 1; all of them for None.

    Raises:
        AxisError: an axis is out of range or named twice.
        DTypeError: an axis is not an integer.
    """
    if axes is None:
        return tuple(range(ndim))
    if type(axes) is int and -ndim <= axes < ndim:
        return (axes % ndim,)
    try:
        listed = list(map(operator.index, axes)) if isinstance(axes, Sequence) else [operator.index(axes)]
    except TypeError:
        raise DTypeError(f"axes are integers, got {axes!r}") from None
    for axis in listed:
        if not -ndim <= axis < ndim:
            raise AxisError(f"axis {axis} is out of range for {ndim} axes")
    positive = tuple(axis % ndim for axis in listed)
    if len(set(positive)) != len(positive):
        raise AxisError(f"axes {tuple(listed)} name an axis twice")
    return positive


def normalize_axis(axis: Any, ndim: int) -> int:
    """Return one axis as a number from 0 to ndim − 1.

    Raises:
        AxisError: it is out of range.
        DTypeError: it is not one integer.
    """
    if axis is None or isinstance(axis, Sequence):
        raise DTypeError(f"axis is one integer, got {axis!r}")
    return normalize_axes(axis, ndim)[0]


def as_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape argument (a tuple, a list, one integer) as a tuple of integers.

    Raises:
        DTypeError: a length is not an integer.
    """
    try:
        lengths = shape if isinstance(shape, Sequence) else (shape,)
        return tuple(operator.index(length) for length in lengths)
    except TypeError:
        raise DTypeError(f"a shape is made of integers, got {shape!r}") from None


class Transpose(TensorOp):
    """y = a with two axes swapped."""

    name = "transpose"
    computes_wide = False

    def __init__(self, axes: tuple[int, int] | None = None) -> None:
        pair: Any = (-2, -1) if axes is None else axes
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise AxisError(f"transpose: swaps a pair of axes, got {pair}; permute reorders any number")
        self.axes: tuple[int, int] = (pair[0], pair[1])

    def compute(self, a: Array) -> Array:
        order = list(range(a.ndim))
        first, second = normalize_axes(self.axes, a.ndim)
        order[first], order[second] = second, first
        return array_namespace(a).permute_dims(a, tuple(order))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return transpose(out_grad, self.axes)


def transpose(a: Tensor, axes: tuple[int, int] | None = None) -> Tensor:
    """Swap two axes of `a`.

    Shapes:
        a: (…), two axes or more.
        result: the same with `axes` swapped.

    Args:
        a: the Tensor.
        axes: the pair to swap; the last two where None. `permute` takes a whole order.

    Returns:
        A Tensor that shares memory with `a`.

    Raises:
        AxisError: an axis that `a` does not have, or not two of them.

    Example:
        >>> import needle as ndl
        >>> ndl.transpose(ndl.Tensor([[1, 2, 3]])).shape
        (3, 1)
    """
    return Transpose(axes)(a)


class Permute(TensorOp):
    """y = a with its axes in the order `axes`."""

    name = "permute"
    computes_wide = False

    def __init__(self, axes: Sequence[int]) -> None:
        self.axes = tuple(axes)

    def compute(self, a: Array) -> Array:
        order = normalize_axes(self.axes, a.ndim)
        if len(order) != a.ndim:
            raise AxisError(f"an order of {a.ndim} axes is needed, got {self.axes}")
        return array_namespace(a).permute_dims(a, order)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        order = normalize_axes(self.axes, out_grad.ndim)
        return permute(out_grad, tuple(order.index(axis) for axis in range(len(order))))


def permute(a: Tensor, axes: Sequence[int]) -> Tensor:
    """Put the axes of `a` into another order: axis i of the result is axis axes[i] of `a`.

    Shapes:
        a: (d₀, …, dₙ₋₁).
        result: (d_axes[0], …, d_axes[n−1]).

    Returns:
        A Tensor that shares memory with `a`.

    Raises:
        AxisError: `axes` is not an order of all axes.

    Example:
        >>> import needle as ndl
        >>> ndl.permute(ndl.init.zeros(2, 3, 4), (2, 0, 1)).shape
        (4, 2, 3)
    """
    return Permute(axes)(a)


class Reshape(TensorOp):
    """y = the elements of a, in order, in another shape."""

    name = "reshape"
    computes_wide = False

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = as_shape(shape)

    def compute(self, a: Array) -> Array:
        known = math.prod(length for length in self.shape if length != -1)
        fits = (known > 0 and a.size % known == 0) if -1 in self.shape else known == a.size
        if not fits or self.shape.count(-1) > 1 or min(self.shape, default=0) < -1:
            raise ShapeError(f"{a.size} elements of shape {a.shape} do not make shape {self.shape}")
        return array_namespace(a).reshape(a, self.shape)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return reshape(out_grad, node.inputs[0].shape)


def reshape(a: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the elements of `a`, in row-major order, in another shape.

    Shapes:
        a: any.
        result: `shape`; one length may be −1 and is worked out from the others.

    Returns:
        A Tensor that shares memory with `a` where its layout allows.

    Raises:
        ShapeError: the number of elements differs.

    Example:
        >>> import needle as ndl
        >>> ndl.reshape(ndl.init.zeros(2, 6), (3, -1)).shape
        (3, 4)
    """
    return Reshape(shape)(a)


class Squeeze(TensorOp):
    """y = a without axes of length 1."""

    name = "squeeze"
    computes_wide = False

    def __init__(self, axes: int | Sequence[int] | None = None) -> None:
        self.axes = axes

    def compute(self, a: Array) -> Array:
        if self.axes is None:
            dropped = tuple(axis for axis, length in enumerate(a.shape) if length == 1)
        else:
            dropped = normalize_axes(self.axes, a.ndim)
        for axis in dropped:
            if a.shape[axis] != 1:
                raise ShapeError(f"axis {axis} of shape {a.shape} has length {a.shape[axis]}, not 1")
        return array_namespace(a).squeeze(a, axis=dropped)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return reshape(out_grad, node.inputs[0].shape)


def squeeze(a: Tensor, axes: int | Sequence[int] | None = None) -> Tensor:
    """Drop axes of length 1.

    Args:
        a: the Tensor, of any shape.
        axes: the axes to drop; all of length 1 where None.

    Returns:
        A Tensor that shares memory with `a`.

    Raises:
        AxisError: an axis that `a` does not have.
        ShapeError: a named axis is longer than 1.

    Example:
        >>> import needle as ndl
        >>> ndl.squeeze(ndl.init.zeros(1, 3, 1), 0).shape
        (3, 1)
    """
    return Squeeze(axes)(a)


class ExpandDims(TensorOp):
    """y = a with new axes of length 1."""

    name = "expand_dims"
    computes_wide = False

    def __init__(self, axes: int | Sequence[int]) -> None:
        self.axes = axes

    def compute(self, a: Array) -> Array:
        count = len(self.axes) if isinstance(self.axes, Sequence) else 1
        new = normalize_axes(self.axes, a.ndim + count)
        lengths = iter(a.shape)
        shape = tuple(1 if axis in new else next(lengths) for axis in range(a.ndim + count))
        return array_namespace(a).reshape(a, shape)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return reshape(out_grad, node.inputs[0].shape)


def expand_dims(a: Tensor, axes: int | Sequence[int]) -> Tensor:
    """Insert axes of length 1, so that they stand at `axes` in the result.

    Returns:
        A Tensor that shares memory with `a`.

    Raises:
        AxisError: a position that the result does not have, or one named twice.

    Example:
        >>> import needle as ndl
        >>> ndl.expand_dims(ndl.init.zeros(3), (0, -1)).shape
        (1, 3, 1)
    """
    return ExpandDims(axes)(a)


class Flip(TensorOp):
    """y = a with the order along some axes reversed."""

    name = "flip"
    computes_wide = False

    def __init__(self, axes: int | Sequence[int] | None = None) -> None:
        self.axes = axes

    def compute(self, a: Array) -> Array:
        return array_namespace(a).flip(a, axis=normalize_axes(self.axes, a.ndim))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return flip(out_grad, self.axes)


def flip(a: Tensor, axes: int | Sequence[int] | None = None) -> Tensor:
    """Reverse the order of elements along `axes`, all where None.

    Returns:
        A Tensor that shares memory with `a`.

    Raises:
        AxisError: an axis that `a` does not have.

    Example:
        >>> import needle as ndl
        >>> ndl.flip(ndl.Tensor([1, 2, 3]), 0)
        needle.Tensor([3 2 1])
    """
    return Flip(axes)(a)

"""Reductions: one number made of many along some axes.

`axes` is one axis, several, or None for all; `keepdims` keeps the reduced axes with length 1, so that the result
broadcasts against what it was made from. `summation` stands with broadcasting, whose gradient it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.dtype import float64
from needle.errors import ShapeError
from needle.ops.arithmetic import divide, divide_scalar, mul_scalar, multiply, subtract
from needle.ops.broadcasting import broadcast_reduced, summation
from needle.ops.comparison import equal, greater, less
from needle.ops.movement import flip, normalize_axes, normalize_axis, permute, reshape
from needle.ops.padding import pad

__all__ = [
    "ArgMax",
    "ArgMin",
    "CumulativeSum",
    "Max",
    "Mean",
    "Min",
    "Prod",
    "Var",
    "argmax",
    "argmin",
    "cumsum",
    "max",
    "mean",
    "min",
    "prod",
    "var",
]

Axes: TypeAlias = "int | Sequence[int] | None"


def count_reduced(shape: tuple[int, ...], axes: Axes) -> int:
    """Return how many elements of an array of `shape` make one element of its reduction over `axes`."""
    return math.prod(shape[axis] for axis in normalize_axes(axes, len(shape)))


class Reduction(TensorOp):
    """An operator over axes."""

    def __init__(self, axes: Axes = None, keepdims: bool = False) -> None:
        self.axes = axes
        self.keepdims = keepdims

    def axes_with_elements(self, a: Array) -> tuple[int, ...]:
        """Return the axes as numbers.

        Raises:
            ShapeError: there are no elements along them, so that there is no result.
        """
        axes = normalize_axes(self.axes, a.ndim)
        if any(a.shape[axis] == 0 for axis in axes):
            raise ShapeError(f"no elements along axes {axes} of shape {a.shape}")
        return axes


class Mean(Reduction):
    """y = Σ a / n over some axes."""

    name = "mean"
    precision = "wide"

    def compute(self, a: Array) -> Array:
        axes = self.axes_with_elements(a)
        xp = array_namespace(a)
        dtype = float64 if a.dtype.kind in "iub" else a.dtype
        return xp.sum(a, axis=axes, dtype=dtype, keepdims=self.keepdims) / count_reduced(a.shape, axes)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        shape = node.inputs[0].shape
        return broadcast_reduced(divide_scalar(out_grad, count_reduced(shape, self.axes)), shape, self.axes)


def mean(a: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """Average over axes.

    Formula::

        y = Σ a / n

    Shapes:
        a: any, with elements along `axes`.
        result: that of `a` without `axes`, or with length 1 there where `keepdims`. Integers give float64.

    Raises:
        AxisError: an axis that `a` does not have.
        ShapeError: no elements along an axis.

    Gradient:
        g / n, repeated along `axes`.

    Example:
        >>> import needle as ndl
        >>> ndl.mean(ndl.Tensor([[1.0, 2.0], [3.0, 6.0]]), 1)
        needle.Tensor([1.5 4.5])
    """
    return Mean(axes, keepdims)(a)


class Var(Reduction):
    """y = Σ (a − mean a)² / n over some axes."""

    name = "var"
    precision = "wide"

    def compute(self, a: Array) -> Array:
        axes = self.axes_with_elements(a)
        xp = array_namespace(a)
        count = count_reduced(a.shape, axes)
        dtype = float64 if a.dtype.kind in "iub" else a.dtype
        centred = a - xp.sum(a, axis=axes, dtype=dtype, keepdims=True) / count
        return xp.sum(centred * centred, axis=axes, keepdims=self.keepdims) / count

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        a = node.inputs[0]
        centred = subtract(a, mean(a, self.axes, keepdims=True))
        scaled = mul_scalar(out_grad, 2 / count_reduced(a.shape, self.axes))
        return multiply(broadcast_reduced(scaled, a.shape, self.axes), centred)


def var(a: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the biased variance over axes: the mean square distance from the mean.

    Formula::

        y = Σ (a − ā)² / n   with ā = Σ a / n

    Shapes:
        a: any, with elements along `axes`.
        result: that of `a` without `axes`, or with length 1 there where `keepdims`.

    Raises:
        AxisError: an axis that `a` does not have.
        ShapeError: no elements along an axis.

    Gradient:
        2 g (a − ā) / n: the mean's own dependence on `a` cancels out.
    """
    return Var(axes, keepdims)(a)


class Extremum(Reduction):
    """The largest or the smallest element over some axes."""

    def is_beaten(self, a: Tensor, b: Tensor) -> Tensor:
        """Tell where b is chosen over a."""
        raise NotImplementedError

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        a = node.inputs[0]
        # Not beaten by the result, rather than equal to it: beside a NaN all elements share, and none divides by 0.
        is_chosen = equal(self.is_beaten(a, broadcast_reduced(node, a.shape, self.axes)), False).astype(out_grad.dtype)
        share = divide(is_chosen, summation(is_chosen, self.axes, keepdims=True))
        return multiply(broadcast_reduced(out_grad, a.shape, self.axes), share)


class Max(Extremum):
    """y = max a over some axes."""

    name = "max"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).max(a, axis=self.axes_with_elements(a), keepdims=self.keepdims)

    def is_beaten(self, a: Tensor, b: Tensor) -> Tensor:
        """Tell where b is larger."""
        return less(a, b)


def max(a: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the largest element over axes; NaN where there is one.

    Shapes:
        a: any, with elements along `axes`.
        result: that of `a` without `axes`, or with length 1 there where `keepdims`.

    Raises:
        AxisError: an axis that `a` does not have.
        ShapeError: no elements along an axis.

    Gradient:
        The adjoint goes to the largest element; several that are equally large share it.
    """
    return Max(axes, keepdims)(a)


class Min(Extremum):
    """y = min a over some axes."""

    name = "min"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).min(a, axis=self.axes_with_elements(a), keepdims=self.keepdims)

    def is_beaten(self, a: Tensor, b: Tensor) -> Tensor:
        """Tell where b is smaller."""
        return greater(a, b)


def min(a: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the smallest element over axes; NaN where there is one.

    Shapes, errors and gradient are those of `max`.
    """
    return Min(axes, keepdims)(a)


class Prod(Reduction):
    """y = Π a over some axes."""

    name = "prod"
    precision = "wide"

    def compute(self, a: Array) -> Array:
        axes = normalize_axes(self.axes, a.ndim)
        dtype = None if a.dtype.kind == "b" else a.dtype
        return array_namespace(a).prod(a, axis=axes, dtype=dtype, keepdims=self.keepdims)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        a = node.inputs[0]
        return multiply(broadcast_reduced(out_grad, a.shape, self.axes), _product_of_others(a, self.axes))


def prod(a: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """Multiply over axes.

    Formula::

        y = Π a

    Shapes:
        a: any.
        result: that of `a` without `axes`, or with length 1 there where `keepdims`.

    Raises:
        AxisError: an axis that `a` does not have.

    Gradient:
        The product of all other elements, computed without dividing, so that it is right where elements are 0.
    """
    return Prod(axes, keepdims)(a)


def _product_of_others(a: Tensor, axes: Axes) -> Tensor:
    """Return for each element the product of all others along `axes`, without dividing, so that zeros are right.

    The reduced axes are made one; then the products before and after each element are built by doubling: log n steps.
    """
    reduced = normalize_axes(axes, a.ndim)
    kept = tuple(axis for axis in range(a.ndim) if axis not in reduced)
    order = (*kept, *reduced)
    moved = permute(a, order)
    rows = reshape(moved, (math.prod(a.shape[axis] for axis in kept), count_reduced(a.shape, axes)))
    others = multiply(_products_before(rows), flip(_products_before(flip(rows, 1)), 1))
    return permute(reshape(others, moved.shape), tuple(order.index(axis) for axis in range(a.ndim)))


def _products_before(rows: Tensor) -> Tensor:
    """Return for each element of each row the product of the elements before it."""
    length = rows.shape[1]
    products = _shifted(rows, 1)
    step = 1
    while step < length:
        products = multiply(products, _shifted(products, step))
        step *= 2
    return products


def _shifted(rows: Tensor, count: int) -> Tensor:
    """Move rows to the right, with ones coming in from the left."""
    moved = count if count < rows.shape[1] else rows.shape[1]
    return pad(rows[:, : rows.shape[1] - moved], [(0, 0), (moved, 0)], 1.0)


class Argument(TensorOp):
    """Where the largest or smallest element along an axis is."""

    differentiable = False

    def __init__(self, axis: int | None = None, keepdims: bool = False) -> None:
        self.axis = axis
        self.keepdims = keepdims

    def checked_axis(self, a: Array) -> int | None:
        """Return the axis as a number, None for the flattened array.

        Raises:
            ShapeError: there are no elements along it.
        """
        axis = None if self.axis is None else normalize_axis(self.axis, a.ndim)
        if count_reduced(a.shape, axis) == 0:
            along = "" if axis is None else f" along axis {axis}"
            raise ShapeError(f"no elements{along} of shape {a.shape}")
        return axis


class ArgMax(Argument):
    """y = the index of the largest element."""

    name = "argmax"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).argmax(a, axis=self.checked_axis(a), keepdims=self.keepdims)


def argmax(a: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Return the index of the largest element along an axis, the first where several are; it has no gradient.

    Shapes:
        a: any, with elements along `axis`.
        result: that of `a` without `axis` (of no axes where `axis` is None), of int64.

    Args:
        a: the Tensor.
        axis: the axis to search; None searches the flattened Tensor.
        keepdims: keep the axis with length 1.

    Raises:
        AxisError: an axis that `a` does not have.
        ShapeError: no elements along the axis.
    """
    return ArgMax(axis, keepdims)(a)


class ArgMin(Argument):
    """y = the index of the smallest element."""

    name = "argmin"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).argmin(a, axis=self.checked_axis(a), keepdims=self.keepdims)


def argmin(a: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Return the index of the smallest element along an axis; arguments and errors are those of `argmax`."""
    return ArgMin(axis, keepdims)(a)


class CumulativeSum(TensorOp):
    """yᵢ = Σⱼ≤ᵢ aⱼ along an axis."""

    name = "cumsum"
    precision = "wide"

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def compute(self, a: Array) -> Array:
        axis = normalize_axis(self.axis, a.ndim)
        dtype = None if a.dtype.kind == "b" else a.dtype
        return array_namespace(a).cumulative_sum(a, axis=axis, dtype=dtype)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return flip(cumsum(flip(out_grad, self.axis), self.axis), self.axis)


def cumsum(a: Tensor, axis: int) -> Tensor:
    """Return running sums along an axis.

    Formula::

        yᵢ = a₀ + a₁ + … + aᵢ

    Shapes:
        a: any with at least one axis.
        result: the same.

    Raises:
        AxisError: an axis that `a` does not have.

    Gradient:
        The adjoint's running sums from the other end.

    Example:
        >>> import needle as ndl
        >>> ndl.cumsum(ndl.Tensor([1, 2, 3]), 0)
        needle.Tensor([1 3 6])
    """
    return CumulativeSum(axis)(a)

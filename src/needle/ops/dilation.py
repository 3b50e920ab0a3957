"""Putting zeros between elements, and taking every so-manyth: what a strided convolution's gradient needs."""

from __future__ import annotations

from collections.abc import Sequence

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import ShapeError

__all__ = ["Dilate", "UnDilate", "dilate", "undilate"]


class Dilation(TensorOp):
    """An operator on every (1 + dilation)-th element along some axes. Axes that the input does not have are ignored."""

    computes_wide = False

    def __init__(self, axes: int | Sequence[int], dilation: int) -> None:
        self.axes = (axes,) if isinstance(axes, int) else tuple(axes)
        self.dilation = dilation
        if dilation < 0:
            raise ShapeError(f"{self.called}: a dilation is 0 or more, got {dilation}")

    def dilated_axes(self, ndim: int) -> set[int]:
        """Return the axes as numbers from 0 to ndim − 1."""
        return {axis % ndim for axis in self.axes if -ndim <= axis < ndim}


class Dilate(Dilation):
    """y = a with `dilation` zeros after each element."""

    name = "dilate"

    def compute(self, a: Array) -> Array:
        xp = array_namespace(a)
        if self.dilation == 0:
            return a
        for axis in self.dilated_axes(a.ndim):
            # A new axis behind the dilated one, with the element first and zeros after it; then both become one.
            inner = xp.expand_dims(a, axis=axis + 1)
            zeros = xp.zeros((*inner.shape[: axis + 1], self.dilation, *inner.shape[axis + 2 :]), dtype=a.dtype)
            length = a.shape[axis] * (1 + self.dilation)
            a = xp.reshape(xp.concat([inner, zeros], axis=axis + 1), (*a.shape[:axis], length, *a.shape[axis + 1 :]))
        return a

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return undilate(out_grad, self.axes, self.dilation)


def dilate(a: Tensor, axes: int | Sequence[int], dilation: int) -> Tensor:
    """Put `dilation` zeros after each element along `axes`, after the last one too.

    Shapes:
        a: any.
        result: n becomes n · (1 + dilation) along `axes`. Axes that `a` does not have are ignored.

    Raises:
        ShapeError: a negative dilation.

    Example:
        >>> import needle as ndl
        >>> ndl.dilate(ndl.Tensor([1, 2]), 0, 1)
        needle.Tensor([1 0 2 0])
    """
    return Dilate(axes, dilation)(a)


class UnDilate(Dilation):
    """y = every (1 + dilation)-th element of a."""

    name = "undilate"

    def compute(self, a: Array) -> Array:
        chosen = self.dilated_axes(a.ndim)
        step = slice(None, None, 1 + self.dilation)
        return a[tuple(step if axis in chosen else slice(None) for axis in range(a.ndim))]

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        dilated = dilate(out_grad, self.axes, self.dilation)
        shape = node.inputs[0].shape
        return dilated if dilated.shape == shape else dilated[tuple(slice(0, length) for length in shape)]


def undilate(a: Tensor, axes: int | Sequence[int], dilation: int) -> Tensor:
    """Keep every (1 + dilation)-th element along `axes`, from the first on: the inverse of `dilate`."""
    return UnDilate(axes, dilation)(a)

"""Borders around an array: of one value, or of its own elements, mirrored, repeated or wound around."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Literal

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import SettingError, ShapeError
from needle.ops.broadcasting import broadcast_to
from needle.ops.indexing import getitem
from needle.ops.joining import concatenate
from needle.ops.movement import flip

__all__ = ["Pad", "pad"]

PadMode = Literal["constant", "edge", "reflect", "symmetric", "wrap"]


class Pad(TensorOp):
    """y = a with a border of one value."""

    name = "pad"
    computes_wide = False

    def __init__(self, widths: Sequence[tuple[int, int]], value: float = 0.0) -> None:
        self.widths = tuple((operator.index(before), operator.index(after)) for before, after in widths)
        self.value = value
        if any(width < 0 for pair in self.widths for width in pair):
            raise ShapeError(f"pad: widths are 0 or more, got {self.widths}")

    def compute(self, a: Array) -> Array:
        if len(self.widths) != a.ndim:
            raise ShapeError(f"{len(self.widths)} pairs of widths for {a.ndim} axes")
        xp = array_namespace(a)
        for axis, (before, after) in enumerate(self.widths):
            parts = [self._border(a, axis, before), a, self._border(a, axis, after)]
            present = [part for part in parts if part.shape[axis] > 0 or part is a]
            a = xp.concat(present, axis=axis) if len(present) > 1 else a
        return a

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        lengths = node.inputs[0].shape
        inner = zip(self.widths, lengths, strict=True)
        return out_grad[tuple(slice(before, before + length) for (before, _), length in inner)]

    def _border(self, a: Array, axis: int, width: int) -> Array:
        shape = (*a.shape[:axis], width, *a.shape[axis + 1 :])
        return array_namespace(a).full(shape, self.value, dtype=a.dtype)


def pad(a: Tensor, widths: Sequence[tuple[int, int]], value: float = 0.0, *, mode: PadMode = "constant") -> Tensor:
    """Put a border around `a`: of one value, or of its own elements.

    The border of (1 2 3) that is two wide is, by mode::

        constant    v v | 1 2 3 | v v        one value
        edge        1 1 | 1 2 3 | 3 3        the last element, again and again
        reflect     3 2 | 1 2 3 | 2 1        mirrored at the last element
        symmetric   2 1 | 1 2 3 | 3 2        mirrored behind the last element
        wrap        2 3 | 1 2 3 | 1 2        as if the axis were a ring

    Shapes:
        a: (d₀, d₁, …).
        result: (before₀ + d₀ + after₀, …).

    Args:
        a: the Tensor.
        widths: (before, after) for each axis.
        value: the border's, with mode "constant".
        mode: what the border is made of. Names are those of `numpy.pad`.

    Raises:
        ShapeError: not one pair for each axis, a negative width, or too few elements for a border.
        SettingError: another mode, or a value for one that has no use for it.

    Gradient:
        Each element gets its own adjoint and those of its copies in the border.

    Example:
        >>> import needle as ndl
        >>> ndl.pad(ndl.Tensor([1, 2]), [(1, 2)])
        needle.Tensor([0 1 2 0 0])
        >>> ndl.pad(ndl.Tensor([1, 2, 3]), [(2, 1)], mode="reflect")
        needle.Tensor([3 2 1 2 3 2])
    """
    if mode == "constant":
        return Pad(widths, value)(a)
    if mode not in {"edge", "reflect", "symmetric", "wrap"}:
        raise SettingError(f'pad: mode is "constant", "edge", "reflect", "symmetric" or "wrap", got {mode!r}')
    if value:
        raise SettingError(f"pad: mode={mode!r} takes its border from the elements, got value={value}")
    pairs = Pad(widths).widths
    if len(pairs) != a.ndim:
        raise ShapeError(f"pad: {len(pairs)} pairs of widths for {a.ndim} axes")
    for axis, pair in enumerate(pairs):
        _check_room(a.shape, axis, max(pair), mode)
    for axis, (before, after) in enumerate(pairs):
        parts = [_border(a, axis, before, mode, front=True), a, _border(a, axis, after, mode, front=False)]
        present = [part for part in parts if part is not None]
        a = concatenate(present, axis) if len(present) > 1 else a
    return a


def _check_room(shape: tuple[int, ...], axis: int, width: int, mode: PadMode) -> None:
    needed = {"edge": min(width, 1), "reflect": width + 1 if width else 0}.get(mode, width)
    if shape[axis] < needed:
        raise ShapeError(
            f"pad: a border of {width} with mode={mode!r} is made of {needed} elements, axis {axis} of {shape} has "
            f"{shape[axis]}"
        )


def _border(a: Tensor, axis: int, width: int, mode: PadMode, *, front: bool) -> Tensor | None:
    """Return what goes before an axis or after it; nothing where that is no wider."""
    if not width:
        return None
    n, before = a.shape[axis], (slice(None),) * axis
    if mode == "edge":
        last = getitem(a, (*before, slice(0, 1) if front else slice(n - 1, n)))
        return broadcast_to(last, (*a.shape[:axis], width, *a.shape[axis + 1 :]))
    if mode == "wrap":
        return getitem(a, (*before, slice(n - width, n) if front else slice(0, width)))
    skipped = mode == "reflect"
    first = skipped if front else n - skipped - width
    return flip(getitem(a, (*before, slice(first, first + width))), axis)

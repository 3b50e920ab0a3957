"""Images in another size: each element of the result is read, or averaged of neighbours, in the image.

Axes are resized one after another, by looking elements up: the bilinear value between four elements is that along one
axis, of those along the other.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from needle.autograd import Tensor
from needle.errors import SettingError, ShapeError
from needle.ops.arithmetic import add, multiply
from needle.ops.broadcasting import broadcast_to
from needle.ops.convolution import Lengths, per_axis
from needle.ops.indexing import getitem
from needle.ops.movement import reshape

__all__ = ["resize"]


def resize(
    a: Tensor,
    size: Lengths | None = None,
    scale_factor: float | None = None,
    mode: Literal["nearest", "bilinear"] = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """Change the spatial lengths of an image. Channels come last.

    Formula, along each spatial axis from length L to n::

        nearest    y[i] = a[⌊i·L/n⌋]
        bilinear   y[i] = (1 − t)·a[j] + t·a[j + 1],   j + t = (i + ½)·L/n − ½, at least 0 and at most L − 1

    With `align_corners`, j + t = i·(L − 1)/(n − 1) (0 where n = 1), so that the corners keep their values.

    Shapes:
        a: (N, *spatial, C), one spatial axis or more.
        result: (N, *size, C), where not given size = ⌊spatial · scale_factor⌋.

    Args:
        a: the image.
        size: an integer, or one for each spatial axis.
        scale_factor: in place of a size, how many times as long each spatial axis becomes.
        mode: "nearest" repeats or leaves out elements, "bilinear" goes straight from one to the next.
        align_corners: whether the image's corner elements, and not the corners of their areas, stay in place.

    Raises:
        ShapeError: too few axes, no elements along one, or a size out of its range.
        SettingError: both or neither of size and scale_factor, an unknown mode, or corners of a nearest one.

    Example:
        >>> import needle as ndl
        >>> ndl.resize(ndl.Tensor([[[1.0], [3.0]]]), 4, mode="bilinear").numpy()[0, :, 0]
        array([1. , 1.5, 2.5, 3. ])
    """
    if mode not in {"nearest", "bilinear"}:
        raise SettingError(f'resize: mode is "nearest" or "bilinear", got {mode!r}')
    if align_corners and mode == "nearest":
        raise SettingError('resize: align_corners is of mode="bilinear"; the nearest element has no corners to align')
    for axis, length in enumerate(_new_size(a, size, scale_factor), start=1):
        if mode == "nearest" and length % a.shape[axis] == 0:
            a = _repeat(a, axis, length // a.shape[axis])
        elif mode == "nearest":
            a = _look_up(a, axis, np.arange(length) * a.shape[axis] // length)
        elif length != a.shape[axis]:
            a = _interpolate(a, axis, length, align_corners)
    return a


def _new_size(a: Tensor, size: Lengths | None, scale_factor: float | None) -> tuple[int, ...]:
    if a.ndim < 3 or 0 in a.shape[1:-1]:
        raise ShapeError(f"resize takes an image (N, *spatial, C) with elements, got shape {tuple(a.shape)}")
    if size is not None and scale_factor is None:
        return per_axis("resize: size", size, a.ndim - 2, 1)
    if scale_factor is None or size is not None:
        raise SettingError(f"resize takes a size or a scale_factor, got size={size}, scale_factor={scale_factor}")
    if not 0 < scale_factor < float("inf"):
        raise SettingError(f"resize: scale_factor is a positive number, got {scale_factor}")
    return per_axis("resize: size", [int(length * scale_factor) for length in a.shape[1:-1]], a.ndim - 2, 1)


def _repeat(a: Tensor, axis: int, times: int) -> Tensor:
    """Repeat each element along an axis: so its gradient is a sum, where that of looking places up adds one by one."""
    if times == 1:
        return a
    before, after = a.shape[: axis + 1], a.shape[axis + 1 :]
    repeated = broadcast_to(reshape(a, (*before, 1, *after)), (*before, times, *after))
    return reshape(repeated, (*before[:-1], before[-1] * times, *after))


def _look_up(a: Tensor, axis: int, places: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
    return getitem(a, (slice(None),) * axis + (places,))


def _interpolate(a: Tensor, axis: int, length: int, align_corners: bool) -> Tensor:
    """Read an axis at places between its elements."""
    old, steps = a.shape[axis], np.arange(length)
    aligned = steps * (old - 1) / max(length - 1, 1)
    places = aligned if align_corners else np.clip((steps + 0.5) * old / length - 0.5, 0, old - 1)
    first = np.minimum(places.astype(np.int64), max(old - 2, 0))
    part = (places - first).reshape(-1, *[1] * (a.ndim - axis - 1))
    near, far = (Tensor(one, device=a.device, dtype=a.dtype, requires_grad=False) for one in (1 - part, part))
    second = np.minimum(first + 1, old - 1)
    return add(multiply(_look_up(a, axis, first), near), multiply(_look_up(a, axis, second), far))

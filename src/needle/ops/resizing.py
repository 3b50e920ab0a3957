"""Images in another size: each element of the result is read, or averaged of neighbours, in the image.

Along an axis, an element of the result is a weighted sum of few elements of the image (its sources), and over several
axes of the products of these. The gradient is a sum of the same kind, with the sources turned round: what each element
of the image was a source of. So both look whole rows of channels up, and nothing is added up in memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.dtype import is_floating
from needle.errors import DTypeError, SettingError, ShapeError
from needle.ops.windows import Lengths, per_axis

__all__ = ["Resample", "resize"]

# Sums of more elements go along one axis after another: less arithmetic, for one more image in memory.
_MOST_SOURCES = 16


@dataclass(frozen=True, eq=False)
class Sources:
    """What each of n elements along an axis is a sum of.

    Attributes:
        places: (n, k), of the elements that count.
        weights: (n, k), how much each does; ones where None.
        length: how many elements there are to choose from.
    """

    places: NDArray[np.int64]
    weights: NDArray[np.float64] | None
    length: int

    def turned_round(self) -> Sources:
        """Return what each of `length` elements is a source of: the transpose."""
        count, k = self.places.shape
        weights = np.ones((count, k)) if self.weights is None else self.weights
        used = np.flatnonzero(weights)
        order = used[np.argsort(self.places.ravel()[used], kind="stable")]
        place = self.places.ravel()[order]
        uses = np.bincount(place, minlength=self.length)
        within = np.arange(len(place)) - np.repeat(np.cumsum(uses) - uses, uses)
        # What has fewer than others repeats its first one with a weight of zero, so as to read nothing foreign.
        first = np.zeros(self.length, np.int64)
        first[place[within == 0]] = order[within == 0] // k
        places = np.repeat(first[:, None], max(uses.max(initial=0), 1), axis=1)
        found = np.zeros(places.shape)
        places[place, within] = order // k
        found[place, within] = weights.ravel()[order]
        return Sources(places, None if (found == 1).all() else found, count)


class Resample(TensorOp):
    """y[n, i, c] = Σ over k of Π over axes of weights[i, k] · a[n, places[i, k], c].

    Args:
        sources: of some spatial axes, by the axis' number in the image (N, *spatial, C).
    """

    name = "resample"

    def __init__(self, sources: Mapping[int, Sources]) -> None:
        self.sources = dict(sources)

    def compute(self, a: Array) -> Array:
        xp = array_namespace(a)
        first, last = min(self.sources), max(self.sources) + 1
        along = [self.sources.get(axis) or _every(a.shape[axis]) for axis in range(first, last)]
        leading, counts = math.prod(a.shape[:first]), [len(one.places) for one in along]
        rows = xp.reshape(a, (leading * math.prod(a.shape[first:last]), math.prod(a.shape[last:])))
        total = None
        for ways in itertools.product(*(range(one.places.shape[1]) for one in along)):
            term = xp.take(rows, self._index(xp, leading, along, ways), axis=0)
            weight = _weight(along, ways)
            if weight is not None:
                term = term * xp.asarray(weight[None, ..., None].astype(a.dtype))
            total = term if total is None else total + term
        return xp.reshape(total, (*a.shape[:first], *counts, *a.shape[last:]))

    @staticmethod
    def _index(xp: Any, leading: int, along: list[Sources], ways: tuple[int, ...]) -> Array:
        """Return which row of channels each element's source is, given which of its sources along each axis."""
        rank = len(along)
        index = xp.reshape(xp.arange(leading), (leading, *[1] * rank))
        for axis, (one, way) in enumerate(zip(along, ways, strict=True)):
            places = one.places[:, way].reshape(-1, *[1] * (rank - axis - 1))
            index = index * one.length + xp.asarray(places)
        return index

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return _resample(out_grad, {axis: one.turned_round() for axis, one in self.sources.items()})


def _every(length: int) -> Sources:
    return Sources(np.arange(length)[:, None], None, length)


def _weight(along: list[Sources], ways: tuple[int, ...]) -> NDArray[Any] | None:
    if all(one.weights is None for one in along):
        return None
    ones = [
        np.ones(len(one.places)) if one.weights is None else one.weights[:, way]
        for one, way in zip(along, ways, strict=True)
    ]
    return reduce(np.multiply.outer, ones)


def _resample(a: Tensor, sources: Mapping[int, Sources]) -> Tensor:
    if math.prod(one.places.shape[1] for one in sources.values()) <= _MOST_SOURCES:
        return Resample(sources)(a)
    for axis, one in sources.items():
        a = Resample({axis: one})(a)
    return a


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
        DTypeError: mode "bilinear" of an image that is not of a floating-point dtype.

    Gradient:
        Each element gets the adjoints of what it was read for, times its weight there.

    Example:
        >>> import needle as ndl
        >>> ndl.resize(ndl.Tensor([[[1.0], [3.0]]]), 4, mode="bilinear").numpy()[0, :, 0]
        array([1. , 1.5, 2.5, 3. ])
    """
    if mode not in {"nearest", "bilinear"}:
        raise SettingError(f'resize: mode is "nearest" or "bilinear", got {mode!r}')
    if align_corners and mode == "nearest":
        raise SettingError('resize: align_corners is of mode="bilinear"; the nearest element has no corners to align')
    sizes = _new_size(a, size, scale_factor)
    if mode == "bilinear" and not is_floating(np.dtype(a.dtype)):
        raise DTypeError(
            f'resize: mode="bilinear" averages, which takes a floating-point image, got {a.dtype}: '
            'cast it, or take mode="nearest"'
        )
    changed = [
        (axis, old, new) for axis, (old, new) in enumerate(zip(a.shape[1:-1], sizes, strict=True), 1) if old != new
    ]
    sources = {
        axis: _nearest(old, new) if mode == "nearest" else _between(old, new, align_corners)
        for axis, old, new in changed
    }
    return _resample(a, sources) if sources else a


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


def _nearest(old: int, new: int) -> Sources:
    return Sources((np.arange(new) * old // new)[:, None], None, old)


def _between(old: int, new: int, align_corners: bool) -> Sources:
    """Return the two elements around each place, and how near each is."""
    steps = np.arange(new)
    aligned = steps * (old - 1) / max(new - 1, 1)
    places = aligned if align_corners else np.clip((steps + 0.5) * old / new - 0.5, 0, old - 1)
    first = np.minimum(places.astype(np.int64), max(old - 2, 0))
    second = np.minimum(first + 1, old - 1)
    return Sources(np.stack([first, second], 1), np.stack([1 - (places - first), places - first], 1), old)

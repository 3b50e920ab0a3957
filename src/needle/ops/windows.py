"""Windows over the spatial axes of an image: their settings, where they lie, and views of them that copy nothing.

Images are (N, *size, C): channels come last. A *tap* is what one element of the kernel meets in all windows: a strided
view of the image. Elements of the image at the same place between windows, modulo the stride, are a *phase*.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from needle.device import Array, array_namespace
from needle.errors import DTypeError, ShapeError

__all__ = ["Lengths", "Padding", "Windows", "interleave", "padding_pairs", "per_axis", "taps", "view_windows"]

Lengths: TypeAlias = int | Sequence[int]
Padding: TypeAlias = Lengths | Sequence[tuple[int, int]] | Literal["same", "valid"]


# ------------------------------------------------------------------------------------------------ settings


def per_axis(name: str, value: Lengths, count: int, least: int) -> tuple[int, ...]:
    """Return a setting as one integer for each of `count` spatial axes.

    Raises:
        DTypeError: it is not made of integers.
        ShapeError: there are too many or too few of them, or one is less than `least`.
    """
    try:
        listed = [operator.index(one) for one in value] if isinstance(value, Sequence) else [operator.index(value)]
    except TypeError:
        raise DTypeError(f"{name} is an integer or one for each spatial axis, got {value!r}") from None
    if isinstance(value, Sequence) and len(listed) != count:
        raise ShapeError(f"{name} has {len(listed)} numbers, one for each of the {count} spatial axes is expected")
    if min(listed, default=least) < least:
        raise ShapeError(f"{name} is {least} or more along each axis, got {value}")
    return tuple(listed) if isinstance(value, Sequence) else tuple(listed * count)


def padding_pairs(padding: Padding, reach: Sequence[int], stride: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the padding before and after each spatial axis, for windows that reach over `reach` elements.

    Raises:
        ShapeError: an unknown word, a negative width, or "same" with a stride.
    """
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * len(reach)
        if padding != "same":
            raise ShapeError(f'padding is a number, one or a pair for each axis, "same" or "valid", got {padding!r}')
        if any(step != 1 for step in stride):
            raise ShapeError(f'padding="same" keeps the size, which a stride of {tuple(stride)} does not')
        return tuple(((length - 1) // 2, length // 2) for length in reach)
    if isinstance(padding, Sequence) and any(isinstance(one, Sequence) for one in padding):
        if len(padding) != len(reach):
            raise ShapeError(f"padding has {len(padding)} pairs, one for each of the {len(reach)} axes is expected")
        pairs = [per_axis("padding", one, 2, 0) for one in padding]  # type: ignore[arg-type]
        return tuple((before, after) for before, after in pairs)
    return tuple((width, width) for width in per_axis("padding", padding, len(reach), 0))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False, slots=True)
class Windows:
    """Windows over the spatial axes of an image: their size, where they lie, and what is around the image."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    reach: tuple[int, ...]
    groups: int

    def padded_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the spatial lengths with padding."""
        return tuple(before + length + after for length, (before, after) in zip(size, self.padding, strict=True))

    def count(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return how many windows there are along each axis of an image of this size.

        Raises:
            ShapeError: not a single one fits.
        """
        padded = self.padded_size(size)
        if any(length < reach for length, reach in zip(padded, self.reach, strict=True)):
            raise ShapeError(
                f"a window of {self.reach} does not fit into the image of {padded} (with padding): "
                "use a smaller kernel or dilation, or more padding"
            )
        return self.count_in_padded(padded)

    def count_in_padded(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return how many windows there are along each axis of an image of this size, padding included."""
        pairs = zip(size, self.reach, self.stride, strict=True)
        return tuple((length - reach) // step + 1 for length, reach, step in pairs)

    def pad(self, image: Array) -> Array:
        """Put the padding around an image (N, *size, C)."""
        if not any(map(sum, self.padding)):
            return image
        return array_namespace(image).pad(image, ((0, 0), *self.padding, (0, 0)))


# ------------------------------------------------------------------------------------------------- views


def view_windows(image: Array, windows: Windows) -> Array:
    """Return the windows of a padded image (N, *size, C) as a view (N, *count, *kernel, C)."""
    rank = len(windows.kernel)
    view = np.lib.stride_tricks.sliding_window_view(image, windows.reach, axis=tuple(range(1, rank + 1)))
    steps = [slice(None, None, step) for step in windows.stride]
    apart = [slice(None, None, step) for step in windows.dilation]
    view = view[(slice(None), *steps, slice(None), *apart)]
    order = (*range(rank + 1), *range(rank + 2, 2 * rank + 2), rank + 1)
    return array_namespace(image).permute_dims(view, order)


def taps(image: Array, windows: Windows) -> Iterator[Array]:
    """Yield for each element of the kernel what it meets: a view (N, *count, C) of the padded image."""
    count = windows.count_in_padded(image.shape[1:-1])
    for position in itertools.product(*map(range, windows.kernel)):
        starts = [apart * at for apart, at in zip(windows.dilation, position, strict=True)]
        parts = zip(starts, windows.stride, count, strict=True)
        yield image[(slice(None), *(slice(start, start + step * (n - 1) + 1, step) for start, step, n in parts))]


def interleave(phases: Sequence[Array], strides: Sequence[int], size: Sequence[int]) -> Array:
    """Put the phases' elements side by side: from prod(strides) arrays (N, *steps, C) to one (N, *size, C)."""
    arrays = list(phases)
    for axis, step in reversed(list(enumerate(strides, start=1))):
        arrays = [_alternate(arrays[first : first + step], axis) for first in range(0, len(arrays), step)]
    (image,) = arrays
    return image[(slice(None), *(slice(0, length) for length in size))]


def _alternate(arrays: Sequence[Array], axis: int) -> Array:
    """Put the elements of several arrays in turn along an axis."""
    first, *others = arrays
    if not others:
        return first
    xp = array_namespace(first)
    shape = (*first.shape[:axis], first.shape[axis] * len(arrays), *first.shape[axis + 1 :])
    return xp.reshape(xp.stack(arrays, axis=axis + 1), shape)

"""Pooling over any number of spatial axes: one number for each window of an image, its maximum or its average.

Channels come last and are pooled each by itself. The elements of all windows that lie at the same place of their window
(a tap) are a strided view of the image, so that pooling is elementwise arithmetic on as many views as a window has
elements, and no window is copied. Gradients gather for each element of the image what the windows around it send back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import DTypeError, ShapeError
from needle.ops.indexing import getitem
from needle.ops.joining import stack
from needle.ops.reduction import max as maximum_of
from needle.ops.reduction import mean
from needle.ops.windows import Lengths, Padding, Windows, interleave, padding_pairs, per_axis, taps

__all__ = [
    "AvgPool",
    "AvgPoolGradient",
    "MaxPool",
    "MaxPoolGradient",
    "MaxPoolPick",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "max_pool",
]


class Pooling(TensorOp):
    """An operator on windows without weights.

    Args:
        kernel_size: the windows' lengths.
        stride: how far apart windows are; as far as they are long where None.
        padding: around the image.
        dilation: how far apart a window's elements are.
        ceil_mode: whether a last window may reach over the end.
    """

    def __init__(
        self,
        kernel_size: Lengths,
        stride: Lengths | None = None,
        padding: Padding = 0,
        dilation: Lengths = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode

    def windows(self, image: Sequence[int]) -> Windows:
        """Resolve the settings for an image of this shape, and check that windows fit."""
        rank = len(image) - 2
        if rank < 1:
            raise ShapeError(f"takes an image (N, *spatial, C) with a spatial axis at least, got shape {tuple(image)}")
        kernel = per_axis("kernel_size", self.kernel_size, rank, 1)
        stride = kernel if self.stride is None else per_axis("stride", self.stride, rank, 1)
        dilation = per_axis("dilation", self.dilation, rank, 1)
        reach = tuple(apart * (length - 1) + 1 for apart, length in zip(dilation, kernel, strict=True))
        padding = padding_pairs(self.padding, reach, stride)
        if any(max(pair) > length // 2 for pair, length in zip(padding, reach, strict=True)):
            raise ShapeError(f"padding is at most half a window, got {padding} for windows of {reach}")
        windows = Windows(kernel, stride, padding, dilation, reach, 1)
        if self.ceil_mode:
            windows = replace(windows, padding=over_the_end(windows, image[1:-1]))
        windows.count(image[1:-1])
        return windows

    def given_padding(self, windows: Windows) -> tuple[tuple[int, int], ...]:
        """Return the padding that was asked for, without what a last window reaches over."""
        return padding_pairs(self.padding, windows.reach, windows.stride)


def over_the_end(windows: Windows, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return padding that makes room for one more window along an axis, if it begins in the image or before it."""
    found = []
    for length, (before, after), reach, step in zip(size, windows.padding, windows.reach, windows.stride, strict=True):
        start = -(-(before + length + after - reach) // step) * step
        start = start - step if start >= before + length else start
        found.append((before, max(after, start + reach - before - length)))
    return tuple(found)


# ----------------------------------------------------------------------------------- arithmetic on raw arrays


def pad_with_least(image: Array, windows: Windows) -> Array:
    """Put −inf around an image."""
    if not any(map(sum, windows.padding)):
        return image
    if np.dtype(image.dtype).kind in "biu":
        raise DTypeError(f"padding is minus infinity, which only floating-point images have, got {image.dtype}")
    widths = ((0, 0), *windows.padding, (0, 0))
    return array_namespace(image).pad(image, widths, constant_values=-math.inf)


def first_maxima(image: Array, y: Array, windows: Windows, dtype: Any) -> Array:
    """Return for each window of an image the number of the first tap that equals its maximum y; −1 where y is NaN."""
    xp = array_namespace(y)
    number = xp.full(y.shape, -1, dtype=dtype)
    every = list(taps(pad_with_least(image, windows), windows))
    for at, tap in reversed(list(enumerate(every))):
        number = xp.where(xp.equal(tap, y), xp.asarray(at, dtype=dtype), number)
    return number


def gather_windows(arrays: Sequence[Array], term: Callable[..., Array], windows: Windows, size: Sequence[int]) -> Array:
    """Sum for each element of an image over all taps of windows that meet it: the transpose of `taps`.

    Elements at the same place between windows, modulo the stride (a phase), are met by the same taps of windows that
    lie as far from them: for each phase, terms are of shifted arrays.

    Args:
        arrays: what the windows have, (N, *count, C).
        term: makes of a tap's number and the arrays' elements what the tap adds; zero of elements that are zero.
        windows: of the image.
        size: the image's spatial lengths, without padding.
    """
    xp, rank = array_namespace(arrays[0]), len(size)
    steps = [-(-length // step) for length, step in zip(size, windows.stride, strict=True)]
    phases = [_meeting(windows, place) for place in itertools.product(*map(range, windows.stride))]
    shifts = [[shift[axis] for phase in phases for _, shift in phase] for axis in range(rank)]
    front = [max(0, *(-one for one in each), 0) for each in shifts]
    ends = zip(shifts, steps, arrays[0].shape[1:-1], strict=True)
    back = [max(0, max(each) + n - have) for each, n, have in ends]
    if any(front) or any(back):
        arrays = [xp.pad(one, ((0, 0), *zip(front, back, strict=True), (0, 0))) for one in arrays]
    parts = []
    for phase in phases:
        total = None
        for number, shift in phase:
            starts = [skip + at for skip, at in zip(front, shift, strict=True)]
            place = (slice(None), *(slice(start, start + n) for start, n in zip(starts, steps, strict=True)))
            one = term(number, *(array[place] for array in arrays))
            total = one if total is None else total + one
        nothing = arrays[0].shape[0], *steps, arrays[0].shape[-1]
        parts.append(xp.zeros(nothing, dtype=arrays[0].dtype) if total is None else total)
    return parts[0] if len(parts) == 1 else interleave(parts, windows.stride, size)


def _meeting(windows: Windows, place: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Return the numbers of the taps that meet elements stride · j + place, and which windows', counted from j."""
    found = []
    for number, tap in enumerate(itertools.product(*map(range, windows.kernel))):
        settings = zip(place, windows.padding, windows.dilation, tap, strict=True)
        ways = [at + before - apart * k for at, (before, _), apart, k in settings]
        if not any(way % step for way, step in zip(ways, windows.stride, strict=True)):
            found.append((number, [way // step for way, step in zip(ways, windows.stride, strict=True)]))
    return found


# -------------------------------------------------------------------------------------------------- maximum


class MaxPool(Pooling):
    """y[n, i, c] = max over k of a[n, stride · i + dilation · k − padding, c]."""

    name = "max_pool"
    computes_wide = False

    def compute(self, a: Array) -> Array:
        windows = self.windows(a.shape)
        xp = array_namespace(a)
        every = taps(pad_with_least(a, windows), windows)
        y = next(every)
        for tap in every:
            y = xp.maximum(y, tap)
        return y

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        settings = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return MaxPoolGradient(*settings)(out_grad, node.inputs[0].detach(), node.detach())


class MaxPoolGradient(Pooling):
    """Each element of g, where the maximum that it belongs to lies in a: the gradient of `MaxPool`.

    The operands are g (N, *count, C), the image a, and its windows' maxima y.
    """

    name = "max_pool_gradient"

    def compute(self, g: Array, a: Array, y: Array) -> Array:
        windows = self.windows(a.shape)
        xp = array_namespace(g)
        # Numbers of taps beside g in its own dtype make vectors of one width; narrow ones cannot count far.
        dtype = xp.float32 if np.dtype(g.dtype).itemsize < 4 else g.dtype
        zero = xp.asarray(0, dtype=g.dtype)

        def term(number: int, g: Array, first: Array) -> Array:
            return xp.where(xp.equal(first, xp.asarray(number, dtype=dtype)), g, zero)

        return gather_windows([g, first_maxima(a, y, windows, dtype)], term, windows, a.shape[1:-1])

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        _, a, y = node.inputs
        settings = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return MaxPoolPick(*settings)(out_grad, a, y), None, None


class MaxPoolPick(Pooling):
    """Of each window of an image h, the element that lies where a has its maximum: the transpose of `MaxPoolGradient`.

    The operands are h, the image a of h's shape, and a's windows' maxima y.
    """

    name = "max_pool_pick"

    def compute(self, h: Array, a: Array, y: Array) -> Array:
        windows = self.windows(a.shape)
        xp = array_namespace(h)
        first = first_maxima(a, y, windows, xp.float32)
        picked = xp.zeros_like(y)
        for number, tap in enumerate(taps(windows.pad(h), windows)):
            picked = xp.where(xp.equal(first, xp.asarray(number, dtype=xp.float32)), tap, picked)
        return picked

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        _, a, y = node.inputs
        settings = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return MaxPoolGradient(*settings)(out_grad, a, y), None, None


def max_pool(  # noqa: PLR0917
    a: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Padding = 0,
    dilation: Lengths = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Take the maximum of each window of an image. Channels come last.

    Formula, with vectors i over the result's spatial axes and k over the window's::

        y[n, i, c] = max over k of a[n, stride · i + dilation · k − padding, c]

    Shapes:
        a: (N, *spatial, C), one spatial axis or more.
        result: (N, *count, C), count = ⌊(spatial + 2·padding − dilation·(kernel_size − 1) − 1)/stride⌋ + 1.

    Args:
        a: the image.
        kernel_size: the windows' lengths: an integer, or one for each spatial axis.
        stride: how far apart windows are; `kernel_size` where None, so that windows lie side by side.
        padding: −inf around the image: an integer, one or a pair for each axis, "valid" (none) or "same" (stride 1).
        dilation: how far apart the elements of a window are.
        ceil_mode: round count up: a last window may reach over the end, as far as it begins before it.

    Raises:
        ShapeError: too few axes, a window larger than the padded image, padding of more than half a window, or a
            setting out of its range.
        DTypeError: padding around an image of integers.

    Gradient:
        g goes to the maximum; of several equal ones, to the first in the window's order, as in PyTorch.

    Example:
        >>> import needle as ndl
        >>> ndl.max_pool(ndl.Tensor([[[1.0], [5.0], [2.0], [3.0]]]), 2).numpy()[0, :, 0]
        array([5., 3.])
    """
    return MaxPool(kernel_size, stride, padding, dilation, ceil_mode)(a)


# -------------------------------------------------------------------------------------------------- average


class Averaging(Pooling):
    """An operator on windows' averages.

    Args:
        kernel_size, stride, padding, ceil_mode: of the windows.
        count_include_pad: whether padding counts as zeros, or not at all.
    """

    def __init__(
        self,
        kernel_size: Lengths,
        stride: Lengths | None = None,
        padding: Padding = 0,
        count_include_pad: bool = True,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = count_include_pad

    def divide(self, sums: Array, windows: Windows, size: Sequence[int]) -> Array:
        """Divide windows' sums (N, *count, C) by how many elements each has."""
        given = self.given_padding(windows)
        counted = given if self.count_include_pad else ((0, 0),) * len(size)
        if windows.padding == counted:
            return sums / math.prod(windows.kernel)
        counts = np.ones((1,))
        for axis, (before, after) in enumerate(counted):
            starts = np.arange(sums.shape[1 + axis]) * windows.stride[axis] - given[axis][0]
            ends = np.minimum(starts + windows.kernel[axis], size[axis] + after)
            counts = np.multiply.outer(counts, ends - np.maximum(starts, -before))
        return sums / array_namespace(sums).asarray(counts[..., None].astype(sums.dtype))


class AvgPool(Averaging):
    """y[n, i, c] = mean over k of a[n, stride · i + k − padding, c]."""

    name = "avg_pool"

    def compute(self, a: Array) -> Array:
        windows = self.windows(a.shape)
        every = taps(windows.pad(a), windows)
        total = next(every)
        for tap in every:
            total = total + tap
        return self.divide(total, windows, a.shape[1:-1])

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        settings = self.kernel_size, self.stride, self.padding, self.count_include_pad, self.ceil_mode
        return AvgPoolGradient(*settings, size=node.inputs[0].shape[1:-1])(out_grad)


class AvgPoolGradient(Averaging):
    """Each element of g, in equal parts over its window: the gradient of `AvgPool`.

    Args:
        kernel_size, stride, padding, count_include_pad, ceil_mode: those of the pooling.
        size: the image's spatial lengths.
    """

    name = "avg_pool_gradient"

    def __init__(  # noqa: PLR0917
        self,
        kernel_size: Lengths,
        stride: Lengths | None = None,
        padding: Padding = 0,
        count_include_pad: bool = True,
        ceil_mode: bool = False,
        size: Sequence[int] = (),
    ) -> None:
        super().__init__(kernel_size, stride, padding, count_include_pad, ceil_mode)
        self.size = tuple(size)

    def compute(self, g: Array) -> Array:
        windows = self.windows((g.shape[0], *self.size, g.shape[-1]))
        count = windows.count(self.size)
        if tuple(g.shape[1:-1]) != count:
            raise ShapeError(f"an image of {self.size} has {count} windows, the elements are {g.shape}")
        share = self.divide(g, windows, self.size)
        return gather_windows([share], lambda _, share: share, windows, self.size)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return AvgPool(self.kernel_size, self.stride, self.padding, self.count_include_pad, self.ceil_mode)(out_grad)


def avg_pool(  # noqa: PLR0917
    a: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Padding = 0,
    count_include_pad: bool = True,
    ceil_mode: bool = False,
) -> Tensor:
    """Take the average of each window of an image. Channels come last.

    Formula, with vectors i over the result's spatial axes and k over the window's::

        y[n, i, c] = mean over k of a[n, stride · i + k − padding, c]

    Shapes:
        a: (N, *spatial, C), one spatial axis or more.
        result: (N, *count, C), count = ⌊(spatial + 2·padding − kernel_size)/stride⌋ + 1.

    Args:
        a: the image.
        kernel_size: the windows' lengths: an integer, or one for each spatial axis.
        stride: how far apart windows are; `kernel_size` where None, so that windows lie side by side.
        padding: around the image: an integer, one or a pair for each axis, "valid" (none) or "same" (stride 1).
        count_include_pad: whether padding counts as zeros; where False, averages are of the image's elements alone.
        ceil_mode: round count up: a last window may reach over the end, as far as it begins before it. What lies
            beyond the padding is not counted.

    Raises:
        ShapeError: too few axes, a window larger than the padded image, padding of more than half a window, or a
            setting out of its range.

    Gradient:
        g is spread in equal parts over the window.

    Example:
        >>> import needle as ndl
        >>> ndl.avg_pool(ndl.Tensor([[[1.0], [5.0], [2.0], [3.0]]]), 2).numpy()[0, :, 0]
        array([3. , 2.5])
    """
    return AvgPool(kernel_size, stride, padding, count_include_pad, ceil_mode)(a)


# ------------------------------------------------------------------------------------------- to a given size


def adaptive_avg_pool(a: Tensor, output_size: Lengths) -> Tensor:
    """Average an image down (or up) to a given size. Channels come last.

    Formula, along each spatial axis of length L, for element i of n::

        y[i] = mean of a[⌊i·L/n⌋ … ⌈(i + 1)·L/n⌉ − 1]

    Shapes:
        a: (N, *spatial, C), one spatial axis or more.
        result: (N, *output_size, C).

    Args:
        a: the image.
        output_size: an integer, or one for each spatial axis.

    Raises:
        ShapeError: too few axes, no elements along one, or a size out of its range.

    Example:
        >>> import needle as ndl
        >>> ndl.adaptive_avg_pool(ndl.Tensor([[[1.0], [5.0], [3.0]]]), 2).numpy()[0, :, 0]
        array([3., 4.])
    """
    return _adapt("adaptive_avg_pool", a, output_size, avg_pool, mean)


def adaptive_max_pool(a: Tensor, output_size: Lengths) -> Tensor:
    """Take maxima of an image, as many as a given size has. Channels come last.

    The windows are those of `adaptive_avg_pool`, and so are shapes, arguments and errors. Where the sizes are no
    multiples of `output_size`, equal maxima share the gradient.

    Example:
        >>> import needle as ndl
        >>> ndl.adaptive_max_pool(ndl.Tensor([[[1.0], [5.0], [3.0]]]), 2).numpy()[0, :, 0]
        array([5., 5.])
    """
    return _adapt("adaptive_max_pool", a, output_size, max_pool, maximum_of)


def _adapt(
    called: str,
    a: Tensor,
    output_size: Lengths,
    pool: Callable[..., Tensor],
    reduce: Callable[..., Tensor],
) -> Tensor:
    """Pool with windows of one length where the sizes divide, else one axis after another, a window at a time."""
    if a.ndim < 3 or 0 in a.shape[1:-1]:
        raise ShapeError(f"{called} takes an image (N, *spatial, C) with elements, got shape {tuple(a.shape)}")
    size = per_axis("output_size", output_size, a.ndim - 2, 1)
    if not any(length % n for length, n in zip(a.shape[1:-1], size, strict=True)):
        return pool(a, [length // n for length, n in zip(a.shape[1:-1], size, strict=True)])
    for axis, n in enumerate(size, start=1):
        length = a.shape[axis]
        bounds = [(i * length // n, -(-(i + 1) * length // n)) for i in range(n)]
        parts = [getitem(a, (slice(None),) * axis + (slice(*pair),)) for pair in bounds]
        a = stack([reduce(part, axis) for part in parts], axis)
    return a

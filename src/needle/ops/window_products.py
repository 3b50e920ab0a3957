"""The three products with windows, on raw arrays: `convolve`, `spread` and `correlate`.

They are matrix products over a view of sliding windows, in which neighbouring windows share memory. Where each channel
has weights of its own, products of matrices would be thin: there, one element of the kernel is taken after another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from needle.device import Array, array_namespace
from needle.ops.windows import Windows, interleave, taps, view_windows

__all__ = ["convolve", "correlate", "spread"]


def convolve(image: Array, weight: Array, windows: Windows) -> Array:
    """Weight and sum the windows of a padded image: (N, *size, C), (*kernel, C/groups, O) → (N, *count, O)."""
    xp = array_namespace(image)
    groups, features = windows.groups, weight.shape[-1]
    shape = (image.shape[0], *windows.count_in_padded(image.shape[1:-1]), features)
    if weight.shape[-2] == 1 and groups > 1:
        return xp.reshape(_convolve_channels(image, weight, windows), shape)
    view = view_windows(image, windows)
    rows = math.prod(shape[:-1])
    if groups == 1:
        matrix = xp.reshape(weight, (-1, features))
        return xp.reshape(xp.matmul(xp.reshape(view, (rows, matrix.shape[0])), matrix), shape)
    inner = math.prod(weight.shape[:-1])
    matrices = xp.moveaxis(xp.reshape(weight, (inner, groups, features // groups)), 1, 0)
    y = xp.matmul(_grouped_rows(view, groups, rows, inner), matrices)
    return xp.reshape(xp.moveaxis(y, 0, 1), shape)


def _grouped_rows(view: Array, groups: int, rows: int, inner: int) -> Array:
    """Return windows as one matrix for each group of channels: (groups, rows, inner)."""
    xp = array_namespace(view)
    grouped = xp.reshape(view, (*view.shape[:-1], groups, view.shape[-1] // groups))
    return xp.reshape(xp.moveaxis(grouped, -2, 0), (groups, rows, inner))


def _convolve_channels(image: Array, weight: Array, windows: Windows) -> Array:
    """Convolve each channel with weights of its own, one element of the kernel after another."""
    xp = array_namespace(image)
    each = xp.reshape(weight, (-1, windows.groups, weight.shape[-1] // windows.groups))
    parts = (xp.expand_dims(part, -1) * each[i] for i, part in enumerate(taps(image, windows)))
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def correlate(image: Array, y: Array, windows: Windows) -> Array:
    """Sum the windows of a padded image times elements: (N, *size, C), (N, *count, O) → (*kernel, C/groups, O)."""
    xp = array_namespace(image)
    groups, channels, features = windows.groups, image.shape[-1], y.shape[-1]
    shape = (*windows.kernel, channels // groups, features)
    rows, inner = math.prod(y.shape[:-1]), math.prod(shape[:-1])
    if channels == groups > 1:
        return xp.reshape(_correlate_channels(image, y, windows), shape)
    view = view_windows(image, windows)
    if groups == 1:
        matrix = xp.matrix_transpose(xp.reshape(view, (rows, inner)))
        return xp.reshape(xp.matmul(matrix, xp.reshape(y, (rows, features))), shape)
    elements = xp.moveaxis(xp.reshape(y, (rows, groups, features // groups)), 1, 0)
    matrices = xp.matmul(xp.matrix_transpose(_grouped_rows(view, groups, rows, inner)), elements)
    return xp.reshape(xp.moveaxis(matrices, 0, 1), shape)


def _correlate_channels(image: Array, y: Array, windows: Windows) -> Array:
    xp = array_namespace(image)
    each = xp.reshape(y, (*y.shape[:-1], windows.groups, y.shape[-1] // windows.groups))
    axes = tuple(range(y.ndim - 1))
    return xp.stack([xp.sum(xp.expand_dims(part, -1) * each, axis=axes) for part in taps(image, windows)])


def spread(y: Array, weight: Array, windows: Windows, size: Sequence[int]) -> Array:
    """Spread elements over their windows: (N, *count, O), (*kernel, C/groups, O) → an image (N, *size, C).

    Elements of the image that lie at the same place between windows, modulo the stride, are met by the same elements
    of the kernel: for each such place (a phase) they are a convolution of y, and no zero is multiplied. Nothing is
    computed for the padding around the image.
    """
    xp = array_namespace(y)
    weight, windows = _without_dilation_in_strides(weight, windows)
    strides = windows.stride
    steps = [-(-length // step) for length, step in zip(size, strides, strict=True)]
    phases = [_Phase(weight, windows, position) for position in itertools.product(*map(range, strides))]
    front = [max(0, *(phase.reach[i] - phase.first[i] for phase in phases)) for i in range(len(steps))]
    ends = [max(phase.first[i] for phase in phases) + n for i, n in enumerate(steps)]
    back = [max(0, end - have) for end, have in zip(ends, y.shape[1:-1], strict=True)]
    if any(front) or any(back):
        y = xp.pad(y, ((0, 0), *zip(front, back, strict=True), (0, 0)))
    parts = [phase.compute(y, front, steps) for phase in phases]
    return parts[0] if len(parts) == 1 else interleave(parts, strides, size)


def _without_dilation_in_strides(weight: Array, windows: Windows) -> tuple[Array, Windows]:
    """Write dilation as zeros in the kernel along axes that have a stride too."""
    xp = array_namespace(weight)
    kernel, dilation = list(windows.kernel), list(windows.dilation)
    for axis, (step, apart) in enumerate(zip(windows.stride, windows.dilation, strict=True)):
        if step == 1 or apart == 1 or kernel[axis] == 1:
            continue
        longer = xp.expand_dims(weight, axis + 1)
        widths = [(0, 0)] * longer.ndim
        widths[axis + 1] = (0, apart - 1)
        shape = (*weight.shape[:axis], apart * kernel[axis], *weight.shape[axis + 1 :])
        kernel[axis], dilation[axis] = windows.reach[axis], 1
        weight = xp.reshape(xp.pad(longer, widths), shape)[(slice(None),) * axis + (slice(0, kernel[axis]),)]
    return weight, Windows(
        tuple(kernel), windows.stride, windows.padding, tuple(dilation), windows.reach, windows.groups
    )


class _Phase:
    """The elements of an image at one place between windows: a convolution of y with a part of the kernel."""

    def __init__(self, weight: Array, windows: Windows, position: Sequence[int]) -> None:
        """Find the part for elements stride · j + position of the image, j = 0, 1, …"""
        places = [at + before for at, (before, _) in zip(position, windows.padding, strict=True)]
        offsets = [slice(at % step, None, step) for at, step in zip(places, windows.stride, strict=True)]
        self.weight = weight[tuple(offsets)]
        self.windows = windows
        # Where in y the window of element j = 0 ends, and how far back it reaches.
        self.first = [at // step for at, step in zip(places, windows.stride, strict=True)]
        self.reach = [apart * (n - 1) for apart, n in zip(windows.dilation, self.weight.shape, strict=False)]

    def compute(self, y: Array, front: Sequence[int], steps: Sequence[int]) -> Array:
        """Compute the first `steps` elements along each axis of y, which has zeros in front."""
        xp = array_namespace(y)
        weight, groups = self.weight, self.windows.groups
        kernel, channels, features = weight.shape[:-2], weight.shape[-2], weight.shape[-1] // groups
        if 0 in kernel:
            return xp.zeros((y.shape[0], *steps, channels * groups), dtype=y.dtype)
        starts = [skip + at - back for skip, at, back in zip(front, self.first, self.reach, strict=True)]
        parts = zip(starts, self.reach, steps, strict=True)
        y = y[(slice(None), *(slice(start, start + back + n) for start, back, n in parts))]
        grouped = xp.reshape(weight, (*kernel, channels, groups, features))
        turned = xp.flip(xp.moveaxis(grouped, -1, -3), axis=tuple(range(len(kernel))))
        # (*kernel, features, channels, groups) → (*kernel, features, groups · channels)
        turned = xp.reshape(xp.matrix_transpose(turned), (*kernel, features, groups * channels))
        one = (1,) * len(kernel)
        none = ((0, 0),) * len(kernel)
        reach = tuple(back + 1 for back in self.reach)
        return convolve(y, turned, Windows(kernel, one, none, self.windows.dilation, reach, groups))

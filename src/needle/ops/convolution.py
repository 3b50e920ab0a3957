"""Convolutions over any number of spatial axes, with strides, padding, dilation and groups.

Three operators are linear in two operands each, and the gradients of each are the other two:

    convolve   y = x ⋆ w     every window of x, weighted and summed
    spread     x = y ⋆ᵀ w    every element of y, spread over the window that it came from (a transposed convolution)
    correlate  w = x ⋆ y     every element of y times its window of x, summed over all windows

All are matrix products over a view of sliding windows, in which neighbouring windows share memory. Channels come last.

Reference: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import DTypeError, ShapeError

__all__ = ["Conv", "ConvTranspose", "ConvWeightGradient", "conv", "conv_transpose"]

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


class Convolution(TensorOp):
    """An operator on windows: its settings, resolved for the shape of a weight.

    Args:
        stride: how far apart windows are.
        padding: zeros before and after each spatial axis.
        dilation: how far apart a window's elements are.
        groups: into how many groups the channels are divided, each with weights of its own.
    """

    def __init__(self, stride: Lengths = 1, padding: Padding = 0, dilation: Lengths = 1, groups: int = 1) -> None:
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups

    def settings(self) -> tuple[Lengths, Padding, Lengths, int]:
        """Return the four settings in the order in which the constructor takes them."""
        return self.stride, self.padding, self.dilation, self.groups

    def windows(self, kernel: Sequence[int]) -> Windows:
        """Resolve the settings for a kernel of this size."""
        count = len(kernel)
        stride = per_axis("stride", self.stride, count, 1)
        dilation = per_axis("dilation", self.dilation, count, 1)
        reach = tuple(apart * (length - 1) + 1 for apart, length in zip(dilation, kernel, strict=True))
        return Windows(tuple(kernel), stride, padding_pairs(self.padding, reach, stride), dilation, reach, self.groups)

    def check_ranks(self, image: str, a: Array, weight: str, b: Array) -> None:
        """Check the number of axes and the channels' division into groups."""
        if a.ndim < 3 or a.ndim != b.ndim:
            raise ShapeError(
                f"takes {image} and {weight} with as many spatial axes (one at least), got shapes {a.shape}, {b.shape}"
            )
        if type(self.groups) is not int or self.groups < 1:
            raise ShapeError(f"groups is an integer of 1 or more, got {self.groups!r}")


class Windows:
    """Windows over the spatial axes of an image: their size, where they lie, and what is around the image."""

    def __init__(  # noqa: PLR0917
        self,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[tuple[int, int], ...],
        dilation: tuple[int, ...],
        reach: tuple[int, ...],
        groups: int,
    ) -> None:
        self.kernel = kernel
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.reach = reach
        self.groups = groups

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
        pairs = zip(padded, self.reach, self.stride, strict=True)
        return tuple((length - reach) // step + 1 for length, reach, step in pairs)

    def pad(self, image: Array) -> Array:
        """Put the padding around an image (N, *size, C)."""
        if not any(map(sum, self.padding)):
            return image
        return array_namespace(image).pad(image, ((0, 0), *self.padding, (0, 0)))


# ----------------------------------------------------------------------------------- arithmetic on raw arrays


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
    count = windows_in(image, windows)
    for position in itertools.product(*map(range, windows.kernel)):
        starts = [apart * at for apart, at in zip(windows.dilation, position, strict=True)]
        parts = zip(starts, windows.stride, count, strict=True)
        yield image[(slice(None), *(slice(start, start + step * (n - 1) + 1, step) for start, step, n in parts))]


def windows_in(image: Array, windows: Windows) -> tuple[int, ...]:
    """Return how many windows a padded image has along each axis."""
    pairs = zip(image.shape[1:-1], windows.reach, windows.stride, strict=True)
    return tuple((length - reach) // step + 1 for length, reach, step in pairs)


def convolve(image: Array, weight: Array, windows: Windows) -> Array:
    """Weight and sum the windows of a padded image: (N, *size, C), (*kernel, C/groups, O) → (N, *count, O)."""
    xp = array_namespace(image)
    groups, features = windows.groups, weight.shape[-1]
    shape = (image.shape[0], *windows_in(image, windows), features)
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


# ----------------------------------------------------------------------------------------------- operators


class Conv(Convolution):
    """y[n, i, o] = Σ over k, c of a[n, stride · i + dilation · k − padding, c] · b[k, c, o]."""

    name = "conv"
    precision = "narrow"

    def compute(self, a: Array, b: Array) -> Array:
        self.check_ranks("an image (N, *spatial, C_in)", a, "a weight (*kernel, C_in/groups, C_out)", b)
        if a.shape[-1] != b.shape[-2] * self.groups:
            raise ShapeError(
                f"the channels differ: a.shape[-1] = {a.shape[-1]}, "
                f"b.shape[-2] · groups = {b.shape[-2]} · {self.groups} = {b.shape[-2] * self.groups}"
            )
        if b.shape[-1] % self.groups:
            raise ShapeError(f"{b.shape[-1]} output channels are not divisible into {self.groups} groups")
        windows = self.windows(b.shape[:-2])
        windows.count(a.shape[1:-1])
        return convolve(windows.pad(a), b, windows)

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        return (
            ConvTranspose(*self.settings(), size=a.shape[1:-1])(out_grad, b) if a.requires_grad else None,
            ConvWeightGradient(*self.settings(), kernel=b.shape[:-2])(a, out_grad) if b.requires_grad else None,
        )


def conv(  # noqa: PLR0917
    a: Tensor, b: Tensor, stride: Lengths = 1, padding: Padding = 1, dilation: Lengths = 1, groups: int = 1
) -> Tensor:
    """Convolve an image with a kernel (as the field says: the kernel is not flipped). Channels come last.

    Formula, with vectors i over the result's spatial axes and k over the kernel's::

        y[n, i, o] = Σ over k, c of a[n, stride · i + dilation · k − padding, c] · b[k, c, o]

    With groups, the channels of `a` and of the result are divided into that many neighbouring blocks, and block g of
    the result is made of block g of `a` alone.

    Shapes:
        a: (N, *spatial, C_in), one spatial axis or more: (N, H, W, C_in) for images.
        b: (*kernel, C_in/groups, C_out).
        result: (N, *count, C_out), count = ⌊(spatial + 2·padding − dilation·(kernel − 1) − 1)/stride⌋ + 1.

    Args:
        a: the image.
        b: the weight.
        stride: how far apart windows are: an integer, or one for each spatial axis.
        padding: zeros around the image: an integer, one for each spatial axis, a pair (before, after) for each, "valid"
            (none) or "same" (as many as keep the size, the odd one behind).
        dilation: how far apart the elements are that a window meets.
        groups: into how many groups the channels are divided; C_in of them is a depthwise convolution.

    Raises:
        ShapeError: operands whose axes or channels do not fit, a window larger than the padded image, or a setting out
            of its range.

    Gradient:
        ∂/∂a spreads g over the windows (`conv_transpose`), ∂/∂b sums g times the windows (`ConvWeightGradient`).

    Cost:
        2·N·prod(count)·prod(kernel)·C_in/groups·C_out floating-point operations.

    Example:
        >>> import needle as ndl
        >>> image = ndl.init.ones(1, 3, 3, 1)
        >>> ndl.conv(image, ndl.init.ones(2, 2, 1, 1), padding=0).numpy()[0, :, :, 0]
        array([[4., 4.],
               [4., 4.]], dtype=float32)
    """
    return Conv(stride, padding, dilation, groups)(a, b)


class ConvTranspose(Convolution):
    """x[n, stride · i + dilation · k − padding, c] = Σ over all such i, k, and o of a[n, i, o] · b[k, c, o].

    Args:
        stride, padding, dilation, groups: those of the convolution that this is the transpose of.
        size: the result's spatial lengths, which several images of that convolution's may have; the smallest where not
            given.
        output_padding: added to the smallest size.
    """

    name = "conv_transpose"
    precision = "narrow"

    def __init__(  # noqa: PLR0917
        self,
        stride: Lengths = 1,
        padding: Padding = 0,
        dilation: Lengths = 1,
        groups: int = 1,
        size: Sequence[int] | None = None,
        output_padding: Lengths = 0,
    ) -> None:
        super().__init__(stride, padding, dilation, groups)
        self.size = size
        self.output_padding = output_padding

    def compute(self, a: Array, b: Array) -> Array:
        self.check_ranks("an image (N, *spatial, C_in)", a, "a weight (*kernel, C_out/groups, C_in)", b)
        if a.shape[-1] != b.shape[-1]:
            raise ShapeError(f"the channels differ: a.shape[-1] = {a.shape[-1]}, b.shape[-1] = {b.shape[-1]}")
        if a.shape[-1] % self.groups:
            raise ShapeError(f"{a.shape[-1]} input channels are not divisible into {self.groups} groups")
        windows = self.windows(b.shape[:-2])
        size = self._size(a.shape[1:-1], windows)
        return spread(a, b, windows, size)

    def _size(self, count: Sequence[int], windows: Windows) -> tuple[int, ...]:
        """Return the result's spatial lengths."""
        if self.size is not None:
            return tuple(self.size)
        extra = per_axis("output_padding", self.output_padding, len(count), 0)
        if any(more >= max(pair) for more, *pair in zip(extra, windows.stride, windows.dilation, strict=True)):
            raise ShapeError(f"output_padding is less than the stride or the dilation, got {self.output_padding}")
        parts = zip(count, windows.stride, windows.reach, windows.padding, extra, strict=True)
        size = tuple((n - 1) * step + reach - sum(pair) + more for n, step, reach, pair, more in parts)
        if min(size) < 1:
            raise ShapeError(f"nothing is left of {tuple(count)} elements with padding {windows.padding}")
        return size

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        return (
            Conv(*self.settings())(out_grad, b) if a.requires_grad else None,
            ConvWeightGradient(*self.settings(), kernel=b.shape[:-2])(out_grad, a) if b.requires_grad else None,
        )


def conv_transpose(  # noqa: PLR0917
    a: Tensor,
    b: Tensor,
    stride: Lengths = 1,
    padding: Padding = 0,
    output_padding: Lengths = 0,
    dilation: Lengths = 1,
    groups: int = 1,
) -> Tensor:
    """Spread an image's elements over windows: the transpose of `conv`, which makes images larger.

    Formula::

        y[n, stride · i + dilation · k − padding, c] = Σ over all such i, k, and o of a[n, i, o] · b[k, c, o]

    Shapes:
        a: (N, *spatial, C_in).
        b: (*kernel, C_out/groups, C_in): the weight of a convolution from C_out to C_in channels.
        result: (N, *size, C_out), size = (spatial − 1)·stride − 2·padding + dilation·(kernel − 1) + 1 + output_padding.

    Args:
        a: the image.
        b: the weight.
        stride: how far apart the windows are that neighbouring elements are spread over.
        padding: how much is cut off each side of the result.
        output_padding: added to the size, behind; less than the stride or the dilation.
        dilation: how far apart the elements of a window are.
        groups: into how many groups the channels are divided.

    Raises:
        ShapeError: operands whose axes or channels do not fit, or a setting out of its range.

    Gradient:
        ∂/∂a = conv(g, b) with the same settings, ∂/∂b sums a times the windows of g.

    Example:
        >>> import needle as ndl
        >>> ndl.conv_transpose(ndl.init.ones(1, 2, 1), ndl.init.ones(3, 1, 1), stride=2).numpy()[0, :, 0]
        array([1., 1., 2., 1., 1.], dtype=float32)
    """
    return ConvTranspose(stride, padding, dilation, groups, output_padding=output_padding)(a, b)


class ConvWeightGradient(Convolution):
    """w[k, c, o] = Σ over n, i of a[n, stride · i + dilation · k − padding, c] · b[n, i, o].

    Args:
        stride, padding, dilation, groups: those of the convolution.
        kernel: the weight's spatial lengths.
    """

    name = "conv_weight_gradient"
    precision = "narrow"

    def __init__(
        self,
        stride: Lengths = 1,
        padding: Padding = 0,
        dilation: Lengths = 1,
        groups: int = 1,
        kernel: Sequence[int] = (),
    ) -> None:
        super().__init__(stride, padding, dilation, groups)
        self.kernel = tuple(kernel)

    def compute(self, a: Array, b: Array) -> Array:
        self.check_ranks("an image (N, *spatial, C_in)", a, "elements (N, *count, C_out)", b)
        windows = self.windows(self.kernel)
        count = windows.count(a.shape[1:-1])
        if b.shape[:-1] != (a.shape[0], *count):
            raise ShapeError(f"an image {a.shape} has {count} windows, the elements are {b.shape}")
        return correlate(windows.pad(a), b, windows)

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        return (
            ConvTranspose(*self.settings(), size=a.shape[1:-1])(b, out_grad) if a.requires_grad else None,
            Conv(*self.settings())(a, out_grad) if b.requires_grad else None,
        )

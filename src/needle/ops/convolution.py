"""Convolutions over any number of spatial axes, with strides, padding, dilation and groups.

Three operators are linear in two operands each, and the gradients of each are the other two:

    convolve   y = x ⋆ w     every window of x, weighted and summed
    spread     x = y ⋆ᵀ w    every element of y, spread over the window that it came from (a transposed convolution)
    correlate  w = x ⋆ y     every element of y times its window of x, summed over all windows

Here are the operators; the arithmetic is in `needle.ops.window_products`. Channels come last.

Reference: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

from needle.autograd import Tensor, TensorOp
from needle.device import Array
from needle.errors import ShapeError
from needle.ops.window_products import convolve, correlate, spread
from needle.ops.windows import Lengths, Padding, Windows, padding_pairs, per_axis

__all__ = ["Conv", "ConvTranspose", "ConvWeightGradient", "conv", "conv_transpose"]


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

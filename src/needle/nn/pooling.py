"""Pooling layers over images whose channels come before their spatial axes.

They have no parameters: each is an operator of `needle.ops.pooling` with its settings, applied to each channel.
"""

from __future__ import annotations

from typing import ClassVar

from needle.autograd import Tensor
from needle.errors import ShapeError
from needle.nn.convolution import channels_first, channels_last
from needle.nn.module import Module
from needle.ops.pooling import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool
from needle.ops.windows import Lengths, Padding

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
]


class PoolingLayer(Module):
    """What the layers share: the check of their input."""

    # The number of spatial axes.
    rank: ClassVar[int] = 2

    def check_input(self, x: Tensor) -> None:
        """Check the number of axes of an input.

        Raises:
            ShapeError: it is not the layer's.
        """
        if x.ndim != self.rank + 2:
            spatial = ", ".join("DHW"[-self.rank :])
            raise ShapeError(f"{type(self).__name__}: expected x of shape (N, C, {spatial}), got {tuple(x.shape)}")


class MaxPool2d(PoolingLayer):
    """The maximum of each window of an image.

    Formula, with vectors i over the result's spatial axes and k over the window's::

        y[n, c, i] = max over k of x[n, c, stride · i + dilation · k − padding]

    Shapes:
        x: (N, C, H, W).
        result: (N, C, H', W'), H' = ⌊(H + 2·padding − dilation·(kernel_size − 1) − 1)/stride⌋ + 1.

    Args:
        kernel_size: the windows' lengths: an integer, or one for each axis.
        stride: how far apart windows are; `kernel_size` where None, so that windows lie side by side.
        padding: −inf around x: an integer, one or a pair for each axis, "valid" (none) or "same" (with stride 1).
        dilation: how far apart the elements of a window are.
        ceil_mode: round the result's lengths up: a last window may reach over the end.

    Raises:
        ShapeError: x has not the layer's axes, is smaller than a window, or a setting is out of its range.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.MaxPool2d(2)(ndl.init.ones(1, 3, 6, 8)).shape
        (1, 3, 3, 4)
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

    def forward(self, x: Tensor) -> Tensor:
        """Pool x."""
        self.check_input(x)
        y = max_pool(channels_last(x), self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return channels_first(y)

    def extra_repr(self) -> str:
        """Return the windows' lengths and the settings that are not the defaults."""
        return _described(self, {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False})


class MaxPool1d(MaxPool2d):
    """The maximum of each window of a sequence: `MaxPool2d` for x (N, C, L)."""

    rank = 1


class MaxPool3d(MaxPool2d):
    """The maximum of each window of a volume: `MaxPool2d` for x (N, C, D, H, W)."""

    rank = 3


class AvgPool2d(PoolingLayer):
    """The average of each window of an image.

    Formula, with vectors i over the result's spatial axes and k over the window's::

        y[n, c, i] = mean over k of x[n, c, stride · i + k − padding]

    Shapes:
        x: (N, C, H, W).
        result: (N, C, H', W'), H' = ⌊(H + 2·padding − kernel_size)/stride⌋ + 1.

    Args:
        kernel_size: the windows' lengths: an integer, or one for each axis.
        stride: how far apart windows are; `kernel_size` where None, so that windows lie side by side.
        padding: around x: an integer, one or a pair for each axis, "valid" (none) or "same" (with stride 1).
        count_include_pad: whether padding counts as zeros; where False, averages are of x's elements alone.
        ceil_mode: round the result's lengths up: a last window may reach over the end.

    Raises:
        ShapeError: x has not the layer's axes, is smaller than a window, or a setting is out of its range.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.AvgPool2d(3, stride=2, padding=1)(ndl.init.ones(1, 3, 6, 8)).shape
        (1, 3, 3, 4)
    """

    def __init__(
        self,
        kernel_size: Lengths,
        stride: Lengths | None = None,
        padding: Padding = 0,
        count_include_pad: bool = True,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.count_include_pad = count_include_pad
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        """Pool x."""
        self.check_input(x)
        windows = self.kernel_size, self.stride, self.padding
        return channels_first(avg_pool(channels_last(x), *windows, self.count_include_pad, self.ceil_mode))

    def extra_repr(self) -> str:
        """Return the windows' lengths and the settings that are not the defaults."""
        return _described(self, {"stride": None, "padding": 0, "count_include_pad": True, "ceil_mode": False})


class AvgPool1d(AvgPool2d):
    """The average of each window of a sequence: `AvgPool2d` for x (N, C, L)."""

    rank = 1


class AvgPool3d(AvgPool2d):
    """The average of each window of a volume: `AvgPool2d` for x (N, C, D, H, W)."""

    rank = 3


class AdaptiveAvgPool2d(PoolingLayer):
    """Averages of an image, as many as a given size has, whatever the image's own size.

    Formula, along each axis of length L, for element i of n::

        y[i] = mean of x[⌊i·L/n⌋ … ⌈(i + 1)·L/n⌉ − 1]

    Shapes:
        x: (N, C, H, W).
        result: (N, C, *output_size).

    Args:
        output_size: an integer, or one for each axis; 1 averages each channel.

    Raises:
        ShapeError: x has not the layer's axes or no elements, or a size is less than 1.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.AdaptiveAvgPool2d(1)(ndl.init.ones(2, 3, 7, 5)).shape
        (2, 3, 1, 1)
    """

    def __init__(self, output_size: Lengths) -> None:
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Pool x."""
        self.check_input(x)
        return channels_first(adaptive_avg_pool(channels_last(x), self.output_size))

    def extra_repr(self) -> str:
        """Return the result's lengths."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(AdaptiveAvgPool2d):
    """Averages of a sequence, as many as a given length: `AdaptiveAvgPool2d` for x (N, C, L)."""

    rank = 1


class AdaptiveAvgPool3d(AdaptiveAvgPool2d):
    """Averages of a volume, as many as a given size has: `AdaptiveAvgPool2d` for x (N, C, D, H, W)."""

    rank = 3


class AdaptiveMaxPool2d(PoolingLayer):
    """Maxima of an image, as many as a given size has: `AdaptiveAvgPool2d` with maxima.

    Shapes:
        x: (N, C, H, W).
        result: (N, C, *output_size).

    Args:
        output_size: an integer, or one for each axis.

    Raises:
        ShapeError: x has not the layer's axes or no elements, or a size is less than 1.
    """

    def __init__(self, output_size: Lengths) -> None:
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Pool x."""
        self.check_input(x)
        return channels_first(adaptive_max_pool(channels_last(x), self.output_size))

    def extra_repr(self) -> str:
        """Return the result's lengths."""
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(AdaptiveMaxPool2d):
    """Maxima of a sequence, as many as a given length: `AdaptiveMaxPool2d` for x (N, C, L)."""

    rank = 1


class AdaptiveMaxPool3d(AdaptiveMaxPool2d):
    """Maxima of a volume, as many as a given size has: `AdaptiveMaxPool2d` for x (N, C, D, H, W)."""

    rank = 3


def _described(layer: MaxPool2d | AvgPool2d, settings: dict[str, int | None]) -> str:
    changed = [
        f"{name}={getattr(layer, name)!r}" for name, default in settings.items() if getattr(layer, name) != default
    ]
    return ", ".join([f"kernel_size={layer.kernel_size}", *changed])

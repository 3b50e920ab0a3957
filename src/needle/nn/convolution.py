"""Convolutional layers over images whose channels come before their spatial axes.

`Conv` is the course's layer: square kernels, padding that keeps the size. `Conv1d`, `Conv2d`, `Conv3d` and their
transposes take every setting of the operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from numpy.typing import DTypeLike

from needle import init
from needle.autograd import Tensor
from needle.device import Device
from needle.dtype import is_narrow
from needle.errors import SettingError, ShapeError
from needle.nn.module import Module
from needle.nn.parameter import Parameter
from needle.ops import add, astype, conv, conv_transpose, pad, permute
from needle.ops.convolution import Convolution
from needle.ops.padding import PadMode
from needle.ops.windows import Lengths, Padding, per_axis

__all__ = ["Conv", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

# What `pad` calls the modes that layers call as in PyTorch.
_PAD_MODES: dict[str, PadMode] = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def channels_last(x: Tensor) -> Tensor:
    """Return (N, C, *spatial) as (N, *spatial, C)."""
    return permute(x, (0, *range(2, x.ndim), 1))


def channels_first(x: Tensor) -> Tensor:
    """Return (N, *spatial, C) as (N, C, *spatial)."""
    return permute(x, (0, x.ndim - 1, *range(1, x.ndim - 1)))


class ConvolutionLayer(Module):
    """What the layers share: a weight, a bias, and how they are drawn."""

    # The number of spatial axes.
    rank: ClassVar[int] = 2

    def draw_parameters(
        self,
        kernel: tuple[int, ...],
        channels: tuple[int, int],
        bias: int | None,
        device: Device | None,
        dtype: DTypeLike,
    ) -> None:
        """Draw the weight (*kernel, *channels), then the bias of this length where there is one."""
        field = math.prod(kernel)
        fans = channels[0] * field, channels[1] * field
        shape = (*kernel, *channels)
        self.weight = Parameter(init.kaiming_uniform(*fans, shape=shape, device=device, dtype=dtype))
        self.bias: Parameter | None = None
        if bias is not None:
            bound = 1 / math.sqrt(fans[0])
            self.bias = Parameter(init.rand(bias, low=-bound, high=bound, device=device, dtype=dtype))

    def check_input(self, x: Tensor, in_channels: int) -> None:
        """Check the number of axes and of channels of an input.

        Raises:
            ShapeError: they are not those of the layer.
        """
        if x.ndim != self.rank + 2 or x.shape[1] != in_channels:
            spatial = ", ".join("DHW"[-self.rank :])
            raise ShapeError(
                f"{type(self).__name__}: expected x of shape (N, {in_channels}, {spatial}), got {tuple(x.shape)}"
            )

    def add_bias(self, y: Tensor) -> Tensor:
        """Add the bias to an image with channels last."""
        # Inside `autocast` the product is narrow; a wide bias would make all of it wide again.
        return y if self.bias is None else add(y, astype(self.bias, y.dtype) if is_narrow(y.dtype) else self.bias)


class Conv(ConvolutionLayer):
    """A convolution with a square kernel and the padding that keeps the size at stride 1.

    Formula::

        y[n, o, i] = bias[o] + Σ over c, k of x[n, c, stride · i + k − kernel_size // 2] · weight[k, c, o]

    Shapes:
        x: (N, in_channels, H, W).
        result: (N, out_channels, ⌊(H + 2·(kernel_size // 2) − kernel_size)/stride⌋ + 1, the same of W).

    Args:
        in_channels: the number of channels of x.
        out_channels: the number of channels of the result.
        kernel_size: the kernel's side; of a tuple, the first number.
        stride: how far apart windows are; of a tuple, the first number.
        bias: whether to add one; `bias` is None otherwise.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        weight: (K, K, in_channels, out_channels), drawn first: `init.kaiming_uniform` with fans of channels · K².
        bias: (out_channels,), drawn second: U(±1/√(in_channels·K²)).

    Raises:
        ShapeError: x has not four axes, or not in_channels channels.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.Conv(3, 8, 3, stride=2)(ndl.init.ones(1, 3, 32, 32)).shape
        (1, 8, 16, 16)
    """

    def __init__(  # noqa: PLR0917
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Lengths,
        stride: Lengths = 1,
        bias: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        side = kernel_size[0] if isinstance(kernel_size, Sequence) else kernel_size
        self.draw_parameters((side, side), (in_channels, out_channels), out_channels if bias else None, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = side
        self.stride = stride[0] if isinstance(stride, Sequence) else stride

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x."""
        self.check_input(x, self.in_channels)
        y = conv(channels_last(x), self.weight, stride=self.stride, padding=self.kernel_size // 2)
        return channels_first(self.add_bias(y))

    def extra_repr(self) -> str:
        """Return the sizes."""
        sizes = f"{self.in_channels} → {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return sizes + ("" if self.bias is not None else ", bias=False")


class Conv2d(ConvolutionLayer):
    """A convolution over two spatial axes.

    Formula, with vectors i over the result's spatial axes and k over the kernel's::

        y[n, o, i] = bias[o] + Σ over c, k of x[n, c, stride · i + dilation · k − padding] · weight[k, c, o]

    Shapes:
        x: (N, in_channels, H, W).
        result: (N, out_channels, H', W'), H' = ⌊(H + 2·padding − dilation·(kernel_size − 1) − 1)/stride⌋ + 1.

    Args:
        in_channels: the number of channels of x; a multiple of groups.
        out_channels: the number of channels of the result; a multiple of groups.
        kernel_size: the kernel's lengths: an integer, or one for each axis.
        stride: how far apart windows are.
        padding: zeros around x: an integer, one or a pair for each axis, "valid" (none) or "same" (keeps the size).
        dilation: how far apart the elements are that a window meets.
        groups: into how many groups the channels are divided; with groups = in_channels the convolution is depthwise.
        bias: whether to add one; `bias` is None otherwise.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.
        padding_mode: what the padding is made of: "zeros", or x's own elements: "reflect" mirrors them at the last one,
            "replicate" repeats the last one, "circular" goes on at the other end.

    State:
        weight: (*kernel_size, in_channels/groups, out_channels), drawn first: `init.kaiming_uniform` with fans of
        channels · the kernel's size.
        bias: (out_channels,), drawn second: U(±1/√fan_in).

    Raises:
        SettingError: channels that are no multiple of groups, or an unknown padding mode.
        ShapeError: x has not the layer's axes or channels, or is smaller than a window, or than its padding is made of.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.Conv2d(4, 8, 3, padding="same", groups=4)(ndl.init.ones(1, 4, 5, 6)).shape
        (1, 8, 5, 6)
    """

    def __init__(  # noqa: PLR0917
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Lengths,
        stride: Lengths = 1,
        padding: Padding = 0,
        dilation: Lengths = 1,
        groups: int = 1,
        bias: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
        padding_mode: str = "zeros",
    ) -> None:
        _check_groups(self, groups, in_channels, out_channels)
        if padding_mode not in _PAD_MODES:
            modes = ", ".join(map(repr, _PAD_MODES))
            raise SettingError(f"{type(self).__name__}: padding_mode is one of {modes}, got {padding_mode!r}")
        kernel = per_axis("kernel_size", kernel_size, self.rank, 1)
        channels = in_channels // groups, out_channels
        self.draw_parameters(kernel, channels, out_channels if bias else None, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.padding_mode = padding_mode

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x."""
        self.check_input(x, self.in_channels)
        image, padding = channels_last(x), self.padding
        if self.padding_mode != "zeros":
            image, padding = self._bordered(image), 0
        y = conv(image, self.weight, self.stride, padding, self.dilation, self.groups)
        return channels_first(self.add_bias(y))

    def _bordered(self, image: Tensor) -> Tensor:
        """Put the padding around an image with channels last."""
        windows = Convolution(self.stride, self.padding, self.dilation).windows(self.kernel_size)
        return pad(image, [(0, 0), *windows.padding, (0, 0)], mode=_PAD_MODES[self.padding_mode])

    def extra_repr(self) -> str:
        """Return the sizes and the settings that are not the defaults."""
        return _described(self, {"padding": 0, "padding_mode": "zeros"})


class Conv1d(Conv2d):
    """A convolution over one axis: `Conv2d` for x (N, in_channels, L).

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.Conv1d(4, 8, 3)(ndl.init.ones(1, 4, 10)).shape
        (1, 8, 8)
    """

    rank = 1


class Conv3d(Conv2d):
    """A convolution over three axes: `Conv2d` for x (N, in_channels, D, H, W)."""

    rank = 3


class ConvTranspose2d(ConvolutionLayer):
    """The transpose of a convolution over two spatial axes, which makes images larger.

    Formula::

        y[n, c, stride · i + dilation · k − padding] = bias[c] + Σ over such i, k and o of x[n, o, i] · weight[k, c, o]

    Shapes:
        x: (N, in_channels, H, W).
        result: (N, out_channels, H', W'),
            H' = (H − 1)·stride − 2·padding + dilation·(kernel_size − 1) + 1 + output_padding.

    Args:
        in_channels: the number of channels of x; a multiple of groups.
        out_channels: the number of channels of the result; a multiple of groups.
        kernel_size: the kernel's lengths: an integer, or one for each axis.
        stride: how far apart the windows are that neighbouring elements are spread over.
        padding: how much is cut off each side of the result.
        output_padding: added to the size, behind; less than the stride or the dilation.
        groups: into how many groups the channels are divided.
        bias: whether to add one; `bias` is None otherwise.
        dilation: how far apart the elements of a window are.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        weight: (*kernel_size, out_channels/groups, in_channels), the weight of the convolution that goes the other
        way; drawn first: `init.kaiming_uniform` with that convolution's fans.
        bias: (out_channels,), drawn second: U(±1/√(out_channels/groups · the kernel's size)).

    Raises:
        SettingError: channels that are no multiple of groups.
        ShapeError: x has not the layer's axes or channels.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.ConvTranspose2d(8, 4, 2, stride=2)(ndl.init.ones(1, 8, 5, 6)).shape
        (1, 4, 10, 12)
    """

    def __init__(  # noqa: PLR0917
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Lengths,
        stride: Lengths = 1,
        padding: Padding = 0,
        output_padding: Lengths = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Lengths = 1,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        _check_groups(self, groups, in_channels, out_channels)
        kernel = per_axis("kernel_size", kernel_size, self.rank, 1)
        channels = out_channels // groups, in_channels
        self.draw_parameters(kernel, channels, out_channels if bias else None, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = stride
        self.padding = padding
        self.output_padding = output_padding
        self.dilation = dilation
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Spread x over windows."""
        self.check_input(x, self.in_channels)
        settings = self.stride, self.padding, self.output_padding, self.dilation, self.groups
        return channels_first(self.add_bias(conv_transpose(channels_last(x), self.weight, *settings)))

    def extra_repr(self) -> str:
        """Return the sizes and the settings that are not the defaults."""
        return _described(self, {"padding": 0, "output_padding": 0})


class ConvTranspose1d(ConvTranspose2d):
    """The transpose of a convolution over one axis: `ConvTranspose2d` for x (N, in_channels, L)."""

    rank = 1


class ConvTranspose3d(ConvTranspose2d):
    """The transpose of a convolution over three axes: `ConvTranspose2d` for x (N, in_channels, D, H, W)."""

    rank = 3


def _check_groups(layer: Module, groups: int, in_channels: int, out_channels: int) -> None:
    if type(groups) is not int or groups < 1 or in_channels % groups or out_channels % groups:
        raise SettingError(
            f"{type(layer).__name__}: in_channels = {in_channels} and out_channels = {out_channels} are multiples of "
            f"groups, got {groups!r}"
        )


def _described(layer: Conv2d | ConvTranspose2d, more: dict[str, int | str]) -> str:
    sizes = f"{layer.in_channels} → {layer.out_channels}, kernel_size={layer.kernel_size}"
    settings = {"stride": 1, **more, "dilation": 1, "groups": 1}
    changed = [
        f"{name}={getattr(layer, name)!r}" for name, default in settings.items() if getattr(layer, name) != default
    ]
    return ", ".join([sizes, *changed, *([] if layer.bias is not None else ["bias=False"])])

"""Layers that change the size of images."""

from __future__ import annotations

from typing import Literal

from needle.autograd import Tensor
from needle.errors import ShapeError
from needle.nn.convolution import channels_first, channels_last
from needle.nn.module import Module
from needle.ops.resizing import resize
from needle.ops.windows import Lengths

__all__ = ["Upsample"]


class Upsample(Module):
    """An image in another size, as `needle.resize` computes it.

    Shapes:
        x: (N, C, *spatial), one spatial axis or more.
        result: (N, C, *size), where not given size = ⌊spatial · scale_factor⌋.

    Args:
        size: an integer, or one for each spatial axis.
        scale_factor: in place of a size, how many times as long each spatial axis becomes.
        mode: "nearest" or "bilinear".
        align_corners: whether, in mode "bilinear", the image's corner elements stay in place.

    Raises:
        ShapeError: x has no spatial axes or no elements, or a size is out of its range.
        SettingError: both or neither of size and scale_factor, an unknown mode, or corners of a nearest one.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.Upsample(scale_factor=2)(ndl.init.ones(1, 3, 4, 5)).shape
        (1, 3, 8, 10)
    """

    def __init__(
        self,
        size: Lengths | None = None,
        scale_factor: float | None = None,
        mode: Literal["nearest", "bilinear"] = "nearest",
        align_corners: bool = False,
    ) -> None:
        self.size = size
        self.scale_factor = scale_factor
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Resize x."""
        if x.ndim < 3:
            raise ShapeError(f"Upsample: expected x of shape (N, C, *spatial), got {tuple(x.shape)}")
        y = resize(channels_last(x), self.size, self.scale_factor, self.mode, self.align_corners)
        return channels_first(y)

    def extra_repr(self) -> str:
        """Return the size and the mode."""
        size = f"scale_factor={self.scale_factor}" if self.size is None else f"size={self.size}"
        return f"{size}, mode={self.mode}" + (", align_corners=True" if self.align_corners else "")

"""A small convolutional network with shortcuts, for colour photographs of 32 × 32 pixels."""

from __future__ import annotations

from numpy.typing import DTypeLike

from needle.device import Device
from needle.nn import BatchNorm2d, Conv, Flatten, Linear, ReLU, Residual, Sequential

__all__ = ["ConvBN", "ResNet9"]


def ConvBN(  # noqa: N802, PLR0917  it makes a module and is used as a class is
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    device: Device | None = None,
    dtype: DTypeLike = "float32",
) -> Sequential:
    """Make a convolution, a batch normalisation and a ReLU.

    Shapes:
        x: (N, in_channels, H, W).
        result: (N, out_channels, ⌈H/stride⌉, ⌈W/stride⌉) where the kernel is odd.

    Args:
        in_channels: the number of channels of x.
        out_channels: the number of channels of the result.
        kernel_size: the kernel's side.
        stride: how far apart windows are.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.
    """
    return Sequential(
        Conv(in_channels, out_channels, kernel_size, stride, device=device, dtype=dtype),
        BatchNorm2d(out_channels, device=device, dtype=dtype),
        ReLU(),
    )


class ResNet9(Sequential):
    """Eight convolutions, two pairs of them with a shortcut, and two linear maps.

    Formula, with C(c, k, s) a convolution to c channels of side k and stride s, batch normalisation and ReLU::

        C(16, 7, 4) → C(32, 3, 2) → x + C(32, 3, 1)(C(32, 3, 1)(x))
                    → C(64, 3, 2) → C(128, 3, 2) → x + C(128, 3, 1)(C(128, 3, 1)(x))
                    → Linear(128 → 128) → ReLU → Linear(128 → 10)

    Shapes:
        x: (N, 3, 32, 32).
        result: (N, 10), logits.

    Args:
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    Raises:
        ShapeError: x has another shape.

    Reference:
        K. He et al., "Deep residual learning for image recognition", 2016.

    Example:
        >>> import needle as ndl
        >>> from needle.models import ResNet9
        >>> model = ResNet9()
        >>> model.num_parameters()
        431946
        >>> model(ndl.init.rand(2, 3, 32, 32)).shape
        (2, 10)
    """

    def __init__(self, device: Device | None = None, dtype: DTypeLike = "float32") -> None:
        def block(channels_in: int, channels_out: int, kernel_size: int, stride: int) -> Sequential:
            return ConvBN(channels_in, channels_out, kernel_size, stride, device, dtype)

        super().__init__(
            block(3, 16, 7, 4),  # (N, 16, 8, 8)
            block(16, 32, 3, 2),  # (N, 32, 4, 4)
            Residual(Sequential(block(32, 32, 3, 1), block(32, 32, 3, 1))),
            block(32, 64, 3, 2),  # (N, 64, 2, 2)
            block(64, 128, 3, 2),  # (N, 128, 1, 1)
            Residual(Sequential(block(128, 128, 3, 1), block(128, 128, 3, 1))),
            Flatten(),  # (N, 128)
            Linear(128, 128, device=device, dtype=dtype),
            ReLU(),
            Linear(128, 10, device=device, dtype=dtype),
        )

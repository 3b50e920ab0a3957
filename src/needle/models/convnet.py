"""A convolutional network for small grey images, such as handwritten digits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from numpy.typing import DTypeLike

from needle.autograd import Tensor
from needle.device import Device
from needle.errors import ShapeError
from needle.nn import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential
from needle.ops import reshape

__all__ = ["ConvNet"]


class ConvNet(Module):
    """Two stages of two convolutions and a pooling each, and a linear map.

    Formula, with C(c) a 3 × 3 convolution to c channels that keeps the size, batch normalisation and ReLU::

        C(w) → C(w) → max pooling by 2 → C(2w) → C(2w) → max pooling by 2 → dropout → Linear → logits

    Shapes:
        x: (N, height, width), or (N, height · width).
        result: (N, num_classes), logits.

    Args:
        height, width: the images' size; each 4 or more.
        num_classes: the number of classes.
        num_channels: w, the number of channels of the first stage.
        dropout: the probability that one of the last features is dropped in training.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    Raises:
        ShapeError: images too small for two poolings, or when called of another size.

    Reference:
        K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015, for
        pairs of small kernels.

    Example:
        >>> import needle as ndl
        >>> from needle.models import ConvNet
        >>> ConvNet(28, 28, num_classes=10)(ndl.init.rand(2, 784)).shape
        (2, 10)
    """

    def __init__(
        self,
        height: int,
        width: int,
        num_classes: int,
        num_channels: int = 32,
        *,
        dropout: float = 0.25,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if min(height, width) < 4:
            raise ShapeError(f"ConvNet: images are 4 x 4 or larger, got {height} x {width}")
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.height = height
        self.width = width
        channels = [1, num_channels, num_channels, 2 * num_channels, 2 * num_channels]
        layers: list[Module] = []
        for number, (in_channels, out_channels) in enumerate(pairwise(channels)):
            # The norm's shift takes the place of a bias.
            layers += [
                Conv2d(in_channels, out_channels, 3, padding=1, bias=False, **place),
                BatchNorm2d(out_channels, **place),
                ReLU(),
            ]
            if number % 2:
                layers.append(MaxPool2d(2))
        features = (height // 4) * (width // 4) * channels[-1]
        self.features = Sequential(*layers)
        self.head = Sequential(Flatten(), Dropout(dropout), Linear(features, num_classes, **place))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        if x.shape[1:] not in ((self.height, self.width), (self.height * self.width,)):
            raise ShapeError(
                f"ConvNet: takes images (N, {self.height}, {self.width}), flattened or not, got shape {x.shape}"
            )
        return self.head(self.features(reshape(x, (-1, 1, self.height, self.width))))

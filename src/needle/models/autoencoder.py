"""An autoencoder: a network that says in a few numbers what it sees, and paints it again from those."""

from __future__ import annotations

from typing import Any

from numpy.typing import DTypeLike

from needle.autograd import Tensor
from needle.device import Device
from needle.errors import ShapeError
from needle.nn import Conv2d, ConvTranspose2d, Flatten, Linear, Module, ReLU, Sequential
from needle.ops import reshape

__all__ = ["Autoencoder"]


class Autoencoder(Module):
    """Two convolutions of stride 2 and a linear map to a code, and the way back.

    Formula::

        code   = Linear(ReLU(Conv(ReLU(Conv(x)))))
        logits = ConvTranspose(ReLU(ConvTranspose(ReLU(Linear(code)))))

    The result is logits of pixels: their sigmoid is the picture, and `nn.BCEWithLogitsLoss` its distance from x.

    Shapes:
        x: (N, height, width), or (N, height · width), pixels in [0, 1].
        result: that of x.

    Args:
        height, width: the images' size, divisible by 4.
        code_size: how many numbers a picture is said in.
        num_channels: the number of channels of the outer convolutions; the inner ones have twice as many.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    Raises:
        ShapeError: a size that is not divisible by 4, or when called images of another size.

    Reference:
        G. Hinton, R. Salakhutdinov, "Reducing the dimensionality of data with neural networks", 2006.

    Example:
        >>> import needle as ndl
        >>> from needle.models import Autoencoder
        >>> model = Autoencoder(28, 28, code_size=8)
        >>> x = ndl.init.rand(3, 784)
        >>> model.encode(x).shape, model(x).shape
        ((3, 8), (3, 784))
    """

    def __init__(
        self,
        height: int,
        width: int,
        code_size: int = 32,
        num_channels: int = 16,
        *,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if height % 4 or width % 4 or min(height, width) < 4:
            raise ShapeError(f"Autoencoder: the images' sides are divisible by 4, got {height} x {width}")
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.height = height
        self.width = width
        self.small = (2 * num_channels, height // 4, width // 4)
        features = 2 * num_channels * (height // 4) * (width // 4)
        self.encoder = Sequential(
            Conv2d(1, num_channels, 3, stride=2, padding=1, **place),
            ReLU(),
            Conv2d(num_channels, 2 * num_channels, 3, stride=2, padding=1, **place),
            ReLU(),
            Flatten(),
            Linear(features, code_size, **place),
        )
        self.expand = Sequential(Linear(code_size, features, **place), ReLU())
        self.decoder = Sequential(
            ConvTranspose2d(2 * num_channels, num_channels, 4, stride=2, padding=1, **place),
            ReLU(),
            ConvTranspose2d(num_channels, 1, 4, stride=2, padding=1, **place),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes (N, code_size) of images."""
        if x.shape[1:] not in ((self.height, self.width), (self.height * self.width,)):
            raise ShapeError(
                f"Autoencoder: takes images (N, {self.height}, {self.width}), flattened or not, got shape {x.shape}"
            )
        return self.encoder(reshape(x, (-1, 1, self.height, self.width)))

    def decode(self, code: Tensor) -> Tensor:
        """Return the logits (N, height, width) of the pixels that codes stand for."""
        pixels = self.decoder(reshape(self.expand(code), (-1, *self.small)))
        return reshape(pixels, (-1, self.height, self.width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the pixels that are painted of images."""
        return reshape(self.decode(self.encode(x)), x.shape)

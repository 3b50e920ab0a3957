"""Changes to one image: flips, crops, rotations and the like, on arrays of shape (H, W, C).

A `Transform` has two halves: `draw` makes the random choice, `apply` carries it out and is a pure function of the image
and the choice. Calling the transform does both. The halves are what lets a `DataLoader` make every draw itself, in the
order of the items, while worker threads or processes do the arithmetic: the data are the same for any number of them.

The transforms that look between pixels (rotation, scale, translation) share `needle.data.affine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from needle.data.affine import resample
from needle.device import random
from needle.errors import DataError, DTypeError, ShapeError

__all__ = [
    "Apply",
    "Compose",
    "Cutout",
    "Normalize",
    "RandomCrop",
    "RandomFlipHorizontal",
    "RandomRotation",
    "RandomScale",
    "RandomTranslation",
    "Transform",
]

Image = NDArray[Any]


class Transform:
    """A change to one image; the base of all of them.

    A subclass writes `apply`, and `draw` where it is random. One that writes `__call__` instead works too, but can only
    be run by the process that asks for the data, never by workers: nobody can tell what it draws.

    Example:
        >>> import numpy as np
        >>> from needle.data import Transform
        >>> from needle.device import random
        >>> class Brightness(Transform):
        ...     def draw(self):
        ...         return 0.5 + random.rand()
        ...     def apply(self, image, factor):
        ...         return image * factor
        >>> Brightness()(np.zeros((2, 2, 1))).shape
        (2, 2, 1)
    """

    @property
    def draws_ahead(self) -> bool:
        """Whether `draw` makes all the random choices, so that it can be called without the image at hand."""
        return type(self).__call__ is Transform.__call__

    def draw(self) -> Any:
        """Make the random choice for one image, from `needle.device.random`. None where there is none to make."""
        return None

    def apply(self, image: Image, drawn: Any) -> Image:
        """Return the changed image, given what `draw` returned. Draws nothing and leaves `image` as it is."""
        raise NotImplementedError(f"{type(self).__name__} must write apply(image, drawn) or __call__(image)")

    def __call__(self, image: Image) -> Image:
        """Make the choice and carry it out."""
        return self.apply(image, self.draw())


class RandomFlipHorizontal(Transform):
    """Mirror an image left to right, with probability `p`.

    Args:
        p: the probability.

    Draws: one `rand()`; the image is flipped where it is less than p.
    Returns: shares memory with the image.

    Example:
        >>> import numpy as np
        >>> from needle.data import RandomFlipHorizontal
        >>> RandomFlipHorizontal(p=1)(np.array([[[1], [2], [3]]]))[..., 0]
        array([[3, 2, 1]])
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = _within("p", p, 0, 1)

    def draw(self) -> bool:
        """Choose whether to flip."""
        return bool(random.rand() < self.p)

    def apply(self, image: Image, drawn: bool) -> Image:
        """Flip axis 1 where `drawn` says so."""
        image = _image(image)
        return image[:, ::-1] if drawn else image

    def __repr__(self) -> str:
        return f"RandomFlipHorizontal(p={self.p})"


class RandomCrop(Transform):
    """Shift an image by whole pixels: surround it by zeros, and cut its size out at a random place.

    Args:
        padding: the largest shift, up, down, left and right.

    Draws: one `randint(-padding, padding + 1, size=2)`, also where padding is 0: the shift of axis 0, then of axis 1.
    """

    def __init__(self, padding: int = 3) -> None:
        self.padding = _whole("padding", padding, 0)

    def draw(self) -> NDArray[np.int64]:
        """Choose the shifts of the two axes."""
        return random.randint(low=-self.padding, high=self.padding + 1, size=2)

    def apply(self, image: Image, drawn: NDArray[np.int64]) -> Image:
        """Cut out the window that starts `drawn` away from the image's own corner."""
        image = _image(image)
        pad, (height, width) = self.padding, image.shape[:2]
        padded = np.zeros((height + 2 * pad, width + 2 * pad, *image.shape[2:]), dtype=image.dtype)
        padded[pad : pad + height, pad : pad + width] = image
        top, left = pad + int(drawn[0]), pad + int(drawn[1])
        return padded[top : top + height, left : left + width]

    def __repr__(self) -> str:
        return f"RandomCrop(padding={self.padding})"


class RandomRotation(Transform):
    """Rotate an image about its centre by an angle from U[−degrees, degrees).

    Args:
        degrees: the largest angle. A positive angle turns counterclockwise.
        fill: what comes in from outside the image.

    Draws: one `rand()`.
    """

    def __init__(self, degrees: float = 10.0, fill: float = 0.0) -> None:
        self.degrees, self.fill = _within("degrees", degrees, 0, 360), fill

    def draw(self) -> float:
        """Choose the angle in degrees."""
        return float((2 * random.rand() - 1) * self.degrees)

    def apply(self, image: Image, drawn: float) -> Image:
        """Rotate by `drawn` degrees."""
        angle = np.deg2rad(drawn)
        # Where each pixel comes from: rotated back, with rows pointing down.
        sources = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        return resample(_image(image), sources, fill=self.fill)

    def __repr__(self) -> str:
        return f"RandomRotation(degrees={self.degrees}, fill={self.fill})"


class RandomScale(Transform):
    """Enlarge or shrink what an image shows about its centre, by a factor from U[low, high); its size stays.

    Args:
        low: the smallest factor.
        high: the largest factor.
        fill: what comes in from outside the image when it shrinks.

    Draws: one `rand()`.
    """

    def __init__(self, low: float = 0.9, high: float = 1.1, fill: float = 0.0) -> None:
        self.high = _within("high", high, 0, np.inf)
        self.low, self.fill = _within("low", low, 0, self.high), fill
        if self.low <= 0:
            raise DataError(f"low must be more than 0, got {low}")

    def draw(self) -> float:
        """Choose the factor."""
        return float(self.low + (self.high - self.low) * random.rand())

    def apply(self, image: Image, drawn: float) -> Image:
        """Scale by `drawn`."""
        return resample(_image(image), np.eye(2) / drawn, fill=self.fill)

    def __repr__(self) -> str:
        return f"RandomScale(low={self.low}, high={self.high}, fill={self.fill})"


class RandomTranslation(Transform):
    """Shift an image by fractions of pixels, each axis by U[−pixels, pixels). Whole pixels are `RandomCrop`'s.

    Args:
        pixels: the largest shift.
        fill: what comes in from outside the image.

    Draws: one `rand(2)`: the shift of axis 0 (positive is down), then of axis 1 (positive is right).
    """

    def __init__(self, pixels: float = 2.0, fill: float = 0.0) -> None:
        self.pixels, self.fill = _within("pixels", pixels, 0, np.inf), fill

    def draw(self) -> NDArray[np.float64]:
        """Choose the shifts of the two axes."""
        return (2 * random.rand(2) - 1) * self.pixels

    def apply(self, image: Image, drawn: NDArray[np.float64]) -> Image:
        """Shift by `drawn`."""
        return resample(_image(image), np.eye(2), -np.asarray(drawn), fill=self.fill)

    def __repr__(self) -> str:
        return f"RandomTranslation(pixels={self.pixels}, fill={self.fill})"


class Cutout(Transform):
    """Overwrite a square at a random place, so that no single part of an image can be relied on.

    Args:
        size: the square's side in pixels. What of it lies outside the image is lost.
        fill: what the square is filled with.

    Draws: one `rand(2)`: the centre, as fractions of the image's height and width.
    Reference: T. DeVries, G. Taylor, "Improved regularization of convolutional neural networks with Cutout", 2017.
    """

    def __init__(self, size: int = 8, fill: float = 0.0) -> None:
        self.size, self.fill = _whole("size", size, 1), fill

    def draw(self) -> NDArray[np.float64]:
        """Choose the centre."""
        return random.rand(2)

    def apply(self, image: Image, drawn: NDArray[np.float64]) -> Image:
        """Fill the square about the pixel in which `drawn` falls."""
        image = _image(image).copy()
        row, column = (int(fraction * length) for fraction, length in zip(drawn, image.shape, strict=False))
        top, left = row - self.size // 2, column - self.size // 2
        image[max(top, 0) : max(top + self.size, 0), max(left, 0) : max(left + self.size, 0)] = self.fill
        return image

    def __repr__(self) -> str:
        return f"Cutout(size={self.size}, fill={self.fill})"


class Normalize(Transform):
    """Subtract a mean and divide by a standard deviation, the same for all pixels or one of each for every channel.

        (image − mean) / std

    Args:
        mean: a number, or one for each channel.
        std: a number, or one for each channel; more than 0.

    Returns: the image's dtype where that is floating, else float32.
    """

    def __init__(self, mean: ArrayLike, std: ArrayLike) -> None:
        self.mean, self.std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all()):
            raise DataError(f"Normalize needs finite means and positive deviations, got {mean!r} and {std!r}")
        if self.mean.ndim > 1 or self.std.ndim > 1:
            raise ShapeError(
                f"Normalize takes one mean and deviation a channel, got {self.mean.shape}, {self.std.shape}"
            )

    def apply(self, image: Image, drawn: None) -> Image:
        """Normalise; there is nothing to draw."""
        image = _image(image)
        for statistic in (self.mean, self.std):
            if statistic.size not in (1, image.shape[-1]):
                raise ShapeError(f"Normalize has {statistic.size} channels, the image {image.shape[-1]}: {image.shape}")
        dtype = image.dtype if image.dtype.kind == "f" else np.dtype(np.float32)
        return (image.astype(dtype) - self.mean.astype(dtype)) / self.std.astype(dtype)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean.tolist()}, std={self.std.tolist()})"


class Apply(Transform):
    """A function of the image that draws no random numbers, as a transform: so workers may run it.

    Args:
        function: takes an image and returns one. For worker processes it must be defined at the top of a module.

    Example:
        >>> import numpy as np
        >>> from needle.data import Apply
        >>> Apply(np.flipud)(np.array([[[1]], [[2]]]))[..., 0]
        array([[2],
               [1]])
    """

    def __init__(self, function: Callable[[Image], Image]) -> None:
        if not callable(function):
            raise DTypeError(f"Apply takes a function, got {type(function).__name__}")
        self.function = function

    def apply(self, image: Image, drawn: None) -> Image:
        """Call the function."""
        return self.function(image)

    def __repr__(self) -> str:
        return f"Apply({getattr(self.function, '__name__', self.function)})"


class Compose(Transform):
    """Several transforms as one, carried out in their order.

    Args:
        transforms: the transforms, or functions of an image.

    Draws: what they draw, in their order.
    """

    def __init__(self, transforms: Sequence[Callable[[Image], Image]]) -> None:
        self.transforms = tuple(transforms)

    @property
    def draws_ahead(self) -> bool:
        """Whether all the parts draw in their `draw`."""
        return all(isinstance(part, Transform) and part.draws_ahead for part in self.transforms)

    def draw(self) -> tuple[Any, ...]:
        """Make the choices of all the parts, in order."""
        return tuple(part.draw() for part in self.transforms if isinstance(part, Transform))

    def apply(self, image: Image, drawn: tuple[Any, ...]) -> Image:
        """Carry out all the parts, in order."""
        for part, choice in zip(self.transforms, drawn, strict=True):
            assert isinstance(part, Transform)
            image = part.apply(image, choice)
        return image

    def __call__(self, image: Image) -> Image:
        """Carry out all the parts, functions too, in order."""
        for part in self.transforms:
            image = part(image)
        return image

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.transforms))}])"


def _image(image: Image) -> Image:
    image = np.asarray(image)
    if image.ndim not in (2, 3):
        raise ShapeError(f"transforms take one image of shape (H, W, C) or (H, W), got {image.shape}")
    return image


def _within(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:  # NaN is not
        raise DataError(f"{name} must be from {low} to {high}, got {value}")
    return float(value)


def _whole(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DTypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise DataError(f"{name} must be {least} or more, got {value}")
    return int(value)

"""Pictures from files, brought to what a model was trained on: grey, bright strokes on black, the right size.

Decoding PNG and JPEG takes Pillow (the extra `image`); `.npy` files and all the work on pixels take NumPy alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.errors import DataError, MissingExtraError

__all__ = ["Picture", "prepare", "prepare_colour", "read_colour", "read_grey", "resize"]

Grey = NDArray[np.float64]
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Picture:
    """A picture as the model sees it, (H, W) or in colour (H, W, 3), in [0, 1], and what was done to make it so."""

    pixels: Grey
    steps: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------- reading


def read_grey(path: Path) -> Picture:
    """Read a picture file as grey in [0, 1], 1 being white; transparent parts become white.

    Raises:
        DataError: the file is missing, damaged or not a picture.
        MissingExtraError: it is no `.npy` file and Pillow is not installed.
    """
    pixels, mode = _read(path)
    grey = _grey(pixels, path)
    if mode is None:
        return grey
    return Picture(grey.pixels, () if mode in {"L", "1", "I"} else (f"made grey from {mode}",))


def read_colour(path: Path) -> Picture:
    """Read a picture file in colour, (H, W, 3) in [0, 1]; transparent parts become white.

    Raises:
        DataError: the file is missing, damaged or not a picture.
        MissingExtraError: it is no `.npy` file and Pillow is not installed.
    """
    pixels, _ = _read(path)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    channels = pixels.shape[2]
    if channels not in {1, 3, 4}:
        raise DataError(f"{path} has {channels} channels: a picture has 1, 3 or 4")
    if channels == 1:
        return Picture(np.repeat(pixels, 3, axis=2), ("grey in all three channels",))
    if channels == 4:
        alpha = pixels[:, :, 3:]
        pixels = pixels[:, :, :3] * alpha + (1 - alpha)
    return Picture(pixels, ())


def _read(path: Path) -> tuple[NDArray[np.float64], str | None]:
    """Return a file's pixels, (H, W) or (H, W, channels) in [0, 1], and Pillow's mode where that has read it."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    return (_read_npy(path), None) if path.suffix.lower() == ".npy" else _read_with_pillow(path)


def _read_npy(path: Path) -> NDArray[np.float64]:
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # a header that claims too much is found here
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a NumPy file that can be read: {error}") from None
    if array.dtype.kind not in "uifb" or array.ndim not in {2, 3} or array.size == 0:
        raise DataError(
            f"{path} holds {array.dtype} {array.shape}: a picture is (height, width) or (height, width, channels)"
        )
    if array.size > MAX_PIXELS:
        raise DataError(f"{path} holds {array.size:,} numbers: more than {MAX_PIXELS:,} is not read")
    values = np.asarray(array, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds NaN or infinity")
    return values / _white_level(array)


def _white_level(array: NDArray[Any]) -> float:
    """Return the number that stands for white: 255 for bytes, 1 for fractions, else the largest there is."""
    if array.dtype == np.uint8:
        return 255.0
    low, high = float(array.min()), float(array.max())
    if low < 0:
        raise DataError(f"pixels must be 0 or more, got {low:g}")
    return 1.0 if high <= 1 else 255.0 if 16 < high <= 255 else high


def _read_with_pillow(path: Path) -> tuple[NDArray[np.float64], str]:
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415  an extra
    except ImportError:
        raise MissingExtraError("pillow", "image", f"reading {path.name}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _from_pillow(image)
    except UnidentifiedImageError:
        raise DataError(f"{path} is not a picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path} has too many pixels to be read") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _from_pillow(image: Any) -> tuple[NDArray[np.float64], str]:
    if image.mode.startswith("I"):  # 16 bits, or 32 that hold 16
        return np.asarray(image, dtype=np.float64) / 65535.0, "I"
    return np.asarray(image.convert("RGBA"), dtype=np.float64) / 255.0, image.mode


def _grey(pixels: NDArray[np.float64], path: Path) -> Picture:
    """Return (H, W) from (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), over white where there is transparency."""
    if pixels.ndim == 2:
        return Picture(pixels, ())
    channels = pixels.shape[2]
    if channels == 1:
        return Picture(pixels[:, :, 0], ())
    if channels not in {3, 4}:
        raise DataError(f"{path} has {channels} channels: a picture has 1, 3 or 4")
    grey = pixels[:, :, :3] @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
    if channels == 4:
        alpha = pixels[:, :, 3]
        grey = grey * alpha + (1 - alpha)
    return Picture(grey, (f"made grey from {channels} channels",))


# -------------------------------------------------------------------------------------------------- preparing


def prepare(picture: Picture, shape: tuple[int, int], ink_box: int | None, *, as_is: bool = False) -> Picture:
    """Bring a grey picture to the model's size and polarity.

    Args:
        picture: grey in [0, 1].
        shape: the model's (height, width).
        ink_box: the side of the box that the training data's strokes fill, in the model's pixels; None where the
            training pictures are not cropped to what they show.
        as_is: only resize.
    """
    pixels, steps = picture.pixels, list(picture.steps)
    if as_is:
        return Picture(_fit(pixels, shape, steps), tuple(steps))
    if _ground(pixels) > 0.5:
        pixels = 1.0 - pixels
        steps.append("inverted: the training data are bright on black, this is dark on a light ground")
    if pixels.shape == shape:
        return Picture(pixels, tuple(steps))
    if ink_box is None:
        return Picture(_fit(_padded_to_square(pixels, steps), shape, steps), tuple(steps))
    return Picture(_centred(pixels, shape, ink_box, steps), tuple(steps))


def prepare_colour(picture: Picture, shape: tuple[int, int]) -> Picture:
    """Bring a colour picture to the model's size: its middle, as far as that has the model's proportions, resized.

    Args:
        picture: (H, W, 3), in [0, 1].
        shape: the model's (height, width).
    """
    pixels, steps = picture.pixels, list(picture.steps)
    height, width = pixels.shape[:2]
    scale = min(height / shape[0], width / shape[1])
    inner = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    if inner != (height, width):
        steps.append(f"cut to the middle, {_size(inner)} of {_size((height, width))}")
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        pixels = pixels[top : top + inner[0], left : left + inner[1]]
    if inner != shape:
        steps.append(f"resized from {_size(inner)} to {_size(shape)}")
        pixels = np.stack([resize(pixels[:, :, channel], shape) for channel in range(3)], axis=2)
    return Picture(pixels, tuple(steps))


def _ground(pixels: Grey) -> float:
    """Return the brightness of the ground: the median along the picture's edge."""
    edge = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return float(np.median(np.concatenate(edge)))


def _fit(pixels: Grey, shape: tuple[int, int], steps: list[str]) -> Grey:
    if pixels.shape == shape:
        return pixels
    steps.append(f"resized from {_size(pixels.shape)} to {_size(shape)}")
    return resize(pixels, shape)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _padded_to_square(pixels: Grey, steps: list[str]) -> Grey:
    height, width = pixels.shape
    if height == width:
        return pixels
    side = max(height, width)
    steps.append(f"padded from {_size(pixels.shape)} to a square")
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(pixels, ((top, side - height - top), (left, side - width - left)))


def _centred(pixels: Grey, shape: tuple[int, int], ink_box: int, steps: list[str]) -> Grey:
    """Crop to the strokes, scale them into the box, and put their centre of mass in the middle.

    This is how MNIST was made, so that a scan of any size looks to the model like what it learnt from.
    """
    ink = _crop_to_ink(_without_ground(pixels))
    if ink is None:
        steps.append("found nothing drawn in it")
        return np.zeros(shape)
    scale = ink_box / max(ink.shape)
    size = (max(1, round(ink.shape[0] * scale)), max(1, round(ink.shape[1] * scale)))
    steps.append(f"cropped to the strokes, scaled to {_size(size)}, centred in {_size(shape)}")
    small = resize(ink, size)
    return _paste(small / small.max(), shape)


def _without_ground(pixels: Grey) -> Grey:
    """Subtract the ground's brightness and stretch the contrast to [0, 1]."""
    pixels = np.maximum(pixels - _ground(pixels), 0.0)
    peak = pixels.max()
    return pixels / peak if peak > 0 else pixels


def _crop_to_ink(pixels: Grey, threshold: float = 0.25) -> Grey | None:
    rows, columns = np.nonzero(pixels > threshold)
    if rows.size == 0:
        return None
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _paste(small: Grey, shape: tuple[int, int]) -> Grey:
    """Put a picture into a black one so that its centre of mass is as near to the middle as it fits."""
    canvas = np.zeros(shape)
    corner = []
    for axis in (0, 1):
        weights = small.sum(axis=1 - axis)
        centre = (weights * (np.arange(len(weights)) + 0.5)).sum() / weights.sum()
        start = round(float(shape[axis] / 2 - centre))
        corner.append(min(max(start, 0), shape[axis] - small.shape[axis]))
    top, left = corner
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


def resize(pixels: Grey, shape: tuple[int, int]) -> Grey:
    """Resize by area: each new pixel is the mean of the part of the old picture that it covers.

    Separable, so two small matrices do it: rows @ pixels @ columnsᵀ.

    Example:
        >>> import numpy as np
        >>> from needle.cli.images import resize
        >>> resize(np.array([[0.0, 1.0], [2.0, 3.0]]), (1, 1))
        array([[1.5]])
    """
    rows, columns = (_overlaps(old, new) for old, new in zip(pixels.shape, shape, strict=True))
    return rows @ pixels @ columns.T


def _overlaps(old: int, new: int) -> NDArray[np.float64]:
    """Return (new, old): which share of each new pixel's extent lies in each old one's."""
    starts = np.arange(new)[:, None] * old / new
    ends = starts + old / new
    pixels = np.arange(old)[None, :]
    covered = np.minimum(ends, pixels + 1) - np.maximum(starts, pixels)
    return np.maximum(covered, 0.0) * new / old

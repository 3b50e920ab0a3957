"""Many small images on one sheet, as PNG. Takes Pillow (the extra `image`)."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.errors import MissingExtraError

__all__ = ["image_grid_png", "load_pillow"]


def image_grid_png(images: NDArray[Any], columns: int) -> bytes:
    """Draw images in rows, with a line of grey between them, and return a PNG.

    Shapes:
        images: (N, H, W) or (N, H, W, 3), from 0 (black) to 1.

    Args:
        images: which.
        columns: how many stand side by side.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    buffer = io.BytesIO()
    load_pillow().fromarray(_tiled(images, columns)).save(buffer, format="PNG")
    return buffer.getvalue()


def load_pillow() -> Any:
    """Return Pillow's module of images.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415  an extra
    except ImportError:
        raise MissingExtraError("pillow", "image", "drawing images") from None
    return Image


def _tiled(images: NDArray[Any], columns: int) -> NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[..., None]
    n, height, width, channels = images.shape
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + 1) - 1, min(n, columns) * (width + 1) - 1, channels), 0.5)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    tiles = np.round(255 * np.clip(np.nan_to_num(sheet), 0, 1)).astype(np.uint8)
    return tiles[..., 0] if channels == 1 else tiles

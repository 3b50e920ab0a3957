"""Bilinear resampling of an image under an affine map: what rotation, scaling and translation share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["resample"]


def resample(
    image: NDArray[Any], matrix: NDArray[np.float64], offset: ArrayLike = 0.0, *, fill: float = 0.0
) -> NDArray[Any]:
    """Return an image each of whose pixels is looked up elsewhere in `image`, between its pixels where need be.

        result[p] = image[centre + matrix · (p − centre) + offset],     p = (row, column), centre = (size − 1) / 2

    A place between four pixels takes their average, weighted by nearness in each direction. Outside the image lies
    `fill`, into which the outermost pixels fade over the width of one pixel.

    Args:
        image: (H, W, C) or (H, W), of any numeric type.
        matrix: (2, 2): where a step down and a step to the right in the result lead in the image.
        offset: (2,), added to every place.
        fill: the value outside.

    Returns:
        A new array of the image's shape and dtype; integers are rounded and kept in their type's range.

    Example:
        >>> import numpy as np
        >>> from needle.data.affine import resample
        >>> resample(np.array([[0.0, 1.0, 4.0]]), np.eye(2), (0, 0.5))
        array([[0.5, 2.5, 2. ]])
    """
    height, width = image.shape[:2]
    rows, columns = _places(height, width, np.asarray(matrix), np.broadcast_to(offset, 2))  # (H, W) each
    framed = np.full((height + 2, width + 2, *image.shape[2:]), fill, dtype=np.result_type(image.dtype, np.float32))
    framed[1:-1, 1:-1] = image
    top, down = _split(rows, height)
    left, right = _split(columns, width)
    channels = (np.newaxis,) * (image.ndim - 2)
    down, right = down[(..., *channels)].astype(framed.dtype), right[(..., *channels)].astype(framed.dtype)
    above = framed[top, left] * (1 - right) + framed[top, left + 1] * right
    below = framed[top + 1, left] * (1 - right) + framed[top + 1, left + 1] * right
    return _as_type(above * (1 - down) + below * down, image.dtype)


def _places(
    height: int, width: int, matrix: NDArray[np.float64], offset: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the row and the column at which each pixel of the result is looked up."""
    centre = (height - 1) / 2, (width - 1) / 2
    down = np.arange(height)[:, np.newaxis] - centre[0]
    across = np.arange(width)[np.newaxis, :] - centre[1]
    rows = matrix[0, 0] * down + matrix[0, 1] * across + (centre[0] + offset[0])
    columns = matrix[1, 0] * down + matrix[1, 1] * across + (centre[1] + offset[1])
    return rows, columns


def _split(places: NDArray[np.float64], size: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Split places on an axis into the pixel before, counted in the framed image, and the fraction beyond it."""
    places = np.clip(places, -1, size)  # the frame's own pixels: everything outside is the same
    before = np.minimum(np.floor(places).astype(np.intp), size - 1)
    return before + 1, places - before


def _as_type(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind not in "iu":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)

"""What the data sets of labelled images share: pixels kept as bytes, made float32 in [0, 1] when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from needle.data.dataset import Dataset, is_batch
from needle.errors import DataError

__all__ = ["ImageDataset"]


class ImageDataset(Dataset):
    """Labelled images in memory.

    A subclass says how an item looks, by `_flat`, or by writing `_to_hwc` and `_from_hwc`.

    Args:
        images: (N, …) of unsigned bytes, or of floats that are in [0, 1] already.
        labels: (N,) whole numbers.
        transforms: applied to each image as float32 (H, W, C).
        full_scale: the byte that becomes 1.0.
    """

    takes_index_arrays = True
    # The names of the classes, at their labels.
    class_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        images: NDArray[Any],
        labels: NDArray[Any],
        transforms: Sequence[Callable[[Any], Any]] | None = None,
        full_scale: int = 255,
    ) -> None:
        super().__init__(transforms)
        if len(images) != len(labels):
            raise DataError(f"there are {len(images):,} images but {len(labels):,} labels")
        self.images = images
        self.labels = labels.astype(np.int64, copy=False)
        self.full_scale = full_scale

    def __getitem__(self, index: Any) -> tuple[NDArray[Any], Any]:
        """Return (image, label) at an int, (images, labels) at a slice or an index array."""
        images = self._scaled(self.images[index])
        if not self.transforms:
            shown = self._unchanged(images)
        elif not is_batch(index):
            shown = self._transformed(images)
        elif len(images):
            shown = np.stack([self._transformed(image) for image in images])
        else:
            shown = self._unchanged(images)
        return shown, self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)

    def _scaled(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return new float32 pixels in [0, 1]."""
        if pixels.dtype == np.uint8:
            return np.divide(pixels, np.float32(self.full_scale), dtype=np.float32)
        return np.array(pixels, dtype=np.float32)

    def _transformed(self, image: NDArray[Any]) -> NDArray[Any]:
        return self._from_hwc(self.apply_transforms(self._to_hwc(image)))

    # (H, W) pixels and rows of H·W here; other layouts override these three.

    def _unchanged(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return one or several images as items, without transforms."""
        return images.reshape(*images.shape[:-2], -1) if images.size else images.reshape(0, self.images[0:1].size)

    def _to_hwc(self, image: NDArray[Any]) -> NDArray[Any]:
        return image[:, :, np.newaxis]

    def _from_hwc(self, image: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(image).reshape(-1)

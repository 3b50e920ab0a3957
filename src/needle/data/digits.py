"""The UCI handwritten digits, 1,797 images of 8 × 8 pixels, which come with Needle: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from needle.data.idx import read_idx
from needle.data.images import ImageDataset

__all__ = ["DigitsDataset"]

_FOLDER = Path(__file__).parent / "digits"


class DigitsDataset(ImageDataset):
    """Handwritten digits that come with Needle: 1,442 images to train on, 355 to test.

    An item is (image, label): 64 float32 numbers in [0, 1] and a whole number. A slice or an index array gives (n, 64)
    and (n,). Transforms see one image at a time, as (8, 8, 1).

    The images are the part of the original that its makers kept for testing, written by 13 people, in their order. Here
    every fifth image of each digit, from the fifth on, is in the test set, so that both sets hold all digits and all
    writers in the same proportions. A test error thus says how well writers are read who are known from training; other
    people's digits are harder (with the last 360 images as the test set, mostly other writers', a network with 2 %
    error on this test set has 5 to 8 %).

    Args:
        train: the training set, not the test set.
        transforms: applied to each image.

    State: `images` (n, 8, 8) uint8 from 0 to 16, `labels` (n,) int64.
    Reference: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998, doi 10.24432/C50P49. Licence: Creative Commons Attribution 4.0 (see `digits/LICENSE.txt` beside this file).

    Example:
        >>> from needle.data import DigitsDataset
        >>> digits = DigitsDataset()
        >>> image, label = digits[0]
        >>> len(digits), image.shape, int(label)
        (1442, (64,), 0)
    """

    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")

    def __init__(self, train: bool = True, transforms: Sequence[Callable[[Any], Any]] | None = None) -> None:
        images = read_idx(_FOLDER / "images-idx3-ubyte.gz", ndim=3)
        labels = read_idx(_FOLDER / "labels-idx1-ubyte.gz", ndim=1)
        chosen = _is_test(labels) != train
        super().__init__(images[chosen], labels[chosen], transforms, full_scale=16)


def _is_test(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mark every fifth image of each digit."""
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[4::5]] = True
    return is_test

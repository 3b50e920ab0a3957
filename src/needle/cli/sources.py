"""The data sets that the command line knows by name, as training and test sets of grey images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from needle import data
from needle.errors import DataError

__all__ = ["Source", "ink_box", "open_source"]

DIGIT_NAMES = tuple("0123456789")
FASHION_NAMES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

Say = Callable[[str], object]


@dataclass(frozen=True)
class Source:
    """A data set that is open: its two parts, and what the model and the pictures need to know of it."""

    train: data.Dataset
    test: data.Dataset
    class_names: tuple[str, ...]
    image_shape: tuple[int, int]
    augmentation: Callable[[], Sequence[Any]]

    def test_images(self) -> NDArray[Any]:
        """Return the test images as (N, H, W), in [0, 1]."""
        images: NDArray[Any] = self.test[:][0]
        return images.reshape(len(self.test), *self.image_shape)


def open_source(name: str, data_dir: str | None, say: Say) -> Source:
    """Open a data set by name, fetching what is missing; `say` is told before anything is fetched.

    Raises:
        DataError: files are missing and cannot be fetched, or are damaged or empty.
    """
    source = _OPENERS[name](data_dir, say)
    for part, dataset in (("training", source.train), ("test", source.test)):
        if len(dataset) == 0:
            raise DataError(f"the {part} set of {name} has 0 images")
    return source


def ink_box(name: str) -> int | None:
    """Return the side of the box that strokes fill in a data set's images; None where they are not cropped so."""
    return {"digits": 8, "mnist": 20}.get(name)


def _open_digits(data_dir: str | None, say: Say) -> Source:
    if data_dir is not None:
        say("digits come with Needle: --data-dir is not looked at")
    return Source(
        data.DigitsDataset(train=True),
        data.DigitsDataset(train=False),
        DIGIT_NAMES,
        (8, 8),
        lambda: [data.RandomCrop(1)],
    )


def _open_mnist(data_dir: str | None, say: Say) -> Source:
    train, test = _open_idx("mnist", data_dir, say)
    return Source(train, test, DIGIT_NAMES, (28, 28), lambda: [data.RandomCrop(2)])


def _open_fashion(data_dir: str | None, say: Say) -> Source:
    train, test = _open_idx("fashion-mnist", data_dir, say)
    return Source(train, test, FASHION_NAMES, (28, 28), lambda: [data.RandomFlipHorizontal(0.5), data.RandomCrop(2)])


def _open_idx(name: str, data_dir: str | None, say: Say) -> tuple[data.Dataset, data.Dataset]:
    folder = Path(data_dir if data_dir is not None else f"data/{name}")
    parts = []
    for prefix in ("train", "t10k"):
        files = [folder / f"{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
        parts.append(data.MNISTDataset(*map(str, files)))
    return parts[0], parts[1]


_OPENERS: dict[str, Callable[[str | None, Say], Source]] = {
    "digits": _open_digits,
    "mnist": _open_mnist,
    "fashion-mnist": _open_fashion,
}

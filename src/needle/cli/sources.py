"""The data sets that the command line knows by name, as training and test sets of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from needle.cli.parser import one_of
from needle.data import (
    CIFAR10Dataset,
    DigitsDataset,
    FashionMNISTDataset,
    MissingFileError,
    MNISTDataset,
    RandomCrop,
    RandomFlipHorizontal,
    ShapesDataset,
    Transform,
    default_data_folder,
)
from needle.errors import DataError

__all__ = ["DATASETS", "Source", "add_data", "ink_box", "open_source"]

Say = Callable[[str], object]
Images = DigitsDataset | MNISTDataset | CIFAR10Dataset | ShapesDataset


@dataclass(frozen=True)
class Source:
    """A data set that is open: its name, its two parts, and what is done to training images to make more of them."""

    name: str
    train: Images
    test: Images
    augmentation: Sequence[Transform]

    @property
    def class_names(self) -> tuple[str, ...]:
        """What each label stands for."""
        return self.train.class_names

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height and width of grey images, (3, height, width) of colour images."""
        return tuple(self.train.images.shape[1:])

    def describe(self) -> str:
        """Return in a line how many images of which size there are."""
        *channels, height, width = self.image_shape
        return (
            f"{self.name}: {len(self.train):,} training and {len(self.test):,} test images of "
            f"{width} x {height}{' in colour' if channels else ''}, {len(self.class_names)} classes"
        )

    def test_images(self) -> NDArray[Any]:
        """Return the test images as (N, H, W) or (N, 3, H, W), in [0, 1]."""
        images: NDArray[Any] = self.test[:][0]
        return images.reshape(len(self.test), *self.image_shape)


def open_source(name: str, data_dir: str | None, say: Say) -> Source:
    """Open a data set by name, fetching what is missing; `say` is told before anything is fetched.

    Raises:
        DataError: files are missing and cannot be fetched, or are damaged, empty or do not fit together.
    """
    source = _OPENERS[name](data_dir, say)
    _check(source, source.name)
    return source


def _check(source: Source, name: str) -> None:
    for part, dataset in (("training", source.train), ("test", source.test)):
        if len(dataset) == 0:
            raise DataError(f"the {part} set of {name} has 0 images")
        if int(dataset.labels.max()) >= len(source.class_names):
            raise DataError(
                f"the {part} set of {name} has a label {int(dataset.labels.max())}: "
                f"labels of {len(source.class_names)} classes are below {len(source.class_names)}"
            )
    shapes = [dataset.images.shape[1:] for dataset in (source.train, source.test)]
    if shapes[0] != shapes[1]:
        raise DataError(f"the training images of {name} are {shapes[0]}, the test images {shapes[1]}")


def ink_box(name: str) -> int | None:
    """Return the side of the box that strokes fill in a data set's images; None where they are not cropped so."""
    return {"digits": 8, "mnist": 20}.get(name)


def _open_digits(data_dir: str | None, say: Say) -> Source:
    if data_dir is not None:
        say("the digits come with Needle: --data-dir is not looked at")
    return Source("digits", DigitsDataset(train=True), DigitsDataset(train=False), [RandomCrop(1)])


def _open_shapes(data_dir: str | None, say: Say) -> Source:
    if data_dir is not None:
        say("shapes are drawn by Needle: --data-dir is not looked at")
    return Source("shapes", ShapesDataset(train=True), ShapesDataset(train=False), [RandomCrop(2)])


def _open_cifar(data_dir: str | None, say: Say) -> Source:
    """Open CIFAR-10; where it is not there and cannot be fetched, something of the same format stands in for it."""
    folder = default_data_folder() / "cifar-10" if data_dir is None else Path(data_dir)
    try:
        CIFAR10Dataset(folder, train=False)
    except MissingFileError:
        say(f"fetching CIFAR-10 (170 MB) into {folder}")
    try:
        train, test = (CIFAR10Dataset.download(folder, train=train) for train in (True, False))
    except DataError as error:
        say(f"CIFAR-10 cannot be had: {error}")
        say("GENERATED SHAPES STAND IN FOR IT: figures say nothing about CIFAR-10")
        return _open_shapes(None, say)
    return Source("cifar-10", train, test, [RandomFlipHorizontal(0.5), RandomCrop(4)])


def _open_mnist(data_dir: str | None, say: Say) -> Source:
    return Source("mnist", *_fetched(MNISTDataset, data_dir, say), [RandomCrop(2)])


def _open_fashion(data_dir: str | None, say: Say) -> Source:
    return Source(
        "fashion-mnist", *_fetched(FashionMNISTDataset, data_dir, say), [RandomFlipHorizontal(0.5), RandomCrop(1)]
    )


def _fetched(kind: type[MNISTDataset], data_dir: str | None, say: Say) -> tuple[MNISTDataset, MNISTDataset]:
    """Open both parts, saying first what has to be fetched, from where, and whereto."""
    folder = default_data_folder() / kind.folder_name if data_dir is None else Path(data_dir)
    missing = [name for name in kind.checksums if not any((folder / one).exists() for one in (name, name[:-3]))]
    if missing:
        say(f"fetching into {folder} from {kind.mirrors[0]}: {', '.join(missing)}")
    return kind.download(folder, train=True), kind.download(folder, train=False)


_OPENERS: dict[str, Callable[[str | None, Say], Source]] = {
    "digits": _open_digits,
    "mnist": _open_mnist,
    "fashion-mnist": _open_fashion,
    "cifar-10": _open_cifar,
    "shapes": _open_shapes,
}
DATASETS = tuple(_OPENERS)


def add_data(parser: Any, dataset_help: str) -> None:
    """Add the options that name a data set and where it lies."""
    parser.add_argument("--dataset", type=one_of(*DATASETS), metavar="NAME", help=dataset_help)
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="the folder with the data set's files; all but the digits and the shapes, which come with Needle, are "
        "fetched into it where they are not there yet (default: ~/.cache/needle/NAME)",
    )

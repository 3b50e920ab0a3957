"""MNIST and Fashion-MNIST: 28 × 28 grey images of ten classes, 60,000 to train on and 10,000 to test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from needle.data.files import StrPath
from needle.data.idx import read_idx
from needle.data.images import ImageDataset
from needle.data.remote import download, find_data_folder
from needle.errors import DataError

__all__ = ["FashionMNISTDataset", "MNISTDataset"]


class MNISTDataset(ImageDataset):
    """The handwritten digits, or other images in files of the same format.

    An item is (image, label): 784 float32 numbers in [0, 1] and a whole number. A slice or an index array gives
    (n, 784) and (n,). Transforms see one image at a time, as (28, 28, 1).

    Args:
        image_filename: IDX file of (n, 28, 28) bytes, gzipped or not.
        label_filename: IDX file of their n labels.
        transforms: applied to each image.

    State: `images` (n, 28, 28) uint8, `labels` (n,) int64.

    Raises:
        MissingFileError: a file is not there.
        DataError: a file is damaged or of another kind, or the two differ in length.

    Reference: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998.
    """

    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    # Where the four files are, to be tried in this order, and their MD5 sums.
    mirrors: ClassVar[tuple[str, ...]] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }
    folder_name: ClassVar[str] = "mnist"

    def __init__(
        self, image_filename: StrPath, label_filename: StrPath, transforms: Sequence[Callable[[Any], Any]] | None = None
    ) -> None:
        hint = f"{type(self).__name__}.download() fetches the files"
        labels = read_idx(label_filename, ndim=1, hint=hint)
        images = read_idx(image_filename, ndim=3, hint=hint)
        for name, array in ((image_filename, images), (label_filename, labels)):
            if array.dtype.kind not in "u" or array.dtype.itemsize != 1:
                raise DataError(f"{name}: expected unsigned bytes, got {array.dtype}")
        if len(images) != len(labels):
            raise DataError(f"{image_filename} holds {len(images):,} images, {label_filename} {len(labels):,} labels")
        super().__init__(images, labels, transforms)

    @classmethod
    def from_folder(
        cls, folder: StrPath, train: bool = True, transforms: Sequence[Callable[[Any], Any]] | None = None
    ) -> Self:
        """Read the training or the test part from a folder that holds the files under their own names.

        The files may also be unpacked: without `.gz`.
        """
        images, labels = (_packed_or_not(Path(folder) / name) for name in cls._names(train))
        return cls(images, labels, transforms)

    @classmethod
    def download(
        cls,
        folder: StrPath | None = None,
        train: bool = True,
        transforms: Sequence[Callable[[Any], Any]] | None = None,
        *,
        progress: bool = True,
    ) -> Self:
        """Read the training or the test part, fetching the files that are not there yet.

        Args:
            folder: where the files are or will be; None is a folder of this data set under `default_data_folder()`.
            train: the training part, not the test part.
            transforms: applied to each image.
            progress: show how far the fetching is.

        Raises:
            DataError: a file is missing and cannot be fetched; says what to do by hand.
        """
        folder = find_data_folder(folder, cls.folder_name)
        for name in cls._names(train):
            if not _packed_or_not(folder / name).exists():
                urls = [mirror + name for mirror in cls.mirrors]
                download(urls, folder / name, md5=cls.checksums[name], progress=progress)
        return cls.from_folder(folder, train, transforms)

    @classmethod
    def _names(cls, train: bool) -> tuple[str, str]:
        part = "train" if train else "t10k"
        return f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"


class FashionMNISTDataset(MNISTDataset):
    """Pictures of clothes in MNIST's format: the same sizes, ten classes that are harder to tell apart.

    Args:
        image_filename: IDX file of (n, 28, 28) bytes, gzipped or not.
        label_filename: IDX file of their n labels.
        transforms: applied to each image.

    Reference: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms", 2017; the checksums are from the authors' page.
    """

    class_names: ClassVar[tuple[str, ...]] = (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
    mirrors: ClassVar[tuple[str, ...]] = (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    )
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
    folder_name: ClassVar[str] = "fashion-mnist"


def _packed_or_not(path: Path) -> Path:
    unpacked = path.with_suffix("")
    return unpacked if unpacked.exists() and not path.exists() else path
